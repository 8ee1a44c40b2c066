//! The story of one request: mapped, admitted, taken to its origin, answered.
//!
//! Nothing the gateway says about where a request goes is believed: the connection point maps by its
//! own settings. How bytes pass in both directions at once is `relay.rs`.

use std::rc::Rc;

use super::Here;
use super::group::Course;
use super::head::Client;
use super::origin::{Kind, Want};
use super::record::{self, Account, Fault, Record};
use super::relay::{Carried, Relay};
use super::servants::Job;
use super::wait::unless_broken;
use super::works::Works;
use crate::channel::RequestMessage;
use crate::mapping::{Family, Mapped};
use crate::refusal::{Refusal, Refused};

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

/// Answers one stream.
// Not an `async fn`, which would keep its arguments twice.
#[allow(clippy::manual_async_fn)]
pub fn serve(here: &Rc<Here>, job: &Job) -> impl Future<Output = ()> {
    async move {
        let counted = here.begin_exchange();
        // One request is mapped and judged under one revision.
        let works = here.works();
        let mut account = Account::new(here.shard.now());
        let end = carry(here, &works, job, &mut account).await;
        if let Err(fault) = &end {
            job.stream.reset(fault.code());
        }
        record::finish(here, &works, &Record { account: &account, end: &end, ended: here.shard.now() });
        drop(counted);
    }
}

async fn carry<'r>(
    here: &'r Here,
    works: &'r Works,
    job: &'r Job,
    account: &mut Account<'r>,
) -> Result<(), Fault> {
    let Account { start, request, mapped, origin: asked, tally } = account;
    let parsed = RequestMessage::parse(&job.message);
    let request = &*request.insert(parsed.map_err(|error| Fault::Protocol(error.to_string().into()))?);
    let mapped = &*mapped.insert(find(works, request)?);
    admit(request, mapped)?;
    if mapped.family == Family::ServerAuth {
        here.tokens.judge(request, mapped.endpoint)?;
        tally.has_token = !mapped.endpoint.open;
    }
    let client = introduce(mapped, &job.asking)?;
    let _active = here.begin_at_endpoint(works, mapped.offer as usize);
    let kind = if mapped.endpoint.held { Kind::Held } else { Kind::Ordinary };
    if kind == Kind::Held && !request.is_tunnel {
        job.stream.mailbox().set_patient();
        here.shard.ring.turn().await;
    } else {
        here.shard.ring.note_urgent();
    }
    let mut want = match is_repeatable(request, mapped) {
        // It keeps its connection to itself, and making one costs it nothing that counts.
        _ if request.is_tunnel => Want::Fresh,
        true => Want::Any,
        false => Want::Recent,
    };
    let mut course = Course::begin(here, works, request, mapped, kind);
    loop {
        let is_fresh;
        // In a scope of its own, and not by `match`, whose subject would live as long as the wait below: the
        // task would keep room for the connection twice.
        let mut relay = {
            let origin = course.origin(works, mapped);
            *asked = Some(origin.plan());
            let connection = if let Some(connection) = origin.ready(want, kind) {
                connection
            } else {
                // Boxed, so that the usual exchange does not carry the room for a handshake.
                let making = Box::pin(unless_broken(&job.stream, origin.connection(want, kind)));
                match making.await.ok_or(Fault::Left)? {
                    Ok(connection) => connection,
                    Err(fault) => {
                        course.hear_unsent((here, works), mapped, kind, *start, fault)?;
                        continue;
                    }
                }
            };
            is_fresh = connection.is_fresh;
            Relay::new((here, works), &job.stream, connection, request, mapped, client, tally)
        };
        match relay.run().await {
            Ok(Carried::Whole) => {
                relay.finish();
                course.hear_answered((here, works), mapped, *start);
                return Ok(());
            }
            // Boxed, so that other exchanges do not carry the room for a tunnel.
            Ok(Carried::Switched) => {
                course.hear_answered((here, works), mapped, *start);
                let tunnel = Box::pin(relay.tunnel());
                return tunnel.await;
            }
            Err(Fault::Died) => {
                course.hear_died((here, works), mapped, kind, *start, is_fresh, want == Want::Any)?;
                here.counts.repeated();
                want = Want::Fresh;
            }
            Err(fault) => {
                course.hear_fault((here, works), mapped, *start, &fault, relay.waited());
                return Err(fault);
            }
        }
    }
}

/// Where the request goes, by our own settings.
fn find<'r>(works: &'r Works, request: &RequestMessage<'r>) -> Result<Mapped<'r, 'r>, Fault> {
    let mapping = &works.plan.mapping;
    let unmapped = |refusal| Fault::Refused(Refused::new(refusal, mapping.explain(request.target)));
    mapping.map(request.target).map_err(unmapped)
}

/// Whether its endpoint takes it.
fn admit(request: &RequestMessage<'_>, mapped: &Mapped<'_, '_>) -> Result<(), Fault> {
    let (endpoint, length) = (mapped.endpoint, length(request));
    endpoint
        .admit(request.method, length)
        .map_err(|refusal| Fault::refused(refusal, endpoint.explain(request.method, length)))?;
    if request.is_tunnel && !endpoint.tunnel {
        return Err(Fault::refused(Refusal::BadGateway, "the endpoint is not one for tunnels here"));
    }
    Ok(())
}

/// Octets of the body; `None` for one of unknown length, whose octets are counted as they come.
fn length(request: &RequestMessage<'_>) -> Option<u64> {
    if request.has_body { request.length } else { Some(0) }
}

fn introduce<'a>(mapped: &Mapped<'_, '_>, asking: &'a Asking) -> Result<Option<&'a Client>, Fault> {
    match asking {
        _ if !mapped.endpoint.forward_identity => Ok(None),
        Asking::Nobody => Ok(None),
        Asking::Known(client) => Ok(Some(client)),
        Asking::Unreadable => {
            Err(Fault::Protocol("it names a client whose identity could not be read".into()))
        }
    }
}

/// Whether a request may go out again when a kept connection turns out dead. Everything else goes only
/// on a connection that cannot be about to close, and never twice.
fn is_repeatable(request: &RequestMessage<'_>, mapped: &Mapped<'_, '_>) -> bool {
    let is_safe = matches!(request.method, b"GET" | b"HEAD" | b"OPTIONS" | b"PROPFIND");
    is_safe && !request.has_body && !mapped.endpoint.once && !mapped.endpoint.held
}
