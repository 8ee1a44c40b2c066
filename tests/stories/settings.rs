//! Settings that are wrong: the role does not start, and says where to look.

use std::fs;

use crate::harness::{Setup, cmg, outcome, text};

#[test]
fn a_mistake_is_named_by_file_line_and_key_and_ends_with_2() {
    // In which file; what is replaced by what; the line it is on; the words the message must have.
    let rows = [
        ("gateway", "instance = \"gw1\"", "instence = \"gw1\"", ["instence", "instance"]),
        ("gateway", "shards = 2", "shards = 0", ["shards", "0"]),
        ("gateway", "[limits]", "[limits]\nidle_secs = \"soon\"", ["idle_secs", "soon"]),
        ("connector", "identity = \"1\"", "identity = 1", ["identity", "1"]),
        ("connector", "[limits]", "[limits]\nanswer_sec = 3", ["answer_sec", "answer_secs"]),
        (
            "gateway",
            "[limits]",
            "[limits]\n[log]\naccess_log = \"gone/a.log\"",
            ["log.access_log", "gone/a.log"],
        ),
        (
            "connector",
            "[limits]",
            "[limits]\n[log]\naccess_log = \"gone/a.log\"",
            ["log.access_log", "gone/a.log"],
        ),
        ("site", "serial = 1", "serial = -1", ["serial", "-1"]),
        ("site", "url = \"http://127.0.0.1:1\"", "url = \"ftp://mp\"", ["url", "ftp://mp"]),
    ];
    for (file, found, wrong, words) in rows {
        let stack = Setup::new("http://127.0.0.1:1").prepare();
        let path = stack.path(&format!("{file}.toml"));
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(found), "{before}");
        let after = before.replacen(found, wrong, 1);
        fs::write(&path, &after).unwrap();
        let last = wrong.lines().last().unwrap();
        let line = 1 + after.lines().position(|line| line == last).unwrap();
        let role = if file == "gateway" { "gateway" } else { "connector" };
        let config = stack.path(&format!("{role}.toml"));
        let output = outcome(cmg().arg(role).arg("--config").arg(config));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {errors}");
        assert!(errors.contains(&format!("{file}.toml:{line}:")), "{wrong}: {errors}");
        for word in words {
            assert!(errors.contains(word), "{wrong}: {errors}");
        }
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    for (role, file) in [
        ("gateway", "pki/server/cmg.test.key"),
        ("gateway", "pki/internal-ca.pem"),
        ("connector", "pki/internal/connector-PS1-1.pem"),
        ("connector", "site.toml"),
        ("connector", "pki/ca.pem"),
    ] {
        let stack = Setup::new("http://127.0.0.1:1").prepare();
        fs::remove_file(stack.path(file)).unwrap();
        let config = stack.path(&format!("{role}.toml"));
        let output = outcome(cmg().arg(role).arg("--config").arg(config));
        assert!(matches!(output.status.code(), Some(1 | 2)), "{role} {file}: {:?}", output.status);
        let name = file.rsplit('/').next().unwrap();
        assert!(text(&output.stderr).contains(name), "{role} {file}: {}", text(&output.stderr));
    }
}
