//! Requests that are turned away: each with its status, its reason, and an id that logs can be
//! searched for.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cmg::pki::Pki;
use cmg::refusal::Refusal;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::client::{Answer, Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, eventually, read_head,
    run, text,
};
use crate::needs;

fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason.as_str()), (status, reason), "{answer:?}");
    assert_eq!(answer.field("X-CMG-Status"), Some(reason), "{answer:?}");
    let id = answer.field("X-CMG-Request-Id").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(id.len() == 36 && id.split('-').count() == 5, "{id}");
    let retry = matches!(status, 429 | 503);
    assert_eq!(answer.field("Retry-After").is_some(), retry, "{answer:?}");
}

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

fn own(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{OWN}/{rest}")
}

fn with(stack: &Stack, pair: Option<(&Path, &Path)>) -> Client {
    Client::connect(stack.gateway_address(), &stack.path("pki/ca.pem"), pair).unwrap()
}

/// A client certificate that the site's authority signed, and that ended yesterday.
fn expired(stack: &Stack) {
    let read = |name: &str| std::fs::read_to_string(stack.path(name)).unwrap();
    let authority = KeyPair::from_pem(&read("pki/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("pki/ca.pem"), authority).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(stack.path("expired.pem"), certificate.pem()).unwrap();
    std::fs::write(stack.path("expired.key"), key.serialize_pem()).unwrap();
}

#[test]
fn only_clients_that_the_site_trusts_are_served() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let path = target("SMS_MP/.sms_aut?MPLIST");

    let mut stranger = with(&stack, None);
    assert_refused(&stranger.ask("GET", &path).unwrap(), 403, "CMGService_Client_Certificate_Required");
    // It may stay: the other family needs no certificate, and metadata is for everybody.
    let answer = stranger.ask("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    for field in ["service", "version", "instance", "time"] {
        assert!(metadata[field].is_string(), "{metadata}");
    }
    let token = path.replace("MutualAuth", "ServerAuth").replace("SMS_MP", "SMS_MP_TokenAuth");
    assert_refused(&stranger.ask("GET", &token).unwrap(), 401, "CMGService_Invalid_Token");

    let elsewhere = Pki::open(&stack.path("elsewhere")).unwrap().client("client").unwrap();
    let mut foreign = with(&stack, Some((&elsewhere.certificate, &elsewhere.key)));
    assert_refused(&foreign.ask("GET", &path).unwrap(), 401, "CMGService_Untrusted_Certificate");

    expired(&stack);
    let mut late = with(&stack, Some((&stack.path("expired.pem"), &stack.path("expired.key"))));
    assert_refused(&late.ask("GET", &path).unwrap(), 401, "CMGService_Untrusted_Certificate");

    // An internal identity is no client, whatever it may do on channels.
    let internal =
        (stack.path("pki/internal/connector-PS1-1.pem"), stack.path("pki/internal/connector-PS1-1.key"));
    let mut role = with(&stack, Some((&internal.0, &internal.1)));
    assert_refused(&role.ask("GET", &path).unwrap(), 401, "CMGService_Untrusted_Certificate");

    let mut client = stack.client().unwrap();
    assert_eq!(client.ask("GET", &path).unwrap().status, 200);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_client_known_as_accepted_is_judged_anew_when_its_site_trusts_others() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let path = target("SMS_MP/.sms_aut?MPLIST");
    let (certificate, key) = stack.client_pair();
    // One configuration, so that later connections take up the session of an earlier one.
    let session = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let again = || Client::connect_with(address, session.clone(), PATIENCE).unwrap();
    let mut first = again();
    assert_eq!(first.ask("GET", &path).unwrap().status, 200);
    eventually("the client is known to the shard it comes to", || {
        assert_eq!(again().ask("GET", &path).unwrap().status, 200);
        stack.count("verdicts_known") > 0
    });
    assert!(stack.count("handshakes_resumed") > 0);

    let other = Pki::open(&stack.path("elsewhere")).unwrap().client("client").unwrap();
    let site = std::fs::read_to_string(stack.path("site.toml")).unwrap();
    let site = site.replace("pki/ca.pem", "elsewhere/ca.pem").replace("serial = 1", "serial = 2");
    drop(stack.connector.take());
    std::fs::write(stack.path("site.toml"), site).unwrap();
    stack.start_connector();
    stack.wait_until_ready();
    let mut welcome = with(&stack, Some((&other.certificate, &other.key)));
    eventually("the other settings are in force", || welcome.ask("GET", &path).unwrap().status == 200);
    let known = stack.count("verdicts_known");
    for _ in 0..4 {
        assert_refused(&again().ask("GET", &path).unwrap(), 401, "CMGService_Untrusted_Certificate");
    }
    assert_refused(&first.ask("GET", &path).unwrap(), 401, "CMGService_Untrusted_Certificate");
    assert_eq!(stack.count("verdicts_known"), known);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn what_an_endpoint_does_not_take_is_refused() {
    let origin = SampleOrigin::start();
    let site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"small\"\nurl = \"{}/small\"\nmethods = [\"GET\", \"POST\"]\nrequest_length_max = 1000\n",
        origin.url()
    );
    let stack = Setup { site, ..Setup::new(origin.url()) }.start();
    let mut client = stack.client().unwrap();
    let rows = [
        ("GET", target("AdminService/v1.0/Device"), 404, "CMGService_Unknown_Url"),
        ("GET", target("SMS_MP_WindowsAuth/.sms_pol?x"), 404, "CMGService_Unknown_Url"),
        ("GET", target(""), 404, "CMGService_Unknown_Url"),
        ("GET", "/".into(), 404, "CMGService_Unknown_Url"),
        ("GET", format!("/CCM_Proxy_MutualAuth/{}/SMS_MP/x", u64::MAX), 404, "CMGService_Unknown_Url"),
        ("PUT", own("small/x"), 405, "CMGService_Method_Not_Allowed"),
        ("TRACE", target("SMS_MP/x"), 405, "CMGService_Method_Not_Allowed"),
        ("GET", target("SMS_MP/../CCM_System/x"), 400, "CMGService_Bad_Request"),
        ("GET", target("SMS_MP/%2e%2e/x"), 400, "CMGService_Bad_Request"),
        ("GET", target("SMS_MP/a%00b"), 400, "CMGService_Bad_Request"),
    ];
    for (method, target, status, reason) in rows {
        let answer = client.ask(method, &target).unwrap();
        assert_refused(&answer, status, reason);
    }
    // The connection was good all along.
    assert_eq!(client.ask("GET", &own("small/x")).unwrap().status, 200);

    // By its length at once; by chunks as soon as they are too many.
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n", own("small/x"));
    client.send(format!("{head}Content-Length: 1001\r\n\r\n").as_bytes());
    assert_refused(&client.read().unwrap(), 413, "CMGService_Content_Too_Large");
    assert!(client.is_ended(), "a body that was not read would be taken for a request");
    let mut client = stack.client().unwrap();
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let piece = format!("{:x}\r\n{}\r\n", 600, "a".repeat(600));
    client.send(piece.as_bytes());
    let _ = client.try_send(piece.as_bytes());
    assert_refused(&client.read().unwrap(), 413, "CMGService_Content_Too_Large");
    let mut client = stack.client().unwrap();
    client.send(format!("{head}Content-Length: 1000\r\n\r\n{}", "a".repeat(1000)).as_bytes());
    assert!(client.read().unwrap().text().contains("length: 1000\n"));
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn what_two_readers_could_frame_differently_is_refused() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let path = target("SMS_MP/x");
    let line = format!("POST {path} HTTP/1.1\r\n");
    let many = format!("X-A: {}\r\n", "a".repeat(1000)).repeat(20);
    let rows = [
        format!("{line}Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{line}Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        format!("{line}Host: a\r\nContent-Length: +3\r\n\r\nabc"),
        format!("{line}Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{line}Host: a\nContent-Length: 3\r\n\r\nabc"),
        format!("{line}Host: a\r\nX: a\r\n b\r\n\r\n"),
        format!("{line}Host : a\r\n\r\n"),
        format!("{line}\r\n"),
        format!("{line}Host: a\r\nHost: b\r\n\r\n"),
        format!("\r\n{line}Host: a\r\n\r\n"),
        format!("POST  {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("POST {path} HTTP/2.0\r\nHost: a\r\n\r\n"),
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(),
    ];
    for request in rows {
        let mut client = stack.client().unwrap();
        client.send(request.as_bytes());
        let answer = client.read().unwrap_or_else(|error| panic!("{request:?}: {error}"));
        assert_refused(&answer, 400, "CMGService_Bad_Request");
        assert!(client.is_ended(), "{request:?}");
    }
    let mut client = stack.client().unwrap();
    client.send(format!("{line}Host: a\r\n{many}\r\n").as_bytes());
    assert_refused(&client.read().unwrap(), 431, "CMGService_Head_Too_Large");
    // What does not end is refused before it ends.
    let mut client = stack.client().unwrap();
    client.send(format!("{line}Host: a\r\n{many}").as_bytes());
    assert_refused(&client.read().unwrap(), 431, "CMGService_Head_Too_Large");

    // Chunks that cannot be read: the origin must see no whole body, the client no success.
    let mut client = stack.client().unwrap();
    client.send(format!("{line}Host: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n").as_bytes());
    let answer = client.read().unwrap();
    assert_refused(&answer, 400, "CMGService_Bad_Request");
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn both_framings_at_once_are_refused_to_openssl_too() {
    needs!("openssl", "sh");
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let request = format!(
        "POST {} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
        target("CCM_System/request")
    );
    let (certificate, key) = stack.client_pair();
    let line = format!(
        "printf '{request}' | openssl s_client -quiet -ign_eof -connect {} -servername cmg.test -CAfile {} -cert {} -key {} 2>/dev/null",
        stack.gateway_address(),
        stack.path("pki/ca.pem").display(),
        certificate.display(),
        key.display(),
    );
    let answer = text(&run(std::process::Command::new("sh").arg("-c").arg(line)));
    assert!(answer.starts_with("HTTP/1.1 400 CMGService_Bad_Request\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "what came behind was read as a request: {answer}");
}

#[test]
fn a_published_url_without_a_connection_point_waits_and_is_refused() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway_limits: "wait_secs = 1".into(), ..Setup::new(origin.url()) };
    let mut stack = setup.start();
    let mut client = stack.client().unwrap();
    assert_eq!(client.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
    stack.connector.take().unwrap().kill();
    // Until the gateway noticed, a request may be lost with its channel: 502.
    eventually("the channels are gone", || stack.count("links") == 0);
    let answer = client.ask("GET", &target("SMS_MP/x")).unwrap();
    assert_refused(&answer, 503, "CMGService_No_Connector");
    // Known to nobody at all is something else, and said at once.
    assert_refused(&client.ask("GET", &target("Nothing/x")).unwrap(), 404, "CMGService_Unknown_Url");

    // What was published outlives the gateway.
    stack.gateway.take().unwrap().kill();
    stack.start_gateway();
    eventually("the gateway listens again", || stack.client().is_some());
    let mut client = stack.client().unwrap();
    assert_refused(&client.ask("GET", &target("SMS_MP/x")).unwrap(), 503, "CMGService_No_Connector");

    // One that comes back in time takes what waited.
    stack.start_connector();
    stack.wait_until_ready();
    assert_eq!(client.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
}

#[test]
fn a_gateway_that_was_told_nothing_serves_nothing() {
    let mut stack = Setup::new("http://127.0.0.1:1").prepare();
    stack.start_gateway();
    eventually("the gateway listens", || stack.client().is_some());
    let mut client = stack.client().unwrap();
    assert_refused(&client.ask("GET", &target("SMS_MP/x")).unwrap(), 404, "CMGService_Unknown_Url");
    assert_eq!(client.ask("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata").unwrap().status, 200);
}

/// Answers by the path: what a management point might do wrong.
fn wayward(mut stream: std::net::TcpStream) {
    loop {
        let head = read_head(&mut stream);
        let Some(target) = head.split(' ').nth(1) else { return };
        let path = target.split('?').next().unwrap_or_default();
        let answer = match path {
            "/SMS_MP/missing" => {
                "HTTP/1.1 404 Not Found\r\nX-CMG-Status: Forged\r\nContent-Length: 4\r\n\r\ngone"
            }
            "/SMS_MP/certificate" => "HTTP/1.1 403 Client certificate required\r\nContent-Length: 0\r\n\r\n",
            "/SMS_MP/error" => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad",
            "/SMS_MP/away" => {
                "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.corp/x\r\nContent-Length: 0\r\n\r\n"
            }
            "/SMS_MP/twice" => {
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            }
            "/SMS_MP/garbage" => "220 mail.corp ESMTP\r\n\r\n",
            "/SMS_MP/hangs-up" => return,
            "/SMS_MP/breaks" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
            "/SMS_MP/silent" => {
                thread::sleep(PATIENCE);
                return;
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if stream.write_all(answer.as_bytes()).is_err() || path == "/SMS_MP/breaks" {
            return;
        }
    }
}

#[test]
fn what_an_origin_does_wrong_is_told_as_its_fault() {
    let origin = HandOrigin::start(wayward);
    let setup = Setup { connector_limits: "answer_secs = 2".into(), ..Setup::new(origin.url()) };
    let stack = setup.start();
    let rows = [
        ("missing", 404, "CMGConnector_NotFound"),
        ("error", 500, "CMGConnector_InternalServerError"),
        ("certificate", 403, "CMGConnector_Clientcertificaterequired"),
        ("away", 502, "CMGConnector_Redirect"),
        ("twice", 502, "CMGConnector_BadGateway"),
        ("garbage", 502, "CMGConnector_BadGateway"),
        ("hangs-up", 502, "CMGConnector_BadGateway"),
        ("silent", 504, "CMGConnector_GatewayTimeout"),
    ];
    let mut client = stack.client().unwrap();
    for (name, status, reason) in rows {
        let answer = client.ask("GET", &target(&format!("SMS_MP/{name}"))).unwrap();
        assert_refused(&answer, status, reason);
        assert_eq!(
            answer.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("X-CMG-Status")).count(),
            1
        );
    }
    let answer = client.ask("GET", &target("SMS_MP/missing")).unwrap();
    assert_eq!(answer.text(), "gone", "an origin's own body is kept");
    assert_eq!(client.ask("GET", &target("SMS_MP/good")).unwrap().text(), "ok");

    // An answer that broke in the middle is cut, never completed.
    assert!(client.ask("GET", &target("SMS_MP/breaks")).is_err());

    let nobody = Setup::new("http://127.0.0.1:9").start();
    let answer = nobody.client().unwrap().ask("GET", &target("SMS_MP/x")).unwrap();
    assert_refused(&answer, 502, "CMGConnector_BadGateway");
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_handshake_that_fails_is_told_by_an_alert() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut config = Arc::unwrap_or_clone(config(&stack.path("pki/ca.pem"), None));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let refused = Client::connect_with(stack.gateway_address(), config.into(), Duration::from_secs(20));
    let error = refused.err().expect("h2 alone is not spoken here").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

// ── the whole table ─────────────────────────────────────────────────────────────────────────────

/// A refusal, and how it is provoked from outside.
struct Row {
    refusal: Refusal,
    how: &'static str,
    who: Who,
    request: String,
    /// The connection goes on.
    is_kept: bool,
    /// The connection point knows of it.
    is_at_connector: bool,
}

#[derive(Clone, Copy)]
enum Who {
    Client,
    /// Shows no certificate.
    Stranger,
    /// Shows one of an authority that the site does not know.
    Foreigner,
}

/// An origin with TLS that serves nobody without a certificate.
fn demanding(stack: &Stack, listener: std::net::TcpListener) {
    let authority = CertificateDer::pem_file_iter(stack.path("pki/ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    authority.for_each(|certificate| roots.add(certificate.unwrap()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let file = |kind: &str| stack.path(&format!("pki/server/{SERVICE}.{kind}"));
    let chain = CertificateDer::pem_file_iter(file("pem")).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(file("key")).unwrap())
        .unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            while connection.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
            let _ = connection.write_tls(&mut stream);
        }
    });
}

fn rows() -> Vec<Row> {
    let row = |refusal, how, request| Row {
        refusal,
        how,
        who: Who::Client,
        request,
        is_kept: true,
        is_at_connector: false,
    };
    let ends = |row| Row { is_kept: false, ..row };
    let by = |who, row| Row { who, ..row };
    let behind = |row| Row { is_at_connector: true, ..row };
    let line = |method: &str, target: String| format!("{method} {target} HTTP/1.1\r\nHost: {SERVICE}\r\n");
    let get = |target: String| line("GET", target) + "\r\n";
    let token = target("SMS_MP_TokenAuth/x").replace("MutualAuth", "ServerAuth");
    let long = format!("X-Long: {}\r\n", "a".repeat(1_000)).repeat(20);
    vec![
        row(Refusal::BadRequest, "a path with dot segments", get(target("SMS_MP/../x"))),
        ends(row(
            Refusal::BadRequest,
            "a length and chunks at once",
            line("POST", target("SMS_MP/x"))
                + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )),
        row(Refusal::InvalidToken, "the token family", get(token)),
        by(
            Who::Foreigner,
            row(Refusal::UntrustedCertificate, "another CA's certificate", get(target("SMS_MP/x"))),
        ),
        by(Who::Stranger, row(Refusal::ClientCertificateRequired, "no certificate", get(target("SMS_MP/x")))),
        row(Refusal::UnknownUrl, "an endpoint not published", get(target("AdminService/x?key=SECRET"))),
        row(Refusal::MethodNotAllowed, "TRACE", line("TRACE", target("SMS_MP/x?key=SECRET")) + "\r\n"),
        ends(row(
            Refusal::ContentTooLarge,
            "one octet more than the endpoint takes",
            line("POST", own("small/x")) + "Content-Length: 1001\r\n\r\n",
        )),
        ends(row(Refusal::HeadTooLarge, "20 KB of fields", line("GET", target("SMS_MP/x")) + &long + "\r\n")),
        behind(row(
            Refusal::BadGateway,
            "an origin that answers SMTP",
            get(target("SMS_MP/garbage?key=SECRET")),
        )),
        behind(row(Refusal::GatewayTimeout, "an origin that is silent", get(target("SMS_MP/silent")))),
        behind(row(
            Refusal::ConnectorCertificateRequired,
            "an origin that wants a certificate",
            get(own("demanding/x")),
        )),
        behind(row(Refusal::Redirect, "a redirect to elsewhere", get(target("SMS_MP/away")))),
    ]
}

/// Everything that a refusal promises to its client; gives its request id.
pub fn assert_whole(answer: &Answer, refusal: Refusal, is_kept: bool) -> String {
    assert_refused(answer, refusal.status(), refusal.reason());
    assert_eq!(answer.field("Retry-After").is_some(), refusal.is_worth_retrying(), "{answer:?}");
    let id = answer.field("X-CMG-Request-Id").unwrap().to_owned();
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
    assert!(id.bytes().all(|octet| octet == b'-' || octet.is_ascii_hexdigit()), "{id}");
    let body = answer.text();
    assert!(body.contains(refusal.reason()) && body.contains(&id) && body.len() < 200, "{body:?}");
    assert_eq!(answer.field("Content-Type"), Some("text/plain"));
    assert!(answer.field("Date").is_some());
    assert_eq!(answer.field("Connection") == Some("close"), !is_kept, "{answer:?}");
    id
}

/// The one line that a role wrote when it turned this request away.
pub fn log_line(stack: &Stack, role: &str, id: &str) -> String {
    let mut found = Vec::new();
    eventually(&format!("the {role} says why {id} was refused"), || {
        let log = std::fs::read_to_string(stack.path(&format!("{role}.log"))).unwrap();
        let is_it = |line: &&str| line.contains("request refused") && line.contains(id);
        found = log.lines().filter(is_it).map(str::to_owned).collect();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "one line for one request: {found:?}");
    found.remove(0)
}

/// Status, reason and cause are said, and all fields stand in their order.
pub fn assert_told(line: &str, refusal: Refusal, fields: &[&str]) {
    let places: Vec<usize> = fields
        .iter()
        .map(|field| line.find(&format!(" {field}=")).unwrap_or_else(|| panic!("no {field} in {line}")))
        .collect();
    assert!(places.is_sorted(), "{line}");
    assert!(
        line.contains(&format!(" status={} reason=\"{}\"", refusal.status(), refusal.reason())),
        "{line}"
    );
    let cause = line.split(" cause=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    assert!(cause.contains(' ') && cause.len() > 10, "a sentence: {line}");
}

#[test]
fn every_refusal_of_the_table_is_provoked_told_and_logged() {
    let origin = HandOrigin::start(wayward);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"small\"\nurl = \"{}/small\"\nrequest_length_max = 1000\n[[endpoint]]\nid = {OWN}\npath = \"demanding\"\nurl = \"https://{}\"\nca = \"pki/ca.pem\"\n",
        origin.url(),
        listener.local_addr().unwrap()
    );
    let setup = Setup {
        site,
        gateway_shards: 1,
        gateway_limits: "wait_secs = 5".into(),
        connector_limits: "answer_secs = 2".into(),
        ..Setup::new(origin.url())
    };
    let mut stack = setup.prepare();
    demanding(&stack, listener);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let elsewhere = Pki::open(&stack.path("elsewhere")).unwrap().client("client").unwrap();
    let connect = |stack: &Stack, who| match who {
        Who::Client => stack.client().unwrap(),
        Who::Stranger => with(stack, None),
        Who::Foreigner => with(stack, Some((&elsewhere.certificate, &elsewhere.key))),
    };
    let mut told = Vec::new();
    for Row { refusal, how, who, request, is_kept, is_at_connector } in rows() {
        let mut client = connect(&stack, who);
        client.send(request.as_bytes());
        let answer = client.read().unwrap_or_else(|error| panic!("{how}: {error}"));
        let id = assert_whole(&answer, refusal, is_kept);
        if is_kept {
            let next = client.ask("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata").unwrap();
            assert_eq!(next.status, 200, "{how}");
        } else {
            assert!(client.is_ended(), "{how}");
        }
        told.push((refusal, how, id, is_at_connector));
    }

    // Lines are written by a thread of their own, which a kill does not wait for.
    for (_, _, id, _) in told.iter().filter(|(.., is_at_connector)| *is_at_connector) {
        log_line(&stack, "connector", id);
    }

    // Without a connection point: as many as a client may have waiting, one more, and the end of patience.
    stack.connector.take().unwrap().kill();
    eventually("the channels are gone", || stack.count("links") == 0);
    let ask = |stack: &Stack| {
        let mut client = stack.client().unwrap();
        client.send(format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("SMS_MP/x")).as_bytes());
        client
    };
    let mut waiting: Vec<Client> = (0..cmg::limits::WAITING_OF_CLIENT_MAX).map(|_| ask(&stack)).collect();
    let late = ask(&stack).read().unwrap();
    let id = assert_whole(&late, Refusal::TooManyRequests, true);
    told.push((Refusal::TooManyRequests, "one request more than a client may have waiting", id, false));
    for client in &mut waiting {
        let answer = client.read().unwrap();
        let id = assert_whole(&answer, Refusal::NoConnector, true);
        if told.iter().all(|(refusal, ..)| *refusal != Refusal::NoConnector) {
            told.push((Refusal::NoConnector, "no connection point for 5 s", id, false));
        }
    }

    // Ports run out in a network of their own: `port_wall.rs` provokes that one.
    for refusal in Refusal::ALL.into_iter().filter(|refusal| *refusal != Refusal::NoSourcePort) {
        assert!(told.iter().any(|(provoked, ..)| *provoked == refusal), "{refusal:?} is not provoked");
    }
    for (refusal, how, id, is_at_connector) in &told {
        let gateway = log_line(&stack, "gateway", id);
        assert_told(&gateway, *refusal, &["request", "peer", "method", "path", "status", "reason", "cause"]);
        show(&format!(
            "{} {}\n  provoked by: {how}\n  gateway: {gateway}",
            refusal.status(),
            refusal.reason()
        ));
        if *is_at_connector {
            let connector = log_line(&stack, "connector", id);
            let fields = ["request", "method", "path", "status", "reason", "cause", "origin"];
            assert_told(&connector, *refusal, &fields);
            show(&format!("  connector: {connector}"));
        } else {
            let log = std::fs::read_to_string(stack.path("connector.log")).unwrap();
            assert!(!log.contains(id.as_str()), "the connection point never heard of {id}");
        }
    }
    for role in ["gateway", "connector"] {
        let log = std::fs::read_to_string(stack.path(&format!("{role}.log"))).unwrap();
        assert!(!log.contains("SECRET"), "a query in the log of the {role}");
    }
    assert_eq!(stack.count("panics"), 0);
}

/// Prints for whoever wants to see, with `CMG_SHOW=1` and `-- --nocapture`.
fn show(text: &str) {
    if std::env::var_os("CMG_SHOW").is_some() {
        println!("{text}");
    }
}
