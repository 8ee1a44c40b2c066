//! What somebody does who wants to stop the service, or is unlucky with files: logs that cannot be
//! written, commands that are given devices, connectors that die again and again.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, PATIENCE, Process, SampleOrigin, Setup, Stack, ask_admin, cmg, eventually,
    read_head,
};
use crate::needs;

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

fn logging(origin: &str) -> Setup {
    Setup { gateway_limits: "[log]\naccess_log = \"access.log\"\n".into(), ..Setup::new(origin) }
}

fn is_served(stack: &Stack) {
    let mut client = stack.client().unwrap();
    for _ in 0..20 {
        assert_eq!(client.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
    }
}

fn mkfifo(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// What the process says once it ended by itself.
fn ends(command: &mut Command, log: &std::path::Path) -> (Option<i32>, String) {
    let mut process = Process::start(command, log);
    let ended = process.wait_for_exit(PATIENCE).expect("it ends");
    (ended.code(), process.log())
}

#[test]
fn an_access_log_that_is_taken_away_holds_up_no_request_and_comes_back() {
    let origin = SampleOrigin::start();
    let stack = logging(&origin.url()).start();
    let path = stack.path("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
    is_served(&stack);
    eventually("there are lines", || lines() >= 20);
    fs::remove_file(&path).unwrap();
    is_served(&stack);
    eventually("a new file has lines", || lines() >= 20);
    for take_its_place in [mkfifo, |path: &std::path::Path| fs::create_dir(path).unwrap()] {
        fs::remove_file(&path).unwrap();
        take_its_place(&path);
        is_served(&stack);
        eventually("it is told", || stack.gateway().log().contains("the access log cannot be written"));
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        is_served(&stack);
        eventually("lines are written again", || lines() > 0);
    }
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_no_request() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let mut command = cmg();
    command.arg("gateway").arg("--config").arg(stack.path("gateway.toml"));
    // A pipe of 64 KiB that stays full.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    stack.gateway = Some(Process::adopt(&mut command, &stack.path("gateway.log")));
    stack.start_connector();
    stack.wait_until_ready();
    let mut client = stack.client().unwrap();
    let path = format!("/CCM_Proxy_MutualAuth/7/{}", "x".repeat(250));
    // Every second brings lines of refusals until the pipe is full; what follows must not wait for it.
    for _ in 0..8 {
        for _ in 0..300 {
            assert_eq!(client.ask("GET", &path).unwrap().status, 404);
        }
        thread::sleep(Duration::from_secs(1));
    }
    is_served(&stack);
    assert!(matches!(ask_admin(stack.gateway_admin(), "/healthz"), Some((200, _))));
}

#[test]
fn commands_end_whatever_file_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    mkfifo(&at("fifo.toml"));
    fs::write(at("many.toml"), "[[listener]]\naddress = \"x\"\n".repeat(100_000)).unwrap();
    fs::write(at("deep.toml"), format!("[gateway]\nname = {}", "[".repeat(100_000))).unwrap();
    for name in ["fifo.toml", "many.toml", "deep.toml"] {
        let (code, said) = ends(cmg().arg("check").arg(at(name)), &at("log"));
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.lines().count() < 300, "{name}");
    }
    let rows = |external: &dyn Fn(usize) -> String| -> String {
        let row = |number| {
            format!("https://a/CCM_Proxy_MutualAuth/{},n,http://mp.corp/{number}\n", external(number))
        };
        (0..200_000).map(row).collect()
    };
    for (name, text) in [
        ("roles.csv", rows(&|number| format!("{}/a", number + 1))),
        ("endpoints.csv", rows(&|number| format!("1/a{number}"))),
    ] {
        fs::write(at(name), text).unwrap();
        let mut command = cmg();
        command.arg("import").arg(at(name)).arg("--out").arg(at("site.toml")).arg("--force");
        let (_, said) = ends(&mut command, &at(name).with_extension("log"));
        assert!(said.contains("expected at most"), "{name}: {}", &said[said.len().saturating_sub(500)..]);
    }
}

#[test]
fn no_answer_goes_astray_while_connectors_die() {
    let origin = HandOrigin::start(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            let Some(target) = head.split(' ').nth(1) else { return };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            if std::io::Write::write_all(&mut stream, answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut stack = Setup::new(origin.url()).start();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let answered = std::sync::atomic::AtomicU64::new(0);
    let ask = |stack: &Stack, number: usize| {
        let mut client: Option<Client> = None;
        let mut count = 0;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let mut held = client.take().or_else(|| stack.client()).unwrap();
            count += 1;
            let name = format!("SMS_MP/{number}-{count}");
            let Ok(answer) = held.ask("GET", &target(&name)) else { continue };
            assert!([200, 502].contains(&answer.status), "{answer:?}");
            if answer.status == 200 {
                assert_eq!(answer.text(), format!("/{name}"));
                answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                client = Some(held);
            }
        }
    };
    let mut connector = stack.connector.take();
    let shared = &stack;
    thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || ask(shared, number));
        }
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(700));
            connector.take().unwrap().kill();
            let config = shared.path("connector.toml");
            let mut command = cmg();
            command.arg("connector").arg("--config").arg(config);
            connector = Some(Process::start(&mut command, &shared.path("connector.log")));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(answered.into_inner() > 0);
    eventually("nothing is left", || {
        ["active", "waiting", "clients"].iter().all(|gauge| stack.count(gauge) == 0)
    });
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_machine_without_threads_to_give_is_told_and_no_bug() {
    needs!("prlimit");
    let stack = Setup::new("http://127.0.0.1:9").prepare();
    for role in ["gateway", "connector"] {
        let mut said = Vec::new();
        // Somewhere between these, one thread or the other cannot be had.
        for mib in (150..450).step_by(30) {
            let mut command = Command::new("prlimit");
            command.arg(format!("--as={}", mib << 20)).arg(env!("CARGO_BIN_EXE_cmg")).arg(role);
            command.arg("--config").arg(stack.path(&format!("{role}.toml")));
            let log = stack.path(&format!("{role}-{mib}.log"));
            let mut process = Process::start(&mut command, &log);
            if process.wait_for_exit(Duration::from_millis(700)).is_none() {
                process.signal(libc::SIGTERM);
                process.signal(libc::SIGTERM);
            }
            process.wait_for_exit(PATIENCE).expect("it ends");
            said.push(process.log());
        }
        for log in &said {
            // A shard's executor starts a thread by itself, and panics without: that ends the role as well.
            assert!(!log.contains("thread 'main'"), "{log}");
        }
    }
}
