//! Asking an HTTP proxy for a connection to elsewhere: CONNECT (RFC 9110 9.3.6), with basic authentication
//! (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::head::HeadError;
use super::response::parse_status;
use super::write::{write_end, write_field, write_request_line};
use crate::limits::{HEAD_SIZE_MAX, INTERIM_COUNT_READ_MAX};

/// Why a proxy does not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It is no proxy.
    #[error("its answer is no HTTP: {0}")]
    Head(#[from] HeadError),
    /// It wants credentials, or others.
    #[error("it does not take the user and password it is shown, or wants them and is shown none (407)")]
    Credentials,
    /// It may not, or cannot.
    #[error("it does not connect there: HTTP status {0}")]
    Status(u16),
    /// It only ever says that it will answer.
    #[error("it sends one interim answer after the other and no final one")]
    Interim,
    /// Whoever speaks first behind it is not whom we want to speak with.
    #[error("it sends bytes behind its answer before we have said anything")]
    Early,
}

/// Writes a request for a connection to `authority`, host and port.
pub fn write_connect(out: &mut Vec<u8>, authority: &str, authorization: Option<&str>) {
    write_request_line(out, b"CONNECT", authority.as_bytes(), b"");
    write_field(out, b"Host", authority.as_bytes());
    if let Some(authorization) = authorization {
        write_field(out, b"Proxy-Authorization", authorization.as_bytes());
    }
    write_end(out);
}

/// Reads the answer: bytes of it with the interim ones before it, once it is whole; then the connection leads there.
/// What a 2xx says of a body means nothing (RFC 9110 9.3.6).
///
/// # Errors
/// It does not.
pub fn read_connected(bytes: &[u8]) -> Result<Option<usize>, ConnectError> {
    let mut read = 0;
    for _ in 0..INTERIM_COUNT_READ_MAX {
        let Some((status, size)) = parse_status(&bytes[read..])? else { return Ok(None) };
        read += size;
        match status {
            407 => return Err(ConnectError::Credentials),
            200..=299 if bytes.len() > read => return Err(ConnectError::Early),
            200..=299 => return Ok(Some(read)),
            // 101 is final: it speaks of another protocol.
            100 | 102..=199 if read < HEAD_SIZE_MAX => {}
            100 | 102..=199 => break,
            status => return Err(ConnectError::Status(status)),
        }
    }
    Err(ConnectError::Interim)
}

/// What shows a proxy who asks. It is as good as the password, and must not be logged.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_asked_for_as_proxies_expect_it() {
        let mut out = Vec::new();
        write_connect(&mut out, "gw1.example.org:443", None);
        assert_eq!(out, b"CONNECT gw1.example.org:443 HTTP/1.1\r\nHost: gw1.example.org:443\r\n\r\n");
        out.clear();
        // RFC 7617 2.
        write_connect(&mut out, "[::1]:10124", Some(&basic("Aladdin", "open sesame")));
        let expected = "CONNECT [::1]:10124 HTTP/1.1\r\nHost: [::1]:10124\r\n\
                        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
        assert_eq!(out, expected.as_bytes());
    }

    #[test]
    fn what_a_proxy_answers_is_understood() {
        type Row<'r> = (&'r [u8], Result<Option<usize>, ConnectError>);
        let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n".as_slice();
        let many = interim.repeat(INTERIM_COUNT_READ_MAX);
        let value = vec![b'a'; HEAD_SIZE_MAX - 100];
        let long = [b"HTTP/1.1 102 Processing\r\nA: ", value.as_slice(), b"\r\n\r\n"];
        let long = long.concat().repeat(2);
        let rows: [Row<'_>; 17] = [
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(Some(44))),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Ok(None)),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Ok(None)),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 No\r\n\r\n", Err(ConnectError::Credentials)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n", Ok(Some(63))),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Some(47))),
            (&many, Err(ConnectError::Interim)),
            (&many[interim.len()..], Ok(None)),
            (&long, Err(ConnectError::Interim)),
            (b"HTTP/1.1 200 Connection established\r\n\r\n", Ok(Some(39))),
            (b"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n", Ok(Some(35))),
            (b"HTTP/1.1 200 Connection established\r\n\r", Ok(None)),
            (b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0", Err(ConnectError::Early)),
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", Err(ConnectError::Status(403))),
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Err(ConnectError::Credentials)),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(ConnectError::Status(101))),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Err(ConnectError::Head(HeadError::StartLine))),
        ];
        for (bytes, expected) in rows {
            let found = read_connected(bytes);
            let is_head = |found| matches!(found, Err(ConnectError::Head(_)));
            assert!(
                found == expected || is_head(found) && is_head(expected),
                "{found:?}: {}",
                bytes.escape_ascii()
            );
        }
    }
}
