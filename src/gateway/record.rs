//! What is known of a request of the gateway: gathered in an [`Account`] while it lasts, told as a
//! [`Record`] when it has ended, however it ended. On the way of a good request nothing here allocates,
//! formats or asks a clock.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::gate::{self, Gate, InForce};
use crate::channel::message;
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
}

impl End {
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
    /// How the client had to prove who it is.
    pub family: Family,
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

    /// Where it led; `None`: to nothing that is published.
    pub fn target<'g>(&'g self, gate: &'g Gate) -> Option<Target<'g>> {
        let place = self.account.place.as_ref()?;
        let (role, endpoint) = place.settings.table.at(place.row)?;
        let site = &gate.common.settings.sites.get(place.site)?.code;
        Some(Target { site, role: role.id, endpoint, family: place.family })
    }
}

/// Tells of a request that has ended. Every request of the gateway ends here, once.
pub fn finish(gate: &Gate, record: &Record<'_>) {
    let counters = gate.counters();
    match record.end {
        End::Answered => gate::add(&counters.answered, 1),
        End::Refused(refused) => gate::add(&counters.refused[refused.refusal as usize], 1),
        End::Cut(_) => gate::add(&counters.cut, 1),
        End::Own | End::Left => {}
    }
    let Account { status, bytes_in, bytes_out, .. } = record.account;
    gate.counts(record.account.place.as_ref()).end(&Ended {
        status: status.unwrap_or(0),
        refused: record.end.refusal(),
        request_bytes: *bytes_in,
        response_bytes: *bytes_out,
        took: record.end.is_whole().then(|| record.took()),
    });
}
