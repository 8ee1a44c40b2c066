//! Which of the origins that stand for one another takes the next request, and how each of them fares.
//!
//! Pure: is told what came of requests and probes, and answers whose turn it is. Origins and their groups are
//! numbers of the caller's; an origin may be in several groups. Who dials, probes, and tells other shards is
//! `connector/group.rs`.

use std::time::{Duration, Instant};

use crate::limits::{ORIGIN_ALIVE_FOR, RELAPSES_DOUBLED_MAX, RISING_SHARE_LEAST};

/// How an origin is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRules {
    /// Failures in a row after which it is down.
    pub failures: u32,
    /// Probes in a row that pass, after which it is asked again.
    pub successes: u32,
    /// Time in which its share grows then.
    pub slow_start: Duration,
    /// Probes alone bring it back; without them, any answer does.
    pub is_probed: bool,
}

/// How an origin is.
///
/// ```text
/// Up ── failures in a row ──▶ Down ── probes in a row passed ──▶ Rising ── its time is over ──▶ Up
///                              ▲────────── a failure ──────────────┘
/// Down ── an answer, where nobody probes ──▶ Up
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginState {
    /// It has its turns.
    Up,
    /// It has some of its turns, more with time.
    Rising,
    /// It is asked only where all others are down, too.
    Down,
}

impl OriginState {
    /// Its name in `/status`, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            OriginState::Up => "up",
            OriginState::Rising => "rising",
            OriginState::Down => "down",
        }
    }
}

/// What was seen of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginSign {
    /// It answered a request, whatever it said.
    Answered,
    /// A request that came at this time could not reach it.
    Failed(Instant),
    /// A request that came at this time reached it, and had no answer, or none in time. Who asks may have chosen one that
    /// has none: it counts against the origin only if nobody else had an answer since.
    Unanswered(Instant),
    /// A probe passed.
    ProbePassed,
    /// A probe did not.
    ProbeFailed,
}

impl OriginRules {
    /// Percent of its turns that an origin has which began to rise so long ago.
    pub fn share(&self, risen_for: Duration) -> u32 {
        if risen_for >= self.slow_start {
            return WHOLE;
        }
        let percent = risen_for.as_millis() * u128::from(WHOLE) / self.slow_start.as_millis().max(1);
        u32::try_from(percent).unwrap_or(WHOLE).clamp(RISING_SHARE_LEAST, WHOLE)
    }

    /// Whether what a shard says of an origin can be news to who takes it to be as in `before`. That its rise is over,
    /// said while another found it down, is not: only probes bring it back.
    pub fn may_follow(&self, before: OriginState, said: OriginState) -> bool {
        let has_risen = before == OriginState::Down && said == OriginState::Up;
        before != said && !(has_risen && self.is_probed && !self.slow_start.is_zero())
    }
}

/// Places in a group that a request has been to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u16);

impl Tried {
    /// With this one, too.
    #[must_use]
    pub fn with(self, place: usize) -> Tried {
        Tried(self.0 | 1 << place)
    }

    fn contains(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }
}

/// All origins, as one shard knows them.
#[derive(Clone, Debug)]
pub struct Origins {
    members: Vec<Member>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    /// Numbers of origins.
    origins: Vec<usize>,
    /// Place whose turn it is.
    turn: usize,
}

impl Origins {
    /// Origins that are judged so and have these names, and the groups that they form, each of one origin or
    /// more. `first` is whose turn it is: another one on each shard, so that a few requests do not all go to the
    /// same.
    pub fn new(origins: &[(OriginRules, &str)], groups: &[Vec<usize>], first: usize) -> Origins {
        let member = |(rules, name): &(OriginRules, &str)| Member::new(*rules, spread(name.as_bytes()));
        let group =
            |origins: &Vec<usize>| Group { turn: first % origins.len().max(1), origins: origins.clone() };
        Origins { members: origins.iter().map(member).collect(), groups: groups.iter().map(group).collect() }
    }

    /// The same by other settings; `before` gives the number that each of the origins has here, if it is one of these:
    /// how it fares is known.
    pub fn next(
        &self,
        origins: &[(OriginRules, &str)],
        groups: &[Vec<usize>],
        first: usize,
        before: &[Option<usize>],
    ) -> Origins {
        let mut next = Origins::new(origins, groups, first);
        for (member, before) in next.members.iter_mut().zip(before) {
            if let Some(known) = before.and_then(|number| self.members.get(number)) {
                *member = known.clone();
            }
        }
        next
    }

    /// How an origin is.
    pub fn state(&self, origin: usize, now: Instant) -> OriginState {
        self.members[origin].state_at(now)
    }

    /// When an origin that is probed every so often should be probed next.
    pub fn probe_after(&self, origin: usize, every: Duration, again: Duration) -> Duration {
        if self.members[origin].is_in_doubt() { every.min(again) } else { every }
    }

    // ── whose turn it is ────────────────────────────────────────────────────────────────────────

    /// The place in `group` whose turn it is. Strict turns while all are up; one that is down is passed over, one
    /// that rises takes as many of its turns as its share says, and one without room takes none while another
    /// has some. Where all are down they take turns nonetheless: nobody knows of a better one.
    pub fn choose(&mut self, group: usize, now: Instant, has_room: impl Fn(usize) -> bool) -> usize {
        let Origins { members, groups } = self;
        let Group { origins, turn } = &mut groups[group];
        let count = origins.len();
        let mut places = (0..count).map(|step| (*turn + step) % count);
        let takes = |place: &usize| has_room(origins[*place]) && members[origins[*place]].take_turn(now);
        let place = places.find(takes);
        let place = place.or_else(|| self.next_best(group, Tried::default(), &has_room));
        let Group { turn, .. } = &mut self.groups[group];
        let place = place.unwrap_or(*turn);
        *turn = (place + 1) % count.max(1);
        place
    }

    /// Another place for a request that has been to those `tried`: the next that is not down, better one with
    /// room. It is nobody's turn, so that those who fail do not put the others out of turn.
    pub fn elsewhere(&self, group: usize, tried: Tried, has_room: impl Fn(usize) -> bool) -> Option<usize> {
        self.next_best(group, tried, &has_room)
    }

    /// The place for what must go to the same origin from every connection point, by a key that all of them know: of
    /// those that are up, or else rise, the one that this key and the names rank highest.
    pub fn prefer(&self, group: usize, key: &[u8], now: Instant) -> usize {
        let Group { origins, .. } = &self.groups[group];
        let key = spread(key);
        let rank = |place: &usize| {
            let member = &self.members[origins[*place]];
            let state = match member.state_at(now) {
                OriginState::Up => 2,
                OriginState::Rising => 1,
                OriginState::Down => 0,
            };
            (state, mix(key ^ member.name))
        };
        (0..origins.len()).max_by_key(rank).unwrap_or_default()
    }

    fn next_best(&self, group: usize, tried: Tried, has_room: &impl Fn(usize) -> bool) -> Option<usize> {
        let Group { origins, turn } = &self.groups[group];
        let count = origins.len();
        let open = (0..count).map(|step| (turn + step) % count);
        let open = open
            .filter(|place| !tried.contains(*place) && self.members[origins[*place]].state != State::Down);
        open.clone().find(|place| has_room(origins[*place])).or_else(|| open.clone().next())
    }

    // ── what was seen ───────────────────────────────────────────────────────────────────────────

    /// Something was seen of an origin here. Gives its state where that is now another.
    pub fn handle_sign(&mut self, origin: usize, sign: OriginSign, now: Instant) -> Option<OriginState> {
        let member = &mut self.members[origin];
        let before = member.told;
        member.hear(sign, now);
        member.told = member.state_at(now);
        (member.told != before).then_some(member.told)
    }

    /// An origin answered somebody at this time, here or on another shard.
    pub fn handle_alive(&mut self, origin: usize, at: Instant) {
        let member = &mut self.members[origin];
        member.alive = member.alive.max(Some(at));
    }

    /// Another shard has found an origin to be so.
    pub fn handle_state(&mut self, origin: usize, state: OriginState, now: Instant) {
        let member = &mut self.members[origin];
        member.settle(now);
        if member.rules.may_follow(member.state_at(now), state) {
            member.become_as(state, now);
        }
        member.told = member.state_at(now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Rising { since: Instant },
    Down,
}

/// One origin.
#[derive(Clone, Debug)]
struct Member {
    rules: OriginRules,
    /// Its name, spread over all bits.
    name: u64,
    state: State,
    /// What was last said of its state.
    told: OriginState,
    /// When it was last found to be another one.
    changed: Option<Instant>,
    /// When it last answered somebody, as far as that was told.
    alive: Option<Instant>,
    /// Requests in a row that failed.
    failed: u32,
    /// Probes in a row that failed, and that passed.
    probes_failed: u32,
    probes_passed: u32,
    /// So often in a row it fell before it had its whole share.
    relapses: u32,
    /// Percent of a turn that it has saved up while it rises.
    credit: u32,
}

impl Member {
    fn new(rules: OriginRules, name: u64) -> Member {
        let (changed, alive, failed, probes_failed, probes_passed, relapses, credit) = Default::default();
        Member {
            rules,
            name,
            state: State::Up,
            told: OriginState::Up,
            changed,
            alive,
            failed,
            probes_failed,
            probes_passed,
            relapses,
            credit,
        }
    }

    fn state_at(&self, now: Instant) -> OriginState {
        match self.state {
            State::Up => OriginState::Up,
            State::Rising { since } if self.has_risen(since, now) => OriginState::Up,
            State::Rising { .. } => OriginState::Rising,
            State::Down => OriginState::Down,
        }
    }

    fn has_risen(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.rules.slow_start
    }

    /// Whether the next probes may change what it is taken for.
    fn is_in_doubt(&self) -> bool {
        match self.state {
            State::Up | State::Rising { .. } => self.probes_failed > 0,
            State::Down => self.probes_passed > 0,
        }
    }

    /// Whether it takes a turn that comes to it.
    fn take_turn(&mut self, now: Instant) -> bool {
        match self.state {
            State::Up => true,
            State::Down => false,
            State::Rising { since } => {
                self.credit += self.rules.share(now.saturating_duration_since(since));
                let takes = self.credit >= WHOLE;
                if takes {
                    self.credit -= WHOLE;
                }
                takes
            }
        }
    }

    fn hear(&mut self, sign: OriginSign, now: Instant) {
        self.settle(now);
        match sign {
            OriginSign::Answered => self.hear_answer(now),
            // What began before it was found to be otherwise says nothing of how it is now.
            OriginSign::Failed(began) | OriginSign::Unanswered(began)
                if self.changed.is_some_and(|changed| began < changed) => {}
            OriginSign::Failed(began) if self.was_alive(began) => {}
            OriginSign::Unanswered(began) if self.was_alive_about(began) => {}
            OriginSign::Failed(_) | OriginSign::Unanswered(_) => {
                self.failed = self.failed.saturating_add(1);
                self.judge(self.failed, now);
            }
            OriginSign::ProbeFailed => {
                self.probes_passed = 0;
                self.probes_failed = self.probes_failed.saturating_add(1);
                self.judge(self.probes_failed, now);
            }
            OriginSign::ProbePassed => self.hear_passed(now),
        }
    }

    /// Whether it answered somebody since.
    fn was_alive(&self, since: Instant) -> bool {
        self.alive.is_some_and(|alive| alive >= since)
    }

    /// The same, or a little before: what is aborted at once leaves no time for another answer, and shards tell each other
    /// of answers once in a while.
    fn was_alive_about(&self, since: Instant) -> bool {
        self.alive.is_some_and(|alive| alive + ORIGIN_ALIVE_FOR >= since)
    }

    /// Its slow start may be over.
    fn settle(&mut self, now: Instant) {
        if let State::Rising { since } = self.state
            && self.has_risen(since, now)
        {
            self.state = State::Up;
            self.relapses = 0;
        }
    }

    fn hear_answer(&mut self, now: Instant) {
        self.failed = 0;
        if self.state == State::Down && !self.rules.is_probed {
            self.become_as(OriginState::Up, now);
        }
    }

    /// It has failed so often in a row. One that rises is given no second chance.
    fn judge(&mut self, failures: u32, now: Instant) {
        let is_rising = matches!(self.state, State::Rising { .. });
        if self.state != State::Down && (is_rising || failures >= self.rules.failures) {
            self.become_as(OriginState::Down, now);
        }
    }

    fn hear_passed(&mut self, now: Instant) {
        self.probes_failed = 0;
        self.probes_passed = self.probes_passed.saturating_add(1);
        let needed = self.rules.successes.saturating_mul(1 << self.relapses.min(RELAPSES_DOUBLED_MAX));
        if self.state == State::Down && self.probes_passed >= needed {
            self.become_as(OriginState::Rising, now);
        }
    }

    /// What was counted towards another state begins anew.
    fn become_as(&mut self, state: OriginState, now: Instant) {
        let was_rising = matches!(self.state, State::Rising { .. });
        (self.failed, self.probes_failed, self.probes_passed, self.credit) = Default::default();
        self.changed = Some(now);
        self.state = match state {
            OriginState::Rising if !self.rules.slow_start.is_zero() => State::Rising { since: now },
            OriginState::Up | OriginState::Rising => State::Up,
            OriginState::Down => State::Down,
        };
        match self.state {
            State::Up => self.relapses = 0,
            State::Down if was_rising => self.relapses = self.relapses.saturating_add(1),
            State::Down | State::Rising { .. } => {}
        }
    }
}

/// Octets to a number in which each of them matters to all bits (FNV-1a, and [`mix`]). Not against those who choose
/// them: whoever asks may choose where it goes.
fn spread(octets: &[u8]) -> u64 {
    let hash = octets.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mix(hash)
}

/// The last step of SplitMix64.
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Percent of one turn.
const WHOLE: u32 = 100;
