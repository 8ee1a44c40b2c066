//! The story of one request: mapped, admitted, taken to its origin, answered.
//!
//! Nothing the gateway says about where a request goes is believed: the connection point maps by its
//! own settings. How bytes pass in both directions at once is `relay.rs`.

use std::rc::Rc;

use super::Here;
use super::head::Client;
use super::origin::Want;
use super::relay::{Fault, Relay};
use super::wait::unless_broken;
use crate::channel::{RequestMessage, ResetCode};
use crate::mapping::Mapped;
use crate::refusal::Refusal;
use crate::transport::Stream;

/// Who asks, as the channel says it.
#[derive(Clone)]
pub enum Asking {
    /// Nothing was said.
    Nobody,
    /// A client that the channel introduced.
    Known(Rc<Client>),
    /// A number under which nobody readable was introduced.
    Unreadable,
}

/// Answers one stream; `message` is its OPEN payload, in a buffer of the shard's pool.
pub async fn serve(here: Rc<Here>, stream: Stream, message: Vec<u8>, asking: Asking) {
    let counted = here.begin_exchange();
    if let Err(code) = carry(&here, &stream, &message, &asking).await {
        here.counts.reset(code);
        stream.reset(code);
    }
    here.shard.ring.pool.borrow_mut().give_back(message);
    drop(counted);
}

async fn carry(here: &Here, stream: &Stream, message: &[u8], asking: &Asking) -> Result<(), ResetCode> {
    let request = RequestMessage::parse(message).map_err(|_| ResetCode::Protocol)?;
    let mapped = here.plan.mapping.map(request.target)?;
    mapped.endpoint.admit(request.method, length(&request))?;
    if request.is_tunnel {
        return Err(Refusal::BadGateway.into());
    }
    let client = introduce(&mapped, asking)?;
    let origin = &here.origins[mapped.origin];
    let mut want = if is_repeatable(&request, &mapped) { Want::Any } else { Want::Recent };
    loop {
        let connection = match origin.ready(want) {
            Some(connection) => connection,
            // Boxed, so that the usual exchange does not carry the room for a handshake.
            None => {
                let made = Box::pin(unless_broken(stream, origin.connection(want)));
                made.await.ok_or(ResetCode::Cancelled)??
            }
        };
        let may_repeat = want == Want::Any && !connection.is_fresh;
        let relay = Relay::new(here, stream, connection, &request, &mapped, client);
        match relay.run().await {
            Ok(()) => return Ok(()),
            Err(Fault::Died) if may_repeat => {
                here.counts.repeated();
                want = Want::Fresh;
            }
            Err(fault) => return Err(fault.told(&request, &origin.plan().authority)),
        }
    }
}

/// Octets of the body; `None` for one of unknown length, whose octets are counted as they come.
fn length(request: &RequestMessage<'_>) -> Option<u64> {
    if request.has_body { request.length } else { Some(0) }
}

fn introduce<'a>(mapped: &Mapped<'_, '_>, asking: &'a Asking) -> Result<Option<&'a Client>, ResetCode> {
    match asking {
        _ if !mapped.endpoint.forward_identity => Ok(None),
        Asking::Nobody => Ok(None),
        Asking::Known(client) => Ok(Some(client)),
        Asking::Unreadable => Err(ResetCode::Protocol),
    }
}

/// Whether a request may go out again when a kept connection turns out dead. Everything else goes only
/// on a connection that cannot be about to close, and never twice.
fn is_repeatable(request: &RequestMessage<'_>, mapped: &Mapped<'_, '_>) -> bool {
    let is_safe = matches!(request.method, b"GET" | b"HEAD" | b"OPTIONS" | b"PROPFIND");
    is_safe && !request.has_body && !mapped.endpoint.once
}
