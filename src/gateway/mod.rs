//! The gateway: stands on the internet, authenticates each client, judges each request, and passes it
//! to a connection point over a channel.
//!
//! `client` tells the story of a client, `relay` that of one exchange, `connection_point` that of a
//! channel; `control` keeps the settings that requests are judged under.

mod acceptor;
mod admission;
mod allowance;
pub mod answer;
mod certificates;
mod client;
mod connection_point;
mod control;
mod gate;
mod handshake;
mod https_door;
mod inbox;
mod internal;
mod lists;
mod local;
mod record;
mod relay;
mod reload;
mod report;
mod request;
mod succession;
mod token;
mod verdict;
mod wait;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::channel::{List, ListTag, Publication, RevisionTag, Transport, Verdict};
use crate::dispatch::Ticket;
use crate::handover::SocketKind;
use crate::limits;
use crate::logs::access::AccessLog;
use crate::metrics::{self, Ledger, Name};
use crate::renewal::{Keeper, Place as Kept};
use crate::review::{Document, GatewayStart};
use crate::shard::{self, Listener, Mesh, Place, Port, Shard, Slots};
use crate::transport::{CrossMessage, Crossing, StartError, Tls};
use crate::upgrade::{Holding, Outside, Resolve, Standing, Taking, systemd};
use acceptor::{Accepting, Acceptor, Accepts, Whom};
use admission::Admission;
use certificates::Shown;
use connection_point::{Arrival, Seat};
use control::Publications;
use gate::{Common, Counters, Gate, Guest, InForce};
use https_door::{Judged, Knock};
use inbox::Inbox;
use local::Local;
use reload::Reloader;
pub use request::Manner;
use succession::{Holdings, Succession};

/// What shards tell each other.
pub enum GatewayMessage {
    /// An exchange that uses another shard's link.
    Cross {
        /// Shard it comes from.
        from: usize,
        /// What about it.
        message: CrossMessage,
    },
    /// A client of `from` wants a stream on a link of this shard.
    Open {
        /// Shard of the client.
        from: usize,
        /// What it asks for.
        guest: Guest,
    },
    /// A link of another shard took a request that waited.
    Took {
        /// Its place.
        ticket: Ticket,
    },
    /// The links of a shard have no room for a site's requests of the receiver, or have some again.
    Room {
        /// Which shard.
        shard: usize,
        /// Number of the site.
        site: usize,
        /// Whether there is room.
        has_room: bool,
    },
    /// A client of `from` left.
    Gone {
        /// Its shard.
        from: usize,
        /// Its number there.
        client: u64,
    },
    /// A shard has more or fewer links of a site.
    Links {
        /// Which shard.
        shard: usize,
        /// Number of the site.
        site: usize,
        /// By how many.
        change: i32,
    },
    /// To the shard of a new channel.
    Arrival(Box<Arrival>),
    /// To shard 0: a channel is gone.
    Left(Seat),
    /// To shard 0: a connection point came in where clients do.
    Knocked(Box<Knock>),
    /// What shard 0 makes of it.
    Judged(Judged),
    /// To shard 0: a connection point published.
    Published {
        /// Shard of its link.
        from: usize,
        /// The link.
        link: u64,
        /// Number of the site.
        site: usize,
        /// Name of the connection point.
        point: std::sync::Arc<str>,
        /// What.
        publication: Publication,
    },
    /// To shard 0: a connection point says which keys it fetched and which tokens are blocked.
    Tokens {
        /// Number of the site.
        site: usize,
        /// Name of the connection point.
        point: std::sync::Arc<str>,
        /// What.
        publication: Publication,
    },
    /// What became of a publication.
    Verdict {
        /// The link it came by.
        link: u64,
        /// Which.
        revision: RevisionTag,
        /// What became of it.
        verdict: Verdict,
        /// Why.
        text: String,
    },
    /// To shard 0: a connection point offers a list.
    ListOffered {
        /// Shard of its link.
        from: usize,
        /// The link.
        link: u64,
        /// Number of the site.
        site: usize,
        /// Which list.
        tag: ListTag,
    },
    /// To shard 0: a list came that was wanted.
    ListCame {
        /// Shard of its link.
        from: usize,
        /// The link.
        link: u64,
        /// Number of the site.
        site: usize,
        /// The list.
        list: List,
    },
    /// To shard 0: a list was read.
    ListRead {
        /// Shard of its link.
        from: usize,
        /// The link.
        link: u64,
        /// Number of the site.
        site: usize,
        /// As it came.
        list: List,
        /// What came of it.
        read: lists::Read,
    },
    /// Whether a list is wanted, or what became of it.
    ListVerdict {
        /// The link it is about.
        link: u64,
        /// Which list.
        tag: ListTag,
        /// Wanted or not.
        verdict: Verdict,
        /// Why.
        text: String,
    },
    /// Judge by these from now on.
    InForce(Arc<InForce>),
    /// Go on with other settings of the gateway's own.
    Local(Arc<Local>),
    /// Accept these from now on.
    Accept(Accepts),
    /// Another process runs that takes the place of this one: connection points are to come to it that come in by
    /// listeners of their own, or all of them.
    MakeWay(Whom),
    /// Take no more clients, let requests end, say goodbye.
    Drain,
}

/// Runs a gateway until it has drained; one that takes another's place accepts when that is done.
///
/// # Errors
/// What keeps it from starting, or ends a shard.
pub fn run(reviewed: GatewayStart, taking: Option<Taking>) -> Result<(), StartError> {
    let open_files = shard::raise_open_files().map_err(|error| StartError(format!("open files: {error}")))?;
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| StartError(format!("signals: {error}")))?;
    let start = Start::prepare(reviewed, open_files)?;
    start.run(signals, taking)
}

/// Everything that can go wrong has gone right: files read, sockets bound.
struct Start {
    common: Arc<Common>,
    listeners: Vec<OwnedFd>,
    channel_listeners: Vec<(OwnedFd, Transport)>,
    publications: Publications,
    outside: Outside,
    cpus: Vec<usize>,
    slots: u32,
}

impl Start {
    fn prepare(reviewed: GatewayStart, open_files: u64) -> Result<Start, StartError> {
        let GatewayStart { works, folder, document, listeners, outside, .. } = reviewed;
        let (internal_listeners, https_listeners) = (reviewed.internal_listeners, reviewed.https_listeners);
        let settings = works.settings.clone();
        let shown = Arc::new(Shown::new(works.server_keys.clone(), works.ends.clone()));
        let kept_list = internal::kept(&settings, &folder);
        kept_list.load(&works.internal);
        let keeper = Keeper::new(&works.internal, Kept::new(&folder, &settings.internal, None));
        keeper.take_file(works.list.as_ref());
        let local = Local::new(works, &shown, None)?;
        let by = |transport| move |fd| (fd, transport);
        let internal_listeners = internal_listeners.into_iter().map(by(Transport::TcpTls));
        let https_listeners = https_listeners.into_iter().map(by(Transport::Https));
        let channel_listeners = internal_listeners.chain(https_listeners).collect();
        let allowed = shard::allowed_cpus();
        let shards = settings.shards.map_or(allowed.len(), usize::from).max(1);
        let cpus = (0..shards).map(|index| allowed[index % allowed.len()]).collect();
        let slots = shard::slots_for(open_files);
        let mut instance_id = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut instance_id)
            .map_err(|_| StartError("the system gives no randomness".into()))?;
        let ledger = Arc::new(Ledger::new(shards, limits::SERIES_COUNT_MAX));
        let unpublished = ledger.find([Name::without_endpoint("none")]).remove(0);
        let publications = Publications::load(&settings, &folder, &ledger);
        let access_log = AccessLog::open(&settings.log, &folder, "CMG_GATEWAY", shards)
            .map_err(|error| StartError(error.to_string()))?;
        let common = Common {
            settings,
            local: ArcSwap::from_pointee(local),
            document: ArcSwap::from_pointee(document),
            reloads: Arc::default(),
            admitted: AtomicU64::new(0),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            channels: (0..shards).map(|_| metrics::Board::default()).collect(),
            ledger,
            unpublished,
            start: metrics::Start::now(),
            folder,
            certificates: shown,
            keeper,
            asking: internal::Asking::default(),
            heard: internal::Heard::default(),
            kept_list,
            draining: AtomicBool::new(false),
            accepting: Accepting::default(),
            written: publications.written.clone(),
            instance_id,
            slots,
            headroom: metrics::Headroom::default(),
            unlisted: Mutex::default(),
            admission: Admission::new(),
            access_log,
        };
        Ok(Start {
            common: Arc::new(common),
            listeners,
            channel_listeners,
            publications,
            outside,
            cpus,
            slots,
        })
    }

    fn run(
        self,
        mut signals: signal_hook::iterator::Signals,
        taking: Option<Taking>,
    ) -> Result<(), StartError> {
        let holdings = Arc::new(Mutex::new(self.holdings()?));
        let Start { common, listeners, channel_listeners, publications, outside, cpus, slots } = self;
        let mesh = Mesh::new(cpus.len());
        let report = report::Gateway::new(common.clone(), &publications.in_force);
        let (tell, news) = mpsc::channel();
        let upgrade_socket = outside.post.path().to_owned();
        let in_force = publications.in_force.clone();
        let accepts = if taking.is_some() { Accepts::CHANNELS } else { Accepts::ALL };
        let mut first = Some((channel_listeners, publications));
        for (index, cpu) in cpus.iter().enumerate() {
            let place = Place { index, cpu: *cpu, slots, owner: Slots::ByAccept };
            let listeners = listeners.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>();
            let role = Role {
                common: common.clone(),
                mesh: mesh.clone(),
                listeners: listeners.map_err(|error| StartError(format!("listener: {error}")))?,
                first: first.take(),
                in_force: in_force.clone(),
                report: report.clone(),
                accepts,
            };
            let thread = shard::start(place, move |shard| role.start(&shard));
            let thread = thread.map_err(|error| StartError(format!("shard {index}: {error}")))?;
            let tell = tell.clone();
            spawn("ends", move || {
                let result = thread.join().unwrap_or_else(|_| Err(std::io::Error::other("it panicked")));
                let result = result.map_err(|error| StartError(format!("shard {index} ended: {error}")));
                let _ = tell.send(News::Ended(result));
            })?;
        }
        // Those of the shards, and those for another process, are all there is: a port is closed when the last is.
        drop(listeners);
        metrics::watch(Arc::downgrade(&report), report::Gateway::look)
            .map_err(|error| StartError(format!("a thread for limits: {error}")))?;
        let succession = Succession::new(&common, &mesh, &report, &holdings, tell.clone());
        let resolve = taking.as_ref().map(Taking::resolve);
        let standing = match taking {
            None => {
                let standing = succession.stand(outside)?;
                systemd::notify("READY=1");
                Some(standing)
            }
            Some(taking) => {
                spawn("takes over", move || succession.take_over(taking, outside))?;
                None
            }
        };
        tracing::info!(
            instance = common.settings.instance,
            shards = cpus.len(),
            clients_max = common.local.load().settings.clients_max,
            listeners = ?common.settings.listeners,
            "gateway started"
        );
        let asks = Box::new(internal::ByChannel(Arc::downgrade(&common)));
        let kept = common.keeper.start(Some(asks));
        kept.map_err(|error| StartError(format!("a thread for the internal certificate: {error}")))?;
        let watched = Arc::downgrade(&common);
        spawn("certificates", move || certificates::watch(&watched))?;
        let document = Document::clone(&common.document.load());
        let process =
            crate::reload::Process { role: "gateway", config: document.path.clone(), upgrade_socket };
        let reloader = Reloader { document, common: common.clone(), mesh: mesh.clone(), files: Vec::new() };
        let reload = crate::reload::watch(reloader, process, &common.reloads);
        let reload = reload.map_err(|error| StartError(format!("a thread for reloading: {error}")))?;
        spawn("signals", move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    tracing::info!("SIGHUP: looking at the settings and what they name");
                    if reload.send(()).is_err() {
                        tracing::error!("nobody looks at the settings any more: restart the gateway");
                    }
                    continue;
                }
                let _ = tell.send(News::Signal);
            }
        })?;
        let outcome = supervise(&mesh, &news, standing, resolve.as_ref(), &holdings);
        if let Some(log) = &common.access_log {
            log.close();
        }
        outcome
    }

    /// Its listening sockets once more, for a process that takes this one's place.
    fn holdings(&self) -> Result<Vec<Holding>, StartError> {
        let settings = &self.common.settings;
        let clients = settings.listeners.iter().zip(&self.listeners);
        let channels = settings.internal_listeners.iter().chain(&settings.https_listeners);
        let channels = channels.zip(self.channel_listeners.iter().map(|(fd, _)| fd));
        let all = clients
            .map(|(address, fd)| (SocketKind::Clients, *address, fd))
            .chain(channels.map(|(address, fd)| (SocketKind::Channels, *address, fd)));
        let mut holdings = Vec::new();
        for (kind, address, fd) in all {
            let fd = fd.try_clone().map_err(listener_error)?;
            holdings.push(Holding { kind: Some(kind), address, fd });
        }
        holdings.extend(self.outside.doors.holdings().map_err(listener_error)?);
        Ok(holdings)
    }
}

fn listener_error(error: std::io::Error) -> StartError {
    StartError(format!("listener: {error}"))
}

/// A machine that has no thread left is no bug of ours.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| StartError(format!("a thread for {name}: {error}")))
}

/// What the starting thread waits for.
enum News {
    /// A shard ended.
    Ended(Result<(), StartError>),
    /// The process was told to stop.
    Signal,
    /// It took another's place, or could not.
    TookOver(Result<Box<Standing>, StartError>),
    /// Another took its place.
    Succeeded,
}

/// Waits for signals, for shards that end, and for other processes whose place is taken or that take this one's.
/// `standing` is gone at the end, with the files of the sockets.
fn supervise(
    mesh: &Mesh<GatewayMessage>,
    news: &mpsc::Receiver<News>,
    mut standing: Option<Standing>,
    resolve: Option<&Resolve>,
    holdings: &Holdings,
) -> Result<(), StartError> {
    let mut running = mesh.shards();
    let (mut stopping, mut is_signalled) = (false, false);
    while running > 0 {
        let is_signal = match news.recv() {
            Ok(News::Ended(Ok(()))) if stopping => {
                running -= 1;
                continue;
            }
            Ok(News::Ended(Ok(()))) => return Err(StartError("a shard ended by itself".into())),
            Ok(News::Ended(Err(error)) | News::TookOver(Err(error))) => return Err(error),
            Ok(News::TookOver(Ok(stands))) => {
                standing.replace(*stands);
                continue;
            }
            Ok(News::Signal) if std::mem::replace(&mut is_signalled, true) => return Ok(()),
            // With another's place not taken yet there is nothing to drain.
            Ok(News::Signal) if resolve.is_some_and(Resolve::give_up) => return Ok(()),
            // Another took its place, and nobody is in a hurry yet.
            Ok(News::Signal) if stopping => continue,
            Ok(News::Signal) => true,
            Ok(News::Succeeded) if stopping => continue,
            Ok(News::Succeeded) => false,
            Err(mpsc::RecvError) => return Err(StartError("nobody is left to wait for".into())),
        };
        stopping = true;
        if is_signal {
            systemd::notify("STOPPING=1");
            tracing::info!("draining; a second signal stops at once");
        } else {
            tracing::info!("another process has taken this one's place; draining");
        }
        // Who comes from now on is refused at once, or comes to the other process.
        holdings.lock().unwrap_or_else(PoisonError::into_inner).clear();
        succession::tell_all(mesh, || GatewayMessage::Drain);
    }
    Ok(())
}

/// What one shard starts with.
struct Role {
    common: Arc<Common>,
    mesh: Arc<Mesh<GatewayMessage>>,
    listeners: Vec<OwnedFd>,
    first: Option<(Vec<(OwnedFd, Transport)>, Publications)>,
    /// What was published before; a shard has it before its first client.
    in_force: Arc<InForce>,
    report: Arc<report::Gateway>,
    /// Whom it accepts at first.
    accepts: Accepts,
}

impl Role {
    fn start(self, shard: &Rc<Shard>) -> (impl FnMut() -> usize + use<>, impl Future<Output = ()> + use<>) {
        let port = Rc::new(Port::new(self.mesh, shard.index, shard.ring.wake_fd()));
        let out = port.clone();
        let send = Box::new(move |to, from, message| out.send(to, GatewayMessage::Cross { from, message }));
        let crossing = Crossing::new(shard.index, &shard.ring, send);
        let gate = Gate::new(shard, &self.common, port, crossing, &self.in_force, self.accepts);
        let inbox = Inbox::new(&gate, self.report);
        if let Some((channel_listeners, publications)) = self.first {
            inbox.keep(publications);
            shard.spawn("look at tokens", inbox.clone().look_at_tokens());
            for (fd, transport) in channel_listeners {
                let listener = Listener::new(&shard.ring, fd, false);
                let acceptor = Acceptor::new(&gate, listener, Whom::Channels);
                let lobby = inbox.lobby();
                let accept = connection_point::accept(gate.clone(), lobby, acceptor, transport);
                shard.spawn("accept channels", accept);
            }
        }
        internal::look_after(&gate);
        for fd in self.listeners {
            let acceptor = Acceptor::new(&gate, Listener::new(&shard.ring, fd, true), Whom::Clients);
            shard.spawn("accept clients", accept(gate.clone(), acceptor));
        }
        let turn = {
            let inbox = inbox.clone();
            move || inbox.turn()
        };
        (turn, async move { inbox.live().await })
    }
}

/// Accepts clients as long as there is room for them, and for their handshakes: those beyond wait in the
/// kernel's backlog, unharmed.
async fn accept(gate: Rc<Gate>, mut acceptor: Acceptor) {
    let mut reserved = 0;
    loop {
        let may_arm = acceptor.may_arm();
        reserved = arm(&gate, &acceptor.listener, may_arm, reserved);
        if acceptor.is_done() {
            return;
        }
        match acceptor.next().await {
            Some(Ok((socket, peer))) => {
                reserved -= 1;
                let seat = Seated(gate.common.clone());
                let config = gate.local().clients.clone();
                match Tls::server(config) {
                    Ok(tls) => {
                        gate.shard.spawn("client", client::serve(gate.clone(), socket, peer, tls, seat));
                    }
                    Err(error) => tracing::error!(%error, "TLS cannot serve"),
                }
            }
            Some(Err(error)) => {
                tracing::error!(%error, "accepting clients failed");
                gate.shard.sleep(Duration::from_millis(200)).await;
            }
            None => {}
        }
    }
}

/// Arms accepts as far as there are seats; gives how many seats are held for them.
fn arm(gate: &Gate, listener: &Listener, may_arm: bool, mut reserved: u64) -> u64 {
    let seats = &gate.common.admitted;
    let clients_max = u64::from(gate.local().settings.clients_max);
    let here_max = u64::from(gate.common.slots.saturating_sub(limits::OUTGOING_SLOTS));
    let armed = listener.pending() as u64;
    while reserved > armed {
        // An accept that failed holds no seat.
        seats.fetch_sub(1, Ordering::Relaxed);
        reserved -= 1;
    }
    let wants_none = !may_arm || gate.handshaking.is_crowded();
    let want = if wants_none { 0 } else { listener.worth_arming() };
    let counters = gate.counters();
    while listener.armed() < want {
        let taken = [&counters.clients, &counters.channels_direct].map(|count| count.load(Ordering::Relaxed));
        let here = taken[0] + taken[1] + reserved;
        let taken = seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held < clients_max && here < here_max).then_some(held + 1)
        });
        if taken.is_err() {
            break;
        }
        reserved += 1;
        listener.arm();
    }
    reserved
}

/// Gives a client's seat back when it left.
pub struct Seated(Arc<Common>);

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}
