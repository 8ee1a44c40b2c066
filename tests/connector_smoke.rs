//! The connector against a gateway played by the test and an origin in plain threads: real TLS, real
//! rings, real HTTP, one process.
#![cfg(feature = "shells")]
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cmg::channel::{
    Acknowledgement, Body, Hello, HelloReply, Identity, Publication, RequestStart, RequestWriter, ResetCode,
    ResponseMessage, Side, VERSION, Verdict, frame, parse_trailers,
};
use cmg::pki::{Pki, gateway_tls_name};
use cmg::refusal::Refusal;
use cmg::review::{ConnectorReview, Document};
use cmg::settings::PublishedSettings;
use cmg::shard::{self, Listener, Place, Shard, Slots};
use cmg::transport::{Broken, Internal, Link, LinkEvents, Stream, Tls, Wire, listen, tls_config};
use cmg::upgrade::Inheritance;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

const BASE: &str = "/CCM_Proxy_MutualAuth/72057594037927941/app";

// ── the origin ──────────────────────────────────────────────────────────────────────────────────

fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || while answer(&stream).unwrap_or(false) {});
        }
    });
    address
}

/// The same over TLS, for small answers only; a client certificate of `ca` is required. TLS 1.2 when
/// `is_old`.
fn tls_origin(files: &Pki, ca: &[CertificateDer<'static>], is_old: bool) -> (SocketAddr, [u8; 32]) {
    let pair = files.server(&["localhost".to_owned()], &[]).unwrap();
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
    let thumbprint = ring::digest::digest(&ring::digest::SHA256, &chain[0]).as_ref().try_into().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca[0].clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let versions = if is_old { [&rustls::version::TLS12] } else { [&rustls::version::TLS13] };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
            thread::spawn(move || {
                let mut bytes = Vec::new();
                loop {
                    let mut byte = [0];
                    match stream.read(&mut byte) {
                        Ok(1) => bytes.push(byte[0]),
                        _ => return,
                    }
                    if bytes.ends_with(b"\r\n\r\n") {
                        let certificates = stream.conn.peer_certificates().map_or(0, <[_]>::len);
                        let text = format!("{certificates} certificate");
                        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
                            .unwrap();
                        bytes.clear();
                    }
                }
            });
        }
    });
    (address, thumbprint)
}

/// One request; whether the connection goes on.
fn answer(mut stream: &TcpStream) -> std::io::Result<bool> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(false);
        }
    }
    let field = |name: &str| {
        let start = format!("{name}: ");
        head.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    };
    let target = head.split(' ').nth(1).unwrap().to_owned();
    if field("Expect").is_some() && !target.contains("silent") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if target.ends_with("/stall") {
        thread::sleep(Duration::from_secs(60));
    }
    let mut body = 0;
    let mut trailer = String::new();
    let mut reader = BufReader::new(stream);
    if let Some(length) = field("Content-Length") {
        body = std::io::copy(&mut (&mut reader).take(length.parse().unwrap()), &mut std::io::sink())?;
    } else if field("Transfer-Encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap();
            body += std::io::copy(&mut (&mut reader).take(size), &mut std::io::sink())?;
            line.clear();
            reader.read_line(&mut line)?;
            if size == 0 {
                trailer = line;
                break;
            }
        }
    }
    let path = target.strip_prefix("/inner").unwrap_or("?");
    match path.split('?').next().unwrap() {
        "/small" => {
            let text = format!("{head}|{body}|{}", trailer.trim());
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-CMG-Status: forged\r\n\r\n", text.len())?;
            if !head.starts_with("HEAD") {
                stream.write_all(text.as_bytes())?;
            }
        }
        "/chunked" => stream.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n",
        )?,
        "/close" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")?;
            return Ok(false);
        }
        "/big" => {
            let size = 8 << 20;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
            let piece: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
            for _ in 0..size / piece.len() {
                stream.write_all(&piece)?;
            }
        }
        "/other" => {
            stream.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nbytes")?;
            return Ok(false);
        }
        "/missing" => stream.write_all(b"HTTP/1.1 404 Not  Found\r\nContent-Length: 4\r\n\r\nnone")?,
        "/login" => stream.write_all(
            b"HTTP/1.1 401 \r\nWWW-Authenticate: NTLM\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        )?,
        "/moved" => stream.write_all(
            b"HTTP/1.1 302 Found\r\nLocation: /inner/small?x\r\nContent-Length: 0\r\n\r\n",
        )?,
        "/away" => stream.write_all(
            b"HTTP/1.1 302 Found\r\nLocation: http://secret.corp/\r\nContent-Length: 0\r\n\r\n",
        )?,
        "/cut" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")?;
            return Ok(false);
        }
        "/die" => return Ok(false),
        "/dieafter" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            // The next request on this connection finds it closing.
            let mut byte = [0];
            let _ = stream.read(&mut byte);
            return Ok(false);
        }
        _ => stream.write_all(b"HTTP/1.1 500 What\r\nContent-Length: 0\r\n\r\n")?,
    }
    Ok(!head.contains("Connection: close"))
}

// ── the gateway ─────────────────────────────────────────────────────────────────────────────────

struct Gateway {
    shard: Rc<Shard>,
    links: RefCell<Vec<Rc<Link>>>,
    settings: RefCell<Vec<Publication>>,
    greeted: RefCell<BTreeSet<(u16, u16)>>,
}

struct Events(Rc<Gateway>);

impl LinkEvents for Events {
    fn opened(&self, _: &Rc<Link>, _: Stream, _: &[u8]) {
        panic!("a connector opens nothing");
    }
    fn settings(&self, link: &Rc<Link>, publication: Publication) {
        link.acknowledge(publication.revision, Verdict::InForce, "");
        self.0.settings.borrow_mut().push(publication);
    }
    fn acknowledged(&self, _: &Rc<Link>, _: Acknowledgement) {}
    fn identity(&self, _: &Rc<Link>, _: u32, _: &[u8]) {}
    fn identity_gone(&self, _: &Rc<Link>, _: u32) {}
    fn draining(&self, _: &Rc<Link>) {}
}

async fn attach(gateway: Rc<Gateway>, mut wire: Wire) {
    wire.handshake().await.unwrap();
    let hello = loop {
        let taken = frame::take(wire.received()).unwrap();
        if let Some((hello, size)) = taken.map(|(frame, size)| (Hello::parse(frame.payload).unwrap(), size)) {
            wire.consume(size);
            break hello;
        }
        assert!(std::future::poll_fn(|context| wire.poll_fill(context)).await.unwrap());
    };
    assert_eq!((hello.connection_point.as_str(), hello.site.as_str()), ("cp1", "PS1"));
    assert_eq!(hello.instance, "gw1");
    gateway.greeted.borrow_mut().insert((hello.index, hello.count));
    let reply = HelloReply {
        version: VERSION,
        refusal: None,
        text: String::new(),
        instance: "gw1".into(),
        instance_id: [1; 16],
        shards: 3,
        shard: hello.index % 3,
        instances: Vec::new(),
    };
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    wire.write(&bytes).unwrap();
    wire.flush().await.unwrap();
    let link = Link::new(&gateway.shard, Side::Gateway, None);
    gateway.links.borrow_mut().push(link.clone());
    let cause = link.clone().drive(wire, Rc::new(Events(gateway.clone()))).await;
    eprintln!("link ended: {cause}");
    gateway.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, &link));
}

#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: usize,
    interims: Vec<u16>,
}

struct Request<'r> {
    method: &'r str,
    path: &'r str,
    body: Option<(Vec<u8>, bool)>,
    expect: bool,
    trailer: Option<(&'r str, &'r str)>,
    identity: u32,
}

fn get(path: &str) -> Request<'_> {
    Request { method: "GET", path, body: None, expect: false, trailer: None, identity: 0 }
}

async fn ask(gateway: &Gateway, request: Request<'_>) -> Result<Answer, Broken> {
    let link = gateway.links.borrow().first().unwrap().clone();
    ask_on(&link, request).await
}

async fn ask_on(link: &Rc<Link>, request: Request<'_>) -> Result<Answer, Broken> {
    let mut open = Vec::new();
    let target = format!("{BASE}{}", request.path);
    let start = RequestStart {
        request_id: [0xab; 16],
        identity: request.identity,
        window: 65_536,
        has_body: request.body.is_some(),
        length: request.body.as_ref().and_then(|(body, known)| known.then_some(body.len() as u64)),
        is_tunnel: false,
        expect_continue: request.expect,
        method: request.method.as_bytes(),
        target: target.as_bytes(),
        host: b"cmg.example:443",
    };
    let mut writer = RequestWriter::new(&mut open, &start).unwrap();
    writer.field(b"X-Test", b"yes").unwrap();
    writer.field(b"X-Forwarded-For", b"forged").unwrap();
    writer.finish();
    let stream = link.open(&open).unwrap();
    if request.body.is_none() {
        stream.has_no_body();
    }
    let mut trailers = Vec::new();
    if let Some((name, value)) = request.trailer {
        let mut writer = cmg::channel::TrailersWriter::new(&mut trailers);
        writer.field(name.as_bytes(), value.as_bytes()).unwrap();
        writer.finish();
    }
    let (mut sent, mut answer, mut interims) = (0, None, Vec::new());
    std::future::poll_fn(|context| {
        let mailbox = stream.mailbox();
        mailbox.watch(context);
        while let Some(head) = mailbox.take_head() {
            let head = ResponseMessage::parse(&head).unwrap();
            if head.is_interim() {
                interims.push(head.status);
                continue;
            }
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let mut fields: Vec<_> =
                head.fields().map(|field| (text(field.name), text(field.value))).collect();
            if head.body == Body::None
                && let Some(length) = head.length
            {
                fields.push(("length".into(), length.to_string()));
            }
            let (status, reason) = (head.status, text(head.reason));
            answer =
                Some(Answer { status, reason, fields, body: Vec::new(), trailers: 0, interims: Vec::new() });
        }
        if let Some((body, _)) = &request.body
            && (!request.expect || !interims.is_empty())
            && sent <= body.len()
        {
            sent += stream.send(&body[sent..]);
            if sent == body.len() {
                stream.end(&trailers);
                sent += 1;
            }
        }
        while !stream.data().is_empty() {
            let data = stream.data().to_vec();
            if let Some(answer) = &mut answer {
                answer.body.extend_from_slice(&data);
            }
            stream.consume(data.len());
        }
        if let Some(broken) = mailbox.broken() {
            return Poll::Ready(Err(broken));
        }
        if mailbox.is_ended() {
            let mut answer = answer.take().unwrap();
            answer.trailers = parse_trailers(&mailbox.trailers()).unwrap().count();
            answer.interims = std::mem::take(&mut interims);
            return Poll::Ready(Ok(answer));
        }
        Poll::Pending
    })
    .await
}

/// Asks for a tunnel that there will not be, and sends bytes for it at once; how that breaks.
async fn tunnel(gateway: &Gateway, path: &str, early: &[u8]) -> Broken {
    let link = gateway.links.borrow().first().unwrap().clone();
    let target = format!("{BASE}{path}");
    let mut open = Vec::new();
    let start = RequestStart { has_body: true, is_tunnel: true, ..plain_start(&target, "GET", None) };
    let mut writer = RequestWriter::new(&mut open, &start).unwrap();
    writer.field(b"Upgrade", b"websocket").unwrap();
    writer.finish();
    let stream = link.open(&open).unwrap();
    assert_eq!(stream.send(early), early.len());
    std::future::poll_fn(|context| {
        stream.mailbox().watch(context);
        assert!(stream.mailbox().take_head().is_none(), "{path}: a head");
        stream.mailbox().broken().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Sends a body of 64 MiB to an origin that takes some and then nothing, and asks for an answer that it
/// does not read; others go on, and memory stays bounded.
async fn stalls(gateway: &Rc<Gateway>) {
    let link = gateway.links.borrow()[0].clone();
    let before = resident();
    let mailboxes: Vec<_> = ["/big?1", "/big?2"]
        .into_iter()
        .map(|path| {
            let target = format!("{BASE}{path}");
            let mut open = Vec::new();
            RequestWriter::new(&mut open, &plain_start(&target, "GET", None)).unwrap().finish();
            let stream = link.open(&open).unwrap();
            stream.has_no_body();
            stream
        })
        .collect();
    let target = format!("{BASE}/stall");
    let mut open = Vec::new();
    RequestWriter::new(&mut open, &plain_start(&target, "POST", Some(64 << 20))).unwrap().finish();
    let upload = link.open(&open).unwrap();
    let piece = vec![7; 1 << 20];
    let mut sent = 0;
    for _ in 0..12 {
        for _ in 0..500 {
            sent += upload.send(&piece);
            futures_lite::future::yield_now().await;
        }
        let began = std::time::Instant::now();
        assert_eq!(ask_on(&link, get("/small")).await.unwrap().status, 200);
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
        gateway.shard.sleep(Duration::from_millis(30)).await;
    }
    let grown = resident().saturating_sub(before);
    eprintln!("stalled: sent {sent}, resident grew by {} KiB", grown >> 10);
    assert!(grown < 16 << 20 && sent < 20 << 20, "{grown} {sent}");
    drop((mailboxes, upload));
    gateway.shard.sleep(Duration::from_millis(300)).await;
    assert_eq!(ask_on(&link, get("/small")).await.unwrap().status, 200);
}

fn plain_start<'r>(target: &'r str, method: &'r str, length: Option<u64>) -> RequestStart<'r> {
    RequestStart {
        request_id: [0xab; 16],
        identity: 0,
        window: 65_536,
        has_body: length.is_some(),
        length,
        is_tunnel: false,
        expect_continue: false,
        method: method.as_bytes(),
        target: target.as_bytes(),
        host: b"cmg.example",
    }
}

fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// CPU time of this process, to the nanosecond: what `/proc/self/stat` tells is guessed from ticks, and threads that
/// wake by a timer wake with a tick.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a struct that lives through the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a wake costs a thread that does nothing.
fn bare_wake() -> Duration {
    const WAKES: u32 = 10;
    let ran = || -> u64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let wake = move || {
        let before = ran();
        (0..WAKES).for_each(|_| std::thread::sleep(Duration::from_millis(100)));
        Duration::from_nanos(ran() - before) / WAKES
    };
    std::thread::spawn(wake).join().unwrap()
}

fn refused(refusal: Refusal) -> Broken {
    Broken::Reset(ResetCode::Refused(refusal))
}

async fn story(gateway: &Rc<Gateway>) {
    let shard = &gateway.shard;
    for _ in 0..100 {
        if gateway.links.borrow().len() == 3 && !gateway.settings.borrow().is_empty() {
            break;
        }
        shard.sleep(Duration::from_millis(100)).await;
    }
    eprintln!("greeted: {:?}", gateway.greeted.borrow());
    assert_eq!(gateway.links.borrow().len(), 3, "max(2 connector shards, 3 gateway shards) channels");
    let published = PublishedSettings::from_bytes(&gateway.settings.borrow()[0].bytes).unwrap();
    assert_eq!((published.site.as_str(), published.roles.len()), ("PS1", 1));
    assert_eq!(published.roles[0].endpoints.len(), 9);

    // What the origin is told.
    let link = gateway.links.borrow()[0].clone();
    let mut identity = Vec::new();
    Identity { peer: "192.0.2.7".parse().unwrap(), leaf: Some(b"leaf") }.encode(&mut identity).unwrap();
    let number = link.identity(&identity).unwrap();
    let answer = ask_on(&link, Request { identity: number, ..get("/small?{A}") }).await.unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (200, "OK"));
    assert!(answer.fields.iter().all(|(name, _)| !name.starts_with("X-CMG")), "{answer:?}");
    let text = String::from_utf8(answer.body).unwrap();
    eprintln!("{text}");
    assert!(text.starts_with("GET /inner/small?{A} HTTP/1.1\r\nHost: 127.0.0.1:"), "{text}");
    assert!(text.contains("\r\nX-Test: yes\r\n") && !text.contains("forged"));
    assert!(text.contains("\r\nForwarded: for=192.0.2.7;host=\"cmg.example:443\";proto=https\r\n"), "{text}");
    assert!(text.contains("\r\nClient-Cert: :bGVhZg==:\r\n"));
    assert!(text.contains("X-CMG-Request-Id: abababab-abab-abab-abab-abababababab\r\n"));
    eprintln!("small done");

    let answer = ask(gateway, Request { method: "HEAD", ..get("/small") }).await.unwrap();
    assert!(answer.body.is_empty() && answer.fields.iter().any(|(name, _)| name == "length"), "{answer:?}");
    let answer = ask(gateway, get("/chunked")).await.unwrap();
    assert_eq!((answer.body.as_slice(), answer.trailers), (b"hello world".as_slice(), 1));
    assert_eq!(ask(gateway, get("/close")).await.unwrap().body, b"until the end");
    let answer = ask(gateway, get("/missing")).await.unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (404, "CMGConnector_NotFound"));
    assert_eq!(answer.body, b"none");
    let answer = ask(gateway, get("/login")).await.unwrap();
    assert_eq!(answer.reason, "CMGConnector_Unauthorized");
    assert_eq!(answer.fields, [("WWW-Authenticate".to_owned(), "Basic".to_owned())]);
    let answer = ask(gateway, get("/moved")).await.unwrap();
    assert_eq!(answer.fields, [("Location".to_owned(), format!("{BASE}/small?x"))]);
    assert_eq!(ask(gateway, get("/away")).await.unwrap_err(), refused(Refusal::Redirect));
    assert_eq!(ask(gateway, get("/cut")).await.unwrap_err(), Broken::Reset(ResetCode::OriginBroke));
    assert_eq!(ask(gateway, get("/die")).await.unwrap_err(), refused(Refusal::BadGateway));
    eprintln!("answers done");

    // The connection point judges tunnels by its own settings, and takes no bytes before there is one.
    assert_eq!(tunnel(gateway, "/small", b"").await, refused(Refusal::BadGateway));
    assert_eq!(tunnel(gateway, "tunnel/stall", b"early").await, Broken::Reset(ResetCode::Protocol));
    let unfit = Broken::Reset(ResetCode::Refused(Refusal::BadGateway));
    assert_eq!(tunnel(gateway, "tunnel/other", b"").await, unfit);

    // A kept connection that dies: a GET goes out again.
    assert_eq!(ask(gateway, get("/dieafter")).await.unwrap().body, b"ok");
    assert_eq!(ask(gateway, get("/small")).await.unwrap().status, 200);

    // A POST does not.
    assert_eq!(ask(gateway, get("/dieafter")).await.unwrap().body, b"ok");
    let post = Request { method: "POST", body: Some((b"x".to_vec(), true)), ..get("/small") };
    assert_eq!(ask(gateway, post).await.unwrap_err(), refused(Refusal::BadGateway));

    // Over TLS.
    for path in ["13", "12", "pin"] {
        for _ in 0..3 {
            let answer = ask(gateway, get(&format!("tls{path}/"))).await.unwrap();
            assert_eq!(answer.body, b"1 certificate", "{path}");
        }
    }
    for path in ["bare13", "bare12"] {
        let refusal = ask(gateway, get(&format!("tls{path}/"))).await.unwrap_err();
        assert_eq!(refusal, refused(Refusal::ConnectorCertificateRequired), "{path}");
    }
    assert_eq!(ask(gateway, get("tlsstranger/")).await.unwrap_err(), refused(Refusal::BadGateway));

    // Bodies.
    let body = |size: usize, known| Some((vec![7; size], known));
    for (size, known) in
        [(0, true), (3, true), (3, false), (100_000, true), (5_000_000, false), (20_000_000, true)]
    {
        let request = Request { method: "CCM_POST", body: body(size, known), ..get("/small") };
        let answer = ask(gateway, request).await.unwrap();
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.ends_with(&format!("|{size}|")), "{size} {known}: {text}");
    }
    let request = Request { body: body(3, false), trailer: Some(("X-Sum", "21")), ..get("/small") };
    let answer = ask(gateway, Request { method: "POST", ..request }).await.unwrap();
    assert!(answer.body.ends_with(b"|3|X-Sum: 21"), "{}", String::from_utf8_lossy(&answer.body));
    for path in ["/small", "/small?silent"] {
        let request = Request { method: "POST", body: body(3, true), expect: true, ..get(path) };
        let answer = ask(gateway, request).await.unwrap();
        assert!(answer.body.ends_with(b"|3|") && answer.interims == [100], "{path} {:?}", answer.interims);
    }
    let answer = ask(gateway, get("/big")).await.unwrap();
    assert_eq!(answer.body.len(), 8 << 20);
    assert!(answer.body.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    eprintln!("bodies done");

    for round in 0..std::env::var("ROUNDS").map_or(1, |n| n.parse::<usize>().unwrap()) {
        // Many at once.
        let (done, count) = (Rc::new(std::cell::Cell::new(0)), 500);
        for number in 0..count {
            let (gateway, done) = (gateway.clone(), done.clone());
            shard.clone().spawn("ask", async move {
                let link = gateway.links.borrow()[number % 3].clone();
                // Every second one must wait for the only connection.
                let path = format!("{}/small?{number}", if number % 2 == 0 { "one" } else { "" });
                let answer = ask_on(&link, get(&path)).await.unwrap();
                assert!(String::from_utf8(answer.body).unwrap().contains(&format!("/small?{number} ")));
                done.set(done.get() + 1);
            });
        }
        for _ in 0..100 {
            if done.get() == count {
                break;
            }
            shard.sleep(Duration::from_millis(100)).await;
        }
        eprintln!("round {round}");
        assert_eq!(done.get(), count);
    }
    if std::env::var_os("SHORT").is_some() {
        return;
    }
    stalls(gateway).await;

    // At rest nothing runs.
    let before = cpu();
    shard.sleep(Duration::from_secs(3)).await;
    let used = cpu() - before;
    eprintln!("at rest: {used:?} of CPU in 3 s");
    assert!(used > Duration::ZERO, "it is not told");
    // On some virtual machines a thread that does nothing but wake uses a millisecond each time.
    let bare = bare_wake();
    eprintln!("a bare wake: {bare:?}");
    assert!(used < Duration::from_millis(60).max(100 * bare), "{used:?}, a bare wake {bare:?}");

    // Lost channels come back.
    for link in gateway.links.borrow().iter() {
        link.close(cmg::channel::CloseCode::Stopping, "test");
    }
    shard.sleep(Duration::from_millis(2_000)).await;
    assert_eq!(gateway.links.borrow().len(), 3, "channels came back");
    assert_eq!(ask(gateway, get("/small")).await.unwrap().status, 200);
}

fn play(files: &Pki, folder: &std::path::Path) -> (SocketAddr, mpsc::Receiver<()>) {
    let pair = files.gateway("gw1").unwrap();
    let read =
        |file: &std::path::Path| CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect();
    let own = tls_config::Credential {
        chain: read(&pair.certificate),
        key: PrivateKeyDer::from_pem_file(&pair.key).unwrap(),
    };
    let ca: Vec<_> = read(&folder.join("pki/internal-ca.pem"));
    let config = tls_config::for_channels(&Internal::new(&ca, own).unwrap()).unwrap();
    let (fd, address) = listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let (tell, done) = mpsc::channel();
    let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 64, owner: Slots::ByAccept };
    shard::start(place, move |shard| {
        let gateway = Rc::new(Gateway {
            shard: shard.clone(),
            links: RefCell::default(),
            settings: RefCell::default(),
            greeted: RefCell::default(),
        });
        let accepting = gateway.clone();
        let main = async move {
            shard.spawn("accept", async move {
                let listener = Listener::new(&accepting.shard.ring, fd, false);
                loop {
                    listener.arm();
                    let (socket, _) =
                        std::future::poll_fn(|context| listener.poll_accept(context)).await.unwrap();
                    let wire = Wire::new(socket, Some(Tls::server(config.clone()).unwrap()));
                    accepting.shard.spawn("attach", attach(accepting.clone(), wire));
                }
            });
            let told = Rc::new(std::cell::Cell::new(false));
            let (teller, playing) = (told.clone(), gateway.clone());
            shard.spawn("story", async move {
                story(&playing).await;
                teller.set(true);
            });
            while !told.get() && shard.panics.get() == 0 {
                shard.sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(shard.panics.get(), 0);
            tell.send(()).unwrap();
            // Until the connector said goodbye on every channel.
            while !gateway.links.borrow().is_empty() {
                shard.sleep(Duration::from_millis(100)).await;
            }
            tell.send(()).unwrap();
        };
        (|| 0, main)
    })
    .unwrap();
    (address, done)
}

#[test]
fn a_connector_answers_from_its_origin_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    let files = Pki::open(&folder.path().join("pki")).unwrap();
    files.connector("PS1", "cp1").unwrap();
    let origin = origin();
    let (gateway, done) = play(&files, folder.path());
    let name = gateway_tls_name("gw1");
    let ca: Vec<_> = CertificateDer::pem_file_iter(files.site_ca()).unwrap().map(Result::unwrap).collect();
    let client = files.client("connector").unwrap();
    let [old, new] = [true, false].map(|is_old| tls_origin(&files, &ca, is_old));
    let own = format!("certificate = {:?}\nkey = {:?}", client.certificate, client.key);
    let pin = new.1.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut site = "code = \"PS1\"\nserial = 1\n[trust]\nroots = [\"pki/ca.pem\"]\n".to_owned();
    for (path, url, more) in [
        ("", format!("http://{origin}/inner"), String::new()),
        ("tunnel", format!("http://{origin}/inner"), "tunnel = true".to_owned()),
        ("one", format!("http://localhost:{}/inner", origin.port()), "connections_max = 1".to_owned()),
        ("tls13", format!("https://localhost:{}", new.0.port()), format!("ca = \"pki/ca.pem\"\n{own}")),
        ("tls12", format!("https://localhost:{}", old.0.port()), format!("ca = \"pki/ca.pem\"\n{own}")),
        (
            "tlspin",
            format!("https://localhost:{}", new.0.port()),
            format!("thumbprint_sha256 = {pin:?}\n{own}"),
        ),
        ("tlsbare13", format!("https://localhost:{}", new.0.port()), "ca = \"pki/ca.pem\"".to_owned()),
        ("tlsbare12", format!("https://localhost:{}", old.0.port()), "ca = \"pki/ca.pem\"".to_owned()),
        (
            "tlsstranger",
            format!("https://localhost:{}", new.0.port()),
            "ca = \"pki/internal-ca.pem\"".to_owned(),
        ),
    ] {
        site +=
            &format!("[[endpoint]]\nid = 72057594037927941\npath = \"app{path}\"\nurl = {url:?}\n{more}\n");
    }
    fs::write(folder.path().join("site.toml"), site).unwrap();
    let text = format!(
        "[connector]\nidentity = \"cp1\"\nsite = \"site.toml\"\nshards = 2\n\
         [internal]\nca = \"pki/internal-ca.pem\"\ncertificate = \"pki/internal/connector-PS1-cp1.pem\"\n\
         key = \"pki/internal/connector-PS1-cp1.key\"\n\
         [[gateway]]\naddress = \"{gateway}\"\nname = \"{name}\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
    );
    let path = folder.path().join("connector.toml");
    fs::write(&path, text).unwrap();
    let document = Document::open(&path).unwrap();
    let start = ConnectorReview::of(document, UnixTime::now()).into_start(Inheritance::default()).unwrap();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let running = thread::spawn(move || cmg::connector::run(start, None));
    done.recv_timeout(Duration::from_secs(60)).expect("the story ends well");
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
    done.recv_timeout(Duration::from_secs(5)).expect("the connector says goodbye");
    running.join().unwrap().unwrap();
}
