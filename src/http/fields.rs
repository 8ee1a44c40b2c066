//! Which fields pass a hop.
//!
//! Names are compared folded: letters lower, everything else a dash. Some origins turn `_` or `.` into
//! `-` on their way to an application, so `Client_Cert` must fare like `Client-Cert`. The first letter
//! decides which few names are compared at all.

use super::connection::ConnectionTokens;
use super::head::Field;
use super::request::RequestHead;
use super::response::ResponseHead;

const FOLDED: [u8; 256] = {
    let mut folded = [b'-'; 256];
    let mut octet = 0;
    while octet < 256 {
        let byte = octet as u8;
        if byte.is_ascii_alphanumeric() {
            folded[octet] = byte.to_ascii_lowercase();
        }
        octet += 1;
    }
    folded
};

#[inline]
fn first(name: &[u8]) -> u8 {
    name.first().map_or(0, |byte| FOLDED[usize::from(*byte)])
}

#[inline]
fn begins(name: &[u8], with: &[u8]) -> bool {
    name.len() >= with.len() && name.iter().zip(with).all(|(byte, with)| FOLDED[usize::from(*byte)] == *with)
}

#[inline]
fn is(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && begins(name, other)
}

/// Fields about one connection only (RFC 9110 7.6.1), with those of cleartext HTTP/2 and the bare
/// `Proxy` that CGI programs take for a setting. `Trailer` announces what we do pass on.
fn is_hop_by_hop(name: &[u8]) -> bool {
    match first(name) {
        b'c' => is(name, b"connection"),
        b'h' => is(name, b"http2-settings"),
        b'k' => is(name, b"keep-alive"),
        b'p' => is(name, b"proxy") || begins(name, b"proxy-"),
        b't' => is(name, b"te") || is(name, b"transfer-encoding"),
        b'u' => is(name, b"upgrade"),
        _ => false,
    }
}

/// Fields of a request that travel apart from the others and are written anew.
fn is_carried_apart(name: &[u8]) -> bool {
    match first(name) {
        b'c' => is(name, b"content-length"),
        b'e' => is(name, b"expect"),
        b'h' => is(name, b"host"),
        _ => false,
    }
}

/// Fields by which an origin might believe somebody's word about who asks, or for what, as proxies and
/// servers in use write them; and ours.
fn is_identity(name: &[u8]) -> bool {
    match first(name) {
        b'c' => begins(name, b"client-cert"),
        b'f' => is(name, b"forwarded"),
        b'm' => begins(name, b"ms-aspnetcore-"),
        b'r' => begins(name, b"remote-"),
        b's' => begins(name, b"ssl-client"),
        b't' => is(name, b"true-client-ip"),
        b'x' => {
            begins(name, b"x-forwarded")
                || begins(name, b"x-cmg-")
                || begins(name, b"x-ssl-")
                || begins(name, b"x-http-method")
                || begins(name, b"x-client-")
                || begins(name, b"x-original-")
                || begins(name, b"x-remote-")
                || begins(name, b"x-ms-client-principal")
                || is(name, b"x-method-override")
                || is(name, b"x-cluster-client-ip")
                || is(name, b"x-real-ip")
                || is(name, b"x-arr-clientcert")
                || is(name, b"x-rewrite-url")
        }
        _ => false,
    }
}

/// Fields of a response that are ours to set, or that would send the client past us
/// (`BITS-Host-Id` names an internal host). `Host` is a request's: in an answer it means nothing, and two of
/// them are read by nobody in the same way.
fn is_withheld_from_client(name: &[u8]) -> bool {
    match first(name) {
        b'b' => begins(name, b"bits-host-id"),
        b'c' => is(name, b"content-length"),
        b'h' => is(name, b"host"),
        b'x' => begins(name, b"x-cmg-"),
        _ => false,
    }
}

/// Fields with a meaning for framing, routing, authentication or content that must be known before
/// the body (RFC 9110 6.5.1).
fn is_head_only(name: &[u8]) -> bool {
    match first(name) {
        b'a' => is(name, b"age") || is(name, b"authorization"),
        b'c' => begins(name, b"content-") || is(name, b"cache-control") || is(name, b"cookie"),
        b'd' => is(name, b"date"),
        b'e' => is(name, b"expires"),
        b'i' => begins(name, b"if-"),
        b'l' => is(name, b"location"),
        b'm' => is(name, b"max-forwards"),
        b'p' => is(name, b"pragma"),
        b'r' => is(name, b"range") || is(name, b"retry-after"),
        b's' => is(name, b"set-cookie"),
        b't' => is(name, b"trailer"),
        b'v' => is(name, b"vary"),
        b'w' => is(name, b"warning") || is(name, b"www-authenticate"),
        _ => false,
    }
}

/// Whether a client's field goes to the origin: not hop-by-hop, not named by `Connection`, not `Host`,
/// `Content-Length` or `Expect` (carried apart), no identity from outside, none of ours.
pub fn is_forwarded_request_field(name: &[u8], connection: &ConnectionTokens<'_>) -> bool {
    !is_hop_by_hop(name) && !is_carried_apart(name) && !is_identity(name) && !connection.names(name)
}

/// Whether an origin's field goes to the client.
pub fn is_forwarded_response_field(name: &[u8], connection: &ConnectionTokens<'_>) -> bool {
    !is_hop_by_hop(name) && !is_withheld_from_client(name) && !connection.names(name)
}

/// Whether a trailer passes, in either direction.
pub fn is_forwarded_trailer_field(name: &[u8]) -> bool {
    !is_hop_by_hop(name)
        && !is_carried_apart(name)
        && !is_identity(name)
        && !is_withheld_from_client(name)
        && !is_head_only(name)
}

/// The fields of a request that go to the origin, in order.
pub fn forwarded_request_fields<'b, 'f>(
    head: &RequestHead<'b, 'f>,
) -> impl Iterator<Item = Field<'b>> + use<'b, 'f> {
    let connection = head.connection;
    head.fields.iter().filter(move |field| is_forwarded_request_field(field.name, &connection))
}

/// The fields of a response that go to the client, in order; `Location` among them, as it came.
pub fn forwarded_response_fields<'b, 'f>(
    head: &ResponseHead<'b, 'f>,
) -> impl Iterator<Item = Field<'b>> + use<'b, 'f> {
    let connection = head.connection;
    head.fields.iter().filter(move |field| is_forwarded_response_field(field.name, &connection))
}

/// Those of `trailers` that pass, in order.
pub fn forwarded_trailer_fields<'b>(
    trailers: impl Iterator<Item = Field<'b>>,
) -> impl Iterator<Item = Field<'b>> {
    trailers.filter(|field| is_forwarded_trailer_field(field.name))
}
