//! The internal certificate of an instance that has no way into the company: what connection points say of those that
//! are revoked, and how the next certificate is asked for over their channels.
//!
//! The list counts because the internal authority signed it, whoever brings it. What is asked is signed with the
//! instance's key, so that who carries it can neither change it nor ask in its place.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::gate::{Common, Gate};
use crate::auth::ListFault;
use crate::channel::{Publication, RenewalAnswer as Answer};
use crate::limits::{INTERNAL_LIST_JUDGED_AGAIN_AFTER, INTERNAL_LISTS_HEARD_MAX, RENEWAL_ANSWER_WITHIN};
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
pub struct Heard(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    /// Of each connection point the latest: who says another each time, and by each channel, has no more judged than the
    /// others.
    new: HashMap<Point, Vec<Publication>>,
    /// Those of each connection point that this clock says begin in the future.
    early: HashMap<Point, Vec<Early>>,
    /// When these were judged.
    judged: Option<Instant>,
}

/// A list that the internal authority signed and that begins in the future.
struct Early {
    begins: u64,
    text: String,
    list: Publication,
}

impl Heard {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One came from a connection point, perhaps what it said by another channel.
    pub fn hear(&self, point: Point, list: Publication) {
        let mut lists = self.lists();
        keep_latest(lists.new.entry(point).or_default(), list, |held, list| held.bytes == list.bytes);
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
            let new = std::mem::take(&mut lists.new).into_iter();
            due.extend(new.flat_map(|(point, all)| all.into_iter().map(move |list| (point.clone(), list))));
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
            keep_latest(held, one, |held, one| held.list.bytes == one.list.bytes);
        }
        lists.early.values().flatten().max_by_key(|one| one.begins).map(|one| one.text.clone())
    }
}

/// Puts `one` behind those that are held, in the place of the same, or of the oldest if there are too many.
fn keep_latest<T>(held: &mut Vec<T>, one: T, is_same: impl Fn(&T, &T) -> bool) {
    if let Some(at) = held.iter().position(|other| is_same(other, &one)) {
        held.remove(at);
    } else if held.len() >= INTERNAL_LISTS_HEARD_MAX {
        held.remove(0);
    }
    held.push(one);
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

    #[test]
    fn what_a_connection_point_says_by_many_channels_is_judged_once_and_a_few_at_most() {
        let (heard, point): (_, Point) = (Heard::default(), (0, "1".into()));
        for serial in [2, 3, 2, 1, 3, 2] {
            heard.hear(point.clone(), list(serial));
        }
        let mut judged = Vec::new();
        let said = heard.judge(Instant::now(), |_, list| {
            judged.push(list.revision.serial);
            Ok(())
        });
        judged.sort_unstable();
        assert_eq!((judged, said), (vec![1, 2, 3], None));
        assert_eq!(heard.judge(Instant::now(), |_, _| panic!("nothing came since")), None);
        // The latest count.
        for serial in 1..=100 {
            heard.hear(point.clone(), list(serial));
        }
        let mut judged = Vec::new();
        heard.judge(Instant::now(), |_, list| {
            judged.push(list.revision.serial as usize);
            Ok(())
        });
        assert!(judged.into_iter().eq(101 - INTERNAL_LISTS_HEARD_MAX..=100));
    }

    #[test]
    fn a_list_from_the_future_is_told_of_and_judged_again_until_it_is_taken() {
        let (heard, now) = (Heard::default(), Instant::now());
        let (point, other): (Point, Point) = ((0, "1".into()), (0, "2".into()));
        heard.hear(other.clone(), list(4));
        heard.hear(point.clone(), list(10));
        heard.hear(point.clone(), list(9));
        let said = heard.judge(now, |_, list| clock(5, list)).unwrap();
        assert!(said.contains("begins only at 1970-01-01T00:00:10Z; is the clock right?"), "{said}");
        // They are kept, and the one that begins last is still told of.
        let soon = now + INTERNAL_LIST_JUDGED_AGAIN_AFTER / 2;
        assert_eq!(heard.judge(soon, |_, _| panic!("not so soon")).as_ref(), Some(&said));
        heard.hear(other, list(6));
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
