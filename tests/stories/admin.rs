//! Asking and changing a running role: TLS and token, the control socket, the log.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::{
    PATIENCE, SERVICE, Setup, Stack, ask_admin, cmg, eventually, free_port, outcome, run, text,
};
use crate::needs;

const NOWHERE: &str = "http://127.0.0.1:1";
const TOKEN: &str = "a-token-of-this-story.0123456789abcdef";

fn change(stack: &Stack, file: &str, found: &str, now: &str) {
    let path = stack.path(file);
    let before = fs::read_to_string(&path).unwrap();
    assert!(before.contains(found), "{before}");
    fs::write(path, before.replacen(found, now, 1)).unwrap();
}

fn write_secret(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A gateway alone, whose `[admin]` begins with these lines instead of its address.
fn prepare(admin: &str) -> Stack {
    let stack = Setup::new(NOWHERE).prepare();
    let address = format!("address = \"127.0.0.1:{}\"\n[[site]]", stack.ports.gateway_admin);
    change(&stack, "gateway.toml", &address, &format!("{admin}\n[[site]]"));
    stack
}

fn wait_until_asked(address: SocketAddr) {
    eventually("the role is asked", || matches!(ask_admin(address, "/healthz"), Some((200, _))));
}

fn start_gateway(stack: &mut Stack) {
    stack.start_gateway();
    wait_until_asked(stack.gateway_admin());
}

/// `cmg COMMAND … --config gateway.toml`
fn command(stack: &Stack, arguments: &[&str]) -> Output {
    outcome(cmg().args(arguments).arg("--config").arg(stack.path("gateway.toml")))
}

fn log_level(stack: &Stack, arguments: &[&str]) -> String {
    let output = command(stack, &[&["log-level"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

/// A client that speaks no TLS: the gateway logs that with level debug.
fn fail_a_handshake(stack: &Stack) {
    let failures = stack.count("handshake_failures");
    let mut stream = TcpStream::connect(stack.gateway_address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    eventually("the handshake fails", || stack.count("handshake_failures") > failures);
}

fn debug_lines(log: &str) -> usize {
    log.matches("handshake failed").count() + log.matches("admin connection").count()
}

// ── TLS and token ───────────────────────────────────────────────────────────────────────────────

#[test]
fn off_loopback_tls_and_the_token_open_the_listener_and_nothing_else_does() {
    needs!("curl");
    let health = free_port();
    let mut stack = Setup::new(NOWHERE).prepare();
    let port = stack.ports.gateway_admin;
    let admin = format!(
        "address = \"0.0.0.0:{port}\"\nhealth_address = \"0.0.0.0:{health}\"\n\
         certificate = \"pki/server/{SERVICE}.pem\"\nkey = \"pki/server/{SERVICE}.key\"\ntoken_file = \"token\"\n"
    );
    change(
        &stack,
        "gateway.toml",
        &format!("address = \"127.0.0.1:{port}\"\n[[site]]"),
        &format!("{admin}[[site]]"),
    );
    write_secret(&stack.path("token"), &format!("{TOKEN}\n"));
    stack.start_gateway();
    let health_address = SocketAddr::from(([127, 0, 0, 1], health));
    wait_until_asked(health_address);

    let bearer = format!("Authorization: Bearer {TOKEN}");
    let almost = format!("Authorization: Bearer {}X", &TOKEN[..TOKEN.len() - 1]);
    let curl = |more: &[&str], path: &str| {
        let place = format!("{SERVICE}:{port}:127.0.0.1");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "60", "--resolve", &place, "--cacert"]);
        curl.arg(stack.path("pki/ca.pem")).args(more).arg(format!("https://{SERVICE}:{port}{path}"));
        text(&run(&mut curl))
    };
    let rows: [(&[&str], &str, &str); 9] = [
        (&["-H", &bearer], "/status", "200"),
        (&["-H", &bearer], "/metrics", "200"),
        (&["-H", &bearer, "-H", "Host: evil.example"], "/status", "200"),
        (&["-H", &bearer, "--tlsv1.2", "--tls-max", "1.2"], "/status", "200"),
        (&["-H", &bearer, "--tlsv1.3"], "/status", "200"),
        (&["-H", &bearer], "/nothing", "404"),
        (&[], "/status", "401"),
        (&["-H", &almost], "/metrics", "401"),
        (&["-H", &bearer, "-X", "PUT"], "/status", "405"),
    ];
    for (more, path, status) in rows {
        let answer = curl(more, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{more:?} {path}: {answer}");
        let is_challenge = answer.to_ascii_lowercase().contains("\r\nwww-authenticate: bearer realm=");
        assert_eq!(is_challenge, status == "401", "{answer}");
        assert_eq!(answer.contains("\"gw1\""), status == "200" && path == "/status", "{answer}");
    }
    let plain = outcome(
        Command::new("curl")
            .args(["--silent", "--max-time", "60", "-H", &bearer])
            .arg(format!("http://127.0.0.1:{port}/status")),
    );
    assert!(!plain.status.success() && plain.stdout.is_empty(), "{}", text(&plain.stdout));

    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/status", 404), ("/metrics", 404)] {
        assert_eq!(ask_admin(health_address, path).unwrap().0, status, "{path}");
    }

    // The command finds its way by the settings file, and by what it is told.
    let address = format!("https://{SERVICE}:{port}").replace(SERVICE, "127.0.0.1");
    let ca = stack.path("pki/ca.pem");
    let by_address = outcome(
        cmg()
            .args(["status", "--json", "--address", &address, "--ca"])
            .arg(ca)
            .arg("--token-file")
            .arg(stack.path("token")),
    );
    for output in [command(&stack, &["status", "--json"]), by_address] {
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told[0]["status"]["instance"], "gw1", "{told:#}");
        assert_eq!(output.status.code(), Some(1), "nothing is attached: it cannot be healthy");
    }
    assert!(!stack.gateway().log().contains(TOKEN));
}

#[test]
fn on_loopback_a_foreign_host_is_refused() {
    needs!("curl");
    let mut stack = Setup::new(NOWHERE).prepare();
    start_gateway(&mut stack);
    for (host, status) in [("evil.example", "421"), ("localhost", "200")] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "-H", &format!("Host: {host}")]);
        let answer = text(&run(curl.arg(format!("http://{}/status", stack.gateway_admin()))));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
}

#[test]
fn a_role_does_not_start_with_files_that_do_not_protect_it() {
    let chain = format!("certificate = \"pki/server/{SERVICE}.pem\"");
    let key = format!("key = \"pki/server/{SERVICE}.key\"");
    let (token, open) = ("token_file = \"token\"", "token_file = \"open\"");
    let rows = [
        ("", "", "", "admin.address", "0.0.0.0"),
        (chain.as_str(), key.as_str(), "", "admin", "token_file"),
        ("certificate = \"token\"", &key, token, "admin.certificate", "not PEM"),
        (&chain, "key = \"missing.key\"", token, "admin.key", "missing.key"),
        (&chain, "key = \"pki/ca.key\"", token, "admin.key", "ca.key"),
        (&chain, &key, open, "admin.token_file", "mode 644"),
        (&chain, &key, "token_file = \"short\"", "admin.token_file", "5 characters"),
    ];
    for (chain, key, token, wrong, found) in rows {
        let stack = prepare(&format!("address = \"0.0.0.0:0\"\n{chain}\n{key}\n{token}"));
        write_secret(&stack.path("token"), TOKEN);
        write_secret(&stack.path("short"), "short");
        fs::write(stack.path("open"), TOKEN).unwrap();
        fs::set_permissions(stack.path("open"), Permissions::from_mode(0o644)).unwrap();
        let output = command(&stack, &["gateway"]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let place = format!("{}:", stack.path("gateway.toml").display());
        assert!(errors.contains(&place) && errors.contains(found), "{errors}");
        assert!(errors.contains(&format!(": {wrong}: found ")) && errors.contains(", expected "), "{errors}");
        assert!(!errors.contains(TOKEN), "{errors}");
        assert!(!stack.path("gateway.sock").exists());
    }
}

// ── the control socket ──────────────────────────────────────────────────────────────────────────

#[test]
fn the_control_socket_is_its_owners_outlives_a_kill_and_goes_with_its_role() {
    let mut stack = Setup::new(NOWHERE).prepare();
    let socket = stack.path("gateway.sock");
    start_gateway(&mut stack);
    let found = fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket() && found.mode() & 0o777 == 0o600, "{:o}", found.mode());
    stack.gateway.take().unwrap().kill();
    assert!(socket.exists(), "nobody was left to take it away");
    let output = command(&stack, &["log-level"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is the role running"), "{}", text(&output.stderr));

    start_gateway(&mut stack);
    assert_eq!(log_level(&stack, &[]), "info");

    // Another role of the same name finds it alive, and leaves it so.
    let other = Setup::new(NOWHERE).prepare();
    let admin = format!("[admin]\nsocket = \"{}\"", socket.display());
    change(&other, "gateway.toml", "[admin]", &admin);
    let output = command(&other, &["gateway"]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", text(&output.stderr));
    let errors = text(&output.stderr);
    assert!(errors.contains("admin.socket: found a running process"), "{errors}");
    assert_eq!(log_level(&stack, &[]), "info");

    let gateway = stack.gateway.as_mut().unwrap();
    gateway.signal(libc::SIGTERM);
    assert!(gateway.wait_for_exit(PATIENCE).unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn a_control_socket_may_have_a_long_path_and_must_have_the_one_that_was_asked_for() {
    let mut stack = Setup::new(NOWHERE).prepare();
    let folder = "folder-with-a-long-name-".repeat(8);
    let socket = format!("{folder}/{}.sock", "n".repeat(120));
    change(&stack, "gateway.toml", "[admin]", &format!("[admin]\nsocket = \"{socket}\""));
    let output = command(&stack, &["gateway"]);
    let errors = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{errors}");
    assert!(errors.contains("admin.socket: found ") && errors.contains("No such file"), "{errors}");

    fs::create_dir(stack.path(&folder)).unwrap();
    start_gateway(&mut stack);
    assert_eq!(log_level(&stack, &[]), "info");
    assert!(!stack.path("gateway.sock").exists());
}

#[test]
fn without_a_place_for_the_socket_a_role_runs_and_says_what_is_missing() {
    let mut stack = Setup::new(NOWHERE).prepare();
    fs::create_dir(stack.path("gateway.sock")).unwrap();
    start_gateway(&mut stack);
    let log = stack.gateway().log();
    assert!(log.contains("WARN") && log.contains("key=\"admin.socket\""), "{log}");
}

// ── the log ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_log_level_of_a_running_role_changes_and_goes_back_by_itself() {
    let mut stack = Setup::new(NOWHERE).prepare();
    start_gateway(&mut stack);
    fail_a_handshake(&stack);
    assert_eq!(log_level(&stack, &[]), "info");
    assert_eq!(log_level(&stack, &["debug"]), "debug");
    let log = || stack.gateway().log();
    eventually("the change is logged", || log().contains("log level changed level=\"debug\""));
    assert_eq!(debug_lines(&log()), 0, "the one before was logged");
    fail_a_handshake(&stack);
    eventually("debug lines appear", || debug_lines(&log()) == 1);

    assert_eq!(log_level(&stack, &["warn"]), "warn");
    assert!(log_level(&stack, &["trace", "--for", "1s"]).starts_with("trace (in 1 s warn again)"));
    eventually("it goes back", || log_level(&stack, &[]) == "warn");
    let before = debug_lines(&log());
    fail_a_handshake(&stack);
    // Said behind it, so that what it said is there by then.
    change(&stack, "gateway.toml", "[limits]", "[limits]\nidle_secs = 0");
    stack.gateway().signal(libc::SIGHUP);
    eventually("SIGHUP is answered", || log().contains("not reloaded"));
    change(&stack, "gateway.toml", "idle_secs = 0\n", "");
    assert_eq!(debug_lines(&log()), before);

    for (arguments, word) in [
        (&["log-level", "loud"][..], "loud"),
        (&["log-level", "debug", "--for", "2 days"], "--for"),
        (&["log-level", "--for", "1s"], "LEVEL"),
    ] {
        let output = command(&stack, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
}

#[test]
fn sighup_ends_no_role() {
    let origin = crate::harness::SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    for process in [stack.gateway(), stack.connector()] {
        process.signal(libc::SIGHUP);
        eventually("it is logged", || process.log().contains("reloaded: nothing has changed"));
    }
    stack.wait_until_ready();
}

#[test]
fn a_second_signal_stops_at_once_and_the_log_still_has_its_last_line() {
    let mut stack = Setup::new(NOWHERE).prepare();
    stack.start_connector();
    wait_until_asked(SocketAddr::from(([127, 0, 0, 1], stack.ports.connector_admin)));
    let connector = stack.connector.as_mut().unwrap();
    // Both are there when it goes on: with nothing to drain it could have ended before the second.
    connector.signal(libc::SIGSTOP);
    connector.signal(libc::SIGTERM);
    connector.signal(libc::SIGINT);
    connector.signal(libc::SIGCONT);
    assert!(connector.wait_for_exit(PATIENCE).expect("it ends").success());
    let log = connector.log();
    assert!(log.contains("draining") && log.contains("stopping at once"), "{log}");
    assert!(!stack.path("connector.sock").exists());
}

#[test]
fn a_log_is_written_as_the_settings_say() {
    for format in ["json", "cmtrace"] {
        let mut stack = Setup::new(NOWHERE).prepare();
        change(&stack, "gateway.toml", "[admin]", &format!("[log]\nformat = \"{format}\"\n[admin]"));
        start_gateway(&mut stack);
        change(&stack, "gateway.toml", "[limits]", "[limits]\nidle_secs = 0");
        stack.gateway().signal(libc::SIGHUP);
        let log = || stack.gateway().log();
        eventually("it is logged", || log().contains("not reloaded") && log().ends_with('\n'));
        for line in log().lines() {
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).expect(line);
                assert!(
                    ["timestamp", "level", "message", "target"].iter().all(|key| line[key].is_string()),
                    "{line}"
                );
                continue;
            }
            let (_, end) = line.split_once("~~  $$<CMG_GATEWAY><").expect(line);
            let (time, thread) = end.split_once("><thread=").expect(line);
            assert!(time.len() == "11-22-2026 00:00:00.000+00".len() && time.ends_with("+00"), "{line}");
            let (number, hex) = thread.strip_suffix(")>").unwrap().split_once(" (0x").unwrap();
            assert_eq!(format!("{:X}", number.parse::<u32>().unwrap()), hex, "{line}");
            assert_eq!(line.contains("not reloaded"), line.starts_with("ERROR: "), "{line}");
        }
    }
}

/// Starts a gateway whose standard error is a pipe of 4 KiB that nobody reads, and gives the pipe.
fn start_with_deaf_log(stack: &mut Stack) -> File {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is ours and open.
    assert!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4_096) } >= 0);
    let config = stack.path("gateway.toml");
    let mut command = cmg();
    command.arg("gateway").arg("--config").arg(config).env("RUST_LOG", "debug");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    stack.gateway = Some(crate::harness::Process::adopt(&mut command, &stack.path("gateway.log")));
    wait_until_asked(stack.gateway_admin());
    std::os::fd::OwnedFd::from(reader).into()
}

/// More lines than pipe and queue can take: one for each connection that speaks no HTTP. What clients of
/// the gateway do wrong is limited in lines before it comes so far.
fn flood(stack: &Stack) {
    let wanted = cmg::limits::LOG_LINES_MAX + 1_200;
    let address = stack.gateway_admin();
    let flooders: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..wanted / 4 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(b"\0\0\r\n\r\n").unwrap();
                    // Until it is closed, so that no more than these are open at once.
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            })
        })
        .collect();
    flooders.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn a_log_that_nobody_reads_stops_no_role_and_says_later_what_it_left_out() {
    let mut stack = Setup::new(NOWHERE).prepare();
    let mut pipe = start_with_deaf_log(&mut stack);
    flood(&stack);
    // Shards answer, and so does the thread of the admin listener.
    let mut client = stack.client().expect("a handshake");
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 404);
    assert_eq!(ask_admin(stack.gateway_admin(), "/healthz").unwrap().0, 200);

    let heard = Arc::new(Mutex::new(String::new()));
    let hears = heard.clone();
    let reader = thread::spawn(move || {
        let mut piece = [0; 65_536];
        while let Ok(size @ 1..) = pipe.read(&mut piece) {
            hears.lock().unwrap().push_str(std::str::from_utf8(&piece[..size]).unwrap());
        }
    });
    eventually("it is said", || heard.lock().unwrap().contains("log lines left out"));
    let gateway = stack.gateway.as_mut().unwrap();
    gateway.signal(libc::SIGTERM);
    assert!(gateway.wait_for_exit(PATIENCE).unwrap().success());
    reader.join().unwrap();
    let heard = heard.lock().unwrap();
    let count = |line: &str| line.rsplit_once("count=").and_then(|(_, count)| count.parse::<u64>().ok());
    let left_out: u64 =
        heard.lines().filter(|line| line.contains("log lines left out")).filter_map(count).sum();
    let written = debug_lines(&heard) as u64;
    assert!(left_out > 0, "{} lines", heard.lines().count());
    assert!(written + left_out >= cmg::limits::LOG_LINES_MAX as u64 + 1_000, "{written} and {left_out}");
    // What was said last is there: the end waits for it.
    assert!(heard.contains("draining"), "{}", heard.lines().last().unwrap_or_default());
}

#[test]
fn a_log_that_nobody_reads_delays_no_end() {
    let mut stack = Setup::new(NOWHERE).prepare();
    let _pipe = start_with_deaf_log(&mut stack);
    flood(&stack);
    let gateway = stack.gateway.as_mut().unwrap();
    gateway.signal(libc::SIGTERM);
    gateway.signal(libc::SIGINT);
    assert!(gateway.wait_for_exit(PATIENCE).expect("it ends").success());
    assert!(!stack.path("gateway.sock").exists());
}
