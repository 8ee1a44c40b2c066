//! What is known of a request of the connection point: gathered in an [`Account`] while it lasts, told
//! as a [`Record`] when it has ended, however it ended. On the way of a good request nothing here
//! allocates, formats or asks a clock.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Here;
use super::plan::OriginPlan;
use super::works::Works;
use crate::channel::{RequestMessage, ResetCode};
use crate::logs::access::{Entry, Queue, Texts};
use crate::logs::{self, Limited};
use crate::mapping::Mapped;
use crate::metrics::Ended;
use crate::refusal::{Refusal, Refused};
use crate::request_id::RequestId;

/// Why an exchange ended before its answer was whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The gateway waits no more.
    Left,
    /// The origin closed before the first byte of an answer.
    Died,
    /// Turned away; nothing of an answer was passed on.
    Refused(Refused),
    /// Given back before anything was done; why.
    NotBegun(Cow<'static, str>),
    /// The answer broke off behind its head; how.
    Broke(Cow<'static, str>),
    /// The gateway's side of the exchange makes no sense; how.
    Protocol(Cow<'static, str>),
}

impl Fault {
    /// Turned away for this cause.
    pub fn refused(refusal: Refusal, cause: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Refused(Refused::new(refusal, cause))
    }

    /// What the gateway is told; the log gets the rest.
    pub fn code(&self) -> ResetCode {
        match self {
            Fault::Left => ResetCode::Cancelled,
            Fault::Died => Refusal::BadGateway.into(),
            Fault::Refused(refused) => refused.refusal.into(),
            Fault::NotBegun(_) => ResetCode::NotBegun,
            Fault::Broke(_) => ResetCode::OriginBroke,
            Fault::Protocol(_) => ResetCode::Protocol,
        }
    }
}

/// What is gathered while a request lasts. A client that waits for its site to call has one for minutes,
/// so nothing is in it twice.
pub struct Account<'r> {
    /// When it came over the channel.
    pub start: Instant,
    /// The request, once its message could be read.
    pub request: Option<RequestMessage<'r>>,
    /// Where it goes, once it is mapped.
    pub mapped: Option<Mapped<'r, 'r>>,
    /// Which origin it went to last.
    pub origin: Option<&'r OriginPlan>,
    /// What passed.
    pub tally: Tally,
}

/// What passed between origin and gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From the request's head sent to the origin to the head of its answer, once there is one.
    pub answered_after: Option<Duration>,
    /// The origin's final answer, once there is one.
    pub status: Option<u16>,
    /// Body bytes that went to the origin.
    pub bytes_in: u64,
    /// Body bytes of the answer that went to the gateway.
    pub bytes_out: u64,
    /// It came with a token that was taken.
    pub has_token: bool,
}

impl<'r> Account<'r> {
    /// Of a request of which nothing was read yet.
    pub fn new(start: Instant) -> Account<'r> {
        Account { start, request: None, mapped: None, origin: None, tally: Tally::default() }
    }

    /// As the gateway made it; zeros when the message could not be read.
    fn id(&self) -> RequestId {
        self.request.as_ref().map_or_else(RequestId::default, |request| RequestId(request.request_id))
    }

    /// As it came; empty when the message could not be read.
    fn method(&self) -> &'r [u8] {
        self.request.as_ref().map_or(&b""[..], |request| request.method)
    }

    /// Internal target in two parts, one after the other, query included; the external one where nothing
    /// maps it.
    fn target(&self) -> [&'r [u8]; 2] {
        match (&self.mapped, &self.request) {
            (Some(mapped), _) => [mapped.prefix, mapped.rest],
            (None, Some(request)) => [request.target, b""],
            (None, None) => [b"", b""],
        }
    }
}

/// A request that has ended.
pub struct Record<'r> {
    /// What was gathered.
    pub account: &'r Account<'r>,
    /// How it ended; `Ok`: with the origin's answer, whole.
    pub end: &'r Result<(), Fault>,
    /// When.
    pub ended: Instant,
}

impl Record<'_> {
    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.account.start)
    }

    /// How it ended, as logs and metrics call it.
    pub fn outcome(&self) -> &'static str {
        match self.end {
            Ok(()) => "answered",
            Err(Fault::Refused(_) | Fault::Died) => "refused",
            Err(Fault::NotBegun(_)) => "not_begun",
            Err(Fault::Broke(_) | Fault::Protocol(_)) => "cut",
            Err(Fault::Left) => "left",
        }
    }
}

/// Where one shard tells of requests.
pub struct Records {
    refusals: Rc<Limited>,
    /// Identities that an instance sent and nobody can read.
    pub identities: Rc<Limited>,
    access: Option<Queue>,
}

impl Records {
    /// Those of a shard on which nothing was told yet.
    pub fn new(access: Option<Queue>) -> Records {
        Records {
            refusals: Limited::new("requests refused, not logged"),
            identities: Limited::new("identities that cannot be read, not logged"),
            access,
        }
    }
}

/// Tells of a request that has ended. Every request of the connection point ends here, once.
pub fn finish(here: &Here, works: &Works, record: &Record<'_>) {
    count(here, works, record);
    if let Err(fault) = record.end {
        here.counts.reset(fault.code());
        tell(here, record, fault);
    }
    let is_bad = !matches!(record.end, Ok(()) | Err(Fault::Left));
    if let Some(queue) = &here.records.access
        && queue.wants(is_bad)
    {
        queue.push(entry(record));
    }
}

fn tell(here: &Here, record: &Record<'_>, fault: &Fault) {
    let is_bad = *fault != Fault::Left;
    if is_bad && !(tracing::enabled!(tracing::Level::INFO) && here.records.refusals.admits(&here.shard)) {
        return;
    }
    let account = record.account;
    let Tally { status, bytes_out, .. } = account.tally;
    let (id, method) = (account.id().text(), String::from_utf8_lossy(account.method()));
    let (request, method, target) = (id.as_str(), &*method, account.target());
    let origin = account.origin.map(|origin| &*origin.authority);
    match fault {
        Fault::Refused(Refused { refusal, cause, .. }) => tracing::info!(
            request,
            method,
            path = logs::path(target),
            status = refusal.status(),
            reason = refusal.reason(),
            cause = &**cause,
            origin,
            "request refused"
        ),
        Fault::NotBegun(cause) => tracing::info!(
            request,
            method,
            path = logs::path(target),
            cause = &**cause,
            origin,
            "request given back"
        ),
        Fault::Broke(cause) | Fault::Protocol(cause) => tracing::info!(
            request,
            method,
            path = logs::path(target),
            status,
            bytes_out,
            cause = &**cause,
            origin,
            "request cut"
        ),
        Fault::Left => {
            if tracing::enabled!(tracing::Level::DEBUG) {
                let path = logs::path(target);
                tracing::debug!(request, method, path, status, bytes_out, origin, "client left");
            }
        }
        // The exchange says it as a refusal that names the origin.
        Fault::Died => {}
    }
}

/// Counts it at its endpoint.
fn count(here: &Here, works: &Works, record: &Record<'_>) {
    let Account { mapped, tally, .. } = record.account;
    let refused = match record.end {
        Err(Fault::Refused(refused)) => Some(refused.refusal),
        Err(Fault::Died) => Some(Refusal::BadGateway),
        Ok(()) | Err(Fault::Left | Fault::NotBegun(_) | Fault::Broke(_) | Fault::Protocol(_)) => None,
    };
    here.at_endpoint(works, mapped.map(|mapped| mapped.offer as usize)).end(&Ended {
        status: refused.map(Refusal::status).or(tally.status).unwrap_or(0),
        refused,
        has_token: tally.has_token,
        request_bytes: tally.bytes_in,
        response_bytes: tally.bytes_out,
        took: tally.answered_after,
    });
}

fn entry(record: &Record<'_>) -> Entry {
    let account = record.account;
    let refused = match record.end {
        Err(Fault::Refused(refused)) => Some(refused.refusal),
        _ => None,
    };
    let (method, path) = (String::from_utf8_lossy(account.method()), logs::path(account.target()));
    let endpoint = account.mapped.map_or("", |mapped| mapped.endpoint.path.as_str());
    let origin = account.origin.map_or("", |origin| &*origin.authority);
    Entry {
        ended: record.ended,
        took: record.took(),
        origin_took: account.tally.answered_after,
        id: account.id(),
        peer: None,
        status: refused.map(Refusal::status).or(account.tally.status),
        reason: refused.map(Refusal::reason),
        bytes_in: account.tally.bytes_in,
        bytes_out: account.tally.bytes_out,
        role: account.mapped.map(|mapped| mapped.role),
        outcome: record.outcome(),
        texts: Texts::new(["", &method, &path, "", endpoint, "", origin]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channel::{RequestStart, RequestWriter};

    #[test]
    fn each_end_is_told_to_the_gateway_and_to_the_log_as_what_it_is() {
        let refused = || Fault::refused(Refusal::Redirect, "a cause");
        let rows = [
            (Fault::Left, ResetCode::Cancelled, "left"),
            (Fault::Died, ResetCode::Refused(Refusal::BadGateway), "refused"),
            (refused(), ResetCode::Refused(Refusal::Redirect), "refused"),
            (Fault::NotBegun("a cause".into()), ResetCode::NotBegun, "not_begun"),
            (Fault::Broke("a cause".into()), ResetCode::OriginBroke, "cut"),
            (Fault::Protocol("a cause".into()), ResetCode::Protocol, "cut"),
        ];
        let account = Account::new(Instant::now());
        for (fault, code, outcome) in rows {
            assert_eq!(fault.code(), code, "{fault:?}");
            let end = Err(fault);
            let record = Record { account: &account, end: &end, ended: account.start };
            assert_eq!(record.outcome(), outcome, "{end:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_request_is_in_its_entry_without_the_query() {
        let mut account = Account::new(Instant::now());
        let mut message = Vec::new();
        let start = RequestStart {
            request_id: [7; 16],
            identity: 0,
            window: 1,
            has_body: false,
            length: None,
            is_tunnel: false,
            expect_continue: false,
            method: b"POST",
            target: b"/base/x?token=secret",
            host: b"",
        };
        RequestWriter::new(&mut message, &start).unwrap().finish();
        account.request = Some(RequestMessage::parse(&message).unwrap());
        let answered_after = Some(Duration::from_millis(4));
        account.tally =
            Tally { answered_after, status: Some(200), bytes_in: 5, bytes_out: 2, has_token: false };
        let end = Err(Fault::refused(Refusal::GatewayTimeout, "a cause"));
        let ended = account.start + Duration::from_millis(7);
        let entry = entry(&Record { account: &account, end: &end, ended });
        assert_eq!((entry.took, entry.outcome), (Duration::from_millis(7), "refused"));
        assert_eq!(entry.origin_took, answered_after);
        let reason = Some("CMGConnector_GatewayTimeout");
        assert_eq!((entry.status, entry.reason, entry.bytes_in, entry.bytes_out), (Some(504), reason, 5, 2));
        let text = format!("{entry:?}");
        assert!(text.contains("POST/base/x") && !text.contains("secret"), "{text}");
    }
}
