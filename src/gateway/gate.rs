//! What one shard of the gateway holds: settings in force, links, clients, requests that wait; and how
//! a request gets a stream.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use arc_swap::ArcSwap;

use super::GatewayMessage;
use super::acceptor::{Accepting, Accepts, Whom};
use super::admission::{Admission, EndpointAllowances, Excesses};
use super::certificates::Shown;
use super::connection_point::Attendant;
use super::control::Written;
use super::handshake::Handshaking;
use super::https_door::Questions;
use super::internal::{Asking, Heard};
use super::local::Local;
use super::record::{self, Records};
use super::request::Request;
use super::token::Tokens;
use super::verdict::Unlisted;
use super::wait::{self, Line};
use crate::auth::token::Issuers;
use crate::auth::{Trust, Verdicts};
use crate::channel::{self, Identity, ListTag, RevisionTag, Transport, Verdict, message};
use crate::dispatch::{Parting, Roster, Ticket};
use crate::limits;
use crate::logs::access::AccessLog;
use crate::mapping::{Family, PublishedTable};
use crate::metrics::{self, EndpointCounts, Headroom, Histogram, Ledger, Series};
use crate::reload::Reloads;
use crate::renewal::{Keeper, KeptList};
use crate::request_id::RequestId;
use crate::review::Document;
use crate::settings::{GatewayLimits, GatewaySettings, Revision};
use crate::shard::{Nest, Port, Shard};
use crate::transport::{Crossing, Link, Stream};

/// The settings that requests are judged under: of every site the latest publication.
pub struct InForce {
    /// Counts up with every change in this process.
    pub epoch: u64,
    /// Role id to site and endpoints.
    pub table: PublishedTable,
    /// By site: what it published, and whom it trusts.
    pub sites: Vec<SiteInForce>,
    /// What is counted for each endpoint: by place of the role and the endpoint in the table, and family.
    pub series: Arc<[RoleSeries]>,
    /// What each endpoint has used of what it may, where it may not everything.
    pub allowances: EndpointAllowances,
}

/// A role's part of the series: by place of the endpoint and family.
pub type RoleSeries = Box<[[Arc<Series>; Family::ALL.len()]]>;

/// One site's part of [`InForce`].
#[derive(Clone, Default)]
pub struct SiteInForce {
    /// `None` before its first publication.
    pub revision: Option<Revision>,
    /// Whose client certificates it takes.
    pub trust: Arc<Trust>,
    /// Whose tokens.
    pub issuers: Arc<Issuers>,
}

/// Which channel, as operators know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel {
    /// Number of its site.
    pub site: usize,
    /// Name of its connection point.
    pub point: Arc<str>,
    /// Its number among the channels of that connection point.
    pub index: u16,
    /// Shard that drives it.
    pub shard: usize,
    /// What carries it.
    pub transport: Transport,
    /// It came in where clients do.
    pub is_among_clients: bool,
}

/// What the shards of the process share: written by one shard each, read by the admin listener, and
/// never touched by a request.
pub struct Common {
    /// The settings that it started with: of them only what does not change while it runs.
    pub settings: GatewaySettings,
    /// Those that do, with what they name; every shard has its own.
    pub local: ArcSwap<Local>,
    /// Its settings file, as it was read last.
    pub document: ArcSwap<Document>,
    /// How it came to that.
    pub reloads: Arc<Reloads>,
    /// Clients and armed accepts of all shards together; at most `clients_max`.
    pub admitted: AtomicU64,
    /// By shard.
    pub counters: Vec<Counters>,
    /// Channels, as their shards saw them last; by shard.
    pub channels: Vec<metrics::Board<Channel>>,
    /// What is counted by publishing endpoint.
    pub ledger: Arc<Ledger>,
    /// What is counted for requests that lead to none: unknown URLs, unreadable heads, the gateway's own
    /// answers.
    pub unpublished: Arc<Series>,
    /// When the process began.
    pub start: metrics::Start,
    /// Where its settings' paths start from.
    pub folder: std::path::PathBuf,
    /// Which it shows, to clients and to connection points.
    pub certificates: Arc<Shown>,
    /// Who it is on channels, and whom it believes there.
    pub keeper: Arc<Keeper>,
    /// What it asks over channels.
    pub asking: Asking,
    /// Lists of revoked internal certificates that came over channels.
    pub heard: Heard,
    /// Where the one in force is kept.
    pub kept_list: Arc<KeptList>,
    /// The gateway is on its way out.
    pub draining: AtomicBool,
    /// Who may still come by what was armed.
    pub accepting: Accepting,
    /// Whether what is in force may be kept on disk.
    pub written: Arc<Written>,
    /// Random, one for each start.
    pub instance_id: [u8; 16],
    /// Direct descriptors of each shard.
    pub slots: u32,
    /// What clients have used of what they may.
    pub admission: Admission,
    /// How near its bounds are.
    pub headroom: Headroom,
    /// Which authorities were told of as without a list; looked at after a chain was judged, and only then.
    pub unlisted: Mutex<Unlisted>,
    /// One line per request, if there is to be one.
    pub access_log: Option<Arc<AccessLog>>,
}

impl Common {
    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Counters of one shard: it alone adds, anyone may read. Those of two shards lie in one piece of memory
/// and must share no cache line; CPUs fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    /// Clients connected.
    pub clients: AtomicU64,
    /// Channels in direct descriptors: they came in where clients do, and could not go elsewhere.
    pub channels_direct: AtomicU64,
    /// Direct descriptors in use.
    pub slots: AtomicU64,
    /// Connections that ended because their PROXY header was wrong, missing, or sent by somebody who may not.
    pub preface_failures: AtomicU64,
    /// TLS handshakes done.
    pub handshakes: AtomicU64,
    /// Those of them that took up an earlier session.
    pub handshakes_resumed: AtomicU64,
    /// Certificates that were known as accepted.
    pub verdicts_known: AtomicU64,
    /// Certificates that were judged from the beginning.
    pub verdicts_new: AtomicU64,
    /// Those of them that no revocation list in force spoke of, and that were admitted all the same.
    pub verdicts_unchecked: AtomicU64,
    /// Connections and exchanges that were cut because their client was blocked or revoked.
    pub shut_out: AtomicU64,
    /// Clients whose handshake waits for its turn.
    pub handshakes_waiting: AtomicU64,
    /// Handshakes that have begun and not ended, as far as they count.
    pub handshakes_begun: AtomicU64,
    /// The most there ever were at once.
    pub handshakes_begun_most: AtomicU64,
    /// Steps of handshakes that had to wait.
    pub handshakes_delayed: AtomicU64,
    /// How long they waited.
    pub handshake_waited: Histogram,
    /// Handshakes that failed.
    pub handshake_failures: AtomicU64,
    /// Requests whose head was read.
    pub requests: AtomicU64,
    /// Requests answered to their end.
    pub answered: AtomicU64,
    /// Requests turned away, by code of the refusal.
    pub refused: [AtomicU64; 32],
    /// Those of them that asked too much or too fast, by what was in the way.
    pub excesses: Excesses,
    /// Requests that count for no client, because so many others are counted.
    pub clients_uncounted: AtomicU64,
    /// Answers cut in the middle.
    pub cut: AtomicU64,
    /// Requests sent once more.
    pub retried: AtomicU64,
    /// Requests under way.
    pub active: AtomicU64,
    /// Requests waiting for a channel.
    pub waiting: AtomicU64,
    /// How long requests waited for a channel, each time until its turn or its end.
    pub waited: Histogram,
    /// Links of this shard.
    pub links: AtomicU64,
    /// Requests that went by another shard's link.
    pub crossed: AtomicU64,
    /// Tasks that panicked.
    pub panics: AtomicU64,
    /// System calls of the ring.
    pub enters: AtomicU64,
    /// Completions of the ring.
    pub completions: AtomicU64,
    /// Receives that found no shared buffer.
    pub starved: AtomicU64,
    /// Channel bytes out and in, before TLS, of all channels there ever were.
    pub channel_bytes: [AtomicU64; 2],
}

/// Adds to a counter of this shard. No other shard adds to it, so no locked instruction is needed.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Takes from a counter of this shard.
pub fn take(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
}

/// Links that know a client, with its number there.
type Announced = Vec<(Weak<Link>, u32)>;

/// Who a client is to connection points.
pub struct Client {
    /// Unique in its shard.
    pub id: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it has been announced: links of this shard with its number, and other shards.
    announced: RefCell<Announced>,
    shards: RefCell<Vec<usize>>,
}

impl Client {
    /// A client that no connection point has heard of.
    pub fn new(id: u64, peer: SocketAddr) -> Client {
        let (announced, shards) = Default::default();
        Client { id, peer, announced, shards }
    }
}

impl Client {
    /// Its IDENTITY. A leaf too long to be carried has been refused before.
    fn describe(&self, leaf: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + leaf.map_or(0, <[u8]>::len));
        if (Identity { peer: self.peer.ip(), leaf }).encode(&mut bytes).is_err() {
            bytes.clear();
            let bare = Identity { peer: self.peer.ip(), leaf: None };
            bare.encode(&mut bytes).expect("an address alone fits");
        }
        bytes
    }
}

/// See the file's head.
pub struct Gate {
    /// Executor, ring, deadlines.
    pub shard: Rc<Shard>,
    /// Shared by the process.
    pub common: Arc<Common>,
    /// This shard's inbox, and the way to the others.
    pub port: Rc<Port<GatewayMessage>>,
    /// Exchanges that use another shard's links.
    pub crossing: Rc<Crossing>,
    local: RefCell<Arc<Local>>,
    limits: Cell<GatewayLimits>,
    in_force: RefCell<Rc<InForce>>,
    epoch: Cell<u64>,
    /// Certificates accepted lately under these settings.
    pub verdicts: RefCell<Verdicts>,
    /// The same of tokens, and whose requests are under way.
    pub tokens: Tokens,
    roster: RefCell<Roster<Rc<Link>>>,
    channels: metrics::Channels<Channel>,
    /// By site and shard: how many links that shard has.
    elsewhere: RefCell<Vec<Vec<u32>>>,
    turn: Cell<usize>,
    /// Clients whose handshake is under way.
    pub handshaking: Handshaking,
    /// Requests that wait for a link.
    pub line: Line,
    /// Numbers under which clients of other shards were announced on links here.
    guests: RefCell<HashMap<(usize, u64), Announced>>,
    /// The gateway ends.
    parting: Cell<Option<Parting>>,
    accepts: Cell<Accepts>,
    /// Another process runs that takes this one's place: channels of these come to it, and of clients those that come
    /// in where they do, with all others.
    makes_way: Cell<Option<Whom>>,
    next_request: Cell<u64>,
    request_seed: [u8; 8],
    /// Acceptors to wake when a client left.
    pub acceptors: RefCell<Vec<Waker>>,
    /// Connection points whose hello shard 0 is judging.
    pub questions: Questions,
    /// Links that published and wait for the verdict.
    publishing: RefCell<Vec<Rc<Link>>>,
    /// Those that wait for a verdict on a list.
    listing: RefCell<Vec<Rc<Link>>>,
    /// Where requests that ended are told of.
    pub records: Records,
    /// Where those under way lie.
    pub requests: Rc<Nest<Request>>,
}

impl Gate {
    /// The gate of one shard, with nothing published and no link.
    pub fn new(
        shard: &Rc<Shard>,
        common: &Arc<Common>,
        port: Rc<Port<GatewayMessage>>,
        crossing: Rc<Crossing>,
        in_force: &Arc<InForce>,
        accepts: Accepts,
    ) -> Rc<Gate> {
        let (sites, local) = (common.settings.sites.len(), common.local.load_full());
        let mut request_seed = [0; 8];
        request_seed[..6].copy_from_slice(&common.instance_id[..6]);
        request_seed[6..].copy_from_slice(&(shard.index as u16).to_be_bytes());
        Rc::new(Gate {
            shard: shard.clone(),
            common: common.clone(),
            elsewhere: RefCell::new(vec![vec![0; port.shards()]; sites]),
            handshaking: Handshaking::new(shard),
            line: Line::new(sites, port.shards(), local.waiting_max()),
            limits: Cell::new(local.settings.limits),
            local: RefCell::new(local),
            port,
            crossing,
            in_force: RefCell::new(Rc::new(in_force.copy())),
            epoch: Cell::new(in_force.epoch),
            verdicts: RefCell::default(),
            tokens: Tokens::default(),
            roster: RefCell::new(Roster::new(sites)),
            channels: metrics::Channels::new(shard.now()),
            turn: Cell::new(0),
            guests: RefCell::default(),
            parting: Cell::new(None),
            accepts: Cell::new(accepts),
            makes_way: Cell::new(None),
            next_request: Cell::new(0),
            request_seed,
            acceptors: RefCell::default(),
            questions: Questions::default(),
            publishing: RefCell::default(),
            listing: RefCell::default(),
            records: Records::new(common, shard.index),
            requests: Nest::new(limits::REQUESTS_SPARE_MAX),
        })
    }

    /// This shard's counters.
    pub fn counters(&self) -> &Counters {
        &self.common.counters[self.shard.index]
    }

    /// What this shard has of the gateway's own settings. Not to be held over a wait.
    pub fn local(&self) -> Ref<'_, Local> {
        Ref::map(self.local.borrow(), |local| &**local)
    }

    /// Deadlines and bounds.
    #[inline]
    pub fn limits(&self) -> GatewayLimits {
        self.limits.get()
    }

    /// Other settings of the gateway's own from now on.
    pub fn take_local(&self, local: &Arc<Local>) {
        self.limits.set(local.settings.limits);
        self.line.set_places(local.waiting_max());
        *self.local.borrow_mut() = local.clone();
        // There may be room for more clients.
        self.wake_acceptors();
    }

    /// The settings that a request which begins now is judged under.
    pub fn in_force(&self) -> Rc<InForce> {
        self.in_force.borrow().clone()
    }

    /// Other settings or lists from now on; requests under way keep their settings. Every connection is
    /// woken, so that whoever was blocked or revoked meanwhile is cut; a few in each turn of the shard.
    pub fn put_in_force(&self, settings: &Arc<InForce>) {
        *self.in_force.borrow_mut() = Rc::new(settings.copy());
        self.epoch.set(settings.epoch);
        self.verdicts.borrow_mut().clear();
        self.tokens.look_again(&self.in_force());
        self.shard.wake_everybody();
    }

    /// Counts up with every change of settings and lists.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// 16 bytes that no other request of any gateway bears.
    pub fn next_request_id(&self) -> RequestId {
        let number = self.next_request.get();
        self.next_request.set(number + 1);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.request_seed);
        id[8..].copy_from_slice(&number.to_be_bytes());
        RequestId(id)
    }

    /// Whether a proxy in front connects from there, which says for whom.
    pub fn is_proxy(&self, from: IpAddr) -> bool {
        let local = self.local();
        let proxies = &local.settings.proxies;
        // Most gateways have none.
        !proxies.is_empty() && {
            let from = from.to_canonical();
            proxies.iter().any(|network| network.contains(&from))
        }
    }

    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.parting.get().is_some()
    }

    /// When it takes leave of whom, once it is.
    pub fn parting(&self) -> Option<Parting> {
        self.parting.get()
    }

    /// Takes no new clients; answers say that the connection ends, clients at rest and held requests have theirs.
    /// Links go on until the last is answered: a client that asks once more before it knows is not turned away.
    pub fn drain(&self) -> Parting {
        let clients = self.counters().clients.load(Ordering::Relaxed);
        let parting = Parting::new(self.shard.now(), self.limits().drain, clients);
        self.parting.set(Some(parting));
        self.common.draining.store(true, Ordering::Relaxed);
        self.accepts.set(Accepts::NONE);
        self.drain_waiting();
        self.wake_acceptors();
        self.shard.wake_everybody();
        parting
    }

    /// Whom this shard accepts.
    pub fn accepts(&self) -> Accepts {
        self.accepts.get()
    }

    /// Others from now on. One that ends accepts nobody any more, whatever became of the process that was to follow.
    pub fn accept(&self, accepts: Accepts) {
        if !self.is_draining() {
            if accepts == Accepts::ALL {
                // Whoever was to follow is lost.
                self.makes_way.set(None);
            }
            self.accepts.set(accepts);
            self.wake_acceptors();
        }
    }

    /// Has connection points dial the process that takes this one's place, from now on: those whose channels come to
    /// it. As long as clients come here, so does who comes in where they do.
    pub fn make_way(&self, whom: Whom) {
        self.makes_way.set(Some(whom));
        self.channels.each(|channel, link| self.ask_to_dial(channel.is_among_clients, link));
    }

    /// The same of one link that was not here when it was said: its hello was under way.
    fn ask_to_dial(&self, is_among_clients: bool, link: &Link) {
        let is_asked = match self.makes_way.get() {
            None => false,
            Some(Whom::Channels) => !is_among_clients,
            Some(Whom::Clients) => true,
        };
        if is_asked && link.is_open() {
            link.make_way();
        }
    }

    /// Says goodbye on every link.
    pub fn close_links(&self) {
        for (_, _, link) in self.roster.borrow().links() {
            link.close(channel::CloseCode::Done, "the gateway stops");
        }
    }

    /// Lets the acceptors look again at what they may accept.
    pub fn wake_acceptors(&self) {
        for waker in self.acceptors.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    // ── links ───────────────────────────────────────────────────────────────────────────────────

    /// A link of a connection point came up on this shard.
    pub fn attach(&self, site: usize, point: &str, link: &Rc<Link>) {
        self.roster.borrow_mut().attach(site, point, link.id, link.clone());
        add(&self.counters().links, 1);
        self.tell_links(site, 1);
        self.hear_room(site);
    }

    /// A link ended.
    pub fn detach(&self, site: usize, link: &Rc<Link>) {
        if self.roster.borrow_mut().detach(site, link.id).is_some() {
            take(&self.counters().links, 1);
            self.tell_links(site, -1);
        }
    }

    fn tell_links(&self, site: usize, change: i32) {
        let here = self.port.here();
        for shard in (0..self.port.shards()).filter(|shard| *shard != here) {
            self.port.send(shard, GatewayMessage::Links { shard: here, site, change });
        }
    }

    /// Whether a connection point of the site is attached to any shard.
    pub fn has_link(&self, site: usize) -> bool {
        let here = self.roster.borrow().links().any(|(held, _, _)| held == site);
        here || self.elsewhere.borrow()[site].iter().any(|count| *count > 0)
    }

    /// Another shard's links changed in number.
    pub fn hear_links(&self, shard: usize, site: usize, change: i32) {
        {
            let mut elsewhere = self.elsewhere.borrow_mut();
            let count = &mut elsewhere[site][shard];
            *count = count.saturating_add_signed(change);
        }
        if change > 0 {
            self.hear_room_elsewhere(shard, site);
        }
    }

    /// A channel is driven on this shard from now on.
    pub fn channel_up(&self, attendant: &Attendant, link: &Rc<Link>) {
        let &Attendant { site, seat: (_, index), transport, is_among_clients, .. } = attendant;
        let (point, shard) = (attendant.point.as_str().into(), self.shard.index);
        self.channels.up(Channel { site, point, index, shard, transport, is_among_clients }, link);
        self.ask_to_dial(is_among_clients, link);
        self.channels.show(self.channel_board(), self.shard.now());
    }

    /// It is driven no more.
    pub fn channel_down(&self, link: &Rc<Link>) {
        self.channels.down(link);
        self.channels.show(self.channel_board(), self.shard.now());
    }

    /// Every link that is driven here, also those that take nothing more, and which channel it is.
    pub fn each_link(&self, what: impl FnMut(&Channel, &Rc<Link>)) {
        self.channels.each(what);
    }

    fn channel_board(&self) -> &metrics::Board<Channel> {
        &self.common.channels[self.shard.index]
    }

    /// A link published; shard 0 judges.
    pub fn await_verdict(&self, link: &Rc<Link>) {
        let mut publishing = self.publishing.borrow_mut();
        publishing.retain(|held| held.id != link.id);
        publishing.push(link.clone());
    }

    /// What became of a publication.
    pub fn hear_verdict(&self, link: u64, revision: RevisionTag, verdict: Verdict, text: &str) {
        let mut publishing = self.publishing.borrow_mut();
        if let Some(place) = publishing.iter().position(|held| held.id == link) {
            publishing.swap_remove(place).acknowledge(revision, verdict, text);
        }
    }

    /// A link offered or sent a list; shard 0 judges.
    pub fn await_list_verdict(&self, link: &Rc<Link>) {
        let mut listing = self.listing.borrow_mut();
        listing.retain(|held| held.id != link.id);
        listing.push(link.clone());
    }

    /// Whether a list is wanted, or what became of it.
    pub fn hear_list_verdict(&self, link: u64, tag: &ListTag, verdict: Verdict, text: &str) {
        let mut listing = self.listing.borrow_mut();
        if let Some(place) = listing.iter().position(|held| held.id == link) {
            listing.swap_remove(place).answer_list(tag, verdict, text);
        }
    }

    // ── a stream for a request ──────────────────────────────────────────────────────────────────

    /// Opens a stream: on a link of this shard whose turn it is, else on another shard that has one.
    /// With it the name of the connection point, where this shard knows it.
    /// `None`: no link of any shard takes it now, or others wait for one, and nothing was sent. A
    /// request that waited gives its place back as soon as a link took it.
    pub fn open(
        &self,
        client: &Client,
        leaf: Option<&[u8]>,
        request: &mut Request,
        place: Option<&wait::Place>,
    ) -> Option<(Stream, Option<Rc<str>>)> {
        if !self.may_look(request, place) {
            return None;
        }
        let mut opened = self.open_here(client, leaf, request, false);
        if opened.is_none() {
            if let Some(stream) = self.open_elsewhere(client, leaf, request, place) {
                return Some((stream, None));
            }
            // Nobody else is there: what hangs may go on at any moment.
            opened = self.open_here(client, leaf, request, true);
        }
        let (point, stream) = opened?;
        if let Some(place) = place {
            self.leave(place.ticket);
        }
        Some((stream, Some(point)))
    }

    fn open_here(
        &self,
        client: &Client,
        leaf: Option<&[u8]>,
        request: &mut Request,
        is_stalled: bool,
    ) -> Option<(Rc<str>, Stream)> {
        self.choose(request.site, is_stalled, |link| {
            let number = if request.names_client { self.announce(client, leaf, link) } else { Ok(0) };
            message::set_identity(&mut request.message, number.ok()?);
            link.open(&request.message).ok()
        })
    }

    /// What `open` gives for the first link of this shard, in turn, that it gives anything for; and the
    /// name of its connection point. Every link is asked, because only one that refused says when it has
    /// room: a request that waits while an unasked one has room would wait in vain.
    /// Those that stall, or those that do not.
    fn choose<T>(
        &self,
        site: usize,
        is_stalled: bool,
        mut open: impl FnMut(&Rc<Link>) -> Option<T>,
    ) -> Option<(Rc<str>, T)> {
        let mut opened = None;
        let mut roster = self.roster.borrow_mut();
        let (point, _) = roster.choose(site, |link| {
            opened = if link.is_open() && link.is_stalled() == is_stalled { open(link) } else { None };
            opened.is_some()
        })?;
        Some((point.clone(), opened?))
    }

    fn open_elsewhere(
        &self,
        client: &Client,
        leaf: Option<&[u8]>,
        request: &Request,
        place: Option<&wait::Place>,
    ) -> Option<Stream> {
        let count = self.port.shards();
        let from = self.turn.get();
        let elsewhere = self.elsewhere.borrow();
        let mut turns = (0..count).map(|step| (from + step) % count);
        let has_room = |shard: &usize| {
            elsewhere[request.site][*shard] > 0 && !self.line.is_full_elsewhere(request.site, *shard)
        };
        let shard = turns.find(has_room)?;
        self.turn.set(shard + 1);
        add(&self.counters().crossed, 1);
        if !client.shards.borrow().contains(&shard) {
            client.shards.borrow_mut().push(shard);
        }
        let (exchange, stream) = self.crossing.begin(shard);
        let guest = Guest {
            exchange,
            site: request.site,
            is_held: request.is_held,
            client: client.id,
            identity: request.names_client.then(|| client.describe(leaf).into()),
            message: request.message.clone(),
            place: place.map(|place| place.ticket),
        };
        self.port.send(shard, GatewayMessage::Open { from: self.port.here(), guest });
        Some(stream)
    }

    fn announce(&self, client: &Client, leaf: Option<&[u8]>, link: &Rc<Link>) -> Result<u32, channel::Busy> {
        announce(&mut client.announced.borrow_mut(), link, || client.describe(leaf))
    }

    /// A client of another shard wants a stream on a link of this one. It takes turns with those called
    /// here, and stands behind those who wait here for room.
    pub fn open_for_guest(&self, from: usize, guest: Guest) {
        let Guest { exchange, site, is_held, place, .. } = guest;
        if self.line.is_held_up(site, is_held) || !self.admit_guest(from, guest) {
            self.note_turned_away(from, site);
            self.crossing.turn_away(from, exchange);
        } else if let Some(ticket) = place {
            self.port.send(from, GatewayMessage::Took { ticket });
        }
    }

    fn admit_guest(&self, from: usize, guest: Guest) -> bool {
        let Guest { exchange, site, client, identity, mut message, .. } = guest;
        let admitted = self.choose(site, false, |link| {
            let number = identity.as_ref().map_or(Ok(0), |identity| {
                let mut guests = self.guests.borrow_mut();
                announce(guests.entry((from, client)).or_default(), link, || identity)
            });
            message::set_identity(&mut message, number.ok()?);
            self.crossing.admit(from, exchange, link, &message).then_some(())
        });
        admitted.is_some()
    }

    /// A client left: nobody will name it again.
    pub fn forget(&self, client: &Client) {
        withdraw(client.announced.borrow_mut().drain(..));
        for shard in client.shards.borrow_mut().drain(..) {
            self.port.send(shard, GatewayMessage::Gone { from: self.port.here(), client: client.id });
        }
    }

    /// A client of another shard left.
    pub fn forget_guest(&self, from: usize, client: u64) {
        if let Some(announced) = self.guests.borrow_mut().remove(&(from, client)) {
            withdraw(announced.into_iter());
        }
    }

    /// Copies what the ring and the links counted to where the admin listener reads it.
    pub fn publish_counts(&self) {
        let (counters, ring) = (self.counters(), &self.shard.ring.counts);
        counters.slots.store(self.shard.ring.slots().0.into(), Ordering::Relaxed);
        counters.enters.store(ring.enters.get(), Ordering::Relaxed);
        counters.completions.store(ring.completions.get(), Ordering::Relaxed);
        counters.starved.store(ring.starved.get(), Ordering::Relaxed);
        counters.panics.store(self.shard.panics.get(), Ordering::Relaxed);
        let (out, received) = self.channels.traffic();
        counters.channel_bytes[0].store(out, Ordering::Relaxed);
        counters.channel_bytes[1].store(received, Ordering::Relaxed);
        if self.channels.is_stale(self.shard.now()) {
            self.channels.show(self.channel_board(), self.shard.now());
        }
    }

    /// Where this shard counts the requests to an endpoint, or to none.
    pub fn counts<'s>(&'s self, place: Option<&'s record::Place>) -> &'s EndpointCounts {
        let published = place.and_then(|place| place.settings.series(place.row, place.family));
        published.unwrap_or(&self.common.unpublished).of(self.shard.index)
    }
}

impl InForce {
    /// A shard's own copy, so that no request touches a counter that shards share.
    fn copy(&self) -> InForce {
        let (sites, series) = (self.sites.clone(), self.series.clone());
        let allowances = self.allowances.clone();
        InForce { epoch: self.epoch, table: self.table.clone(), sites, series, allowances }
    }

    fn series(&self, (role, endpoint): (usize, usize), family: Family) -> Option<&Series> {
        self.series.get(role)?.get(endpoint)?.get(family as usize).map(|series| &**series)
    }
}

fn announce<B: AsRef<[u8]>>(
    announced: &mut Vec<(Weak<Link>, u32)>,
    link: &Rc<Link>,
    bytes: impl FnOnce() -> B,
) -> Result<u32, channel::Busy> {
    let held = announced.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Rc::as_ptr(link)));
    if let Some((_, number)) = held {
        return Ok(*number);
    }
    announced.retain(|(known, _)| known.strong_count() > 0);
    let number = link.identity(bytes().as_ref())?;
    announced.push((Rc::downgrade(link), number));
    Ok(number)
}

/// A request of another shard's client, as it asks for a stream here.
pub struct Guest {
    /// Its number at the client's shard.
    pub exchange: u64,
    /// Number of the site.
    pub site: usize,
    /// It waits with those that are held.
    pub is_held: bool,
    /// Number of the client at its shard.
    pub client: u64,
    /// Who it is, where the origin is told.
    pub identity: Option<Arc<[u8]>>,
    /// The OPEN message.
    pub message: Vec<u8>,
    /// Its place, if it waited.
    pub place: Option<Ticket>,
}

fn withdraw(announced: impl Iterator<Item = (Weak<Link>, u32)>) {
    for (link, number) in announced {
        if let Some(link) = link.upgrade() {
            link.identity_gone(number);
        }
    }
}
