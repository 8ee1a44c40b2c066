//! Why a target or a request is not taken, in words: for logs and for who asks beforehand. Looks a second
//! time at what the judging functions refused, so that those need not carry words.

use std::fmt::Write as _;

use super::endpoint::{Endpoint, Family};
use super::path::{self, Path, Resource};
use super::table::PublishedTable;
use super::url::UrlMapping;

impl PublishedTable {
    /// Why `target` (path and query as received) leads to no publishing endpoint.
    pub fn explain(&self, target: &[u8]) -> String {
        explain(target, "no site publishes", |id| {
            let (role, _) = self.roles().find(|(role, _)| role.id == id)?;
            Some(role.endpoints.iter().collect())
        })
    }
}

impl UrlMapping {
    /// Why `target` (path and query as received) is mapped to no origin.
    pub fn explain(&self, target: &[u8]) -> String {
        explain(target, "the site's settings have no", |id| {
            let role = self.roles().find(|role| role.id == id)?;
            Some(role.endpoints.iter().map(|mapped| &mapped.endpoint).collect())
        })
    }
}

impl Endpoint {
    /// Why [`Endpoint::admit`] does not take this request.
    pub fn explain(&self, method: &[u8], length: Option<u64>) -> String {
        let (method, max) = (String::from_utf8_lossy(method), self.request_length_max);
        let is_listed = self.methods.is_empty() || self.methods.iter().any(|one| one.as_str() == method);
        match length {
            _ if self.methods.is_empty() && self.admit(method.as_bytes(), Some(0)).is_err() => {
                format!("method {method} serves to look into a proxy and is never taken")
            }
            _ if !is_listed => {
                let listed = self.methods.iter().map(|one| one.as_str());
                format!("method {method} is not among {}", some_of(listed))
            }
            Some(length) if length > max => format!("length {length} is over the endpoint's {max}"),
            _ => "the endpoint takes it".to_owned(),
        }
    }
}

fn explain<'e>(target: &[u8], nobody: &str, endpoints: impl Fn(u64) -> Option<Vec<&'e Endpoint>>) -> String {
    if let Some(at) = path::fault_at(target) {
        return format!("the path is not canonical: {} at octet {at}", rule(target, at));
    }
    let Ok(Path { family, resource }) = Path::parse(target) else {
        let [one, other] = Family::ALL.map(Family::segment);
        return format!("the path begins with neither /{one} nor /{other}");
    };
    let Resource::Role(below) = resource else {
        return "no role id stands behind the family, nor anything that is answered here".to_owned();
    };
    let id = below.id;
    let Some(endpoints) = endpoints(id) else { return format!("{nobody} role {id}") };
    let path = shortened(below.path());
    let family = family.segment();
    let published = endpoints.iter().map(|endpoint| endpoint.path.as_str());
    format!("no endpoint of role {id} takes {path} in the family {family}; published: {}", some_of(published))
}

/// The rule that the octet at `at` breaks.
fn rule(target: &[u8], at: usize) -> &'static str {
    let Some((octet, _)) = path::octet_at(target, at) else { return "a percent sign without two digits" };
    let is_encoded = target.get(at) == Some(&b'%');
    match octet {
        _ if at == 0 && octet != b'/' => "something other than a slash",
        b'/' if !is_encoded => "an empty segment",
        b'/' | b'\\' | b';' if is_encoded => "an encoded separator",
        b'.' | b' ' => "a segment that ends in a dot or a blank",
        b':' => "the name of a stream (:$)",
        b'~' => "a short name (~1)",
        b'(' => "a session in the path ((S(x)))",
        b'%' => "an encoding within an encoding",
        0..=0x1F | 0x7F => "a control octet",
        0x80.. if is_encoded => "an encoded character that is not UTF-8 or has a twin in ASCII",
        _ => "an octet that a path cannot hold",
    }
}

/// A path for a sentence: up to where it may hold a secret, in parameters or in what some readers take
/// for a query.
fn shortened(path: &[u8]) -> String {
    let sign_at = |at: usize| match path[at..] {
        [b';', ..] => Some(at + 1),
        [b'%', b'3', b'F' | b'f', ..] => Some(at + 3),
        _ => None,
    };
    let end = (0..path.len()).find_map(sign_at).unwrap_or(path.len());
    let text = String::from_utf8_lossy(&path[..end]);
    match text.char_indices().nth(SHOWN_SIZE) {
        None if text.is_empty() => "the role alone".to_owned(),
        None if end == path.len() => text.into_owned(),
        None => format!("{text}…"),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The first of these names, separated.
fn some_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut text = String::new();
    for (count, name) in names.enumerate() {
        if count == SHOWN_COUNT {
            text.push_str(", …");
            break;
        }
        let _ =
            write!(text, "{}{}", if count > 0 { ", " } else { "" }, if name.is_empty() { "/" } else { name });
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// Octets of a path that a sentence shows.
const SHOWN_SIZE: usize = 80;
/// Names that a sentence lists: all endpoints of a management point.
const SHOWN_COUNT: usize = 12;

#[cfg(test)]
mod tests {
    use super::super::{Families, Publication, Role, RoleIds, RoleKind, StandardEndpoint};
    use super::*;

    fn table() -> PublishedTable {
        let kind = RoleKind::SoftwareUpdatePoint;
        let endpoints = StandardEndpoint::of(kind).map(|row| {
            let families = if row.by_default { Families::BOTH } else { Families::SERVER_AUTH };
            Endpoint { families, ..row.endpoint() }
        });
        let roles = [Role { id: 5, kind, endpoints: endpoints.collect() }];
        PublishedTable::new([Publication { site: 0, roles: &roles, allowed: &RoleIds::all() }]).0
    }

    #[test]
    fn a_target_that_leads_nowhere_is_told_why() {
        let table = table();
        let not_canonical = |what: &str| format!("the path is not canonical: {what}");
        let own = |rest: &str| format!("/CCM_Proxy_MutualAuth/{rest}");
        let rows = [
            (own("6/SMS_MP/x?token=secret"), "no site publishes role 6".to_owned()),
            (
                "/other/5".into(),
                "the path begins with neither /CCM_Proxy_MutualAuth nor /CCM_Proxy_ServerAuth".into(),
            ),
            (own("x"), "no role id stands behind the family, nor anything that is answered here".into()),
            ("x".into(), not_canonical("something other than a slash at octet 0")),
            (own("5//x"), not_canonical("an empty segment at octet 23")),
            (own("5/../x"), not_canonical("a segment that ends in a dot or a blank at octet 25")),
            (own("5/a%2Fb"), not_canonical("an encoded separator at octet 25")),
            (own("5/a%252Fb"), not_canonical("an encoding within an encoding at octet 25")),
            (own("5/a%0"), not_canonical("a percent sign without two digits at octet 25")),
            (own("5/a%00"), not_canonical("a control octet at octet 25")),
            (
                own("5/a%ff"),
                not_canonical("an encoded character that is not UTF-8 or has a twin in ASCII at octet 25"),
            ),
            (own("5/a:$b"), not_canonical("the name of a stream (:$) at octet 25")),
            (own("5/a~1"), not_canonical("a short name (~1) at octet 25")),
            (own("5/(S(x))/a"), not_canonical("a session in the path ((S(x))) at octet 24")),
            (own("5/a%28s%28"), not_canonical("a session in the path ((S(x))) at octet 25")),
            (own("5/;b"), not_canonical("an empty segment at octet 23")),
        ];
        for (target, expected) in rows {
            assert!(table.find(target.as_bytes()).is_err(), "{target}");
            assert_eq!(table.explain(target.as_bytes()), expected, "{target}");
        }
        for (target, begins) in [
            (own("5/Content/x?token=secret"), "no endpoint of role 5 takes /Content/x in the family"),
            (own("5/Content/x%3Ftoken=secret"), "no endpoint of role 5 takes /Content/x%3F… in the family"),
            (own("5"), "no endpoint of role 5 takes the role alone in the family"),
            (own("5/Content;b"), "no endpoint of role 5 takes /Content;… in the family"),
            (own("5/x;token=secret/y"), "no endpoint of role 5 takes /x;… in the family"),
            (own("5/x%3Ftoken=secret"), "no endpoint of role 5 takes /x%3F… in the family"),
            (own("5/x;"), "no endpoint of role 5 takes /x; in the family"),
            (own(&format!("5/{}", "a".repeat(500))), "no endpoint of role 5 takes /aaaaaaa"),
        ] {
            let told = table.explain(target.as_bytes());
            let is_short = told.len() < 400 && !told.contains("secret");
            assert!(told.starts_with(begins) && told.contains("; published: ") && is_short, "{told}");
        }
    }

    #[test]
    fn a_request_that_an_endpoint_does_not_take_is_told_why() {
        let row = StandardEndpoint::of(RoleKind::ManagementPoint).next().expect("a row");
        let endpoint = Endpoint {
            methods: ["GET", "HEAD"].map(|name| super::super::Method::parse(name).expect("a method")).into(),
            request_length_max: 65_536,
            ..row.endpoint()
        };
        let any = Endpoint { methods: Vec::new(), ..endpoint.clone() };
        let rows: [(&Endpoint, &str, u64, &str); 4] = [
            (&endpoint, "DELETE", 0, "method DELETE is not among GET, HEAD"),
            (&endpoint, "get", 70_000, "method get is not among GET, HEAD"),
            (&endpoint, "GET", 70_000, "length 70000 is over the endpoint's 65536"),
            (&any, "TRACE", 70_000, "method TRACE serves to look into a proxy and is never taken"),
        ];
        for (endpoint, method, length, expected) in rows {
            assert!(endpoint.admit(method.as_bytes(), Some(length)).is_err());
            assert_eq!(endpoint.explain(method.as_bytes(), Some(length)), expected);
        }
    }
}
