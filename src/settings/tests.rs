use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::auth::RevocationMode;
use crate::limits::{LIST_FETCH_EVERY, SETTINGS_SIZE_MAX};
use crate::mapping::{Endpoint, Family, Found, Publication, PublishedTable, RoleIds, RoleKind};

const GATEWAY: &str = r#"
ticks = 1
[gateway]
name = "CMG.example.org"
instance = "gw1"
[[listener]]
address = "0.0.0.0:443"
[[listener]]
address = "[::]:443"
[[server_certificate]]
chain = "server.pem"
key = "server.key"
[internal]
ca = "internal-ca.pem"
certificate = "gw1.pem"
key = "gw1.key"
[[internal.listener]]
address = "0.0.0.0:10140"
[[site]]
code = "PS1"
role_ids = ["72057594037927936-72057594037937936", "8", 9]
"#;

const CONNECTOR: &str = r#"
[connector]
identity = "1"
site = "site.toml"
[internal]
ca = "internal-ca.pem"
certificate = "1.pem"
key = "1.key"
[[gateway]]
address = "cmg.example.org:10140"
name = "gw1.gateway.cmg.internal"
"#;

const SITE: &str = r#"
code = "PS1"
serial = 3
[trust]
roots = ["root.pem"]
[[management_point]]
id = 72057594037927941
url = "http://mp.corp"
exclude = ["bgb"]
[[management_point]]
id = "18446744073709551615"
url = "https://mp2.corp:8443/"
thumbprint_sha256 = "00:11223344556677 8899aabbccddeeff00112233445566778899AABBCCDDEEFF"
certificate = "mp.pem"
key = "mp.key"
forward_identity = true
request_length_max = 10
connections_max = 5
[[software_update_point]]
id = 8
url = "http://sup.corp:8530"
self_update = true
[[endpoint]]
id = 9
path = "/reports/"
url = "http://mp.corp/base/"
families = ["mutual_auth"]
methods = ["GET", "REPORT"]
once = true
[[endpoint]]
id = 9
path = "reports"
url = "http://mp.corp/other"
families = ["server_auth"]
forward_identity = false
tunnel = false
"#;

fn gateway_text() -> String {
    GATEWAY.replace("ticks = 1\n", "")
}

/// The one error of a text, without the file's name.
fn only(errors: SettingsErrors) -> String {
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.to_string()
}

#[test]
fn a_gateway_file_yields_its_settings() {
    let settings = GatewaySettings::parse(&gateway_text(), "gateway.toml").unwrap();
    assert_eq!((settings.name.as_str(), settings.instance.as_str()), ("cmg.example.org", "gw1"));
    assert_eq!((settings.shards, settings.clients_max), (None, 18_000));
    assert_eq!(settings.listeners, ["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()]);
    assert_eq!(settings.internal_listeners, ["0.0.0.0:10140".parse().unwrap()]);
    assert!(settings.https_listeners.is_empty() && settings.https_among_clients);
    assert_eq!(settings.internal.identity.chain.to_str(), Some("gw1.pem"));
    assert_eq!(settings.limits, GatewayLimits::default());
    assert_eq!(settings.admin.address, "127.0.0.1:9140".parse().unwrap());
    let ids = &settings.sites[0].role_ids;
    assert!(ids.contains(8) && ids.contains(9) && ids.contains(72_057_594_037_927_941) && !ids.contains(10));
}

#[test]
fn channels_by_https_have_listeners_of_their_own_where_they_are_written() {
    let more = "[[internal.https_listener]]\naddress = \"0.0.0.0:10124\"\n";
    let settings = GatewaySettings::parse(&(gateway_text() + more), "g").unwrap();
    assert_eq!(settings.https_listeners, ["0.0.0.0:10124".parse().unwrap()]);
    let apart = gateway_text().replace("[internal]\n", "[internal]\nhttps_among_clients = false\n") + more;
    assert!(!GatewaySettings::parse(&apart, "g").unwrap().https_among_clients);
    let error = only(GatewaySettings::parse(&(gateway_text() + more + more), "g").unwrap_err());
    assert!(error.contains("internal.https_listener[2].address: found an address twice"), "{error}");
}

#[test]
fn what_a_gateway_file_may_say_besides_is_taken() {
    let text = gateway_text().replace(
        "instance = \"gw1\"\n",
        "instance = \"gw1\"\nshards = 2\nclients_max = 19_500\nstate_dir = \"/s\"\nticket_keys = \"t\"\n\
         proxy_protocol_from = [\"10.0.0.5\", \"10.1.0.0/16\", \"fd00::/64\", \"::ffff:10.0.0.6\", \"::ffff:10.2.0.0/112\", \"::/0\"]\n",
    ) + "[limits]\nidle_secs = 60\n[log]\nlevel = \"debug\"\naccess_log = \"a.log\"\n[admin]\naddress = \"[::1]:1\"\n";
    let settings = GatewaySettings::parse(&text, "g").unwrap();
    assert_eq!((settings.shards, settings.clients_max), (Some(2), 19_500));
    assert_eq!(
        (settings.limits.idle, settings.limits.head),
        (Duration::from_secs(60), Duration::from_secs(20))
    );
    assert_eq!(
        settings.log,
        LogSettings {
            level: LogLevel::Debug,
            access_log: AccessLog::File("a.log".into()),
            ..LogSettings::default()
        }
    );
    assert_eq!(settings.ticket_keys.as_deref().and_then(|path| path.to_str()), Some("t"));
    let proxies: Vec<_> = settings.proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.5/32", "10.1.0.0/16", "fd00::/64", "10.0.0.6/32", "10.2.0.0/16", "::/0"]);
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_right_one() {
    let error = only(GatewaySettings::parse(GATEWAY, "gateway.toml").unwrap_err());
    let known = "one of gateway, internal, listener, server_certificate, limits, log, admin, site";
    assert_eq!(error, format!("gateway.toml:2:1: ticks: found an unknown key, expected {known}"));
    let text = gateway_text().replace("instance = \"gw1\"", "instance = \"gw1\"\n  shrads = 2");
    let error = only(GatewaySettings::parse(&text, "f").unwrap_err());
    assert_eq!(error, "f:5:3: gateway.shrads: found an unknown key, expected \"shards\"");
}

#[test]
fn every_mistake_of_a_gateway_file_is_told_at_its_place() {
    let table = [
        ("address = \"[::]:443\"", "address = \"::443\"", "f:8:11: listener[2].address: found \"::443\""),
        (
            "address = \"[::]:443\"",
            "address = \"0.0.0.0:443\"",
            "f:8:11: listener[2].address: found an address twice",
        ),
        (
            "instance = \"gw1\"",
            "instance = \"gw1\"\nshards = 0",
            "f:5:10: gateway.shards: found 0, expected a whole number from 1 to 256",
        ),
        ("instance = \"gw1\"", "instance = 'g/1'", "f:4:12: gateway.instance: found 'g/1', expected a name"),
        (
            "instance = \"gw1\"",
            "instance = \"gw1\"\nproxy_protocol_from = [\"10.0.0.1\", \"10.0.0.5/24\"]",
            "f:5:36: gateway.proxy_protocol_from[2]: found \"10.0.0.5/24\", expected an address or a network",
        ),
        (
            "instance = \"gw1\"",
            "instance = \"gw1\"\nproxy_protocol_from = \"10.0.0.1\"",
            "f:5:23: gateway.proxy_protocol_from: found \"10.0.0.1\", expected a list [..] with each item an address",
        ),
        ("instance = \"gw1\"", "", "f:2:1: gateway.instance: found nothing, expected a name"),
        (
            "name = \"CMG.example.org\"",
            "name = \"a b\"",
            "f:3:8: gateway.name: found \"a b\", expected a host name",
        ),
        ("name = \"CMG.example.org\"", "name = \"a", "f:3:10: found invalid basic string, expected `\"`"),
        ("name = \"CMG.example.org\"", "instance = 1", "f:4:1: found duplicate key, expected valid TOML"),
        ("code = \"PS1\"", "code = \"ps1\"", "f:19:8: site[1].code: found \"ps1\", expected a site code"),
        (
            "\"8\", 9]",
            "\"9-8\"]",
            "f:20:52: site[1].role_ids[2]: found \"9-8\", expected a role id or a range",
        ),
        ("\"8\", 9]", "-1]", "f:20:52: site[1].role_ids[2]: found -1"),
        ("role_ids =", "role_id =", "site[1].role_ids: found nothing"),
        (
            "[[internal.listener]]",
            "[admin]",
            "internal.listener: found nothing, expected at least one [[internal.listener]]",
        ),
        ("[[site]]", "[site]", "f:18:1: site: found [site], expected a list of tables [[site]]"),
        ("[gateway]", "[[gateway]]", "gateway: found"),
        ("[internal]\n", "[internal]\nca = \"x\"\n", "f:"),
    ];
    for (right, wrong, expected) in table {
        let text = gateway_text();
        assert!(text.contains(right), "{right}");
        let errors = GatewaySettings::parse(&text.replacen(right, wrong, 1), "f").unwrap_err();
        assert!(errors.0.iter().any(|error| error.to_string().contains(expected)), "{wrong}: {errors}");
    }
    let addresses: Vec<_> = (0..65).map(|last| format!("\"10.0.0.{last}\"")).collect();
    let many = format!("instance = \"gw1\"\nproxy_protocol_from = [{}]", addresses.join(", "));
    let text = gateway_text().replacen("instance = \"gw1\"", &many, 1);
    let error = only(GatewaySettings::parse(&text, "f").unwrap_err());
    let expected =
        "f:5:23: gateway.proxy_protocol_from: found 65 addresses and networks, expected 64 at most";
    assert_eq!(error, expected);
    let text =
        format!("{}[admin]\naddress = \"0.0.0.0:9140\"\n[limits]\nidle_secs = \"a\"\n", gateway_text());
    let errors = GatewaySettings::parse(&text, "f").unwrap_err();
    assert_eq!(errors.0.len(), 2, "{errors}");
    assert_eq!(errors.to_string().lines().count(), 2);
}

#[test]
fn an_empty_file_lacks_everything_and_says_so() {
    for errors in [
        GatewaySettings::parse("", "f").map(|_| ()).unwrap_err(),
        ConnectorSettings::parse("", "f").map(|_| ()).unwrap_err(),
        SiteSettings::parse("", "f").map(|_| ()).unwrap_err(),
    ] {
        assert!(errors.0.len() >= 2 && errors.0.iter().all(|error| error.found == "nothing"), "{errors}");
    }
}

#[test]
fn a_connector_file_yields_its_settings() {
    let settings = ConnectorSettings::parse(CONNECTOR, "connector.toml").unwrap();
    assert_eq!((settings.identity.as_str(), settings.site.to_str()), ("1", Some("site.toml")));
    assert_eq!(settings.gateways[0].address.to_string(), "cmg.example.org:10140");
    assert_eq!(settings.gateways[0].name, "gw1.gateway.cmg.internal");
    assert_eq!(settings.limits, ConnectorLimits::default());
    let text = CONNECTOR.replace("cmg.example.org:10140", "[::1]:10140");
    assert_eq!(ConnectorSettings::parse(&text, "f").unwrap().gateways[0].address.to_string(), "[::1]:10140");
    for wrong in ["cmg.example.org", "cmg.example.org:", "::1:10140", "http://x:1", "x:0", "x:65536"] {
        let text = CONNECTOR.replace("cmg.example.org:10140", wrong);
        let error = only(ConnectorSettings::parse(&text, "f").unwrap_err());
        assert!(error.contains("gateway[1].address: found"), "{error}");
    }
}

/// One instance of a connector's.
fn instance(address: &str, more: &str) -> String {
    format!("[[gateway]]\naddress = \"{address}\"\nname = \"gw.x\"\n{more}\n")
}

/// A connector with these instances instead of its one.
fn connector_with(instances: &[String]) -> String {
    let (front, _) = CONNECTOR.split_once("[[gateway]]").unwrap();
    front.to_owned() + &instances.concat()
}

fn ways_by_https(text: &str) -> Vec<Vec<String>> {
    let settings = ConnectorSettings::parse(text, "f").unwrap();
    let shown = |gateway: &GatewayAddress| gateway.https.iter().map(ToString::to_string).collect();
    settings.gateways.iter().map(shown).collect()
}

#[test]
fn ways_by_https_follow_from_the_number_of_an_instance_unless_they_are_written() {
    assert_eq!(ways_by_https(CONNECTOR), [["cmg.example.org:443"]]);
    let two = [instance("cmg.x:10140", ""), instance("[::1]:10141", "")];
    assert_eq!(
        ways_by_https(&connector_with(&two)),
        [["cmg.x:10124", "cmg.x:443"], ["[::1]:10125", "[::1]:443"]]
    );
    // One balancer before all, and the last number.
    let two = [instance("cmg.x:10140", ""), instance("cmg.x:10155", "https = [\"other:1\"]")];
    assert_eq!(ways_by_https(&connector_with(&two)), [vec!["cmg.x:10124", "cmg.x:443"], vec!["other:1"]]);
    // Nothing follows from another port, and none may be wanted.
    let none: [Vec<String>; 2] = [vec![], vec![]];
    let two = [instance("cmg.x:10156", ""), instance("cmg.x:10141", "https = []")];
    assert_eq!(ways_by_https(&connector_with(&two)), none);
}

#[test]
fn beyond_sixteen_instances_ways_by_https_are_written_and_overlap_none() {
    let many = |more: &dyn Fn(u16) -> String| -> Vec<String> {
        (0..17_u16).map(|k| instance(&format!("cmg.x:{}", 10_140 + k), &more(k))).collect()
    };
    let errors = ConnectorSettings::parse(&connector_with(&many(&|_| String::new())), "f").unwrap_err();
    assert_eq!(errors.0.len(), 17, "{errors}");
    assert!(errors.0.iter().all(|error| error.key.ends_with(".https")), "{errors}");
    let written = many(&|k| format!("https = [\"cmg.x:{}\", \"cmg.x:443\"]", 11_140 + k));
    assert_eq!(ways_by_https(&connector_with(&written)).len(), 17);
    // The numbers of HTTPS go on where those of TCP-TLS begin.
    let counted = many(&|k| format!("https = [\"cmg.x:{}\"]", 10_124 + k));
    let error = only(ConnectorSettings::parse(&connector_with(&counted), "f").unwrap_err());
    let expected = "gateway[17].https: found \"cmg.x:10140\", which gateway[1].address is already";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn an_address_leads_to_one_instance_in_one_way() {
    for (one, other, found) in [
        (
            "",
            "https = [\"a:10140\"]",
            "gateway[2].https: found \"a:10140\", which gateway[1].address is already",
        ),
        (
            "https = [\"c:1\"]",
            "https = [\"c:1\"]",
            "gateway[2].https: found \"c:1\", which gateway[1].https is",
        ),
        (
            "https = [\"b:10141\"]",
            "",
            "gateway[2].address: found \"b:10141\", which gateway[1].https is already",
        ),
        (
            "https = [\"c:443\", \"c:443\"]",
            "",
            "gateway[1].https: found \"c:443\", which gateway[1].https is",
        ),
    ] {
        let text = connector_with(&[instance("a:10140", one), instance("b:10141", other)]);
        let error = only(ConnectorSettings::parse(&text, "f").unwrap_err());
        assert!(error.contains(found), "{error}");
    }
    let text =
        connector_with(&[instance("a:1", "https = [\"c:443\"]"), instance("b:1", "https = [\"c:443\"]")]);
    assert!(ConnectorSettings::parse(&text, "f").is_ok(), "a balancer");
    let text = connector_with(&[instance("a:1", "https = [\"c:1\", \"c:2\", \"c:3\", \"c:4\", \"c:5\"]")]);
    assert!(only(ConnectorSettings::parse(&text, "f").unwrap_err()).contains("4 addresses at most"));
}

#[test]
fn a_proxy_has_an_address_and_a_user_with_a_password_or_neither() {
    let read = |section: &str| ConnectorSettings::parse(&format!("{CONNECTOR}[proxy]\n{section}"), "f");
    assert_eq!(ConnectorSettings::parse(CONNECTOR, "f").unwrap().proxy, None);
    let proxy = read("address = \"Proxy.corp:3128\"").unwrap().proxy.unwrap();
    assert_eq!((proxy.address.to_string().as_str(), proxy.credentials), ("proxy.corp:3128", None));
    let whole = "address = \"p:3128\"\nuser = \"cmg\"\npassword_file = \"p.txt\"";
    let credentials = read(whole).unwrap().proxy.unwrap().credentials;
    assert_eq!(credentials, Some(("cmg".to_owned(), "p.txt".into())));
    for (section, found) in [
        ("", "proxy.address: found nothing"),
        ("address = \"http://p:3128\"", "proxy.address: found"),
        ("address = \"p:3128\"\nuser = \"cmg\"", "proxy.password_file: found nothing"),
        ("address = \"p:3128\"\npassword_file = \"p.txt\"", "proxy.user: found nothing"),
        ("address = \"p:3128\"\nuser = \"a:b\"\npassword_file = \"p\"", "a user's name without a colon"),
        ("address = \"p:3128\"\npassword = \"x\"", "proxy.password: found an unknown key"),
    ] {
        let error = only(read(section).unwrap_err());
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn a_site_file_yields_roles_endpoints_and_origins() {
    let site = SiteSettings::parse(SITE, "site.toml").unwrap();
    assert_eq!((site.code.as_str(), site.serial, site.roles.len(), site.origins.len()), ("PS1", 3, 4, 3));
    let role = |id| site.roles.iter().find(|role| role.id == id).unwrap();
    let paths = |id| role(id).endpoints.iter().map(|one| one.endpoint.path.as_str()).collect::<Vec<_>>();
    assert!(!paths(72_057_594_037_927_941).contains(&"BGB"));
    assert_eq!(paths(u64::MAX).len(), 11);
    assert_eq!(paths(8), ["ClientWebService", "SimpleAuthWebService", "ReportingWebService", "SelfUpdate"]);
    let group = &site.groups[role(u64::MAX).endpoints[0].group];
    assert!(!group.is_probed, "one alone, and nothing is said of probes");
    let [second] = group.origins.as_slice() else { panic!("{group:?}") };
    let second = &site.origins[*second];
    assert_eq!((second.connections_max, second.address.authority().as_str()), (5, "mp2.corp:8443"));
    assert!(
        matches!(second.trust, OriginTrust::Thumbprint(sha256) if sha256[1] == 0x11 && sha256[31] == 0xff)
    );
    assert!(
        role(u64::MAX)
            .endpoints
            .iter()
            .all(|one| one.endpoint.forward_identity && one.endpoint.request_length_max == 10)
    );
    assert_eq!(role(9).kind, RoleKind::Own);
    let own = &role(9).endpoints[0];
    assert!(own.endpoint.forward_identity && own.endpoint.once && own.replaces_path && own.prefix == "/base");
    assert_eq!(own.group, role(72_057_594_037_927_941).endpoints[0].group, "one origin, one pool");
    let other = &role(9).endpoints[1].endpoint;
    assert!(!other.forward_identity && !other.tunnel && other.methods.is_empty());
}

#[test]
fn several_servers_for_one_role_stand_for_one_another() {
    let urls = "url = [\"http://mp.corp\", \"http://mp-b.corp:8080\"]";
    let text = SITE.replacen("url = \"http://mp.corp\"", urls, 1);
    let site = SiteSettings::parse(&text, "site.toml").unwrap();
    let role = |id| site.roles.iter().find(|role| role.id == id).unwrap();
    let names = |mapped: &crate::mapping::MappedEndpoint| {
        let origins = site.groups[mapped.group].origins.iter();
        origins.map(|origin| site.origins[*origin].address.authority()).collect::<Vec<_>>()
    };
    let of_role = &role(72_057_594_037_927_941).endpoints;
    assert!(of_role.iter().all(|mapped| names(mapped) == ["mp.corp", "mp-b.corp:8080"]));
    assert!(site.groups[of_role[0].group].is_probed);
    // An endpoint that leads to one of them shares its connections.
    let own = &role(9).endpoints[0];
    assert_eq!((names(own), own.prefix.as_str()), (vec!["mp.corp".to_owned()], "/base"));
    assert!(!site.groups[own.group].is_probed);
    assert_eq!(site.groups[own.group].origins[0], site.groups[of_role[0].group].origins[0]);
    assert_eq!(site.origins.len(), 4);
    // One in a list is one.
    let text = SITE.replacen("url = \"http://mp.corp\"", "url = [\"http://mp.corp\"]", 1);
    assert_eq!(SiteSettings::parse(&text, "f").unwrap(), SiteSettings::parse(SITE, "f").unwrap());
    let many: Vec<String> = (0..17).map(|number| format!("\"http://mp{number}\"")).collect();
    let text = SITE.replacen("url = \"http://mp.corp\"", &format!("url = [{}]", many.join(", ")), 1);
    let error = only(SiteSettings::parse(&text, "f").unwrap_err());
    assert!(error.ends_with("management_point[1].url: found 17 URLs, expected 16 at most"), "{error}");
}

#[test]
fn each_server_has_its_thumbprint_or_all_have_one() {
    let thumbprint = |octet: &str| format!("\"{}\"", octet.repeat(32));
    let read = |thumbprints: &[&str]| {
        let list: Vec<String> = thumbprints.iter().map(|octet| thumbprint(octet)).collect();
        SiteSettings::parse(
            &format!(
                "code = \"PS1\"\nserial = 1\n[[management_point]]\nid = 8\nurl = [\"https://a\", \"https://b\"]\n\
                 thumbprint_sha256 = [{}]\n",
                list.join(", ")
            ),
            "f",
        )
    };
    let trusts = |site: SiteSettings| site.origins.into_iter().map(|origin| origin.trust).collect::<Vec<_>>();
    let [a, b] = [0xaa, 0xbb].map(|octet| OriginTrust::Thumbprint([octet; 32]));
    assert_eq!(trusts(read(&["aa", "bb"]).unwrap()), [a.clone(), b]);
    assert_eq!(trusts(read(&["aa"]).unwrap()), [a.clone(), a]);
    let error = only(read(&["aa", "bb", "cc"]).unwrap_err());
    let expected =
        "management_point[1].thumbprint_sha256: found 3 thumbprints for 2 URLs, expected one for all";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn how_health_is_found_out_can_be_written() {
    let text = "url = \"http://mp.corp\"\nhealth = { path = \"/SMS_MP/.sms_aut?MPLIST\", every_secs = 9, failures = 1 }";
    let site = SiteSettings::parse(&SITE.replacen("url = \"http://mp.corp\"", text, 1), "f").unwrap();
    let HealthSettings { path, every, failures, successes, .. } = site.origins[0].health.clone();
    assert_eq!(path.as_deref(), Some("/SMS_MP/.sms_aut?MPLIST"));
    assert_eq!(
        (every, failures, successes),
        (Duration::from_secs(9), 1, HealthSettings::default().successes)
    );
    assert!(site.groups[0].is_probed, "also where there is one alone");
}

/// The token service puts it before what the issuer calls a device.
#[test]
fn an_issuer_is_not_called_what_the_token_service_calls_devices_by() {
    let read = |name: &str| {
        let issuer = format!(
            "[[token_issuer]]\nname = \"{name}\"\nissuer = \"urn:x\"\naudiences = [\"a\"]\nkinds = [\"ccm\"]\n\
             keys = [\"keys.json\"]\n"
        );
        SiteSettings::parse(&format!("{SITE}{issuer}"), "f")
    };
    assert!(read("corp").is_ok());
    for name in ["GUID", "guid", "Sha256", "a:b"] {
        let error = only(read(name).err().unwrap());
        assert!(
            error.contains(&format!("token_issuer[1].name: found \"{name}\", expected a name")),
            "{error}"
        );
    }
}

#[test]
fn an_endpoint_for_tunnels_is_one_whose_requests_are_held() {
    let text = SITE.replace("tunnel = false", "tunnel = true");
    let settings = SiteSettings::parse(&text, "site.toml").unwrap();
    let role = settings.roles.iter().find(|role| role.id == 9).unwrap();
    let Endpoint { tunnel, held, once, .. } = role.endpoints[1].endpoint;
    assert!(tunnel && held && once);
}

#[test]
fn held_requests_may_wait_for_longer_than_a_client_is_silent() {
    let least = crate::limits::HELD_WITHIN_MIN.as_secs();
    let text = gateway_text();
    for (held, is_taken) in [(900, false), (least - 1, false), (least, true), (86_400, true), (86_401, false)]
    {
        let text = format!("{text}\n[limits]\nheld_secs = {held}\n");
        let read = GatewaySettings::parse(&text, "gateway.toml");
        assert_eq!(read.is_ok(), is_taken, "{held}");
        if let Err(errors) = read {
            assert!(errors.to_string().contains(&format!("whole seconds from {least} to 86400")), "{errors}");
        }
    }
}

#[test]
fn limits_bound_requests_of_all_and_of_each() {
    let read = |limits: &str| {
        let text = SITE.replace("tunnel = false", &format!("limits = {limits}"));
        let settings = SiteSettings::parse(&text, "f").map_err(|errors| errors.to_string())?;
        let role = settings.roles.iter().find(|role| role.id == 9).unwrap();
        Ok::<_, String>(role.endpoints[1].endpoint.bounds)
    };
    let bounds =
        read("{ requests_max = 100, rate = \"20/s\", client_rate = \"100/h\", client_burst = 7 }").unwrap();
    assert_eq!(bounds.all.requests_max.unwrap().get(), 100);
    assert_eq!(bounds.all.rate.unwrap().to_string(), "20/s with a burst of 200");
    assert_eq!(bounds.each.rate.unwrap().to_string(), "100/h with a burst of 7");
    assert_eq!(bounds.each.requests_max, None);
    assert_eq!(read("{ rate = \"1/min\" }").unwrap().all.rate.unwrap().burst.get(), 50);
    assert_eq!(read("{ rate = \"1000000/s\" }").unwrap().all.rate.unwrap().burst.get(), 1_000_000);
    for (limits, expected) in [
        ("{ rate = \"0/s\" }", "limits.rate: found \"0/s\", expected requests per time"),
        ("{ rate = \"1000001/s\" }", "limits.rate: found"),
        ("{ rate = \"20/S\" }", "limits.rate: found"),
        ("{ rate = \"20\" }", "limits.rate: found"),
        ("{ rate = \"-1/s\" }", "limits.rate: found"),
        ("{ rate = \"1.5/s\" }", "limits.rate: found"),
        ("{ rate = 20 }", "limits.rate: found"),
        ("{ burst = 20 }", "limits.burst: found a burst without rate, expected rate beside it"),
        ("{ client_burst = 20 }", "limits.client_burst: found a burst without client_rate"),
        ("{ rate = \"1/s\", burst = 0 }", "limits.burst: found 0, expected a whole number from 1 to 1000000"),
        ("{ requests_max = 0 }", "limits.requests_max: found 0"),
        ("{ requests_max = 10000001 }", "limits.requests_max: found"),
        ("{ each = 1 }", "limits.each: found an unknown key"),
        ("5", "limits: found 5"),
    ] {
        let found = read(limits).unwrap_err();
        assert!(found.contains(expected), "{limits}: {found}");
    }
}

#[test]
fn published_endpoints_without_bounds_are_those_of_before() {
    let mut published = SiteSettings::parse(SITE, "f").unwrap().publish(PublishedTrust::default());
    let text = String::from_utf8(published.to_bytes()).unwrap();
    assert!(!text.contains("bounds"), "{text}");
    let endpoint = &mut published.roles[0].endpoints[0];
    endpoint.bounds.each.requests_max = std::num::NonZeroU32::new(5);
    let read = PublishedSettings::from_bytes(&published.to_bytes()).unwrap();
    assert_eq!(read, published);
    let endpoint = &mut published.roles[0].endpoints[0];
    endpoint.bounds.each.requests_max = std::num::NonZeroU32::new(u32::MAX);
    let error = PublishedSettings::from_bytes(&published.to_bytes()).unwrap_err().to_string();
    assert!(error.contains("bounds beyond what settings can name"), "{error}");
    assert_eq!(published.check().unwrap_err().to_string(), error);
}

#[test]
fn every_mistake_of_a_site_file_is_told() {
    let table = [
        (
            "exclude = [\"bgb\"]",
            "exclude = [\"bg\"]",
            "management_point[1].exclude[1]: found \"bg\", expected one of CCM_System, ",
        ),
        ("exclude = [\"bgb\"]", "content = true", "management_point[1].content: found an unknown key"),
        ("id = 72057594037927941", "id = 8", "software_update_point[1].id: found role 8 again"),
        ("id = 72057594037927941", "id = 1.5", "management_point[1].id: found 1.5, expected a role id"),
        ("id = 72057594037927941", "id = 18446744073709551616", "f:"),
        (
            "url = \"http://mp.corp\"",
            "url = \"https://mp.corp\"",
            "management_point[1].ca: found neither, expected ca",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = \"http://mp.corp\"\nca = \"x\"",
            "management_point[1].ca: found TLS for an http URL",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = \"mp.corp\"",
            "management_point[1].url: found \"mp.corp\", expected a URL",
        ),
        ("url = \"http://mp.corp\"", "url = \"http://mp.corp/a/../b\"", "management_point[1].url: found"),
        (
            "url = \"http://mp.corp\"",
            "url = []",
            "management_point[1].url: found an empty list, expected a URL",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = [\"http://mp.corp\", \"mp2\"]",
            "management_point[1].url[2]: found \"mp2\", expected a URL like",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = [\"http://mp.corp\", \"http://MP.corp:80/\"]",
            "management_point[1].url: found http://mp.corp twice, expected each server once",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = [\"http://mp.corp\", \"https://mp2.corp\"]",
            "management_point[1].url: found https://mp2.corp beside http://mp.corp, expected URLs of one scheme",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = [\"http://mp.corp\", \"http://mp2.corp/x\"]",
            "management_point[1].url: found http://mp2.corp/x beside http://mp.corp, expected URLs of one",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = \"http://mp.corp\"\nhealth = { every_secs = 0 }",
            "management_point[1].health.every_secs: found 0, expected whole seconds from 1 to 3600",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = \"http://mp.corp\"\nhealth = { path = \"x\" }",
            "management_point[1].health.path: found \"x\", expected a path like",
        ),
        (
            "url = \"http://mp.corp\"",
            "url = \"http://mp.corp\"\nhealth = { paths = \"/x\" }",
            "management_point[1].health.paths: found an unknown key, expected \"path\"",
        ),
        ("key = \"mp.key\"", "", "management_point[2]: found half a pair"),
        (
            "key = \"mp.key\"",
            "key = \"mp.key\"\n[management_point.token_service]\nurl = \"http://sts\"",
            "management_point[2].token_service.certificate: found nothing, expected an https URL",
        ),
        (
            "key = \"mp.key\"",
            "key = \"mp.key\"\n[management_point.token_service]\nurl = \"https://sts\"\nca = \"ca.pem\"",
            "management_point[2].token_service.certificate: found nothing, expected an https URL",
        ),
        (
            "key = \"mp.key\"",
            "key = \"mp.key\"\nexclude = [\"CCM_STS\"]\n[management_point.token_service]\n\
             url = \"https://sts\"\nca = \"ca.pem\"\ncertificate = \"c\"\nkey = \"k\"",
            "management_point[2].token_service: found a token service, expected no such section",
        ),
        (
            "key = \"mp.key\"",
            "key = \"mp.key\"\ntoken_service = 1",
            "management_point[2].token_service: found 1, expected a table",
        ),
        ("key = \"mp.key\"", "key = \"mp.key\"\nca = \"ca.pem\"", "management_point[2].ca: found both"),
        (
            "thumbprint_sha256 = \"00",
            "thumbprint_sha256 = \"0",
            "management_point[2].thumbprint_sha256: found",
        ),
        ("families = [\"server_auth\"]", "", "endpoint[2].path: found \"reports\" again"),
        ("families = [\"server_auth\"]", "families = []", "endpoint[2].families: found no family"),
        (
            "families = [\"server_auth\"]",
            "families = [\"Server\"]",
            "endpoint[2].families[1]: found \"Server\", expected \"mutual_auth\" or",
        ),
        ("methods = [\"GET\", \"REPORT\"]", "methods = [\"GE T\"]", "endpoint[1].methods[1]: found \"GE T\""),
        (
            "methods = [\"GET\", \"REPORT\"]",
            "methods = \"GET\"",
            "endpoint[1].methods: found \"GET\", expected a list",
        ),
        (
            "id = 9\npath = \"/reports/\"",
            "id = 8\npath = \"CLIENTWebService\"",
            "endpoint[1].path: found \"CLIENTWebService\" again",
        ),
        (
            "path = \"/reports/\"",
            "path = \"/a/../b\"",
            "endpoint[1].path: found \"/a/../b\", expected a path",
        ),
        (
            "tunnel = false",
            "tunnel = \"websocket\"",
            "endpoint[2].tunnel: found \"websocket\", expected true or false",
        ),
        ("serial = 3", "serial = 0", "f:3:10: serial: found 0, expected a whole number from 1"),
        ("connections_max = 5", "connections_max = 5000", "management_point[2].connections_max: found 5000"),
    ];
    for (right, wrong, expected) in table {
        assert!(SITE.contains(right), "{right}");
        let errors = SiteSettings::parse(&SITE.replacen(right, wrong, 1), "f").unwrap_err();
        assert!(errors.0.iter().any(|error| error.to_string().contains(expected)), "{wrong}: {errors}");
    }
}

#[test]
fn a_token_service_answers_its_endpoint_and_no_other() {
    let section = "connections_max = 5\n[management_point.token_service]\nurl = \"https://sts:9443\"\n\
                   ca = \"ca.pem\"\ncertificate = \"c\"\nkey = \"k\"\n";
    let usual = SiteSettings::parse(SITE, "f").unwrap();
    let site = SiteSettings::parse(&SITE.replacen("connections_max = 5\n", section, 1), "f").unwrap();
    let mut found = Vec::new();
    for (role, before) in site.roles.iter().zip(&usual.roles) {
        for (mapped, before) in role.endpoints.iter().zip(&before.endpoints) {
            if site.origins[site.groups[mapped.group].origins[0]].address.authority() == "sts:9443" {
                found.push((role.id, mapped.endpoint.path.as_str()));
                assert!(mapped.endpoint.forward_identity && mapped.forwards_token);
                assert_eq!(mapped.endpoint.tokens, before.endpoint.tokens);
            } else {
                assert_eq!(mapped.endpoint, before.endpoint);
            }
        }
    }
    assert_eq!(found, [(u64::MAX, "CCM_STS")]);
}

#[test]
fn what_is_published_comes_back_and_the_gateway_finds_by_it() {
    let site = SiteSettings::parse(SITE, "f").unwrap();
    let trust = PublishedTrust { roots: vec![vec![1, 2, 255]], ..PublishedTrust::default() };
    let published = site.publish(trust);
    published.check().unwrap();
    let bytes = published.to_bytes();
    let read = PublishedSettings::from_bytes(&bytes).unwrap();
    assert_eq!(read, published);
    let allowed = RoleIds::all();
    let (table, conflicts) =
        PublishedTable::new([Publication { site: 0, roles: &read.roles, allowed: &allowed }]);
    assert!(conflicts.is_empty());
    let mapping = site.url_mapping();
    for target in
        ["/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request", "/CCM_Proxy_ServerAuth/9/reports/x"]
    {
        let found = table.find(target.as_bytes()).unwrap();
        let Found::Endpoint { endpoint, family, .. } = found else { panic!("{found:?}") };
        assert_eq!(mapping.map(target.as_bytes()).unwrap().endpoint, endpoint);
        assert_eq!(family == Family::ServerAuth, target.contains("Server"));
    }
}

#[test]
fn a_publication_that_no_site_would_make_is_refused() {
    let right = String::from_utf8(
        SiteSettings::parse(SITE, "f").unwrap().publish(PublishedTrust::default()).to_bytes(),
    )
    .unwrap();
    let table = [
        ("\"site\":\"PS1\"", "\"site\":\"ps1\"", "is no site code"),
        ("\"site\":\"PS1\"", "\"site\":\"PS1\",\"more\":1", "cannot be read"),
        ("\"id\":8,", "\"id\":9,", "role 9 is named twice"),
        ("\"id\":8,", "\"id\":-8,", "cannot be read"),
        ("\"id\":8,", "\"id\":8.0,", "cannot be read"),
        ("\"path\":\"SelfUpdate\"", "\"path\":\"clientwebservice\"", "named twice"),
        ("\"path\":\"SelfUpdate\"", "\"path\":\"../x\"", "cannot be read"),
        (
            "\"path\":\"reports\",\"families\":[\"mutual_auth\"]",
            "\"path\":\"reports\",\"families\":[]",
            "without a family",
        ),
        ("\"GET\"", "\"GE T\"", "cannot be read"),
        ("\"roots\":[]", "\"roots\":[\"!\"]", "cannot be read"),
        ("\"once\":true,", "", "cannot be read"),
    ];
    for (from, to, expected) in table {
        assert!(right.contains(from), "{from} in {right}");
        let error = PublishedSettings::from_bytes(right.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    let long = vec![b' '; SETTINGS_SIZE_MAX + 1];
    assert_eq!(PublishedSettings::from_bytes(&long), Err(PublicationError::TooLong(SETTINGS_SIZE_MAX + 1)));
}

#[test]
fn a_revision_takes_over_only_with_a_higher_serial_of_the_same_site() {
    let site = SiteSettings::parse(SITE, "f").unwrap();
    let mut settings = site.publish(PublishedTrust::default());
    let revision = |settings: &PublishedSettings| Revision::of(settings, &settings.to_bytes());
    let in_force = revision(&settings);
    assert_eq!(in_force.judge(&in_force), Standing::Same);
    settings.roles.pop();
    assert_eq!(in_force.judge(&revision(&settings)), Standing::Diverged);
    settings.serial = 4;
    assert_eq!(in_force.judge(&revision(&settings)), Standing::Newer);
    settings.serial = 2;
    assert_eq!(in_force.judge(&revision(&settings)), Standing::Older);
    settings.site = "PS2".to_owned();
    assert_eq!(in_force.judge(&revision(&settings)), Standing::Foreign);
}

#[test]
fn of_very_many_mistakes_the_first_are_told() {
    let text = "[[listener]]\naddress = \"x\"\n".repeat(20_000);
    let errors = GatewaySettings::parse(&text, "f").unwrap_err().0;
    assert_eq!(errors.len(), 101);
    assert_eq!(errors.last().unwrap().found, "more mistakes");
    assert!(errors.iter().all(|error| error.line > 0));
}

#[test]
fn seeded_files_are_read_or_refused_with_a_place() {
    crate::seeded::run("settings", 1_500, fuzz::files);
}

#[test]
fn seeded_publications_survive_being_written_and_read() {
    crate::seeded::run("publication", 4_000, fuzz::publication);
}

#[test]
fn mutilated_files_are_refused_with_a_place_and_never_a_panic() {
    let published = SiteSettings::parse(SITE, "f").unwrap().publish(PublishedTrust::default()).to_bytes();
    let mut seed = 7_u64;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let texts =
        [gateway_text().into_bytes(), CONNECTOR.as_bytes().to_vec(), SITE.as_bytes().to_vec(), published];
    for _ in 0..2_000 {
        let mut bytes = texts[next(texts.len())].clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => drop(bytes.drain(at..(at + next(30)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                bytes.push(b'[');
            }
        }
        fuzz::files(&bytes);
        fuzz::publication(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]a-z=\"{}.,#\\n0-9é]{0,80}") {
        fuzz::files(text.as_bytes());
    }
}

#[test]
fn revocation_is_hard_where_it_is_written_and_off_where_it_is_not() {
    let site = |text: &str| SiteSettings::parse(&format!("code = \"PS1\"\nserial = 1\n{text}"), "f");
    let off = site("").unwrap().revocation;
    assert_eq!((off.mode, off.grace, off.refresh), (RevocationMode::Off, Duration::ZERO, LIST_FETCH_EVERY));
    let hard = site("[revocation]\ncrls = [\"a.crl\", \"HTTP://pki/b.crl\"]\ngrace_secs = 60\n").unwrap();
    assert_eq!(hard.revocation.mode, RevocationMode::Hard);
    let sources = [ListSource::File("a.crl".into()), ListSource::Url("HTTP://pki/b.crl".into())];
    assert_eq!(hard.revocation.crls, sources);
    let published = hard.publish(PublishedTrust::default()).revocation;
    assert_eq!(published, PublishedRevocation { mode: RevocationMode::Hard, grace_secs: 60 });
    let wrong = [
        ("[revocation]\n", "every client is refused"),
        ("[revocation]\nmode = \"maybe\"\ncrls = [\"a\"]\n", "\"hard\", \"soft\" or \"off\""),
        ("[revocation]\ncrls = [\"ldap://dc/cn=ca\"]\n", "LDAP is not spoken"),
        ("[revocation]\ncrls = [\"https://pki/a.crl\"]\n", "lists are signed"),
        ("[revocation]\nmode = \"soft\"\ngrace_secs = -1\n", "whole seconds from 0 to 2592000"),
        ("[trust]\nsubjects = [\"Contoso\"]\n", "attributes of a name"),
        ("[trust]\nnames = [\"a.*.corp\"]\n", "an alternative name"),
    ];
    for (text, expected) in wrong {
        let error = site(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_says_nothing_of_revocation_is_published_as_before() {
    let site = SiteSettings::parse("code = \"PS1\"\nserial = 1\n", "f").unwrap();
    let published = String::from_utf8(site.publish(PublishedTrust::default()).to_bytes()).unwrap();
    let expected =
        "{\"site\":\"PS1\",\"serial\":1,\"roles\":[],\"trust\":{\"roots\":[],\"intermediates\":[]}}";
    assert_eq!(published, expected, "gateways of before take it");
}
