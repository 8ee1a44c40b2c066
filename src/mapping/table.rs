//! What the sites publish at a gateway.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, Family, RoleKind, Take};
use super::path::{Path, Resource, RolePath};
use crate::refusal::Refusal;

/// A role and its publishing endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Opaque; 2^56 times the site number and a sequence in data of several sites.
    pub id: u64,
    /// What it stands for.
    pub kind: RoleKind,
    /// In any order.
    pub endpoints: Vec<Endpoint>,
}

/// Role ids that a site may publish at a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleIds(Vec<RangeInclusive<u64>>);

impl RoleIds {
    /// Those of these ranges.
    pub fn new(ranges: Vec<RangeInclusive<u64>>) -> RoleIds {
        RoleIds(ranges)
    }

    /// Any id.
    pub fn all() -> RoleIds {
        RoleIds(vec![0..=u64::MAX])
    }

    /// Whether `id` is one of them.
    pub fn contains(&self, id: u64) -> bool {
        self.0.iter().any(|range| range.contains(&id))
    }
}

impl std::fmt::Display for RoleIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{comma}{start}")?,
                (start, end) => write!(f, "{comma}{start}-{end}")?,
            }
        }
        Ok(())
    }
}

/// What one site publishes.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'p> {
    /// The caller's number for the site; comes back in [`Found`] and [`Conflict`].
    pub site: usize,
    /// The roles it names.
    pub roles: &'p [Role],
    /// Those it may name.
    pub allowed: &'p RoleIds,
}

/// A role that a site named and that is not taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Another site was there first.
    Claimed {
        /// The role.
        id: u64,
        /// Who claimed it too late.
        site: usize,
        /// Who has it.
        holder: usize,
    },
    /// The gateway's settings do not let the site publish it.
    NotAllowed {
        /// The role.
        id: u64,
        /// Who named it.
        site: usize,
    },
}

/// Whose answer a target needs.
#[derive(Clone, Copy, Debug)]
pub enum Found<'t, 'b> {
    /// `ServiceMetadata`: the gateway answers.
    Metadata(Family),
    /// `AADAuthInfo`: the gateway answers; the query without its `?`.
    AadAuthInfo(&'b [u8]),
    /// `ImplicitAuth`: the gateway answers.
    ImplicitAuth,
    /// A publishing endpoint of a site.
    Endpoint {
        /// The caller's number for it.
        site: usize,
        /// The role.
        role: &'t Role,
        /// The endpoint.
        endpoint: &'t Endpoint,
        /// Their numbers in this table, for [`PublishedTable::at`].
        place: (usize, usize),
        /// How the client must prove who it is.
        family: Family,
        /// Everything after the role id as received.
        rest: &'b [u8],
    },
}

/// Role id to site and endpoints. Copied per shard; looking up allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct PublishedTable {
    /// By role id.
    roles: Box<[(Role, usize)]>,
}

impl PublishedTable {
    /// The table of these publications; of two that claim one role the first has it.
    pub fn new<'p>(
        publications: impl IntoIterator<Item = Publication<'p>>,
    ) -> (PublishedTable, Vec<Conflict>) {
        PublishedTable::default().next(publications)
    }

    /// The table of these publications behind this one; of two that claim one role the one that has it here keeps it, or
    /// else the first has it.
    pub fn next<'p>(
        &self,
        publications: impl IntoIterator<Item = Publication<'p>>,
    ) -> (PublishedTable, Vec<Conflict>) {
        let mut roles: Vec<(Role, usize)> = Vec::new();
        let mut conflicts = Vec::new();
        let publications: Vec<_> = publications.into_iter().collect();
        for holds in [true, false] {
            for Publication { site, roles: named, allowed } in &publications {
                for role in named.iter().filter(|role| (self.holder(role.id) == Some(*site)) == holds) {
                    let (id, site) = (role.id, *site);
                    let place = roles.binary_search_by_key(&id, |(role, _)| role.id);
                    match place {
                        _ if !allowed.contains(id) => conflicts.push(Conflict::NotAllowed { id, site }),
                        Ok(place) => conflicts.push(Conflict::Claimed { id, site, holder: roles[place].1 }),
                        Err(place) => roles.insert(place, (sorted(role), site)),
                    }
                }
            }
        }
        (PublishedTable { roles: roles.into() }, conflicts)
    }

    /// The site that has a role.
    fn holder(&self, id: u64) -> Option<usize> {
        let place = self.roles.binary_search_by_key(&id, |(role, _)| role.id).ok()?;
        Some(self.roles[place].1)
    }

    /// Roles in force, with the number of their site.
    pub fn roles(&self) -> impl Iterator<Item = (&Role, usize)> {
        self.roles.iter().map(|(role, site)| (role, *site))
    }

    /// Role and endpoint with these numbers, as [`Found`] names them.
    pub fn at(&self, (role, endpoint): (usize, usize)) -> Option<(&Role, &Endpoint)> {
        let (role, _) = self.roles.get(role)?;
        Some((role, role.endpoints.get(endpoint)?))
    }

    /// Whose answer `target` (path and query as received) needs.
    ///
    /// # Errors
    /// `BadRequest`: not a canonical path. `UnknownUrl`: no site publishes it.
    #[inline]
    pub fn find<'t, 'b>(&'t self, target: &'b [u8]) -> Result<Found<'t, 'b>, Refusal> {
        self.look_up(Path::parse(target)?)
    }

    /// As [`find`](Self::find), for a target already parsed.
    ///
    /// # Errors
    /// `UnknownUrl`: no site publishes it.
    pub fn look_up<'t, 'b>(&'t self, path: Path<'b>) -> Result<Found<'t, 'b>, Refusal> {
        let family = path.family;
        let below = match path.resource {
            Resource::ServiceMetadata => return Ok(Found::Metadata(family)),
            Resource::AadAuthInfo { query } => return Ok(Found::AadAuthInfo(query)),
            Resource::ImplicitAuth => return Ok(Found::ImplicitAuth),
            Resource::Unknown => return Err(Refusal::UnknownUrl),
            Resource::Role(below) => below,
        };
        let place = self.roles.binary_search_by_key(&below.id, |(role, _)| role.id);
        let row = place.map_err(|_| Refusal::UnknownUrl)?;
        let (role, site) = &self.roles[row];
        let (place, _) =
            choose(&role.endpoints, |endpoint| endpoint, &below, family).ok_or(Refusal::UnknownUrl)?;
        let endpoint = &role.endpoints[place];
        Ok(Found::Endpoint { site: *site, role, endpoint, place: (row, place), family, rest: below.rest })
    }
}

/// The role with its endpoints as [`choose`] wants them.
fn sorted(role: &Role) -> Role {
    let mut role = role.clone();
    role.endpoints.sort_by_key(longest_first);
    role
}

/// The order [`choose`] wants.
pub(super) fn longest_first(endpoint: &Endpoint) -> std::cmp::Reverse<usize> {
    std::cmp::Reverse(endpoint.path.as_str().len())
}

/// The endpoint with the longest path that takes `below`, and how many octets of it. An endpoint that
/// the family does not reach hides shorter ones: `/app` open to tokens does not open `/app/admin`.
#[inline]
pub(super) fn choose<E>(
    endpoints: &[E],
    endpoint: impl Fn(&E) -> &Endpoint,
    below: &RolePath<'_>,
    family: Family,
) -> Option<(usize, usize)> {
    let path = below.path();
    let mut hidden_below = 0;
    for (place, one) in endpoints.iter().enumerate() {
        let one = endpoint(one);
        let size = one.path.as_str().len();
        if size < hidden_below {
            return None;
        }
        let taken = match one.path.take(path, below.is_plain) {
            Take::Nothing => continue,
            Take::Parameters => return None,
            Take::Octets(taken) => taken,
        };
        if one.families.contains(family) {
            return Some((place, taken));
        }
        hidden_below = size;
    }
    None
}
