//! Channels to one gateway instance, as one shard keeps them: dialled by the best way that leads there, greeted,
//! made anew beside themselves when a better way works again or nothing comes any more, and after every end.
//!
//! Shard s of C dials index s first and learns how many shards G the instance has; then it keeps s,
//! s + C, … below n = max(G, C), so that every shard of either side has a channel to work with.
//!
//! Other settings that say otherwise how the instance is reached have another keep its channels: this one's leave when
//! those stand. They leave at once when the instance is not among the settings any more.
//!
//! When another process takes the instance's place, the one before asks for one more channel of each index: that
//! comes to the new one, and stays when the old channel ends. Should it be lost first, the old one goes on.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_lite::FutureExt;

use super::Here;
use super::backoff::Backoff;
use super::board::InstanceBoard;
use super::dial::{AttachFault, dial, hear_more, instance_name};
use super::names::Name;
use super::plan::{Instance, InstancePlan, WayPlan};
use super::standing::{News, Next, Standing};
use super::wait::within;
use crate::channel::{ChannelError, Hello, HelloRefusal, HelloReply, VERSION, frame};
use crate::dispatch::Ways;
use crate::limits;
use crate::transport::Wire;

/// See the file's head.
pub(super) struct Reach {
    pub(super) here: Rc<Here>,
    pub(super) instance: Arc<Instance>,
    /// Where each way begins.
    names: Vec<Name>,
    /// Where the HTTP proxy is.
    proxy: Option<Name>,
    /// Channels that all shards together hold to the instance.
    count: Cell<u16>,
    /// Those that this shard keeps.
    kept: RefCell<Vec<u16>>,
    /// Those that stood.
    stood: RefCell<Vec<u16>>,
    /// It keeps none any more.
    is_over: Cell<bool>,
    /// Who waits for what its channels do.
    watched: RefCell<Vec<Weak<News>>>,
    /// Who kept channels to the same instance in another way, until those of this one stand.
    before: RefCell<Option<Before>>,
    /// Channels for which hello is said now: nothing gives those up.
    greeting: RefCell<Vec<u16>>,
    /// One of them is dialled again and again behind a port that instances share.
    is_meeting: Cell<bool>,
}

/// Who is to be relieved; told on the instance's board as long as it is not.
struct Before {
    reach: Rc<Reach>,
    board: Arc<InstanceBoard>,
}

impl Before {
    fn new(reach: Rc<Reach>, board: &Arc<InstanceBoard>) -> Before {
        board.begins_to_move();
        Before { reach, board: board.clone() }
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        self.board.has_moved();
    }
}

/// Why another channel is made beside the one that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The instance asked for it: another process takes its place.
    Beside,
    /// Nothing comes any more.
    Silence,
    /// The one that stands is not the best.
    BetterWay,
}

/// How long to wait before that, by the reason.
struct Waits {
    beside: Backoff,
    silence: Backoff,
    better_way: Backoff,
}

impl Waits {
    fn new() -> Waits {
        Waits {
            beside: Backoff::new(limits::BESIDE_FIRST, limits::RECONNECT_LONGEST),
            silence: Backoff::new(limits::SILENCE_FIRST, limits::BETTER_WAY_LONGEST),
            better_way: Backoff::new(limits::BETTER_WAY_FIRST, limits::BETTER_WAY_LONGEST),
        }
    }

    /// One that stood for long by this way was no mistake to go back to.
    fn stood_long(&mut self, way: usize) {
        self.silence.reset();
        if way == 0 {
            self.better_way.reset();
        }
    }
}

/// What became of the ways to an instance none of which led there, or not soon enough.
struct Faults(Vec<(String, AttachFault)>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (way, fault)) in self.0.iter().enumerate() {
            let and = if place > 0 { "; " } else { "" };
            write!(f, "{and}{way}: {fault}")?;
        }
        Ok(())
    }
}

impl Reach {
    /// Begins to keep this shard's channels to an instance; those that `before` keeps leave when these stand.
    pub(super) fn begin(here: &Rc<Here>, instance: &Arc<Instance>, before: Option<Rc<Reach>>) -> Rc<Reach> {
        let (ways, dialling) = (&instance.plan.ways, &instance.dialling);
        let (kept, stood, is_over, watched) = Default::default();
        // One that never came about is no help: who was there before it is.
        let before = before.and_then(|before| match before.has_stood() {
            true => Some(before),
            false => {
                let earlier = before.before.take().map(|earlier| earlier.reach.clone());
                before.end();
                earlier
            }
        });
        let before = before.map(|before| Before::new(before, &instance.board));
        let reach = Rc::new(Reach {
            here: here.clone(),
            instance: instance.clone(),
            names: ways.iter().map(|way| Name::new(&way.host, way.port)).collect(),
            proxy: dialling.proxy.as_ref().map(|proxy| Name::new(&proxy.host, proxy.port)),
            count: Cell::new(here.shards.min(dialling.channels)),
            kept,
            stood,
            is_over,
            watched,
            before: RefCell::new(before),
            greeting: RefCell::default(),
            is_meeting: Cell::new(false),
        });
        reach.keep_all();
        // Another shard's have to do.
        reach.relieve();
        reach
    }

    /// Has its channels leave, and those of whoever kept them before.
    pub(super) fn end(&self) {
        self.is_over.set(true);
        self.watched.take().iter().filter_map(Weak::upgrade).for_each(|news| news.change());
        if let Some(before) = self.before.take() {
            before.reach.end();
        }
    }

    pub(super) fn plan(&self) -> &InstancePlan {
        &self.instance.plan
    }

    /// Tells of what `news` is about also that this is over.
    pub(super) fn watch(&self, news: &Rc<News>) {
        let mut watched = self.watched.borrow_mut();
        watched.retain(|held| held.strong_count() > 0);
        watched.push(Rc::downgrade(news));
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    fn wants(&self, index: u16) -> bool {
        !self.here.draining.get() && !self.is_over() && index < self.count.get()
    }

    /// Channels that this shard is to keep.
    fn own(&self) -> impl Iterator<Item = u16> + use<> {
        let all = self.here.shard.index..usize::from(self.count.get());
        let own = all.step_by(usize::from(self.here.shards));
        own.map(|index| u16::try_from(index).expect("below a count that is a u16"))
    }

    /// Keeps every channel of this shard that is not kept yet.
    fn keep_all(self: &Rc<Self>) {
        for index in self.own() {
            let mut kept = self.kept.borrow_mut();
            if !kept.contains(&index) {
                kept.push(index);
                self.here.shard.spawn("channel", self.clone().keep(index));
            }
        }
    }

    /// The instance has so many shards.
    fn learn(self: &Rc<Self>, gateway_shards: u16) {
        let bounded = gateway_shards.min(limits::SHARD_COUNT_MAX);
        self.count.set(bounded.max(self.here.shards).min(self.instance.dialling.channels));
        self.instance.board.wants(self.count.get());
        self.keep_all();
    }

    fn has_stood(&self) -> bool {
        !self.stood.borrow().is_empty()
    }

    fn note_stood(&self, index: u16) {
        let mut stood = self.stood.borrow_mut();
        if !stood.contains(&index) {
            stood.push(index);
        }
    }

    /// Ends whoever kept channels before, if all of these have stood.
    fn relieve(&self) {
        let stood = self.stood.borrow();
        if self.own().all(|index| stood.contains(&index))
            && let Some(before) = self.before.take()
        {
            before.reach.end();
        }
    }

    /// One channel, again and again; ends only when the instance has no place for it any more.
    async fn keep(self: Rc<Self>, index: u16) {
        let mut backoff = Backoff::new(limits::RECONNECT_FIRST, limits::RECONNECT_LONGEST);
        let mut waits = Waits::new();
        let mut told = String::new();
        while self.wants(index) {
            let began = self.here.shard.now();
            // A mistake of ours in one channel's life must not keep it from having another.
            let outcome = AssertUnwindSafe(self.hold(index, &mut waits)).catch_unwind().await;
            let text = match outcome {
                Ok(Ok(cause)) => cause,
                Ok(Err(faults)) => faults.to_string(),
                Err(_) => {
                    self.here.shard.panics.set(self.here.shard.panics.get() + 1);
                    "a task panicked; this is a bug of cmg".to_owned()
                }
            };
            if !self.wants(index) {
                break;
            }
            self.tell(index, &text, &mut told);
            if self.here.shard.now().saturating_duration_since(began) >= limits::CHANNEL_SOUND_AFTER {
                backoff.reset();
                told.clear();
            }
            self.here.shard.sleep(backoff.next()).await;
        }
        self.kept.borrow_mut().retain(|kept| *kept != index);
    }

    /// Says what is wrong once, not at each attempt.
    fn tell(&self, index: u16, text: &str, told: &mut String) {
        let instance = &self.plan().dialled;
        self.instance.board.is_in_trouble(text);
        if text != told {
            tracing::warn!(instance, index, "no channel: {text}");
            text.clone_into(told);
        }
    }

    /// One channel from its dialling to its end. While it stands by a lesser way the better ones are tried again, and
    /// all of them when nothing comes any more; then another takes its place before it leaves. One that comes to another
    /// process of the instance stands beside it: it stays until that ends, and serves should the new one be lost.
    async fn hold(self: &Rc<Self>, index: u16, waits: &mut Waits) -> Result<String, Faults> {
        let mut standing = self.make(index, self.plan().ways.len()).await?;
        let mut succeeded: Vec<Standing> = Vec::new();
        let mut wants_beside = false;
        loop {
            if self.is_over() {
                std::iter::once(standing).chain(succeeded).for_each(|one| one.leave_for_good(&self.here));
                return Ok("it is not wanted any more".to_owned());
            }
            if standing.takes_wish() {
                wants_beside = true;
                waits.beside.reset();
            }
            let (why, wait) = if wants_beside {
                (Why::Beside, Some(waits.beside.next()))
            } else if standing.is_silent() {
                (Why::Silence, Some(waits.silence.next()))
            } else {
                (Why::BetterWay, (standing.way > 0).then(|| waits.better_way.next()))
            };
            let next = standing.next(&self.here, wait).await;
            if standing.age(self.here.shard.now()) >= limits::BETTER_WAY_LONGEST {
                waits.stood_long(standing.way);
            }
            succeeded.retain(|before| !before.has_ended());
            match next {
                Next::Ended(cause) => match succeeded.pop() {
                    // The instance's other process may be there still.
                    Some(before) => {
                        standing = before;
                        wants_beside = true;
                        waits.beside.reset();
                        continue;
                    }
                    None => return Ok(cause),
                },
                Next::Changed => continue,
                Next::Waited => {}
            }
            let has_room = match why {
                Why::Beside => succeeded.len() < limits::SUCCEEDED_COUNT_MAX,
                Why::Silence | Why::BetterWay => self.here.leaving.get() < limits::LEAVING_COUNT_MAX,
            };
            if !has_room || !self.wants(index) {
                continue;
            }
            let made = match why {
                Why::Beside | Why::Silence => Some(self.make(index, self.plan().ways.len()).await),
                // Nothing that happens to this one waits for what is only better.
                Why::BetterWay => {
                    let made = async { Some(self.make(index, standing.way).await) };
                    let news = std::future::poll_fn(|context| match standing.poll_news(context) {
                        Poll::Ready(()) if !self.greeting.borrow().contains(&index) => Poll::Ready(None),
                        _ => Poll::Pending,
                    });
                    news.or(made).await
                }
            };
            match made {
                None => {}
                Some(Ok(made)) => {
                    wants_beside = false;
                    let before = std::mem::replace(&mut standing, made);
                    if before.process == standing.process {
                        self.tell_moved(index, why, &before, &standing);
                        before.leave(&self.here);
                    } else {
                        succeeded.push(before);
                    }
                }
                Some(Err(faults)) => self.tell_vain(index, why, &faults),
            }
        }
    }

    /// While no other can be made, the one that stands stays as long as it can.
    fn tell_vain(&self, index: u16, why: Why, faults: &Faults) {
        let instance = &self.plan().dialled;
        match why {
            Why::Beside => {
                tracing::warn!(instance, index, "no channel to the instance's next process yet: {faults}");
            }
            Why::Silence => {
                tracing::warn!(instance, index, "nothing comes any more, and no other way: {faults}")
            }
            Why::BetterWay => {}
        }
    }

    fn tell_moved(&self, index: u16, why: Why, before: &Standing, now: &Standing) {
        let (instance, ways) = (&self.plan().dialled, &self.plan().ways);
        let (transport, way) = (ways[now.way].transport, &ways[now.way].dialled);
        if why == Why::Beside {
            tracing::info!(instance, index, %transport, way, "the instance's process is the same still");
            return;
        }
        match now.way.cmp(&before.way) {
            std::cmp::Ordering::Less => {
                tracing::info!(instance, index, %transport, way, "back by a better way");
            }
            std::cmp::Ordering::Equal => {
                tracing::warn!(instance, index, %transport, way, "nothing came any more; another channel stands");
            }
            std::cmp::Ordering::Greater => {
                tracing::warn!(instance, index, %transport, way, "nothing came any more; by a lesser way now");
            }
        }
    }

    /// A channel by the first of the best `count` ways that leads to the instance.
    async fn make(self: &Rc<Self>, index: u16, count: usize) -> Result<Standing, Faults> {
        let reached = Attempts::new(self, index, count).carry_out().await?;
        let Reached { way, reply, before, .. } = &reached;
        let (way, shards) = (*way, reply.shards);
        let instance = &self.plan().dialled;
        let WayPlan { transport, dialled, .. } = &self.plan().ways[way];
        tracing::info!(
            instance,
            name = reply.instance,
            index,
            shard = reply.shard,
            %transport,
            way = dialled,
            "channel up"
        );
        if !before.0.is_empty() {
            tracing::warn!(instance, index, %transport, way = dialled, "no better way: {before}");
        }
        let standing = Standing::begin(self, reached, index);
        self.learn(shards);
        self.note_stood(index);
        self.relieve();
        Ok(standing)
    }

    // ── dialling and greeting ───────────────────────────────────────────────────────────────────

    /// One way, to where a hello may be said.
    async fn reach(&self, way: usize) -> Result<Wire, AttachFault> {
        let (here, ways) = (&self.here, &self.plan().ways);
        let at = (&self.names[way], self.proxy.as_ref());
        let dialled = dial(here, &self.instance, &ways[way], at, &self.is_meeting);
        within(&here.shard, limits::HELLO_WITHIN, dialled).await.ok_or(AttachFault::Late)?
    }

    /// Says hello by the one way that was reached first. By another that is dropped then, the instance would take the
    /// channel, and send requests over it.
    async fn attach(&self, index: u16, wire: Wire) -> Result<(Wire, HelloReply), AttachFault> {
        self.greeting.borrow_mut().push(index);
        let attached = within(&self.here.shard, limits::HELLO_WITHIN, self.greet(index, wire)).await;
        self.greeting.borrow_mut().retain(|greeted| *greeted != index);
        attached.ok_or(AttachFault::Late)?
    }

    async fn greet(&self, index: u16, mut wire: Wire) -> Result<(Wire, HelloReply), AttachFault> {
        let instance = instance_name(&wire)?;
        let mut hello = Vec::new();
        self.hello(index, instance.clone()).encode(&mut hello);
        wire.write(&hello)?;
        wire.flush().await?;
        let reply = hear_reply(&mut wire).await?;
        match reply.refusal {
            Some(refusal) => Err(AttachFault::Refused(refusal, reply.text)),
            None if reply.version != VERSION => Err(AttachFault::Refused(HelloRefusal::Version, reply.text)),
            None if reply.instance != instance => Err(AttachFault::OtherName(instance, reply.instance)),
            None => Ok((wire, reply)),
        }
    }

    fn hello(&self, index: u16, instance: String) -> Hello {
        let works = self.here.works();
        let plan = &works.plan;
        Hello {
            version: VERSION,
            connection_id: self.here.next_connection_id(),
            connection_point: plan.settings.identity.clone(),
            site: plan.site.clone(),
            index,
            // One more than there are to be, for a while, when the instance has fewer shards than before.
            count: self.count.get().max(index + 1),
            connector_shards: plan.shards,
            instance,
        }
    }
}

async fn hear_reply(wire: &mut Wire) -> Result<HelloReply, AttachFault> {
    loop {
        if let Some((heard, size)) = frame::take(wire.received())? {
            if heard.kind != frame::FrameKind::HelloReply {
                return Err(ChannelError::Unexpected(heard.kind).into());
            }
            let reply = HelloReply::parse(heard.payload)?;
            wire.consume(size);
            return Ok(reply);
        }
        hear_more(wire).await?;
    }
}

// ── several ways ────────────────────────────────────────────────────────────────────────────────

type Outcome = Result<Wire, AttachFault>;
type Attempt<'r> = Pin<Box<dyn Future<Output = Outcome> + 'r>>;

/// A way that led to the instance.
pub(super) struct Reached {
    /// Which.
    pub(super) way: usize,
    /// Greeted.
    pub(super) wire: Wire,
    /// How the instance answered.
    pub(super) reply: HelloReply,
    /// What became of those before it.
    before: Faults,
}

/// Attempts by several ways, some of them beside each other: the first that leads there ends them all.
struct Attempts<'r> {
    reach: &'r Reach,
    index: u16,
    ways: Ways,
    under_way: Vec<(usize, Attempt<'r>)>,
    faults: Vec<(usize, AttachFault)>,
}

impl<'r> Attempts<'r> {
    fn new(reach: &'r Reach, index: u16, count: usize) -> Attempts<'r> {
        let (under_way, faults) = (Vec::new(), Vec::new());
        Attempts { reach, index, ways: Ways::new(count), under_way, faults }
    }

    async fn carry_out(mut self) -> Result<Reached, Faults> {
        while let Some((way, wire)) = self.first().await {
            match self.reach.attach(self.index, wire).await {
                Ok((wire, reply)) => return Ok(Reached { way, wire, reply, before: self.told(way) }),
                Err(fault) => {
                    self.ways.handle_failed(way);
                    self.faults.push((way, fault));
                }
            }
        }
        Err(self.told(usize::MAX))
    }

    /// The first of the ways that are left which leads there; `None`: none does.
    async fn first(&mut self) -> Option<(usize, Wire)> {
        let reach = self.reach;
        let (shard, deadline) = (&reach.here.shard, reach.here.shard.deadline());
        std::future::poll_fn(|context| {
            let now = shard.now();
            if let Some(reached) = self.poll_ways(now, context) {
                return Poll::Ready(Some(reached));
            }
            if self.ways.is_hopeless() {
                return Poll::Ready(None);
            }
            if let Some(due) = self.ways.poll_timeout() {
                deadline.set(now, due.saturating_duration_since(now));
                if deadline.poll(context) {
                    context.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Begins what is due and goes on with what was begun, until each of them waits.
    fn poll_ways(&mut self, now: Instant, context: &mut Context<'_>) -> Option<(usize, Wire)> {
        loop {
            while let Some(way) = self.ways.poll_begin(now) {
                let reach = self.reach;
                self.under_way.push((way, Box::pin(reach.reach(way))));
            }
            let mut has_failed = false;
            let mut at = 0;
            while let Some((way, attempt)) = self.under_way.get_mut(at) {
                let way = *way;
                match attempt.as_mut().poll(context) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(wire)) => {
                        drop(self.under_way.remove(at));
                        return Some((way, wire));
                    }
                    Poll::Ready(Err(fault)) => {
                        drop(self.under_way.remove(at));
                        self.ways.handle_failed(way);
                        self.faults.push((way, fault));
                        has_failed = true;
                    }
                }
            }
            if !has_failed {
                return None;
            }
        }
    }

    /// What became of the ways before this one, in their order.
    fn told(mut self, before: usize) -> Faults {
        let behind = self.under_way.drain(..).map(|(way, _)| (way, AttachFault::Slow));
        self.faults.extend(behind);
        self.faults.sort_by_key(|(way, _)| *way);
        let ways = &self.reach.plan().ways;
        let faults = self.faults.into_iter().filter(|(way, _)| *way < before);
        let name = |way: usize| format!("{} {}", ways[way].transport, ways[way].dialled);
        Faults(faults.map(|(way, fault)| (name(way), fault)).collect())
    }
}
