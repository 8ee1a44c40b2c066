//! What a channel promises, one claim each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::channel::*;
use crate::limits::{
    CHANNEL_LOST_AFTER, CHANNEL_OUT_SIZE_HARD_MAX, CHANNEL_OUT_SIZE_MAX, CHANNEL_WINDOW,
    CONNECTOR_PING_AFTER, GATEWAY_PING_AFTER, INTERIM_COUNT_MAX, PROBE_AFTER, ROUND_TRIP_EVERY,
    STALLED_AFTER, STREAM_WINDOW_INITIAL, STREAM_WINDOW_MAX,
};
use crate::refusal::Refusal;

pub(super) fn request_message(has_body: bool) -> Vec<u8> {
    let start = RequestStart {
        request_id: *b"0123456789abcdef",
        identity: 0,
        window: 65_536,
        has_body,
        length: None,
        is_tunnel: false,
        expect_continue: has_body,
        method: b"GET",
        target: b"/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_pol?{A-B}",
        host: b"gateway.example:443",
    };
    let mut out = Vec::new();
    let mut writer = RequestWriter::new(&mut out, &start).unwrap();
    writer.field(b"User-Agent", b"ccmhttp").unwrap();
    writer.field(b"X-Empty", b"").unwrap();
    writer.finish();
    out
}

/// A request for a tunnel, and the answer that begins it.
pub(super) fn tunnel_messages() -> [Vec<u8>; 2] {
    let whole = request_message(true);
    let plain = RequestMessage::parse(&whole).unwrap();
    let start = RequestStart { is_tunnel: true, expect_continue: false, ..*plain };
    let (mut open, mut head) = (Vec::new(), Vec::new());
    let mut writer = RequestWriter::new(&mut open, &start).unwrap();
    writer.field(b"Sec-WebSocket-Version", b"13").unwrap();
    writer.field(message::UPGRADE, b"websocket").unwrap();
    writer.finish();
    let start = ResponseStart { status: 101, reason: b"Switching", length: None, body: Body::Unknown };
    let mut writer = ResponseWriter::new(&mut head, &start).unwrap();
    writer.field(message::UPGRADE, b"WebSocket").unwrap();
    writer.finish();
    [open, head]
}

pub(super) fn response_message(status: u16) -> Vec<u8> {
    let body = if status < 200 { Body::None } else { Body::Unknown };
    let mut out = Vec::new();
    let start = ResponseStart { status, reason: b"Fine", length: None, body };
    ResponseWriter::new(&mut out, &start).unwrap().finish();
    out
}

/// Two ends and no network between them: what one sends the other hears at once.
struct Pair {
    gateway: Channel,
    connector: Channel,
    now: Instant,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Opened(StreamId),
    Head(u32, u16),
    Data(u32, usize),
    End(u32),
    Reset(u32, ResetCode),
    Writable(u32),
    Other(String),
}

impl Pair {
    fn new() -> Pair {
        let now = Instant::now();
        Pair { gateway: Channel::new(Side::Gateway, now), connector: Channel::new(Side::Connector, now), now }
    }

    fn reach_connector(&mut self) -> Vec<Heard> {
        pass(&mut self.gateway, &mut self.connector, self.now)
    }

    fn reach_gateway(&mut self) -> Vec<Heard> {
        pass(&mut self.connector, &mut self.gateway, self.now)
    }

    /// A stream open at both ends, under token 7 at both, its answer's head sent.
    fn stream(&mut self, has_body: bool) -> (StreamId, StreamId) {
        let ours = self.gateway.open(&request_message(has_body), 7).unwrap();
        let heard = self.reach_connector();
        let [Heard::Opened(theirs)] = heard[..] else { panic!("{heard:?}") };
        self.connector.set_token(theirs, 7);
        self.connector.head(theirs, &response_message(200)).unwrap();
        assert_eq!(self.reach_gateway(), [Heard::Head(7, 200)]);
        (ours, theirs)
    }
}

fn pass(from: &mut Channel, to: &mut Channel, now: Instant) -> Vec<Heard> {
    let bytes = from.transmit().to_vec();
    from.transmitted(bytes.len());
    let (mut used, mut heard) = (0, Vec::new());
    while let Some((size, event)) = to.handle_frame(&bytes[used..], now).unwrap() {
        used += size;
        heard.extend(note(event));
    }
    assert_eq!(used, bytes.len());
    heard
}

fn note(event: Event<'_>) -> Option<Heard> {
    Some(match event {
        Event::None => return None,
        Event::Opened { stream, .. } => Heard::Opened(stream),
        Event::Head { token, message, .. } => {
            Heard::Head(token, ResponseMessage::parse(message).unwrap().status)
        }
        Event::Data { token, data, .. } => Heard::Data(token, data.len()),
        Event::End { token, .. } => Heard::End(token),
        Event::Reset { token, code, .. } => Heard::Reset(token, code),
        Event::Writable { token, .. } => Heard::Writable(token),
        other => Heard::Other(format!("{other:?}")),
    })
}

#[test]
fn an_exchange_ends_in_both_directions_and_is_forgotten() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.stream(true);
    assert_eq!(pair.gateway.data(ours, b"abc"), 3);
    pair.gateway.end(ours, &[]);
    assert_eq!(pair.reach_connector(), [Heard::Data(7, 3), Heard::End(7)]);
    assert_eq!(pair.connector.data(theirs, b"answer"), 6);
    pair.connector.end(theirs, &[]);
    assert_eq!(pair.connector.stream_count(), 0);
    assert_eq!(pair.reach_gateway(), [Heard::Data(7, 6), Heard::End(7)]);
    assert_eq!(pair.gateway.stream_count(), 0);
}

#[test]
fn a_stream_nobody_reads_takes_one_window_and_holds_back_only_itself() {
    let mut pair = Pair::new();
    let (_, stalled) = pair.stream(false);
    let (other, busy) = pair.stream(false);
    let bytes = vec![1; 2 * STREAM_WINDOW_INITIAL];
    assert_eq!(pair.connector.data(stalled, &bytes), STREAM_WINDOW_INITIAL);
    assert_eq!(pair.connector.data(stalled, &bytes), 0);
    for _ in 0..3 * CHANNEL_WINDOW / STREAM_WINDOW_INITIAL {
        pair.reach_gateway();
        assert_eq!(pair.connector.data(busy, &bytes[..STREAM_WINDOW_INITIAL]), STREAM_WINDOW_INITIAL);
        pair.reach_gateway();
        pair.gateway.consumed(other, STREAM_WINDOW_INITIAL);
        assert_eq!(pair.reach_connector(), []);
    }
}

#[test]
fn a_sender_refused_for_want_of_credit_hears_when_half_a_window_is_free() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.stream(false);
    assert_eq!(pair.connector.data(theirs, &vec![1; 70_000]), STREAM_WINDOW_INITIAL);
    pair.reach_gateway();
    pair.gateway.consumed(ours, STREAM_WINDOW_INITIAL / 2 - 1);
    assert_eq!(pair.reach_connector(), []);
    pair.gateway.consumed(ours, 1);
    assert_eq!(pair.reach_connector(), [Heard::Writable(7)]);
    assert_eq!(pair.connector.data(theirs, &vec![1; 70_000]), STREAM_WINDOW_INITIAL / 2);
}

#[test]
fn a_window_grows_while_it_is_what_slows_the_sender_and_no_further_than_allowed() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.stream(false);
    pair.gateway.handle_timeout(pair.now).unwrap();
    pair.reach_connector();
    pair.now += Duration::from_millis(100);
    pair.reach_gateway();
    assert_eq!(pair.gateway.round_trip(), Some(Duration::from_millis(100)));
    let bytes = vec![1; 2 * STREAM_WINDOW_MAX];
    let (mut most, mut sent) = (0, 0);
    for _ in 0..400 {
        let accepted = pair.connector.data(theirs, &bytes);
        most = most.max(accepted);
        sent += accepted;
        pair.reach_gateway();
        pair.gateway.consumed(ours, accepted);
        pair.gateway.assert_sound();
        pair.reach_connector();
        pair.now += Duration::from_millis(10);
    }
    assert!(sent > 20_000_000);
    assert_eq!(most, CHANNEL_OUT_SIZE_MAX, "the send buffer is what bounds it now");
    pair.gateway.reset(ours, ResetCode::Cancelled);
    pair.gateway.assert_sound();
}

#[test]
fn a_window_does_not_grow_for_a_slow_consumer() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.stream(false);
    pair.gateway.handle_timeout(pair.now).unwrap();
    pair.reach_connector();
    pair.now += Duration::from_millis(1);
    pair.reach_gateway();
    let bytes = vec![1; 2 * STREAM_WINDOW_MAX];
    for _ in 0..40 {
        let accepted = pair.connector.data(theirs, &bytes);
        assert!(accepted <= STREAM_WINDOW_INITIAL);
        pair.reach_gateway();
        pair.now += Duration::from_millis(10);
        pair.gateway.handle_timeout(pair.now).unwrap();
        pair.gateway.consumed(ours, accepted);
        pair.reach_connector();
    }
}

#[test]
fn small_exchanges_pass_a_send_buffer_full_of_bulk() {
    let mut pair = Pair::new();
    let bytes = vec![1; STREAM_WINDOW_INITIAL];
    while pair.gateway.has_room_for_bulk() {
        let ours = pair.gateway.open(&request_message(true), 0).unwrap();
        pair.gateway.data(ours, &bytes);
    }
    let bulk = pair.gateway.open(&request_message(true), 0).unwrap();
    assert_eq!(pair.gateway.data(bulk, &bytes), 0);
    assert!(pair.gateway.open(&request_message(false), 0).is_ok());
    while pair.gateway.transmit_len() < CHANNEL_OUT_SIZE_HARD_MAX {
        pair.gateway.open(&request_message(false), 0).unwrap();
    }
    assert_eq!(pair.gateway.open(&request_message(false), 0), Err(Busy::Backlog));
}

#[test]
fn late_frames_of_a_reset_stream_are_passed_over_and_their_credit_comes_back() {
    let mut pair = Pair::new();
    for _ in 0..2 * CHANNEL_WINDOW / STREAM_WINDOW_INITIAL {
        let (ours, theirs) = pair.stream(false);
        assert_eq!(pair.connector.data(theirs, &vec![1; STREAM_WINDOW_INITIAL]), STREAM_WINDOW_INITIAL);
        pair.gateway.reset(ours, ResetCode::Cancelled);
        assert_eq!(pair.reach_gateway(), []);
        assert_eq!(pair.reach_connector(), [Heard::Reset(7, ResetCode::Cancelled)]);
    }
    pair.reach_gateway();
    pair.gateway.assert_idle(&pair.connector);
    pair.connector.assert_idle(&pair.gateway);
}

#[test]
fn an_answer_may_end_before_its_request_and_tell_the_rest_to_stop() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.stream(true);
    pair.connector.end(theirs, &[]);
    pair.connector.reset(theirs, ResetCode::Cancelled);
    assert_eq!(pair.reach_gateway(), [Heard::End(7), Heard::Reset(7, ResetCode::Cancelled)]);
    assert_eq!(pair.gateway.data(ours, b"too late"), 0);
    pair.gateway.end(ours, &[]);
    assert_eq!(pair.gateway.transmit_len(), 0);
}

#[test]
fn a_number_in_use_is_passed_over_when_numbers_wrap() {
    let mut pair = Pair::new();
    let (held, _) = pair.stream(true);
    pair.gateway.last_wire = u32::MAX - 1;
    pair.connector.last_wire = u32::MAX - 1;
    let numbers: Vec<u32> =
        (0..3).map(|_| pair.gateway.open(&request_message(false), 0).unwrap().number()).collect();
    assert_eq!((held.number(), numbers), (1, vec![u32::MAX, 2, 3]));
    assert_eq!(pair.reach_connector().len(), 3);
}

#[test]
fn credit_of_the_channel_that_streams_wait_for_is_told_once() {
    let mut pair = Pair::new();
    let bytes = vec![1; STREAM_WINDOW_INITIAL];
    let mut wire = Vec::new();
    let mut drain = |gateway: &mut Channel| {
        wire.extend_from_slice(gateway.transmit());
        gateway.transmitted(gateway.transmit_len());
    };
    let mut last = None;
    for _ in 0..=CHANNEL_WINDOW / STREAM_WINDOW_INITIAL {
        let ours = pair.gateway.open(&request_message(true), 0).unwrap();
        last = Some((ours, pair.gateway.data(ours, &bytes)));
        drain(&mut pair.gateway);
    }
    let Some((short, 0)) = last else { panic!("{last:?}") };
    let mut used = 0;
    while let Some((size, _)) = pair.connector.handle_frame(&wire[used..], pair.now).unwrap() {
        used += size;
    }
    assert_eq!(pair.reach_gateway(), [Heard::Other("Room".into())]);
    assert_eq!(pair.gateway.data(short, &bytes), bytes.len());
}

#[test]
fn interim_heads_come_before_the_final_one_and_are_counted() {
    let mut pair = Pair::new();
    pair.gateway.open(&request_message(true), 7).unwrap();
    let [Heard::Opened(theirs)] = pair.reach_connector()[..] else { panic!() };
    for _ in 0..INTERIM_COUNT_MAX {
        pair.connector.head(theirs, &response_message(100)).unwrap();
    }
    assert_eq!(pair.connector.head(theirs, &response_message(103)), Err(Busy::Full));
    pair.connector.head(theirs, &response_message(200)).unwrap();
    assert_eq!(pair.reach_gateway().len(), INTERIM_COUNT_MAX + 1);
}

#[test]
fn a_request_of_which_no_byte_has_left_may_go_elsewhere() {
    let mut pair = Pair::new();
    let gone = pair.gateway.open(&request_message(false), 1).unwrap();
    let count = pair.gateway.transmit_len();
    let here = pair.gateway.open(&request_message(true), 2).unwrap();
    assert!(pair.gateway.is_untaken(gone) && pair.gateway.is_untaken(here));
    pair.gateway.transmitted(count);
    assert!(!pair.gateway.is_untaken(gone) && pair.gateway.is_untaken(here));
    pair.gateway.transmitted(1);
    assert!(!pair.gateway.is_untaken(here), "half an OPEN may be read by a peer that guesses");
}

#[test]
fn what_never_left_does_not_leave_with_the_last_word() {
    let mut pair = Pair::new();
    pair.reach_connector();
    let waits = pair.gateway.open(&request_message(false), 1).unwrap();
    assert!(pair.gateway.is_untaken(waits));
    let last = pair.gateway.break_off(CloseCode::Lost, "late").to_vec();
    let (frame, size) = frame::take(&last).unwrap().unwrap();
    assert_eq!((frame.kind, size), (frame::FrameKind::Close, last.len()));
    assert_eq!(pair.gateway.break_off(CloseCode::Lost, "twice"), b"");
}

#[test]
fn a_request_a_draining_connector_never_took_may_go_elsewhere() {
    let mut pair = Pair::new();
    let (taken, _) = pair.stream(false);
    pair.connector.drain();
    let crossed = pair.gateway.open(&request_message(true), 8).unwrap();
    assert_eq!(pair.reach_gateway(), [Heard::Other("Drain".into())]);
    assert!(!pair.gateway.is_excluded(taken) && pair.gateway.is_excluded(crossed));
    assert_eq!(pair.gateway.open(&request_message(false), 9), Err(Busy::Draining));
    assert_eq!(pair.reach_connector(), []);
    assert_eq!(pair.reach_gateway(), [Heard::Reset(8, ResetCode::NotBegun)]);
    assert_eq!(pair.gateway.stream_count(), 1);
}

#[test]
fn a_connector_that_leaves_takes_what_the_gateway_opened_before_it_heard_of_it() {
    let mut pair = Pair::new();
    let (taken, _) = pair.stream(false);
    pair.connector.leave();
    let crossed = pair.gateway.open(&request_message(true), 8).unwrap();
    assert_eq!(pair.reach_gateway(), [Heard::Other("Drain".into())]);
    assert_eq!(pair.gateway.open(&request_message(false), 9), Err(Busy::Draining));
    assert!(!pair.gateway.is_excluded(taken) && !pair.gateway.is_excluded(crossed));
    assert!(!pair.connector.has_peer_drained());
    let heard = pair.reach_connector();
    assert!(matches!(heard[..], [Heard::Opened(_), Heard::Other(_)]), "{heard:?}");
    assert!(pair.connector.has_peer_drained());
    assert_eq!(pair.gateway.stream_count(), 2);
}

#[test]
fn a_gateway_that_makes_way_goes_on_until_it_is_replaced() {
    let mut pair = Pair::new();
    for _ in 0..2 {
        pair.gateway.make_way();
        assert_eq!(pair.reach_connector(), [Heard::Other("MakeWay".into())], "each attempt asks anew");
        assert!(!pair.gateway.is_draining() && !pair.connector.is_draining());
        pair.stream(false);
    }
    pair.gateway.drain();
    pair.gateway.make_way();
    assert_eq!(
        pair.reach_connector(),
        [Heard::Other("Drain".into())],
        "who drains is dialled anew in any case"
    );
}

#[test]
fn a_gateway_asks_for_one_certificate_at_a_time_and_a_connector_says_only_what_was_asked() {
    let mut pair = Pair::new();
    assert_eq!(pair.connector.renewal(b"unasked"), Err(Busy::Full));
    for _ in 0..2 {
        assert_eq!(pair.gateway.renewal(b"asked"), Ok(()));
        assert_eq!(pair.gateway.renewal(b"again"), Err(Busy::Full));
        assert_eq!(pair.reach_connector().len(), 1);
        assert_eq!(pair.connector.renewal(b"given"), Ok(()));
        assert_eq!(pair.connector.renewal(b"twice"), Err(Busy::Full));
        assert_eq!(pair.reach_gateway().len(), 1);
    }
}

#[test]
fn a_list_of_internal_certificates_goes_before_what_else_is_published() {
    let mut pair = Pair::new();
    let tag = |serial| RevisionTag { serial, sha256: [1; 32] };
    pair.connector.publish(tag(1), &[1; 300_000]);
    pair.connector.publish_revoked(tag(2), &[2; 40_000]);
    let heard: Vec<String> =
        (0..20).flat_map(|_| pair.reach_gateway()).map(|heard| format!("{heard:?}")).collect();
    let place = |kind| heard.iter().position(|heard| heard.contains(kind));
    assert!(place("Revoked").is_some() && place("Revoked") < place("Settings"), "{}", heard.len());
}

#[test]
fn a_peer_that_was_asked_and_gives_no_sign_of_life_stalls_until_it_does() {
    let mut pair = Pair::new();
    let mut now = pair.now;
    let pinged = |channel: &Channel| {
        let waits = channel.transmit();
        std::iter::successors(frame::take(waits).unwrap(), |_| None)
            .any(|(frame, _)| frame.kind == frame::FrameKind::Ping)
    };
    // The first ping measures the way.
    pair.gateway.handle_timeout(now).unwrap();
    pair.reach_connector();
    pair.reach_gateway();
    let asked = now;
    pair.gateway.open(&request_message(false), 1).unwrap();
    pair.gateway.handle_timeout(now).unwrap();
    pair.gateway.transmitted(pair.gateway.transmit_len());
    assert!(!pair.gateway.is_stalled() && pair.gateway.poll_timeout() == Some(asked + PROBE_AFTER));
    now = asked + PROBE_AFTER;
    pair.gateway.handle_timeout(now).unwrap();
    assert!(pinged(&pair.gateway) && !pair.gateway.is_stalled());
    assert_eq!(pair.gateway.poll_timeout(), Some(now + STALLED_AFTER));
    now += STALLED_AFTER;
    pair.gateway.handle_timeout(now).unwrap();
    assert!(pair.gateway.is_stalled());
    // It is given up as late as ever, and any frame ends it but one that comes as well if the peer does not hear us.
    assert!(pair.gateway.poll_timeout().is_some_and(|due| due <= asked + CHANNEL_LOST_AFTER));
    pair.gateway.handle_frame(&peers_ping(), now).unwrap();
    assert!(pair.gateway.is_stalled());
    pair.gateway.handle_frame(&nothing(), now).unwrap();
    assert!(!pair.gateway.is_stalled());
}

#[test]
fn a_connector_whose_ping_has_no_answer_sees_that_the_channel_stalls() {
    let start = Instant::now();
    let mut channel = Channel::new(Side::Connector, start);
    let mut at = start;
    while !channel.is_stalled() {
        at = channel.poll_timeout().unwrap().max(at);
        channel.handle_timeout(at).unwrap();
        channel.transmitted(channel.transmit_len());
    }
    assert_eq!(at - start, CONNECTOR_PING_AFTER + STALLED_AFTER);
    channel.handle_frame(&peers_ping(), at).unwrap();
    assert!(channel.is_stalled());
    channel.handle_frame(&nothing(), at).unwrap();
    assert!(!channel.is_stalled());
}

#[test]
fn a_connector_at_rest_whose_frames_do_not_arrive_sees_that_the_channel_stalls() {
    // Whatever moment between two pings it is.
    for after in (0..=20_000).step_by(250).map(Duration::from_millis) {
        let mut pair = Pair::new();
        let begin = pair.now;
        let mut blocked = None;
        while !pair.connector.is_stalled() {
            pair.now = pair.gateway.poll_timeout().unwrap().min(pair.connector.poll_timeout().unwrap());
            if pair.now >= begin + after && blocked.is_none() {
                pair.now = begin + after;
                blocked = Some(pair.now);
            }
            pair.gateway.handle_timeout(pair.now).unwrap();
            pair.reach_connector();
            pair.connector.handle_timeout(pair.now).unwrap();
            match blocked {
                // What the gateway says still comes.
                Some(_) => pair.connector.transmitted(pair.connector.transmit_len()),
                None => drop(pair.reach_gateway()),
            }
            pair.reach_connector();
        }
        let noticed = pair.now - blocked.expect("it does not stall before");
        assert!(noticed <= CONNECTOR_PING_AFTER + STALLED_AFTER, "{noticed:?} after {after:?}");
    }
}

/// A question of the peer.
fn peers_ping() -> Vec<u8> {
    let mut ping = Vec::new();
    frame::put(&mut ping, frame::FrameKind::Ping, 0, b"12345678");
    ping
}

/// A frame that does nothing.
fn nothing() -> Vec<u8> {
    const UNKNOWN_KIND: u8 = 200;
    vec![UNKNOWN_KIND, frame::FLAG_MAY_IGNORE, 0, 0, 0, 0, 0, 0]
}

#[test]
fn a_connector_whose_answers_do_not_arrive_sees_that_the_channel_stalls() {
    let mut pair = Pair::new();
    let blocked = pair.now;
    let (mut open, mut stalled_at_gateway) = (Vec::new(), None);
    while !pair.connector.is_stalled() {
        pair.now += Duration::from_millis(100);
        // As long as it knows nothing, the gateway asks.
        if !pair.gateway.is_stalled() {
            pair.gateway.open(&request_message(false), 1).unwrap();
        } else {
            stalled_at_gateway.get_or_insert(pair.now);
        }
        pair.gateway.handle_timeout(pair.now).unwrap();
        for heard in pair.reach_connector() {
            if let Heard::Opened(stream) = heard {
                open.push(stream);
            }
        }
        pair.connector.handle_timeout(pair.now).unwrap();
        for stream in open.drain(..) {
            pair.connector.head(stream, &response_message(200)).unwrap();
        }
        // Nothing of it arrives.
        pair.connector.transmitted(pair.connector.transmit_len());
    }
    let by_gateway = stalled_at_gateway.expect("it stalls first") - blocked;
    let slack = Duration::from_millis(500);
    assert!(by_gateway <= PROBE_AFTER + STALLED_AFTER + slack, "{by_gateway:?}");
    let by_connector = pair.now - blocked;
    assert!(by_connector <= 2 * (PROBE_AFTER + STALLED_AFTER) + slack, "{by_connector:?}");
}

#[test]
fn a_silent_peer_is_pinged_and_a_channel_silent_for_long_is_lost() {
    let now = Instant::now();
    let mut channel = Channel::new(Side::Gateway, now);
    let (mut pings, mut at) = (0, now);
    let error = loop {
        at = channel.poll_timeout().unwrap().max(at);
        match channel.handle_timeout(at) {
            Ok(()) => pings += usize::from(channel.transmit_len() > 0),
            Err(error) => break error,
        }
        channel.transmitted(channel.transmit_len());
    };
    assert_eq!((error, at - now, pings), (ChannelError::Lost, CHANNEL_LOST_AFTER, 3));
}

#[test]
fn two_idle_ends_keep_each_other_alive_with_few_frames() {
    let mut pair = Pair::new();
    let (begin, mut frames) = (pair.now, 0);
    while pair.now < begin + Duration::from_secs(600) {
        pair.now = pair.gateway.poll_timeout().unwrap().min(pair.connector.poll_timeout().unwrap());
        pair.gateway.handle_timeout(pair.now).unwrap();
        pair.connector.handle_timeout(pair.now).unwrap();
        // What answers arrives before time passes.
        while pair.gateway.transmit_len() + pair.connector.transmit_len() > 0 {
            frames += pair.gateway.transmit_len() / 16;
            pair.reach_connector();
            frames += pair.connector.transmit_len() / 16;
            pair.reach_gateway();
        }
    }
    let turns = 600 / GATEWAY_PING_AFTER.as_secs() as usize;
    assert!((turns..=3 * turns).contains(&frames), "{frames}");
}

#[test]
fn of_two_idle_ends_far_from_each_other_one_asks() {
    const LATENCY: Duration = Duration::from_millis(150);
    let start = Instant::now();
    let mut ends = [Channel::new(Side::Gateway, start), Channel::new(Side::Connector, start)];
    let (mut now, mut asked) = (start, [0; 2]);
    let mut on_the_way: VecDeque<(Instant, usize, Vec<u8>)> = VecDeque::new();
    while now < start + Duration::from_secs(600) {
        let due = ends.iter().filter_map(Channel::poll_timeout).min().unwrap();
        now = on_the_way.front().map_or(due, |(arrives, ..)| due.min(*arrives)).max(now);
        while on_the_way.front().is_some_and(|(arrives, ..)| *arrives <= now) {
            let (_, to, bytes) = on_the_way.pop_front().unwrap();
            let mut rest = &bytes[..];
            while let Some((size, _)) = ends[to].handle_frame(rest, now).unwrap() {
                rest = &rest[size..];
            }
            assert!(rest.is_empty());
        }
        for from in [0, 1] {
            ends[from].handle_timeout(now).unwrap();
            let bytes = ends[from].transmit().to_vec();
            ends[from].transmitted(ends[from].transmit_len());
            let mut rest = &bytes[..];
            while let Some((frame, size)) = frame::take(rest).unwrap() {
                asked[from] += u32::from(frame.kind == frame::FrameKind::Ping);
                rest = &rest[size..];
            }
            if !bytes.is_empty() {
                on_the_way.push_back((now + LATENCY, 1 - from, bytes));
            }
        }
        assert!(ends.iter().all(|end| !end.is_stalled()));
    }
    let every = |period: Duration| (600 / period.as_secs()) as u32;
    let [gateway, connector] = asked;
    // It measures the round trip, and asks once more where that makes the other one later.
    assert!(gateway <= 2 * every(ROUND_TRIP_EVERY), "{asked:?}");
    assert!((every(GATEWAY_PING_AFTER)..=every(CONNECTOR_PING_AFTER) + 1).contains(&connector), "{asked:?}");
}

#[test]
fn an_hour_of_silence_costs_less_than_200_kilobytes_each_way() {
    /// Around the frames that leave together: header, kind and tag of a TLS record.
    const RECORD: usize = 5 + 1 + 16;
    /// Of IPv6, and of TCP with its timestamps.
    const HEADERS: usize = 40 + 32;
    let mut pair = Pair::new();
    let end = pair.now + Duration::from_secs(3_600);
    let mut octets = [0; 2];
    while pair.now < end {
        pair.now = pair.gateway.poll_timeout().unwrap().min(pair.connector.poll_timeout().unwrap());
        pair.gateway.handle_timeout(pair.now).unwrap();
        pair.connector.handle_timeout(pair.now).unwrap();
        // A packet is acknowledged by the next one that goes the other way at once, else by one of its own.
        let mut has_unacknowledged = [false; 2];
        while pair.gateway.transmit_len() + pair.connector.transmit_len() > 0 {
            for from in [0, 1] {
                let frames = [&pair.gateway, &pair.connector][from].transmit_len();
                if frames > 0 {
                    octets[from] += frames + RECORD + HEADERS;
                    has_unacknowledged[from] = true;
                    has_unacknowledged[1 - from] = false;
                }
                if from == 0 {
                    pair.reach_connector()
                } else {
                    pair.reach_gateway()
                };
            }
        }
        for from in [0, 1] {
            octets[1 - from] += if has_unacknowledged[from] { HEADERS } else { 0 };
        }
    }
    println!("octets in an hour, of gateway and connection point: {octets:?}");
    assert!(octets.iter().all(|octets| *octets < 200_000), "{octets:?}");
    let least = 3_600 / GATEWAY_PING_AFTER.as_secs() as usize * (16 + RECORD + HEADERS);
    assert!(octets.iter().all(|octets| *octets >= least), "{octets:?}");
}

#[test]
fn settings_arrive_whole_and_a_newer_one_replaces_one_on_its_way() {
    let mut pair = Pair::new();
    let tag = |serial| RevisionTag { serial, sha256: [9; 32] };
    pair.connector.publish(tag(1), &vec![1; 300_000]);
    pair.reach_gateway();
    pair.connector.publish(tag(2), &vec![2; 100_000]);
    let mut heard = Vec::new();
    while pair.connector.transmit_len() > 0 {
        assert!(pair.connector.transmit_len() < 64 * 1024, "never a whole publication before an answer");
        heard.extend(pair.reach_gateway());
    }
    let whole = Publication { revision: tag(2), bytes: vec![2; 100_000] };
    assert_eq!(heard, [Heard::Other(format!("{:?}", Event::Settings(Box::new(whole))))]);
    pair.gateway.acknowledge(tag(2), Verdict::Refused, &"ä".repeat(200));
    assert_eq!(pair.reach_connector().len(), 1);
}

#[test]
fn nothing_follows_close() {
    let mut pair = Pair::new();
    let (ours, _) = pair.stream(true);
    pair.gateway.close(CloseCode::Stopping, "bye");
    assert_eq!(pair.gateway.data(ours, b"x"), 0);
    assert_eq!(pair.gateway.open(&request_message(false), 1), Err(Busy::Closed));
    pair.gateway.reset(ours, Refusal::BadRequest);
    pair.gateway.close(CloseCode::Done, "twice");
    let heard = pair.reach_connector();
    assert_eq!(heard, [Heard::Other("Close { code: Stopping, text: \"bye\" }".into())]);
    assert_eq!(pair.connector.poll_timeout(), None);
}

#[test]
fn reset_codes_are_unique_and_read_back() {
    for byte in 0..=255 {
        assert_eq!(ResetCode::from_byte(byte).to_byte(), byte);
    }
    for refusal in Refusal::ALL {
        assert_eq!(ResetCode::from_byte(refusal as u8), ResetCode::Refused(refusal));
    }
}

#[test]
fn a_hello_reads_back_and_what_follows_it_is_passed_over() {
    let hello = Hello {
        version: VERSION,
        connection_id: [3; 16],
        connection_point: "connector-1".into(),
        site: "PS1".into(),
        index: 1,
        count: 2,
        connector_shards: 2,
        instance: "gw1".into(),
    };
    let mut out = Vec::new();
    hello.encode(&mut out);
    let (frame, size) = frame::take(&out).unwrap().unwrap();
    assert_eq!((frame.kind, size), (frame::FrameKind::Hello, out.len()));
    let longer = [frame.payload, b"of a later version"].concat();
    assert_eq!(Hello::parse(&longer), Ok(hello));
    for size in 0..frame.payload.len() {
        assert!(Hello::parse(&frame.payload[..size]).is_err());
    }
    let reply = HelloReply {
        version: VERSION,
        refusal: Some(HelloRefusal::OtherInstance),
        text: "this is gw2".into(),
        instance: "gw2".into(),
        instance_id: [4; 16],
        shards: 0,
        shard: 0,
        instances: vec!["127.0.0.1:10140".into(), "[::1]:10140".into()],
    };
    let mut out = Vec::new();
    reply.encode(&mut out);
    let (frame, _) = frame::take(&out).unwrap().unwrap();
    assert_eq!(HelloReply::parse(frame.payload), Ok(reply));
}

#[test]
fn messages_read_back_as_they_were_written() {
    let bytes = request_message(true);
    let request = RequestMessage::parse(&bytes).unwrap();
    assert_eq!((request.method, request.host), (&b"GET"[..], &b"gateway.example:443"[..]));
    assert!(request.has_body && request.expect_continue && !request.is_tunnel);
    let fields: Vec<_> = request.fields().map(|field| (field.name, field.value)).collect();
    assert_eq!(fields, [(&b"User-Agent"[..], &b"ccmhttp"[..]), (b"X-Empty", b"")]);
    assert_eq!(request.protocol(), None);
    let bytes = response_message(204);
    let answer = ResponseMessage::parse(&bytes).unwrap();
    assert_eq!((answer.reason, answer.protocol()), (&b"Fine"[..], None));
    let [open, head] = tunnel_messages();
    let request = RequestMessage::parse(&open).unwrap();
    assert!(request.is_tunnel && request.has_body);
    assert_eq!((request.protocol(), request.fields().count()), (Some(&b"websocket"[..]), 2));
    let answer = ResponseMessage::parse(&head).unwrap();
    assert!(answer.is_tunnel() && !answer.is_interim());
    assert_eq!(answer.protocol(), Some(&b"WebSocket"[..]));
}
