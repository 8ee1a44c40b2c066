//! `cmg pki` as a user meets it. What it makes is judged by openssl, which shares no code with it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs `cmg pki` in the folder, on the certificates in its subfolder `p`.
fn pki(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cmg"))
        .args(["pki", "--dir", "p"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = pki(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn refused(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = pki(folder, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "{arguments:?}");
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether openssl is here; says so, even when output is captured, where it is not.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "no openssl");
        let _ = writeln!(std::io::stderr(), "SKIPPED test of certificates: no openssl");
    }
    found
}

/// What openssl says, on both of its outputs, and whether it was content.
fn openssl(folder: &Path, arguments: &str) -> (bool, String) {
    let arguments = arguments.split_whitespace();
    let output = Command::new("openssl").args(arguments).current_dir(folder.join("p")).output().unwrap();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

fn content(folder: &Path, arguments: &str) -> String {
    let (is_content, said) = openssl(folder, arguments);
    assert!(is_content, "openssl {arguments}: {said}");
    said
}

fn list(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&done(folder, &["list", "--json"])).unwrap()
}

fn entry(folder: &Path, name: &str) -> serde_json::Value {
    let list = list(folder);
    let found = list["certificates"].as_array().unwrap().iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:#}")).clone()
}

#[test]
fn every_kind_of_key_verifies_under_every_kind_of_authority() {
    if !has_openssl() {
        return;
    }
    let kinds = [
        ("p256", "256 bit"),
        ("p384", "384 bit"),
        ("rsa2048", "2048 bit"),
        ("rsa3072", "3072 bit"),
        ("rsa4096", "4096 bit"),
    ];
    for authority in ["p256", "p384", "rsa2048"] {
        let folder = folder();
        done(folder.path(), &["init", "--key", authority]);
        for (kind, bits) in kinds {
            done(folder.path(), &["client", kind, "--key", kind]);
            content(folder.path(), &format!("verify -CAfile ca.pem -purpose sslclient clients/{kind}.pem"));
            let said = content(folder.path(), &format!("x509 -in clients/{kind}.pem -noout -text"));
            assert!(said.contains(bits), "{kind}: {said}");
            let of_key = content(folder.path(), &format!("pkey -in clients/{kind}.key -pubout"));
            let of_certificate =
                content(folder.path(), &format!("x509 -in clients/{kind}.pem -noout -pubkey"));
            assert_eq!(of_key, of_certificate, "{kind}");
            let mode =
                fs::metadata(folder.path().join(format!("p/clients/{kind}.key"))).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
        done(folder.path(), &["crl"]);
        content(folder.path(), "crl -in crl.pem -CAfile ca.pem -verify -noout");
    }
}

#[test]
fn a_kind_of_key_that_is_asked_for_replaces_another_and_no_wish_keeps_it() {
    let folder = folder();
    let key = |name: &str| entry(folder.path(), name)["key"].as_str().unwrap().to_owned();
    done(folder.path(), &["server", "a.example"]);
    assert_eq!(key("a.example"), "p256");
    done(folder.path(), &["server", "a.example", "--key", "rsa2048"]);
    assert_eq!(key("a.example"), "rsa2048");
    let before = fs::read(folder.path().join("p/server/a.example.pem")).unwrap();
    done(folder.path(), &["server", "a.example"]);
    assert_eq!(fs::read(folder.path().join("p/server/a.example.pem")).unwrap(), before);
    // An authority is not replaced: all it signed would be orphaned.
    let told = refused(folder.path(), &["init", "--key", "rsa4096"], 2);
    assert!(told.contains("with a p256 key"), "{told}");
    done(folder.path(), &["init"]);
    assert!(refused(folder.path(), &["init", "--key", "rsa1024"], 2).contains("rsa2048"));
}

#[test]
fn a_certificate_is_good_as_long_as_asked_and_no_longer_than_its_authority() {
    let folder = folder();
    done(folder.path(), &["init", "--days", "20"]);
    done(folder.path(), &["client", "short", "--days", "3"]);
    done(folder.path(), &["client", "long"]);
    let until = |name: &str| {
        let text = entry(folder.path(), name)["not_after"].as_str().unwrap().to_owned();
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    };
    let days = |from: i64, to: i64| (to - from + 43_200) / 86_400;
    assert_eq!(days(until("short"), until("ca")), 17);
    assert_eq!(until("long"), until("ca"));
}

#[test]
fn lists_shut_out_what_was_revoked_and_nothing_else() {
    if !has_openssl() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    done(path, &["client", "good", "bad", "worse"]);
    done(path, &["connector", "1", "--site", "PS1"]);
    let serial = content(path, "x509 -in clients/worse.pem -noout -serial");
    let serial = serial.trim().strip_prefix("serial=").unwrap().to_owned();
    let said = done(path, &["revoke", "bad", "--reason", "keyCompromise"]);
    assert!(said.ends_with(" bad\n"), "{said}");
    done(path, &["revoke", "--serial", &serial, "--reason", "superseded"]);
    done(path, &["revoke", "p/internal/connector-PS1-1.pem"]);
    let files = done(path, &["crl", "--der", "--days", "3"]);
    assert_eq!(files, "p/crl.pem\np/crl.der\np/internal-crl.pem\np/internal-crl.der\n");

    let check = |list: &str, ca: &str, certificate: &str| {
        openssl(path, &format!("verify -crl_check -CRLfile {list} -CAfile {ca} {certificate}"))
    };
    let (is_good, said) = check("crl.pem", "ca.pem", "clients/good.pem");
    assert!(is_good, "{said}");
    for (list, ca, certificate) in [
        ("crl.pem", "ca.pem", "clients/bad.pem"),
        ("crl.pem", "ca.pem", "clients/worse.pem"),
        ("internal-crl.pem", "internal-ca.pem", "internal/connector-PS1-1.pem"),
    ] {
        let (is_good, said) = check(list, ca, certificate);
        assert!(!is_good && said.contains("certificate revoked"), "{certificate}: {said}");
    }
    for (list, ca) in [("crl", "ca.pem"), ("internal-crl", "internal-ca.pem")] {
        for (form, end) in [("PEM", "pem"), ("DER", "der")] {
            let said = content(
                path,
                &format!("crl -inform {form} -in {list}.{end} -CAfile {ca} -verify -noout -text"),
            );
            assert!(said.contains("verify OK"), "{said}");
        }
    }
    let (is_content, said) = openssl(path, "crl -in crl.pem -CAfile internal-ca.pem -verify -noout");
    assert!(!is_content || !said.contains("verify OK"), "under the other authority: {said}");
    let said = content(path, "crl -in crl.pem -noout -text");
    assert!(said.contains("Key Compromise") && said.contains("Superseded"), "{said}");
    let date = |key: &str| {
        let line = content(path, &format!("crl -in crl.pem -noout -{key} -dateopt iso_8601"));
        let text = line.trim().split_once('=').unwrap().1.replace(' ', "T");
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    };
    assert_eq!(date("nextupdate") - date("lastupdate"), 3 * 86_400);
}

#[test]
fn the_number_of_a_list_always_grows() {
    if !has_openssl() {
        return;
    }
    let folder = folder();
    done(folder.path(), &["init"]);
    let number = |list: &str| {
        let said = content(folder.path(), &format!("crl -in {list}.pem -noout -crlnumber"));
        u64::from_str_radix(said.trim().rsplit("0x").next().unwrap(), 16).unwrap()
    };
    let mut last = [0, 0];
    let mut sign = || {
        done(folder.path(), &["crl"]);
        let now = [number("crl"), number("internal-crl")];
        assert!(now[0] > last[0] && now[1] > last[1], "{now:?} after {last:?}");
        last = now;
    };
    (0..3).for_each(|_| sign());
    // Also when the folder lost count, or one of the lists, or both, as one that is put back from a copy has.
    for lost in [&["revoked.json"][..], &["crl.pem"], &["revoked.json", "crl.pem", "internal-crl.pem"]] {
        lost.iter().for_each(|name| fs::remove_file(folder.path().join("p").join(name)).unwrap());
        thread::sleep(Duration::from_millis(if lost.len() > 1 { 6_000 } else { 0 }));
        sign();
    }
}

#[test]
fn what_was_interrupted_before_the_list_was_signed_is_made_good_by_another_run() {
    let folder = folder();
    let path = folder.path();
    done(path, &["connector", "1", "--site", "PS1"]);
    done(path, &["revoke", "connector-PS1-1"]);
    fs::remove_file(path.join("p/internal-crl.pem")).unwrap();
    let output = pki(path, &["revoke", "connector-PS1-1"]);
    assert!(output.status.success() && path.join("p/internal-crl.pem").exists());
    let told = text(&output.stderr);
    assert!(told.contains(" before; p/internal-crl.pem says so"), "{told}");
}

#[test]
fn a_revoked_name_gets_another_certificate_and_the_old_one_stays_revoked() {
    let folder = folder();
    let path = folder.path();
    let certificate = || fs::read(path.join("p/clients/x.pem")).unwrap();
    done(path, &["client", "x"]);
    let (first, serial) = (certificate(), entry(path, "x")["serial"].clone());
    done(path, &["revoke", "x"]);
    assert_eq!(entry(path, "x")["state"], "revoked");
    done(path, &["client", "x"]);
    assert_ne!(certificate(), first);
    assert_eq!(entry(path, "x")["state"], "good");
    assert_eq!(list(path)["revoked"][0]["serial"], serial);
    let again = certificate();
    done(path, &["client", "x"]);
    assert_eq!(certificate(), again);
}

#[test]
fn revoking_twice_is_told_and_changes_nothing() {
    let folder = folder();
    let path = folder.path();
    done(path, &["client", "x"]);
    done(path, &["revoke", "x", "--reason", "superseded"]);
    let before = fs::read(path.join("p/revoked.json")).unwrap();
    let output = pki(path, &["revoke", "x", "--reason", "keyCompromise"]);
    assert!(output.status.success());
    let told = text(&output.stderr);
    assert!(told.contains("(superseded) before; nothing was changed"), "{told}");
    assert_eq!(fs::read(path.join("p/revoked.json")).unwrap(), before);
}

#[test]
fn what_cannot_be_revoked_is_explained() {
    let (folder, other) = (folder(), folder());
    let path = folder.path();
    assert!(refused(path, &["revoke", "x"], 2).contains("cmg pki init"));
    assert!(!path.join("p").exists(), "nothing is made by asking");
    done(path, &["client", "x"]);
    done(path, &["server", "x"]);
    done(other.path(), &["client", "stranger"]);
    fs::copy(other.path().join("p/clients/stranger.pem"), path.join("stranger.pem")).unwrap();
    fs::write(path.join("text.pem"), "text").unwrap();
    let rows: [(&[&str], i32, &str); 9] = [
        (&["revoke", "y"], 2, "\"y\" is no certificate in p"),
        (&["revoke", "../ca"], 1, "../ca"),
        (&["revoke", "x"], 2, "give the file"),
        (&["revoke", "missing.pem"], 1, "missing.pem"),
        (&["revoke", "stranger.pem"], 2, "neither authority"),
        (&["revoke", "text.pem"], 1, "text.pem cannot be used"),
        (&["revoke"], 2, "NAME|FILE"),
        (&["revoke", "--serial", "xyz"], 2, "hexadecimal"),
        (&["revoke", "x", "--reason", "boredom"], 2, "keyCompromise"),
    ];
    for (arguments, code, part) in rows {
        let told = refused(path, arguments, code);
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
    assert!(!path.join("p/revoked.json").exists());
    done(path, &["revoke", "p/server/x.pem"]);
}

#[test]
fn the_list_names_everything_and_its_state() {
    let folder = folder();
    let path = folder.path();
    assert!(refused(path, &["list"], 2).contains("cmg pki init"));
    done(path, &["server", "a.example"]);
    done(path, &["client", "--count", "11", "--prefix", "pc"]);
    done(path, &["gateway", "gw1"]);
    done(path, &["revoke", "pc-2"]);
    fs::remove_file(path.join("p/clients/pc-3.key")).unwrap();
    fs::write(path.join("p/clients/pc-4.pem"), "nonsense").unwrap();
    let table = done(path, &["list"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let state = |kind: &str, name: &str| {
        let row = words.iter().find(|words| words.len() > 3 && words[0] == kind && words[1] == name);
        row.unwrap_or_else(|| panic!("no {kind} {name} in\n{table}"))[2]
    };
    let rows = [
        ("authority", "ca", "good"),
        ("authority", "internal-ca", "good"),
        ("server", "a.example", "good"),
        ("client", "pc-1", "good"),
        ("client", "pc-2", "revoked"),
        ("client", "pc-3", "broken"),
        ("client", "pc-4", "broken"),
        ("internal", "gateway-gw1", "good"),
    ];
    for (kind, name, expected) in rows {
        assert_eq!(state(kind, name), expected, "{name}");
    }
    let place = |name: &str| words.iter().position(|words| words.get(1) == Some(&name)).unwrap();
    assert!(place("pc-9") < place("pc-10"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("REVOKED")), "{table}");
    assert!(!table.contains("PRIVATE") && list(path)["certificates"].as_array().unwrap().len() == 15);
}

#[test]
fn names_come_from_a_file_and_faults_are_told_by_line() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("names.txt"), "# laptops\r\nl-1\r\n\r\nl-2\nl-1\n").unwrap();
    done(path, &["client", "--names", "names.txt"]);
    for name in ["l-1", "l-2"] {
        assert_eq!(entry(path, name)["state"], "good");
    }
    fs::write(path.join("names.txt"), "l-3\n../x\n\nl 4\n").unwrap();
    let told = refused(path, &["client", "--names", "names.txt"], 2);
    assert!(told.contains("names.txt:2: \"../x\"") && told.contains("names.txt:4: \"l 4\""), "{told}");
    assert!(!path.join("p/clients/l-3.pem").exists(), "nothing is made of a list with faults");
    assert!(refused(path, &["client", "--names", "missing.txt"], 2).contains("missing.txt"));
}

#[test]
fn what_is_killed_half_way_leaves_nothing_broken() {
    if !has_openssl() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    // At another moment each time; what is there afterwards must be whole whatever the moment was.
    for round in 0..6 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cmg"))
            .args(["pki", "--dir", "p", "client", "--count", "100000"])
            .current_dir(path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(15 * round * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    done(path, &["client", "client-1", "after"]);
    let halves = |path: PathBuf| {
        let entries = fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name());
        entries.filter(|name| name.to_string_lossy().starts_with('.')).count()
    };
    assert_eq!(halves(path.join("p/clients")), 0);
    for one in list(path)["certificates"].as_array().unwrap().iter().take(50) {
        assert_eq!(one["state"], "good", "{one:#}");
    }
    content(path, "verify -CAfile ca.pem clients/client-1.pem clients/after.pem");
}

#[test]
fn an_authority_interrupted_between_its_files_is_completed_with_the_key_it_has() {
    let folder = folder();
    let path = folder.path();
    done(path, &["init"]);
    let key = fs::read(path.join("p/ca.key")).unwrap();
    fs::remove_file(path.join("p/ca.pem")).unwrap();
    done(path, &["client", "x"]);
    assert_eq!(fs::read(path.join("p/ca.key")).unwrap(), key);
    assert_eq!(entry(path, "x")["state"], "good");
    // From now on it has signed: its certificate is worth something.
    fs::remove_file(path.join("p/ca.pem")).unwrap();
    assert!(refused(path, &["client", "y"], 1).contains("put it back"));
}

#[test]
fn two_at_a_time_take_turns() {
    let folder = folder();
    let path = folder.path();
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_cmg"))
            .args(["pki", "--dir", "p", "client", "--count", "20"])
            .current_dir(path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let list = list(path);
    let certificates = list["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 22);
    for one in certificates {
        assert_eq!(one["state"], "good", "{one:#}");
    }
    if has_openssl() {
        let of_key = content(path, "pkey -in clients/client-7.key -pubout");
        assert_eq!(of_key, content(path, "x509 -in clients/client-7.pem -noout -pubkey"));
    }
}
