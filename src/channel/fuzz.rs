//! What must hold for any bytes in any reader of this core, for one end against a peer that keeps to no
//! rule, and for two honest ends whatever is asked of them.

use std::time::Instant;

use super::frame::FrameKind;
use super::mux::Channel;
use super::*;
use super::{adversary, simulation};
use crate::http;
use crate::limits::{
    CHANNEL_OUT_STALLED_SIZE, CHANNEL_WINDOW, FRAME_HEADER_SIZE, FRAME_PAYLOAD_SIZE_MAX, HEAD_SIZE_MAX,
    WINDOW_GROWTH_BUDGET,
};

/// `bytes` as frames, one behind the other.
///
/// # Panics
/// When a frame that is taken is not written as the same bytes, or when it matters how they arrived.
pub fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, size))) = frame::take(rest) {
        assert_eq!(size, FRAME_HEADER_SIZE + frame.payload.len());
        assert!(frame.payload.len() <= FRAME_PAYLOAD_SIZE_MAX);
        for cut in [0, 1, FRAME_HEADER_SIZE - 1, FRAME_HEADER_SIZE, size - 1] {
            assert!(cut >= size || frame::take(&rest[..cut]) == Ok(None), "cut at {cut}");
        }
        if frame.kind == FrameKind::Ignored {
            assert!(FrameKind::from_byte(rest[0]).is_none() && rest[1] & frame::FLAG_MAY_IGNORE != 0);
        } else {
            let mut again = Vec::new();
            frame::put(&mut again, frame.kind, frame.stream, frame.payload);
            assert_eq!(again, rest[..size]);
        }
        rest = &rest[size..];
    }
    if let Err(error) = frame::take(rest) {
        assert_eq!(frame::take(&rest[..FRAME_HEADER_SIZE]), Err(error), "the header alone decides");
    }
}

/// One end of a channel against a peer that says whatever it likes, by a script; the first byte says
/// which end, and where stream numbers begin.
///
/// # Panics
/// When windows, tables or bounds do not hold, when what this end says breaks the protocol, or when
/// anything but the stream that was spoken of changes.
pub fn peer(bytes: &[u8]) {
    let Some((first, script)) = bytes.split_first() else { return };
    let side = if first % 2 == 0 { Side::Gateway } else { Side::Connector };
    adversary::run(
        side,
        script,
        Instant::now(),
        if first & 2 == 0 { 0 } else { u32::MAX - u32::from(*first) },
    );
}

/// Two honest ends driven by a script; the first byte says where stream numbers begin.
///
/// # Panics
/// When anything is lost, doubled, misrouted or left over.
pub fn operations(bytes: &[u8]) {
    let Some((first, script)) = bytes.split_first() else { return };
    // A core has no clock: any instant will do as the beginning, only differences count.
    simulation::run(script, Instant::now(), if first & 1 == 0 { 0 } else { u32::MAX - u32::from(*first) });
}

/// `bytes` as each payload that carries a head, trailers, a client or a verdict.
///
/// # Panics
/// When something is read that is not written as the same bytes, when the channel sees other facts in
/// it than the shell does, or when a head could be read in two ways as HTTP.
pub fn message(bytes: &[u8]) {
    check_spelt(bytes);
    if let Ok(request) = RequestMessage::parse(bytes) {
        let mut again = Vec::new();
        let mut writer = RequestWriter::new(&mut again, &request).expect("it came in one frame");
        for field in request.fields() {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
        let facts = message::open_facts(bytes).expect("the shell reads no more than the channel");
        assert_eq!(
            (facts.identity, facts.window, facts.has_body),
            (request.identity, request.window, request.has_body)
        );
        assert_eq!(identity_of(bytes), request.identity);
        check_as_http(&request);
    }
    if let Ok(response) = ResponseMessage::parse(bytes) {
        let mut again = Vec::new();
        let mut writer = ResponseWriter::new(&mut again, &response).expect("it came in one frame");
        for field in response.fields() {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
        assert_eq!(message::is_interim(bytes), Some(response.is_interim()));
        check_answer_as_http(&response);
    }
    if let Ok(identity) = Identity::parse(bytes) {
        let mut again = Vec::new();
        if identity.encode(&mut again).is_ok() {
            assert_eq!(again, bytes);
        }
    }
    if let Ok(said) = Acknowledgement::parse(FrameKind::SettingsAck, bytes) {
        let again = Acknowledgement::encode(said.revision, said.verdict, &said.text);
        assert!(again == bytes || said.verdict == Verdict::Unknown);
    }
    if let Ok(lists::Heard::Offer(tag)) = lists::Turn::default().hear(bytes) {
        assert_eq!(lists::encode(&tag, 0, &[]), bytes, "an offer");
        assert!((1..=tag.kind.size_max()).contains(&tag.size));
    }
    if let Ok(fields) = parse_trailers(bytes) {
        let mut again = Vec::new();
        let mut writer = TrailersWriter::new(&mut again);
        for field in fields {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
    }
}

/// Written as HTTP for an origin, a request that came over the channel is one request, with the target,
/// the framing and the fields that were sent.
fn check_as_http(request: &RequestMessage<'_>) {
    let mut text = Vec::new();
    http::write_request_line(&mut text, request.method, b"", request.target);
    http::write_field(&mut text, b"Host", b"origin");
    let none = http::ConnectionTokens::default();
    let passes = |field: &Field<'_>| http::is_forwarded_request_field(field.name, &none);
    for field in request.fields().filter(passes) {
        http::write_field(&mut text, field.name, field.value);
    }
    let framing = match (request.length, request.protocol()) {
        (Some(length), _) => http::Framing::Length(length),
        (None, None) if request.has_body => http::Framing::Chunked,
        (None, _) => http::Framing::None,
    };
    if let Some(protocol) = request.protocol() {
        http::write_upgrade(&mut text, protocol);
    }
    match framing {
        http::Framing::Length(length) => http::write_content_length(&mut text, length),
        http::Framing::Chunked => http::write_field(&mut text, b"Transfer-Encoding", b"chunked"),
        http::Framing::None => {}
    }
    http::write_end(&mut text);
    let mut scratch = http::FieldScratch::new();
    match http::parse_request(&text, &mut scratch) {
        Ok(http::Parsed::Complete { head, size }) => {
            assert_eq!(size, text.len());
            assert_eq!((head.method, head.target, head.framing), (request.method, request.target, framing));
            assert_eq!(head.upgrade, request.protocol());
            let sent = request.fields().filter(passes).map(|field| (field.name, field.value));
            let heard = http::forwarded_request_fields(&head).map(|field| (field.name, field.value));
            assert!(sent.eq(heard));
        }
        // What is added may outgrow a bound; `head` and CONNECT no gateway lets through.
        Err(error) => assert!(
            text.len() > HEAD_SIZE_MAX
                || matches!(error, http::HeadError::TooManyFields | http::HeadError::Method),
            "{error}: {}",
            text.escape_ascii()
        ),
        Ok(http::Parsed::Partial) => panic!("a whole head"),
    }
}

/// An answer that came over the channel, written for a client, is one answer with the framing that was sent.
fn check_answer_as_http(answer: &ResponseMessage<'_>) {
    let mut text = Vec::new();
    http::write_status_line(&mut text, answer.status, answer.reason);
    let none = http::ConnectionTokens::default();
    let passes = |field: &Field<'_>| http::is_forwarded_response_field(field.name, &none);
    for field in answer.fields().filter(passes) {
        http::write_field(&mut text, field.name, field.value);
    }
    if let Some(length) = answer.length {
        http::write_content_length(&mut text, length);
    }
    match answer.protocol() {
        Some(protocol) => http::write_upgrade(&mut text, protocol),
        None if answer.body == Body::Unknown => {
            http::write_field(&mut text, b"Transfer-Encoding", b"chunked");
        }
        None => {}
    }
    http::write_end(&mut text);
    let mut scratch = http::FieldScratch::new();
    match http::parse_response(&text, false, &mut scratch) {
        Ok(http::Parsed::Complete { head, size }) => {
            assert_eq!((size, head.status, head.reason), (text.len(), answer.status, answer.reason));
            assert_eq!(head.content_length, answer.length);
            assert_eq!(
                answer.protocol().is_some(),
                answer.protocol().is_some_and(|one| head.switches_to(one))
            );
            let is_chunked = head.framing == http::ResponseFraming::Chunked;
            let is_bare = head.framing == http::ResponseFraming::None;
            assert!(is_bare || is_chunked == (answer.body == Body::Unknown));
            let sent = answer.fields().filter(passes).map(|field| (field.name, field.value));
            let heard = http::forwarded_response_fields(&head).map(|field| (field.name, field.value));
            assert!(sent.eq(heard));
        }
        Err(error) => assert!(
            text.len() > HEAD_SIZE_MAX
                || matches!(error, http::HeadError::TooManyFields | http::HeadError::Status),
            "{error}: {}",
            text.escape_ascii()
        ),
        Ok(http::Parsed::Partial) => panic!("a whole head"),
    }
}

/// `bytes` as lines of `name:value`, sent as they are: the channel takes the fields that HTTP takes, save the
/// one that only a tunnel has.
fn check_spelt(bytes: &[u8]) {
    let start = ResponseStart { status: 200, reason: b"", length: None, body: Body::None };
    let mut out = Vec::new();
    let mut writer = ResponseWriter::new(&mut out, &start).expect("small");
    let mut is_fine = true;
    for line in bytes.split(|byte| *byte == b'\n') {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default();
        if writer.field(name, value).is_err() {
            return;
        }
        is_fine &= http::is_token(name) && http::is_field_value(value);
        is_fine &= !name.eq_ignore_ascii_case(message::UPGRADE);
    }
    writer.finish();
    let read = ResponseMessage::parse(&out);
    assert_eq!(read.is_ok(), is_fine);
    if let Ok(answer) = read {
        check_answer_as_http(&answer);
    }
}

/// `bytes` as a hello, and as the reply to one.
///
/// # Panics
/// When something is read that is not written so that it reads the same.
pub fn hello(bytes: &[u8]) {
    // Room for whatever later versions append, and for what is cut off.
    let whole = (Hello::parse(bytes), HelloReply::parse(bytes));
    let longer = [bytes, b"appended"].concat();
    assert!(whole.0.is_err() || Hello::parse(&longer) == whole.0);
    assert!(whole.1.is_err() || HelloReply::parse(&longer) == whole.1);
    if let Ok(hello) = Hello::parse(bytes) {
        let mut again = Vec::new();
        hello.encode(&mut again);
        let (frame, _) = frame::take(&again).expect("well-formed").expect("whole");
        assert_eq!(Hello::parse(frame.payload).as_ref(), Ok(&hello));
        assert!(bytes.starts_with(frame.payload));
        assert!(hello.index < hello.count && !hello.site.is_empty());
        for cut in 0..frame.payload.len() {
            assert!(Hello::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
    if let Ok(reply) = HelloReply::parse(bytes) {
        let mut again = Vec::new();
        reply.encode(&mut again);
        let (frame, _) = frame::take(&again).expect("well-formed").expect("whole");
        assert_eq!(HelloReply::parse(frame.payload), Ok(reply));
    }
}

/// `bytes` as what comes before a channel over HTTPS: the request, its answer, and what a proxy says before them.
///
/// # Panics
/// When it matters how they arrived, when a request is taken that something follows, or when one is that has not
/// the target and the protocol of a channel.
pub fn upgrade(bytes: &[u8]) {
    type Reads = fn(&[u8]) -> Option<usize>;
    let readers: [Reads; 3] = [
        |bytes| upgrade::read_ask(bytes).ok().flatten(),
        |bytes| upgrade::read_answer(bytes).ok().flatten(),
        |bytes| http::read_connected(bytes).ok().flatten(),
    ];
    let taken = readers.map(|read| read(bytes));
    let mut sizes = taken.iter().flatten();
    if let Some(size) = sizes.next() {
        assert!(sizes.next().is_none(), "it cannot be two of them");
        for cut in [0, 1, size / 2, size - 1] {
            assert_eq!(readers.map(|read| read(&bytes[..cut])), [None; 3], "cut at {cut}");
        }
    }
    if let [Some(size), ..] = taken {
        assert_eq!(size, bytes.len());
        let has = |part: &[u8]| bytes.to_ascii_lowercase().windows(part.len()).any(|window| window == part);
        assert!(bytes.starts_with(b"GET ") && has(b"/cmg-channel http/1.1\r\n"));
        assert!(has(b"\nupgrade:") && has(b"\nconnection:"));
    }
}

impl Channel {
    /// What holds between any two calls.
    pub(super) fn assert_sound(&mut self) {
        let mut grown = 0;
        for stream in self.streams.iter() {
            assert!(stream.window.is_sound() && !stream.is_over());
            grown += stream.window.grown();
        }
        assert_eq!(self.growth_left + grown, WINDOW_GROWTH_BUDGET as u32);
        assert!(self.credit.left() <= CHANNEL_WINDOW);
        assert!(self.streams.is_sound() && self.window.is_sound());
        assert!(self.out.len() <= CHANNEL_OUT_STALLED_SIZE + FRAME_HEADER_SIZE + FRAME_PAYLOAD_SIZE_MAX);
    }

    /// Nothing is left over, here and at the other end, once all was carried out.
    pub(super) fn assert_idle(&self, peer: &Channel) {
        assert_eq!((self.stream_count(), self.transmit_len()), (0, 0));
        assert_eq!(self.credit.left(), peer.window.granted() as usize, "channel credit leaked");
        assert!(peer.window.is_sound());
        assert_eq!(self.growth_left, WINDOW_GROWTH_BUDGET as u32);
        assert_eq!(self.identities, peer.identities);
    }
}
