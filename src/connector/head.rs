//! Heads between channel and origin: what the origin is told of a request, and the gateway of an
//! answer.
//!
//! Bytes and values only; when they are sent is `exchange.rs`'s story.

use std::net::IpAddr;

use super::tokens::is_authorization;
use crate::auth::client_cert_field;
use crate::channel::message::UPGRADE;
use crate::channel::{Body, Identity, RequestMessage, ResponseStart, ResponseWriter, TooLarge};
use crate::http::{
    self, ConnectionTokens, Field, ResponseFraming, ResponseHead, forwarded_response_fields,
    is_forwarded_request_field, write_content_length, write_end, write_field, write_request_line,
    write_upgrade,
};
use crate::limits::REASON_SIZE_MAX;
use crate::mapping::{Family, Mapped, UrlMapping};
use crate::refusal::{Refusal, Refused};
use crate::request_id::RequestId;

/// A client as origins are told of it; built once per identity.
pub struct Client {
    /// Value of `for` in `Forwarded`.
    node: String,
    /// Value of `Client-Cert`.
    certificate: Option<String>,
}

impl Client {
    /// What to say of this identity.
    pub fn new(identity: &Identity<'_>) -> Client {
        let node = match identity.peer {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        Client { node, certificate: identity.leaf.map(client_cert_field) }
    }
}

/// Writes the head that goes to the origin. `client` only where the endpoint forwards identities.
pub fn write_request(
    out: &mut Vec<u8>,
    request: &RequestMessage<'_>,
    mapped: &Mapped<'_, '_>,
    authority: &str,
    client: Option<&Client>,
) {
    write_request_line(out, request.method, mapped.prefix, mapped.rest);
    write_field(out, b"Host", authority.as_bytes());
    // The gateway filtered already; what it may have missed must not reach an origin either.
    let none = ConnectionTokens::default();
    let keeps_token = mapped.family == Family::MutualAuth || mapped.forwards_token;
    for field in request.fields() {
        if !keeps_token && is_authorization(field.name) {
            continue;
        }
        if is_forwarded_request_field(field.name, &none) && !is_connection_login(field.name, field.value) {
            write_field(out, field.name, field.value);
        }
    }
    match request.length {
        Some(length) => write_content_length(out, length),
        None if request.is_tunnel => {}
        None if request.has_body => write_field(out, b"Transfer-Encoding", b"chunked"),
        None => {}
    }
    if request.expect_continue && request.has_body {
        write_field(out, b"Expect", b"100-continue");
    }
    if let Some(protocol) = request.protocol() {
        write_upgrade(out, protocol);
    }
    write_field(out, b"X-CMG-Request-Id", RequestId(request.request_id).text().as_bytes());
    if let Some(client) = client {
        write_client(out, client, request.host);
    }
    write_end(out);
}

fn write_client(out: &mut Vec<u8>, client: &Client, host: &[u8]) {
    out.extend_from_slice(b"Forwarded: for=");
    out.extend_from_slice(client.node.as_bytes());
    if http::is_host(host) {
        // Quoted, because of a port's colon; a host holds nothing that would need more.
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\"");
    }
    out.extend_from_slice(b";proto=https\r\n");
    if let Some(certificate) = &client.certificate {
        write_field(out, b"Client-Cert", certificate.as_bytes());
    }
}

/// Whether a request brings a login that would stay with the origin's connection, and so with whoever
/// uses it next.
fn is_connection_login(name: &[u8], value: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"authorization") && names_connection_scheme(value)
}

/// Whether a list of challenges or credentials names a scheme that authenticates the connection.
fn names_connection_scheme(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|part| {
        let scheme = part.trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// What a written answer says to who carries it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The origin offered a login that stays with its connection: it must not serve anybody else.
    pub saw_connection_login: bool,
}

/// Writes the head that goes to the gateway, interim or final; one with status 101 only where it begins the
/// tunnel that was asked for.
///
/// # Errors
/// `Redirect`: it leads to where nothing is published. `BadGateway`: it does not fit one frame.
pub fn write_answer(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_, '_>,
    mapping: &UrlMapping,
    mapped: &Mapped<'_, '_>,
) -> Result<Written, Refused> {
    let mut reason = [0; REASON_SIZE_MAX];
    let start = ResponseStart {
        status: head.status,
        reason: told_reason(head, &mut reason),
        length: told_length(head),
        body: match head.framing {
            ResponseFraming::None if head.status == 101 => Body::Unknown,
            ResponseFraming::None => Body::None,
            ResponseFraming::Length(_) => Body::Length,
            ResponseFraming::Chunked | ResponseFraming::UntilClose => Body::Unknown,
        },
    };
    let mut writer = ResponseWriter::new(out, &start).map_err(too_large)?;
    let mut written = Written { saw_connection_login: false };
    for Field { name, value } in forwarded_response_fields(head) {
        if is_login_offer(name) && names_connection_scheme(value) {
            written.saw_connection_login = true;
        } else if name.eq_ignore_ascii_case(b"location") {
            write_location(&mut writer, head.status, value, mapping, mapped)?;
        } else {
            writer.field(name, value).map_err(too_large)?;
        }
    }
    if let Some(protocol) = head.upgrade.filter(|_| head.status == 101) {
        writer.field(UPGRADE, protocol).map_err(too_large)?;
    }
    writer.finish();
    Ok(written)
}

fn is_login_offer(name: &[u8]) -> bool {
    name.len() == 16 && name.eq_ignore_ascii_case(b"www-authenticate")
}

fn write_location(
    writer: &mut ResponseWriter<'_>,
    status: u16,
    location: &[u8],
    mapping: &UrlMapping,
    mapped: &Mapped<'_, '_>,
) -> Result<(), Refused> {
    let mut external = Vec::new();
    match mapping.map_back(mapped, location, &mut external) {
        Ok(()) => writer.field(b"Location", &external).map_err(too_large),
        Err(refusal) if status == 201 || (300..400).contains(&status) => {
            Err(Refused::new(refusal, why_not_mapped(location)))
        }
        // Elsewhere it means nothing, and an internal address is not told.
        Err(_) => Ok(()),
    }
}

/// What is wrong with a `Location`; of it only the host is told: its query may be a secret.
fn why_not_mapped(location: &[u8]) -> String {
    let location = std::str::from_utf8(location).unwrap_or_default();
    let authority =
        location.split_once("//").filter(|(scheme, _)| scheme.is_empty() || scheme.ends_with(':'));
    let authority = authority.and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    match authority.filter(|authority| http::is_host(authority.as_bytes())) {
        Some(host) => format!("the origin redirects to a path on host {host} that is not mapped"),
        None => "the origin redirects to a path that is not mapped".to_owned(),
    }
}

fn too_large(_: TooLarge) -> Refused {
    Refused::new(Refusal::BadGateway, "the origin's head does not fit one frame of a channel")
}

/// The length as declared; an interim answer or 204 has none, whatever it declares.
fn told_length(head: &ResponseHead<'_, '_>) -> Option<u64> {
    match head.framing {
        ResponseFraming::None if head.status < 200 || head.status == 204 => None,
        ResponseFraming::None => head.content_length,
        ResponseFraming::Length(length) => Some(length),
        ResponseFraming::Chunked | ResponseFraming::UntilClose => None,
    }
}

/// The origin's reason; from status 400 up `CMGConnector_` and the reason without blanks.
fn told_reason<'r>(head: &ResponseHead<'r, '_>, room: &'r mut [u8; REASON_SIZE_MAX]) -> &'r [u8] {
    if head.status < 400 {
        return &head.reason[..head.reason.len().min(REASON_SIZE_MAX)];
    }
    let standard = axum::http::StatusCode::from_u16(head.status).ok();
    let standard = standard.and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let reason = if head.reason.is_empty() { standard.as_bytes() } else { head.reason };
    let visible = reason.iter().filter(|byte| byte.is_ascii_graphic());
    let mut size = 0;
    for (slot, byte) in room.iter_mut().zip(PREFIX.iter().chain(visible)) {
        *slot = *byte;
        size += 1;
    }
    &room[..size]
}

const PREFIX: &[u8] = b"CMGConnector_";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "head_tests.rs"]
mod tests;
