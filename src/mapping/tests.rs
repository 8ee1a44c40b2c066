use proptest::prelude::*;

use super::fuzz::{self, sample};
use super::*;
use crate::refusal::Refusal::{self, BadRequest, ContentTooLarge, MethodNotAllowed, Redirect, UnknownUrl};

const MP: &str = "/CCM_Proxy_MutualAuth/72057594037927941";

/// What a target comes to, in words.
fn gateway(target: &str) -> Result<String, Refusal> {
    let (table, _) = sample();
    table.find(target.as_bytes()).map(|found| match found {
        Found::Metadata(family) => format!("metadata {family:?}"),
        Found::AadAuthInfo(query) => format!("aad {}", String::from_utf8_lossy(query)),
        Found::ImplicitAuth => "implicit".to_owned(),
        Found::Endpoint { role, endpoint, rest, .. } => {
            format!("{} {} {}", role.id, endpoint.path.as_str(), String::from_utf8_lossy(rest))
        }
    })
}

fn connector(target: &str) -> Result<String, Refusal> {
    let (_, mapping) = sample();
    let mapped = mapping.map(target.as_bytes())?;
    let hosts = ["mp.corp", "sup.corp", "app.corp", "root.corp"];
    let internal = [mapped.prefix, mapped.rest].concat();
    Ok(format!("{}{}", hosts[mapped.group()], String::from_utf8_lossy(&internal)))
}

#[test]
fn a_target_finds_its_endpoint_and_keeps_its_octets() {
    let table = [
        (
            "/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request",
            "72057594037927941 CCM_System /CCM_System/request",
        ),
        (
            "/ccm_proxy_mutualauth/72057594037927941/ccm_SYSTEM/request",
            "72057594037927941 CCM_System /ccm_SYSTEM/request",
        ),
        (
            "/CCM_PROXY_MUTUALAUTH/72057594037927941/SMS_MP/.sms_aut?MPLIST",
            "72057594037927941 SMS_MP /SMS_MP/.sms_aut?MPLIST",
        ),
        (
            "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_pol?{A-1}.%2e%2e/../\\",
            "72057594037927941 SMS_MP /SMS_MP/.sms_pol?{A-1}.%2e%2e/../\\",
        ),
        ("/CCM_Proxy_MutualAuth/72057594037927941/CCM_STS", "72057594037927941 CCM_STS /CCM_STS"),
        ("/CCM_Proxy_ServerAuth/72057594037927941/CCM_STS/", "72057594037927941 CCM_STS /CCM_STS/"),
        (
            "/CCM_Proxy_MutualAuth/72057594037927941/CCM%5FSystem/a%20b",
            "72057594037927941 CCM_System /CCM%5FSystem/a%20b",
        ),
        (
            "/CCM_Proxy_ServerAuth/72057594037927941/ccm_system_tokenauth/request",
            "72057594037927941 CCM_System_TokenAuth /ccm_system_tokenauth/request",
        ),
        (
            "/CCM_Proxy_MutualAuth/8/ClientWebService/client.asmx",
            "8 ClientWebService /ClientWebService/client.asmx",
        ),
        (
            "/CCM_Proxy_MutualAuth/%38/ClientWebService/client.asmx",
            "8 ClientWebService /ClientWebService/client.asmx",
        ),
        ("/CCM_Proxy_MutualAuth/9/APP/x?y", "9 app /APP/x?y"),
        ("/CCM_Proxy_MutualAuth/9/app/Admin/x", "9 app/admin /app/Admin/x"),
        ("/CCM_Proxy_ServerAuth/9/app/administrator", "9 app /app/administrator"),
        ("/CCM_Proxy_ServerAuth/9/app/x;y=1/z;?q;", "9 app /app/x;y=1/z;?q;"),
        ("/CCM_Proxy_ServerAuth/9/app/x/admin;y", "9 app /app/x/admin;y"),
        ("/CCM_Proxy_ServerAuth/0", "0  "),
        ("/CCM_Proxy_ServerAuth/0?q", "0  ?q"),
        ("/CCM_Proxy_ServerAuth/0/any/thing", "0  /any/thing"),
        ("/CCM_Proxy_MutualAuth/ServiceMetadata", "metadata MutualAuth"),
        ("/CCM_Proxy_ServerAuth/servicemetadata?x", "metadata ServerAuth"),
        ("/CCM_Proxy_ServerAuth/AADAuthInfo?TenantID=1", "aad TenantID=1"),
        ("/CCM_Proxy_ServerAuth/ImplicitAuth", "implicit"),
    ];
    for (target, found) in table {
        assert_eq!(gateway(target).as_deref(), Ok(found), "{target}");
    }
}

#[test]
fn what_no_site_publishes_is_unknown() {
    let table = [
        "/",
        "/robots.txt",
        "/CCM_Proxy_MutualAuth",
        "/CCM_Proxy_MutualAuth/",
        "/CCM_Proxy_Mutual/8/ClientWebService",
        "/CCM_Proxy_MutualAuth/AADAuthInfo",
        "/CCM_Proxy_MutualAuth/ServiceMetadata/x",
        "/CCM_Proxy_MutualAuth/72057594037927941",
        "/CCM_Proxy_MutualAuth/72057594037927941/",
        "/CCM_Proxy_MutualAuth/72057594037927942/SMS_MP/.sms_aut",
        "/CCM_Proxy_MutualAuth/18446744073709551616/SMS_MP/.sms_aut",
        "/CCM_Proxy_MutualAuth/72057594037927941000000000000/SMS_MP/.sms_aut",
        "/CCM_Proxy_MutualAuth/08/ClientWebService/client.asmx",
        "/CCM_Proxy_MutualAuth/00/x",
        "/CCM_Proxy_MutualAuth/+8/ClientWebService/client.asmx",
        "/CCM_Proxy_MutualAuth/-8/ClientWebService/client.asmx",
        "/CCM_Proxy_MutualAuth/8e0/ClientWebService/client.asmx",
        "/CCM_Proxy_MutualAuth/8/SMS_MP/.sms_aut",
        "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP2/.sms_aut",
        "/CCM_Proxy_MutualAuth/72057594037927941/SMS_M",
        "/CCM_Proxy_MutualAuth/72057594037927941/CCM_System_WindowsAuth/request",
        "/CCM_Proxy_MutualAuth/72057594037927941/AdminService/wmi",
        "/CCM_Proxy_MutualAuth/72057594037927941/CCM_System_TokenAuth/request",
        "/CCM_Proxy_ServerAuth/72057594037927941/CCM_System/request",
        "/CCM_Proxy_ServerAuth/72057594037927941/ccm%5fsystem/request",
        "/CCM_Proxy_ServerAuth/72057594037927941/SMS_MP/.sms_aut",
        "/CCM_Proxy_ServerAuth/72057594037927941/CCM_Incoming/x",
        "/CCM_Proxy_ServerAuth/9/app/admin",
        "/CCM_Proxy_ServerAuth/9/app/ADMIN/x",
        "/CCM_Proxy_ServerAuth/9/app/%61dmin/x",
        // Published for a reader that strips parameters, something else for one that does not.
        "/CCM_Proxy_ServerAuth/9/app/admin;x",
        "/CCM_Proxy_ServerAuth/9/app/admin;x/y",
        "/CCM_Proxy_ServerAuth/9/app/admin%3Fx",
        "/CCM_Proxy_ServerAuth/9/app/adm%69n%23x",
        "/CCM_Proxy_ServerAuth/9/app;x/admin",
        "/CCM_Proxy_MutualAuth/9/app;x/y",
        "/CCM_Proxy_MutualAuth/9/%61pp;x/y",
        "/CCM_Proxy_MutualAuth/9;x/app/y",
        "/CCM_Proxy_MutualAuth;x/9/app/y",
    ];
    for target in table {
        assert_eq!(gateway(target), Err(UnknownUrl), "{target}");
        assert_eq!(connector(target), Err(UnknownUrl), "{target}");
    }
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_refused() {
    let rest = [
        "//x",
        "/x//y",
        "/./x",
        "/../x",
        "/x/..",
        "/x/.",
        "/..",
        "/.",
        "/...",
        "/x./y",
        "/x.",
        "/x%20",
        "/x%20/y",
        "/x%2e",
        "/%2e%2e/x",
        "/.%2e/x",
        "/%2E./x",
        "/%2e/x",
        "/x%2fy",
        "/x%2Fy",
        "/x%5cy",
        "/x\\y",
        "/x%00y",
        "/x%0d%0ay",
        "/x%7f",
        "/x%252fy",
        "/x%252e%252e",
        "/x%25%32%66",
        "/%25u002e",
        "/x%2",
        "/x%",
        "/x%zz",
        "/x%u002e",
        "/..;/x",
        "/(S(x))/y",
        "/x(a(y))z",
        "/%28S%28x))/y",
        "/(%53(x))/y",
        "/;x",
        "/x/;y",
        "/x.;y",
        "/x%20;y",
        "/x;../y",
        "/x;.",
        "/x%3by",
        "/x#y",
        "/x y",
        "/x\ty",
        "/x\u{e4}",
        "/x%c0%ae%c0%ae/",
        "/%c0%af",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/x%ff",
        "/x%c3",
        "/x%c3/y",
        "/x%ed%a0%80",
        "/%ef%bc%8f",
        "/%ef%bc%8e%ef%bc%8e",
        "/%e2%88%95",
        "/x:$DATA",
        "/x::$DATA",
        "/x%3a$i30",
        "/x:%24y",
        "/PROGRA~1/x",
        "/x%7e1",
        "/x~%31",
        "/x%c2%85",
        "/x%F4%90%80%80",
        "/x.?y",
        "/x%20?y",
        "/x/..?y",
    ];
    let prefixes = [
        MP,
        "/CCM_Proxy_MutualAuth/9/app",
        "/CCM_Proxy_MutualAuth/8/SelfUpdate",
        "/CCM_Proxy_MutualAuth/77",
        "/elsewhere",
    ];
    for (prefix, rest) in prefixes.into_iter().flat_map(|prefix| rest.map(|rest| (prefix, rest))) {
        let target = format!("{prefix}{rest}");
        assert_eq!(gateway(&target), Err(BadRequest), "{target}");
        assert_eq!(connector(&target), Err(BadRequest), "{target}");
    }
    for target in [
        "",
        "*",
        "CCM_Proxy_MutualAuth/8",
        "http://x/",
        "?/",
        "//CCM_Proxy_MutualAuth/8",
        "/%2fCCM",
        "/CCM_Proxy_MutualAuth/../8",
    ] {
        assert_eq!(gateway(target), Err(BadRequest), "{target}");
    }
}

#[test]
fn odd_but_unambiguous_paths_pass() {
    for rest in [
        "/CCM_Client/.hidden",
        "/CCM_Client/..a",
        "/CCM_Client/a..b",
        "/CCM_Client/%20a",
        "/CCM_Client/~user",
        "/CCM_Client/a~b",
        "/CCM_Client/%c3%a4",
        "/CCM_Client/%e2%82%ac",
        "/CCM_Client/100%25",
        "/CCM_Client/100%25-x",
        "/CCM_Client/a:b",
        "/CCM_Client/(a,b)@!$&'*+=",
        "/CCM_Client/{1}|^`\"<>[]",
        "/CCM_Client/a%3Fb",
        "/CCM_Client/?",
        "/CCM_Client/%F0%9F%92%A9",
    ] {
        assert!(gateway(&format!("{MP}{rest}")).is_ok(), "{rest}");
    }
}

#[test]
fn a_target_maps_to_its_internal_url() {
    let table = [
        ("/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request", "mp.corp/CCM_System/request"),
        (
            "/CCM_Proxy_MutualAuth/8/ReportingWebService/x.asmx?wsdl",
            "sup.corp/ReportingWebService/x.asmx?wsdl",
        ),
        ("/CCM_Proxy_MutualAuth/9/App", "app.corp/base"),
        ("/CCM_Proxy_MutualAuth/9/App/", "app.corp/base/"),
        ("/CCM_Proxy_MutualAuth/9/App/x?y", "app.corp/base/x?y"),
        ("/CCM_Proxy_MutualAuth/9/App?y", "app.corp/base?y"),
        ("/CCM_Proxy_MutualAuth/9/app/admin/x", "app.corp/base/admin/x"),
        ("/CCM_Proxy_MutualAuth/9/%61pp/%78", "app.corp/base/%78"),
        ("/CCM_Proxy_MutualAuth/9/root", "root.corp/"),
        ("/CCM_Proxy_MutualAuth/9/root?y", "root.corp/?y"),
        ("/CCM_Proxy_MutualAuth/9/root/x", "root.corp/x"),
        ("/CCM_Proxy_ServerAuth/0", "app.corp/all"),
        ("/CCM_Proxy_ServerAuth/0/x", "app.corp/all/x"),
    ];
    for (target, internal) in table {
        assert_eq!(connector(target).as_deref(), Ok(internal), "{target}");
    }
    assert_eq!(connector("/CCM_Proxy_MutualAuth/ServiceMetadata"), Err(UnknownUrl));
}

#[test]
fn a_location_under_a_mapped_prefix_is_mapped_back() {
    let mp = "/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/a/b?q";
    let app = "/CCM_Proxy_ServerAuth/9/app/x";
    let table = [
        (mp, "http://mp.corp/CCM_Client/c", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/c")),
        (
            mp,
            "HTTP://MP.corp:80/CCM_Client/c#f",
            Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/c#f"),
        ),
        (mp, "//mp.corp/SMS_MP/.sms_aut?X", Ok("/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_aut?X")),
        (mp, "/CCM_Client/c?d", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/c?d")),
        (mp, "c", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/a/c")),
        (mp, "../c", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/c")),
        (mp, "./", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/a/")),
        (mp, "?z", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/a/b?z")),
        (mp, "#z", Ok("/CCM_Proxy_MutualAuth/72057594037927941/CCM_Client/a/b?q#z")),
        (mp, "http://app.corp/base/y", Ok("/CCM_Proxy_MutualAuth/9/app/y")),
        (mp, "http://app.corp/all/y", Ok("/CCM_Proxy_MutualAuth/0/y")),
        (app, "/base/y", Ok("/CCM_Proxy_ServerAuth/9/app/y")),
        (app, "http://app.corp/base", Ok("/CCM_Proxy_ServerAuth/9/app")),
        (app, "http://root.corp/y", Ok("/CCM_Proxy_ServerAuth/9/root/y")),
        (app, "http://root2.corp/y", Ok("/CCM_Proxy_ServerAuth/9/root/y")),
        (app, "http://root3.corp/y", Err(Redirect)),
        (app, "/base/admin/y", Err(Redirect)),
        (app, "http://mp.corp/CCM_System/request", Err(Redirect)),
        (mp, "../../../../AdminService", Err(Redirect)),
        (mp, "/AdminService", Err(Redirect)),
        (mp, "/CCM_Client/%2e%2e/AdminService", Err(Redirect)),
        (mp, "https://mp.corp/CCM_Client/c", Err(Redirect)),
        (mp, "http://mp.corp:81/CCM_Client/c", Err(Redirect)),
        (mp, "http://mp.corp.evil/CCM_Client/c", Err(Redirect)),
        (mp, "http://user@mp.corp/CCM_Client/c", Err(Redirect)),
        (mp, "http://mp.corp:/CCM_Client/c", Err(Redirect)),
        (mp, "http://secret.corp/", Err(Redirect)),
        (mp, "javascript:alert(1)", Err(Redirect)),
        (mp, "/CCM_Client/a b", Err(Redirect)),
        (mp, "/CCM_Client/\u{e4}", Err(Redirect)),
    ];
    let (_, mapping) = sample();
    for (target, location, expected) in table {
        let mapped = mapping.map(target.as_bytes()).unwrap();
        let mut out = Vec::new();
        let back = mapping.map_back(&mapped, location.as_bytes(), &mut out);
        let back = back.map(|()| String::from_utf8(out).unwrap());
        assert_eq!(back.as_deref(), expected.as_ref().copied(), "{target} {location}");
    }
}

#[test]
fn a_path_published_to_each_family_apart_is_reached_by_both() {
    let any = StandardEndpoint::of(RoleKind::ManagementPoint).next().unwrap().endpoint();
    for path in ["/", "app"] {
        let for_family =
            |families| Endpoint { path: EndpointPath::parse(path).unwrap(), families, ..any.clone() };
        let endpoints = vec![for_family(Families::SERVER_AUTH), for_family(Families::MUTUAL_AUTH)];
        let roles = [Role { id: 1, kind: RoleKind::Own, endpoints }];
        let allowed = RoleIds::all();
        let (table, _) = PublishedTable::new([Publication { site: 0, roles: &roles, allowed: &allowed }]);
        for family in Family::ALL {
            let target = format!("/{}/1/app/x", family.segment());
            let found = table.find(target.as_bytes());
            assert!(
                matches!(found, Ok(Found::Endpoint { endpoint, .. }) if endpoint.families.contains(family)),
                "{path} {found:?}"
            );
        }
    }
}

#[test]
fn an_endpoint_admits_its_methods_and_lengths() {
    let any = StandardEndpoint::of(RoleKind::ManagementPoint).next().unwrap().endpoint();
    let methods = vec![Method::parse("GET").unwrap(), Method::parse("BITS_POST").unwrap()];
    let own = Endpoint { methods, request_length_max: 10, ..any.clone() };
    let table = [
        (&any, "CCM_POST", Some(5_000_000), Ok(())),
        (&any, "PROPFIND", None, Ok(())),
        (&any, "TRACE", None, Err(MethodNotAllowed)),
        (&any, "TRACK", None, Err(MethodNotAllowed)),
        (&any, "CONNECT", None, Err(MethodNotAllowed)),
        (&any, "POST", Some(u64::MAX), Err(ContentTooLarge)),
        (&own, "GET", Some(0), Ok(())),
        (&own, "BITS_POST", Some(10), Ok(())),
        (&own, "BITS_POST", None, Ok(())),
        (&own, "BITS_POST", Some(11), Err(ContentTooLarge)),
        (&own, "get", None, Err(MethodNotAllowed)),
        (&own, "POST", Some(11), Err(MethodNotAllowed)),
        (&own, "", None, Err(MethodNotAllowed)),
    ];
    for (endpoint, method, length, verdict) in table {
        assert_eq!(endpoint.admit(method.as_bytes(), length), verdict, "{method} {length:?}");
    }
}

#[test]
fn the_first_site_to_claim_a_role_has_it_and_only_within_its_rights() {
    let role = |id| Role { id, kind: RoleKind::Own, endpoints: Vec::new() };
    let (first, second) = ([role(1), role(5)], [role(5), role(2), role(99)]);
    let (all, few) = (RoleIds::all(), RoleIds::new(vec![1..=9]));
    let publications = [
        Publication { site: 7, roles: &first, allowed: &all },
        Publication { site: 4, roles: &second, allowed: &few },
    ];
    let (table, conflicts) = PublishedTable::new(publications);
    assert_eq!(
        conflicts,
        [Conflict::Claimed { id: 5, site: 4, holder: 7 }, Conflict::NotAllowed { id: 99, site: 4 }]
    );
    let kept: Vec<_> = table.roles().map(|(role, site)| (role.id, site)).collect();
    assert_eq!(kept, [(1, 7), (2, 4), (5, 7)]);
}

#[test]
fn a_role_stays_with_the_site_that_has_it() {
    let role = |id| Role { id, kind: RoleKind::Own, endpoints: Vec::new() };
    let (first, second) = ([role(1), role(5)], [role(5)]);
    let (all, few) = (RoleIds::all(), RoleIds::new(vec![1..=4]));
    let roles =
        |table: &PublishedTable| table.roles().map(|(role, site)| (role.id, site)).collect::<Vec<_>>();
    let both = |allowed| {
        [
            Publication { site: 0, roles: &first, allowed },
            Publication { site: 1, roles: &second, allowed: &all },
        ]
    };
    // The first one has to let go of it, and does not get it back before the second one does.
    let (table, _) = PublishedTable::new(both(&few));
    assert_eq!(roles(&table), [(1, 0), (5, 1)]);
    let (table, conflicts) = table.next(both(&all));
    assert_eq!(roles(&table), [(1, 0), (5, 1)]);
    assert_eq!(conflicts, [Conflict::Claimed { id: 5, site: 0, holder: 1 }]);
    let (table, _) = table.next([both(&all)[0]]);
    assert_eq!(roles(&table), [(1, 0), (5, 0)]);
}

#[test]
fn what_is_mapped_bears_its_number() {
    let (_, mapping) = sample();
    let targets = [
        "/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request",
        "/CCM_Proxy_MutualAuth/72057594037927941/CCM_STS",
        "/CCM_Proxy_ServerAuth/72057594037927941/CCM_STS/",
    ];
    for target in targets {
        let mapped = mapping.map(target.as_bytes()).unwrap();
        let (id, one, family) = mapping.offers().nth(mapped.offer as usize).unwrap();
        assert!(id == mapped.role && std::ptr::eq(&raw const one.endpoint, mapped.endpoint));
        assert_eq!(family, mapped.family);
    }
}

#[test]
fn no_family_reaches_what_is_kept_from_it() {
    for row in STANDARD {
        let text = row.path.to_ascii_lowercase();
        assert!(!text.contains("windowsauth") && !text.contains("adminservice") && !text.is_empty());
        let token = text.ends_with("_tokenauth");
        assert!(!token || row.families == Families::SERVER_AUTH, "{text}");
        let plain = matches!(row.path, "CCM_System" | "SMS_MP" | "CCM_Incoming");
        assert!(!plain || row.families == Families::MUTUAL_AUTH, "{text}");
        assert_eq!(row.by_default, !matches!(row.path, "Content" | "SelfUpdate"));
        assert_eq!(EndpointPath::parse(row.path).unwrap().as_str(), row.path);
    }
}

#[test]
fn an_endpoint_path_has_one_spelling() {
    for (text, kept) in [("/", ""), ("", ""), ("a", "a"), ("/a/b/", "a/b"), ("a.b/{c}", "a.b/{c}")] {
        assert_eq!(EndpointPath::parse(text).map(|path| path.as_str().to_owned()).as_deref(), Ok(kept));
    }
    for text in [
        "//", "a//", "//a", "a//b", ".", "../a", "a/..", "a.", "a?b", "a%62", "a b", "a#b", "\u{e4}", "a;b",
        "a\\b", "a~1",
    ] {
        assert!(EndpointPath::parse(text).is_err(), "{text}");
    }
    assert!(EndpointPath::parse(&"a".repeat(257)).is_err());
}

#[test]
fn an_internal_url_is_read_or_refused() {
    let table = [
        ("http://mp.corp", Some(("mp.corp", 80, ""))),
        ("HTTP://MP.Corp/", Some(("mp.corp", 80, ""))),
        ("https://mp.corp", Some(("mp.corp", 443, ""))),
        ("https://mp.corp:8531/a/b/", Some(("mp.corp", 8531, "/a/b"))),
        ("http://[::1]:80", Some(("::1", 80, ""))),
        ("http://127.0.0.1:8080", Some(("127.0.0.1", 8080, ""))),
        ("ftp://mp.corp", None),
        ("mp.corp", None),
        ("http://", None),
        ("http:///x", None),
        ("http://mp.corp:0", None),
        ("http://mp.corp:", None),
        ("http://mp.corp:70000", None),
        ("http://mp.corp:+80", None),
        ("http://user@mp.corp", None),
        ("http://mp.corp?x", None),
        ("http://mp.corp/?x", None),
        ("http://mp.corp#x", None),
        ("http://mp.corp/a/../b", None),
        ("http://mp.corp//", None),
        ("http://mp.corp/a//", None),
        ("http://[::1", None),
        ("http://[::g]", None),
        ("http://[::1]x", None),
        ("http://mp..corp", None),
        ("http://-mp.corp", None),
    ];
    for (text, expected) in table {
        let url = InternalUrl::parse(text).ok();
        let parts =
            url.as_ref().map(|url| (url.address.host.as_str(), url.address.port, url.prefix.as_str()));
        assert_eq!(parts, expected, "{text}");
    }
    let authority = |text| InternalUrl::parse(text).unwrap().address.authority();
    assert_eq!(authority("http://[::1]:80/x"), "[::1]");
    assert_eq!(authority("http://mp.corp:81"), "mp.corp:81");
    assert_eq!(authority("https://mp.corp:80"), "mp.corp:80");
}

/// Pieces from which hostile targets are put together.
const PIECES: &[&str] = &[
    "/CCM_Proxy_MutualAuth",
    "/ccm_proxy_serverauth",
    "/72057594037927941",
    "/8",
    "/9",
    "/0",
    "/CCM_System",
    "/app",
    "/admin",
    "/root",
    "/",
    ".",
    "..",
    "%2e",
    "%2F",
    "%5c",
    "%25",
    "2e",
    "%c3%a4",
    "%c0%ae",
    "~",
    "1",
    "%31",
    ":",
    "$",
    ";",
    "?",
    "a",
    "%61",
    "%20",
    "#",
    "\\",
    "%",
    "u",
    "/SMS_MP",
    "/CCM_Client",
    "/ServiceMetadata",
    "\u{e4}",
    "\0",
    "%EF%BC%8F",
];

#[test]
fn seeded_targets_are_found_alike_by_both_and_read_one_way() {
    crate::seeded::run("path", 3_000, fuzz::path);
}

#[test]
fn seeded_sites_are_mapped_by_the_longest_endpoint_and_back() {
    crate::seeded::run("mapping", 6_000, fuzz::mapping);
}

#[test]
fn hostile_targets_hold_the_invariants() {
    let mut seed = 0x5eed_u64;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..6_000 {
        let heads = [
            "/CCM_Proxy_MutualAuth/9/app",
            "/CCM_Proxy_ServerAuth/9/root",
            MP,
            "/CCM_Proxy_MutualAuth/0",
            "",
        ];
        let mut target = heads[next(heads.len())].as_bytes().to_vec();
        for _ in 0..next(7) {
            target.extend_from_slice(PIECES[next(PIECES.len())].as_bytes());
        }
        if !target.is_empty() && next(4) == 0 {
            let at = next(target.len());
            target[at] = next(256) as u8;
        }
        fuzz::path(&target);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_octets_hold_the_invariants(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::path(&bytes);
        fuzz::path(&[b"/CCM_Proxy_MutualAuth/0/", bytes.as_slice()].concat());
    }

    #[test]
    fn encoding_letters_changes_nothing(mask in any::<u64>(), upper in any::<u64>()) {
        let plain = "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_aut";
        let spell = |(index, sign): (usize, char)| {
            let sign = if upper >> (index % 64) & 1 == 1 { sign.to_ascii_uppercase() } else { sign.to_ascii_lowercase() };
            let encode = sign != '/' && mask >> (index % 64) & 1 == 1;
            if encode { format!("%{:02X}", sign as u32) } else { sign.to_string() }
        };
        let spelt: String = plain.chars().enumerate().map(spell).collect();
        prop_assert!(gateway(&spelt).unwrap().starts_with("72057594037927941 SMS_MP /"), "{}", spelt);
    }

    #[test]
    fn every_role_id_is_itself(id in any::<u64>()) {
        let target = format!("/CCM_Proxy_MutualAuth/{id}/x");
        let path = Path::parse(target.as_bytes()).unwrap();
        prop_assert!(matches!(path.resource, Resource::Role(role) if role.id == id && role.rest == b"/x"));
    }
}
