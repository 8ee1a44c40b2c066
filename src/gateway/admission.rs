//! Whether a client may ask once more: how many of its requests are under way, how fast they come, and the same
//! of an endpoint. Asked only where settings say so, when it is known who the client is: what strangers ask counts
//! for nobody.
//!
//! A client's connections are on any shard, so the shards share what it has used: cells (`allowance.rs`), found
//! through a map with a lock for every 64th of the clients. A client that there is no room for is let in
//! uncounted, and that is counted: whoever can be so many is held by no rate of each, and nobody else should pay.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU64;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::allowance::{Allowance, Allowances};
use super::gate::{self, Gate, InForce};
use crate::auth;
use crate::auth::token::TokenFacts;
use crate::dispatch::{Excess, Neighbourhood, RequestBounds};
use crate::limits::{CLIENT_ALLOWANCE_PARTS, CLIENT_ALLOWANCES_MAX};
use crate::mapping::{Families, PublishedTable};
use crate::refusal::{Refusal, Refused};

/// A client: a number that nobody can choose, made of the key of its certificate, the holder of its token, or its
/// address.
pub type Mark = NonZeroU64;

/// What may be in a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Requests of the client under way at this instance.
    ClientRequests,
    /// How fast they come.
    ClientRate,
    /// Requests of the client under way at the endpoint.
    EndpointClientRequests,
    /// How fast they come.
    EndpointClientRate,
    /// Requests of all clients under way at the endpoint.
    EndpointRequests,
    /// How fast they come.
    EndpointRate,
}

impl Bound {
    /// Every one, with its name in metrics.
    pub const ALL: [(Bound, &'static str); 6] = [
        (Bound::ClientRequests, "client_requests"),
        (Bound::ClientRate, "client_rate"),
        (Bound::EndpointClientRequests, "endpoint_client_requests"),
        (Bound::EndpointClientRate, "endpoint_client_rate"),
        (Bound::EndpointRequests, "endpoint_requests"),
        (Bound::EndpointRate, "endpoint_rate"),
    ];
}

/// What is counted by [`Bound`].
pub type Excesses = [AtomicU64; Bound::ALL.len()];

/// What clients have used, each at the whole instance or at the endpoint with this number.
type Clients = Allowances<(u64, Mark)>;

/// What the shards share of clients.
pub struct Admission {
    began: Instant,
    marks: RandomState,
    clients: Box<[Mutex<Clients>]>,
}

/// The requests of one endpoint, where they are bounded.
pub struct EndpointAllowance {
    all: RequestBounds,
    each: RequestBounds,
    /// Of each who shows nothing, by address.
    strangers: RequestBounds,
    /// Whose clients' allowances are its own.
    number: u64,
    used: Arc<Allowance>,
}

/// By place of the role and the endpoint in the table.
pub type EndpointAllowances = Arc<[Box<[Option<EndpointAllowance>]>]>;

/// A request that may go on; at its end others may.
#[derive(Default)]
pub struct Admitted([Option<Arc<Allowance>>; 3]);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.iter().flatten().for_each(|used| used.give_back());
    }
}

impl Admission {
    /// Nobody has used anything.
    pub fn new() -> Admission {
        let part = |_| Mutex::new(Allowances::new(CLIENT_ALLOWANCES_MAX / CLIENT_ALLOWANCE_PARTS));
        let clients = (0..CLIENT_ALLOWANCE_PARTS).map(part).collect();
        Admission { began: Instant::now(), marks: RandomState::new(), clients }
    }

    /// Of the client that proved to hold the key of this certificate: it stays the same in the next one for that
    /// key, and however the signature is written.
    pub fn mark_of_certificate(&self, leaf: &[u8]) -> Mark {
        self.mark(("certificate", auth::public_key_of(leaf).unwrap_or(leaf)))
    }

    /// Of the holder of a token that is one device's or user's. Who signs for one site cannot speak of the
    /// clients of another.
    pub fn mark_of_bearer(&self, site: usize, facts: &TokenFacts) -> Mark {
        self.mark(("bearer", site, facts.kind as u8, &facts.issuer, &facts.tenant, &facts.subject))
    }

    /// Of whoever shows nothing that is his alone; addresses that one client can choose from are one.
    pub fn mark_of_address(&self, from: Neighbourhood) -> Mark {
        self.mark(("address", from))
    }

    fn mark(&self, who: impl Hash) -> Mark {
        NonZeroU64::new(self.marks.hash_one(who)).unwrap_or(NonZeroU64::MIN)
    }

    fn client(&self, endpoint: u64, mark: Mark, now: u64) -> Option<Arc<Allowance>> {
        let part = &self.clients[mark.get() as usize % self.clients.len()];
        part.lock().unwrap_or_else(PoisonError::into_inner).of((endpoint, mark), now)
    }

    fn since(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_nanos().try_into().unwrap_or(u64::MAX)
    }
}

/// Takes up a request for the endpoint in this row of the table. `mark` says whose it is, and `is_stranger` that
/// it had nothing to show.
///
/// # Errors
/// Which bound is in the way; that was counted, and nothing used.
#[inline]
pub fn admit(
    gate: &Gate,
    settings: &InForce,
    (role, endpoint): (usize, usize),
    is_stranger: bool,
    mark: impl FnOnce() -> Mark,
) -> Result<Admitted, Refused> {
    let endpoint = settings.allowances.get(role).and_then(|role| role.get(endpoint)?.as_ref());
    if endpoint.is_none() && gate.limits().client.is_empty() {
        return Ok(Admitted::default());
    }
    admit_bounded(gate, endpoint, is_stranger, mark)
}

fn admit_bounded(
    gate: &Gate,
    endpoint: Option<&EndpointAllowance>,
    is_stranger: bool,
    mark: impl FnOnce() -> Mark,
) -> Result<Admitted, Refused> {
    let admission = &gate.common.admission;
    let now = admission.since(gate.shard.now());
    let each = endpoint.map(|one| (if is_stranger { one.strangers } else { one.each }, one.number));
    let by_client = [Some((gate.limits().client, WHOLE)), each];
    let by_client = by_client.map(|bounds| bounds.filter(|(bounds, _)| !bounds.is_empty()));
    let mut found = [None, None, None];
    if by_client.iter().any(Option::is_some) {
        let mark = mark();
        for (place, bounds) in by_client.into_iter().enumerate() {
            let Some((bounds, number)) = bounds else { continue };
            match admission.client(number, mark, now) {
                Some(used) => found[place] = Some((used, bounds)),
                None => gate::add(&gate.counters().clients_uncounted, 1),
            }
        }
    }
    found[2] = endpoint.filter(|one| !one.all.is_empty()).map(|one| (one.used.clone(), one.all));
    for place in 0..found.len() {
        let Some((used, bounds)) = &found[place] else { continue };
        if let Err(excess) = used.take(bounds, now) {
            // One that may not after all has used nothing of anybody's.
            found[..place].iter().flatten().for_each(|(used, bounds)| used.undo(bounds));
            return Err(refused(gate, excess, &WORDS[place]));
        }
    }
    Ok(Admitted(found.map(|one| one.map(|(used, _)| used))))
}

/// What a refusal by number and by rate are counted as, and how the log calls them.
const WORDS: [(Bound, Bound, &str); 3] = [
    (Bound::ClientRequests, Bound::ClientRate, "of this client, by the limits of the gateway"),
    (
        Bound::EndpointClientRequests,
        Bound::EndpointClientRate,
        "of this client at this endpoint, by the limits of the endpoint",
    ),
    (Bound::EndpointRequests, Bound::EndpointRate, "at this endpoint, by its limits"),
];

fn refused(gate: &Gate, excess: Excess, (requests, rate, whose): &(Bound, Bound, &str)) -> Refused {
    let (bound, again) = match excess {
        Excess::Requests(..) => (requests, None),
        Excess::Rate(_, wait) => (rate, Some(wait)),
    };
    gate::add(&gate.counters().excesses[*bound as usize], 1);
    let refused = Refused::new(Refusal::TooManyRequests, format!("{excess}: {whose}"));
    again.into_iter().fold(refused, Refused::again_after)
}

/// Which endpoint; it keeps what was used through other settings.
#[derive(PartialEq, Eq, Hash)]
struct EndpointId {
    site: usize,
    role: u64,
    path: String,
    families: Families,
}

/// What endpoints have used, as settings change.
#[derive(Default)]
pub struct EndpointBook {
    held: HashMap<EndpointId, (u64, Arc<Allowance>)>,
    last: u64,
}

impl EndpointBook {
    /// Those of `table`; what others have used is forgotten.
    pub fn of(&mut self, table: &PublishedTable) -> EndpointAllowances {
        let mut before = std::mem::take(&mut self.held);
        let roles = table.roles().map(|(role, site)| {
            let endpoints = role.endpoints.iter().map(|endpoint| {
                if endpoint.bounds.is_empty() && !endpoint.open {
                    return None;
                }
                let path = endpoint.path.as_str().to_ascii_lowercase();
                let id = EndpointId { site, role: role.id, path, families: endpoint.families };
                let (number, used) = before.remove(&id).unwrap_or_else(|| {
                    self.last += 1;
                    (self.last, Arc::default())
                });
                self.held.insert(id, (number, used.clone()));
                let (all, each) = (endpoint.bounds.all, endpoint.bounds.each);
                let strangers = endpoint.bounds.of_strangers();
                Some(EndpointAllowance { all, each, strangers, number, used })
            });
            endpoints.collect()
        });
        roles.collect()
    }
}

/// The number that no endpoint has: clients at the whole instance.
const WHOLE: u64 = 0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::auth::Validity;
    use crate::auth::token::TokenKind;
    use crate::mapping::{Endpoint, Publication, Role, RoleIds, RoleKind, StandardEndpoint};

    #[test]
    fn bounds_are_counted_in_their_own_cells() {
        for (place, (bound, _)) in Bound::ALL.into_iter().enumerate() {
            assert_eq!(bound as usize, place);
        }
    }

    #[test]
    fn a_client_is_the_same_on_every_connection_and_no_other() {
        let admission = Admission::new();
        let at = |text: &str| admission.mark_of_address(text.parse::<IpAddr>().unwrap().into());
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::2"), "one client can take any of a /64");
        let marks = [
            at("192.0.2.1"),
            at("192.0.2.2"),
            at("2001:db8:0:1::1"),
            at("2001:db8:0:2::1"),
            admission.mark_of_certificate(b"no certificate"),
            admission.mark_of_certificate(b"nor this"),
            admission.mark_of_bearer(0, &facts("GUID:X", "site", "a")),
            admission.mark_of_bearer(0, &facts("GUID:Y", "site", "a")),
            admission.mark_of_bearer(0, &facts("GUID:X", "other issuer", "a")),
            admission.mark_of_bearer(0, &facts("GUID:X", "site", "other tenant")),
            admission.mark_of_bearer(1, &facts("GUID:X", "site", "a")),
        ];
        let unique: std::collections::HashSet<_> = marks.into_iter().collect();
        assert_eq!(unique.len(), marks.len());
        let used = |mark| admission.client(WHOLE, mark, 0).unwrap();
        assert!(Arc::ptr_eq(&used(marks[0]), &used(marks[0])));
        assert!(!Arc::ptr_eq(&used(marks[0]), &used(marks[1])));
        assert!(!Arc::ptr_eq(&used(marks[0]), &admission.client(1, marks[0], 0).unwrap()));
    }

    fn facts(subject: &str, issuer: &str, tenant: &str) -> TokenFacts {
        TokenFacts {
            kind: TokenKind::Ccm,
            issuer: issuer.into(),
            subject: subject.into(),
            tenant: tenant.into(),
            id: String::new(),
            user: String::new(),
            names: Box::default(),
            label: format!("ccm:{subject}"),
            valid: Validity { from: 0, until: u64::MAX },
        }
    }

    #[test]
    fn a_client_that_renews_its_certificate_is_the_same() {
        let admission = Admission::new();
        let key = rcgen::KeyPair::generate().unwrap();
        let made = |key| {
            let params = rcgen::CertificateParams::new(vec!["device".to_owned()]).unwrap();
            params.self_signed(key).unwrap()
        };
        let (one, next, other) = (made(&key), made(&key), made(&rcgen::KeyPair::generate().unwrap()));
        assert_ne!(one.der(), next.der());
        let mark = |certificate: &rcgen::Certificate| admission.mark_of_certificate(certificate.der());
        assert_eq!(mark(&one), mark(&next));
        assert_ne!(mark(&one), mark(&other));
    }

    fn table(endpoints: Vec<Endpoint>) -> PublishedTable {
        let roles = [Role { id: 8, kind: RoleKind::SoftwareUpdatePoint, endpoints }];
        let allowed = &RoleIds::all();
        PublishedTable::new([Publication { site: 0, roles: &roles, allowed }]).0
    }

    #[test]
    fn an_endpoint_keeps_what_it_has_used_through_other_settings() {
        let mut rows = StandardEndpoint::of(RoleKind::SoftwareUpdatePoint).map(StandardEndpoint::endpoint);
        let (mut bounded, free) = (rows.next().unwrap(), rows.next().unwrap());
        let requests_max = std::num::NonZeroU32::new(1);
        bounded.bounds.all = RequestBounds { requests_max, rate: None };
        let mut book = EndpointBook::default();
        let one = |allowances: &EndpointAllowances| {
            let mut found = allowances.iter().flat_map(|role| role.iter().flatten());
            let one = found.next().map(|one| (one.number, one.used.clone()));
            assert!(found.next().is_none());
            one
        };
        let (number, used) = one(&book.of(&table(vec![bounded.clone(), free.clone()]))).unwrap();
        bounded.bounds.all.requests_max = std::num::NonZeroU32::new(2);
        let (same, again) = one(&book.of(&table(vec![free.clone(), bounded.clone()]))).unwrap();
        assert!(same == number && Arc::ptr_eq(&used, &again));
        assert!(one(&book.of(&table(vec![free]))).is_none());
        let (other, new) = one(&book.of(&table(vec![bounded]))).unwrap();
        assert!(other != number && !Arc::ptr_eq(&used, &new));
    }

    #[test]
    fn where_nobody_shows_who_he_is_each_address_has_a_rate() {
        let mut open = StandardEndpoint::of(RoleKind::SoftwareUpdatePoint).next().unwrap().endpoint();
        open.open = true;
        let found = EndpointBook::default().of(&table(vec![open]));
        let one = found[0][0].as_ref().unwrap();
        assert_eq!(one.strangers.rate.unwrap().to_string(), "100/s with a burst of 1000");
        assert!(one.all.is_empty() && one.each.is_empty(), "whoever shows something is not bounded by it");
    }
}
