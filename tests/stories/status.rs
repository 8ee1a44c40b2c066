//! `cmg status`: what an administrator learns of running roles, and by which exit code.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{SampleOrigin, Setup, Stack, cmg, eventually, outcome, text};

fn status(arguments: &[&str], folder: &Path) -> Output {
    outcome(cmg().arg("status").args(arguments).current_dir(folder))
}

const BOTH: [&str; 4] = ["--config", "gateway.toml", "--config", "connector.toml"];

/// As `cmg up` leaves it in its folder.
fn write_report(stack: &Stack, folder: &str) {
    let report = serde_json::json!({ "admin": {
        "gateway": stack.gateway_admin(),
        "connector": format!("127.0.0.1:{}", stack.ports.connector_admin),
    }});
    fs::create_dir_all(stack.path(folder)).unwrap();
    fs::write(stack.path(folder).join("up.json"), report.to_string()).unwrap();
}

#[test]
fn roles_that_work_are_healthy_and_those_that_do_not_are_explained() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let folder = stack.folder.path().to_owned();
    write_report(&stack, "cmg-up");
    write_report(&stack, "elsewhere");
    let gateway = stack.gateway_admin().to_string();
    let ways: [&[&str]; 5] =
        [&BOTH, &[], &["--dir", "elsewhere"], &["--address", &gateway], &["--config", "connector.toml"]];
    for way in ways {
        let output = status(way, &folder);
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{way:?}: {told}{}", text(&output.stderr));
        assert!(told.contains("Healthy") && output.stderr.is_empty(), "{told}");
    }
    let told = text(&status(&BOTH, &folder).stdout);
    for words in ["gateway ", "connector ", "clients ", "requests ", "refused ", "links ", "settings ", "PS1"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }

    let output = status(&["--json", "--dir", "elsewhere"], &folder);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let roles: Vec<_> = told.as_array().unwrap().iter().map(|role| role["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["connector", "gateway"]);
    for role in told.as_array().unwrap() {
        assert_eq!(role["state"], "Healthy", "{role:#}");
        assert!(role["status"].is_object() && role["address"].as_str().unwrap().starts_with("http://"));
    }

    stack.connector.take().unwrap().kill();
    eventually("the gateway knows", || stack.count("links") == 0);
    let output = status(&BOTH, &folder);
    let (told, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("Is the role running?") && !told.contains("Healthy"), "{told}");
    assert!(errors.contains("gateway at") && errors.contains("connector at"), "{errors}");
}

#[test]
fn who_cannot_be_asked_is_down_and_wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    fs::write(folder.path().join("bad.toml"), "[gateway]\n").unwrap();
    let rows: [(&[&str], i32, &str); 12] = [
        (&["--address", "127.0.0.1:1"], 1, "Connection refused"),
        (&["--address", &silent_address], 1, "no answer within"),
        (&["--dir", "missing"], 1, "cmg up"),
        (&[], 2, "whom to ask"),
        (&["--config", "missing.toml"], 2, "missing.toml"),
        (&["--config", "bad.toml"], 2, "gateway.name"),
        (&["--address", "nowhere"], 2, "expected host and port"),
        (&["--address", "https://127.0.0.1:1"], 2, "--ca"),
        (&["--address", "http://127.0.0.1:1", "--token-file", "t"], 2, "never sent in plain"),
        (&["--address", "127.0.0.1:1", "--ca", "missing.pem"], 1, "refused"),
        (&["--address", "127.0.0.1:1", "--dir", "x"], 2, "--dir"),
        (&["--loudly"], 2, "--loudly"),
    ];
    for (arguments, code, words) in rows {
        let output = status(arguments, folder.path());
        let told = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(words), "{arguments:?}: {told}");
    }
}

#[test]
fn watching_asks_again_until_nobody_reads() {
    let mut stack = Setup::new("http://127.0.0.1:1").prepare();
    stack.start_gateway();
    let mut command: Command = cmg();
    command.args(["status", "--watch", "--json", "--config"]).arg(stack.path("gateway.toml"));
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let told: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(told[0]["role"], "gateway");
    }
    drop(lines);
    assert!(watching.wait().unwrap().success());
}
