//! `cmg up`: from an empty folder to an answer, and back to nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{PATIENCE, Process, ask_admin, cmg, eventually, free_port, outcome, run, text};
use crate::needs;

/// A `cmg up` in a folder of its own, called as somebody without cmg in PATH would: `./cmg up`.
struct Up<'f> {
    process: Process,
    folder: &'f Path,
}

impl<'f> Up<'f> {
    /// Starts it; standard output goes to a file of its own.
    fn call(folder: &'f Path, options: &[&str]) -> Up<'f> {
        let program = folder.join("cmg");
        if !program.exists() {
            symlink(cmg().get_program(), program).unwrap();
        }
        for file in ["up.log", "lines"] {
            let _ = fs::remove_file(folder.join(file));
        }
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec ./cmg up --dir d "$@" > lines"#, "sh"]).args(options).current_dir(folder);
        Up { process: Process::start(&mut command, &folder.join("up.log")), folder }
    }

    /// Starts it and waits until it says how to use it.
    fn start(folder: &'f Path, options: &[&str]) -> (Up<'f>, serde_json::Value) {
        let mut up = Up::call(folder, options);
        // The lines for people come right after the file for scripts.
        eventually("cmg up is ready", || {
            assert!(up.process.is_running(), "{}", up.process.log());
            folder.join("d/up.json").exists() && up.lines().contains("Ctrl-C drains and stops.")
        });
        let report = serde_json::from_slice(&fs::read(folder.join("d/up.json")).unwrap()).unwrap();
        (up, report)
    }

    /// What stands on its standard output.
    fn lines(&self) -> String {
        fs::read_to_string(self.folder.join("lines")).unwrap_or_default()
    }

    /// The lines that are not comments.
    fn commands(&self) -> Vec<String> {
        let lines = self.lines();
        lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// A line, word by word as a shell takes it, where `cmg up` was called.
    fn run_line(&self, line: &str) -> Output {
        outcome(Command::new("sh").arg("-c").arg(line).current_dir(self.folder))
    }

    fn stop(mut self, report: &serde_json::Value) {
        self.process.signal(libc::SIGINT);
        let status = self.process.wait_for_exit(Duration::from_secs(40)).expect("SIGINT drains and stops");
        assert!(status.success(), "{status}\n{}", self.process.log());
        self.check_nothing_is_left(report);
    }

    fn check_nothing_is_left(&self, report: &serde_json::Value) {
        assert!(!self.folder.join("d/up.json").exists(), "nothing is ready any more");
        for (role, pid) in report["pids"].as_object().unwrap() {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{role} outlived `cmg up`");
        }
    }
}

fn answered(commands: &[String]) -> &str {
    commands.iter().find(|line| line.contains(" --cert ")).expect("a line with a certificate")
}

#[test]
fn every_line_that_up_prints_can_be_run_as_it_stands() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = Up::start(folder.path(), &[]);
    let commands = up.commands();
    assert_eq!(commands.len(), 7, "{}", up.lines());
    for line in &commands {
        let output = up.run_line(line);
        let (answer, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}: {errors}");
        let expected = match line {
            line if line.contains(" --cert ") => "HTTP/1.1 200 ",
            line if line.contains(" --include ") => "HTTP/1.1 403 CMGService_Client_Certificate_Required\r\n",
            line if line.ends_with("/status") => "{",
            line if line.ends_with("/metrics") => "# ",
            line if line.starts_with("./cmg status --dir ") => "",
            line => panic!("an unknown line: {line}"),
        };
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
    let answer = text(&up.run_line(answered(&commands)).stdout);
    assert!(answer.contains("target: /SMS_MP/.sms_aut?MPLIST"), "{answer}");
    // A process in the place of one that ends with its parent would be left when that ends.
    for role in ["gateway", "connector"] {
        let refused = up.run_line(&format!("./cmg upgrade --config d/{role}.toml"));
        assert_eq!(refused.status.code(), Some(1));
        let (told, errors) = (format!("no {role} runs with these settings"), text(&refused.stderr));
        assert!(errors.contains(&told) && errors.contains("`cmg up`"), "{errors}");
    }
    // All of it is text for a shell.
    run(Command::new("sh").arg("-n").arg(folder.path().join("lines")));
    up.stop(&report);
}

#[test]
fn what_a_client_is_given_leads_to_the_management_point() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = Up::start(folder.path(), &["--name", "cmg.example.org"]);
    let lines = up.lines();
    let value = |key: &str| {
        let (_, rest) = lines.split_once(key).unwrap_or_else(|| panic!("no {key} in {lines}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let (place, mp) = (value(" CCMHOSTNAME="), value(" /mp:"));
    let port = report["gateway"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    assert_eq!(place, format!("cmg.example.org:{port}/CCM_Proxy_MutualAuth/72057594037927941"));
    assert_eq!(mp, format!("https://{place}"));
    assert_eq!(value(" SMSSiteCode="), "PS1");
    // A client appends ordinary paths to it.
    let commands = up.commands();
    let line = answered(&commands).replace(report["url"].as_str().unwrap(), &format!("{mp}/CCM_Client/x"));
    let answer = text(&up.run_line(&line).stdout);
    assert!(answer.contains("target: /CCM_Client/x"), "{answer}");
    up.stop(&report);
}

#[test]
fn the_file_for_scripts_names_what_there_is() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = Up::start(folder.path(), &[]);
    let fields = ["gateway", "service", "url", "refused_url", "ca", "client_cert", "client_key"];
    for field in fields.into_iter().chain(["clients_dir", "admin", "pids", "origin"]) {
        assert!(!report[field].is_null(), "{field}: {report:#}");
    }
    for file in ["ca", "client_cert", "client_key", "clients_dir"] {
        assert!(Path::new(report[file].as_str().unwrap()).exists(), "{file}");
    }
    for role in ["gateway", "connector"] {
        let address = report["admin"][role].as_str().unwrap().parse().unwrap();
        assert!(matches!(ask_admin(address, "/readyz"), Some((200, _))), "{role}");
    }
    let commands = up.commands();
    let line = answered(&commands);
    let refused = line.replace(report["url"].as_str().unwrap(), report["refused_url"].as_str().unwrap());
    assert_ne!(refused, line);
    let answer = text(&up.run_line(&refused).stdout);
    assert!(answer.starts_with("HTTP/1.1 404 CMGService_Unknown_Url"), "{answer}");
    up.stop(&report);
}

#[test]
fn a_second_start_uses_what_the_first_one_made() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let kept = |report: &serde_json::Value| {
        let file = |key: &str| fs::read(report[key].as_str().unwrap()).unwrap();
        (file("ca"), file("client_cert"), file("client_key"), report["url"].clone(), report["admin"].clone())
    };
    let (up, report) = Up::start(folder.path(), &[]);
    let first = kept(&report);
    up.stop(&report);
    let (up, report) = Up::start(folder.path(), &[]);
    assert!(kept(&report) == first, "{report:#}");
    let commands = up.commands();
    let answer = text(&up.run_line(answered(&commands)).stdout);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    up.stop(&report);
}

#[test]
fn every_port_goes_where_it_was_asked_to() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let options = [
        "--gateway-port",
        "--channel-port",
        "--gateway-admin-port",
        "--connector-admin-port",
        "--origin-port",
    ];
    let ports: Vec<String> = options.iter().map(|_| free_port().to_string()).collect();
    let given: Vec<&str> =
        options.iter().zip(&ports).flat_map(|(option, port)| [*option, port.as_str()]).collect();
    let (up, report) = Up::start(folder.path(), &given);
    let address = |port: &str| format!("127.0.0.1:{port}");
    assert_eq!(report["gateway"], address(&ports[0]));
    assert!(up.lines().contains(&format!("channels on {}", address(&ports[1]))), "{}", up.lines());
    assert_eq!(report["admin"]["gateway"], address(&ports[2]));
    assert_eq!(report["admin"]["connector"], address(&ports[3]));
    assert_eq!(report["origin"], format!("http://{}", address(&ports[4])));
    let commands = up.commands();
    let answer = text(&up.run_line(answered(&commands)).stdout);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    up.stop(&report);
}

#[test]
fn up_names_the_role_that_died_and_shows_the_end_of_its_log() {
    for role in ["connector", "gateway", "origin"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut up, report) = Up::start(folder.path(), &[]);
        let pid = report["pids"][role].as_u64().unwrap();
        fs::write(folder.path().join(format!("d/{role}.log")), "the last words\n").unwrap();
        run(Command::new("kill").arg("-9").arg(pid.to_string()));
        let status = up.process.wait_for_exit(PATIENCE).expect("it stops the rest");
        let log = up.process.log();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("cmg: the {role} ended: signal 9")), "{log}");
        assert!(log.contains("the last words"), "{log}");
        up.check_nothing_is_left(&report);
    }
}

#[test]
fn a_signal_while_certificates_are_made_stops_it_and_the_next_start_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = Up::call(folder.path(), &["--clients", "1000000"]);
    let clients = folder.path().join("d/pki/clients");
    eventually("some certificates are made", || clients.join("client-1.pem").exists());
    up.process.signal(libc::SIGINT);
    let status = up.process.wait_for_exit(PATIENCE).expect("a signal stops it");
    assert!(status.success() && up.lines().is_empty(), "{status} {}", up.process.log());
    let (up, report) = Up::start(folder.path(), &["--clients", "1"]);
    let halves = fs::read_dir(&clients).unwrap().flatten();
    let halves: Vec<PathBuf> = halves
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|end| end == "pem") != path.with_extension("key").exists()
        })
        .filter(|path| path.extension().is_some_and(|end| end == "pem"))
        .collect();
    assert!(halves.is_empty(), "{halves:?}");
    up.stop(&report);
}

#[test]
fn a_second_signal_ends_what_is_still_draining() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    let (mut up, report) = Up::start(folder.path(), &[]);
    let url = report["url"].as_str().unwrap();
    let commands = up.commands();
    // An answer that would take hours.
    let slow = answered(&commands).replace(url, &format!("{url}&bytes=100000000"));
    let slow = slow + " --limit-rate 1k --output slow";
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec {slow}")).current_dir(folder.path());
    let curl = Process::start(&mut command, &folder.path().join("curl.log"));
    eventually("the answer has begun", || folder.path().join("slow").exists());
    up.process.signal(libc::SIGTERM);
    eventually("it says that it drains", || up.process.log().contains("draining; Ctrl-C stops at once"));
    assert!(up.process.is_running());
    up.process.signal(libc::SIGTERM);
    let status = up.process.wait_for_exit(PATIENCE).expect("the second signal ends it");
    assert!(status.success(), "{status}");
    assert!(up.process.log().contains("stopping at once"), "{}", up.process.log());
    up.check_nothing_is_left(&report);
    drop(curl);
}

#[test]
fn a_second_up_in_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (up, report) = Up::start(folder.path(), &[]);
    let second = outcome(cmg().arg("up").arg("--dir").arg(folder.path().join("d")));
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another `cmg up`"), "{}", text(&second.stderr));
    assert!(second.stdout.is_empty());
    up.stop(&report);
}

/// Starts once and stops, so that the folder is as any later start finds it.
fn used(folder: &Path) {
    let (up, report) = Up::start(folder, &[]);
    up.stop(&report);
}

#[test]
fn an_edited_settings_file_is_used_as_it_is_or_explained() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    used(folder.path());
    let site = folder.path().join("d/site.toml");
    let edited = fs::read_to_string(&site)
        .unwrap()
        .replace("serial = 1", "serial = 2")
        .replace("id = 72057594037927941", "id = 72057594037927950 # edited");
    fs::write(&site, &edited).unwrap();
    let (up, report) = Up::start(folder.path(), &[]);
    let commands = up.commands();
    let answer = text(&up.run_line(answered(&commands)).stdout);
    assert!(answered(&commands).contains("/72057594037927950/"), "{}", up.lines());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(fs::read_to_string(&site).unwrap(), edited);
    up.stop(&report);

    // An option that would have to change it.
    let refused = |options: &[&str]| {
        let output = outcome(cmg().args(["up", "--dir"]).arg(folder.path().join("d")).args(options));
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        text(&output.stderr)
    };
    let told = refused(&["--origin", "http://mp.corp"]);
    assert!(told.contains("site.toml was edited"), "{told}");
    // A mistake in it.
    fs::write(&site, edited.replace("url = ", "ulr = ")).unwrap();
    let told = refused(&[]);
    assert!(told.contains("site.toml:") && told.contains("ulr") && told.contains("url"), "{told}");
}

#[test]
fn a_half_deleted_folder_is_mended_or_explained() {
    needs!("curl", "sh");
    let folder = tempfile::tempdir().unwrap();
    used(folder.path());
    let d = folder.path().join("d");
    // What can be made again is: also all certificates, and then what the gateway remembers is outdated.
    for gone in ["pki/server", "pki/clients", "state", "gateway.toml", "pki"] {
        let path = d.join(gone);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        let (up, report) = Up::start(folder.path(), &[]);
        let commands = up.commands();
        let answer = text(&up.run_line(answered(&commands)).stdout);
        assert!(answer.starts_with("HTTP/1.1 200 "), "without {gone}: {answer}");
        up.stop(&report);
    }
    let told = || {
        let output = outcome(cmg().args(["up", "--dir"]).arg(&d));
        assert!(!output.status.success() && output.stdout.is_empty());
        text(&output.stderr)
    };
    // What cannot is told.
    fs::rename(d.join("pki/ca.key"), d.join("ca.key")).unwrap();
    assert!(told().contains("ca.key is not: put it back"), "{}", told());
    fs::rename(d.join("ca.key"), d.join("pki/ca.key")).unwrap();
    let choices = fs::read(d.join("choices.json")).unwrap();
    fs::write(d.join("choices.json"), &choices[..choices.len() / 2]).unwrap();
    assert!(told().contains("choices.json: ") && told().contains("written anew"), "{}", told());
    fs::remove_file(d.join("choices.json")).unwrap();
    assert!(told().contains("but not choices.json"), "{}", told());
    // With the settings files away too, all is written anew, above what the gateway remembers.
    for name in ["gateway.toml", "connector.toml", "site.toml"] {
        fs::remove_file(d.join(name)).unwrap();
    }
    let (up, report) = Up::start(folder.path(), &[]);
    let commands = up.commands();
    let answer = text(&up.run_line(answered(&commands)).stdout);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    up.stop(&report);
}
