//! Writing answers to clients: the head of an origin's answer, and what the gateway says itself. The
//! one place where a refusal becomes a response.

use crate::channel::{Body, RequestMessage, ResponseMessage};
use crate::http::{self, Version};
use crate::refusal::{Refusal, Refused};

use super::request::Manner;

/// How the body of an answer is framed towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerFraming {
    /// There is none.
    None,
    /// As many bytes as said.
    Length,
    /// In chunks.
    Chunked,
    /// Until the connection ends (HTTP/1.0).
    UntilClose,
}

/// Whether the client reads the end of this answer where we do: none to HEAD, none with 204 or 304 has
/// a body, and no protocol is changed (see [`switches`]).
pub fn is_readable(message: &ResponseMessage<'_>, manner: &Manner) -> bool {
    let is_bare = manner.is_head || matches!(message.status, 204 | 304);
    message.status != 101 && !(is_bare && message.body != Body::None)
}

/// Whether this answer begins the tunnel that `open`, the OPEN payload, asked for.
pub fn switches(message: &ResponseMessage<'_>, open: &[u8]) -> bool {
    let Some(told) = message.protocol() else { return false };
    let asked = RequestMessage::parse(open).ok().and_then(|request| request.protocol());
    asked.is_some_and(|asked| asked.eq_ignore_ascii_case(told))
}

/// Appends the head that begins a tunnel.
pub fn switching(out: &mut Vec<u8>, message: &ResponseMessage<'_>, manner: &Manner) {
    http::write_status_line(out, message.status, message.reason);
    fields(out, message);
    if let Some(protocol) = message.protocol() {
        http::write_upgrade(out, protocol);
    }
    http::write_field(out, b"X-CMG-Request-Id", manner.request_id.text().as_bytes());
    http::write_end(out);
}

/// Appends an interim head.
pub fn interim(out: &mut Vec<u8>, message: &ResponseMessage<'_>) {
    http::write_status_line(out, message.status, message.reason);
    fields(out, message);
    http::write_end(out);
}

/// Appends the final head of an origin's answer; says how its body is framed and whether the
/// connection can go on.
pub fn head(
    out: &mut Vec<u8>,
    message: &ResponseMessage<'_>,
    manner: &Manner,
    keep: bool,
) -> (AnswerFraming, bool) {
    let framing = match message.body {
        Body::None => AnswerFraming::None,
        Body::Length => AnswerFraming::Length,
        Body::Unknown if manner.version == Version::Http11 => AnswerFraming::Chunked,
        Body::Unknown => AnswerFraming::UntilClose,
    };
    let keep = keep && framing != AnswerFraming::UntilClose;
    http::write_status_line(out, message.status, message.reason);
    fields(out, message);
    if let Some(length) = message.length {
        http::write_content_length(out, length);
    }
    if framing == AnswerFraming::Chunked {
        http::write_field(out, b"Transfer-Encoding", b"chunked");
    }
    if message.status >= 400 && message.reason.starts_with(b"CMG") {
        http::write_field(out, b"X-CMG-Status", message.reason);
    }
    ending(out, manner, keep);
    (framing, keep)
}

/// The connection point filtered already; what it may have missed must not frame the answer once more.
fn fields(out: &mut Vec<u8>, message: &ResponseMessage<'_>) {
    let none = http::ConnectionTokens::default();
    for field in message.fields().filter(|field| http::is_forwarded_response_field(field.name, &none)) {
        http::write_field(out, field.name, field.value);
    }
}

/// Appends the answer to a request that is turned away; says how many bytes its body has.
pub fn refuse(out: &mut Vec<u8>, refused: &Refused, manner: &Manner, keep: bool) -> usize {
    let refusal = refused.refusal;
    http::write_status_line(out, refusal.status(), refusal.reason().as_bytes());
    http::write_field(out, b"X-CMG-Status", refusal.reason().as_bytes());
    if refusal.is_worth_retrying() {
        let secs = refused.again.unwrap_or(RETRY_AFTER_SECS);
        http::write_field(out, b"Retry-After", secs.to_string().as_bytes());
    }
    if refusal == Refusal::InvalidToken {
        // RFC 6750 3: which kind of credential would be taken.
        http::write_field(out, b"WWW-Authenticate", b"Bearer");
    }
    let mut body = Vec::with_capacity(128);
    body.extend_from_slice(refusal.reason().as_bytes());
    body.extend_from_slice(b"\nrequest ");
    body.extend_from_slice(manner.request_id.text().as_bytes());
    body.push(b'\n');
    text(out, b"text/plain", &body, manner, keep)
}

/// Appends what the gateway says of itself or of a tenant; says how many bytes its body has.
pub fn json(out: &mut Vec<u8>, body: &[u8], manner: &Manner, keep: bool) -> usize {
    http::write_status_line(out, 200, b"OK");
    http::write_field(out, b"Cache-Control", b"no-store");
    text(out, b"application/json", body, manner, keep)
}

fn text(out: &mut Vec<u8>, kind: &[u8], body: &[u8], manner: &Manner, keep: bool) -> usize {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    http::write_field(out, b"Date", date.as_bytes());
    http::write_field(out, b"Content-Type", kind);
    http::write_content_length(out, body.len() as u64);
    ending(out, manner, keep);
    if manner.is_head {
        return 0;
    }
    out.extend_from_slice(body);
    body.len()
}

fn ending(out: &mut Vec<u8>, manner: &Manner, keep: bool) {
    http::write_field(out, b"X-CMG-Request-Id", manner.request_id.text().as_bytes());
    match (keep, manner.version) {
        (false, _) => http::write_field(out, b"Connection", b"close"),
        (true, Version::Http10) => http::write_field(out, b"Connection", b"keep-alive"),
        (true, Version::Http11) => {}
    }
    http::write_end(out);
}

/// A link that was lost comes back within seconds; a client that waits longer has lost patience.
const RETRY_AFTER_SECS: u16 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::message::UPGRADE;
    use crate::channel::{RequestStart, RequestWriter, ResponseStart, ResponseWriter};

    fn plain_get() -> Manner {
        Manner {
            version: Version::Http11,
            is_head: false,
            keep_alive: true,
            has_body: false,
            expects_continue: false,
            request_id: Default::default(),
        }
    }

    fn is_taken(status: u16, body: Body, is_head: bool) -> bool {
        let mut payload = Vec::new();
        let length = (body == Body::Length).then_some(5);
        let start = ResponseStart { status, reason: b"", length, body };
        ResponseWriter::new(&mut payload, &start).expect("it is small").finish();
        let manner = Manner {
            version: Version::Http11,
            is_head,
            keep_alive: true,
            has_body: false,
            expects_continue: false,
            request_id: Default::default(),
        };
        is_readable(&ResponseMessage::parse(&payload).expect("just written"), &manner)
    }

    #[test]
    fn an_answer_whose_end_the_client_sees_elsewhere_is_not_passed_on() {
        for (status, body, is_head, expected) in [
            (200, Body::Length, false, true),
            (200, Body::Unknown, false, true),
            (100, Body::None, false, true),
            (200, Body::None, true, true),
            (200, Body::Length, true, false),
            (404, Body::Unknown, true, false),
            (204, Body::None, false, true),
            (204, Body::Length, false, false),
            (304, Body::Unknown, false, false),
        ] {
            assert_eq!(is_taken(status, body, is_head), expected, "{status} {body:?} to HEAD: {is_head}");
        }
    }

    #[test]
    fn a_tunnel_begins_only_as_the_client_asked_for_it() {
        let open = |protocol: Option<&[u8]>| {
            let mut open = Vec::new();
            let start = RequestStart {
                request_id: [7; 16],
                identity: 0,
                window: 1,
                has_body: protocol.is_some(),
                length: None,
                is_tunnel: protocol.is_some(),
                expect_continue: false,
                method: b"GET",
                target: b"/",
                host: b"h",
            };
            let mut writer = RequestWriter::new(&mut open, &start).expect("it is small");
            protocol.iter().for_each(|name| writer.field(UPGRADE, name).expect("it is small"));
            writer.finish();
            open
        };
        let mut payload = Vec::new();
        let start = ResponseStart { status: 101, reason: b"Go", length: None, body: Body::Unknown };
        let mut writer = ResponseWriter::new(&mut payload, &start).expect("it is small");
        writer.field(UPGRADE, b"WebSocket").expect("it is small");
        for name in ["Connection", "X-CMG-Request-Id", "Transfer-Encoding", "Sec-WebSocket-Accept"] {
            writer.field(name.as_bytes(), b"forged").expect("it is small");
        }
        writer.finish();
        let message = ResponseMessage::parse(&payload).expect("just written");
        for (asked, expected) in [(None, false), (Some("other"), false), (Some("websocket"), true)] {
            assert_eq!(switches(&message, &open(asked.map(str::as_bytes))), expected, "{asked:?}");
        }
        let manner = plain_get();
        assert!(!is_readable(&message, &manner));
        let mut out = Vec::new();
        switching(&mut out, &message, &manner);
        let text = String::from_utf8(out).expect("ASCII");
        let expected = format!(
            "HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: forged\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
             X-CMG-Request-Id: {}\r\n\r\n",
            manner.request_id.text().as_str()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_connection_point_cannot_frame_an_answer_twice() {
        let mut payload = Vec::new();
        let start = ResponseStart { status: 200, reason: b"OK", length: Some(5), body: Body::Length };
        let mut writer = ResponseWriter::new(&mut payload, &start).expect("it is small");
        for name in ["Content-Length", "transfer_encoding", "Connection", "X-CMG-Status", "ETag"] {
            writer.field(name.as_bytes(), b"7").expect("it is small");
        }
        writer.finish();
        let message = ResponseMessage::parse(&payload).expect("just written");
        let manner = plain_get();
        let mut out = Vec::new();
        head(&mut out, &message, &manner, true);
        let text = String::from_utf8(out).expect("ASCII");
        let names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(names, ["ETag", "Content-Length", "X-CMG-Request-Id"], "{text}");
    }
}
