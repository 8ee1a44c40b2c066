//! Properties that hold for every target, checked on bytes from anywhere.

use super::{
    Endpoint, EndpointPath, Families, Found, Mapped, MappedEndpoint, MappedRole, OriginAddress, Path,
    Publication, PublishedTable, Resource, Role, RoleIds, RoleKind, Scheme, StandardEndpoint, UrlMapping,
};
use crate::http::is_target;
use crate::refusal::Refusal::BadRequest;

/// A management point, a software update point, and endpoints within endpoints.
fn sample_roles() -> Vec<MappedRole> {
    let standard = |id, kind, group| MappedRole {
        id,
        kind,
        endpoints: StandardEndpoint::of(kind)
            .map(|row| MappedEndpoint {
                endpoint: row.endpoint(),
                group,
                prefix: String::new(),
                replaces_path: false,
                forwards_token: false,
            })
            .collect(),
    };
    let own = |path: &str, families, prefix: &str| MappedEndpoint {
        endpoint: Endpoint {
            path: EndpointPath::parse(path).expect("a canonical path"),
            families,
            ..StandardEndpoint::of(RoleKind::ManagementPoint).next().expect("there are rows").endpoint()
        },
        group: 2,
        prefix: prefix.to_owned(),
        replaces_path: true,
        forwards_token: false,
    };
    let endpoints = vec![
        own("app", Families::BOTH, "/base"),
        own("app/admin", Families::MUTUAL_AUTH, "/base/admin"),
        MappedEndpoint { group: 3, ..own("root", Families::BOTH, "") },
    ];
    vec![
        standard(72_057_594_037_927_941, RoleKind::ManagementPoint, 0),
        standard(8, RoleKind::SoftwareUpdatePoint, 1),
        MappedRole { id: 9, kind: RoleKind::Own, endpoints },
        MappedRole { id: 0, kind: RoleKind::Own, endpoints: vec![own("/", Families::BOTH, "/all")] },
    ]
}

/// The same site as a gateway and as its connection point see it.
pub(super) fn sample() -> (PublishedTable, UrlMapping) {
    let group = |host: &str, port| vec![OriginAddress { scheme: Scheme::Http, host: host.to_owned(), port }];
    let root = [group("root.corp", 80), group("root2.corp", 80)].concat();
    let groups = [group("mp.corp", 80), group("sup.corp", 8530), group("app.corp", 80), root];
    let mapped = sample_roles();
    let published = |role: &MappedRole| Role {
        id: role.id,
        kind: role.kind,
        endpoints: role.endpoints.iter().map(|one| one.endpoint.clone()).collect(),
    };
    let roles: Vec<Role> = mapped.iter().map(published).collect();
    let allowed = RoleIds::all();
    let (table, conflicts) = PublishedTable::new([Publication { site: 3, roles: &roles, allowed: &allowed }]);
    assert!(conflicts.is_empty());
    (table, UrlMapping::new(&mapped, &groups))
}

/// Takes bytes for a target.
///
/// # Panics
/// When gateway and connection point disagree, when a path that an origin could read otherwise is let
/// through, when octets behind the role id change, or when an internal URL does not come back.
pub fn path(bytes: &[u8]) {
    let (table, mapping) = sample();
    let found = table.find(bytes);
    let mapped = mapping.map(bytes);
    check_explained(&table, bytes, found.is_err());
    let (Ok(Found::Endpoint { endpoint, rest, site, .. }), Ok(mapped)) = (&found, &mapped) else {
        assert!(!matches!(found, Ok(Found::Endpoint { .. })) && mapped.is_err(), "both find it or neither");
        return;
    };
    assert_eq!((*site, *endpoint), (3, mapped.endpoint), "both find the same");
    assert!(bytes.ends_with(rest) && rest.ends_with(mapped.rest), "octets are handed on as they came");
    let internal = [mapped.prefix, mapped.rest].concat();
    assert_eq!(internal.first(), Some(&b'/'));
    assert_reads_one_way(bytes);
    assert_reads_one_way(&internal);

    let mut back = Vec::new();
    let is_visible = internal.iter().all(|octet| (0x21..=0x7E).contains(octet)) && !internal.contains(&b'#');
    if !is_visible || internal.starts_with(b"//") {
        return;
    }
    if mapping.map_back(mapped, &internal, &mut back).is_ok() {
        let again = mapping.map(&back).expect("what is sent out is published");
        let (again_internal, there) = ([again.prefix, again.rest].concat(), (again.group(), again.family));
        assert!(again_internal.eq_ignore_ascii_case(&internal), "the same place inside");
        assert_eq!(there, (mapped.group(), mapped.family));
    } else {
        // A percent-encoded octet in the internal prefix is the one thing that does not come back.
        assert!(bytes.contains(&b'%'), "an internal URL comes back");
    }
}

/// What a log says of a target that is not taken: one short line, nothing of the query.
fn check_explained(table: &PublishedTable, target: &[u8], is_refused: bool) {
    let told = table.explain(target);
    assert!(told.len() < 512 && !told.contains(char::is_control), "{told:?}");
    let query = target.iter().position(|octet| *octet == b'?').map(|at| &target[at..]);
    if let Some(Ok(query)) = query.filter(|query| query.len() > 8).map(std::str::from_utf8) {
        assert!(!told.contains(query), "{told:?}");
    }
    assert_eq!(
        told.starts_with("the path is not canonical"),
        Path::parse(target) == Err(BadRequest),
        "{told:?}"
    );
    assert!(is_refused || !told.starts_with("the path begins"), "{told:?}");
}

/// A site of `bytes`, and behind it two lines: a target and a `Location` in the answer. The first octet
/// counts the endpoints, each has three more.
///
/// # Panics
/// When gateway, connection point and a slow second opinion do not choose the same endpoint, or when a
/// `Location` that is sent out does not lead back to where the origin meant.
pub fn mapping(bytes: &[u8]) {
    let Some((roles, text)) = site(bytes) else { return };
    let (target, location) =
        text.split_at(text.iter().position(|octet| *octet == b'\n').unwrap_or(text.len()));
    let location = location.get(1..).unwrap_or_default();
    let mapping = UrlMapping::new(&roles, &ORIGINS.map(|host| vec![origin(host)]));
    let published = publish(&roles);
    let allowed = RoleIds::all();
    let publication = Publication { site: 3, roles: &published, allowed: &allowed };
    let (table, conflicts) = PublishedTable::new([publication, Publication { site: 4, ..publication }]);
    assert!(
        conflicts.len() == published.len() && table.roles().all(|(_, site)| site == 3),
        "the first has it"
    );

    let expected = Path::parse(target).ok().and_then(|path| second_opinion(&roles, &path));
    let mapped = mapping.map(target).ok();
    assert_eq!(mapped.map(|mapped| mapped.endpoint), expected.map(|one| &one.endpoint));
    let found = table.find(target);
    let Some((mapped, one)) = mapped.zip(expected) else {
        assert!(!matches!(found, Ok(Found::Endpoint { .. })));
        return;
    };
    assert!(matches!(found, Ok(Found::Endpoint { endpoint, .. }) if *endpoint == one.endpoint));
    assert_eq!(mapped.group(), one.group);
    let internal = [mapped.prefix, mapped.rest].concat();
    assert_reads_one_way(&internal);
    let below = internal.strip_prefix(one.prefix.as_bytes()).expect("below its prefix");
    assert!(matches!(below.first(), None | Some(b'/' | b'?')), "not beside its prefix");
    // Heads are judged before their targets come here: what nobody may send may come back as it went.
    if is_target(target) {
        check_location(&mapping, &mapped, location);
    }
}

const ORIGINS: [&str; 2] = ["o0.corp", "o1.corp"];

fn origin(host: &str) -> OriginAddress {
    OriginAddress { scheme: Scheme::Http, host: host.to_owned(), port: 80 }
}

fn publish(roles: &[MappedRole]) -> Vec<Role> {
    let endpoints = |role: &MappedRole| role.endpoints.iter().map(|one| one.endpoint.clone()).collect();
    roles.iter().map(|role| Role { id: role.id, kind: role.kind, endpoints: endpoints(role) }).collect()
}

/// The roles that the front of `bytes` spells, and what follows.
fn site(bytes: &[u8]) -> Option<(Vec<MappedRole>, &[u8])> {
    const PATHS: [&str; 8] = ["", "a", "a/b", "A/b/c", "ab", "a.b/c", "b", "SMS_MP"];
    const PREFIXES: [&str; 4] = ["", "/a", "/base", "/base/a"];
    const FAMILIES: [Families; 3] = [Families::BOTH, Families::MUTUAL_AUTH, Families::SERVER_AUTH];
    let (count, mut rest) = bytes.split_first()?;
    let mut roles: Vec<MappedRole> =
        (0..2).map(|id| MappedRole { id, kind: RoleKind::Own, endpoints: Vec::new() }).collect();
    for _ in 0..count % 9 {
        let ([path, prefix, other], behind) = rest.split_first_chunk::<3>()?;
        rest = behind;
        let endpoint = Endpoint {
            path: EndpointPath::parse(PATHS[usize::from(path % 8)]).expect("canonical"),
            families: FAMILIES[usize::from(other % 3)],
            ..StandardEndpoint::of(RoleKind::ManagementPoint).next().expect("there are rows").endpoint()
        };
        let endpoints = &mut roles[usize::from(path >> 7)].endpoints;
        // Settings refuse two endpoints that a request could be for.
        if !endpoints.iter().any(|one: &MappedEndpoint| one.endpoint.meets(&endpoint)) {
            endpoints.push(MappedEndpoint {
                endpoint,
                group: usize::from(other >> 7),
                prefix: PREFIXES[usize::from(prefix % 4)].to_owned(),
                replaces_path: prefix >= &128,
                forwards_token: false,
            });
        }
    }
    Some((roles, rest))
}

/// Of the endpoints whose segments the path begins with, the longest; and only if the family reaches it.
fn second_opinion<'r>(roles: &'r [MappedRole], path: &Path<'_>) -> Option<&'r MappedEndpoint> {
    let Resource::Role(below) = path.resource else { return None };
    let role = roles.iter().find(|role| role.id == below.id)?;
    let asked = decode(below.path()).to_ascii_lowercase();
    let asked = asked.get(1..).unwrap_or_default();
    let segments = |path: &[u8]| path.split(|octet| *octet == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let is_below = |path: &[Vec<u8>], one: &MappedEndpoint| {
        let own = one.endpoint.path.as_str().to_ascii_lowercase();
        own.is_empty() || path.starts_with(&segments(own.as_bytes()))
    };
    let (exact, lenient) = (segments(asked), names(asked));
    let takes = |one: &&MappedEndpoint| is_below(&exact, one) || is_below(&lenient, one);
    let size = |one: &MappedEndpoint| one.endpoint.path.as_str().len();
    let longest = role.endpoints.iter().filter(takes).map(size).max()?;
    let mut nearest = role.endpoints.iter().filter(takes).filter(|one| size(one) == longest);
    // What only a lenient reader takes for an endpoint is nobody's.
    nearest.find(|one| one.endpoint.families.contains(path.family) && is_below(&exact, one))
}

/// The segments for a reader that strips parameters, and cuts the query off after decoding.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for segment in path.split(|octet| *octet == b'/') {
        let end = segment.iter().position(|octet| matches!(octet, b';' | b'?' | b'#'));
        names.push(segment[..end.unwrap_or(segment.len())].to_vec());
        if end.is_some_and(|end| segment[end] != b';') {
            break;
        }
    }
    names
}

fn check_location(mapping: &UrlMapping, mapped: &Mapped<'_, '_>, location: &[u8]) {
    let mut external = b"before".to_vec();
    if mapping.map_back(mapped, location, &mut external).is_err() {
        assert_eq!(external, b"before");
        return;
    }
    let external = &external[6..];
    assert!(external.iter().all(|octet| (0x21..=0x7E).contains(octet)), "one field, one line");
    assert!(external.starts_with([b"/", mapped.family.segment().as_bytes(), b"/"].concat().as_slice()));
    let bare = |text: &[u8]| text.split(|octet| *octet == b'#').next().unwrap_or_default().to_vec();
    let bare_external = bare(external);
    let again = mapping.map(&bare_external).expect("what is sent out is published");
    assert_eq!(again.family, mapped.family);
    let named = ORIGINS.iter().position(|host| location.starts_with(format!("http://{host}/").as_bytes()));
    let (place, path) = match (named, location) {
        (Some(place), _) => (place, &location[b"http://o0.corp".len()..]),
        (None, [b'/', rest @ ..]) if rest.first() != Some(&b'/') => (mapped.group(), location),
        _ => return,
    };
    assert_eq!(again.group(), place);
    let internal = [again.prefix, again.rest].concat();
    assert!(internal.eq_ignore_ascii_case(&bare(path)), "the place that was meant");
}

/// A slow second opinion on canonical form: by segments, decoded as a whole, and then once more.
fn assert_reads_one_way(target: &[u8]) {
    let path = target.split(|octet| *octet == b'?').next().expect("split gives at least one");
    let once = decode(path);
    let twice = decode(&once);
    for path in [&once, &twice] {
        let slashes = |path: &[u8]| path.iter().filter(|octet| **octet == b'/').count();
        assert_eq!(slashes(path), slashes(target.split(|octet| *octet == b'?').next().unwrap_or_default()));
        assert!(std::str::from_utf8(path).is_ok(), "UTF-8");
        assert!(!path.iter().any(|octet| octet.is_ascii_control() || *octet == b'\\'));
        let mut segments = path.split(|octet| *octet == b'/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            assert!(!segment.is_empty() || segments.peek().is_none(), "no empty segment but the last");
            let name = segment.split(|octet| *octet == b';').next().unwrap_or_default();
            assert!(!name.is_empty() || segment.is_empty(), "parameters of no name");
            for end in [segment, name] {
                assert!(!matches!(end.last(), Some(b'.' | b' ')), "Windows would drop it");
            }
        }
    }
    assert_eq!(once, twice, "nothing is encoded twice");
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octet = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match octet.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) if path[at] == b'%' => {
                decoded.push(octet);
                at += 3;
            }
            _ => {
                decoded.push(path[at]);
                at += 1;
            }
        }
    }
    decoded
}
