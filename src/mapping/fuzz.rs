//! Properties that hold for every target, checked on bytes from anywhere.

use super::{
    Endpoint, EndpointPath, Families, Found, MappedEndpoint, MappedRole, OriginAddress, Publication,
    PublishedTable, Role, RoleIds, RoleKind, Scheme, StandardEndpoint, UrlMapping,
};

/// A management point, a software update point, and endpoints within endpoints.
fn sample_roles() -> Vec<MappedRole> {
    let standard = |id, kind, origin| MappedRole {
        id,
        kind,
        endpoints: StandardEndpoint::of(kind)
            .map(|row| MappedEndpoint {
                endpoint: row.endpoint(),
                origin,
                prefix: String::new(),
                replaces_path: false,
            })
            .collect(),
    };
    let own = |path: &str, families, prefix: &str| MappedEndpoint {
        endpoint: Endpoint {
            path: EndpointPath::parse(path).expect("a canonical path"),
            families,
            ..StandardEndpoint::of(RoleKind::ManagementPoint).next().expect("there are rows").endpoint()
        },
        origin: 2,
        prefix: prefix.to_owned(),
        replaces_path: true,
    };
    let endpoints = vec![
        own("app", Families::BOTH, "/base"),
        own("app/admin", Families::MUTUAL_AUTH, "/base/admin"),
        MappedEndpoint { origin: 3, ..own("root", Families::BOTH, "") },
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
    let origin = |host: &str, port| OriginAddress { scheme: Scheme::Http, host: host.to_owned(), port };
    let origins =
        [origin("mp.corp", 80), origin("sup.corp", 8530), origin("app.corp", 80), origin("root.corp", 80)];
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
    (table, UrlMapping::new(&mapped, &origins))
}

/// Takes bytes for a target.
///
/// # Panics
/// When gateway and connection point disagree, when a path that an origin could read otherwise is let
/// through, when octets behind the role id change, or when an internal URL does not come back.
pub fn fuzz(bytes: &[u8]) {
    let (table, mapping) = sample();
    let found = table.find(bytes);
    let mapped = mapping.map(bytes);
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
        let (again_internal, there) = ([again.prefix, again.rest].concat(), (again.origin, again.family));
        assert!(again_internal.eq_ignore_ascii_case(&internal), "the same place inside");
        assert_eq!(there, (mapped.origin, mapped.family));
    } else {
        // A percent-encoded octet in the internal prefix is the one thing that does not come back.
        assert!(bytes.contains(&b'%'), "an internal URL comes back");
    }
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
        assert!(!path.iter().any(|octet| octet.is_ascii_control() || matches!(octet, b'\\' | b';')));
        let mut segments = path.split(|octet| *octet == b'/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            assert!(!segment.is_empty() || segments.peek().is_none(), "no empty segment but the last");
            assert!(!matches!(segment.last(), Some(b'.' | b' ')), "Windows would drop it");
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
