//! Two ends of a channel on a made-up network, driven by a list of bytes, beside a model that knows what
//! each end must hear.
//!
//! The bytes decide what is asked, how much moves, and where it is split. In the end everything is
//! carried out, and nothing may be left over: no stream, no byte, no credit. Used by [`super::fuzz`] and
//! by tests, which replay a failure from its seed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::mux::Channel;
use super::*;
use crate::limits::{CHANNEL_LOST_AFTER, FRAME_PAYLOAD_SIZE_MAX, STREAM_WINDOW_INITIAL};

/// One exchange as both shells know it.
#[derive(Debug)]
struct Exchange {
    /// Gateway and connector ids, while the shell believes the stream lives.
    at: [Option<StreamId>; 2],
    was_opened: bool,
    /// By direction: 0 from the gateway, 1 from the connector.
    flows: [Flow; 2],
    head_sent: bool,
    head_heard: bool,
    interims: usize,
    /// Who broke it off, and how.
    reset: [Option<ResetCode>; 2],
}

/// One direction of an exchange.
#[derive(Debug, Default)]
struct Flow {
    size: usize,
    sent: usize,
    heard: usize,
    /// Heard and not yet consumed.
    held: usize,
    end_sent: bool,
    end_heard: bool,
}

/// Both ends, the wires between, and the model.
pub(super) struct World<'b> {
    script: &'b [u8],
    now: Instant,
    flushed: Instant,
    ends: [Channel; 2],
    /// Bytes on their way to the other end, then bytes that came there.
    wires: [Vec<u8>; 2],
    inboxes: [Vec<u8>; 2],
    exchanges: Vec<Exchange>,
    /// Exchanges in the order opened whose OPEN has not come.
    to_open: VecDeque<usize>,
    identities: HashSet<u32>,
    identities_heard: HashMap<u32, Vec<u8>>,
    published: u64,
    settings_heard: u64,
    /// The list on its way.
    list: Option<List>,
    acknowledged: u64,
    reports_sent: [usize; 2],
    reports_heard: [usize; 2],
    drains: [bool; 2],
    leaves: bool,
    makes_way: bool,
    renewals: usize,
    lists: u64,
    steps: u32,
}

const GATEWAY: usize = 0;
const CONNECTOR: usize = 1;
const EXCHANGES_MAX: usize = 400;

/// Runs a script to its end and carries everything out.
pub(super) fn run(script: &[u8], now: Instant, first_wire: u32) {
    let mut world = World::new(script, now, first_wire);
    while let Some(op) = world.byte() {
        world.step(op);
    }
    world.finish();
}

impl<'b> World<'b> {
    fn new(script: &'b [u8], now: Instant, first_wire: u32) -> World<'b> {
        let mut ends = [Channel::new(Side::Gateway, now), Channel::new(Side::Connector, now)];
        for end in &mut ends {
            end.last_wire = first_wire;
        }
        World {
            script,
            now,
            flushed: now,
            ends,
            wires: Default::default(),
            inboxes: Default::default(),
            exchanges: Vec::new(),
            to_open: VecDeque::new(),
            identities: HashSet::new(),
            identities_heard: HashMap::new(),
            published: 0,
            settings_heard: 0,
            list: None,
            acknowledged: 0,
            reports_sent: [0; 2],
            reports_heard: [0; 2],
            drains: [false; 2],
            leaves: false,
            makes_way: false,
            renewals: 0,
            lists: 0,
            steps: 0,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.script.split_first()?;
        self.script = rest;
        Some(*first)
    }

    /// A number below `bound`; 0 once the script is over.
    fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(self.byte().unwrap_or(0)) << 8 | usize::from(self.byte().unwrap_or(0));
        number * bound / 65_536
    }

    fn step(&mut self, op: u8) {
        let end = usize::from(op >> 7);
        match op & 0x1f {
            0..=3 => self.open(),
            4..=8 => self.send_some(end),
            9 | 10 => self.answer(),
            11..=13 => self.consume_some(end),
            14..=18 => self.transmit_some(end),
            19..=24 => self.deliver_some(end),
            25 => self.break_off(end),
            26 => self.pass_time(),
            27 => self.identify(),
            28 => self.publish(),
            29 if op == 0xfd => self.drain(end),
            29 if op == 0xdd => self.leave(),
            29 if op == 0xbd => self.make_way(),
            29 if op == 0x9d => self.renew(),
            29 if op == 0x7d => self.revoke(),
            30 => self.report(end),
            _ => self.flush(),
        }
        // Looking at every stream after every step would cost more than the steps.
        self.steps += 1;
        if self.steps.is_multiple_of(8) || self.exchanges.len() < 8 {
            self.ends.iter_mut().for_each(Channel::assert_sound);
        }
    }

    fn open(&mut self) {
        if self.exchanges.len() >= EXCHANGES_MAX {
            return;
        }
        let number = self.exchanges.len();
        let has_body = self.below(2) == 1;
        let sizes = [if has_body { self.below(200_000) } else { 0 }, self.below(200_000)];
        let identity = self.identities.iter().copied().min().unwrap_or(0);
        let window = (STREAM_WINDOW_INITIAL - self.below(60_000)) as u32;
        let message = request(number, has_body, identity, window);
        let id = match self.ends[GATEWAY].open(&message, number as u32) {
            Ok(id) => id,
            Err(Busy::Draining) => return assert!(self.drains[0] || self.drains[1] || self.leaves),
            Err(Busy::Backlog) => return,
            Err(busy) => panic!("{busy:?}"),
        };
        let flows = sizes.map(|size| Flow { size, ..Flow::default() });
        let mut exchange = Exchange {
            at: [Some(id), None],
            was_opened: false,
            flows,
            head_sent: false,
            head_heard: false,
            interims: 0,
            reset: [None; 2],
        };
        exchange.flows[GATEWAY].end_sent = !has_body;
        exchange.flows[GATEWAY].end_heard = !has_body;
        self.exchanges.push(exchange);
        self.to_open.push_back(number);
    }

    fn pick(&mut self) -> Option<usize> {
        let count = self.exchanges.len();
        (count > 0).then(|| count - 1 - self.below(count.min(32)))
    }

    fn send_some(&mut self, end: usize) {
        let most = 1 + self.below(80_000);
        if let Some(number) = self.pick() {
            self.send(end, number, most);
        }
    }

    /// Sends up to `most` bytes, and the end behind the last. Whether anything was sent.
    fn send(&mut self, end: usize, number: usize, most: usize) -> bool {
        let exchange = &mut self.exchanges[number];
        let Some(id) = exchange.at[end] else { return false };
        let flow = &mut exchange.flows[end];
        if flow.end_sent || (end == CONNECTOR && !exchange.head_sent) {
            return false;
        }
        let bytes = pattern(number, end, flow.sent, most.min(flow.size - flow.sent).min(100_000));
        let accepted = self.ends[end].data(id, &bytes);
        flow.sent += accepted;
        if flow.sent < flow.size {
            return accepted > 0;
        }
        self.ends[end].end(id, &trailers(number));
        flow.end_sent = true;
        true
    }

    fn answer(&mut self) {
        let interim = self.below(4) == 0;
        if let Some(number) = self.pick() {
            self.head(number, interim);
        }
    }

    fn head(&mut self, number: usize, interim: bool) -> bool {
        let exchange = &mut self.exchanges[number];
        let Some(id) = exchange.at[CONNECTOR].filter(|_| !exchange.head_sent) else { return false };
        match self.ends[CONNECTOR].head(id, &response(number, interim)) {
            Ok(()) if interim => exchange.interims += 1,
            Ok(()) => exchange.head_sent = true,
            Err(Busy::Full) => assert!(interim && exchange.interims == crate::limits::INTERIM_COUNT_MAX),
            Err(busy) => assert_eq!(busy, Busy::Backlog),
        }
        exchange.head_sent
    }

    fn consume_some(&mut self, end: usize) {
        let most = 1 + self.below(100_000);
        if let Some(number) = self.pick() {
            self.consume(end, number, most);
        }
    }

    fn consume(&mut self, end: usize, number: usize, most: usize) -> bool {
        let exchange = &mut self.exchanges[number];
        let flow = &mut exchange.flows[1 - end];
        let count = flow.held.min(most);
        flow.held -= count;
        if let Some(id) = exchange.at[end] {
            self.ends[end].consumed(id, count);
        }
        count > 0
    }

    fn break_off(&mut self, end: usize) {
        let Some(number) = self.pick() else { return };
        let exchange = &mut self.exchanges[number];
        let Some(id) = exchange.at[end].take() else { return };
        let codes =
            [ResetCode::Cancelled, Refusal::BadGateway.into(), ResetCode::OriginBroke, ResetCode::Other(77)];
        let code = codes[number % codes.len()];
        exchange.reset[end] = Some(code);
        self.ends[end].reset(id, code);
    }

    fn pass_time(&mut self) {
        let passes = Duration::from_micros(self.below(2_000_000) as u64);
        self.now += passes;
        if self.now >= self.flushed + CHANNEL_LOST_AFTER / 2 {
            self.flush();
        }
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|due| due <= self.now) {
                end.handle_timeout(self.now).expect("what is flushed often enough is never lost");
                assert!(end.poll_timeout().is_some_and(|due| due > self.now), "a deadline moves on");
            }
        }
    }

    fn identify(&mut self) {
        let number = 1 + self.below(50) as u32;
        if self.identities.remove(&number) {
            self.ends[GATEWAY].identity_gone(number);
        } else if self.ends[GATEWAY].identity(number, &number.to_be_bytes()).is_ok() {
            self.identities.insert(number);
        }
    }

    fn publish(&mut self) {
        self.offer_list();
        self.published += 1;
        let size = 1 + self.below(100_000);
        let tag = RevisionTag { serial: self.published, sha256: [7; 32] };
        self.ends[CONNECTOR].publish(tag, &pattern(self.published as usize, 0, 0, size));
    }

    /// A list, unless one is on its way.
    fn offer_list(&mut self) {
        if self.list.is_none() {
            let size = 1 + self.below(100_000);
            let tag = ListTag { kind: ListKind::Revocation, serial: self.published, sha256: [8; 32], size };
            self.list = Some(List { tag, bytes: pattern(size, 0, 0, size).into() });
            self.ends[CONNECTOR].offer_list(&tag);
        }
    }

    fn hear_list_ack(&mut self, acknowledgement: &Acknowledgement) {
        match acknowledgement.verdict {
            Verdict::Wanted => {
                self.ends[CONNECTOR].send_list(self.list.clone().expect("nothing else is wanted"));
            }
            verdict => {
                assert_eq!((verdict, acknowledgement.text.as_str()), (Verdict::InForce, "as offered"));
                self.list = None;
            }
        }
    }

    fn drain(&mut self, end: usize) {
        self.drains[end] = true;
        self.ends[end].drain();
    }

    fn leave(&mut self) {
        self.leaves = true;
        self.ends[CONNECTOR].leave();
    }

    fn make_way(&mut self) {
        self.makes_way = true;
        self.ends[GATEWAY].make_way();
    }

    fn renew(&mut self) {
        let size = self.below(FRAME_PAYLOAD_SIZE_MAX + 1);
        let asked = pattern(self.renewals, GATEWAY, 0, size);
        self.renewals += usize::from(self.ends[GATEWAY].renewal(&asked).is_ok());
    }

    fn hear_renewal(&mut self, end: usize, bytes: &[u8]) {
        // One at a time, so it is the latest.
        assert_eq!(bytes, pattern(self.renewals - 1, 1 - end, 0, bytes.len()));
        if end == CONNECTOR {
            let _ = self.ends[CONNECTOR].renewal(&pattern(self.renewals - 1, CONNECTOR, 0, bytes.len() / 2));
        }
    }

    fn revoke(&mut self) {
        self.lists += 1;
        let size = 1 + self.below(50_000);
        let tag = RevisionTag { serial: self.lists, sha256: [9; 32] };
        self.ends[CONNECTOR].publish_revoked(tag, &pattern(self.lists as usize, 0, 0, size));
    }

    fn report(&mut self, end: usize) {
        let size = self.below(FRAME_PAYLOAD_SIZE_MAX + 1);
        let report = pattern(self.reports_sent[end], end, 0, size);
        if self.ends[end].status(&report).is_ok() {
            self.reports_sent[end] += 1;
        }
    }

    fn transmit_some(&mut self, end: usize) {
        let most = self.below(100_000);
        self.transmit(end, most);
    }

    fn transmit(&mut self, end: usize, most: usize) -> bool {
        let bytes = self.ends[end].transmit();
        let count = bytes.len().min(most);
        self.wires[end].extend_from_slice(&bytes[..count]);
        self.ends[end].transmitted(count);
        count > 0
    }

    fn deliver_some(&mut self, end: usize) {
        let most = self.below(100_000);
        self.deliver(end, most);
    }

    /// Moves bytes from the wire of `from` into the other end.
    fn deliver(&mut self, from: usize, most: usize) -> bool {
        let count = self.wires[from].len().min(most);
        let to = 1 - from;
        let mut inbox = std::mem::take(&mut self.inboxes[to]);
        inbox.extend_from_slice(&self.wires[from][..count]);
        self.wires[from].drain(..count);
        let mut used = 0;
        while let Some((size, event)) =
            self.ends[to].handle_frame(&inbox[used..], self.now).expect("both ends keep to the protocol")
        {
            used += size;
            self.hear(to, event);
        }
        inbox.drain(..used);
        self.inboxes[to] = inbox;
        count > 0
    }

    /// Everything that waits goes over, both ways.
    fn flush(&mut self) {
        loop {
            let mut moved = false;
            for end in [GATEWAY, CONNECTOR] {
                moved |= self.transmit(end, usize::MAX);
                moved |= self.deliver(end, usize::MAX);
            }
            if !moved {
                self.flushed = self.now;
                return;
            }
        }
    }

    fn hear(&mut self, end: usize, event: Event<'_>) {
        match event {
            Event::Opened { stream, message } => self.hear_open(stream, message),
            Event::Head { stream, token, message } => self.hear_head(stream, token as usize, message),
            Event::Data { stream, token, data } => self.hear_data(end, stream, token as usize, data),
            Event::End { stream, token, trailers } => self.hear_end(end, stream, token as usize, trailers),
            Event::Reset { stream, token, code } => self.hear_reset(end, stream, token as usize, code),
            Event::Writable { stream, token } => {
                assert_eq!(self.exchanges[token as usize].at[end], Some(stream));
            }
            Event::Settings(publication) => self.hear_settings(&publication),
            Event::SettingsAck(acknowledgement) => {
                assert!(acknowledgement.revision.serial > self.acknowledged);
                assert_eq!(acknowledgement.text, "as published");
                self.acknowledged = acknowledgement.revision.serial;
            }
            Event::ListOffered(tag) => self.ends[GATEWAY].answer_list(&tag, Verdict::Wanted, ""),
            Event::List(list) => {
                assert_eq!(Some(&*list), self.list.as_ref());
                self.ends[GATEWAY].answer_list(&list.tag, Verdict::InForce, "as offered");
            }
            Event::ListAck(acknowledgement) => self.hear_list_ack(&acknowledgement),
            Event::Identity { number, bytes } => {
                assert_eq!(bytes, number.to_be_bytes());
                assert_eq!(self.identities_heard.insert(number, bytes.to_vec()), None);
            }
            Event::IdentityGone { number } => assert!(self.identities_heard.remove(&number).is_some()),
            Event::Drain => assert!(self.drains[1 - end] || self.leaves),
            Event::MakeWay => assert!(end == CONNECTOR && self.makes_way),
            Event::Pong => assert!(self.ends[end].round_trip().is_some()),
            Event::None | Event::Room => {}
            Event::Status { bytes } => {
                assert_eq!(bytes, pattern(self.reports_heard[end], 1 - end, 0, bytes.len()));
                self.reports_heard[end] += 1;
            }
            Event::Revoked(list) => {
                assert!(list.revision.serial <= self.lists);
                let bytes = pattern(list.revision.serial as usize, 0, 0, list.bytes.len());
                assert_eq!(list.bytes, bytes);
            }
            Event::Renewal { bytes } => self.hear_renewal(end, bytes),
            Event::Close { .. } | Event::Tokens(_) => panic!("nobody said {event:?}"),
        }
    }

    fn hear_open(&mut self, stream: StreamId, message: &[u8]) {
        let request = RequestMessage::parse(message).expect("as it was written");
        let number = u128::from_be_bytes(request.request_id) as usize;
        // What a drained connector answered by itself never comes out here.
        while let Some(next) = self.to_open.pop_front() {
            if next == number {
                break;
            }
            assert!(self.drains[CONNECTOR], "opened out of order");
        }
        let exchange = &mut self.exchanges[number];
        assert!(!std::mem::replace(&mut exchange.was_opened, true), "opened twice");
        assert_eq!(request.has_body, !exchange.flows[GATEWAY].end_heard);
        assert!(request.identity == 0 || self.identities_heard.contains_key(&request.identity));
        exchange.at[CONNECTOR] = Some(stream);
        self.ends[CONNECTOR].set_token(stream, number as u32);
    }

    fn hear_head(&mut self, stream: StreamId, number: usize, message: &[u8]) {
        let head = ResponseMessage::parse(message).expect("as it was written");
        let exchange = &mut self.exchanges[number];
        assert_eq!(exchange.at[GATEWAY], Some(stream), "an answer to somebody else");
        assert_eq!(head.fields().next().map(|field| field.value), Some(number.to_string().as_bytes()));
        assert!(!exchange.head_heard);
        exchange.head_heard = !head.is_interim();
    }

    fn hear_data(&mut self, end: usize, stream: StreamId, number: usize, data: &[u8]) {
        let exchange = &mut self.exchanges[number];
        assert_eq!(exchange.at[end], Some(stream), "bytes for somebody else");
        let flow = &mut exchange.flows[1 - end];
        assert_eq!(data, pattern(number, 1 - end, flow.heard, data.len()), "bytes lost, doubled or mixed");
        flow.heard += data.len();
        flow.held += data.len();
        assert!(flow.heard <= flow.sent && !flow.end_heard);
    }

    fn hear_end(&mut self, end: usize, stream: StreamId, number: usize, payload: &[u8]) {
        let exchange = &mut self.exchanges[number];
        assert_eq!(exchange.at[end], Some(stream), "an end for somebody else");
        let flow = &mut exchange.flows[1 - end];
        assert!(flow.end_sent && !flow.end_heard && flow.heard == flow.size, "cut, or ended twice");
        assert_eq!(payload, trailers(number));
        parse_trailers(payload).expect("as they were written");
        flow.end_heard = true;
    }

    fn hear_reset(&mut self, end: usize, stream: StreamId, number: usize, code: ResetCode) {
        let exchange = &mut self.exchanges[number];
        assert_eq!(exchange.at[end].take(), Some(stream), "a reset for somebody else");
        match exchange.reset[1 - end] {
            Some(sent) => assert_eq!(code, sent),
            None => {
                assert!(end == GATEWAY && self.drains[CONNECTOR] && !exchange.was_opened);
                assert_eq!(code, ResetCode::NotBegun);
                exchange.reset[CONNECTOR] = Some(code);
            }
        }
    }

    fn hear_settings(&mut self, publication: &Publication) {
        let serial = publication.revision.serial;
        assert!(serial > self.settings_heard && serial <= self.published);
        let bytes = pattern(serial as usize, 0, 0, publication.bytes.len());
        assert_eq!(publication.bytes, bytes);
        self.settings_heard = serial;
        self.ends[GATEWAY].acknowledge(publication.revision, Verdict::InForce, "as published");
    }

    /// Carries everything out, then looks for what is left over.
    fn finish(&mut self) {
        loop {
            self.flush();
            let mut moved = false;
            for number in 0..self.exchanges.len() {
                moved |= self.head(number, false) && !self.exchanges[number].flows[CONNECTOR].end_sent;
                for end in [GATEWAY, CONNECTOR] {
                    moved |= self.consume(end, number, usize::MAX);
                    moved |= self.send(end, number, usize::MAX);
                }
            }
            if !moved {
                break;
            }
        }
        self.flush();
        self.assert_done();
    }

    fn assert_done(&self) {
        for (number, exchange) in self.exchanges.iter().enumerate() {
            let is_reset = exchange.reset.iter().any(Option::is_some);
            let is_whole = exchange.flows.iter().all(|flow| flow.end_sent && flow.end_heard);
            assert!(is_reset || (is_whole && exchange.head_heard), "exchange {number} hangs: {exchange:?}");
        }
        assert_eq!((self.settings_heard, self.acknowledged), (self.published, self.published));
        assert_eq!(self.list, None, "a list hangs");
        assert_eq!(self.identities.len(), self.identities_heard.len());
        assert_eq!(self.reports_sent[GATEWAY], self.reports_heard[CONNECTOR]);
        assert_eq!(self.reports_sent[CONNECTOR], self.reports_heard[GATEWAY]);
        for end in [GATEWAY, CONNECTOR] {
            self.ends[end].assert_idle(&self.ends[1 - end]);
        }
    }
}

/// Bytes that no other exchange, direction or place has in this order.
fn pattern(number: usize, direction: usize, from: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    let mut at = from + number * 7_919 + direction * 31_337;
    while bytes.len() < count {
        let place = at % NOISE.len();
        let size = (NOISE.len() - place).min(count - bytes.len());
        bytes.extend_from_slice(&NOISE[place..place + size]);
        at += size;
    }
    bytes
}

/// As long as a prime, so that bytes shifted by a window are not the same. Made beforehand: a fuzzer pays for
/// every step.
static NOISE: [u8; 16_381] = {
    let mut noise = [0; 16_381];
    let mut state = 1_u32;
    let mut at = 0;
    while at < noise.len() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise[at] = (state >> 24) as u8;
        at += 1;
    }
    noise
};

fn request(number: usize, has_body: bool, identity: u32, window: u32) -> Vec<u8> {
    let start = RequestStart {
        request_id: (number as u128).to_be_bytes(),
        identity,
        window,
        has_body,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"CCM_POST",
        target: b"/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request",
        host: b"gateway.example",
    };
    let mut out = Vec::new();
    let mut writer = RequestWriter::new(&mut out, &start).expect("fits");
    writer.field(b"accept", b"*/*").expect("fits");
    writer.finish();
    out
}

fn response(number: usize, interim: bool) -> Vec<u8> {
    let body = if interim { Body::None } else { Body::Unknown };
    let status = if interim { 103 } else { 200 };
    let start = ResponseStart { status, reason: b"OK", length: None, body };
    let mut out = Vec::new();
    let mut writer = ResponseWriter::new(&mut out, &start).expect("fits");
    writer.field(b"x-number", number.to_string().as_bytes()).expect("fits");
    writer.finish();
    out
}

fn trailers(number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = TrailersWriter::new(&mut out);
    if number.is_multiple_of(3) {
        writer.field(b"digest", number.to_string().as_bytes()).expect("fits");
    }
    writer.finish();
    out
}
