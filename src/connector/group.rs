//! Origins that stand for one another, as one shard uses them: which of them takes a request, where one goes that
//! could not be sent, and what the other shards are told.
//!
//! What is decided is `dispatch`'s business: whose turn it is and how each origin fares (`Origins`), which of them has
//! an upload (`Uploads`), whether a request may be sent once more (`Attempts`). Each shard decides for itself and tells
//! the others what it found; on the way of a request none waits for another. Who probes is `probe.rs`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::origin::{Kind, Origin};
use super::plan::{OriginPlan, Plan};
use super::record::Fault;
use super::sources::Sources;
use super::works::Works;
use super::{Control, Here};
use crate::channel::RequestMessage;
use crate::dispatch::{
    Attempts, Broke, Facts, OriginRules, OriginSign, OriginState, Origins, Then, Tried, Upload, Uploads,
};
use crate::http::ResponseHead;
use crate::limits::ORIGIN_SILENT_AFTER;
use crate::mapping::Mapped;
use crate::refusal::Refusal;
use crate::shard::Shard;

/// The origins of a plan and the groups that they form, with all that this shard knows of them. Its numbers are the
/// plan's and mean nothing beside another plan: the two are put in the place of others together, as a whole.
pub struct Servers {
    /// By number.
    pub origins: Vec<Rc<Origin>>,
    /// By the mapping's numbers, each of one origin or more.
    groups: Vec<Vec<Rc<Origin>>>,
    /// Whose turn it is among those that stand for one another, and how each of them fares.
    choices: RefCell<Origins>,
    /// Which of them has which upload; one with other servers that have the same groups.
    uploads: Rc<RefCell<Uploads>>,
}

impl Servers {
    /// Those of `plan`; nothing is dialled yet.
    pub fn new(shard: &Rc<Shard>, plan: &Plan, sources: &Arc<Sources>) -> Servers {
        let origin = |origin| Origin::new(shard, origin, plan.limits, sources, None);
        let origins: Vec<_> = plan.origins.iter().map(origin).collect();
        let choices = RefCell::new(Origins::new(&judged(plan), &plan.groups, shard.index));
        Servers { groups: groups(plan, &origins), origins, choices, uploads: Rc::default() }
    }

    /// Those of another plan. Origins that it has as well go on as they are, with their connections, how they fare
    /// and the uploads that they have; the others are left to the exchanges that they have.
    pub fn next(&self, shard: &Rc<Shard>, plan: &Plan, sources: &Arc<Sources>) -> Servers {
        let stays = |origin: &Rc<Origin>| plan.origins.iter().any(|other| Arc::ptr_eq(other, origin.plan()));
        let (stay, go): (Vec<_>, Vec<_>) = self.origins.iter().partition(|origin| stays(origin));
        let origins = plan.origins.iter().map(|wanted| {
            if let Some(held) = stay.iter().find(|held| Arc::ptr_eq(held.plan(), wanted)) {
                held.keep_to(plan.limits);
                return Rc::clone(held);
            }
            let follows = wanted.follows.as_ref().and_then(Weak::upgrade);
            let before =
                go.iter().find(|gone| follows.as_ref().is_some_and(|one| Arc::ptr_eq(one, gone.plan())));
            Origin::new(shard, wanted, plan.limits, sources, before.map(|origin| &***origin))
        });
        let origins: Vec<_> = origins.collect();
        go.iter().for_each(|origin| origin.retire());
        let before: Vec<_> = origins.iter().map(|origin| self.number(origin)).collect();
        let choices = self.choices.borrow().next(&judged(plan), &plan.groups, shard.index, &before);
        let groups = groups(plan, &origins);
        let uploads = self.uploads_in(&groups);
        Servers { origins, groups, choices: RefCell::new(choices), uploads }
    }

    /// What is known of uploads, by other groups. An origin that stands for others of another role, too, may be in
    /// several.
    fn uploads_in(&self, groups: &[Vec<Rc<Origin>>]) -> Rc<RefCell<Uploads>> {
        let is_same = |one: &Vec<Rc<Origin>>, other: &Vec<Rc<Origin>>| {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Rc::ptr_eq(one, other))
        };
        let are_same = self.groups.len() == groups.len();
        if are_same && self.groups.iter().zip(groups).all(|(one, other)| is_same(one, other)) {
            return self.uploads.clone();
        }
        let find = |group: usize, place: usize| {
            let origin = self.groups.get(group)?.get(place)?;
            place_among(groups, group, origin.plan())
        };
        Rc::new(RefCell::new(self.uploads.borrow().by_other_groups(find)))
    }

    /// The number of an origin, if these have it.
    pub fn number(&self, origin: &Origin) -> Option<usize> {
        self.origins.iter().position(|held| std::ptr::eq(&**held, origin))
    }

    /// When an origin that is probed every so often should be probed next.
    pub fn probe_after(&self, number: usize, every: Duration, again: Duration) -> Duration {
        self.choices.borrow().probe_after(number, every, again)
    }

    fn at(&self, group: usize, place: u8) -> &Rc<Origin> {
        &self.groups[group][usize::from(place)]
    }

    fn is_alone(&self, group: usize) -> bool {
        self.groups[group].len() < 2
    }
}

/// Group and place of an origin; the group with this number if it has it, which another one may have now.
fn place_among(groups: &[Vec<Rc<Origin>>], first: usize, origin: &Arc<OriginPlan>) -> Option<(usize, usize)> {
    let place_in = |group: &Vec<Rc<Origin>>| group.iter().position(|one| Arc::ptr_eq(one.plan(), origin));
    let mut numbers = std::iter::once(first).chain(0..groups.len());
    numbers.find_map(|number| Some((number, place_in(groups.get(number)?)?)))
}

fn groups(plan: &Plan, origins: &[Rc<Origin>]) -> Vec<Vec<Rc<Origin>>> {
    let of_group = |group: &Vec<usize>| group.iter().map(|number| origins[*number].clone()).collect();
    plan.groups.iter().map(of_group).collect()
}

fn judged(plan: &Plan) -> Vec<(OriginRules, &str)> {
    plan.origins.iter().map(|origin| (origin.rules, &*origin.authority)).collect()
}

/// The way of one request among the origins of its group.
#[derive(Default)]
pub struct Course {
    /// In the group.
    place: u8,
    /// It belongs to an upload that was begun, which is on one origin and on no other.
    is_bound: bool,
    tried: Tried,
    attempts: Attempts,
    /// A connection to the origin in that place died before an answer, and the request is sent once more: if it dies
    /// elsewhere, too, it is at fault itself.
    died_at: Option<Death>,
}

#[derive(Clone, Copy)]
struct Death {
    place: u8,
    /// The connection was no old one, which may have been closed for its age.
    is_sign: bool,
}

impl Course {
    /// To the origin whose turn it is.
    pub fn begin(
        here: &Here,
        works: &Works,
        request: &RequestMessage<'_>,
        mapped: &Mapped<'_, '_>,
        kind: Kind,
    ) -> Course {
        if works.servers.is_alone(mapped.group()) {
            return Course::default();
        }
        Course::among_several(here, &works.servers, request, mapped, kind)
    }

    fn among_several(
        here: &Here,
        servers: &Servers,
        request: &RequestMessage<'_>,
        mapped: &Mapped<'_, '_>,
        kind: Kind,
    ) -> Course {
        let (group, now) = (mapped.group(), here.shard.now());
        let is_upload = is_upload(request);
        let session = if is_upload { session(request) } else { None };
        let holder = session.and_then(|session| servers.holder(group, session, now));
        let Servers { origins, choices, .. } = servers;
        let mut choices = choices.borrow_mut();
        let place = match holder {
            Some(place) => place,
            // Its packets may come by other shards and connection points, which all know its path.
            None if is_upload => choices.prefer(group, path(mapped.rest), now),
            None => choices.choose(group, now, |origin| origins[origin].has_room(kind)),
        };
        Course { place: place as u8, is_bound: session.is_some(), ..Course::default() }
    }

    /// Where it goes now.
    pub fn origin<'w>(&self, works: &'w Works, mapped: &Mapped<'_, '_>) -> &'w Rc<Origin> {
        works.servers.at(mapped.group(), self.place)
    }

    /// The origin answered.
    pub fn hear_answered(&self, (here, works): (&Here, &Works), mapped: &Mapped<'_, '_>, came: Instant) {
        let (origin, now) = (self.origin(works, mapped), here.shard.now());
        if origin.alive.hear(now) {
            origin.plan().outlook.is_alive(now);
        }
        if let Some(Death { place, is_sign: true }) = self.died_at {
            let died = works.servers.at(mapped.group(), place);
            here.hear_origin(died, OriginSign::Unanswered(came), &died_at(died));
        }
        if origin.failures.is_recent.get() {
            here.hear_origin(origin, OriginSign::Answered, "it answered");
        }
    }

    /// Nothing of the request, which came at `came`, was sent, because of this. Turns to another origin.
    ///
    /// # Errors
    /// The cause, where there is no other.
    pub fn hear_unsent(
        &mut self,
        (here, works): (&Here, &Works),
        mapped: &Mapped<'_, '_>,
        kind: Kind,
        came: Instant,
        fault: Fault,
    ) -> Result<(), Fault> {
        self.hear_failed((here, works), mapped, OriginSign::Failed(came), &fault, &UNREACHED);
        self.tried = self.tried.with(self.place.into());
        // Nor was anything of its body taken from the channel.
        let facts = Facts { has_body: false, is_repeatable: false };
        let may_turn = self.attempts.handle_broken(Broke::NotBegun, facts) == Then::Again;
        let other = if may_turn { self.elsewhere(works, mapped, kind, self.tried) } else { None };
        // Who has waited for a connection here does not begin to wait for one elsewhere.
        let may_wait = !matches!(fault, Fault::NotBegun(_));
        let other = other.filter(|other| may_wait || works.servers.at(mapped.group(), *other).has_room(kind));
        let Some(other) = other else { return Err(fault) };
        here.counts.moved();
        self.place = other;
        Ok(())
    }

    /// The connection that it was sent on ended before a byte of an answer came. Turns to another origin, or to the
    /// same once more, if it may be done twice.
    ///
    /// # Errors
    /// What the gateway is told, if not.
    pub fn hear_died(
        &mut self,
        (here, works): (&Here, &Works),
        mapped: &Mapped<'_, '_>,
        kind: Kind,
        came: Instant,
        is_fresh: bool,
        is_repeatable: bool,
    ) -> Result<(), Fault> {
        let origin = self.origin(works, mapped);
        let cause = died_at(origin);
        let tried = self.tried.with(self.place.into());
        // One that rested may have been closed meanwhile, as may one that was held for long: that says nothing of the
        // origin.
        let is_sign = is_fresh && !mapped.endpoint.held;
        if is_sign {
            self.tried = tried;
        }
        let other = self.elsewhere(works, mapped, kind, tried);
        let facts = Facts { has_body: false, is_repeatable: is_repeatable && (!is_fresh || other.is_some()) };
        match self.attempts.handle_broken(Broke::Lost, facts) {
            Then::GiveUp(_) => {
                if is_sign && self.died_at.is_none_or(|death| death.place == self.place) {
                    here.hear_origin(origin, OriginSign::Unanswered(came), &cause);
                }
                Err(Fault::refused(Refusal::BadGateway, cause))
            }
            Then::Again | Then::AgainAfter(_) => {
                self.died_at = Some(Death { place: self.place, is_sign });
                self.place = other.unwrap_or(self.place);
                Ok(())
            }
        }
    }

    /// The request was sent, and came to this, after the origin had had the whole of it for so long without an answer.
    pub fn hear_fault(
        &self,
        (here, works): (&Here, &Works),
        mapped: &Mapped<'_, '_>,
        came: Instant,
        fault: &Fault,
        waited: Option<Duration>,
    ) {
        // Held requests wait until there is something to say, which may be never.
        if mapped.endpoint.held {
            return;
        }
        self.hear_failed((here, works), mapped, OriginSign::Unanswered(came), fault, &UNANSWERED);
        let silent = waited.filter(|waited| *waited >= ORIGIN_SILENT_AFTER);
        if let (Fault::Left, Some(waited)) = (fault, silent) {
            let origin = self.origin(works, mapped);
            let (authority, secs) = (&origin.plan().authority, waited.as_secs());
            let cause = format!("origin {authority} did not answer within {secs} s, when the client left");
            here.hear_origin(origin, OriginSign::Unanswered(came), &cause);
        }
    }

    fn hear_failed(
        &self,
        (here, works): (&Here, &Works),
        mapped: &Mapped<'_, '_>,
        sign: OriginSign,
        fault: &Fault,
        failures: &[Refusal],
    ) {
        if let Fault::Refused(refused) = fault
            && failures.contains(&refused.refusal)
        {
            here.hear_origin(self.origin(works, mapped), sign, &refused.cause);
        }
    }

    fn elsewhere(&self, works: &Works, mapped: &Mapped<'_, '_>, kind: Kind, tried: Tried) -> Option<u8> {
        let Servers { origins, choices, .. } = &works.servers;
        if self.is_bound || works.servers.is_alone(mapped.group()) {
            return None;
        }
        let has_room = |origin: usize| origins[origin].has_room(kind);
        let place = choices.borrow().elsewhere(mapped.group(), tried, has_room);
        place.map(|place| place as u8)
    }
}

/// What a failure to reach an origin is answered with; that no source port is left is not its fault.
const UNREACHED: [Refusal; 3] =
    [Refusal::BadGateway, Refusal::GatewayTimeout, Refusal::ConnectorCertificateRequired];
/// What is an origin's fault once it has the request. An answer that makes no sense is an application's.
const UNANSWERED: [Refusal; 2] = [Refusal::GatewayTimeout, Refusal::ConnectorCertificateRequired];

fn died_at(origin: &Origin) -> String {
    format!("origin {} closed before an answer", origin.plan().authority)
}

/// Whether this is a packet of an upload (BITS).
pub fn is_upload(request: &RequestMessage<'_>) -> bool {
    request.method == b"BITS_POST"
}

/// A target without its query.
fn path(target: &[u8]) -> &[u8] {
    target.split(|octet| *octet == b'?').next().unwrap_or_default()
}

/// Names the upload that a packet belongs to.
const SESSION: &str = "BITS-Session-Id";

/// The upload that a packet names. One that names none begins one, on any origin.
fn session<'r>(request: &RequestMessage<'r>) -> Option<&'r [u8]> {
    let field = request.fields().find(|field| field.name.eq_ignore_ascii_case(SESSION.as_bytes()));
    field.map(|field| field.value)
}

impl Servers {
    /// Place in its group of the origin that has this upload, if it is known here.
    fn holder(&self, group: usize, session: &[u8], now: Instant) -> Option<usize> {
        let upload = Upload::new(group, session)?;
        self.uploads.borrow_mut().find(&upload, now)
    }

    fn place(&self, first: usize, origin: &Arc<OriginPlan>) -> Option<(usize, usize)> {
        place_among(&self.groups, first, origin)
    }
}

impl Here {
    /// An origin has acknowledged a packet of an upload by this head: the next ones go there, too.
    pub(super) fn hear_upload(
        &self,
        works: &Works,
        mapped: &Mapped<'_, '_>,
        origin: &Origin,
        head: &ResponseHead<'_, '_>,
    ) {
        let group = mapped.group();
        if works.servers.is_alone(group) {
            return;
        }
        let upload = head.fields.find(SESSION).and_then(|value| Upload::new(group, value));
        if let Some(upload) = upload
            && self.remember(upload, origin.plan())
        {
            self.tell_others(|| Control::Upload { origin: origin.plan().clone(), upload });
        }
    }

    /// The same, as another shard saw it.
    pub(super) fn hear_upload_elsewhere(&self, origin: &Arc<OriginPlan>, upload: Upload) {
        self.remember(upload, origin);
    }

    /// Remembers it by the settings in force now, which may be others than those that the packet was sent by, or that
    /// another shard works by. Whether others should hear of it.
    fn remember(&self, upload: Upload, origin: &Arc<OriginPlan>) -> bool {
        let (works, now) = (self.works(), self.shard.now());
        let Some((group, place)) = works.servers.place(upload.group(), origin) else { return false };
        works.servers.uploads.borrow_mut().remember(upload.in_group(group), place, now)
    }

    /// Something was seen of an origin; the cause stands in the log where that makes its state another.
    pub(super) fn hear_origin(&self, origin: &Origin, sign: OriginSign, cause: &str) {
        origin.failures.hear(sign);
        let (works, outlook) = (self.works(), &origin.plan().outlook);
        // Nobody is sent any more to one that other settings have not.
        let Some(number) = works.servers.number(origin) else { return };
        let change = {
            let mut choices = works.servers.choices.borrow_mut();
            if let Some(alive) = origin.alive.last.get().max(outlook.alive_at()) {
                choices.handle_alive(number, alive);
            }
            choices.handle_sign(number, sign, self.shard.now())
        };
        let Some(state) = change else { return };
        let is_news = outlook.becomes(state, cause, self.shard.now());
        // One that nobody probes is told of where it is dialled.
        if is_news && origin.plan().rules.is_probed {
            tell(&origin.plan().authority, state, cause);
        }
        self.tell_others(|| Control::Origin { origin: origin.plan().clone(), state });
    }

    /// Another shard has found an origin to be so.
    pub(super) fn hear_origin_elsewhere(&self, plan: &Arc<OriginPlan>, state: OriginState) {
        let works = self.works();
        let number = works.servers.origins.iter().position(|held| Arc::ptr_eq(held.plan(), plan));
        let Some(number) = number else { return };
        if state == OriginState::Down {
            // The first answer here may say otherwise.
            works.servers.origins[number].failures.is_recent.set(true);
        }
        works.servers.choices.borrow_mut().handle_state(number, state, self.shard.now());
    }

    fn tell_others(&self, control: impl Fn() -> Control) {
        let others = (0..self.port.shards()).filter(|shard| *shard != self.shard.index);
        others.for_each(|shard| self.port.send(shard, control()));
    }
}

fn tell(origin: &str, state: OriginState, cause: &str) {
    match state {
        OriginState::Down => tracing::warn!(origin, cause, "an origin is down: others are asked instead"),
        OriginState::Rising => {
            tracing::info!(origin, cause, "an origin is back: it has more turns with time")
        }
        OriginState::Up => tracing::info!(origin, cause, "an origin is up: it has all its turns"),
    }
}
