//! Every feature that the product supports over the internet, asked by `loadgen` as a real client asks it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    MANAGEMENT_POINT, Process, SERVICE, Setup, cmg, eventually, has_programs, outcome, program, run, text,
};

/// The built load tool, which lies beside the program under test in a whole build.
fn loadgen() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_cmg")).with_file_name("loadgen");
    if path.is_file() {
        return Some(path);
    }
    // Says so, or finds another.
    has_programs(module_path!(), line!(), &["loadgen"]).then(|| program("loadgen"))?
}

/// An origin that gives tokens, and its URL.
fn origin(loadgen: &Path, tokens: &Path) -> (Process, String) {
    let mut command = Command::new(loadgen);
    command.args(["origin", "--listen", "127.0.0.1:0", "--tokens"]).arg(tokens);
    let process = Process::start(&mut command, &tokens.join("origin.log"));
    let url = || process.log().split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
    eventually("the origin listens", || url().is_some());
    let url = url().unwrap();
    (process, url)
}

#[test]
fn every_feature_of_a_client_passes_through_gateway_and_connector() {
    let Some(loadgen) = loadgen() else { return };
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let issuers = text(&run(Command::new(&loadgen).arg("tokens").arg(&tokens)));
    let (_origin, url) = origin(&loadgen, &tokens);
    let (point, own) = (MANAGEMENT_POINT + 1, Setup::new(url.as_str()));
    let site = format!(
        "[[software_update_point]]\nid = {point}\nurl = \"{url}\"\ncontent = true\nself_update = true\n{issuers}"
    );
    let stack = Setup { site, ..own }.start();
    let (certificate, key) = stack.client_pair();
    let ask = |signed: &[&str]| {
        let mut command = Command::new(&loadgen);
        command.args(["clients", "-c", "4", "--feature", "all", "--name", SERVICE]);
        command.args(["--target", &stack.gateway_address().to_string()]);
        command.arg("--ca").arg(stack.path("pki/ca.pem"));
        command.arg("--cert").arg(&certificate).arg("--key").arg(&key).args(signed);
        let output = outcome(&mut command);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = ask(&["--tokens", tokens.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("24 of 24 feature(s) passed"), "{said}");
    // Tokens that nobody signed open nothing: what needs them fails, and nothing else.
    let (code, said) = ask(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("21 of 24 feature(s) passed"), "{said}");
    for feature in ["client-install", "bulk-install", "user-apps-token"] {
        assert!(said.contains(&format!("FAILED {feature} (")), "{feature}\n{said}");
    }
    assert!(said.contains("CMGService_Invalid_Token"), "{said}");
}

#[test]
fn all_features_pass_by_what_up_json_says_alone() {
    let Some(loadgen) = loadgen() else { return };
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let d = folder.path().join("d");
    let start = |flags: &[&str]| {
        let mut command = cmg();
        command.args(["up", "--clients", "2", "--dir"]).arg(&d).args(flags);
        let mut up = Process::start(&mut command, &folder.path().join("up.log"));
        eventually("cmg up is ready", || {
            assert!(up.is_running(), "{}", up.log());
            d.join("up.json").exists()
        });
        up
    };
    let stop = |mut up: Process| {
        up.signal(libc::SIGINT);
        assert!(up.wait_for_exit(Duration::from_secs(40)).expect("it drains").success(), "{}", up.log());
    };
    // A folder without a key's issuers is told before anything is made of it.
    let output = outcome(cmg().args(["up", "--tokens", "/nowhere", "--dir"]).arg(&d));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`loadgen tokens /nowhere` makes it"), "{}", text(&output.stderr));
    run(Command::new(&loadgen).arg("tokens").arg(&tokens));
    let (_origin, url) = origin(&loadgen, &tokens);
    // Of a folder that was used without: the site takes them from the next start on, and keeps them.
    stop(start(&["--origin", &url]));
    stop(start(&["--tokens", tokens.to_str().unwrap()]));
    let up = start(&[]);
    let said = text(&run(Command::new(&loadgen)
        .args(["clients", "-c", "2", "--feature", "all", "--up"])
        .arg(d.join("up.json"))));
    assert!(said.contains("24 of 24 feature(s) passed"), "{said}");
    stop(up);
}
