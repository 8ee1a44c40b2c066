//! What is known of a request of the connection point: gathered in an [`Account`] while it lasts, told
//! as a [`Record`] when it has ended, however it ended. On the way of a good request nothing here
//! allocates, formats or asks a clock.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Here;
use crate::channel::ResetCode;
use crate::logs::access::{Entry, Queue, Texts};
use crate::logs::{self, Limited};
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

/// What is gathered while a request lasts.
pub struct Account<'r> {
    /// As the gateway made it.
    pub id: RequestId,
    /// When it came over the channel.
    pub start: Instant,
    /// As it came; empty when the message could not be read.
    pub method: &'r [u8],
    /// Internal target in two parts, one after the other, query included; the external one where nothing
    /// maps it.
    pub target: [&'r [u8]; 2],
    /// Role id, once it is mapped.
    pub role: Option<u64>,
    /// Path of the publishing endpoint, once it is mapped.
    pub endpoint: Option<&'r str>,
    /// `Host` of the origin it goes to, once it is mapped.
    pub origin: Option<&'r str>,
    /// Number of the publishing endpoint in the mapping, once it is mapped.
    pub offer: Option<usize>,
    /// From the request's head sent to the origin to the head of its answer, once there is one.
    pub answered_after: Option<Duration>,
    /// The origin's final answer, once there is one.
    pub status: Option<u16>,
    /// Body bytes that went to the origin.
    pub bytes_in: u64,
    /// Body bytes of the answer that went to the gateway.
    pub bytes_out: u64,
}

impl<'r> Account<'r> {
    /// Of a request of which nothing was read yet.
    pub fn new(start: Instant) -> Account<'r> {
        Account {
            id: RequestId::default(),
            start,
            method: b"",
            target: [b"", b""],
            role: None,
            endpoint: None,
            origin: None,
            offer: None,
            answered_after: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
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
pub fn finish(here: &Here, record: &Record<'_>) {
    count(here, record);
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
    let Account { id, method, target, origin, status, bytes_out, .. } = record.account;
    let (id, method) = (id.text(), String::from_utf8_lossy(method));
    let (request, method, origin, status) = (id.as_str(), &*method, *origin, *status);
    match fault {
        Fault::Refused(Refused { refusal, cause }) => tracing::info!(
            request,
            method,
            path = logs::path(*target),
            status = refusal.status(),
            reason = refusal.reason(),
            cause = &**cause,
            origin,
            "request refused"
        ),
        Fault::NotBegun(cause) => tracing::info!(
            request,
            method,
            path = logs::path(*target),
            cause = &**cause,
            origin,
            "request given back"
        ),
        Fault::Broke(cause) | Fault::Protocol(cause) => tracing::info!(
            request,
            method,
            path = logs::path(*target),
            status,
            bytes_out,
            cause = &**cause,
            origin,
            "request cut"
        ),
        Fault::Left => {
            if tracing::enabled!(tracing::Level::DEBUG) {
                let path = logs::path(*target);
                tracing::debug!(request, method, path, status, bytes_out, origin, "client left");
            }
        }
        // The exchange says it as a refusal that names the origin.
        Fault::Died => {}
    }
}

/// Counts it at its endpoint.
fn count(here: &Here, record: &Record<'_>) {
    let Account { offer, answered_after, status, bytes_in, bytes_out, .. } = record.account;
    let refused = match record.end {
        Err(Fault::Refused(refused)) => Some(refused.refusal),
        Err(Fault::Died) => Some(Refusal::BadGateway),
        Ok(()) | Err(Fault::Left | Fault::NotBegun(_) | Fault::Broke(_) | Fault::Protocol(_)) => None,
    };
    here.at_endpoint(*offer).end(&Ended {
        status: refused.map(Refusal::status).or(*status).unwrap_or(0),
        refused,
        request_bytes: *bytes_in,
        response_bytes: *bytes_out,
        took: *answered_after,
    });
}

fn entry(record: &Record<'_>) -> Entry {
    let account = record.account;
    let refused = match record.end {
        Err(Fault::Refused(refused)) => Some(refused.refusal),
        _ => None,
    };
    let (method, path) = (String::from_utf8_lossy(account.method), logs::path(account.target));
    Entry {
        ended: record.ended,
        took: record.took(),
        id: account.id,
        peer: None,
        status: refused.map(Refusal::status).or(account.status),
        reason: refused.map(Refusal::reason),
        bytes_in: account.bytes_in,
        bytes_out: account.bytes_out,
        role: account.role,
        outcome: record.outcome(),
        texts: Texts::new([
            "",
            &method,
            &path,
            "",
            account.endpoint.unwrap_or_default(),
            "",
            account.origin.unwrap_or_default(),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        (account.method, account.target) = (b"POST", [b"/base".as_slice(), b"/x?token=secret"]);
        (account.status, account.bytes_in, account.bytes_out) = (Some(200), 5, 2);
        let end = Err(Fault::refused(Refusal::GatewayTimeout, "a cause"));
        let ended = account.start + Duration::from_millis(7);
        let entry = entry(&Record { account: &account, end: &end, ended });
        assert_eq!((entry.took, entry.outcome), (Duration::from_millis(7), "refused"));
        let reason = Some("CMGConnector_GatewayTimeout");
        assert_eq!((entry.status, entry.reason, entry.bytes_in, entry.bytes_out), (Some(504), reason, 5, 2));
        let text = format!("{entry:?}");
        assert!(text.contains("POST/base/x") && !text.contains("secret"), "{text}");
    }
}
