//! The connection point: dials every gateway instance and answers what comes over its channels from
//! the origins inside.
//!
//! `instance.rs` keeps the channels, `dial.rs` makes their connections, `standing.rs` is one that is up;
//! `exchange.rs` tells the story of one request, `origin.rs` holds the connections to origins, `group.rs` knows which
//! of several takes a request. Shards share nothing; each holds its own channels and connections.

mod backoff;
mod board;
mod dial;
mod exchange;
mod group;
pub mod head;
mod instance;
mod internal;
mod lists;
mod names;
mod origin;
mod plan;
mod probe;
mod record;
mod relay;
mod reload;
mod servants;
mod sources;
mod standing;
mod succession;
mod tokens;
mod wait;
mod works;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::channel::CloseCode;
use crate::dispatch::{OriginState, Parting, Upload};
use crate::limits;
use crate::logs::access::AccessLog;
use crate::metrics::{self, EndpointCounts, Ledger};
use crate::renewal::{Keeper, KeptList};
use crate::review::ConnectorStart;
use crate::shard::{self, Mesh, Place, Port, Shard, Slots};
use crate::token_watch::{Known, State, Watch};
use crate::transport::{Link, StartError};
use crate::upgrade::{Resolve, Standing, Taking, systemd};
use board::{Board, Channel, Counts};
use instance::Reach;
use lists::Offering;
use plan::{OriginPlan, Plan};
use record::Records;
use reload::{Next, Reloader};
use servants::Servants;
use succession::Succession;
use works::Works;

/// Runs a connection point until it has drained: SIGTERM or SIGINT asks for that, a second one returns
/// at once. One that takes another's place is asked how it is when that is done.
///
/// # Errors
/// What keeps it from starting, or a shard that broke.
pub fn run(start: ConnectorStart, taking: Option<Taking>) -> Result<(), StartError> {
    let open_files =
        shard::raise_open_files().map_err(|error| start_error("the limit of open files", &error))?;
    let ConnectorStart { document, folder, works, outside } = start;
    let (shards, log) = (plan::shards(&works.settings), works.settings.log.clone());
    let ledger = Ledger::new(usize::from(shards), limits::SERIES_COUNT_MAX);
    let place = internal::place(&folder, &works.settings, &works.internal)?;
    let keeper = Keeper::new(&works.internal, place);
    if works.settings.issuer.is_some() {
        KeptList::new(internal::list_file(&folder, &works.settings)).load(keeper.internal());
    }
    keeper.take_file(works.list.as_ref());
    let plan = Arc::new(Plan::new(works, &ledger, shards)?);
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| start_error("signals", &error))?;
    let board = Arc::new(Board::new(&plan, ledger, &keeper, &folder));
    metrics::watch(Arc::downgrade(&board), Board::look).map_err(|error| start_error("a thread", &error))?;
    let upgrade_socket = outside.post.path().to_owned();
    let (tell, news) = mpsc::channel();
    let succession = Succession::new(&board, &outside, tell.clone())?;
    let (standing, follows) = match taking {
        None => (Some(succession.stand(outside)?), None),
        Some(taking) => (None, Some((taking, outside, succession))),
    };
    let mesh = Mesh::new(usize::from(plan.shards));
    let access_log = AccessLog::open(&log, &folder, "CMG_CONNECTOR", mesh.shards())
        .map_err(|error| StartError(error.to_string()))?;
    if let Some(log) = &access_log {
        board.logs_to(log.clone());
    }
    reload::watch_lists(&plan, &mesh)?;
    let known = Known::default();
    let (watch, tokens) = Watch::new(&plan.tokens, &known);
    let slots = shard::slots_for(open_files);
    let ended = start_shards(&plan, &board, &mesh, slots, access_log.as_ref(), &tokens)?;
    let of_tokens = Arc::default();
    let told = tokens::Shards { mesh: Arc::downgrade(&mesh), settings: Arc::downgrade(&of_tokens) };
    watch.start(told).map_err(|error| start_error("a thread", &error))?;
    keeper.start(None).map_err(|error| start_error("a thread for the internal certificate", &error))?;
    let (board, mesh_of, tokens) = (board.clone(), mesh.clone(), of_tokens);
    let config = document.path.clone();
    let process = crate::reload::Process { role: "connector", config, upgrade_socket };
    let reloads = board.reloads.clone();
    let reloader = Reloader { document, plan, board, mesh: mesh_of, known, tokens, files: Vec::new() };
    let reload = crate::reload::watch(reloader, process, &reloads);
    let reload = reload.map_err(|error| start_error("a thread", &error))?;

    let tells = tell.clone();
    spawn("ends", move || {
        let _ = tells.send(News::Ended(wait_for_shards(&ended)));
    })?;
    let resolve = follows.as_ref().map(|(taking, ..)| taking.resolve());
    match follows {
        None => systemd::notify("READY=1"),
        Some((taking, outside, succession)) => {
            let tell = tell.clone();
            spawn("takes over", move || {
                let _ = tell.send(News::TookOver(succession.follow(taking, outside).map(Box::new)));
            })?;
        }
    }
    let listening = signals.handle();
    spawn("signals", move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                tracing::info!("SIGHUP: looking at the settings and what they name");
                if reload.send(()).is_err() {
                    tracing::error!("nobody looks at the settings any more: restart the connector");
                }
            } else if tell.send(News::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    let outcome = supervise(&mesh, &news, standing, resolve.as_ref());
    listening.close();
    if let Some(log) = access_log {
        log.close();
    }
    outcome
}

/// What the starting thread waits for.
enum News {
    /// The shards ended.
    Ended(Result<(), StartError>),
    /// The process was told to stop.
    Signal(i32),
    /// It took another's place, or could not.
    TookOver(Result<Box<Standing>, StartError>),
    /// Another took its place.
    Succeeded,
}

/// Waits for signals, for the shards' end, and for other processes whose place is taken or that take this one's.
/// `standing` is gone at the end, with the files of the sockets.
fn supervise(
    mesh: &Mesh<Control>,
    news: &mpsc::Receiver<News>,
    mut standing: Option<Standing>,
    resolve: Option<&Resolve>,
) -> Result<(), StartError> {
    let (mut is_draining, mut is_signalled) = (false, false);
    loop {
        match news.recv() {
            Ok(News::Ended(outcome)) => return outcome,
            Ok(News::TookOver(Err(error))) => return Err(error),
            Ok(News::TookOver(Ok(stands))) => {
                standing.replace(*stands);
                continue;
            }
            Ok(News::Signal(signal)) if std::mem::replace(&mut is_signalled, true) => {
                tracing::warn!(signal, "stopping at once");
                return Ok(());
            }
            // The other one goes on.
            Ok(News::Signal(_)) if resolve.is_some_and(Resolve::give_up) => return Ok(()),
            // Another took its place, and nobody is in a hurry yet.
            Ok(News::Signal(_)) if is_draining => continue,
            Ok(News::Signal(signal)) => {
                systemd::notify("STOPPING=1");
                tracing::info!(signal, "draining");
            }
            Ok(News::Succeeded) if is_draining => continue,
            Ok(News::Succeeded) => tracing::info!("another process has taken this one's place; draining"),
            Err(mpsc::RecvError) => return Err(StartError("nobody is left to wait for".into())),
        }
        is_draining = true;
        for to in 0..mesh.shards() {
            // An inbox that is full has been asked already.
            let _ = mesh.send(to, Control::Drain);
        }
    }
}

/// A machine that has no thread left is no bug of ours.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| start_error("a thread", &error))
}

fn start_error(what: &str, error: &io::Error) -> StartError {
    StartError(format!("{what}: {error}"))
}

/// What the shards are told from outside.
enum Control {
    /// Take nothing new, finish what lives, end.
    Drain,
    /// A list has changed.
    Lists,
    /// Judge tokens by this, and tell gateways.
    Tokens(Arc<State>),
    /// Another shard has found an origin to be so.
    Origin { origin: Arc<OriginPlan>, state: OriginState },
    /// Another shard knows which origin of its group has an upload.
    Upload { origin: Arc<OriginPlan>, upload: Upload },
    /// Work by other settings.
    Plan(Arc<Next>),
    /// Every shard does: tell gateways.
    Publish(Arc<Next>),
}

type Ended = mpsc::Receiver<(usize, Result<(), String>)>;

fn start_shards(
    plan: &Arc<Plan>,
    board: &Arc<Board>,
    mesh: &Arc<Mesh<Control>>,
    slots: u32,
    access_log: Option<&Arc<AccessLog>>,
    tokens: &Arc<State>,
) -> Result<Ended, StartError> {
    let cpus = shard::allowed_cpus();
    let (tell, ended) = mpsc::channel();
    for index in 0..usize::from(plan.shards) {
        let place = Place { index, cpu: cpus[index % cpus.len()], slots, owner: Slots::ByRing };
        let (plan, board, mesh) = (plan.clone(), board.clone(), mesh.clone());
        let judge = tokens.clone();
        let access = access_log.cloned();
        let records = move || Records::new(access.map(|log| log.queue(index)));
        let running = shard::start(place, move |shard| serve(&shard, &plan, &board, mesh, records(), judge))
            .map_err(|error| start_error("a shard's thread", &error))?;
        let tell = tell.clone();
        let waiting = thread::Builder::new().name("ends".to_owned()).spawn(move || {
            let outcome = match running.join() {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(_) => Err("it panicked; this is a bug of cmg".to_owned()),
            };
            // Nobody listens any more when another shard broke first.
            let _ = tell.send((index, outcome));
        });
        waiting.map_err(|error| start_error("a thread", &error))?;
    }
    Ok(ended)
}

/// Until all ended well, or one did not.
fn wait_for_shards(ended: &Ended) -> Result<(), StartError> {
    for (index, outcome) in ended {
        outcome.map_err(|error| StartError(format!("shard {index}: {error}")))?;
    }
    Ok(())
}

/// What a shard's tasks have in common.
pub(crate) struct Here {
    /// Before the shard, whose ring it wakes.
    port: Port<Control>,
    shard: Rc<Shard>,
    /// Of this process.
    shards: u16,
    /// For what begins now.
    works: RefCell<Rc<Works>>,
    board: Arc<Board>,
    counts: Arc<Counts>,
    tokens: tokens::Judge,
    records: Records,
    links: RefCell<Vec<Rc<Link>>>,
    /// To gateways, of renewals that were carried.
    answers: internal::Answers,
    /// Of lists, one to each instance whose first channel is up here.
    offerings: RefCell<Vec<Rc<Offering>>>,
    channels: metrics::Channels<Channel>,
    /// Those that another has taken the place of.
    leaving: Cell<usize>,
    /// Who keep channels, one to each instance.
    reaches: RefCell<Vec<Rc<Reach>>>,
    /// Hellos said.
    hellos: Cell<u32>,
    exchanges: Cell<usize>,
    servants: Servants,
    draining: Cell<bool>,
    /// It leaves: held requests have their end.
    parting: Cell<Option<Parting>>,
    waker: RefCell<Option<Waker>>,
}

/// Starts a shard: what its driver does each turn, and its life.
fn serve(
    shard: &Rc<Shard>,
    plan: &Arc<Plan>,
    board: &Arc<Board>,
    mesh: Arc<Mesh<Control>>,
    records: Records,
    tokens: Arc<State>,
) -> (impl FnMut() -> usize + use<>, impl Future<Output = ()> + use<>) {
    let port = Port::new(mesh, shard.index, shard.ring.wake_fd());
    let here = Here::new(shard, plan, board, records, tokens, port);
    let heard = here.clone();
    let turn = move || {
        if heard.channels.is_stale(heard.shard.now()) {
            heard.show();
        }
        let told = std::iter::from_fn(|| heard.port.receive()).map(|control| heard.hear(&control)).count();
        // What found an inbox full is sent on in the next turn.
        told + usize::from(!heard.port.flush())
    };
    (turn, here.live())
}

impl Here {
    fn new(
        shard: &Rc<Shard>,
        plan: &Arc<Plan>,
        board: &Arc<Board>,
        records: Records,
        tokens: Arc<State>,
        port: Port<Control>,
    ) -> Rc<Here> {
        let works = Works::new(shard, plan, &board.sources);
        Rc::new(Here {
            port,
            shard: shard.clone(),
            shards: plan.shards,
            works: RefCell::new(Rc::new(works)),
            board: board.clone(),
            counts: board.counts(shard.index),
            tokens: tokens::Judge::new(tokens),
            records,
            links: RefCell::default(),
            answers: internal::Answers::default(),
            offerings: RefCell::default(),
            channels: metrics::Channels::new(shard.now()),
            leaving: Cell::new(0),
            reaches: RefCell::default(),
            hellos: Cell::new(0),
            exchanges: Cell::new(0),
            servants: Servants::default(),
            draining: Cell::new(false),
            parting: Cell::new(None),
            waker: RefCell::default(),
        })
    }

    /// What begins now works by this, until its end.
    fn works(&self) -> Rc<Works> {
        self.works.borrow().clone()
    }

    fn hear(self: &Rc<Self>, control: &Control) {
        match control {
            Control::Drain => {
                self.draining.set(true);
                self.board.is_draining();
            }
            Control::Lists => {
                let offerings = self.offerings.borrow().clone();
                return offerings.iter().for_each(|offering| offering.offer_again());
            }
            Control::Tokens(state) => {
                if self.tokens.take(state) {
                    self.publish_tokens(state);
                }
                return;
            }
            Control::Origin { origin, state } => return self.hear_origin_elsewhere(origin, *state),
            Control::Upload { origin, upload } => return self.hear_upload_elsewhere(origin, *upload),
            Control::Plan(next) => return self.work_by(next),
            Control::Publish(next) => return self.publish(next),
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn publish_tokens(&self, state: &State) {
        self.links.borrow().iter().for_each(|link| link.publish_tokens(state.revision, &state.bytes));
    }

    /// Other settings are in force; what has begun ends as it began.
    fn work_by(self: &Rc<Self>, next: &Next) {
        let Next { plan, tokens, taken, .. } = next;
        let before = self.works();
        let works = Rc::new(before.next(&self.shard, plan, &self.board.sources));
        *self.works.borrow_mut() = works.clone();
        if self.shard.index == 0 && !self.draining.get() {
            probe::begin(self, &works, Some(&before));
        }
        if let Some(state) = tokens {
            self.tokens.take(state);
        }
        self.offerings.borrow().iter().for_each(|offering| offering.take(&plan.lists));
        if !self.draining.get() {
            self.reach(plan);
        }
        taken.fetch_add(1, Ordering::Release);
    }

    /// Keeps channels to these instances, and to no other.
    fn reach(self: &Rc<Self>, plan: &Plan) {
        let mut held = self.reaches.take();
        let reaches = plan.instances.iter().map(|instance| {
            let take = |held: &mut Vec<Rc<Reach>>, fits: &dyn Fn(&Reach) -> bool| {
                let place = held.iter().position(|reach| fits(reach));
                place.map(|place| held.swap_remove(place))
            };
            take(&mut held, &|reach| Arc::ptr_eq(&reach.instance, instance)).unwrap_or_else(|| {
                let before = take(&mut held, &|reach| Arc::ptr_eq(&reach.instance.board, &instance.board));
                Reach::begin(self, instance, before)
            })
        });
        let reaches = reaches.collect();
        held.iter().for_each(|reach| reach.end());
        *self.reaches.borrow_mut() = reaches;
    }

    /// Tells gateways what they have not heard of other settings.
    fn publish(&self, next: &Next) {
        let Next { plan, tokens, is_other_revision, .. } = next;
        let offerings = self.offerings.borrow().clone();
        for offering in offerings {
            if *is_other_revision {
                offering.link().publish(plan.tag(), &plan.published);
            } else {
                offering.offer_again();
            }
        }
        if tokens.is_some() && !plan.tokens.is_empty() {
            self.publish_tokens(&self.tokens.state());
        }
    }

    /// None that was said before: a channel is made while the one before it still stands, and by two ways at once.
    fn next_connection_id(&self) -> [u8; 16] {
        let number = self.hellos.get();
        self.hellos.set(number.wrapping_add(1));
        let mut id = self.works.borrow().plan.connection_id;
        id[12..].copy_from_slice(&number.to_be_bytes());
        id
    }

    async fn live(self: Rc<Self>) {
        let works = self.works();
        self.reach(&works.plan);
        internal::look_after(&self);
        if self.shard.index == 0 {
            probe::begin(&self, &works, None);
        }
        drop(works);
        std::future::poll_fn(|context| {
            if self.draining.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.drain().await;
    }

    async fn drain(&self) {
        let grace = self.works().plan.limits.drain;
        self.parting.set(Some(Parting::new(self.shard.now(), grace, 0)));
        self.shard.wake_everybody();
        self.each_link(Link::leave);
        self.until(limits::LEAVE_WITHIN, || self.links.borrow().iter().all(|link| link.has_peer_drained()))
            .await;
        // Who has not answered is told that nothing more is taken.
        self.each_link(Link::drain);
        let is_idle = || self.links.borrow().iter().all(|link| link.stream_count() == 0);
        self.until(grace, || self.exchanges.get() == 0 && is_idle()).await;
        self.each_link(|link| link.close(CloseCode::Done, ""));
        self.until(GOODBYE_WITHIN, || self.links.borrow().is_empty()).await;
    }

    fn each_link(&self, what: impl Fn(&Link)) {
        let links: Vec<_> = self.links.borrow().clone();
        links.iter().for_each(|link| what(link));
    }

    async fn until(&self, wait: Duration, is_done: impl Fn() -> bool) {
        let end = self.shard.now() + wait;
        while !is_done() && self.shard.now() < end {
            self.shard.sleep(LOOK_EVERY).await;
        }
    }

    /// Leaves what there is where operators see it.
    fn show(&self) {
        let index = self.shard.index;
        self.channels.show(&self.board.channels[index], self.shard.now());
        self.works.borrow().servers.origins.iter().for_each(|origin| origin.show());
        self.counts.panicked(self.shard.panics.get());
        self.counts.holds(self.shard.ring.slots());
    }

    /// Where this shard counts the requests to an endpoint, or to none.
    fn at_endpoint<'w>(&'w self, works: &'w Works, offer: Option<usize>) -> &'w EndpointCounts {
        let series = offer.and_then(|offer| works.plan.series.get(offer));
        series.map_or(self.board.unpublished(), |series| series).of(self.shard.index)
    }

    /// A request is under way at its endpoint as long as what this gives.
    fn begin_at_endpoint<'w>(&'w self, works: &'w Works, offer: usize) -> Active<'w> {
        let counts = self.at_endpoint(works, Some(offer));
        counts.active.rise();
        Active(counts)
    }

    /// An exchange lives as long as what this gives.
    fn begin_exchange(self: &Rc<Self>) -> Counted {
        self.exchanges.set(self.exchanges.get() + 1);
        self.counts.began();
        Counted(self.clone())
    }
}

/// See [`Here::begin_exchange`].
struct Counted(Rc<Here>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.exchanges.set(self.0.exchanges.get() - 1);
    }
}

/// See [`Here::begin_at_endpoint`].
struct Active<'h>(&'h EndpointCounts);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fall();
    }
}

/// While draining: how often to look whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For the last words on each channel.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
