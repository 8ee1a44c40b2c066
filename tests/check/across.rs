//! Files against each other, and certificates against those who must take them.

use std::fs;
use std::process::Command;

use cmg::pki::Pki;

use crate::files::*;

#[test]
fn files_that_are_good_alone_are_judged_together() {
    // What is done; file and key of the finding; its words; whether it is a mistake.
    type Row = (&'static str, fn(&Files), (&'static str, &'static str), &'static str, bool);
    let rows: [Row; 12] = [
        (
            "another port than the listener's",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "127.0.0.1:1");
            },
            (CONNECTOR, "gateway[1].address"),
            "an [[internal.listener]] of",
            true,
        ),
        (
            "the clients' port",
            |f| {
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.channel),
                    &format!("cmg.example.org:{}", f.client),
                );
            },
            (CONNECTOR, "gateway[1].address"),
            "where clients come in",
            true,
        ),
        (
            "a mapped port outside",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "cmg.example.org:443");
            },
            (CONNECTOR, "gateway[1].address"),
            "unless something between them maps the port",
            false,
        ),
        (
            "another TLS name",
            |f| f.edit(CONNECTOR, "gw1.gateway", "gw2.gateway"),
            (CONNECTOR, "gateway[1].name"),
            "gw1.gateway.cmg.internal",
            true,
        ),
        (
            "an instance whose file is not given",
            |f| {
                f.edit(CONNECTOR, "gw1.gateway", "gw9.gateway");
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "192.0.2.7:10140");
            },
            (CONNECTOR, "gateway[1].address"),
            "look at it together",
            false,
        ),
        (
            "another internal CA",
            |f| {
                let other = Pki::open(&f.path("pki2")).unwrap();
                other.connector("PS1", "1").unwrap();
                let text = fs::read_to_string(f.path(CONNECTOR)).unwrap();
                f.write(CONNECTOR, &text.replace("pki/", "pki2/"));
            },
            (CONNECTOR, "internal.certificate"),
            "does not know as internal",
            true,
        ),
        (
            "a site that the gateway does not let in",
            |f| f.edit(GATEWAY, "code = \"PS1\"", "code = \"XX1\""),
            (SITE, "code"),
            "a [[site]] with this code there; it has XX1",
            true,
        ),
        (
            "a role id beyond the rights",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 1), "id = 8"),
            (SITE, "software_update_point[1].id"),
            "a role id among its role_ids there",
            true,
        ),
        (
            "an endpoint's role id beyond the rights",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 2), "id = 9"),
            (SITE, "endpoint[1].id"),
            "a role id among its role_ids there",
            true,
        ),
        (
            "one admin port for both, on one machine",
            |f| {
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.connector_admin),
                    &format!("127.0.0.1:{}", f.gateway_admin),
                );
            },
            (CONNECTOR, "admin.address"),
            "overlaps admin.address",
            true,
        ),
        (
            "one admin port for both, on two machines",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "192.0.2.7:10140");
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.connector_admin),
                    &format!("127.0.0.1:{}", f.gateway_admin),
                );
            },
            (CONNECTOR, "admin.address"),
            "if both run on one machine",
            false,
        ),
        (
            "another site's file under the same serial",
            |f| {
                f.write(
                    "site2.toml",
                    &f.site().replace("http://127.0.0.1:9\"", "http://127.0.0.1:9\"\nexclude = [\"BGB\"]"),
                );
            },
            ("site2.toml", "serial"),
            "a higher serial",
            true,
        ),
    ];
    for (what, make, (file, key), words, is_mistake) in rows {
        let files = Files::new();
        make(&files);
        for alone in [GATEWAY, CONNECTOR] {
            let (code, answer) = files.check(&[alone], &["--files-only"]);
            assert_eq!(code, 0, "{what}: {alone} alone is good: {answer:#}");
        }
        let mut given = vec![SITE, CONNECTOR, GATEWAY];
        given.extend(files.path("site2.toml").exists().then_some("site2.toml"));
        let (code, answer) = files.check(&given, &["--files-only"]);
        let level = if is_mistake { "error" } else { "warning" };
        let found = texts(&answer, level);
        let is_it = |text: &&String| {
            text.contains(&format!("{}:", files.path(file).display()))
                && text.contains(&format!(" {key}: found "))
                && text.contains(words)
        };
        assert!(found.iter().any(|text| is_it(&text)), "{what}: {answer:#}");
        assert_eq!(code, if is_mistake { 2 } else { 0 }, "{what}: {answer:#}");
    }
}

#[test]
fn kinds_of_server_certificates_say_whom_they_shut_out() {
    let files = Files::new();
    // RSA is not made by the crate's key maker: the test's own key, for this name, for good.
    let rsa = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"])
        .args(["-subj", "/CN=cmg.test", "-addext", "subjectAltName=DNS:cmg.test", "-keyout"])
        .arg(files.path("rsa.key"))
        .arg("-out")
        .arg(files.path("rsa.pem"))
        .output();
    if !rsa.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "no openssl");
        eprintln!("SKIPPED: no openssl");
        return;
    }
    fs::remove_file(files.path("pki/internal-ca.key")).unwrap();
    let two = "[[server_certificate]]\nchain = \"rsa.pem\"\nkey = \"rsa.key\"\n[internal]";
    files.edit(GATEWAY, "[internal]", two);
    let (code, answer) = files.check(&[GATEWAY], &["--files-only"]);
    assert!(code == 0 && texts(&answer, "warning").is_empty(), "{answer:#}");
    assert!(texts(&answer, "ok").iter().any(|text| text.contains("RSA and ECDSA")), "{answer:#}");
    files.write(GATEWAY, &files.gateway());
    show_server(&files, "rsa");
    let (code, answer) = files.check(&[GATEWAY], &["--files-only"]);
    let warnings = texts(&answer, "warning").join("\n");
    assert!(code == 0 && warnings.contains("Windows 8.1") && warnings.contains("CPU"), "{answer:#}");
}

#[test]
fn a_sample_certificate_is_judged_and_the_missing_link_named() {
    let files = Files::new();
    authority(&files, "top", None, (2020, 2090));
    authority(&files, "middle", Some("top"), (2020, 2090));
    issue(&files, "leaf", "middle", &[dns("client")], (2020, 2090));
    issue(&files, "late", "ca", &[dns("client")], (2020, 2021));
    let rows: [(&str, &[&str], bool, &str); 6] = [
        ("pki/clients/client.pem", &["pki/ca.pem"], true, "is accepted as a client until"),
        ("leaf.pem", &["pki/ca.pem"], false, "the issuer \"CN=middle\""),
        ("leaf.pem", &["pki/top.pem"], false, "the issuer \"CN=middle\""),
        ("late.pem", &["pki/ca.pem"], false, "expired at 2021-01-01"),
        ("pki/server/cmg.test.pem", &["pki/ca.pem"], false, "not meant for client authentication"),
        ("pki/clients/client.key", &["pki/ca.pem"], false, "no certificate in it"),
    ];
    for (certificate, roots, good, words) in rows {
        files.write(SITE, &files.site().replace("[\"pki/ca.pem\"]", &format!("{roots:?}")));
        let (code, answer) = files.check(&[CONNECTOR], &["--files-only", "--client-cert", certificate]);
        let level = if good { "ok" } else { "error" };
        assert!(texts(&answer, level).iter().any(|text| text.contains(words)), "{certificate}: {answer:#}");
        assert_eq!(code, if good { 0 } else { 2 });
    }
    let site =
        files.site().replace("[\"pki/ca.pem\"]", "[\"pki/top.pem\"]\nintermediates = [\"pki/middle.pem\"]");
    files.write(SITE, &site);
    let (code, answer) = files.check(&[SITE], &["--files-only", "--client-cert", "leaf.pem"]);
    let fine = texts(&answer, "ok").join("\n");
    assert_eq!(code, 0, "{answer:#}");
    assert!(fine.contains("CN=middle leads to the root CN=top") && fine.contains("is accepted"), "{fine}");
}
