//! How a channel begins over HTTPS: one request that asks to change over, one answer that does it; frames follow.
//!
//! Pure. Both heads have one form, because both ends are ours: whatever else comes is refused, and the connection
//! ends. Who may ask was decided by the TLS handshake.

use crate::http::{
    self, FieldScratch, HeadError, Parsed, Version, write_end, write_field, write_request_line,
    write_status_line, write_upgrade,
};

/// What is asked for.
const TARGET: &[u8] = b"/cmg-channel";
/// What the connection changes over to. Versions are the business of ALPN and hello.
const PROTOCOL: &[u8] = b"cmg-channel";

/// Why a channel does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// No head of HTTP.
    #[error("its first bytes are no HTTP: {0}")]
    Head(#[from] HeadError),
    /// Something else is asked for.
    #[error("it asks for something else than a channel")]
    NotAsked,
    /// More came than may be sent before the answer.
    #[error("it does not wait for the answer")]
    Early,
    /// The answer's status.
    #[error("it does not change over to a channel: HTTP status {0}")]
    Status(u16),
    /// It changes over to something else.
    #[error("it changes over to something else than a channel")]
    Other,
}

/// Writes the request of a connection point; `host` is the name in the instance's certificate.
pub fn write_ask(out: &mut Vec<u8>, host: &str) {
    write_request_line(out, b"GET", TARGET, b"");
    write_field(out, b"Host", host.as_bytes());
    write_upgrade(out, PROTOCOL);
    write_end(out);
}

/// Reads the request at a gateway: bytes of it, once it is whole. Nothing may stand behind it.
///
/// # Errors
/// It is none; [`write_no`] is the answer.
pub fn read_ask(bytes: &[u8]) -> Result<Option<usize>, UpgradeError> {
    let mut scratch = FieldScratch::new();
    let Parsed::Complete { head, size } = http::parse_request(bytes, &mut scratch)? else { return Ok(None) };
    // An upgrade is read only of a GET of HTTP/1.1 without a body.
    let is_meant = head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL));
    match () {
        () if !is_meant || head.target != TARGET || !head.keep_alive => Err(UpgradeError::NotAsked),
        () if bytes.len() > size => Err(UpgradeError::Early),
        () => Ok(Some(size)),
    }
}

/// Writes the answer that changes over.
pub fn write_yes(out: &mut Vec<u8>) {
    write_status_line(out, 101, b"Switching Protocols");
    write_upgrade(out, PROTOCOL);
    write_end(out);
}

/// Writes the answer to what is no such request; the connection ends behind it.
pub fn write_no(out: &mut Vec<u8>) {
    write_status_line(out, 400, b"Bad Request");
    write_field(out, b"Connection", b"close");
    http::write_content_length(out, 0);
    write_end(out);
}

/// Reads the answer at a connection point: bytes of it, once it is whole. Frames may stand behind it.
///
/// # Errors
/// It does not change over.
pub fn read_answer(bytes: &[u8]) -> Result<Option<usize>, UpgradeError> {
    let mut scratch = FieldScratch::new();
    let Parsed::Complete { head, size } = http::parse_response(bytes, false, &mut scratch)? else {
        return Ok(None);
    };
    match () {
        () if head.status != 101 || head.version != Version::Http11 => Err(UpgradeError::Status(head.status)),
        () if !head.switches_to(PROTOCOL) => Err(UpgradeError::Other),
        () => Ok(Some(size)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_writes_the_other_takes_whole_and_not_before() {
        let (mut ask, mut yes, mut no) = (Vec::new(), Vec::new(), Vec::new());
        write_ask(&mut ask, "gw1.gateway.cmg.internal");
        write_yes(&mut yes);
        write_no(&mut no);
        assert_eq!(read_ask(&ask), Ok(Some(ask.len())));
        assert_eq!(read_answer(&yes), Ok(Some(yes.len())));
        assert_eq!(read_answer(&no), Err(UpgradeError::Status(400)));
        (0..ask.len()).for_each(|size| assert_eq!(read_ask(&ask[..size]), Ok(None), "{size}"));
        (0..yes.len()).for_each(|size| assert_eq!(read_answer(&yes[..size]), Ok(None), "{size}"));
        // The first frame may come with the answer, and none with the request.
        let size = yes.len();
        assert_eq!(read_answer(&[yes, vec![2, 0, 0, 0]].concat()), Ok(Some(size)));
        assert_eq!(read_ask(&[ask, vec![1]].concat()), Err(UpgradeError::Early));
    }

    #[test]
    fn whatever_else_is_asked_for_is_no_channel() {
        let good =
            "GET /cmg-channel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: cmg-channel\r\n\r\n";
        assert_eq!(read_ask(good.as_bytes()), Ok(Some(good.len())));
        for (part, other) in [
            ("GET", "POST"),
            ("GET", "get"),
            ("/cmg-channel HTTP", "/cmg-channel/ HTTP"),
            ("/cmg-channel HTTP", "/cmg-channel?x HTTP"),
            ("/cmg-channel HTTP", "/CMG-CHANNEL HTTP"),
            ("/cmg-channel HTTP", "/ HTTP"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Connection: Upgrade\r\n", ""),
            ("Connection: Upgrade", "Connection: close, Upgrade"),
            ("Upgrade: cmg-channel\r\n", ""),
            ("Upgrade: cmg-channel", "Upgrade: websocket"),
            ("Upgrade: cmg-channel", "Upgrade: cmg-channel/1"),
            ("Upgrade: cmg-channel", "Upgrade: cmg-channel, h2c"),
            ("Upgrade: cmg-channel", "Upgrade: cmg-channel\r\nUpgrade: cmg-channel"),
            ("Upgrade: cmg-channel", "Upgrade: cmg-channel\r\nContent-Length: 0"),
            ("Upgrade: cmg-channel", "Upgrade: cmg-channel\r\nTransfer-Encoding: chunked"),
        ] {
            let asked = good.replacen(part, other, 1);
            assert_ne!(asked, good, "{part}");
            assert_eq!(read_ask(asked.as_bytes()), Err(UpgradeError::NotAsked), "{asked}");
        }
        for broken in [good.replace("\r\n", "\n"), good.replace("Host: a\r\n", ""), "\u{1}".repeat(20_000)] {
            assert!(matches!(read_ask(broken.as_bytes()), Err(UpgradeError::Head(_))), "{broken:.80}");
        }
    }

    #[test]
    fn whatever_else_is_answered_is_no_channel() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: CMG-channel\r\n\r\n";
        assert_eq!(read_answer(good.as_bytes()), Ok(Some(good.len())));
        for (part, other, error) in [
            ("101", "200", UpgradeError::Status(200)),
            ("101", "100", UpgradeError::Status(100)),
            ("HTTP/1.1", "HTTP/1.0", UpgradeError::Status(101)),
            ("Connection: Upgrade\r\n", "", UpgradeError::Other),
            ("Upgrade: CMG-channel", "Upgrade: websocket", UpgradeError::Other),
            ("Upgrade: CMG-channel", "Upgrade: CMG-channel\r\nContent-Length: 5", UpgradeError::Other),
        ] {
            assert_eq!(read_answer(good.replacen(part, other, 1).as_bytes()), Err(error), "{other}");
        }
    }
}
