//! How connection points attach: accepted on shard 0, known by an internal certificate, placed on the
//! shard that their hello asks for; and what their links say while they live.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::GatewayMessage;
use super::acceptor::Acceptor;
use super::gate::{self, Gate};
use crate::auth::{InternalName, InternalRole, internal_identity};
use crate::channel::frame::{self, FrameKind};
use crate::channel::{
    Acknowledgement, Hello, HelloRefusal, HelloReply, List, ListTag, Publication, Side, Transport, VERSION,
    upgrade,
};
use crate::dispatch::Neighbourhood;
use crate::limits;
use crate::shard::{Deadline, Socket};
use crate::transport::{Link, LinkEvents, Parts, Stream, Tls, Wire};

/// A channel on its way to its shard.
pub struct Arrival {
    /// The connection and its TLS.
    pub parts: Parts,
    /// Whose it is.
    pub attendant: Attendant,
}

/// Whose channel it is that was let in.
pub struct Attendant {
    /// Number of its site.
    pub site: usize,
    /// Name of the connection point.
    pub point: String,
    /// Connection id and index: free again when the link ends.
    pub seat: Seat,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What carries it.
    pub transport: Transport,
    /// It came in where clients do.
    pub is_among_clients: bool,
}

/// Which channel of which start of a connection point: held by one live link at a time.
pub type Seat = ([u8; 16], u16);

/// What shard 0 knows of attached connection points.
#[derive(Default)]
pub struct Lobby {
    /// With the site and the name of whose it is.
    seats: RefCell<HashMap<Seat, (usize, String)>>,
    entrance: Rc<Entrance>,
}

/// Those of one shard between accept and hello, or of those among clients, between their handshake and the answer to
/// their hello; who came first is in front.
#[derive(Default)]
pub struct Entrance(RefCell<VecDeque<Rc<Entering>>>);

/// One of them.
struct Entering {
    from: Neighbourhood,
    /// It holds the key of an internal certificate.
    is_known: Cell<bool>,
    is_shown_out: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// A place among those; free again when dropped.
pub struct Place {
    entrance: Rc<Entrance>,
    entering: Rc<Entering>,
}

impl Place {
    /// It holds the key of an internal certificate.
    pub fn is_known(&self) {
        self.entering.is_known.set(true);
    }

    /// Carries `work` on until another needs the place.
    pub async fn unless_shown_out<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if self.entering.is_shown_out.get() {
                return Poll::Ready(Err(io::Error::other("too many channels begin at once")));
            }
            self.entering.waker.set(Some(context.waker().clone()));
            work.as_mut().poll(context)
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.entrance.0.borrow_mut().retain(|held| !Rc::ptr_eq(held, &self.entering));
    }
}

impl Entrance {
    /// A place for one that was accepted. When all are taken, another is shown out: strangers that say
    /// nothing, or come again and again, must not keep out a connection point.
    pub fn admit(self: &Rc<Self>, from: Neighbourhood) -> Place {
        let mut all = self.0.borrow_mut();
        if all.len() >= limits::HELLO_COUNT_MAX {
            let out = shown_out(all.iter().map(|one| (one.from, one.is_known.get())));
            if let Some(out) = out.and_then(|place| all.remove(place)) {
                out.is_shown_out.set(true);
                if let Some(waker) = out.waker.take() {
                    waker.wake();
                }
            }
        }
        let (is_known, is_shown_out) = (Cell::new(false), Cell::new(false));
        let entering = Rc::new(Entering { from, is_known, is_shown_out, waker: Cell::default() });
        all.push_back(entering.clone());
        Place { entrance: self.clone(), entering }
    }
}

impl Lobby {
    /// Whether this connection point may have one channel more.
    fn has_seat_for(&self, site: usize, point: &str) -> bool {
        let seats = self.seats.borrow();
        let own = seats.values().filter(|(of, name)| *of == site && name == point).count();
        seats.len() < CHANNEL_COUNT_MAX && own < CHANNELS_OF_POINT_MAX
    }

    /// Whether this connection point has a channel.
    pub fn is_attached(&self, site: usize, point: &str) -> bool {
        self.seats.borrow().values().any(|(of, name)| *of == site && name == point)
    }

    /// A link ended.
    pub fn leave(&self, seat: &Seat) {
        self.seats.borrow_mut().remove(seat);
    }
}

/// Accepts channels, which are carried so, until the gateway ends.
pub async fn accept(gate: Rc<Gate>, lobby: Rc<Lobby>, mut acceptor: Acceptor, transport: Transport) {
    loop {
        let may_arm = acceptor.may_arm();
        while may_arm && acceptor.listener.armed() < 2 {
            acceptor.listener.arm();
        }
        if acceptor.is_done() {
            return;
        }
        match acceptor.next().await {
            None => {}
            Some(Ok((socket, peer))) => {
                let place = lobby.entrance.admit(peer.ip().into());
                let (gate, lobby) = (gate.clone(), lobby.clone());
                gate.shard.clone().spawn("channel hello", async move {
                    let entered = enter(&gate, &lobby, &place, socket, peer, transport).await;
                    if let Err(error) = entered
                        && gate.records.strangers.admits(&gate.shard)
                    {
                        tracing::warn!(%peer, %error, "a connection point could not attach");
                    }
                });
            }
            Some(Err(error)) => {
                tracing::error!(%error, "accepting channels failed");
                gate.shard.sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

async fn enter(
    gate: &Rc<Gate>,
    lobby: &Rc<Lobby>,
    place: &Place,
    socket: Socket,
    peer: SocketAddr,
    transport: Transport,
) -> io::Result<()> {
    let deadline = gate.shard.deadline();
    deadline.set(gate.shard.now(), limits::HELLO_WITHIN);
    let config = match transport {
        Transport::TcpTls => gate.local().channels.clone(),
        Transport::Https | Transport::HttpsByProxy => gate.local().https_channels.clone(),
    };
    let tls = Tls::server(config).map_err(io::Error::other)?;
    let mut wire = Wire::new(socket, Some(tls));
    wire.use_own_buffer(true);
    place.unless_shown_out(within(&deadline, wire.handshake())).await?;
    if wire.tls().and_then(Tls::alpn) != Some(transport.alpn()) {
        return Err(io::Error::other("it does not speak the channel's protocol"));
    }
    let name = name_of(&wire)?;
    place.is_known();
    let hello = place.unless_shown_out(within(&deadline, hear_hello(&mut wire, transport))).await?;
    let verdict = seat(gate, lobby, &name, &hello);
    let shard = usize::from(hello.index) % gate.port.shards();
    let answered = within(&deadline, answer(gate, &mut wire, hello.version, verdict, shard)).await;
    let moved = answered.and_then(|site| {
        let parts = wire.into_parts().ok_or_else(|| io::Error::other("the connection cannot be moved"))?;
        Ok((site, parts))
    });
    if verdict.is_ok() && moved.is_err() {
        lobby.leave(&seat_of(&hello));
    }
    let (site, parts) = moved?;
    let (point, seat, is_among_clients) = (name.name, seat_of(&hello), false);
    let attendant = Attendant { site, point, seat, peer, transport, is_among_clients };
    gate.port.send(shard, GatewayMessage::Arrival(Box::new(Arrival { parts, attendant })));
    Ok(())
}

/// Who holds the key of the certificate shown, which is the internal CA's.
pub fn name_of(wire: &Wire) -> io::Result<InternalName> {
    let leaf = wire.tls().and_then(Tls::peer_certificates).and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| io::Error::other("no certificate"))?;
    internal_identity(leaf).map_err(io::Error::other)
}

/// Waits for the first words of a channel.
pub async fn hear_hello(wire: &mut Wire, transport: Transport) -> io::Result<Hello> {
    if transport.is_over_http() {
        change_over(wire).await?;
    }
    read_hello(wire).await
}

/// Waits for the request that asks for a channel, and grants it.
async fn change_over(wire: &mut Wire) -> io::Result<()> {
    let mut answer = Vec::new();
    loop {
        match upgrade::read_ask(wire.received()) {
            Ok(Some(size)) => {
                wire.consume(size);
                upgrade::write_yes(&mut answer);
                wire.write(&answer)?;
                return wire.flush().await;
            }
            Ok(None) => {}
            Err(error) => {
                upgrade::write_no(&mut answer);
                wire.write(&answer)?;
                wire.finish().await?;
                return Err(io::Error::other(error));
            }
        }
        if !std::future::poll_fn(|context| wire.poll_fill(context)).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The place that a hello asks for.
pub fn seat_of(hello: &Hello) -> Seat {
    (hello.connection_id, hello.index)
}

/// Judges a hello; one that is welcome has its seat then, for another may be heard while its answer leaves. Gives
/// the number of its site.
pub fn seat(gate: &Gate, lobby: &Lobby, name: &InternalName, hello: &Hello) -> Result<usize, HelloRefusal> {
    let sites = &gate.common.settings.sites;
    let site = sites.iter().position(|site| Some(&site.code) == name.site.as_ref());
    match (judge(gate, lobby, name, hello, site), site) {
        (None, Some(site)) => {
            lobby.seats.borrow_mut().insert(seat_of(hello), (site, name.name.clone()));
            Ok(site)
        }
        (refusal, _) => Err(refusal.unwrap_or(HelloRefusal::UnknownSite)),
    }
}

/// Tells a connection point, which speaks versions up to `version`, what became of its hello; `shard` takes the
/// channel. Gives the number of its site.
pub async fn answer(
    gate: &Gate,
    wire: &mut Wire,
    version: u16,
    verdict: Result<usize, HelloRefusal>,
    shard: usize,
) -> io::Result<usize> {
    let refusal = verdict.err();
    let reply = HelloReply {
        version: VERSION.min(version),
        refusal,
        text: refusal.map(|refusal| format!("{refusal:?}")).unwrap_or_default(),
        instance: gate.common.settings.instance.clone(),
        instance_id: gate.common.instance_id,
        shards: gate.port.shards() as u16,
        shard: shard as u16,
        instances: Vec::new(),
    };
    let mut out = Vec::new();
    reply.encode(&mut out);
    wire.write(&out)?;
    match verdict {
        Ok(site) => wire.flush().await.map(|()| site),
        Err(refusal) => {
            wire.finish().await?;
            Err(io::Error::other(format!("refused: {refusal:?}")))
        }
    }
}

async fn read_hello(wire: &mut Wire) -> io::Result<Hello> {
    loop {
        if let Some((frame, size)) = frame::take(wire.received()).map_err(io::Error::other)? {
            if frame.kind != FrameKind::Hello {
                return Err(io::Error::other("the first frame is no hello"));
            }
            let hello = Hello::parse(frame.payload).map_err(io::Error::other)?;
            wire.consume(size);
            return Ok(hello);
        }
        if !std::future::poll_fn(|context| wire.poll_fill(context)).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn judge(
    gate: &Gate,
    lobby: &Lobby,
    name: &InternalName,
    hello: &Hello,
    site: Option<usize>,
) -> Option<HelloRefusal> {
    let settings = &gate.common.settings;
    let same = name.name == hello.connection_point && name.site.as_deref() == Some(hello.site.as_str());
    match () {
        () if hello.version < VERSION => Some(HelloRefusal::Version),
        () if name.role != InternalRole::Connector || !same => Some(HelloRefusal::CertificateMismatch),
        () if site.is_none() => Some(HelloRefusal::UnknownSite),
        () if !hello.instance.is_empty() && hello.instance != settings.instance => {
            Some(HelloRefusal::OtherInstance)
        }
        () if gate.is_draining() => Some(HelloRefusal::Draining),
        () if hello.index >= hello.count => Some(HelloRefusal::Placement),
        () if !site.is_some_and(|site| lobby.has_seat_for(site, &name.name)) => Some(HelloRefusal::Full),
        () if lobby.seats.borrow().contains_key(&(hello.connection_id, hello.index)) => {
            Some(HelloRefusal::ConnectionIdTaken)
        }
        () => None,
    }
}

/// Waits for `what`, until the deadline passes.
pub async fn within<T>(deadline: &Deadline, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut what = std::pin::pin!(what);
    std::future::poll_fn(|context| {
        if deadline.poll(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        what.as_mut().poll(context)
    })
    .await
}

// ── on the link's shard ─────────────────────────────────────────────────────────────────────────

/// Takes a channel in and drives it until it ends.
pub fn settle(gate: &Rc<Gate>, arrival: Arrival) {
    let wire = Wire::from_parts(&gate.shard.ring, arrival.parts);
    drive(gate, wire, arrival.attendant, None);
}

/// A channel in one of the direct descriptors of this shard, which are there for clients: counted beside them.
pub struct Direct(Rc<Gate>);

impl Direct {
    /// Counts one, as long as this lives.
    pub fn new(gate: &Rc<Gate>) -> Direct {
        gate::add(&gate.counters().channels_direct, 1);
        Direct(gate.clone())
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        gate::take(&self.0.counters().channels_direct, 1);
        self.0.wake_acceptors();
    }
}

/// Drives a channel of this shard until it ends.
pub fn drive(gate: &Rc<Gate>, wire: Wire, attendant: Attendant, direct: Option<Direct>) {
    let link = Link::new(&gate.shard, Side::Gateway, Some(gate.crossing.clone()));
    let attached = Attached::new(gate, &attendant, &link);
    let Attendant { site, point, peer, transport, .. } = attendant;
    let (code, index) = (&gate.common.settings.sites[site].code, gate.shard.index);
    tracing::info!(%peer, site = code, point, shard = index, %transport, "channel up");
    let events = Rc::new(Events { gate: gate.clone(), site, point: point.as_str().into() });
    gate.shard.spawn("link", async move {
        let cause = link.drive(wire, events).await;
        tracing::info!(%peer, point, shard = index, %transport, %cause, "channel gone");
        drop((attached, direct));
    });
}

/// A link in the roster, and its seat. Both end with its task, however that ended: a link that nobody
/// drives would be given requests, and its seat would turn the connection point away for ever.
struct Attached {
    gate: Rc<Gate>,
    site: usize,
    link: Rc<Link>,
    seat: Seat,
}

impl Attached {
    fn new(gate: &Rc<Gate>, attendant: &Attendant, link: &Rc<Link>) -> Attached {
        gate.attach(attendant.site, &attendant.point, link);
        gate.channel_up(attendant, link);
        Attached { gate: gate.clone(), site: attendant.site, link: link.clone(), seat: attendant.seat }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.gate.detach(self.site, &self.link);
        self.gate.channel_down(&self.link);
        self.gate.common.heard.forget(self.gate.shard.index, self.link.id);
        self.gate.port.send(0, GatewayMessage::Left(self.seat));
    }
}

struct Events {
    gate: Rc<Gate>,
    site: usize,
    point: std::sync::Arc<str>,
}

impl LinkEvents for Events {
    fn opened(&self, _link: &Rc<Link>, _stream: Stream, _message: &[u8]) {
        // The core refuses OPEN from a connection point.
    }

    fn settings(&self, link: &Rc<Link>, publication: Publication) {
        let (site, from) = (self.site, self.gate.port.here());
        self.gate.await_verdict(link);
        let point = self.point.clone();
        let published = GatewayMessage::Published { from, link: link.id, site, point, publication };
        self.gate.port.send(0, published);
    }

    fn tokens(&self, _link: &Rc<Link>, publication: Publication) {
        let (site, point) = (self.site, self.point.clone());
        self.gate.port.send(0, GatewayMessage::Tokens { site, point, publication });
    }

    fn revoked(&self, link: &Rc<Link>, list: Publication) {
        let point = (self.site, self.point.clone());
        self.gate.common.heard.hear(point, self.gate.shard.index, link.id, list);
    }

    fn renewal(&self, link: &Rc<Link>, bytes: &[u8]) {
        self.gate.common.asking.hear(self.gate.shard.index, link.id, bytes);
    }

    fn acknowledged(&self, _link: &Rc<Link>, _acknowledgement: Acknowledgement) {}

    fn list_offered(&self, link: &Rc<Link>, tag: ListTag) {
        let (site, from) = (self.site, self.gate.port.here());
        self.gate.await_list_verdict(link);
        self.gate.port.send(0, GatewayMessage::ListOffered { from, link: link.id, site, tag });
    }

    fn list(&self, link: &Rc<Link>, list: List) {
        let (site, from) = (self.site, self.gate.port.here());
        self.gate.await_list_verdict(link);
        self.gate.port.send(0, GatewayMessage::ListCame { from, link: link.id, site, list });
    }

    fn identity(&self, _link: &Rc<Link>, _number: u32, _bytes: &[u8]) {}

    fn identity_gone(&self, _link: &Rc<Link>, _number: u32) {}

    fn room(&self, _link: &Rc<Link>) {
        self.gate.hear_room(self.site);
    }

    fn stalled(&self, _link: &Rc<Link>, is_stalled: bool) {
        let (gate, point) = (&self.gate, &*self.point);
        let (site, shard) = (&gate.common.settings.sites[self.site].code, gate.shard.index);
        if gate.records.stalls.admits(&gate.shard) {
            let what =
                if is_stalled { "stalls: nothing comes; others are asked while it does" } else { "goes on" };
            tracing::warn!(site, point, shard, "a channel {what}");
        }
        if !is_stalled {
            gate.hear_room(self.site);
        }
    }

    fn draining(&self, link: &Rc<Link>) {
        // Streams that live go on; new ones look for another link.
        self.gate.detach(self.site, link);
    }
}

/// Which of those that entered is shown out for another, of (from where, whether it is known): of a crowd from one
/// place the one that waits longest; else one that is not known before one that is, and of those the one that
/// waits longest, for they are in the order they came.
fn shown_out(entering: impl Iterator<Item = (Neighbourhood, bool)>) -> Option<usize> {
    let entering: Vec<_> = entering.collect();
    let mut of: HashMap<Neighbourhood, usize> = HashMap::new();
    entering.iter().for_each(|(from, _)| *of.entry(*from).or_default() += 1);
    let weight = |(place, (from, is_known)): (usize, &(Neighbourhood, bool))| {
        let crowd = of[from].max(CROWD);
        (crowd > CROWD || !is_known, crowd, Reverse(place))
    };
    entering.iter().enumerate().map(weight).max().map(|(_, _, Reverse(place))| place)
}

/// Channels on one instance: 64 connection points with 16 channels each.
const CHANNEL_COUNT_MAX: usize = 1_024;
/// Channels of one connection point: twice as many as there may be shards, for those of its last start may not
/// have ended.
const CHANNELS_OF_POINT_MAX: usize = 2 * limits::SHARD_COUNT_MAX as usize;
const _: () = assert!(CHANNELS_OF_POINT_MAX < CHANNEL_COUNT_MAX);
/// Channels that begin at once from one place and are no crowd: those of several connection points behind one
/// address.
const CROWD: usize = limits::HELLO_COUNT_MAX / 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn from(text: &str) -> Neighbourhood {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn who_floods_the_door_shows_out_himself_and_nobody_who_is_known() {
        let (point, flood) = (from("192.0.2.1"), from("198.51.100.1"));
        let many = |one: (Neighbourhood, bool)| vec![one; CROWD + 1];
        let rows = [
            (vec![], None),
            (vec![(point, false)], Some(0)),
            (vec![(flood, false), (point, false), (point, false)], Some(0)),
            (vec![(flood, true), (point, false), (flood, true)], Some(1)),
            ([vec![(point, false)], many((flood, false))].concat(), Some(1)),
            ([vec![(point, false)], many((flood, true))].concat(), Some(1)),
            (vec![(from("2001:db8::1"), false), (point, false), (from("2001:db8::2"), false)], Some(0)),
        ];
        for (entering, out) in rows {
            assert_eq!(shown_out(entering.iter().copied()), out, "{entering:?}");
        }
    }

    #[test]
    fn a_flood_at_the_door_takes_no_place_of_a_connection_point() {
        let entrance = Rc::new(Entrance::default());
        let slow = entrance.admit(from("192.0.2.1"));
        let flood: Vec<Place> = (0..1_000).map(|_| entrance.admit(from("198.51.100.1"))).collect();
        assert!(!slow.entering.is_shown_out.get());
        assert_eq!(
            flood.iter().filter(|one| !one.entering.is_shown_out.get()).count(),
            limits::HELLO_COUNT_MAX - 1
        );
        assert_eq!(entrance.0.borrow().len(), limits::HELLO_COUNT_MAX);
        drop(flood);
        assert_eq!(entrance.0.borrow().len(), 1);
    }

    #[test]
    fn one_connection_point_takes_no_more_than_its_seats() {
        let lobby = Lobby::default();
        let mut taken = 0u16;
        while lobby.has_seat_for(0, "one") {
            lobby.seats.borrow_mut().insert(([0; 16], taken), (0, "one".to_owned()));
            taken += 1;
        }
        assert_eq!(usize::from(taken), CHANNELS_OF_POINT_MAX);
        assert!(lobby.has_seat_for(0, "two") && lobby.has_seat_for(1, "one"));
        lobby.leave(&([0; 16], 0));
        assert!(lobby.has_seat_for(0, "one"));
    }
}
