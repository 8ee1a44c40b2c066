//! The URL mapping of a connection point: external target to internal one, and `Location` back.

use super::endpoint::{Endpoint, Family, RoleKind};
use super::origin::{OriginAddress, split_url};
use super::path::{Path, Resource};
use super::table::{choose, longest_first};
use crate::refusal::Refusal;

/// A publishing endpoint and what it stands for inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedEndpoint {
    /// What is published.
    pub endpoint: Endpoint,
    /// Number, in the settings' list of groups, of the origins that stand for one another here.
    pub group: usize,
    /// Path of the internal URL: empty, or `/segments` without a slash at the end.
    pub prefix: String,
    /// `prefix` stands for `/family/id/path` (own endpoints) and not only for `/family/id`.
    pub replaces_path: bool,
    /// The origin gets the token that the client showed.
    pub forwards_token: bool,
}

/// A role as its connection point knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRole {
    /// Opaque.
    pub id: u64,
    /// What it stands for.
    pub kind: RoleKind,
    /// In any order.
    pub endpoints: Vec<MappedEndpoint>,
}

/// Where a request goes. The internal target is `prefix` and `rest`, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'t, 'b> {
    /// The role.
    pub role: u64,
    /// How the client proved who it is.
    pub family: Family,
    group: u32,
    /// Internal path that replaces the external one; usually empty.
    pub prefix: &'t [u8],
    /// What follows it, octets as received. `prefix` and `rest` together begin with a slash.
    pub rest: &'b [u8],
    /// The endpoint, for [`Endpoint::admit`].
    pub endpoint: &'t Endpoint,
    /// See [`MappedEndpoint::forwards_token`].
    pub forwards_token: bool,
    /// Number of the endpoint and family in this mapping: see [`UrlMapping::offers`].
    pub offer: u32,
}

impl Mapped<'_, '_> {
    /// See [`MappedEndpoint::group`].
    pub fn group(&self) -> usize {
        self.group as usize
    }
}

/// Role id and endpoint to internal URL.
#[derive(Clone, Debug, Default)]
pub struct UrlMapping {
    /// By role id, with the number of endpoints that come before its own.
    roles: Box<[(MappedRole, usize)]>,
    /// By number: where the origins of a group are.
    groups: Box<[Vec<OriginAddress>]>,
}

impl UrlMapping {
    /// The mapping of these roles (ids unique, as settings have them) to these groups of origins.
    pub fn new(roles: &[MappedRole], groups: &[Vec<OriginAddress>]) -> UrlMapping {
        let mut roles = roles.to_vec();
        roles.sort_by_key(|role| role.id);
        for role in &mut roles {
            role.endpoints.sort_by_key(|mapped| longest_first(&mapped.endpoint));
        }
        let mut before = 0;
        let number = |role: MappedRole| {
            let first = before;
            before += role.endpoints.len();
            (role, first)
        };
        UrlMapping { roles: roles.into_iter().map(number).collect(), groups: groups.into() }
    }

    /// Every endpoint in every family, whether it is open to it or not, in the order of their numbers.
    pub fn offers(&self) -> impl Iterator<Item = (u64, &MappedEndpoint, Family)> {
        let endpoints =
            self.roles.iter().flat_map(|(role, _)| role.endpoints.iter().map(|one| (role.id, one)));
        endpoints.flat_map(|(id, one)| Family::ALL.map(|family| (id, one, family)))
    }

    /// Its roles, by id.
    pub(super) fn roles(&self) -> impl Iterator<Item = &MappedRole> {
        self.roles.iter().map(|(role, _)| role)
    }

    /// Where `target` (path and query as received) goes.
    ///
    /// # Errors
    /// `BadRequest`: not a canonical path. `UnknownUrl`: not published.
    pub fn map<'t, 'b>(&'t self, target: &'b [u8]) -> Result<Mapped<'t, 'b>, Refusal> {
        let path = Path::parse(target)?;
        let Resource::Role(below) = path.resource else { return Err(Refusal::UnknownUrl) };
        let place = self.roles.binary_search_by_key(&below.id, |(role, _)| role.id);
        let (role, first) = &self.roles[place.map_err(|_| Refusal::UnknownUrl)?];
        let endpoints = &role.endpoints;
        let found = choose(endpoints, |mapped| &mapped.endpoint, &below, path.family);
        let (place, taken) = found.ok_or(Refusal::UnknownUrl)?;
        let mapped = &endpoints[place];
        let rest = if mapped.replaces_path { &below.rest[taken..] } else { below.rest };
        let needs_slash = mapped.prefix.is_empty() && rest.first() != Some(&b'/');
        Ok(Mapped {
            role: below.id,
            family: path.family,
            group: mapped.group as u32,
            prefix: if needs_slash { b"/" } else { mapped.prefix.as_bytes() },
            rest,
            endpoint: &mapped.endpoint,
            forwards_token: mapped.forwards_token,
            offer: path.family.offer(first + place) as u32,
        })
    }

    /// Appends to `out` the external form of a `Location` that the origin of `mapped` answered: a
    /// path from `/family` on, in the family that the request came by.
    ///
    /// # Errors
    /// `Redirect`: it leads to somewhere that is not published to this family.
    pub fn map_back(
        &self,
        mapped: &Mapped<'_, '_>,
        location: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let location = std::str::from_utf8(location).map_err(|_| Refusal::Redirect)?;
        if !location.bytes().all(|octet| (0x21..=0x7E).contains(&octet)) {
            return Err(Refusal::Redirect);
        }
        let (address, target) = self.resolve(mapped, location).ok_or(Refusal::Redirect)?;
        let places = self.roles.iter().flat_map(|(role, _)| role.endpoints.iter().map(|one| (role.id, one)));
        let ways = places.filter_map(|(id, one)| {
            let external = self.external(id, one, mapped.family, &address, &target)?;
            Some((id == mapped.role, one.prefix.len(), external))
        });
        // The role that was asked before any other, and there the closest of the places.
        let best = ways.max_by_key(|(is_near, size, _)| (*is_near, *size));
        let (_, _, external) = best.ok_or(Refusal::Redirect)?;
        out.extend_from_slice(external.as_bytes());
        Ok(())
    }

    /// Address and target (path, query, fragment) that `location` means in the answer to `mapped`.
    fn resolve(&self, mapped: &Mapped<'_, '_>, location: &str) -> Option<(OriginAddress, String)> {
        // Which of the group answered does not matter: any of them stands for all.
        let here = self.groups.get(mapped.group())?.first()?;
        let rooted =
            |target: &str| if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if let Some(rest) = location.strip_prefix("//") {
            let (address, target) = split_url(&format!("{}://{rest}", here.scheme.as_str()))
                .map(|(address, target)| (address, rooted(target)))?;
            return Some((address, target));
        }
        if location.starts_with('/') {
            return Some((here.clone(), location.to_owned()));
        }
        let head = &location[..location.find(['/', '?', '#']).unwrap_or(location.len())];
        if head.contains(':') {
            return split_url(location).map(|(address, target)| (address, rooted(target)));
        }
        Some((here.clone(), resolve_relative(mapped, location)?))
    }

    /// The external URL of `target` at `address`, if `one` stands for it.
    fn external(
        &self,
        id: u64,
        one: &MappedEndpoint,
        family: Family,
        address: &OriginAddress,
        target: &str,
    ) -> Option<String> {
        let is_there = self.groups.get(one.group)?.contains(address);
        let is_reached = one.endpoint.families.contains(family) && is_there;
        let start = target.get(..one.prefix.len())?;
        let below = &target[start.len()..];
        let is_whole = below.is_empty() || below.starts_with(['/', '?', '#']);
        if !is_reached || !is_whole || !start.eq_ignore_ascii_case(&one.prefix) {
            return None;
        }
        let path = one.endpoint.path.as_str();
        let (slash, path) = if one.replaces_path && !path.is_empty() { ("/", path) } else { ("", "") };
        let external = format!("/{}/{id}{slash}{path}{below}", family.segment());
        // Only what would come back the same way is sent out.
        let bare = external.split('#').next().unwrap_or_default();
        let back = self.map(bare.as_bytes()).ok()?;
        let is_same = std::ptr::eq(back.endpoint, &raw const one.endpoint) && back.role == id;
        is_same.then_some(external)
    }
}

/// RFC 3986 5.2 for a reference without scheme, authority and leading slash. Dot segments that climb
/// are left to the canonical path, which refuses what it does not understand.
fn resolve_relative(mapped: &Mapped<'_, '_>, location: &str) -> Option<String> {
    let base = [mapped.prefix, mapped.rest].concat();
    let base = std::str::from_utf8(&base).ok()?;
    let path = &base[..base.find('?').unwrap_or(base.len())];
    let query = &base[path.len()..];
    let split = location.find(['?', '#']).unwrap_or(location.len());
    let (reference, tail) = location.split_at(split);
    if reference.is_empty() {
        let query = if tail.starts_with('?') { "" } else { query };
        return Some(format!("{path}{query}{tail}"));
    }
    let mut segments: Vec<&str> = path.split('/').collect();
    segments.pop();
    let last = reference.split('/').next_back();
    for segment in reference.split('/') {
        match segment {
            "." => {}
            ".." if segments.len() > 1 => {
                segments.pop();
            }
            ".." => {}
            name => segments.push(name),
        }
    }
    let slash = if matches!(last, Some("." | "..")) { "/" } else { "" };
    Some(format!("{}{slash}{tail}", segments.join("/")))
}
