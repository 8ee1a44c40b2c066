//! The connection point: dials every gateway instance and answers what comes over its channels from
//! the origins inside.
//!
//! `instance.rs` keeps the channels, `exchange.rs` tells the story of one request, `origin.rs` holds
//! the connections to origins. Shards share nothing; each holds its own channels and connections.

mod board;
mod exchange;
pub mod head;
mod instance;
mod lists;
mod names;
mod origin;
mod plan;
mod record;
mod relay;
mod servants;
mod sources;
mod tokens;
mod wait;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::channel::CloseCode;
use crate::limits;
use crate::logs::access::AccessLog;
use crate::metrics::{self, EndpointCounts};
use crate::review::ConnectorStart;
use crate::shard::{self, Mesh, Place, Port, Shard, Slots};
use crate::token_watch::{State, Watch};
use crate::transport::{Link, StartError};
use board::{Board, Channel, Counts};
use instance::Reach;
use lists::Offering;
use origin::Origin;
use plan::Plan;
use record::Records;
use servants::Servants;

/// Runs a connection point until it has drained: SIGTERM or SIGINT asks for that, a second one returns
/// at once.
///
/// # Errors
/// What keeps it from starting, or a shard that broke.
pub fn run(start: ConnectorStart) -> Result<(), StartError> {
    let open_files =
        shard::raise_open_files().map_err(|error| start_error("the limit of open files", &error))?;
    let ConnectorStart { settings, folder, doors, ends, site, tls } = start;
    let plan = Arc::new(Plan::new(&settings, site, tls, ends)?);
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| start_error("signals", &error))?;
    let board = Arc::new(Board::new(&plan, &folder));
    metrics::watch(Arc::downgrade(&board), Board::look).map_err(|error| start_error("a thread", &error))?;
    let _serving = doors.serve(board.clone()).map_err(|error| start_error("admin", &error))?;
    let mesh = Mesh::new(usize::from(plan.shards));
    let access_log = AccessLog::open(&settings.log, &folder, "CMG_CONNECTOR", mesh.shards())
        .map_err(|error| StartError(error.to_string()))?;
    if let Some(log) = &access_log {
        board.logs_to(log.clone());
    }
    let told = mesh.clone();
    let heard = move || {
        // A full inbox is emptied in a moment; the list waits until then.
        while told.send(0, Control::Lists).is_err() {
            thread::sleep(LOOK_EVERY);
        }
    };
    plan.lists.watch(heard).map_err(|error| start_error("a thread for lists", &error))?;
    let (watch, tokens) = Watch::new(&plan.tokens);
    let slots = shard::slots_for(open_files);
    let ended = start_shards(&plan, &board, &mesh, slots, access_log.as_ref(), &tokens)?;
    watch.start(tokens::Shards(Arc::downgrade(&mesh))).map_err(|error| start_error("a thread", &error))?;

    let stopping = signals.handle();
    let outcome = thread::Builder::new().name("ends".to_owned()).spawn(move || {
        let outcome = wait_for_shards(&ended);
        stopping.close();
        outcome
    });
    let outcome = outcome.map_err(|error| start_error("a thread", &error))?;
    let mut is_draining = false;
    for signal in signals.forever() {
        if signal == SIGHUP {
            tracing::warn!("SIGHUP: reloading is not built yet; settings stay as they were");
            continue;
        }
        if std::mem::replace(&mut is_draining, true) {
            tracing::warn!(signal, "stopping at once");
            access_log.as_deref().inspect(|log| log.close());
            return Ok(());
        }
        tracing::info!(signal, "draining");
        for to in 0..mesh.shards() {
            // An inbox that is full has been asked already.
            let _ = mesh.send(to, Control::Drain);
        }
    }
    let outcome = outcome.join();
    if let Some(log) = access_log {
        log.close();
    }
    outcome.unwrap_or_else(|_| Err(StartError("a thread panicked; this is a bug of cmg".to_owned())))
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
    shard: Rc<Shard>,
    plan: Arc<Plan>,
    board: Arc<Board>,
    counts: Arc<Counts>,
    /// By the mapping's numbers.
    origins: Vec<Rc<Origin>>,
    tokens: tokens::Judge,
    records: Records,
    links: RefCell<Vec<Rc<Link>>>,
    /// Of lists, one to each instance whose first channel is up here.
    offerings: RefCell<Vec<Rc<Offering>>>,
    channels: metrics::Channels<Channel>,
    exchanges: Cell<usize>,
    servants: Servants,
    draining: Cell<bool>,
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
    let here = Here::new(shard, plan, board, records, tokens);
    let heard = here.clone();
    let turn = move || {
        if heard.channels.is_stale(heard.shard.now()) {
            heard.show();
        }
        std::iter::from_fn(|| port.receive()).map(|control| heard.hear(&control)).count()
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
    ) -> Rc<Here> {
        let origins =
            (0..plan.origins.len()).map(|index| Origin::new(shard, plan, &board.sources, index)).collect();
        Rc::new(Here {
            shard: shard.clone(),
            plan: plan.clone(),
            board: board.clone(),
            counts: board.counts(shard.index),
            origins,
            tokens: tokens::Judge::new(tokens),
            records,
            links: RefCell::default(),
            offerings: RefCell::default(),
            channels: metrics::Channels::new(shard.now()),
            exchanges: Cell::new(0),
            servants: Servants::default(),
            draining: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    fn hear(&self, control: &Control) {
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
                self.tokens.take(state);
                let links = self.links.borrow();
                links.iter().for_each(|link| link.publish_tokens(state.revision, &state.bytes));
            }
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn live(self: Rc<Self>) {
        for instance in 0..self.plan.instances.len() {
            Reach::begin(&self, instance);
        }
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
        self.each_link(Link::leave);
        self.until(limits::LEAVE_WITHIN, || self.links.borrow().iter().all(|link| link.has_peer_drained()))
            .await;
        // Who has not answered is told that nothing more is taken.
        self.each_link(Link::drain);
        let is_idle = || self.links.borrow().iter().all(|link| link.stream_count() == 0);
        self.until(limits::DRAIN_WITHIN, || self.exchanges.get() == 0 && is_idle()).await;
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
        for (origin, counts) in self.origins.iter().zip(&self.board.origins[index]) {
            origin.show(counts);
        }
        self.counts.panicked(self.shard.panics.get());
        self.counts.holds(self.shard.ring.slots());
    }

    /// Where this shard counts the requests to an endpoint, or to none.
    fn at_endpoint(&self, offer: Option<usize>) -> &EndpointCounts {
        self.board.series(offer).of(self.shard.index)
    }

    /// A request is under way at its endpoint as long as what this gives.
    fn begin_at_endpoint(&self, offer: usize) -> Active<'_> {
        let counts = self.at_endpoint(Some(offer));
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
