//! What is known of a request of the gateway: gathered in an [`Account`] while it lasts, told as a
//! [`Record`] when it has ended, however it ended. On the way of a good request nothing here allocates,
//! formats or asks a clock.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::gate::{self, Common, Gate, InForce};
use crate::channel::message;
use crate::logs::access::{Entry, Queue, Texts};
use crate::logs::{self, Limited};
use crate::mapping::{Endpoint, Family};
use crate::metrics::Ended;
use crate::refusal::{Refusal, Refused};
use crate::request_id::RequestId;

/// What is gathered while a request lasts.
pub struct Account {
    /// Made here, in both logs.
    pub id: RequestId,
    /// When its head was whole.
    pub start: Instant,
    /// What it asks for, where no OPEN message says it.
    pub asked: Option<Box<Asked>>,
    /// Where it was found to lead.
    pub place: Option<Place>,
    /// The answer's, once one is written.
    pub status: Option<u16>,
    /// Body bytes that came from the client, framing not counted.
    pub bytes_in: u64,
    /// Body bytes that were written to it.
    pub bytes_out: u64,
    /// Who carries it to its origin, where this shard knows that.
    pub connection_point: Option<Rc<str>>,
}

impl Account {
    /// Of a request whose head was whole at `start`.
    pub fn new(id: RequestId, start: Instant) -> Account {
        Account {
            id,
            start,
            asked: None,
            place: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            connection_point: None,
        }
    }
}

/// Method and target of a request, copied where nothing else holds them.
pub struct Asked {
    /// As it came.
    pub method: Box<[u8]>,
    /// Path and query as they came.
    pub target: Box<[u8]>,
}

/// The publishing endpoint that a request was judged by, as numbers in the table of its settings.
#[derive(Clone)]
pub struct Place {
    /// The settings it is judged under.
    pub settings: Rc<InForce>,
    /// Number of the site.
    pub site: usize,
    /// Role and endpoint, for `PublishedTable::at`.
    pub row: (usize, usize),
    /// How the client must prove who it is.
    pub family: Family,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the origin's answer, whole.
    Answered,
    /// With an answer of the gateway's own.
    Own,
    /// Turned away.
    Refused(Refused),
    /// In the middle; why.
    Cut(Cow<'static, str>),
    /// The client left before the answer was written.
    Left,
}

impl End {
    /// As logs and metrics call it.
    pub const fn name(&self) -> &'static str {
        match self {
            End::Answered => "answered",
            End::Own => "own",
            End::Refused(_) => "refused",
            End::Cut(_) => "cut",
            End::Left => "left",
        }
    }

    /// Whether the client got an answer that is whole.
    fn is_whole(&self) -> bool {
        matches!(self, End::Answered | End::Own | End::Refused(_))
    }

    fn refusal(&self) -> Option<Refusal> {
        match self {
            End::Refused(refused) => Some(refused.refusal),
            End::Answered | End::Own | End::Cut(_) | End::Left => None,
        }
    }
}

/// A request that has ended.
pub struct Record<'r> {
    /// What was gathered.
    pub account: &'r Account,
    /// How it ended.
    pub end: &'r End,
    /// When.
    pub ended: Instant,
    /// Where the client comes from.
    pub peer: SocketAddr,
    /// Subject of the client's certificate, if it was judged.
    pub client: Option<&'r str>,
    /// The OPEN message, if there is one.
    pub message: &'r [u8],
}

/// Whom and what a request asked, in the words of the settings it was judged under.
pub struct Target<'r> {
    /// Code of the site.
    pub site: &'r str,
    /// Role id.
    pub role: u64,
    /// The publishing endpoint.
    pub endpoint: &'r Endpoint,
}

impl Record<'_> {
    /// How long it took, from its whole head on.
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.account.start)
    }

    /// Method, and target with its query; `None` for a head that could not be read.
    pub fn asked(&self) -> Option<(&[u8], &[u8])> {
        match &self.account.asked {
            Some(asked) => Some((&asked.method, &asked.target)),
            None => message::request_line(self.message),
        }
    }

    /// Method and path as logs show them.
    fn shown(&self) -> (Cow<'_, str>, String) {
        match self.asked() {
            Some((method, target)) => (String::from_utf8_lossy(method), logs::path([target, b""])),
            None => ("-".into(), "-".to_owned()),
        }
    }

    /// Where it led; `None`: to nothing that is published.
    pub fn target<'g>(&'g self, gate: &'g Gate) -> Option<Target<'g>> {
        let place = self.account.place.as_ref()?;
        let (role, endpoint) = place.settings.table.at(place.row)?;
        let site = &gate.common.settings.sites.get(place.site)?.code;
        Some(Target { site, role: role.id, endpoint })
    }
}

/// Where one shard tells of requests, and of those that never became one.
pub struct Records {
    /// Requests turned away or cut.
    refusals: Rc<Limited>,
    /// Proxies whose header was not taken.
    pub prefaces: Rc<Limited>,
    /// Others that sent one.
    pub foreign_prefaces: Rc<Limited>,
    /// Clients whose TLS handshake failed.
    pub handshakes: Rc<Limited>,
    /// Whoever came to the channel listener and was not taken in.
    pub strangers: Rc<Limited>,
    /// Channels that stall, or go on.
    pub stalls: Rc<Limited>,
    access: Option<Queue>,
}

impl Records {
    /// Those of a shard on which nothing was told yet.
    pub fn new(common: &Common, shard: usize) -> Records {
        Records {
            refusals: Limited::new("requests refused, not logged"),
            prefaces: Limited::new("PROXY headers of proxies refused, not logged"),
            foreign_prefaces: Limited::new("PROXY headers of clients refused, not logged"),
            handshakes: Limited::new("handshakes failed, not logged"),
            strangers: Limited::new("channels refused, not logged"),
            stalls: Limited::new("channels that stalled or went on, not logged"),
            access: common.access_log.as_ref().map(|log| log.queue(shard)),
        }
    }

    /// Whether a good request is told of, and its method and target must be kept until then.
    pub fn are_complete(&self) -> bool {
        self.access.is_some()
    }
}

/// Tells of a request that has ended. Every request of the gateway ends here, once.
pub fn finish(gate: &Gate, record: &Record<'_>) {
    count(gate, record);
    let counters = gate.counters();
    match record.end {
        End::Answered => gate::add(&counters.answered, 1),
        End::Refused(refused) => {
            gate::add(&counters.refused[refused.refusal as usize], 1);
            tell_refused(gate, record, refused);
        }
        End::Cut(cause) => {
            gate::add(&counters.cut, 1);
            tell_cut(gate, record, cause);
        }
        End::Left => tell_left(record),
        End::Own => {}
    }
    if let Some(queue) = &gate.records.access
        && queue.wants(matches!(record.end, End::Refused(_) | End::Cut(_)))
    {
        queue.push(entry(gate, record));
    }
}

fn tell_refused(gate: &Gate, record: &Record<'_>, refused: &Refused) {
    if !tracing::enabled!(tracing::Level::INFO) || !gate.records.refusals.admits(&gate.shard) {
        return;
    }
    let (method, path) = record.shown();
    tracing::info!(
        request = record.account.id.text().as_str(),
        peer = %record.peer,
        client = record.client,
        method = &*method,
        path,
        status = refused.refusal.status(),
        reason = refused.refusal.reason(),
        cause = &*refused.cause,
        "request refused"
    );
}

fn tell_cut(gate: &Gate, record: &Record<'_>, cause: &str) {
    if !tracing::enabled!(tracing::Level::INFO) || !gate.records.refusals.admits(&gate.shard) {
        return;
    }
    let (method, path) = record.shown();
    tracing::info!(
        request = record.account.id.text().as_str(),
        peer = %record.peer,
        client = record.client,
        method = &*method,
        path,
        status = record.account.status,
        bytes_out = record.account.bytes_out,
        cause,
        "request cut"
    );
}

fn tell_left(record: &Record<'_>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (method, path) = record.shown();
    tracing::debug!(
        request = record.account.id.text().as_str(),
        peer = %record.peer,
        client = record.client,
        method = &*method,
        path,
        status = record.account.status,
        bytes_out = record.account.bytes_out,
        "client left"
    );
}

/// Counts it at its endpoint.
fn count(gate: &Gate, record: &Record<'_>) {
    let Account { status, bytes_in, bytes_out, .. } = record.account;
    gate.counts(record.account.place.as_ref()).end(&Ended {
        status: status.unwrap_or(0),
        refused: record.end.refusal(),
        has_token: false,
        request_bytes: *bytes_in,
        response_bytes: *bytes_out,
        // A tunnel takes as long as its ends wish.
        took: (record.end.is_whole() && *status != Some(101)).then(|| record.took()),
    });
}

fn entry(gate: &Gate, record: &Record<'_>) -> Entry {
    let (account, (method, path)) = (record.account, record.shown());
    let target = record.target(gate);
    let (site, endpoint) =
        target.as_ref().map_or(("", ""), |target| (target.site, target.endpoint.path.as_str()));
    let point = account.connection_point.as_deref().unwrap_or_default();
    Entry {
        ended: record.ended,
        took: record.took(),
        origin_took: None,
        id: account.id,
        peer: Some(record.peer),
        status: account.status,
        reason: match record.end {
            End::Refused(refused) => Some(refused.refusal.reason()),
            End::Answered | End::Own | End::Cut(_) | End::Left => None,
        },
        bytes_in: account.bytes_in,
        bytes_out: account.bytes_out,
        role: target.as_ref().map(|target| target.role),
        outcome: record.end.name(),
        texts: Texts::new([record.client.unwrap_or_default(), &method, &path, site, endpoint, point, ""]),
    }
}
