//! The internal certificate of an instance that has no way into the company: what connection points say of those that
//! are revoked, and how the next certificate is asked for over their channels.
//!
//! The list counts because the internal authority signed it, whoever brings it. What is asked is signed with the
//! instance's key, so that who carries it can neither change it nor ask in its place.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::gate::{Common, Gate};
use crate::auth::ListFault;
use crate::channel::{Publication, RenewalAnswer as Answer};
use crate::limits::{
    INTERNAL_LIST_JUDGED_AGAIN_AFTER, INTERNAL_LISTS_EARLY_MAX, INTERNAL_LISTS_JUDGED_MAX,
    RENEWAL_ANSWER_WITHIN,
};
use crate::logs;
use crate::renewal::{Carries, KeptList, NotCarried};
use crate::review::list_text;
use crate::settings::GatewaySettings;
use crate::transport::{Link, cut_revoked};

/// A connection point: number of its site, and its name.
pub type Point = (usize, Arc<str>);

/// What is asked over a channel, between the thread that waits for it and the shards that have channels.
#[derive(Default)]
pub struct Asking {
    /// Something waits for a shard; looked at by each, four times a second.
    waits: AtomicBool,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    message: Option<Arc<[u8]>>,
    /// Connection points that were asked already.
    tried: HashSet<Point>,
    /// Who is asked, by which link of which shard.
    asked: Option<(Point, usize, u64)>,
    answer: Option<Vec<u8>>,
}

impl Asking {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks by one of the channels of this shard, if something waits and a connection point is there that was not
    /// asked. `links` are those of the shard, and whose they are.
    fn offer(&self, shard: usize, links: impl Iterator<Item = (Point, Rc<Link>)>) {
        let mut state = self.state();
        if !self.waits.load(Ordering::Relaxed) {
            return;
        }
        let Some(message) = state.message.clone() else { return };
        for (point, link) in links {
            if link.is_open() && !state.tried.contains(&point) && link.renewal(&message).is_ok() {
                state.tried.insert(point.clone());
                state.asked = Some((point, shard, link.id));
                self.waits.store(false, Ordering::Relaxed);
                self.turned.notify_all();
                return;
            }
        }
    }

    /// Something came back.
    pub fn hear(&self, shard: usize, link: u64, bytes: &[u8]) {
        let mut state = self.state();
        if state.asked.as_ref().is_some_and(|(_, of, asked)| (*of, *asked) == (shard, link)) {
            state.answer = Some(bytes.to_vec());
            self.turned.notify_all();
        }
    }

    /// Waits until there is something.
    fn wait<T>(&self, within: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + within;
        let mut state = self.state();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.turned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks one connection point that was not asked; who, and what came back.
    fn ask_next(&self, message: &Arc<[u8]>) -> Option<(Point, Option<Vec<u8>>)> {
        {
            let mut state = self.state();
            (state.message, state.asked, state.answer) = (Some(message.clone()), None, None);
            self.waits.store(true, Ordering::Relaxed);
        }
        let point =
            self.wait(SHARDS_LOOK_WITHIN, |state| state.asked.as_ref().map(|(point, ..)| point.clone()));
        self.waits.store(false, Ordering::Relaxed);
        // A shard may have taken it at the last moment.
        let point = point.or_else(|| self.state().asked.as_ref().map(|(point, ..)| point.clone()))?;
        let answer = self.wait(RENEWAL_ANSWER_WITHIN, |state| state.answer.take());
        self.state().asked = None;
        Some((point, answer))
    }
}

/// Carries what the instance asks: one connection point after the other is asked, until what comes back is good.
pub struct ByChannel(pub Weak<Common>);

impl Carries for ByChannel {
    fn carry(
        &self,
        message: &dyn Fn() -> Result<Vec<u8>, String>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), NotCarried> {
        let common = self.0.upgrade().ok_or_else(|| NotCarried::Failed("the gateway ends".to_owned()))?;
        let asking = &common.asking;
        asking.state().tried.clear();
        let mut outcome = NotCarried::NotYet;
        let mut has_failed = false;
        while let Some((point, answer)) = asking.ask_next(&message().map_err(NotCarried::Failed)?.into()) {
            let text = match answer.as_deref().map(Answer::parse) {
                Some(Some(Answer::Given(chain))) => match take(chain) {
                    Ok(()) => return Ok(()),
                    Err(text) => text,
                },
                Some(Some(Answer::Refused(text))) => text.to_owned(),
                Some(Some(Answer::Nobody)) if has_failed => continue,
                Some(Some(Answer::Nobody)) => {
                    outcome = NotCarried::Nobody;
                    continue;
                }
                Some(None) => "it answered what cannot be read".to_owned(),
                None => format!("no answer within {} s", RENEWAL_ANSWER_WITHIN.as_secs()),
            };
            has_failed = true;
            let (site, point) = (&common.settings.sites[point.0].code, &point.1);
            let text = logs::bounded(text.escape_debug().to_string());
            outcome = NotCarried::Failed(format!("connection point {point} of {site}: {text}"));
        }
        Err(outcome)
    }
}

/// Lists that came over channels and are still to be judged.
#[derive(Default)]
pub struct Heard {
    lists: Mutex<Lists>,
    hashes: RandomState,
}

#[derive(Default)]
struct Lists {
    /// In their turn. Of each channel that stands the last, so that there are no more than channels: whoever has the key of
    /// a connection point, and channels of his own in its name, takes away nothing of what it says by others.
    new: VecDeque<Waits>,
    /// Those of each connection point that this clock says begin in the future, the last to begin.
    early: HashMap<Point, Vec<Early>>,
    /// When these were judged.
    judged: Option<Instant>,
}

/// A list that is to be judged.
struct Waits {
    point: Point,
    /// Shard and number of its channel.
    channel: (usize, u64),
    /// Of its bytes, by a key of this process: nobody can make two that have the same.
    hash: u64,
    list: Publication,
}

/// A list that the internal authority signed and that begins in the future.
struct Early {
    begins: u64,
    text: String,
    list: Publication,
}

impl Heard {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One came from a connection point, by a channel of this shard.
    pub fn hear(&self, point: Point, shard: usize, link: u64, list: Publication) {
        let (channel, hash) = ((shard, link), self.hashes.hash_one(&list.bytes));
        let waits = Waits { point, channel, hash, list };
        let mut lists = self.lists();
        match lists.new.iter_mut().find(|held| held.channel == channel) {
            Some(held) => *held = waits,
            None => lists.new.push_back(waits),
        }
    }

    /// A channel ended: by the next one its connection point says again what counts.
    pub fn forget(&self, shard: usize, link: u64) {
        self.lists().new.retain(|held| held.channel != (shard, link));
    }

    /// Offers each that is due to `take`. One that begins in the future stays, for it is the clock here that may be
    /// wrong: its connection point says it once, and is offered again after a while. What is wrong with those that stay.
    fn judge(
        &self,
        now: Instant,
        mut take: impl FnMut(&Point, &Publication) -> Result<(), ListFault>,
    ) -> Option<String> {
        let mut due = Vec::new();
        {
            let mut lists = self.lists();
            // What a connection point says by many channels is judged once.
            let mut judged: HashMap<Point, HashSet<u64>> = HashMap::new();
            for waits in std::mem::take(&mut lists.new) {
                let hashes = judged.entry(waits.point.clone()).or_default();
                if hashes.contains(&waits.hash) {
                    continue;
                }
                if hashes.len() >= INTERNAL_LISTS_JUDGED_MAX {
                    lists.new.push_back(waits);
                    continue;
                }
                hashes.insert(waits.hash);
                due.push((waits.point, waits.list));
            }
            if lists.judged.is_none_or(|at| now.duration_since(at) >= INTERNAL_LIST_JUDGED_AGAIN_AFTER) {
                lists.judged = Some(now);
                for (point, early) in std::mem::take(&mut lists.early) {
                    due.extend(early.into_iter().map(|early| (point.clone(), early.list)));
                }
            }
        }
        let mut early = Vec::new();
        for (point, list) in due {
            if let Err(fault @ ListFault::Future { at, .. }) = take(&point, &list) {
                early.push((point, Early { begins: at, text: early_text(&fault), list }));
            }
        }
        let mut lists = self.lists();
        for (point, one) in early {
            let held = lists.early.entry(point).or_default();
            held.retain(|other| other.list.bytes != one.list.bytes);
            held.push(one);
            // The authority has signed them, so that what they say of themselves is true.
            held.sort_by_key(|one| Reverse(one.begins));
            held.truncate(INTERNAL_LISTS_EARLY_MAX);
        }
        lists.early.values().flatten().max_by_key(|one| one.begins).map(|one| one.text.clone())
    }
}

fn early_text(fault: &ListFault) -> String {
    format!("a list of revoked internal certificates is not in force yet: {fault}; is the clock right?")
}

/// A list counts because of who signed it, if it is newer than the one there is.
fn judge_heard(gate: &Gate) {
    let keeper = &gate.common.keeper;
    let trouble = gate.common.heard.judge(Instant::now(), |(_, point), list| {
        let taken = keeper.take_list(&list.bytes, point);
        match &taken {
            Ok(()) | Err(ListFault::Future { .. }) => {}
            Err(fault) if gate.records.strangers.admits(&gate.shard) => {
                let error = logs::bounded(list_text(fault));
                tracing::warn!(
                    point = &**point,
                    error,
                    "a list of revoked internal certificates was not taken"
                );
            }
            Err(_) => {}
        }
        taken
    });
    keeper.tell_heard(trouble.map(logs::bounded));
}

/// Looks after channels on a shard, for ever: cuts those whose other side is revoked, and asks by them what is to be
/// asked.
pub fn look_after(gate: &Rc<Gate>) {
    let shard = gate.shard.clone();
    let internal = gate.common.keeper.internal().clone();
    let links = gate.clone();
    shard.spawn(
        "cut revoked",
        cut_revoked(gate.shard.clone(), internal, move || {
            let mut all = Vec::new();
            links.each_link(|_, link| all.push(link.clone()));
            all
        }),
    );
    let gate = gate.clone();
    shard.spawn("internal", async move {
        // What its file or another process had is kept, too.
        let mut kept = 0;
        loop {
            gate.shard.sleep(LOOK_EVERY).await;
            if gate.common.asking.waits.load(Ordering::Relaxed) {
                let mut links = Vec::new();
                gate.each_link(|channel, link| {
                    links.push(((channel.site, channel.point.clone()), link.clone()));
                });
                gate.common.asking.offer(gate.shard.index, links.into_iter());
            }
            if gate.shard.index > 0 {
                continue;
            }
            judge_heard(&gate);
            let internal = gate.common.keeper.internal();
            let generation = internal.generation();
            if std::mem::replace(&mut kept, generation) != generation {
                gate.common.kept_list.keep(internal);
            }
        }
    });
}

/// Where the list is kept.
pub fn kept(settings: &GatewaySettings, folder: &Path) -> Arc<KeptList> {
    KeptList::new(folder.join(&settings.state_dir).join("internal.crl"))
}

/// How often a shard looks whether it is to ask something.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Every shard has looked some times.
const SHARDS_LOOK_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::RevisionTag;

    #[test]
    fn what_comes_back_counts_only_from_whom_was_asked() {
        let asking = Asking::default();
        let point: Point = (0, "1".into());
        asking.state().asked = Some((point, 1, 7));
        for (shard, link) in [(0, 7), (1, 8)] {
            asking.hear(shard, link, b"false");
            assert_eq!(asking.state().answer, None);
        }
        asking.hear(1, 7, b"right");
        assert_eq!(asking.state().answer.as_deref(), Some(&b"right"[..]));
    }

    fn list(serial: u64) -> Publication {
        Publication {
            revision: RevisionTag { serial, sha256: [0; 32] },
            bytes: serial.to_be_bytes().to_vec(),
        }
    }

    /// A clock by which lists begin in the future whose serial is above `now`.
    fn clock(now: u64, list: &Publication) -> Result<(), ListFault> {
        let at = list.revision.serial;
        if at > now { Err(ListFault::Future { issuer: "CA".to_owned(), at }) } else { Ok(()) }
    }

    fn judged(heard: &Heard) -> Vec<u64> {
        let mut judged = Vec::new();
        let said = heard.judge(Instant::now(), |_, list| {
            judged.push(list.revision.serial);
            Ok(())
        });
        assert_eq!(said, None);
        judged
    }

    #[test]
    fn what_a_connection_point_says_by_many_channels_is_judged_once() {
        let (heard, point): (_, Point) = (Heard::default(), (0, "1".into()));
        for (shard, link, serial) in [(0, 7, 1), (0, 8, 1), (1, 7, 1), (0, 9, 2), (0, 8, 2)] {
            heard.hear(point.clone(), shard, link, list(serial));
        }
        heard.hear((0, "2".into()), 0, 10, list(1));
        assert_eq!(judged(&heard), [1, 2, 1]);
        assert!(judged(&heard).is_empty());
    }

    #[test]
    fn a_channel_that_ended_leaves_nothing_and_takes_nothing_from_another() {
        let (heard, point): (_, Point) = (Heard::default(), (0, "1".into()));
        for link in 0..1_000 {
            heard.hear(point.clone(), 0, link, list(link));
            // It says the same as one that stands.
            heard.hear(point.clone(), 1, 1_000, list(link));
            heard.forget(0, link);
        }
        assert_eq!(heard.lists().new.len(), 1);
        assert_eq!(judged(&heard), [999]);
    }

    #[test]
    fn whoever_has_channels_in_the_name_of_another_takes_none_of_his_lists_away() {
        let (heard, point, other): (_, Point, Point) = (Heard::default(), (0, "1".into()), (0, "2".into()));
        let (count, of_his) = (10 * INTERNAL_LISTS_JUDGED_MAX as u64, 1_000_000);
        for serial in 0..2 * count {
            heard.hear(point.clone(), 0, serial % count, list(serial));
        }
        heard.hear(point.clone(), 1, 0, list(of_his));
        heard.hear(other, 1, 1, list(7));
        let mut turns = 0;
        loop {
            // He goes on, and does not come before who waits.
            for link in 0..count {
                heard.hear(point.clone(), 0, link, list(2 * count + turns * count + link));
            }
            let judged = judged(&heard);
            assert_eq!(judged.contains(&7), turns == 0, "another waits for nobody");
            assert!(judged.len() <= INTERNAL_LISTS_JUDGED_MAX + 1);
            turns += 1;
            if judged.contains(&of_his) {
                break;
            }
            assert!(turns <= 11);
        }
        assert!(heard.lists().new.len() <= count as usize);
    }

    #[test]
    fn of_many_lists_from_the_future_the_last_to_begin_are_kept() {
        let (heard, now, point): (_, _, Point) = (Heard::default(), Instant::now(), (0, "1".into()));
        let mut later = now;
        for serial in [19, 20, 11, 12, 13, 14] {
            heard.hear(point.clone(), 0, serial, list(serial));
            heard.judge(later, |_, list| clock(5, list));
            later += INTERNAL_LIST_JUDGED_AGAIN_AFTER;
        }
        let mut judged = Vec::new();
        heard.judge(later, |_, list| {
            judged.push(list.revision.serial);
            Ok(())
        });
        assert_eq!(judged, [20, 19, 14, 13]);
        assert_eq!(INTERNAL_LISTS_EARLY_MAX, judged.len());
    }

    #[test]
    fn a_list_from_the_future_is_told_of_and_judged_again_until_it_is_taken() {
        let (heard, now) = (Heard::default(), Instant::now());
        let (point, other): (Point, Point) = ((0, "1".into()), (0, "2".into()));
        heard.hear(other.clone(), 0, 1, list(4));
        heard.hear(point.clone(), 0, 2, list(10));
        heard.hear(point.clone(), 0, 3, list(9));
        let said = heard.judge(now, |_, list| clock(5, list)).unwrap();
        assert!(said.contains("begins only at 1970-01-01T00:00:10Z; is the clock right?"), "{said}");
        // They are kept, and the one that begins last is still told of.
        let soon = now + INTERNAL_LIST_JUDGED_AGAIN_AFTER / 2;
        assert_eq!(heard.judge(soon, |_, _| panic!("not so soon")).as_ref(), Some(&said));
        heard.hear(other, 0, 1, list(6));
        assert_eq!(heard.judge(soon, |_, list| clock(5, list)).as_ref(), Some(&said));
        let mut judged = Vec::new();
        let said = heard.judge(now + INTERNAL_LIST_JUDGED_AGAIN_AFTER, |(_, point), list| {
            judged.push((point.to_string(), list.revision.serial));
            clock(10, list)
        });
        judged.sort();
        let [one, two] = ["1", "2"].map(str::to_owned);
        assert_eq!((judged, said), (vec![(one.clone(), 9), (one, 10), (two, 6)], None));
        let later = now + 9 * INTERNAL_LIST_JUDGED_AGAIN_AFTER;
        assert_eq!(heard.judge(later, |_, _| panic!("they are in force")), None);
    }

    #[test]
    fn nobody_to_ask_is_found_out_in_time() {
        let asking = Asking::default();
        let began = Instant::now();
        assert!(asking.ask_next(&Arc::from(&b"asked"[..])).is_none());
        assert!(began.elapsed() < SHARDS_LOOK_WITHIN * 4);
        assert!(!asking.waits.load(Ordering::Relaxed), "it is not asked later");
    }
}
