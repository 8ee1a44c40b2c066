//! One table of mistakes: each keeps its role from starting, with a message that names file, line, key,
//! what was found and what was expected, and `cmg check` has the same message.

use std::fs;

use crate::files::*;

/// What is done to good settings, and how the message must read.
struct Mistake {
    role: &'static str,
    what: &'static str,
    make: fn(&Files),
    /// File, and text of the line the message must name.
    at: (&'static str, &'static str),
    key: &'static str,
    found: &'static str,
    expected: &'static str,
}

const fn row(
    role: &'static str,
    what: &'static str,
    make: fn(&Files),
    at: (&'static str, &'static str),
    key: &'static str,
    found: &'static str,
    expected: &'static str,
) -> Mistake {
    Mistake { role, what, make, at, key, found, expected }
}
const PROXY: &str = "[proxy]\naddress = \"127.0.0.1:3128\"\nuser = \"u\"\npassword_file = \"p.txt\"\n[admin]";

fn mistakes() -> Vec<Mistake> {
    vec![
        // Text.
        row(
            "gateway",
            "unknown key",
            |f| f.edit(GATEWAY, "state_dir", "state_dri"),
            (GATEWAY, "state_dri"),
            "gateway.state_dri",
            "an unknown key",
            "\"state_dir\"",
        ),
        row(
            "gateway",
            "wrong type",
            |f| f.edit(GATEWAY, "shards = 1", "shards = \"1\""),
            (GATEWAY, "shards"),
            "gateway.shards",
            "\"1\"",
            "a whole number",
        ),
        row("gateway", "no TOML", |f| f.edit(GATEWAY, "[admin]", "[admin"), (GATEWAY, "[admin"), "", "", ""),
        row(
            "connector",
            "unknown section",
            |f| f.edit(CONNECTOR, "[[gateway]]", "[[gatway]]"),
            (CONNECTOR, "[[gatway]]"),
            "gatway",
            "an unknown key",
            "\"gateway\"",
        ),
        row(
            "connector",
            "wrong type in the site",
            |f| f.edit(SITE, "serial = 1", "serial = \"one\""),
            (SITE, "serial"),
            "serial",
            "\"one\"",
            "a whole number",
        ),
        row(
            "connector",
            "unknown key in the site",
            |f| f.edit(SITE, "roots", "root"),
            (SITE, "root ="),
            "trust.root",
            "an unknown key",
            "\"roots\"",
        ),
        row(
            "gateway",
            "key of the internal authority",
            |f| {
                let key = fs::read_to_string(f.path("pki/internal-ca.key")).unwrap();
                let whole = fs::read_to_string(f.path("pki/internal-ca.pem")).unwrap() + &key;
                fs::write(f.path("pki/internal-ca.pem"), whole).unwrap();
            },
            (GATEWAY, "internal-ca.pem"),
            "internal.ca",
            "which holds it",
            "no key of the internal authority",
        ),
        row(
            "connector",
            "issuer without a port",
            |f| f.edit(CONNECTOR, "[internal]\n", "[internal]\nissuer = \"issuer.corp\"\n"),
            (CONNECTOR, "issuer.corp"),
            "internal.issuer",
            "\"issuer.corp\"",
            "port",
        ),
        // Missing files.
        row(
            "gateway",
            "missing certificate",
            |f| fs::remove_file(f.path("pki/server/cmg.test.pem")).unwrap(),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "no such file",
            "a PEM file",
        ),
        row(
            "gateway",
            "missing key",
            |f| fs::remove_file(f.path("pki/server/cmg.test.key")).unwrap(),
            (GATEWAY, "server/cmg.test.key"),
            "server_certificate[1].key",
            "no such file",
            "a private key",
        ),
        row(
            "gateway",
            "missing internal CA",
            |f| fs::remove_file(f.path("pki/internal-ca.pem")).unwrap(),
            (GATEWAY, "ca ="),
            "internal.ca",
            "no such file",
            "a PEM file",
        ),
        row(
            "gateway",
            "missing ticket keys",
            |f| f.edit(GATEWAY, "state_dir", "ticket_keys = \"t.key\"\nstate_dir"),
            (GATEWAY, "ticket_keys"),
            "gateway.ticket_keys",
            "no such file",
            "32 random octets",
        ),
        row(
            "gateway",
            "a folder for a file",
            |f| f.edit(GATEWAY, "pki/internal-ca.pem", "pki"),
            (GATEWAY, "ca ="),
            "internal.ca",
            "a folder",
            "a PEM file",
        ),
        row(
            "connector",
            "missing site",
            |f| fs::remove_file(f.path(SITE)).unwrap(),
            (CONNECTOR, "site ="),
            "connector.site",
            "no such file",
            "site.toml",
        ),
        row(
            "connector",
            "missing root",
            |f| f.edit(SITE, "pki/ca.pem", "pki/none.pem"),
            (SITE, "roots"),
            "trust.roots[1]",
            "no such file",
            "a PEM file",
        ),
        row(
            "connector",
            "missing origin CA",
            |f| f.edit(SITE, "ca = \"pki/ca.pem\"", "ca = \"no.pem\""),
            (SITE, "no.pem"),
            "software_update_point[1].ca",
            "no such file",
            "a PEM file",
        ),
        // What is no PEM.
        row(
            "gateway",
            "text for a certificate",
            |f| f.write("pki/server/cmg.test.pem", "hello"),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "not PEM",
            "BEGIN CERTIFICATE",
        ),
        row(
            "gateway",
            "empty certificate",
            |f| f.write("pki/server/cmg.test.pem", ""),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "an empty file",
            "BEGIN CERTIFICATE",
        ),
        row(
            "gateway",
            "binary certificate",
            |f| fs::write(f.path("pki/server/cmg.test.pem"), [0x30, 0x82]).unwrap(),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "binary (DER or PKCS#12)",
            "PEM",
        ),
        row(
            "gateway",
            "cut PEM",
            |f| {
                let whole = fs::read_to_string(f.path("pki/server/cmg.test.pem")).unwrap();
                f.write("pki/server/cmg.test.pem", &whole[..whole.len() / 2]);
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "without its -----END",
            "PEM",
        ),
        row(
            "gateway",
            "PEM of nonsense",
            |f| {
                let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
                f.write("pki/server/cmg.test.pem", nonsense);
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "cannot be read as X.509",
            "version 3",
        ),
        row(
            "gateway",
            "files swapped",
            |f| {
                f.edit(GATEWAY, "server/cmg.test.pem", "server/X");
                f.edit(GATEWAY, "server/cmg.test.key", "server/cmg.test.pem");
                f.edit(GATEWAY, "server/X", "server/cmg.test.key");
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "no certificate, but a private key",
            "PEM",
        ),
        row(
            "gateway",
            "key under a passphrase",
            |f| {
                let text =
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
                f.write("pki/server/cmg.test.key", text);
            },
            (GATEWAY, "server/cmg.test.key"),
            "server_certificate[1].key",
            "under a passphrase",
            "openssl pkey",
        ),
        row(
            "connector",
            "damaged root",
            |f| f.write("pki/ca.pem", "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n"),
            (SITE, "roots"),
            "trust.roots[1]",
            "no base64",
            "PEM",
        ),
        row(
            "gateway",
            "short ticket secret",
            |f| {
                f.edit(GATEWAY, "state_dir", "ticket_keys = \"t.key\"\nstate_dir");
                f.write("t.key", "short");
            },
            (GATEWAY, "ticket_keys"),
            "gateway.ticket_keys",
            "5 octets",
            "64 hexadecimal",
        ),
        // What does not belong together.
        row(
            "gateway",
            "key of another certificate",
            |f| f.edit(GATEWAY, "server/cmg.test.key", "server/other.test.key"),
            (GATEWAY, "other.test.key"),
            "server_certificate[1].key",
            "does not belong to the certificate",
            "the private key of CN=cmg.test",
        ),
        row(
            "connector",
            "internal key of another",
            |f| f.edit(CONNECTOR, "connector-PS1-1.key", "connector-PS2-1.key"),
            (CONNECTOR, "PS2-1.key"),
            "internal.key",
            "does not belong",
            "connector 1 of PS1",
        ),
        row(
            "gateway",
            "certificate of another name",
            |f| {
                f.edit(GATEWAY, "server/cmg.test.pem", "server/other.test.pem");
                f.edit(GATEWAY, "server/cmg.test.key", "server/other.test.key");
            },
            (GATEWAY, "other.test.pem"),
            "server_certificate[1].chain",
            "bears other.test",
            "\"cmg.test\"",
        ),
        row(
            "gateway",
            "wildcard too short",
            |f| {
                issue(f, "wild", "ca", &[dns("*.test")], (2020, 2090));
                f.edit(GATEWAY, "cmg.test", "a.b.test");
                show_server(f, "wild");
            },
            (GATEWAY, "wild.pem"),
            "server_certificate[1].chain",
            "bears *.test",
            "one label",
        ),
        row(
            "gateway",
            "internal certificate of another instance",
            |f| show_internal(f, "gateway", "pki/internal/gateway-gw2"),
            (GATEWAY, "gateway-gw2.pem"),
            "internal.certificate",
            "cmg://gateway/gw2",
            "cmg://gateway/gw1",
        ),
        row(
            "gateway",
            "internal certificate of the site's CA",
            |f| {
                let names = [uri("cmg://gateway/gw1"), dns("gw1.gateway.cmg.internal")];
                issue(f, "strange", "ca", &names, (2020, 2090));
                show_internal(f, "gateway", "strange");
            },
            (GATEWAY, "strange.pem"),
            "internal.certificate",
            "issued by CN=cmg site CA",
            "signed by the internal CA",
        ),
        row(
            "gateway",
            "a client's certificate as internal one",
            |f| show_internal(f, "gateway", "pki/clients/client"),
            (GATEWAY, "client.pem"),
            "internal.certificate",
            "names no role",
            "cmg://gateway/gw1",
        ),
        row(
            "connector",
            "internal certificate of another site",
            |f| show_internal(f, "connector", "pki/internal/connector-PS2-1"),
            (CONNECTOR, "PS2-1.pem"),
            "internal.certificate",
            "cmg://site/PS2/connector/1",
            "cmg://site/PS1/connector/1",
        ),
        row(
            "connector",
            "identity of another certificate",
            |f| f.edit(CONNECTOR, "identity = \"1\"", "identity = \"2\""),
            (CONNECTOR, "certificate"),
            "internal.certificate",
            "cmg://site/PS1/connector/1",
            "cmg://site/PS1/connector/2",
        ),
        row(
            "connector",
            "a gateway's certificate",
            |f| show_internal(f, "connector", "pki/internal/gateway-gw1"),
            (CONNECTOR, "gateway-gw1.pem"),
            "internal.certificate",
            "extended key usage",
            "client authentication",
        ),
        row(
            "connector",
            "internal CA trusted for clients",
            |f| f.edit(SITE, "pki/ca.pem", "pki/internal-ca.pem"),
            (CONNECTOR, "ca ="),
            "internal.ca",
            "trusts for clients as well",
            "an internal CA of its own",
        ),
        row(
            "connector",
            "internal CA below a client root",
            |f| {
                authority(f, "below", Some("ca"), (2020, 2090));
                // The site CA allows none below it, so a root that does is made first.
                authority(f, "top", None, (2020, 2090));
                authority(f, "below", Some("top"), (2020, 2090));
                let names = [uri("cmg://site/PS1/connector/1")];
                issue(f, "pki/below-leaf", "below", &names, (2020, 2090));
                f.edit(CONNECTOR, "internal-ca.pem", "below.pem");
                show_internal(f, "connector", "pki/below-leaf");
                f.edit(SITE, "pki/ca.pem", "pki/top.pem");
            },
            (CONNECTOR, "below-leaf.pem"),
            "internal.certificate",
            "accept as a client's",
            "an internal CA of its own",
        ),
        row(
            "connector",
            "a leaf for a root",
            |f| f.edit(SITE, "pki/ca.pem", "pki/clients/client.pem"),
            (SITE, "roots"),
            "trust.roots[1]",
            "may sign nothing",
            "an authority",
        ),
        row(
            "connector",
            "an intermediate without its root",
            |f| {
                authority(f, "top", None, (2020, 2090));
                authority(f, "middle", Some("top"), (2020, 2090));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\"]\nintermediates = [\"pki/middle.pem\"]");
            },
            (SITE, "intermediates"),
            "trust.intermediates[1]",
            "issued by CN=top: no such certificate",
            "the root in trust.roots",
        ),
        row(
            "connector",
            "a root among the intermediates",
            |f| {
                authority(f, "top", None, (2020, 2090));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\"]\nintermediates = [\"pki/top.pem\"]");
            },
            (SITE, "intermediates"),
            "trust.intermediates[1]",
            "a root itself",
            "trust.roots",
        ),
        // Out of their time.
        row(
            "gateway",
            "expired server certificate",
            |f| {
                issue(f, "old", "ca", &[dns(NAME)], (2020, 2021));
                show_server(f, "old");
            },
            (GATEWAY, "old.pem"),
            "server_certificate[1].chain",
            "expired at 2021-01-01",
            "valid now",
        ),
        row(
            "gateway",
            "server certificate of tomorrow",
            |f| {
                issue(f, "new", "ca", &[dns(NAME)], (2090, 2091));
                show_server(f, "new");
            },
            (GATEWAY, "new.pem"),
            "server_certificate[1].chain",
            "not valid before 2090-01-01",
            "valid now",
        ),
        row(
            "connector",
            "expired internal certificate",
            |f| {
                issue(f, "old", "internal-ca", &[uri("cmg://site/PS1/connector/1")], (2020, 2021));
                show_internal(f, "connector", "old");
            },
            (CONNECTOR, "old.pem"),
            "internal.certificate",
            "expired at 2021-01-01",
            "valid now",
        ),
        row(
            "connector",
            "expired root",
            |f| {
                authority(f, "old", None, (2020, 2021));
                f.edit(SITE, "pki/ca.pem", "pki/old.pem");
            },
            (SITE, "roots"),
            "trust.roots[1]",
            "CN=old expired at 2021-01-01",
            "valid now",
        ),
        // The admin listener off loopback.
        row(
            "gateway",
            "a token that all can read",
            |f| protect(f, "secret", 0o644),
            (GATEWAY, "token_file"),
            "admin.token_file",
            "mode 644",
            "chmod 600",
        ),
        row(
            "gateway",
            "a token that the group can read",
            |f| protect(f, &"ab".repeat(16), 0o640),
            (GATEWAY, "token_file"),
            "admin.token_file",
            "mode 640",
            "chmod 600",
        ),
        row(
            "gateway",
            "no token",
            |f| protect(f, "\n", 0o600),
            (GATEWAY, "token_file"),
            "admin.token_file",
            "0 characters",
            "openssl rand",
        ),
        row(
            "gateway",
            "a control socket in no folder",
            |f| f.edit(GATEWAY, "[admin]\n", "[admin]\nsocket = \"nowhere/gw.sock\"\n"),
            (GATEWAY, "gw.sock"),
            "admin.socket",
            "No such file",
            "a folder that this role may write",
        ),
        row(
            "connector",
            "a control socket in the place of a file",
            |f| f.edit(CONNECTOR, "[admin]\n", "[admin]\nsocket = \"site.toml\"\n"),
            (CONNECTOR, "socket"),
            "admin.socket",
            "which is no socket",
            "free or left by a role that died",
        ),
        // Ways.
        row(
            "connector",
            "two ways at one address",
            |f| f.edit(CONNECTOR, "name = ", "https = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\nname = "),
            (CONNECTOR, "https ="),
            "gateway[1].https",
            "which gateway[1].https is already",
            "an address of its own",
        ),
        row(
            "connector",
            "a way by HTTPS at the port of channels",
            |f| {
                let https = format!("https = [\"127.0.0.1:{}\"]\nname = ", f.channel);
                f.edit(CONNECTOR, "name = ", &https);
            },
            (CONNECTOR, "https ="),
            "gateway[1].https",
            "which gateway[1].address is already",
            "an address of its own",
        ),
        row(
            "connector",
            "missing password of a proxy",
            |f| f.edit(CONNECTOR, "[admin]", PROXY),
            (CONNECTOR, "password_file"),
            "proxy.password_file",
            "no such file",
            "the password alone",
        ),
        row(
            "connector",
            "password of a proxy in two lines",
            |f| {
                f.edit(CONNECTOR, "[admin]", PROXY);
                f.write("p.txt", "a\nb\n");
            },
            (CONNECTOR, "password_file"),
            "proxy.password_file",
            "which holds none",
            "the password alone",
        ),
        // Ports.
        row(
            "gateway",
            "overlap of channels by HTTPS and others",
            |f| {
                let https =
                    format!("[[internal.https_listener]]\naddress = \"0.0.0.0:{}\"\n[admin]", f.channel);
                f.edit(GATEWAY, "[admin]", &https);
            },
            (GATEWAY, "0.0.0.0"),
            "internal.https_listener[1].address",
            "overlaps internal.listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "overlap with a wildcard",
            |f| {
                f.edit(GATEWAY, &format!("127.0.0.1:{}", f.channel), &format!("0.0.0.0:{}", f.client));
            },
            (GATEWAY, "0.0.0.0"),
            "internal.listener[1].address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "overlap with the admin",
            |f| {
                f.edit(
                    GATEWAY,
                    &format!("127.0.0.1:{}", f.gateway_admin),
                    &format!("127.0.0.1:{}", f.client),
                );
            },
            (GATEWAY, "[admin]\n"),
            "admin.address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "overlap of health and channels",
            |f| {
                let health = format!("[admin]\nhealth_address = \"0.0.0.0:{}\"", f.channel);
                f.edit(GATEWAY, "[admin]", &health);
            },
            (GATEWAY, "health_address"),
            "admin.health_address",
            "overlaps internal.listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "a health wildcard that takes both families",
            |f| {
                let health = format!("[admin]\nhealth_address = \"[::]:{}\"", f.client);
                f.edit(GATEWAY, "[admin]", &health);
            },
            (GATEWAY, "health_address"),
            "admin.health_address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "an address of another machine",
            |f| {
                f.edit(GATEWAY, &format!("127.0.0.1:{}", f.client), &format!("192.0.2.1:{}", f.client));
            },
            (GATEWAY, "192.0.2.1"),
            "listener[1].address",
            "does not have",
            "own addresses",
        ),
        row(
            "connector",
            "a source address of another machine",
            |f| {
                let sources = "[connector]\nsource_addresses = [\"127.0.0.2\", \"192.0.2.1\"]";
                f.edit(CONNECTOR, "[connector]", sources);
            },
            (CONNECTOR, "192.0.2.1"),
            "connector.source_addresses[2]",
            "which connections cannot come from",
            "an address of this machine",
        ),
        row(
            "connector",
            "source addresses that no origin can be reached from",
            |f| f.edit(CONNECTOR, "[connector]", "[connector]\nsource_addresses = [\"::1\"]"),
            (CONNECTOR, "source_addresses"),
            "connector.source_addresses",
            "no address of IPv4, but the origin 127.0.0.1:9",
            "an address of IPv4",
        ),
        row(
            "connector",
            "a source address twice",
            |f| {
                let sources = "[connector]\nsource_addresses = [\"127.0.0.2\", \"127.0.0.2\"]";
                f.edit(CONNECTOR, "[connector]", sources);
            },
            (CONNECTOR, "source_addresses"),
            "connector.source_addresses",
            "twice",
            "each address once",
        ),
        // Mappings that collide.
        row(
            "connector",
            "a role twice",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 1), &format!("id = {ROLE}")),
            (SITE, "software_update_point]]\n+1"),
            "software_update_point[1].id",
            "again, which management_point[1] has",
            "each role once",
        ),
        row(
            "connector",
            "a path twice",
            |f| {
                let more = format!(
                    "[[endpoint]]\nid = {}\npath = \"Reports/Upload\"\nurl = \"http://a\"\n",
                    ROLE + 2
                );
                let site = f.site() + &more;
                f.write(SITE, &site);
            },
            (SITE, "Reports/Upload"),
            "endpoint[2].path",
            "which endpoint[1] publishes",
            "each path once",
        ),
        row(
            "connector",
            "a standard path again",
            |f| {
                f.edit(SITE, &format!("id = {}", ROLE + 2), &format!("id = {ROLE}"));
                f.edit(SITE, "reports/upload", "ccm_system");
            },
            (SITE, "ccm_system"),
            "endpoint[1].path",
            "which management_point[1] publishes",
            "each path once",
        ),
        row(
            "gateway",
            "a log without a folder",
            |f| f.edit(GATEWAY, "[admin]", "[log]\naccess_log = \"no/a.log\"\n[admin]"),
            (GATEWAY, "access_log"),
            "log.access_log",
            "no folder",
            "a folder that is there",
        ),
        row(
            "gateway",
            "a file for the state",
            |f| f.edit(GATEWAY, "\"state\"", "\"site.toml\""),
            (GATEWAY, "state_dir"),
            "gateway.state_dir",
            "a file",
            "a folder",
        ),
    ]
}

/// The line a row means: `text\n` is the line after the one with `text`, `text\n+1` as well.
fn line_of(files: &Files, (file, text): (&str, &str)) -> usize {
    match text.split_once('\n') {
        None => files.line(file, text),
        Some((before, _)) => files.line(file, before) + 1,
    }
}

#[test]
fn every_mistake_keeps_the_role_from_starting_and_is_found_by_looking() {
    for mistake in mistakes() {
        let Mistake { role, what, make, at, key, found, expected } = mistake;
        let files = Files::new();
        make(&files);
        // As on a gateway, where it has no place: a start would remark it.
        fs::remove_file(files.path("pki/internal-ca.key")).unwrap();
        let before = files.everything();
        let output = run(&mut files.start(role));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {errors}");
        assert_eq!(files.everything(), before, "{what}: nothing is changed");

        let place = format!("{}:{}:", files.path(at.0).display(), line_of(&files, at));
        let is_it = |line: &&str| {
            line.contains(&place)
                && line.contains(&format!(": {key}"))
                && line.contains(", expected ")
                && line.split_once(", expected ").is_some_and(|(before, after)| {
                    before.contains("found ") && before.contains(found) && after.contains(expected)
                })
        };
        assert!(errors.lines().any(|line| is_it(&line)), "{what}: no {place} {key}\n{errors}");

        let (code, answer) = files.check(&[&format!("{role}.toml")], &[]);
        assert_eq!(code, 2, "{what}: {answer:#}");
        let seen = texts(&answer, "error");
        for line in errors.lines() {
            let line = line.strip_prefix("cmg: ").unwrap_or(line).to_owned();
            assert!(seen.contains(&line), "{what}: check does not say\n{line}\nbut\n{}", seen.join("\n"));
        }
    }
}
