//! A channel that stands: driven by a task of its own, so that another can be made beside it; what comes over it;
//! and how it leaves when another has taken its place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Here;
use super::board::Channel;
use super::exchange::Asking;
use super::head::Client;
use super::instance::{Reach, Reached};
use super::internal;
use super::lists::Offering;
use super::plan::{InstancePlan, WayPlan};
use super::servants::{Job, Servants};
use crate::channel::{self, Acknowledgement, CloseCode, Identity, Publication, Side, Verdict};
use crate::limits;
use crate::transport::{Link, LinkEvents, Stream};

/// See the file's head.
pub struct Standing {
    link: Rc<Link>,
    /// By which of the ways to its instance it stands.
    pub way: usize,
    /// Which process of the instance it stands to.
    pub process: [u8; 16],
    since: Instant,
    news: Rc<News>,
}

/// What who keeps a channel waits for.
pub enum Next {
    /// It is over; how.
    Ended(String),
    /// It gives no sign of life, or does again, or is asked for another beside it.
    Changed,
    /// So long nothing happened.
    Waited,
}

/// What a channel's task tells who keeps it.
#[derive(Default)]
pub struct News {
    ended: RefCell<Option<String>>,
    has_ended: Cell<bool>,
    is_silent: Cell<bool>,
    makes_way: Cell<bool>,
    /// One of the two is new.
    has_changed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl News {
    fn end(&self, cause: &str) {
        if !self.has_ended.replace(true) {
            *self.ended.borrow_mut() = Some(cause.to_owned());
        }
        self.wake();
    }

    /// Has whoever waits look again.
    pub fn change(&self) {
        self.has_changed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Tells of the end also when the task panicked.
struct Teller(Rc<News>);

impl Teller {
    fn end(&self, cause: &str) {
        self.0.end(cause);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.end("a task panicked; this is a bug of cmg");
    }
}

impl Standing {
    /// Begins to drive a channel whose hello was accepted, and says over it what is said first.
    pub(super) fn begin(reach: &Rc<Reach>, reached: Reached, index: u16) -> Standing {
        let Reached { way, wire, reply, .. } = reached;
        let here = &reach.here;
        let link = Link::new(&here.shard, Side::Connector, None);
        let instance = &reach.plan().dialled;
        let works = here.works();
        let plan = &works.plan;
        let offering = (index == 0).then(|| Offering::new(&link, &plan.lists, instance));
        let up = Up::new(reach, &link, key(reach, index, way), offering.clone());
        if here.draining.get() {
            link.leave();
        }
        if index == 0 {
            link.publish(plan.tag(), &plan.published);
        }
        if !plan.tokens.is_empty() {
            // On every channel: it must be heard as soon as one of them stands.
            let state = here.tokens.state();
            link.publish_tokens(state.revision, &state.bytes);
        }
        let news = Rc::<News>::default();
        reach.watch(&news);
        let events =
            Attached { reach: reach.clone(), identities: RefCell::default(), offering, news: news.clone() };
        let (driven, teller) = (link.clone(), Teller(news.clone()));
        here.shard.spawn("link", async move {
            let cause = driven.drive(wire, Rc::new(events)).await;
            // It is not up any more before anybody hears that.
            drop(up);
            teller.end(&cause.to_string());
        });
        Standing { link, way, process: reply.instance_id, since: here.shard.now(), news }
    }

    /// It is over, whether that was heard or not.
    pub fn has_ended(&self) -> bool {
        self.news.has_ended.get()
    }

    /// Waits until [`next`](Standing::next) would have something to tell.
    pub fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        let news = &self.news;
        if news.ended.borrow().is_some() || news.has_changed.get() {
            return Poll::Ready(());
        }
        *news.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Its instance gives no sign of life.
    pub fn is_silent(&self) -> bool {
        self.news.is_silent.get()
    }

    /// Whether its instance wants another beside it, which comes to the process that takes its place; told once.
    pub fn takes_wish(&self) -> bool {
        self.news.makes_way.take()
    }

    /// How long it stands.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Waits for what happens next, as long as `wait` if there is one.
    pub async fn next(&self, here: &Here, wait: Option<Duration>) -> Next {
        let deadline = here.shard.deadline();
        if let Some(wait) = wait {
            deadline.set(here.shard.now(), wait);
        }
        std::future::poll_fn(|context| {
            let news = &self.news;
            let ended = news.ended.borrow_mut().take();
            if let Some(cause) = ended {
                return Poll::Ready(Next::Ended(cause));
            }
            if news.has_changed.take() {
                return Poll::Ready(Next::Changed);
            }
            if wait.is_some() && deadline.poll(context) {
                return Poll::Ready(Next::Waited);
            }
            *news.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Another has taken its place: has the gateway open nothing more on it, and closes it when what lives on it has
    /// ended. Nothing is turned away, and nothing is cut however long it takes.
    pub fn leave(self, here: &Rc<Here>) {
        let leaving = Leaving::new(here);
        self.leave_as(here, leaving);
    }

    /// The same when settings do not want it any more. As many as there are channels leave with each reload, and keep
    /// none from finding a way round silence.
    pub fn leave_for_good(self, here: &Rc<Here>) {
        self.leave_as(here, ());
    }

    fn leave_as(self, here: &Rc<Here>, counted: impl Sized + 'static) {
        let (link, news, here) = (self.link.clone(), self.news.clone(), here.clone());
        here.clone().shard.spawn("channel that leaves", async move {
            let _counted = counted;
            link.leave();
            here.until(limits::LEAVE_WITHIN, || link.has_peer_drained()).await;
            // Who has not answered is told that nothing more is taken.
            link.drain();
            while link.stream_count() > 0 && !news.has_ended.get() {
                here.shard.sleep(LOOK_EVERY).await;
            }
            link.close(CloseCode::Done, "another channel took its place");
        });
    }
}

/// Whoever kept it has panicked: nobody would hear of it, and another is made.
impl Drop for Standing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.close(CloseCode::Done, "the channel is made anew");
        }
    }
}

fn key(reach: &Reach, index: u16, way: usize) -> Channel {
    let InstancePlan { dialled, ways, .. } = reach.plan();
    let WayPlan { transport, dialled: way, .. } = &ways[way];
    let (instance, way, shard) = (dialled.as_str().into(), way.as_str().into(), reach.here.shard.index);
    Channel { instance, index, shard, transport: *transport, way }
}

/// A channel that leaves, counted as long as it does.
struct Leaving(Rc<Here>);

impl Leaving {
    fn new(here: &Rc<Here>) -> Leaving {
        here.leaving.set(here.leaving.get() + 1);
        Leaving(here.clone())
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leaving.set(self.0.leaving.get() - 1);
    }
}

/// A channel that is up; dropped when it is not, however it ended.
struct Up {
    reach: Rc<Reach>,
    link: Rc<Link>,
    index: u16,
    offering: Option<Rc<Offering>>,
}

impl Up {
    fn new(reach: &Rc<Reach>, link: &Rc<Link>, channel: Channel, offering: Option<Rc<Offering>>) -> Up {
        let index = channel.index;
        reach.instance.board.channel_up(index == 0);
        reach.here.links.borrow_mut().push(link.clone());
        reach.here.channels.up(channel, link);
        reach.here.offerings.borrow_mut().extend(offering.clone());
        reach.here.show();
        Up { reach: reach.clone(), link: link.clone(), index, offering }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let here = &self.reach.here;
        self.reach.instance.board.channel_down(self.index == 0);
        here.links.borrow_mut().retain(|link| !Rc::ptr_eq(link, &self.link));
        here.channels.down(&self.link);
        if let Some(own) = &self.offering {
            here.offerings.borrow_mut().retain(|offering| !Rc::ptr_eq(offering, own));
        }
        here.show();
    }
}

// ── what comes over a channel ───────────────────────────────────────────────────────────────────

struct Attached {
    reach: Rc<Reach>,
    identities: RefCell<HashMap<u32, Asking>>,
    /// On the first channel alone.
    offering: Option<Rc<Offering>>,
    news: Rc<News>,
}

impl LinkEvents for Attached {
    fn opened(&self, _link: &Rc<Link>, stream: Stream, message: &[u8]) {
        let here = &self.reach.here;
        let asking = match channel::identity_of(message) {
            0 => Asking::Nobody,
            number => self.identities.borrow().get(&number).cloned().unwrap_or(Asking::Unreadable),
        };
        let mut copy = here.shard.ring.pool.borrow_mut().slim(message.len());
        copy.extend_from_slice(message);
        Servants::serve(here, Job { stream, message: copy, asking });
    }

    fn settings(&self, _link: &Rc<Link>, _publication: Publication) {
        // The channel itself refuses settings on this side.
    }

    fn acknowledged(&self, _link: &Rc<Link>, acknowledgement: Acknowledgement) {
        let Acknowledgement { revision, verdict, text } = acknowledgement;
        let (instance, board) = (&self.reach.plan().dialled, &self.reach.instance.board);
        let serial = revision.serial;
        if revision != self.reach.here.works().plan.tag() {
            // Others are on their way there already.
            tracing::debug!(instance, serial, ?verdict, "of settings that are not ours any more: {text}");
            return;
        }
        if verdict == Verdict::InForce {
            board.acknowledged(Some(revision));
            tracing::info!(instance, serial, "settings in force");
        } else {
            board.acknowledged(None);
            board.is_in_trouble(&format!("settings {verdict:?}: {text}"));
            tracing::error!(instance, serial, ?verdict, "settings are not in force: {text}");
        }
        if let Some(offering) = &self.offering {
            offering.begin();
        }
    }

    fn list_acknowledged(&self, _link: &Rc<Link>, acknowledgement: Acknowledgement) {
        if let Some(offering) = &self.offering {
            offering.acknowledged(&acknowledgement);
        }
    }

    fn renewal(&self, link: &Rc<Link>, bytes: &[u8]) {
        internal::carry(&self.reach.here, &self.reach.instance.board, link, bytes);
    }

    fn identity(&self, _link: &Rc<Link>, number: u32, bytes: &[u8]) {
        let asking = match Identity::parse(bytes) {
            Ok(identity) => Asking::Known(Rc::new(Client::new(&identity))),
            Err(error) => {
                let here = &self.reach.here;
                if here.records.identities.admits(&here.shard) {
                    tracing::warn!(instance = self.reach.plan().dialled, %error, "an identity cannot be read");
                }
                Asking::Unreadable
            }
        };
        self.identities.borrow_mut().insert(number, asking);
    }

    fn identity_gone(&self, _link: &Rc<Link>, number: u32) {
        self.identities.borrow_mut().remove(&number);
    }

    fn draining(&self, _link: &Rc<Link>) {
        // It opens no further stream, as it was asked.
    }

    fn makes_way(&self, _link: &Rc<Link>) {
        self.news.makes_way.set(true);
        self.news.change();
    }

    fn stalled(&self, _link: &Rc<Link>, is_stalled: bool) {
        self.news.is_silent.set(is_stalled);
        self.news.change();
    }
}

/// How often to look whether anything is left on a channel that leaves.
const LOOK_EVERY: Duration = Duration::from_millis(500);
