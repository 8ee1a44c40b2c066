//! What somebody does who wants to stop the service, or is unlucky with files: logs that cannot be
//! written, commands that are given devices, connectors that die again and again, clients that reset their
//! connections, renegotiate, or send records that are too large.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::client::{self, Client};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin,
    cmg, eventually, read_head, text,
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

/// Asks again and again while `attack` goes on; nobody may notice that. Then nothing is left of it.
fn while_others_are_answered(stack: &Stack, attack: impl FnOnce()) {
    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut kept = stack.client().unwrap();
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(kept.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
                let mut new = stack.client().unwrap();
                assert_eq!(new.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
                answered.fetch_add(2, Ordering::Relaxed);
            }
        });
        // Or the other would go on for ever.
        let attacked = catch_unwind(AssertUnwindSafe(attack));
        let before = answered.load(Ordering::Relaxed);
        eventually("others are answered still", || {
            other.is_finished() || answered.load(Ordering::Relaxed) > before
        });
        is_over.store(true, Ordering::Relaxed);
        other.join().unwrap();
        attacked.unwrap_or_else(|cause| resume_unwind(cause));
    });
    eventually("nothing is left", || {
        ["active", "waiting", "clients"].iter().all(|gauge| stack.count(gauge) == 0)
    });
    assert_eq!(stack.count("panics"), 0);
}

/// A socket whose end is a reset, whatever was sent.
fn abrupt(stack: &Stack) -> TcpStream {
    let socket = TcpStream::connect(stack.gateway_address()).unwrap();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of_val(&linger)).unwrap();
    // SAFETY: the descriptor is the socket's, and the option is read before the call returns.
    let set = unsafe {
        let value = (&raw const linger).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, size)
    };
    assert_eq!(set, 0);
    socket
}

#[test]
fn clients_that_reset_their_connections_leave_nothing_behind() {
    let held: Arc<AtomicUsize> = Arc::default();
    let count = held.clone();
    let origin = HandOrigin::start(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            let answer: &[u8] = match &head {
                head if head.is_empty() => return,
                head if head.contains("/held") => {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = read_head(&mut stream);
                    count.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                // Never whole.
                head if head.starts_with("POST") => {
                    let _ = stream.read(&mut [0; 64]);
                    return;
                }
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let mut setup = Setup::new(origin.url());
    setup.site =
        format!("[[endpoint]]\nid = {OWN}\npath = \"held\"\nurl = \"{}/held\"\nheld = true\n", origin.url());
    let stack = setup.start();
    let (certificate, key) = stack.client_pair();
    let config = client::config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let in_head = format!("GET {} HTTP/1.1\r\nHo", target("SMS_MP/x"));
    let in_body = format!(
        "POST {} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: 1000\r\n\r\n{}",
        target("CCM_System/request"),
        "x".repeat(500)
    );
    let in_held = format!("GET /CCM_Proxy_MutualAuth/{OWN}/held/x HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n");
    let sent = [in_head, in_body, in_held.clone(), in_held];
    while_others_are_answered(&stack, || {
        for number in 0..500 {
            let socket = abrupt(&stack);
            // One of five has not even said hello.
            match sent.get(number % 5) {
                Some(sent) => {
                    let mut client = Client::over(socket, config.clone(), PATIENCE).unwrap();
                    client.send(sent.as_bytes());
                    if number % 10 == 3 {
                        eventually("it is held", || held.load(Ordering::SeqCst) > 0);
                    }
                }
                None => { &socket }.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).unwrap(),
            }
        }
    });
    eventually("no origin holds a request of theirs", || held.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_client_that_asks_to_renegotiate_is_turned_away_and_nobody_else_notices() {
    needs!("openssl");
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let (certificate, key) = stack.client_pair();
    let request = format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("SMS_MP/x"));
    while_others_are_answered(&stack, || {
        for _ in 0..10 {
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-tls1_2", "-connect", &stack.gateway_address().to_string()]);
            openssl.args(["-servername", SERVICE, "-CAfile"]).arg(stack.path("pki/ca.pem"));
            openssl.arg("-cert").arg(&certificate).arg("-key").arg(&key);
            let process = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut process = process.unwrap();
            let mut stdin = process.stdin.take().unwrap();
            let (tell, told) = mpsc::channel();
            let (stdout, stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
            for mut stream in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
                let tell = tell.clone();
                thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(size @ 1..) = stream.read(&mut piece) {
                        let _ = tell.send(text(&piece[..size]));
                    }
                });
            }
            drop(tell);
            let mut said = String::new();
            let mut hear = |until: &str| {
                while !said.contains(until) {
                    match told.recv_timeout(PATIENCE) {
                        Ok(more) => said += &more,
                        Err(error) => return (Some(error), said.clone()),
                    }
                }
                (None, said.clone())
            };
            stdin.write_all(request.as_bytes()).unwrap();
            hear("HTTP/1.1 200");
            stdin.write_all(b"R\n").unwrap();
            hear("RENEGOTIATING");
            // With the next request it begins, if not before; then the process ends by itself, for `stdin` is open.
            let _ = stdin.write_all(request.as_bytes());
            let (ended, said) = hear("what is never said");
            assert_eq!(ended, Some(mpsc::RecvTimeoutError::Disconnected), "it was turned away: {said}");
            assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
            assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{said}");
            process.wait().unwrap();
        }
    });
}

#[test]
fn records_and_hellos_that_are_too_large_end_their_connection_alone() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let (certificate, key) = stack.client_pair();
    let config = client::config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let filled = |head: &[u8], size: usize| [head, &vec![0; size]].concat();
    // A hello of 16 MiB, in records of the largest size.
    let mut endless = filled(&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff], (1 << 14) - 4);
    for _ in 0..15 {
        endless.extend(filled(&[0x16, 3, 1, 0x40, 0], 1 << 14));
    }
    let first =
        [filled(&[0x16, 3, 1, 0xff, 0xff], 0xffff), filled(&[0x16, 3, 1, 0x48, 0x01], 0x4801), endless];
    let later = [filled(&[0x17, 3, 3, 0xff, 0xff], 0xffff), filled(&[0x17, 3, 3, 0x48, 0x01], 0x4801)];
    let is_ended = |socket: &mut TcpStream| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        match socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    let before = stack.gateway().resident();
    while_others_are_answered(&stack, || {
        for _ in 0..20 {
            for bytes in &first {
                let mut socket = TcpStream::connect(stack.gateway_address()).unwrap();
                // The gateway need not take all of it.
                let _ = socket.write_all(bytes);
                assert!(is_ended(&mut socket), "a hello that begins {:x?}", &bytes[..9]);
            }
            for bytes in &later {
                let mut socket = TcpStream::connect(stack.gateway_address()).unwrap();
                let behind = socket.try_clone().unwrap();
                let mut client = Client::over(behind, config.clone(), PATIENCE).unwrap();
                assert_eq!(client.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
                let _ = socket.write_all(bytes);
                assert!(is_ended(&mut socket), "a record that begins {:x?}", &bytes[..5]);
            }
        }
    });
    let grown = stack.gateway().resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} octets more");
}
