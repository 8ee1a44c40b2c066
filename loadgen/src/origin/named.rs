//! What a named endpoint says to a request that was read to its end.

use super::bits::{Packet, Sessions};
use super::exchange::Common;
use super::request::{Named, Request};
use crate::content::{Shape, write_receipt};
use crate::notification::{CLIENT_FIELD, PUSH_FIELD};
use crate::population::catalogue::{self, Reply, Row, Service};
use crate::tokens::TOKEN_FIELD;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Nothing.
const EMPTY: Shape = Shape { lead: b"", tail: b"", size: 0, file: None };

/// An answer but for its letters.
#[derive(Debug)]
pub struct Said {
    /// Its status.
    pub status: u16,
    /// `Content-Type`.
    pub kind: &'static str,
    /// Its body.
    pub shape: Shape,
    /// More fields, each with its line end.
    pub fields: Vec<u8>,
}

/// The answer to `request`.
pub fn say(named: &Named, request: &Request, common: &Common) -> Said {
    let mut fields = b"X-Load-Account: ".to_vec();
    write_receipt(request.hash.size(), request.hash.finish(), &mut fields);
    fields.extend_from_slice(b"\r\n");
    if !named.takes_method {
        let _ = write!(fields, "Allow: {}\r\n", named.service.methods().join(", "));
        return Said { status: 405, kind: "text/plain", shape: EMPTY, fields };
    }
    let (status, row) = match named.service {
        Service::Uploads => (upload(named, request, &common.sessions, &mut fields), Reply::Ack.row()),
        service => match reply(service, named, request) {
            Ok(reply) => (reply.row().status, reply.row()),
            Err(status) => (status, Row { shape: EMPTY, ..Reply::Taken.row() }),
        },
    };
    if let Some(number) = request.pushed {
        let _ = write!(fields, "{PUSH_FIELD}: {number}\r\n");
    }
    if let (Some(client), Service::Notification(_)) = (request.wish.client, named.service) {
        let _ = write!(fields, "{CLIENT_FIELD}: {client}\r\n");
    }
    if let (Some(signer), Some(shown)) = (&common.signer, &named.token)
        && let Some(given) = signer.exchange(shown)
    {
        let _ = write!(fields, "{TOKEN_FIELD}: {given}\r\n");
    }
    if let Some(file) = row.shape.file {
        let _ = write!(fields, "ETag: \"{file}-{}\"\r\nAccept-Ranges: bytes\r\n", row.shape.size);
    }
    let Row { kind, shape, .. } = row;
    match request.wish.status {
        Some(status) => Said { status, kind, shape, fields },
        None => Said { status, kind, shape, fields },
    }
}

/// Which answer of the table; else a status.
fn reply(service: Service, named: &Named, request: &Request) -> Result<Reply, u16> {
    match service {
        Service::Plain(reply) => Ok(reply),
        Service::Missing => Err(404),
        Service::Notification(true) if request.wish.pushes || request.pushed.is_some() => Ok(Reply::Push),
        Service::Notification(true) => Ok(Reply::Nothing),
        Service::Notification(false) => Ok(Reply::SignedIn),
        Service::Messaging => {
            catalogue::target_endpoint(&request.start).map(|name| catalogue::message_reply(&name)).ok_or(400)
        }
        Service::Updates => {
            let action = named.action.as_deref().and_then(|action| std::str::from_utf8(action).ok());
            action.and_then(catalogue::soap_reply).ok_or(500)
        }
        Service::Uploads => Ok(Reply::Ack),
    }
}

fn upload(named: &Named, request: &Request, sessions: &Mutex<Sessions>, fields: &mut Vec<u8>) -> u16 {
    let packet = Packet {
        kind: &named.packet,
        session: named.session.as_deref(),
        protocols: named.protocols.as_deref(),
        range: named.content_range.as_deref(),
        size: request.hash.size(),
    };
    // A shard that panicked left whole sessions: each change is one assignment.
    sessions.lock().unwrap_or_else(PoisonError::into_inner).handle(&packet, fields)
}
