//! What else is said of one role's files: ports, warnings, files of no kind, and how it reads.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;

use crate::files::*;

#[test]
fn a_port_in_use_is_told_with_its_key_and_who_to_ask() {
    for (role, key, port) in [
        ("gateway", "listener[1].address", (|f: &Files| f.client) as fn(&Files) -> u16),
        ("gateway", "internal.listener[1].address", |f| f.channel),
        ("gateway", "admin.address", |f| f.gateway_admin),
        ("connector", "admin.address", |f| f.connector_admin),
    ] {
        // A port that was free a moment ago may be a connection's by now.
        let taken = (0..10).find_map(|_| {
            let files = Files::new();
            let port = port(&files);
            let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            Some((files, port, held))
        });
        let (files, port, held) = taken.expect("one of ten ports that are free stays so");
        let output = run(&mut files.start(role));
        let errors = text(&output.stderr);
        let line = files.line(&format!("{role}.toml"), &format!(":{port}\""));
        let message = format!(
            "{role}.toml:{line}:11: {key}: found \"127.0.0.1:{port}\", a port that is in use, expected a free port \
             (who listens there: ss -ltnp 'sport = :{port}')"
        );
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(&message), "{errors}");
        assert!(!files.path("state").exists());
        let (code, answer) = files.check(&[&format!("{role}.toml")], &[]);
        assert!(
            code == 2 && texts(&answer, "error").iter().any(|text| text.contains(&message)),
            "{answer:#}"
        );
        let (code, answer) = files.check(&[&format!("{role}.toml")], &["--files-only"]);
        assert_eq!(code, 0, "{answer:#}");
        drop(held);
    }
}

#[test]
fn a_low_port_without_the_right_is_told_with_the_remedy() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if start.trim() == "0" {
        eprintln!("SKIPPED: every port is for everybody here");
        return;
    }
    let files = Files::new();
    files.edit(GATEWAY, &format!("127.0.0.1:{}", files.client), "127.0.0.1:7");
    for mut command in [files.start("gateway"), checking(&files)] {
        // SAFETY: prctl is async-signal-safe; without the capability in the bounding set, root's exec
        // does not give it back. Whoever is not root has none to lose.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_CAPBSET_DROP, 10);
                Ok(())
            });
        }
        let output = run(&mut command);
        let errors = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let line = files.line(GATEWAY, "127.0.0.1:7\"");
        assert!(
            errors.contains(&format!("gateway.toml:{line}:11: listener[1].address: found \"127.0.0.1:7\"")),
            "{errors}"
        );
        assert!(errors.contains("CAP_NET_BIND_SERVICE"), "{errors}");
    }
}

#[test]
fn mistakes_of_all_files_come_in_one_go() {
    let files = Files::new();
    files.edit(CONNECTOR, "connector-PS1-1.key", "none.key");
    files.edit(SITE, "pki/ca.pem", "none.pem");
    files.edit(SITE, "ca = \"pki/ca.pem\"", "ca = \"pki/ca.key\"");
    let output = run(&mut files.start("connector"));
    let errors = text(&output.stderr);
    for key in ["internal.key: found", "trust.roots[1]: found", "software_update_point[1].ca: found"] {
        assert!(errors.contains(key), "{errors}");
    }
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn what_is_no_mistake_yet_is_a_warning_and_no_reason_to_end() {
    // What is done; key and words of the warning.
    type Row = (fn(&Files), &'static str, &'static str);
    let rows: [Row; 8] = [
        (
            |f| f.edit(GATEWAY, "[gateway]\n", "[gateway]\nproxy_protocol_from = [\"0.0.0.0/0\"]\n"),
            "gateway.proxy_protocol_from[1]",
            "the proxies' own addresses",
        ),
        (|f| set_mode(&f.path("pki/server/cmg.test.key"), 0o644), "server_certificate[1].key", "mode 0644"),
        (
            |f| {
                authority(f, "old", None, (2020, 2021));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\", \"pki/old.pem\"]");
            },
            "trust.roots[2]",
            "expired at 2021",
        ),
        (|f| f.edit(SITE, "roots = [\"pki/ca.pem\"]", "roots = []"), "trust.roots", "no root"),
        (|f| soon(f), "server_certificate[1].chain", "expires at"),
        (
            |f| {
                let pem = |name: &str| fs::read_to_string(f.path(name)).unwrap();
                let both = pem("pki/server/cmg.test.pem") + &pem("pki/server/other.test.pem");
                f.write("pki/server/cmg.test.pem", &both);
            },
            "server_certificate[1].chain",
            "is not that of the issuer",
        ),
        (
            |f| f.edit(CONNECTOR, "[internal]\n", "[internal]\ncrl = \"none.pem\"\n"),
            "internal.crl",
            "no such file",
        ),
        (
            |f| {
                run(cmg().args(["pki", "--dir"]).arg(f.path("pki")).arg("crl"));
                f.edit(GATEWAY, "[internal]\n", "[internal]\ncrl = \"pki/crl.pem\"\n");
            },
            "internal.crl",
            "which internal.ca does not name",
        ),
    ];
    for (make, key, words) in rows {
        let files = Files::new();
        make(&files);
        let (code, answer) = files.check(&[GATEWAY, CONNECTOR], &[]);
        assert_eq!(code, 0, "{answer:#}");
        let warnings = texts(&answer, "warning");
        assert!(
            warnings.iter().any(|text| text.contains(key) && text.contains(words)),
            "{key}: {warnings:#?}"
        );
    }
}

/// A server certificate that ends within a month, whenever the test runs.
fn soon(files: &Files) {
    use rcgen::{CertificateParams, Issuer, KeyPair};
    let read = |path: &str| fs::read_to_string(files.path(path)).unwrap();
    let ca_key = KeyPair::from_pem(&read("pki/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("pki/ca.pem"), ca_key).unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + std::time::Duration::from_secs(20 * 86_400);
    let key = KeyPair::generate().unwrap();
    files.write("pki/server/cmg.test.pem", &params.signed_by(&key, &issuer).unwrap().pem());
    files.write("pki/server/cmg.test.key", &key.serialize_pem());
}

#[test]
fn a_file_of_no_kind_or_that_is_not_there_is_said() {
    let files = Files::new();
    files.write("x.toml", "color = 1\n");
    files.write("y.toml", "[[\n");
    fs::write(files.path("w.toml"), [0xFF, 0xFE, b'a', 0]).unwrap();
    fs::write(files.path("z.toml"), [0xFE]).unwrap();
    for (name, words) in [
        ("x.toml", "no section that is known"),
        ("y.toml", "y.toml:1:"),
        ("w.toml", "text in UTF-16"),
        ("z.toml", "no UTF-8"),
        ("none.toml", "no such file"),
    ] {
        let (code, answer) = files.check(&[name], &["--files-only"]);
        let errors = texts(&answer, "error");
        assert!(code == 2 && errors.iter().any(|text| text.contains(words)), "{name}: {errors:?}");
    }
    let output = run(cmg().args(["gateway", "--config", "none.toml"]).current_dir(files.folder.path()));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "cmg: none.toml: found no such file, expected a settings file that can be read\n"
    );
}

#[test]
fn what_is_as_it_should_be_is_said_line_by_line_with_counts_at_the_end() {
    let files = Files::new();
    // As on a gateway, where it has no place.
    fs::remove_file(files.path("pki/internal-ca.key")).unwrap();
    let output = run(cmg()
        .arg("check")
        .args(["gateway.toml", "connector.toml", "site.toml"])
        .current_dir(files.folder.path()));
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{lines}");
    for line in [
        "ok       this machine: io_uring, open files and locked memory",
        "ok       gateway.toml: gateway settings",
        "ok       connector.toml: connection point settings",
        "ok       ./site.toml: site settings",
        "ok       connector.toml: gateway[1] is gateway.toml",
    ] {
        assert!(lines.lines().any(|found| found == line), "{line}\n{lines}");
    }
    // Made by `cmg pki`: ECDSA alone, and who that shuts out is said.
    assert!(
        lines.contains(
            "warning: gateway.toml:10:9: server_certificate[1].chain: found ECDSA certificates alone"
        ),
        "{lines}"
    );
    assert_eq!(lines.lines().last(), Some("0 errors, 1 warning in 3 files"));
}
