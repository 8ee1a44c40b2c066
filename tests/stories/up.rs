//! `cmg up`: from an empty folder to an answer, and back to nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{PATIENCE, Process, ask_admin, cmg, eventually, outcome, run, text};
use crate::needs;

fn start(folder: &Path) -> (Process, serde_json::Value) {
    let log = folder.join("up.log");
    let _ = fs::remove_file(&log);
    let mut up = Process::start(cmg().arg("up").arg("--dir").arg(folder.join("d")), &log);
    let report = folder.join("d/up.json");
    // The lines for people come right after the file for scripts.
    eventually("cmg up is ready", || {
        assert!(up.is_running(), "{}", up.log());
        report.exists() && up.log().contains("Ctrl-C drains and stops.")
    });
    let report = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    (up, report)
}

fn curl_line(log: &str) -> &str {
    log.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a curl line").trim()
}

fn stop(mut up: Process, folder: &Path, report: &serde_json::Value) {
    up.signal(libc::SIGINT);
    let status = up.wait_for_exit(Duration::from_secs(40)).expect("SIGINT drains and stops");
    assert!(status.success(), "{status}\n{}", up.log());
    assert!(!folder.join("d/up.json").exists(), "nothing is ready any more");
    for (role, pid) in report["pids"].as_object().unwrap() {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{role} outlived `cmg up`");
    }
}

#[test]
fn up_serves_the_line_it_prints_and_drains_on_a_signal() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = start(folder.path());
    for field in [
        "gateway",
        "service",
        "url",
        "refused_url",
        "ca",
        "client_cert",
        "client_key",
        "clients_dir",
        "admin",
        "pids",
        "origin",
    ] {
        assert!(!report[field].is_null(), "{field}: {report:#}");
    }
    for file in ["ca", "client_cert", "client_key", "clients_dir"] {
        assert!(Path::new(report[file].as_str().unwrap()).exists(), "{file}");
    }
    for role in ["gateway", "connector"] {
        let address = report["admin"][role].as_str().unwrap().parse().unwrap();
        assert!(matches!(ask_admin(address, "/readyz"), Some((200, _))), "{role}");
        assert!(matches!(ask_admin(address, "/metrics"), Some((200, _))), "{role}");
    }

    let line = curl_line(&up.log()).to_owned();
    let answer = text(&run(Command::new("sh").arg("-c").arg(format!("{line} --silent --include"))));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("target: /SMS_MP/.sms_aut?MPLIST"), "{answer}");

    let refused = line.replace(report["url"].as_str().unwrap(), report["refused_url"].as_str().unwrap());
    assert_ne!(refused, line);
    let answer = text(&run(Command::new("sh").arg("-c").arg(format!("{refused} --silent --include"))));
    assert!(answer.starts_with("HTTP/1.1 404 CMGService_Unknown_Url"), "{answer}");

    let pair = |report: &serde_json::Value| fs::read(report["client_cert"].as_str().unwrap()).unwrap();
    let (ca, certificate) = (fs::read(report["ca"].as_str().unwrap()).unwrap(), pair(&report));
    stop(up, folder.path(), &report);

    let (up, again) = start(folder.path());
    assert_eq!(fs::read(again["ca"].as_str().unwrap()).unwrap(), ca, "the second start made another CA");
    assert_eq!(pair(&again), certificate);
    let line = curl_line(&up.log()).to_owned();
    let answer = text(&run(Command::new("sh").arg("-c").arg(format!("{line} --silent --include"))));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stop(up, folder.path(), &again);
}

#[test]
fn up_says_so_when_a_role_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (mut up, report) = start(folder.path());
    let pid = report["pids"]["connector"].as_u64().unwrap();
    run(Command::new("kill").arg("-9").arg(pid.to_string()));
    let status = up.wait_for_exit(PATIENCE).expect("it stops the rest");
    assert_eq!(status.code(), Some(1), "{}", up.log());
    assert!(up.log().contains("connector"), "{}", up.log());
}

#[test]
fn a_second_up_in_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = start(folder.path());
    let second = outcome(cmg().arg("up").arg("--dir").arg(folder.path().join("d")));
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another `cmg up`"), "{}", text(&second.stderr));
    stop(up, folder.path(), &report);
}
