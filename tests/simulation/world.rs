//! The site: what happens, what each side does about it by its cores, and what must hold.
//!
//! 1. A request ends once: answered whole, refused, or cut.
//! 2. Every byte of it is its own, in order, both ways.
//! 3. It is done at most once, or twice where it may be; what was answered was done.
//! 4. It waits in vain only while no channel has room.
//! 5. In the end, everything mended: every request has ended, every connection point is attached to every
//!    gateway, and no stream, byte or place is left over.
//!
//! What the shells do between cores is done here as they do it: `gateway/client.rs` and `gateway/wait.rs`,
//! `connector/exchange.rs`, `transport/link.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use cmg::channel::{
    Body, Channel, Event as Heard, RequestMessage, RequestStart, RequestWriter, ResetCode, ResponseMessage,
    ResponseStart, ResponseWriter, StreamId, TrailersWriter,
};
use cmg::dispatch::{
    Attempts, Broke, ClientKey, Facts, Roster, Standing, Then, Ticket, Waiting, WaitingBounds,
};
use cmg::limits::{CHANNEL_LOST_AFTER, LEAVE_WITHIN, STREAM_WINDOW_INITIAL, WAIT_FOR_CHANNEL};
use cmg::refusal::Refusal;

use crate::network::{CONNECTOR, GATEWAY, Link, Parcel, Random};

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// Of what was lost with its channel, anything is sent again.
    RepeatsWhatMustNotBe,
    /// A channel that is lost is taken for one that never heard of the request.
    TakesSilenceForNotSent,
    /// Nobody who waits is told of a channel that comes up.
    ForgetsWhoWaits,
}

/// What came of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    answered: u64,
    refused: u64,
    cut: u64,
    left: u64,
    waited: u64,
    given_back: u64,
    lost: u64,
    repeated: u64,
    done_twice: u64,
    links_lost: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            answered,
            refused,
            cut,
            left,
            waited,
            given_back,
            lost,
            repeated,
            done_twice,
            links_lost,
        } = other;
        self.answered += answered;
        self.refused += refused;
        self.cut += cut;
        self.left += left;
        self.waited += waited;
        self.given_back += given_back;
        self.lost += lost;
        self.repeated += repeated;
        self.done_twice += done_twice;
        self.links_lost += links_lost;
    }

    /// A simulation in which nothing happens holds everything.
    pub fn assert_telling(&self) {
        let Tally {
            answered,
            refused,
            cut,
            left,
            waited,
            given_back,
            lost,
            repeated,
            done_twice,
            links_lost,
        } = *self;
        assert!(answered > 1_000_000 && refused > 100_000 && cut > 2_000 && left > 100_000, "{self:?}");
        assert!(waited > 10_000 && given_back > 10_000 && lost > 10_000 && repeated > 10_000, "{self:?}");
        assert!(done_twice > 300 && links_lost > 5_000, "{self:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Refused,
    Cut,
    /// The client went, or its gateway did.
    Left,
}

#[derive(Debug)]
struct Request {
    gateway: usize,
    facts: Facts,
    sizes: [usize; 2],
    attempts: Attempts,
    place: Option<Ticket>,
    wait_until: Option<Instant>,
    at: Option<(usize, StreamId)>,
    sent: usize,
    has_head: bool,
    heard: usize,
    done: u32,
    end: Option<End>,
}

/// A request at its connection point.
struct Serve {
    stream: StreamId,
    received: usize,
    /// It was done, and this is to be said.
    is_answering: bool,
    has_head: bool,
    sent: usize,
}

struct Gateway {
    is_up: bool,
    roster: Roster<usize>,
    waiting: Waiting<usize>,
}

impl Gateway {
    fn new() -> Gateway {
        let bounds = WaitingBounds { places: 12, of_client: 4, called: 3 };
        Gateway { is_up: true, roster: Roster::new(1), waiting: Waiting::new(1, bounds) }
    }
}

enum Event {
    Arrives { link: usize, to: usize, parcel: Parcel },
    Transmit { link: usize },
    Timeout { link: usize, end: usize },
    Look { request: usize },
    Turn { request: usize },
    WaitOver { request: usize, place: Ticket },
    Consume { link: usize, end: usize, request: usize, count: usize },
    Answer { link: usize, request: usize },
    Leaves { request: usize },
    Comes,
    Fault,
    Heal { gateway: usize, point: usize },
    StartGateway { gateway: usize },
    StartPoint { point: usize },
    Insist { point: usize },
    Stop { point: usize },
    Dial { gateway: usize, point: usize },
}

pub struct World {
    now: Instant,
    random: Random,
    plant: Plant,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    order: u64,
    gateways: Vec<Gateway>,
    points: Vec<bool>,
    links: Vec<Link>,
    armed: Vec<[Option<Instant>; 2]>,
    born: Vec<Instant>,
    cuts: BTreeMap<(usize, usize), bool>,
    requests: Vec<Request>,
    serves: BTreeMap<(usize, usize), Serve>,
    tally: Tally,
    is_mending: bool,
}

const MILLI: Duration = Duration::from_millis(1);

impl World {
    pub fn new(seed: u64, plant: Plant) -> World {
        let mut random = Random(seed);
        let (gateways, points) = (1 + random.below(2), 1 + random.below(3));
        let mut world = World {
            now: Instant::now(),
            random,
            plant,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            order: 0,
            gateways: (0..gateways).map(|_| Gateway::new()).collect(),
            points: vec![true; points],
            links: Vec::new(),
            armed: Vec::new(),
            born: Vec::new(),
            cuts: BTreeMap::new(),
            requests: Vec::new(),
            serves: BTreeMap::new(),
            tally: Tally::default(),
            is_mending: false,
        };
        for gateway in 0..gateways {
            for point in 0..points {
                world.later(Duration::ZERO, Event::Dial { gateway, point });
            }
        }
        world.later(MILLI, Event::Comes);
        world.later(100 * MILLI, Event::Fault);
        world
    }

    /// So many events, then mends everything, and looks whether all comes to rest.
    pub fn run(mut self, steps: usize) -> Tally {
        for _ in 0..steps {
            self.step();
        }
        self.mend();
        let end = self.now + 3 * CHANNEL_LOST_AFTER + WAIT_FOR_CHANNEL;
        while self.requests.iter().any(|request| request.end.is_none()) || !self.is_whole() {
            assert!(self.now < end, "it does not come to rest: {}", self.what_hangs());
            self.step();
        }
        let end = self.now + Duration::from_secs(4);
        while self.now < end {
            self.step();
        }
        self.assert_idle();
        self.tally
    }

    fn step(&mut self) {
        let Reverse((at, order)) = self.queue.pop().expect("pings never end");
        self.now = at;
        let event = self.events.remove(&order).expect("scheduled once");
        self.handle(event);
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after, self.order)));
        self.events.insert(self.order, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives { link, to, parcel } => self.arrives(link, to, parcel),
            Event::Transmit { link } => self.transmit(link),
            Event::Timeout { link, end } => self.timeout(link, end),
            Event::Look { request } => self.look(request),
            Event::Turn { request } => self.turn(request),
            Event::WaitOver { request, place } => self.wait_over(request, place),
            Event::Consume { link, end, request, count } => self.consume(link, end, request, count),
            Event::Answer { link, request } => self.answer(link, request),
            Event::Leaves { request } => self.leaves(request),
            Event::Comes => self.comes(),
            Event::Fault => self.fault(),
            Event::Heal { gateway, point } => self.heal(gateway, point),
            Event::StartGateway { gateway } => self.gateways[gateway].is_up = true,
            Event::StartPoint { point } => self.start_point(point),
            Event::Insist { point } => self.insist(point),
            Event::Stop { point } => self.stop(point),
            Event::Dial { gateway, point } => self.dial(gateway, point),
        }
    }

    // ── clients ─────────────────────────────────────────────────────────────────────────────────

    fn comes(&mut self) {
        if self.is_mending {
            return;
        }
        let wait = self.random.micros(8_000);
        self.later(wait, Event::Comes);
        let gateway = self.random.below(self.gateways.len());
        if !self.gateways[gateway].is_up {
            return;
        }
        let size = |random: &mut Random| {
            if random.is_one_in(12) { random.below(150_000) } else { random.below(3_000) }
        };
        let has_body = self.random.is_one_in(2);
        let is_repeatable = !has_body && !self.random.is_one_in(4);
        let sizes = [if has_body { size(&mut self.random) } else { 0 }, size(&mut self.random)];
        self.requests.push(Request {
            gateway,
            facts: Facts { has_body, is_repeatable },
            sizes,
            attempts: Attempts::default(),
            place: None,
            wait_until: None,
            at: None,
            sent: 0,
            has_head: false,
            heard: 0,
            done: 0,
            end: None,
        });
        let request = self.requests.len() - 1;
        if self.random.is_one_in(20) {
            let stays = self.random.micros(100_000);
            self.later(stays, Event::Leaves { request });
        }
        self.look(request);
    }

    fn leaves(&mut self, number: usize) {
        let request = &mut self.requests[number];
        if request.end.is_some() {
            return;
        }
        if let Some((link, stream)) = request.at.take()
            && let Some(channel) = &mut self.links[link].ends[GATEWAY]
        {
            channel.reset(stream, ResetCode::Cancelled);
            self.transmit(link);
        }
        self.finish(number, End::Left);
    }

    /// The one end of a request.
    fn finish(&mut self, number: usize, end: End) {
        let request = &mut self.requests[number];
        assert_eq!(request.end.replace(end), None, "request {number} ends twice");
        if end == End::Answered {
            assert_eq!(request.heard, request.sizes[1], "request {number} is short");
            assert!(request.done > 0, "request {number} was answered and never done");
        }
        self.tally.done_twice += u64::from(request.done > 1);
        match end {
            End::Answered => self.tally.answered += 1,
            End::Refused => self.tally.refused += 1,
            End::Cut => self.tally.cut += 1,
            End::Left => self.tally.left += 1,
        }
        if let Some(place) = request.place.take() {
            let gateway = request.gateway;
            self.gateways[gateway].waiting.leave(place);
            self.call_waiting(gateway);
        }
    }

    // ── a channel for a request ─────────────────────────────────────────────────────────────────

    fn look(&mut self, number: usize) {
        if self.requests[number].end.is_some() {
            return;
        }
        match self.open(number) {
            Some((link, stream)) => {
                let request = &mut self.requests[number];
                request.at = Some((link, stream));
                (request.sent, request.heard) = (0, 0);
                let (place, gateway) = (request.place.take(), request.gateway);
                if let Some(place) = place {
                    self.gateways[gateway].waiting.leave(place);
                    self.call_waiting(gateway);
                }
                self.send_body(number);
                self.transmit(link);
            }
            None => self.line_up(number),
        }
    }

    fn open(&mut self, number: usize) -> Option<(usize, StreamId)> {
        let Request { gateway, facts, place, .. } = &self.requests[number];
        let Gateway { roster, waiting, .. } = &mut self.gateways[*gateway];
        let standing = place.and_then(|place| waiting.standing(place));
        if waiting.held() > 0 && standing != Some(Standing::Called) && waiting.has_line(0) {
            return None;
        }
        let message = request_message(number, facts.has_body);
        let mut opened = None;
        let links = &mut self.links;
        for is_stalled in [false, true] {
            roster.choose(0, |link| {
                let is_meant = links[*link].is_open() && links[*link].is_stalled() == is_stalled;
                let channel = links[*link].ends[GATEWAY].as_mut().filter(|_| is_meant);
                let stream = channel.and_then(|channel| channel.open(&message, number as u32).ok());
                opened = stream.map(|stream| (*link, stream));
                opened.is_some()
            });
            if opened.is_some() {
                break;
            }
        }
        opened
    }

    fn line_up(&mut self, number: usize) {
        let (now, gateway) = (self.now, self.requests[number].gateway);
        let request = &mut self.requests[number];
        let until = *request.wait_until.get_or_insert(now + WAIT_FOR_CHANNEL);
        if now >= until {
            return self.waits_in_vain(number);
        }
        let waiting = &mut self.gateways[gateway].waiting;
        match request.place.filter(|place| waiting.standing(*place).is_some()) {
            Some(place) => waiting.put_back(place),
            None => {
                if !waiting.has_line(0) {
                    waiting.hear_none(0);
                }
                let client = ClientKey::Certificate([number as u8 % 5; 32]);
                let Ok((place, loser)) = waiting.enter(0, client, number) else {
                    return self.finish(number, End::Refused);
                };
                self.tally.waited += 1;
                request.place = Some(place);
                let loser = loser.copied();
                self.later(until - now, Event::WaitOver { request: number, place });
                if let Some(request) = loser {
                    self.later(Duration::ZERO, Event::Turn { request });
                }
            }
        }
        self.call_waiting(gateway);
    }

    fn call_waiting(&mut self, gateway: usize) {
        while let Some(request) = self.gateways[gateway].waiting.poll_call().copied() {
            self.later(Duration::ZERO, Event::Turn { request });
        }
    }

    fn turn(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let Some(place) = request.place.filter(|_| request.end.is_none()) else { return };
        match self.gateways[request.gateway].waiting.standing(place) {
            Some(Standing::Called) => {
                request.attempts.handle_turn();
                self.look(number);
            }
            Some(Standing::Ended(_)) => self.finish(number, End::Refused),
            Some(Standing::Waiting) | None => {}
        }
    }

    fn wait_over(&mut self, number: usize, place: Ticket) {
        let request = &self.requests[number];
        if request.end.is_none() && request.place == Some(place) {
            self.waits_in_vain(number);
        }
    }

    fn waits_in_vain(&mut self, number: usize) {
        let gateway = self.requests[number].gateway;
        let has_room = |(link, born): (&Link, &Instant)| {
            let channel = link.ends[GATEWAY].as_ref().filter(|_| link.gateway == gateway && link.is_open());
            channel.is_some_and(|channel| channel.has_room_for_streams()) && self.now > *born + MILLI * 100
        };
        let is_wrong = self.links.iter().zip(&self.born).any(has_room);
        assert!(!is_wrong, "request {number} waits in vain beside a channel with room");
        self.finish(number, End::Refused);
    }

    /// Its stream broke off before an answer.
    fn broke(&mut self, number: usize, broke: Broke) {
        let request = &mut self.requests[number];
        let (mut broke, mut facts) = (broke, request.facts);
        match broke {
            Broke::NotBegun => self.tally.given_back += 1,
            Broke::Lost => self.tally.lost += 1,
        }
        match self.plant {
            Plant::RepeatsWhatMustNotBe => facts = Facts { has_body: false, is_repeatable: true },
            Plant::TakesSilenceForNotSent => broke = Broke::NotBegun,
            Plant::Nothing | Plant::ForgetsWhoWaits => {}
        }
        match request.attempts.handle_broken(broke, facts) {
            Then::Again => self.look(number),
            Then::AgainAfter(pause) => {
                self.tally.repeated += 1;
                self.later(pause, Event::Look { request: number });
            }
            Then::GiveUp(_) => self.finish(number, End::Refused),
        }
    }

    // ── bytes ───────────────────────────────────────────────────────────────────────────────────

    fn send_body(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let Some((link, stream)) = request.at.filter(|_| request.facts.has_body) else { return };
        let Link { ends, ways, .. } = &mut self.links[link];
        let Some(channel) = &mut ends[GATEWAY] else { return };
        let size = request.sizes[0];
        if request.sent > size {
            return;
        }
        let bytes = pattern(number, 0, request.sent, size - request.sent);
        request.sent += channel.data(stream, &bytes);
        ways[GATEWAY].is_full |= !channel.has_room_for_bulk();
        if request.sent == size {
            channel.end(stream, &no_trailers());
            // It is said once.
            request.sent += 1;
        }
    }

    fn produce(&mut self, link: usize, number: usize) {
        let size = self.requests[number].sizes[1];
        let Some(serve) = self.serves.get_mut(&(link, number)).filter(|serve| serve.has_head) else { return };
        let Link { ends, ways, .. } = &mut self.links[link];
        let Some(channel) = &mut ends[CONNECTOR] else { return };
        let bytes = pattern(number, 1, serve.sent, size - serve.sent);
        serve.sent += channel.data(serve.stream, &bytes);
        ways[CONNECTOR].is_full |= !channel.has_room_for_bulk();
        let stream = serve.stream;
        if serve.sent == size {
            channel.end(stream, &no_trailers());
            self.serves.remove(&(link, number));
        } else if self.random.is_one_in(30) {
            channel.reset(stream, ResetCode::OriginBroke);
            self.serves.remove(&(link, number));
        }
    }

    fn consume(&mut self, link: usize, end: usize, number: usize, count: usize) {
        let stream = match end {
            GATEWAY => self.requests[number].at.filter(|(at, _)| *at == link).map(|(_, stream)| stream),
            _ => self.serves.get(&(link, number)).map(|serve| serve.stream),
        };
        if let (Some(stream), Some(channel)) = (stream, &mut self.links[link].ends[end]) {
            channel.consumed(stream, count);
            self.transmit(link);
        }
    }

    /// Sends what waits, in pieces; now and then some of it only later.
    fn transmit(&mut self, link: usize) {
        for end in [GATEWAY, CONNECTOR] {
            while let Some(channel) = &mut self.links[link].ends[end] {
                let waits = channel.transmit_len();
                if waits == 0 {
                    break;
                }
                if self.random.is_one_in(6) {
                    self.later(MILLI, Event::Transmit { link });
                    break;
                }
                let count = waits.min(1 + self.random.below(30_000));
                let bytes = channel.transmit()[..count].to_vec();
                channel.transmitted(count);
                self.send(link, end, Parcel::Bytes(bytes));
            }
            self.arm(link, end);
        }
        self.tell_room(link);
        for end in [GATEWAY, CONNECTOR] {
            let has_room =
                self.links[link].ends[end].as_ref().is_some_and(|channel| channel.has_room_for_bulk());
            if has_room && std::mem::take(&mut self.links[link].ways[end].is_full) {
                self.go_on(link, end);
                self.later(MILLI, Event::Transmit { link });
            }
        }
    }

    /// There is room, or credit, for what this end sends.
    fn go_on(&mut self, link: usize, end: usize) {
        if end == GATEWAY {
            let on_it = |request: &Request| request.at.is_some_and(|(at, _)| at == link);
            let all: Vec<usize> = (0..self.requests.len()).filter(|at| on_it(&self.requests[*at])).collect();
            all.into_iter().for_each(|number| self.send_body(number));
        } else {
            let all: Vec<usize> =
                self.serves.range((link, 0)..(link + 1, 0)).map(|((_, at), _)| *at).collect();
            all.into_iter().for_each(|number| self.produce(link, number));
        }
    }

    fn tell_room(&mut self, link: usize) {
        let gateway = self.links[link].gateway;
        let channel = self.links[link].ends[GATEWAY].as_ref().filter(|_| self.links[link].is_open());
        let has_room = channel.is_some_and(|channel| channel.has_room_for_streams());
        let waiting = &mut self.gateways[gateway].waiting;
        if has_room && waiting.is_held_up(0) && self.plant != Plant::ForgetsWhoWaits {
            waiting.hear_room(0);
            self.call_waiting(gateway);
        }
    }

    fn is_cut(&self, link: usize) -> bool {
        let Link { gateway, point, .. } = self.links[link];
        self.cuts.get(&(gateway, point)).copied().unwrap_or(false)
    }

    fn send(&mut self, link: usize, end: usize, parcel: Parcel) {
        if self.is_cut(link) {
            return self.links[link].ways[end].stuck.push(parcel);
        }
        let takes = self.random.micros(3_000);
        let way = &mut self.links[link].ways[end];
        let at = way.last.map_or(self.now + takes, |last| last.max(self.now + takes));
        way.last = Some(at);
        self.later(at - self.now, Event::Arrives { link, to: 1 - end, parcel });
    }

    fn arm(&mut self, link: usize, end: usize) {
        let due = self.links[link].ends[end].as_ref().and_then(|channel| channel.poll_timeout());
        let Some(due) = due else { return };
        let armed = &mut self.armed[link][end];
        if armed.is_none_or(|armed| due < armed) {
            *armed = Some(due);
            self.later(due.saturating_duration_since(self.now), Event::Timeout { link, end });
        }
    }

    fn timeout(&mut self, link: usize, end: usize) {
        self.armed[link][end] = None;
        let now = self.now;
        let Some(channel) = &mut self.links[link].ends[end] else { return };
        if channel.poll_timeout().is_some_and(|due| due <= now) && channel.handle_timeout(now).is_err() {
            return self.lose(link, end, true);
        }
        self.transmit(link);
    }

    // ── what is heard ───────────────────────────────────────────────────────────────────────────

    fn arrives(&mut self, link: usize, to: usize, parcel: Parcel) {
        if self.links[link].ends[to].is_none() {
            return;
        }
        let bytes = match parcel {
            Parcel::Bytes(bytes) => bytes,
            Parcel::Eof => return self.lose(link, to, false),
        };
        let mut inbox = std::mem::take(&mut self.links[link].ways[to].inbox);
        inbox.extend_from_slice(&bytes);
        let mut used = 0;
        while let Some(mut channel) = self.links[link].ends[to].take() {
            let now = self.now;
            let heard = channel.handle_frame(&inbox[used..], now).expect("both ends keep to the protocol");
            let Some((size, event)) = heard else {
                self.links[link].ends[to] = Some(channel);
                break;
            };
            let event = Told::of(event);
            used += size;
            self.links[link].ends[to] = Some(channel);
            match to {
                GATEWAY => self.hear_at_gateway(link, event),
                _ => self.hear_at_point(link, event),
            }
        }
        inbox.drain(..used);
        self.links[link].ways[to].inbox = inbox;
        self.transmit(link);
    }

    fn hear_at_gateway(&mut self, link: usize, told: Told) {
        match told {
            Told::Head { stream, number, message } => {
                let head = ResponseMessage::parse(&message).expect("as it was written");
                let request = &mut self.requests[number];
                assert_eq!(request.at, Some((link, stream)), "an answer to somebody else");
                assert!(!std::mem::replace(&mut request.has_head, true), "a second head");
                let named = head.fields().next().expect("it has one").value;
                assert_eq!(named, number.to_string().as_bytes(), "an answer of somebody else");
            }
            Told::Data { stream, number, data } => {
                let request = &mut self.requests[number];
                assert_eq!(request.at, Some((link, stream)), "bytes for somebody else");
                assert_eq!(
                    data,
                    pattern(number, 1, request.heard, data.len()),
                    "bytes lost, doubled or mixed"
                );
                request.heard += data.len();
                let takes = self.random.micros(20_000);
                let (end, count) = (GATEWAY, data.len());
                self.later(takes, Event::Consume { link, end, request: number, count });
            }
            Told::End { stream, number } => {
                let request = &mut self.requests[number];
                assert_eq!(request.at.take(), Some((link, stream)), "an end for somebody else");
                self.finish(number, End::Answered);
            }
            Told::Reset { number, code, .. } => {
                let request = &mut self.requests[number];
                request.at = None;
                match code {
                    _ if request.has_head => self.finish(number, End::Cut),
                    ResetCode::NotBegun => self.broke(number, Broke::NotBegun),
                    _ => self.finish(number, End::Refused),
                }
            }
            Told::Writable { number } => self.send_body(number),
            Told::Room => self.go_on(link, GATEWAY),
            Told::Drain => drop(self.detach(link)),
            Told::Nothing => {}
            Told::Opened { .. } => panic!("a connection point opens nothing"),
        }
    }

    fn hear_at_point(&mut self, link: usize, told: Told) {
        match told {
            Told::Opened { stream, message } => self.opened(link, stream, &message),
            Told::Data { number, data, .. } => {
                let serve = self.serves.get_mut(&(link, number)).expect("bytes for nobody");
                assert_eq!(
                    data,
                    pattern(number, 0, serve.received, data.len()),
                    "bytes lost, doubled or mixed"
                );
                serve.received += data.len();
                let takes = self.random.micros(10_000);
                let (end, count) = (CONNECTOR, data.len());
                self.later(takes, Event::Consume { link, end, request: number, count });
            }
            Told::End { number, .. } => self.carry_out(link, number),
            Told::Reset { number, .. } => drop(self.serves.remove(&(link, number))),
            Told::Writable { number } => self.produce(link, number),
            Told::Room => self.go_on(link, CONNECTOR),
            Told::Drain | Told::Nothing => {}
            Told::Head { .. } => panic!("a gateway answers nothing"),
        }
    }

    fn opened(&mut self, link: usize, stream: StreamId, message: &[u8]) {
        let asked = RequestMessage::parse(message).expect("as it was written");
        let number = u128::from_be_bytes(asked.request_id) as usize;
        assert_eq!(asked.has_body, self.requests[number].facts.has_body);
        let channel = self.links[link].ends[CONNECTOR].as_mut().expect("it heard");
        channel.set_token(stream, number as u32);
        if self.random.is_one_in(25) {
            return channel.reset(stream, ResetCode::NotBegun);
        }
        let serve = Serve { stream, received: 0, is_answering: false, has_head: false, sent: 0 };
        assert!(self.serves.insert((link, number), serve).is_none(), "opened twice");
        if !asked.has_body {
            self.carry_out(link, number);
        }
    }

    /// The origin has all of it: it is done, whatever becomes of the answer.
    fn carry_out(&mut self, link: usize, number: usize) {
        let Some(serve) = self.serves.get_mut(&(link, number)) else { return };
        let request = &mut self.requests[number];
        assert_eq!(serve.received, request.sizes[0], "half a body is done");
        serve.is_answering = true;
        request.done += 1;
        let most = if request.facts.is_repeatable { 2 } else { 1 };
        assert!(
            request.done <= most,
            "request {number} was done {} times: {:?}",
            request.done,
            request.facts
        );
        let takes = self.random.micros(10_000);
        self.later(takes, Event::Answer { link, request: number });
    }

    fn answer(&mut self, link: usize, number: usize) {
        let Some(serve) =
            self.serves.get_mut(&(link, number)).filter(|serve| serve.is_answering && !serve.has_head)
        else {
            return;
        };
        let Some(channel) = &mut self.links[link].ends[CONNECTOR] else { return };
        if self.random.is_one_in(40) {
            channel.reset(serve.stream, Refusal::BadGateway);
            self.serves.remove(&(link, number));
        } else if channel.head(serve.stream, &response_message(number)).is_ok() {
            serve.has_head = true;
            self.produce(link, number);
        } else {
            self.later(MILLI, Event::Answer { link, request: number });
        }
        self.transmit(link);
    }

    // ── links come and go ───────────────────────────────────────────────────────────────────────

    fn dial(&mut self, gateway: usize, point: usize) {
        if !self.points[point] || self.is_linked(gateway, point) {
            return;
        }
        let is_cut = self.cuts.get(&(gateway, point)).copied().unwrap_or(false);
        if is_cut || !self.gateways[gateway].is_up {
            let wait = Duration::from_millis(250 + self.random.below(4_000) as u64);
            return self.later(wait, Event::Dial { gateway, point });
        }
        let link = self.links.len();
        self.links.push(Link::new(gateway, point, self.now));
        self.armed.push([None; 2]);
        self.born.push(self.now);
        self.gateways[gateway].roster.attach(0, &format!("point {point}"), link as u64, link);
        self.transmit(link);
    }

    fn is_linked(&self, gateway: usize, point: usize) -> bool {
        let is_it = |link: &Link| link.gateway == gateway && link.point == point;
        self.links.iter().any(|link| is_it(link) && link.ends[CONNECTOR].is_some())
    }

    fn detach(&mut self, link: usize) -> Option<usize> {
        let gateway = self.links[link].gateway;
        self.gateways[gateway].roster.detach(0, link as u64)
    }

    /// An end knows that its channel is lost.
    fn lose(&mut self, link: usize, end: usize, says_so: bool) {
        let Some(mut channel) = self.links[link].ends[end].take() else { return };
        self.tally.links_lost += u64::from(end == GATEWAY);
        if says_so {
            self.send(link, end, Parcel::Eof);
        }
        let Link { gateway, point, .. } = self.links[link];
        if end == CONNECTOR {
            self.drop_serves(link);
            let wait = Duration::from_millis(250 + self.random.below(500) as u64);
            return self.later(wait, Event::Dial { gateway, point });
        }
        self.detach(link);
        for number in 0..self.requests.len() {
            let request = &mut self.requests[number];
            let Some((_, stream)) = request.at.filter(|(at, _)| *at == link) else { continue };
            request.at = None;
            let is_untaken = channel.is_untaken(stream);
            match is_untaken {
                _ if request.has_head => self.finish(number, End::Cut),
                true => self.broke(number, Broke::NotBegun),
                false => self.broke(number, Broke::Lost),
            }
        }
    }

    fn drop_serves(&mut self, link: usize) {
        self.serves.retain(|(at, _), _| *at != link);
    }

    // ── faults ──────────────────────────────────────────────────────────────────────────────────

    fn fault(&mut self) {
        if self.is_mending {
            return;
        }
        let wait = Duration::from_millis(self.random.below(2_000) as u64);
        self.later(wait, Event::Fault);
        let (gateway, point) = (self.random.below(self.gateways.len()), self.random.below(self.points.len()));
        let lasts = Duration::from_millis(1 + self.random.below(25_000) as u64);
        match self.random.below(8) {
            0 if self.gateways[gateway].is_up => self.kill_gateway(gateway, lasts / 10),
            1 if self.points[point] => self.kill_point(point, lasts / 10),
            2 | 3 if self.points[point] => self.leave(point),
            4..=6 if !self.cuts.insert((gateway, point), true).unwrap_or(false) => {
                self.later(lasts, Event::Heal { gateway, point });
            }
            _ => {}
        }
    }

    fn links_of(&self, is_it: impl Fn(&Link) -> bool) -> Vec<usize> {
        (0..self.links.len()).filter(|link| is_it(&self.links[*link])).collect()
    }

    fn heal(&mut self, gateway: usize, point: usize) {
        self.cuts.insert((gateway, point), false);
        for link in self.links_of(|link| link.gateway == gateway && link.point == point) {
            for end in [GATEWAY, CONNECTOR] {
                for parcel in std::mem::take(&mut self.links[link].ways[end].stuck) {
                    self.send(link, end, parcel);
                }
            }
        }
    }

    fn kill_gateway(&mut self, gateway: usize, lasts: Duration) {
        self.gateways[gateway] = Gateway { is_up: false, ..Gateway::new() };
        for link in self.links_of(|link| link.gateway == gateway && link.ends[GATEWAY].is_some()) {
            self.links[link].ends[GATEWAY] = None;
            self.send(link, GATEWAY, Parcel::Eof);
        }
        for number in 0..self.requests.len() {
            let request = &mut self.requests[number];
            if request.gateway == gateway && request.end.is_none() {
                (request.at, request.place) = (None, None);
                self.finish(number, End::Left);
            }
        }
        self.later(lasts, Event::StartGateway { gateway });
    }

    fn kill_point(&mut self, point: usize, lasts: Duration) {
        self.points[point] = false;
        for link in self.links_of(|link| link.point == point && link.ends[CONNECTOR].is_some()) {
            self.links[link].ends[CONNECTOR] = None;
            self.drop_serves(link);
            self.send(link, CONNECTOR, Parcel::Eof);
        }
        self.later(lasts, Event::StartPoint { point });
    }

    /// As `connector/mod.rs` ends: first asks, then insists, then goes.
    fn leave(&mut self, point: usize) {
        self.each_end(point, |channel| channel.leave());
        self.later(LEAVE_WITHIN, Event::Insist { point });
    }

    fn insist(&mut self, point: usize) {
        self.each_end(point, |channel| channel.drain());
        self.later(Duration::from_secs(1), Event::Stop { point });
    }

    fn each_end(&mut self, point: usize, what: impl Fn(&mut Channel)) {
        for link in self.links_of(|link| link.point == point) {
            self.links[link].ends[CONNECTOR].as_mut().into_iter().for_each(&what);
            self.transmit(link);
        }
    }

    fn stop(&mut self, point: usize) {
        if self.points[point] {
            self.kill_point(point, MILLI);
        }
    }

    fn start_point(&mut self, point: usize) {
        self.points[point] = true;
        for gateway in 0..self.gateways.len() {
            self.later(MILLI, Event::Dial { gateway, point });
        }
    }

    // ── the end ─────────────────────────────────────────────────────────────────────────────────

    /// No further fault and no further request; what is cut heals, what is down starts by itself.
    fn mend(&mut self) {
        self.is_mending = true;
        let cut: Vec<_> = self.cuts.iter().filter(|(_, is_cut)| **is_cut).map(|(path, _)| *path).collect();
        for (gateway, point) in cut {
            self.heal(gateway, point);
        }
    }

    fn is_whole(&self) -> bool {
        let pairs =
            (0..self.gateways.len()).flat_map(|one| (0..self.points.len()).map(move |two| (one, two)));
        let is_up = |(gateway, point): (usize, usize)| {
            let is_it = |link: &&Link| link.gateway == gateway && link.point == point && link.is_open();
            self.links.iter().any(|link| {
                is_it(&link) && link.ends[CONNECTOR].as_ref().is_some_and(|end| !end.is_draining())
            })
        };
        pairs.into_iter().all(is_up)
    }

    fn what_hangs(&self) -> String {
        let hanging = self.requests.iter().enumerate().filter(|(_, request)| request.end.is_none());
        let hanging: Vec<_> = hanging.collect();
        format!("requests {hanging:?}, whole: {}", self.is_whole())
    }

    fn assert_idle(&self) {
        for (number, gateway) in self.gateways.iter().enumerate() {
            assert_eq!(gateway.waiting.held(), 0, "a place is left over at gateway {number}");
        }
        for (number, link) in self.links.iter().enumerate() {
            let [Some(one), Some(other)] = &link.ends else { continue };
            assert_eq!(
                (one.stream_count(), other.stream_count()),
                (0, 0),
                "a stream is left over on link {number}"
            );
        }
        let live = |(link, _): &(usize, usize)| self.links[*link].ends[CONNECTOR].is_some();
        assert!(!self.serves.keys().any(live), "a connection point serves on");
    }
}

/// An event that outlives the bytes it was read from.
enum Told {
    Nothing,
    Opened { stream: StreamId, message: Vec<u8> },
    Head { stream: StreamId, number: usize, message: Vec<u8> },
    Data { stream: StreamId, number: usize, data: Vec<u8> },
    End { stream: StreamId, number: usize },
    Reset { number: usize, code: ResetCode },
    Writable { number: usize },
    Room,
    Drain,
}

impl Told {
    fn of(event: Heard<'_>) -> Told {
        match event {
            Heard::Opened { stream, message } => Told::Opened { stream, message: message.to_vec() },
            Heard::Head { stream, token, message } => {
                Told::Head { stream, number: token as usize, message: message.to_vec() }
            }
            Heard::Data { stream, token, data } => {
                Told::Data { stream, number: token as usize, data: data.to_vec() }
            }
            Heard::End { stream, token, .. } => Told::End { stream, number: token as usize },
            Heard::Reset { token, code, .. } => Told::Reset { number: token as usize, code },
            Heard::Writable { token, .. } => Told::Writable { number: token as usize },
            Heard::Room => Told::Room,
            Heard::Drain => Told::Drain,
            Heard::None | Heard::Pong => Told::Nothing,
            other => panic!("nobody said {other:?}"),
        }
    }
}

// ── what is said ────────────────────────────────────────────────────────────────────────────────

/// Bytes that no other request, direction or place has in this order.
fn pattern(number: usize, direction: usize, from: usize, count: usize) -> Vec<u8> {
    let start = (number * 7_919 + direction * 31_337 + from) as u64;
    (0..count as u64).map(|at| ((start + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn request_message(number: usize, has_body: bool) -> Vec<u8> {
    let start = RequestStart {
        request_id: (number as u128).to_be_bytes(),
        identity: 0,
        window: STREAM_WINDOW_INITIAL as u32,
        has_body,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: if has_body { b"CCM_POST" } else { b"GET" },
        target: b"/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/x",
        host: b"gateway.example",
    };
    let mut out = Vec::new();
    RequestWriter::new(&mut out, &start).expect("fits").finish();
    out
}

fn response_message(number: usize) -> Vec<u8> {
    let start = ResponseStart { status: 200, reason: b"OK", length: None, body: Body::Unknown };
    let mut out = Vec::new();
    let mut writer = ResponseWriter::new(&mut out, &start).expect("fits");
    writer.field(b"x-number", number.to_string().as_bytes()).expect("fits");
    writer.finish();
    out
}

fn no_trailers() -> Vec<u8> {
    let mut out = Vec::new();
    TrailersWriter::new(&mut out).finish();
    out
}
