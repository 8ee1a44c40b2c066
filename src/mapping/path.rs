//! The canonical path of a request target.
//!
//! Canonical form serves matching and refusal only: nothing is rewritten, what stands behind
//! `/family/role-id` is handed on as it came. So a path that another reader could take for a different
//! one (dot segments, empty segments, encoded separators, encodings within encodings, names that
//! Windows folds together) is refused rather than repaired. The query is never looked at.

use super::endpoint::Family;
use crate::refusal::Refusal;

/// A request target in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'b> {
    /// First segment.
    pub family: Family,
    /// What is asked for there.
    pub resource: Resource<'b>,
}

/// What a target names below its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'b> {
    /// `/family/ServiceMetadata`: liveness and certificate probe, answered by the gateway.
    ServiceMetadata,
    /// `/CCM_Proxy_ServerAuth/AADAuthInfo?TenantID=...`; the query without its `?`.
    AadAuthInfo {
        /// Octets after the `?`, empty without one.
        query: &'b [u8],
    },
    /// `/CCM_Proxy_ServerAuth/ImplicitAuth`.
    ImplicitAuth,
    /// `/family/role-id...`
    Role(RolePath<'b>),
    /// A canonical path that names nothing here.
    Unknown,
}

/// A target below a role id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolePath<'b> {
    /// The role.
    pub id: u64,
    /// Everything after the id as received, query included: empty, or from `/` or `?` on.
    pub rest: &'b [u8],
    /// Octets of `rest` before the query.
    pub(super) path_size: usize,
    /// No percent sign and no semicolon in the path: octets can be compared as they are.
    pub(super) is_plain: bool,
}

impl<'b> RolePath<'b> {
    /// `rest` without its query.
    pub fn path(&self) -> &'b [u8] {
        &self.rest[..self.path_size]
    }
}

impl<'b> Path<'b> {
    /// Takes a target (origin form: path and query as received) apart.
    ///
    /// # Errors
    /// `BadRequest`: not a canonical path. `UnknownUrl`: its family is none of ours.
    pub fn parse(target: &'b [u8]) -> Result<Path<'b>, Refusal> {
        let Scan { path_size, is_plain } = scan(target)?;
        let (path, query) = target.split_at(path_size);
        let (first, below) = split_segment(path.get(1..).unwrap_or_default());
        let is = |name: &str, segment| is_same(segment, name.as_bytes(), is_plain);
        let family = Family::ALL.into_iter().find(|family| is(family.segment(), first));
        let family = family.ok_or(Refusal::UnknownUrl)?;
        let (second, after) = split_segment(below.get(1..).unwrap_or_default());
        if let Some(id) = role_id(second) {
            let rest = &target[path_size - after.len()..];
            let role = RolePath { id, rest, path_size: after.len(), is_plain };
            return Ok(Path { family, resource: Resource::Role(role) });
        }
        let is_leaf = matches!(after, b"" | b"/");
        let is_server_auth = family == Family::ServerAuth;
        let resource = match () {
            () if !is_leaf => Resource::Unknown,
            () if is("ServiceMetadata", second) => Resource::ServiceMetadata,
            () if is_server_auth && is("AADAuthInfo", second) => {
                Resource::AadAuthInfo { query: query.get(1..).unwrap_or_default() }
            }
            () if is_server_auth && is("ImplicitAuth", second) => Resource::ImplicitAuth,
            () => Resource::Unknown,
        };
        Ok(Path { family, resource })
    }
}

/// Whether `path` (without the slash before and after it, and without a query) is in canonical form.
pub(super) fn is_canonical(path: &[u8]) -> bool {
    let is_bare = |end: Option<&u8>| !matches!(end, None | Some(b'/'));
    // What stands before the first octet is a slash that was taken off, and looks ahead at it.
    let ends = is_bare(path.first()) && is_bare(path.last());
    ends && scan_path(path).is_ok_and(|scan| scan.path_size == path.len())
}

/// The octet that stands for itself or percent-encoded at `at`, and how many octets spell it.
#[inline]
pub(super) fn octet_at(path: &[u8], at: usize) -> Option<(u8, usize)> {
    match *path.get(at)? {
        b'%' => {
            let high = hex(*path.get(at + 1)?)?;
            let low = hex(*path.get(at + 2)?)?;
            Some((high << 4 | low, 3))
        }
        octet => Some((octet, 1)),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

struct Scan {
    path_size: usize,
    is_plain: bool,
}

fn scan(target: &[u8]) -> Result<Scan, Refusal> {
    if target.first() != Some(&b'/') {
        return Err(Refusal::BadRequest);
    }
    scan_path(target).map_err(|_| Refusal::BadRequest)
}

/// Where the first octet stands that keeps `target` from being canonical.
pub(super) fn fault_at(target: &[u8]) -> Option<usize> {
    if target.first() != Some(&b'/') { Some(0) } else { scan_path(target).err() }
}

/// Octets that need no second look in a path.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut octet = 0x21;
    while octet <= 0x7E {
        plain[octet] =
            !matches!(octet as u8, b'/' | b'.' | b'%' | b'?' | b'#' | b'\\' | b';' | b':' | b'~' | b'(');
        octet += 1;
    }
    plain
};

/// One pass over the path; each rule looks ahead only, so that plain octets cost one table look-up.
/// What is wrong comes back as the place where it shows.
fn scan_path(target: &[u8]) -> Result<Scan, usize> {
    let mut at = 0;
    let mut is_plain = true;
    while let Some(&octet) = target.get(at) {
        if PLAIN[usize::from(octet)] {
            at += 1;
            continue;
        }
        let is_fine = match octet {
            b'?' => break,
            b'/' => !matches!(target.get(at + 1), Some(b'/' | b';')),
            b'.' | b':' | b'~' | b'(' => is_safe_before(target, octet, at + 1),
            // Parameters of a segment (RFC 3986 3.3): some readers strip them, so they may not hide what
            // its name is. `EndpointPath::take` lets them stand below an endpoint only.
            b';' => {
                is_plain = false;
                true
            }
            b'%' => {
                is_plain = false;
                at = encoded(target, at).ok_or(at)?;
                continue;
            }
            _ => false, // '#', '\', blanks, controls, octets over 0x7E
        };
        if !is_fine {
            return Err(at);
        }
        at += 1;
    }
    Ok(Scan { path_size: at, is_plain })
}

/// Whether `octet` may stand before what is at `next`. Windows drops dots and blanks at the end of a
/// name (so also `.` and `..`, with parameters behind them or without), reads `:$` as the start of a
/// stream name and `~1` as a short name.
fn is_safe_before(path: &[u8], octet: u8, next: usize) -> bool {
    let follower = octet_at(path, next).map(|(follower, _)| follower);
    match octet {
        b'.' | b' ' => !matches!(follower, None | Some(b'/' | b'?' | b';')) || path.get(next) == Some(&b'%'),
        b':' => follower != Some(b'$'),
        b'~' => !follower.is_some_and(|follower| follower.is_ascii_digit()),
        b'(' => !starts_session(path, next),
        _ => true,
    }
}

/// Whether what follows a bracket makes it a session in the path: ASP.NET takes `(S(...))` and its like out
/// of a path, also out of the middle of a name.
fn starts_session(path: &[u8], at: usize) -> bool {
    let Some((first, size)) = octet_at(path, at) else { return false };
    let second = octet_at(path, at + size).map(|(second, _)| second);
    first.is_ascii_alphabetic() && second == Some(b'(')
}

/// Judges the percent-encoded octet at `at`; where the next one starts. `None`: to be refused.
fn encoded(path: &[u8], at: usize) -> Option<usize> {
    let (octet, size) = octet_at(path, at)?;
    let next = at + size;
    let is_fine = match octet {
        0..=0x1F | 0x7F | b'/' | b'\\' | b';' => false,
        b'%' => !starts_encoding(path, next),
        b'.' | b' ' | b':' | b'~' | b'(' => is_safe_before(path, octet, next),
        0x80.. => return encoded_character(path, at),
        _ => true,
    };
    is_fine.then_some(next)
}

/// Whether a reader that decodes twice would find an encoded octet behind the percent sign.
fn starts_encoding(path: &[u8], at: usize) -> bool {
    let Some((first, size)) = octet_at(path, at) else { return false };
    let second = octet_at(path, at + size).map(|(second, _)| second);
    let is_hex = |octet: u8| octet.is_ascii_hexdigit();
    matches!(first, b'u' | b'U') || is_hex(first) && second.is_some_and(is_hex)
}

/// Reads one UTF-8 character of two to four encoded octets. Refused: anything that is not UTF-8
/// (overlong forms above all), and signs that best-fit conversions turn into separators and dots.
fn encoded_character(path: &[u8], at: usize) -> Option<usize> {
    let mut octets = [0; 4];
    let (first, _) = octet_at(path, at)?;
    let count = match first {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    for (index, octet) in octets.iter_mut().take(count).enumerate() {
        *octet = octet_at(path, at + 3 * index).filter(|(_, size)| *size == 3)?.0;
    }
    let character = std::str::from_utf8(&octets[..count]).ok()?.chars().next()?;
    let is_alias = matches!(
        character,
        '\u{80}'..='\u{9F}' | '\u{2024}' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29F5}' | '\u{29F8}' | '\u{FE52}' | '\u{FE68}' | '\u{FF01}'..='\u{FF5E}'
    );
    (!is_alias).then_some(at + 3 * count)
}

/// First segment, and what follows it from its slash on.
fn split_segment(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|octet| *octet == b'/').unwrap_or(path.len());
    path.split_at(end)
}

fn is_same(segment: &[u8], name: &[u8], is_plain: bool) -> bool {
    if is_plain {
        return segment.eq_ignore_ascii_case(name);
    }
    let mut at = 0;
    for expected in name {
        match octet_at(segment, at) {
            Some((octet, size)) if octet.eq_ignore_ascii_case(expected) => at += size,
            _ => return false,
        }
    }
    at == segment.len()
}

/// A decimal u64 spelt the one way it can be: digits, none in front that says nothing.
fn role_id(segment: &[u8]) -> Option<u64> {
    let mut id = 0u64;
    let mut at = 0;
    while at < segment.len() {
        let (octet, size) = octet_at(segment, at)?;
        let is_leading_zero = id == 0 && at > 0;
        if !octet.is_ascii_digit() || is_leading_zero {
            return None;
        }
        id = id.checked_mul(10)?.checked_add(u64::from(octet - b'0'))?;
        at += size;
    }
    (!segment.is_empty()).then_some(id)
}
