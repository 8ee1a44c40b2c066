//! Request heads, as a client sends them.

use super::connection::ConnectionTokens;
use super::head::{FieldScratch, Fields, Framing, Gathered, HeadError, Parsed, Version};
use super::host::is_host;
use super::scan;
use crate::limits::{METHOD_SIZE_MAX, TARGET_SIZE_MAX};

/// A request head that can be read in one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'b, 'f> {
    /// Any token but CONNECT; upper and lower case differ.
    pub method: &'b [u8],
    /// Path and query as they came, beginning with a slash; of an absolute target what follows its
    /// authority.
    pub target: &'b [u8],
    /// Of the client.
    pub version: Version,
    /// `Host` as it came; empty only where HTTP/1.0 brought none.
    pub host: &'b [u8],
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client expects to send more on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before its body.
    pub expect_continue: bool,
    /// The protocol asked for by `Upgrade`, when this may become a tunnel: HTTP/1.1, GET, no body and no length
    /// declared, one `Upgrade` that `Connection` names, one protocol in it and not h2c. Whatever else speaks of
    /// an upgrade is a request as if it did not.
    pub upgrade: Option<&'b [u8]>,
    /// What `Connection` says.
    pub connection: ConnectionTokens<'b>,
    /// Every field, also those that are not passed on.
    pub fields: Fields<'b, 'f>,
}

impl RequestHead<'_, '_> {
    /// Whether this is HEAD, whose response has no body.
    pub fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }
}

/// Reads the request head at the front of `bytes`.
///
/// # Errors
/// For everything two readers could understand differently, as soon as it shows; the connection must
/// then be closed, since nobody knows where the next request begins.
pub fn parse_request<'b, 'f>(
    bytes: &'b [u8],
    scratch: &'f mut FieldScratch<'b>,
) -> Result<Parsed<RequestHead<'b, 'f>>, HeadError> {
    let Some(size) = scan::head_size(bytes)? else { return Ok(Parsed::Partial) };
    let mut request = httparse::Request::new(&mut []);
    let status = request.parse_with_uninit_headers(&bytes[..size], &mut scratch.slots)?;
    let (httparse::Status::Complete(parsed), Some(method), Some(path), Some(version)) =
        (status, request.method, request.path, request.version)
    else {
        return Err(HeadError::StartLine);
    };
    if parsed != size {
        return Err(HeadError::LineEnd); // Unreachable as long as httparse agrees where a head ends.
    }
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let head = judge(method.as_bytes(), path.as_bytes(), version, Fields(request.headers), &bytes[..size])?;
    Ok(Parsed::Complete { head, size })
}

fn judge<'b, 'f>(
    method: &'b [u8],
    target: &'b [u8],
    version: Version,
    fields: Fields<'b, 'f>,
    bytes: &[u8],
) -> Result<RequestHead<'b, 'f>, HeadError> {
    check_method(method)?;
    let (authority, target) = split_target(target)?;
    let gathered = Gathered::from_fields(fields, bytes)?;
    let framing = framing(&gathered, version)?;
    let is_http11 = version == Version::Http11;
    Ok(RequestHead {
        method,
        target,
        version,
        host: host(gathered.host, authority, version)?,
        framing,
        keep_alive: gathered.keep_alive(version),
        expect_continue: gathered.expects_continue && is_http11 && framing.has_body(),
        upgrade: gathered.upgrade.filter(|_| is_http11 && method == b"GET" && framing == Framing::None),
        connection: gathered.connection,
        fields,
    })
}

/// Methods are case-sensitive; a lax origin that takes `head` for HEAD would leave its connection in
/// another state than we believe.
fn check_method(method: &[u8]) -> Result<(), HeadError> {
    let is_framed_otherwise = (method.eq_ignore_ascii_case(b"HEAD") && method != b"HEAD")
        || method.eq_ignore_ascii_case(b"CONNECT");
    if method.len() > METHOD_SIZE_MAX || is_framed_otherwise {
        return Err(HeadError::Method);
    }
    Ok(())
}

/// The authority of an absolute target, and what remains in origin form.
fn split_target(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), HeadError> {
    if target.len() > TARGET_SIZE_MAX {
        return Err(HeadError::TargetTooLong);
    }
    if scan::is_target(target) {
        return Ok((None, target));
    }
    let rest = after_scheme(target).ok_or(HeadError::Target)?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.is_empty() { b"/" } else { path };
    if !is_host(authority) || !scan::is_target(path) {
        return Err(HeadError::Target); // `http://host?query` too: it has no origin form of its own.
    }
    Ok((Some(authority), path))
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    let strip = |scheme: &[u8]| {
        let (front, rest) = target.split_at_checked(scheme.len())?;
        front.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    strip(b"https://").or_else(|| strip(b"http://"))
}

fn host<'b>(
    host: Option<&'b [u8]>,
    authority: Option<&'b [u8]>,
    version: Version,
) -> Result<&'b [u8], HeadError> {
    match (host, authority, version) {
        (Some(host), _, _) if !is_host(host) => Err(HeadError::Host),
        (Some(host), Some(authority), _) if !host.eq_ignore_ascii_case(authority) => {
            Err(HeadError::HostMismatch)
        }
        (Some(host), _, _) => Ok(host),
        (None, _, Version::Http11) => Err(HeadError::HostMissing),
        (None, authority, Version::Http10) => Ok(authority.unwrap_or_default()),
    }
}

fn framing(gathered: &Gathered<'_>, version: Version) -> Result<Framing, HeadError> {
    match (gathered.is_chunked, gathered.content_length, version) {
        (true, _, Version::Http10) => Err(HeadError::TransferEncoding),
        (true, _, Version::Http11) => Ok(Framing::Chunked),
        (false, Some(length), _) => Ok(Framing::Length(length)),
        (false, None, _) => Ok(Framing::None),
    }
}
