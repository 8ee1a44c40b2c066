//! The ways to a gateway: TCP-TLS while that leads there, else HTTPS, also through a proxy, and back.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cmg::channel::HTTPS_ALPN;
use cmg::limits::{FALL_BACK_WITHIN, HELLO_COUNT_MAX};
use cmg::pki::gateway_tls_name;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client::{Client, config};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin, eventually,
    free_port, local, program, read_head,
};
use crate::needs;

// ── the cast ────────────────────────────────────────────────────────────────────────────────────

/// How a line behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    /// Bytes pass.
    Open,
    /// Whoever connects is cut off, and so were those who had.
    Closed,
    /// Nothing passes and nobody is told, as where a firewall drops packets.
    Silent,
}

/// A TCP line to a port, which can be cut.
#[derive(Clone)]
struct Line {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(port: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let line = Line { address, mode: Arc::new(AtomicU8::new(Mode::Open as u8)), ends: Arc::default() };
        let serving = line.clone();
        thread::spawn(move || {
            for outside in listener.incoming().flatten() {
                serving.serve(outside, port);
            }
        });
        line
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    fn serve(&self, outside: TcpStream, port: u16) {
        if self.is(Mode::Closed) {
            return;
        }
        self.ends.lock().unwrap().push(outside.try_clone().unwrap());
        if self.is(Mode::Silent) {
            return;
        }
        let Ok(inside) = TcpStream::connect(local(port)) else { return };
        self.ends.lock().unwrap().push(inside.try_clone().unwrap());
        for (from, to) in [(&outside, &inside), (&inside, &outside)] {
            let (line, from, to) = (self.clone(), from.try_clone().unwrap(), to.try_clone().unwrap());
            let _ = to.set_nodelay(true);
            thread::spawn(move || line.carry(from, to));
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(size) = from.read(&mut bytes) {
            while self.is(Mode::Silent) {
                thread::sleep(Duration::from_millis(20));
            }
            if size == 0 || to.write_all(&bytes[..size]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        if mode == Mode::Closed {
            for end in self.ends.lock().unwrap().drain(..) {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A gateway whose channel listener is reached over a line, and whose clients' listener takes channels by HTTPS.
fn start(origin: &SampleOrigin) -> (Stack, Line) {
    let (channel, gateway) = (free_port(), free_port());
    let line = Line::to(channel);
    let ways = format!("https = [\"{}\"]", local(gateway));
    let setup = Setup { channel: Some(line.address), ways, ..Setup::new(origin.url()) };
    let mut stack = setup.prepare_with(|ports| (ports.channel, ports.gateway) = (channel, gateway));
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    (stack, line)
}

/// What carries the channels that take requests, by the `/status` of a role.
fn transports(status: &serde_json::Value) -> Vec<String> {
    let links = status["links"].as_array().unwrap();
    let open = links.iter().filter(|link| link["open"] == true);
    open.map(|link| link["transport"].as_str().unwrap().to_owned()).collect()
}

fn stands_by(stack: &Stack, transport: &str) -> bool {
    let is_all = |status: &serde_json::Value| {
        let found = transports(status);
        found.len() == 2 && found.iter().all(|one| one == transport)
    };
    is_all(&stack.connector_status()) && is_all(&stack.status())
}

fn target() -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x")
}

/// Clients that ask without a pause until they are told to stop; each answer must be a good one.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(stack: &Stack) -> Load {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (certificate, key) = stack.client_pair();
        let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
        let address = stack.gateway_address();
        let threads = (0..4).map(|number| {
            let (stop, asked, config) = (stop.clone(), asked.clone(), config.clone());
            thread::spawn(move || {
                let mut client = Client::connect_with(address, config, PATIENCE).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = if number % 2 == 0 {
                        client.ask("GET", &target()).unwrap()
                    } else {
                        let line = format!("CCM_POST {} HTTP/1.1\r\nHost: {SERVICE}\r\n", target());
                        client.send(format!("{line}Content-Length: 4\r\n\r\nbody").as_bytes());
                        client.read().unwrap()
                    };
                    assert_eq!(answer.status, 200, "{answer:?}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { threads: threads.collect(), stop, asked }
    }

    /// How many requests were answered.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.asked.load(Ordering::Relaxed)
    }
}

// ── there and back ──────────────────────────────────────────────────────────────────────────────

#[test]
fn channels_fall_back_to_https_and_return_without_a_request_lost() {
    let origin = SampleOrigin::start();
    let (stack, line) = start(&origin);
    assert!(stands_by(&stack, "tcp-tls"), "{:#}", stack.connector_status());
    for _ in 0..2 {
        let since = Instant::now();
        line.set(Mode::Closed);
        eventually("channels stand by HTTPS", || stands_by(&stack, "https"));
        assert!(since.elapsed() < FALL_BACK_WITHIN, "{:?}", since.elapsed());
        assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
        let load = Load::start(&stack);
        line.set(Mode::Open);
        eventually("channels are back", || stands_by(&stack, "tcp-tls"));
        thread::sleep(Duration::from_secs(1));
        let asked = load.end();
        assert!(asked > 100, "{asked}");
    }
    eventually("those that left are gone", || {
        stack.connector_status()["links"].as_array().unwrap().len() == 2
    });
    let log = stack.connector().log();
    assert!(log.contains("no better way: tcp-tls"), "{log}");
    assert!(log.contains("back by a better way"), "{log}");
    assert_eq!((stack.count("panics"), stack.count("cut")), (0, 0));
    let (_, metrics) = crate::harness::ask_admin(stack.connector_admin(), "/metrics").unwrap();
    assert!(metrics.contains("transport=\"tcp-tls\""), "{metrics}");
}

#[test]
fn a_way_on_which_nothing_comes_any_more_is_left_in_time() {
    let origin = SampleOrigin::start();
    let (stack, line) = start(&origin);
    let since = Instant::now();
    line.set(Mode::Silent);
    let by_https =
        |status: &serde_json::Value| transports(status).iter().filter(|one| *one == "https").count();
    eventually("channels stand by HTTPS", || by_https(&stack.connector_status()) == 2);
    let took = since.elapsed();
    // A loaded machine may take a little longer than promised.
    assert!(took < FALL_BACK_WITHIN + Duration::from_secs(2), "{took:?}");
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    line.set(Mode::Closed);
    line.set(Mode::Open);
    eventually("channels are back", || stands_by(&stack, "tcp-tls"));
}

#[test]
fn channels_by_https_have_a_listener_of_their_own_where_there_are_several_instances() {
    let origin = SampleOrigin::start();
    let https = free_port();
    let ways = format!("https = [\"{}\"]", local(https));
    let gateway_limits = format!("[[internal.https_listener]]\naddress = \"{}\"\n", local(https));
    // Nobody listens there.
    let channel = Some(local(free_port()));
    let mut stack = Setup { channel, ways, gateway_limits, ..Setup::new(origin.url()) }.prepare();
    let file = stack.path("gateway.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[internal]\n", "[internal]\nhttps_among_clients = false\n")).unwrap();
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    assert!(stands_by(&stack, "https"), "{:#}", stack.status());
    // They are placed as others are: each shard has one.
    assert_eq!(stack.by_shard("links"), [1, 1]);
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    // No client comes in there.
    let (certificate, key) = stack.client_pair();
    assert!(Client::connect(local(https), &stack.path("pki/ca.pem"), Some((&certificate, &key))).is_err());
    // Nor, as settings say, a connection point where clients do: nothing of the internal CA is shown there.
    let answer = ask(&stack, Some(&of_role(&stack, "connector-PS1-1")), true, &upgrade("/cmg-channel"));
    assert!(answer.is_err(), "{answer:?}");
}

// ── through a proxy ─────────────────────────────────────────────────────────────────────────────

/// An HTTP proxy that connects to one port alone, and may ask who is there.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(port: u16, authorization: &'static str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        thread::spawn(move || {
            for outside in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || Proxy::serve(outside, port, authorization, &seen));
            }
        });
        Proxy { address, heads }
    }

    fn serve(mut outside: TcpStream, port: u16, authorization: &str, seen: &Mutex<Vec<String>>) {
        let head = read_head(&mut outside);
        seen.lock().unwrap().push(head.clone());
        let shown = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        let refusal = if shown != Some(authorization) {
            Some("407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"")
        } else if !head.starts_with(&format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n")) {
            Some("403 Forbidden")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let _ = write!(outside, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let Ok(inside) = TcpStream::connect(local(port)) else { return };
        write!(outside, "HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        for (from, to) in [(&outside, &inside), (&inside, &outside)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let _ = to.set_nodelay(true);
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}

/// A gateway that is reached through this proxy alone, at a port of its own that the proxy does not let through to and
/// at that of clients.
fn behind(origin: &SampleOrigin, gateway: u16, proxy: SocketAddr, credentials: &str) -> Stack {
    let ways = format!("https = [\"{}\", \"{}\"]", local(10_124), local(gateway));
    let connector_limits = format!("[proxy]\naddress = \"{proxy}\"\n{credentials}");
    let channel = Some(local(free_port()));
    let setup = Setup { channel, ways, connector_limits, ..Setup::new(origin.url()) };
    let stack = setup.prepare_with(|ports| ports.gateway = gateway);
    fs::write(stack.path("password.txt"), "open sesame\n").unwrap();
    stack
}

const CREDENTIALS: &str = "user = \"Aladdin\"\npassword_file = \"password.txt\"\n";
const AUTHORIZATION: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";

#[test]
fn a_proxy_that_connects_to_one_port_alone_is_passed_with_a_password_that_nobody_reads() {
    let origin = SampleOrigin::start();
    let gateway = free_port();
    let proxy = Proxy::to(gateway, AUTHORIZATION);
    let mut stack = behind(&origin, gateway, proxy.address, CREDENTIALS);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let status = stack.connector_status();
    assert_eq!(transports(&status), ["https-by-proxy", "https-by-proxy"]);
    assert_eq!(status["links"][0]["way"], local(gateway).to_string());
    // A gateway cannot know of the proxy.
    assert_eq!(transports(&stack.status()), ["https", "https"]);
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    let heads = proxy.heads.lock().unwrap().concat();
    assert!(heads.contains("CONNECT 127.0.0.1:10124 HTTP/1.1\r\nHost: 127.0.0.1:10124\r\n"), "{heads}");
    let (log, told) = (stack.connector().log(), status.to_string());
    for secret in ["open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ"] {
        assert!(!log.contains(secret) && !told.contains(secret), "{log}\n{told}");
    }
    assert!(log.contains("it does not connect there: HTTP status 403"), "{log}");
}

#[test]
fn a_proxy_that_wants_another_password_says_so() {
    let origin = SampleOrigin::start();
    let gateway = free_port();
    let proxy = Proxy::to(gateway, "Basic other");
    let mut stack = behind(&origin, gateway, proxy.address, CREDENTIALS);
    stack.start_gateway();
    stack.start_connector();
    eventually("the log says what is wrong", || {
        let log = stack.connector().log();
        log.contains(&format!("the proxy {}", proxy.address)) && log.contains("(407)")
    });
    assert!(!stack.connector().log().contains("sesame"));
}

/// A real squid as it is installed, but for its port and where it writes.
fn start_squid(folder: &Path) -> Option<(Process, u16)> {
    let installed = fs::read_to_string("/etc/squid/squid.conf").ok()?;
    let port = free_port();
    let rules =
        installed.lines().filter(|line| !line.starts_with("http_port") && !line.starts_with("coredump_dir"));
    let rules: Vec<&str> = rules.collect();
    let own = format!(
        "http_port 127.0.0.1:{port}\npid_filename none\naccess_log none\ncache_log /dev/null\n\
         netdb_filename none\nshutdown_lifetime 0 seconds\n"
    );
    fs::write(folder.join("squid.conf"), rules.join("\n") + "\n" + &own).unwrap();
    let mut command = Command::new(program("squid").unwrap());
    command.args(["-N", "-f"]).arg(folder.join("squid.conf"));
    let process = Process::start(&mut command, &folder.join("squid.log"));
    eventually("squid listens", || TcpStream::connect(local(port)).is_ok());
    Some((process, port))
}

#[test]
fn a_squid_as_it_is_installed_is_passed_by_the_port_of_https() {
    needs!("squid");
    // It lets through to 443 alone, and that port takes a right.
    if TcpListener::bind(local(443)).is_err() {
        let _ = writeln!(io::stderr(), "SKIPPED story of squid: port 443 cannot be had");
        return;
    }
    let origin = SampleOrigin::start();
    let folder = tempfile::tempdir().unwrap();
    let Some((_squid, port)) = start_squid(folder.path()) else {
        let _ = writeln!(io::stderr(), "SKIPPED story of squid: no /etc/squid/squid.conf");
        return;
    };
    let mut stack = behind(&origin, 443, local(port), "");
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let status = stack.connector_status();
    assert_eq!(transports(&status), ["https-by-proxy", "https-by-proxy"], "{status:#}");
    assert_eq!(status["links"][0]["way"], "127.0.0.1:443");
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    assert!(stack.connector().log().contains("it does not connect there: HTTP status 403"));
}

#[test]
fn a_port_that_instances_share_is_dialled_until_each_was_met() {
    let origin = SampleOrigin::start();
    // Connections go to the two instances in turn, as behind a balancer.
    let balancer = TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = balancer.local_addr().unwrap();
    let stack = Setup { channel: Some(local(free_port())), ..Setup::new(origin.url()) };
    let mut stack = stack.prepare();
    let second = stack.start_second_gateway();
    let instances = [stack.gateway_address(), second.address];
    thread::spawn(move || {
        for (number, outside) in balancer.incoming().flatten().enumerate() {
            let Ok(inside) = TcpStream::connect(instances[number % 3 % 2]) else { continue };
            for (from, to) in [(&outside, &inside), (&inside, &outside)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    let text = fs::read_to_string(stack.path("connector.toml")).unwrap();
    let mut sections = text.split("[[gateway]]\n").map(str::to_owned);
    let front = sections.next().unwrap();
    // Nobody listens where channels would come in by TCP-TLS.
    let instances: Vec<String> = sections
        .map(|section| {
            let (_, rest) = section.split_once('\n').unwrap();
            format!("[[gateway]]\naddress = \"127.0.0.1:{}\"\nhttps = [\"{shared}\"]\n{rest}", free_port())
        })
        .collect();
    // The balancer's port is not 443, so that each section names it in its own words.
    let text = (front + &instances.concat()).replacen(
        &format!("\"{shared}\""),
        &format!("\"localhost:{}\"", shared.port()),
        1,
    );
    fs::write(stack.path("connector.toml"), text).unwrap();
    stack.start_gateway();
    stack.start_connector();
    eventually("it is asked", || ask_admin(stack.connector_admin(), "/healthz").is_some());
    eventually("both instances have their channels", || {
        let status = stack.connector_status();
        status["ready"] == true && transports(&status) == ["https"; 4]
    });
    drop(second);
}

// ── who may come in ─────────────────────────────────────────────────────────────────────────────

/// Connects to where clients come in.
fn connect(
    stack: &Stack,
    pair: Option<&(PathBuf, PathBuf)>,
    as_channel: bool,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let ca = stack.path(if as_channel { "pki/internal-ca.pem" } else { "pki/ca.pem" });
    let mut config =
        (*config(&ca, pair.map(|(certificate, key)| (certificate.as_path(), key.as_path())))).clone();
    let name = if as_channel { gateway_tls_name("gw1") } else { SERVICE.to_owned() };
    config.alpn_protocols = vec![if as_channel { HTTPS_ALPN.to_vec() } else { b"http/1.1".to_vec() }];
    let socket = TcpStream::connect(stack.gateway_address())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}

/// What is answered there to `asked`, up to the end of a head; an error: nobody was let in.
fn ask(
    stack: &Stack,
    pair: Option<&(PathBuf, PathBuf)>,
    as_channel: bool,
    asked: &str,
) -> io::Result<String> {
    let mut stream = connect(stack, pair, as_channel)?;
    stream.write_all(asked.as_bytes())?;
    match read_head(&mut stream) {
        head if head.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        head => Ok(head),
    }
}

fn of_role(stack: &Stack, name: &str) -> (PathBuf, PathBuf) {
    (stack.path(&format!("pki/internal/{name}.pem")), stack.path(&format!("pki/internal/{name}.key")))
}

fn upgrade(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: cmg-channel\r\n\r\n")
}

#[test]
fn no_client_opens_a_channel_where_clients_come_in_and_no_connection_point_is_a_client() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let client = stack.client_pair();
    let [point, instance] = ["connector-PS1-1", "gateway-gw1"].map(|name| of_role(&stack, name));
    // The handshake lets in nobody but who has a certificate of the internal CA that is meant for clients.
    for stranger in [None, Some(&client), Some(&instance)] {
        let answer = ask(&stack, stranger, true, &upgrade("/cmg-channel"));
        assert!(answer.is_err(), "{answer:?}");
    }
    let answer = ask(&stack, Some(&point), true, &upgrade("/cmg-channel")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // Nothing else is served there.
    let early = upgrade("/cmg-channel") + "\u{1}";
    for asked in
        [&upgrade(&target()), &format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target()), &early]
    {
        let answer = ask(&stack, Some(&point), true, asked).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{asked}: {answer}");
    }
    // Whoever does not say that he is one is a client, and not an accepted one.
    let answer = ask(&stack, Some(&point), false, &upgrade("/cmg-channel")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask(&stack, Some(&point), false, &upgrade(&target())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let answer = ask(&stack, Some(&client), false, &upgrade("/cmg-channel")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(stack.count("panics"), 0);
    eventually("nobody's place is kept", || stack.count("clients") == 0);
}

#[test]
fn who_holds_an_internal_key_and_says_no_hello_counts_as_a_client_and_only_so_many_stand_there() {
    let origin = SampleOrigin::start();
    let stack = Setup { gateway_shards: 1, ..Setup::new(origin.url()) }.start();
    let point = of_role(&stack, "connector-PS1-1");
    let silent = || {
        let mut stream = connect(&stack, Some(&point), true).unwrap();
        // The handshake alone.
        stream.conn.complete_io(&mut stream.sock).unwrap();
        stream
    };
    let first = silent();
    eventually("it has a place among clients", || stack.count("clients") == 1);
    let others: Vec<_> = (0..HELLO_COUNT_MAX + 16).map(|_| silent()).collect();
    eventually("those beyond the bound are shown out", || {
        (1..=HELLO_COUNT_MAX as u64).contains(&stack.count("clients"))
    });
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    drop((first, others));
    eventually("nobody's place is kept", || stack.count("clients") == 0);
    assert_eq!(stack.count("panics"), 0);
}
