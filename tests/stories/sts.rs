//! The token service of a site: what it gives, to whom, and whom it does not hear.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use cmg::pki::Pki;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::client::{Answer, Client, config_of};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin, cmg, eventually,
    eventually_within, free_port, local, outcome, run, text,
};

/// A site with a token service, and everything that runs for it.
struct Site {
    service: Process,
    address: SocketAddr,
    admin: SocketAddr,
    stack: Stack,
    _origin: SampleOrigin,
}

/// `cmg token …` in the folder of the site's tokens.
fn token(folder: &Path, words: &[&str]) -> String {
    text(&run(cmg().arg("token").arg("--dir").arg(folder).args(words))).trim_end().to_owned()
}

impl Site {
    fn start() -> Site {
        let origin = SampleOrigin::start();
        let (address, admin) = (local(free_port()), local(free_port()));
        let mut setup = Setup::new(origin.url());
        setup.site = format!(
            "[management_point.token_service]\nurl = \"https://{address}\"\nca = \"pki/ca.pem\"\n\
             certificate = \"pki/internal/connector-PS1-1.pem\"\nkey = \"pki/internal/connector-PS1-1.key\"\n"
        );
        let mut stack = setup.prepare();
        let lines = token(&stack.path("tokens"), &["site"]);
        let site = std::fs::read_to_string(stack.path("site.toml")).unwrap();
        std::fs::write(stack.path("site.toml"), format!("{site}\n{lines}\n")).unwrap();
        let service = Process::start(&mut service(&stack, address, admin), &stack.path("sts.log"));
        eventually("the token service listens", || ask_admin(admin, "/readyz").is_some());
        stack.start_gateway();
        stack.start_connector();
        stack.wait_until_ready();
        Site { service, address, admin, stack, _origin: origin }
    }

    fn tokens(&self) -> PathBuf {
        self.stack.path("tokens")
    }

    /// A client without a certificate, through the gateway.
    fn stranger(&self) -> Client {
        Client::connect(self.stack.gateway_address(), &self.stack.path("pki/ca.pem"), None).unwrap()
    }

    /// Somebody who comes to the token service itself.
    fn visit(&self, pair: Option<(&Path, &Path)>) -> io::Result<Answer> {
        let mut client = Client::connect(self.address, &self.stack.path("pki/ca.pem"), pair)?;
        let leaf = CertificateDer::from_pem_file(self.stack.client_pair().0).unwrap();
        let certificate = cmg::auth::client_cert_field(&leaf);
        let head = format!("GET /CCM_STS HTTP/1.1\r\nHost: {SERVICE}\r\nClient-Cert: {certificate}\r\n\r\n");
        client.send(head.as_bytes());
        client.read()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&ask_admin(self.admin, "/status").unwrap().1).unwrap()
    }
}

fn service(stack: &Stack, address: SocketAddr, admin: SocketAddr) -> Command {
    service_but(stack, address, admin, "", "")
}

/// The same with another value of one option.
fn service_but(stack: &Stack, address: SocketAddr, admin: SocketAddr, other: &str, value: &str) -> Command {
    let file = |name: &str| stack.path(name).to_str().unwrap().to_owned();
    let options = [
        ("--site", file("site.toml")),
        ("--tokens", file("tokens")),
        ("--listen", address.to_string()),
        ("--admin", admin.to_string()),
        ("--certificate", file(&format!("pki/server/{SERVICE}.pem"))),
        ("--key", file(&format!("pki/server/{SERVICE}.key"))),
        ("--internal-ca", file("pki/internal-ca.pem")),
    ];
    let mut command = cmg();
    command.arg("sts");
    for (option, usual) in options {
        command.arg(option).arg(if option == other { value } else { &usual });
    }
    command
}

fn ask(client: &mut Client, family: &str, path: &str, token: Option<&str>) -> Answer {
    let shown = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let head = format!(
        "GET /CCM_Proxy_{family}/{MANAGEMENT_POINT}/{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{shown}\r\n"
    );
    client.send(head.as_bytes());
    client.read().unwrap()
}

fn exchange(client: &mut Client, token: &str) -> Value {
    let answer = ask(client, "ServerAuth", "CCM_STS", Some(token));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    let given: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(given["token_type"], "Bearer");
    given
}

fn claims(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
}

#[test]
fn a_device_gets_from_a_token_in_bulk_to_one_of_its_own() {
    let site = Site::start();
    let bulk = token(&site.tokens(), &["new", "--note", "laptops"]);
    let mut client = site.stranger();
    let given = exchange(&mut client, &bulk);
    let (session, own) = (claims(&given["access_token"]), claims(&given["client_token"]));
    let device = given["device_id"].as_str().unwrap();
    assert!(device.starts_with("GUID:") && device.len() == 41, "{device}");
    assert_eq!((&session["DeviceId"], &own["DeviceId"]), (&given["device_id"], &given["device_id"]));
    assert_eq!(session["exp"].as_u64().unwrap() - session["nbf"].as_u64().unwrap(), 28_800);
    // Another device that comes with the same token is another device.
    assert_ne!(exchange(&mut client, &bulk)["device_id"], given["device_id"]);
    // Both open what they are for, and the origin sees the request.
    for kind in ["access_token", "client_token"] {
        let shown = given[kind].as_str();
        let answer = ask(&mut client, "ServerAuth", "ccm_system_tokenauth/request", shown);
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
    }
    // Its own token gets it another session, and is renewed whenever it comes.
    let again = exchange(&mut client, given["client_token"].as_str().unwrap());
    assert_eq!(again["device_id"], given["device_id"]);
    let renewed = claims(&again["client_token"]);
    assert_eq!(renewed["DeviceId"], given["device_id"]);
    assert_ne!(renewed["UniqueId"], own["UniqueId"]);
    assert!(renewed["exp"].as_u64() >= own["exp"].as_u64());
    // A session is no proof for another.
    let answer = ask(&mut client, "ServerAuth", "CCM_STS", given["access_token"].as_str());
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
    let status = site.status();
    assert_eq!(status["exchanged"]["registration"], 2, "{status}");
    assert_eq!((&status["exchanged"]["client"], &status["own_tokens"]), (&1.into(), &3.into()), "{status}");
    // Nothing of a token is in a log.
    for log in [site.service.log(), site.stack.gateway().log(), site.stack.connector().log()] {
        for token in [&bulk, again["access_token"].as_str().unwrap()] {
            let signature = token.rsplit('.').next().unwrap();
            assert!(!log.contains(signature), "{log}");
        }
    }
}

#[test]
fn a_device_with_a_certificate_gets_a_session_by_it() {
    let site = Site::start();
    let mut client = site.stack.client().unwrap();
    let answer = ask(&mut client, "MutualAuth", "CCM_STS", None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let given: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(
        given["device_id"].as_str().unwrap().starts_with("SHA256:") && given.get("client_token").is_none()
    );
    let shown = given["access_token"].as_str();
    let answer = ask(&mut site.stranger(), "ServerAuth", "SMS_MP_TokenAuth/x", shown);
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Beside a token that is none, or two, a certificate does not help; and the family for tokens wants one.
    let answer = ask(&mut client, "MutualAuth", "CCM_STS", Some("a.b.c"));
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(
        !answer.text().contains("expected"),
        "what the site believes is nobody's business: {}",
        answer.text()
    );
    eventually("the refusal is told", || site.service.log().contains("token refused"));
    let session = shown.unwrap();
    let twice = format!("{session}\r\nAuthorization: Bearer {session}");
    assert_eq!(ask(&mut client, "MutualAuth", "CCM_STS", Some(&twice)).status, 401);
    let answer = ask(&mut client, "ServerAuth", "CCM_STS", None);
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
    // Its sessions end when it is blocked by the name that it has there.
    let blocked = site.tokens().join("blocked.txt");
    let before = std::fs::read_to_string(&blocked).unwrap();
    std::fs::write(&blocked, format!("{before}{}\n", given["device_id"].as_str().unwrap())).unwrap();
    let is_refused =
        || ask(&mut site.stranger(), "ServerAuth", "SMS_MP_TokenAuth/x", Some(session)).status == 401;
    assert!(eventually_within(Duration::from_secs(4), is_refused));
}

#[test]
fn who_blocks_a_token_blocks_the_sessions_it_led_to() {
    let site = Site::start();
    let bulk = token(&site.tokens(), &["new"]);
    let list = token(&site.tokens(), &["list"]);
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let mut client = site.stranger();
    let given = exchange(&mut client, &bulk);
    token(&site.tokens(), &["block", &id]);
    let path = "ccm_system_tokenauth/request";
    let shown = given["access_token"].as_str();
    let is_refused = || ask(&mut site.stranger(), "ServerAuth", path, shown).status == 401;
    assert!(eventually_within(Duration::from_secs(4), is_refused));
    let answer = ask(&mut site.stranger(), "ServerAuth", "CCM_STS", Some(&bulk));
    assert_eq!(answer.status, 401);
    // Devices that registered with it before stay.
    let own = given["client_token"].as_str();
    assert_eq!(ask(&mut site.stranger(), "ServerAuth", path, own).status, 200);
}

#[test]
fn only_a_connection_point_of_the_site_is_heard() {
    let site = Site::start();
    let stack = &site.stack;
    let pki = Pki::open(&stack.path("pki")).unwrap();
    pki.connector("XY9", "1").unwrap();
    let pair = |name: &str| (stack.path(&format!("{name}.pem")), stack.path(&format!("{name}.key")));
    for (name, is_heard) in [
        ("pki/internal/connector-PS1-1", true),
        ("pki/internal/connector-XY9-1", false),
        ("pki/internal/gateway-gw1", false),
        ("pki/clients/client", false),
    ] {
        let (certificate, key) = pair(name);
        let answer = site.visit(Some((&certificate, &key)));
        assert_eq!(answer.is_ok(), is_heard, "{name}: {answer:?}");
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert!(site.visit(None).is_err());
    eventually("strangers are counted", || site.status()["strangers"] == 4);
    eventually("and told", || site.service.log().contains("cmg://site/XY9/connector/1"));
}

#[test]
fn who_comes_again_is_asked_again_who_it_is() {
    let site = Site::start();
    let (certificate, key) =
        ["pem", "key"].map(|end| site.stack.path(&format!("pki/internal/connector-PS1-1.{end}"))).into();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = config_of(&[version], &site.stack.path("pki/ca.pem"), Some((&certificate, &key)));
        for visit in 0..3 {
            let mut client = Client::connect_with(site.address, config.clone(), PATIENCE).unwrap();
            // A ticket would come before the answer.
            assert_eq!(client.ask("GET", "/CCM_STS").unwrap().status, 401);
            assert!(!client.is_resumed(), "{:?}, visit {visit}", version.version);
        }
    }
}

#[test]
fn a_mistake_in_its_options_ends_with_what_was_found_and_expected() {
    let site = Site::start();
    let stack = &site.stack;
    let other = stack.path("other-tokens");
    token(&other, &["list"]);
    let rows = [
        ("--site", "/nowhere/site.toml", "/nowhere/site.toml: found no such file"),
        ("--certificate", "/nowhere.pem", "--certificate: found /nowhere.pem: "),
        ("--internal-ca", "/dev/null", "--internal-ca: found /dev/null: no certificate, expected PEM"),
        ("--admin", "0.0.0.0:1", "--admin: found 0.0.0.0:1, expected a loopback address"),
        ("--tokens", other.to_str().unwrap(), "nobody would take what is given (cmg token site --dir "),
        (
            "--listen",
            &site.address.to_string(),
            "expected an address of this machine and a port that is free",
        ),
    ];
    for (option, value, expected) in rows {
        let output = outcome(&mut service_but(stack, local(free_port()), local(free_port()), option, value));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {said}");
        assert!(said.contains(expected), "{option}: {said}");
    }
}

#[test]
fn ctrl_c_lets_what_is_under_way_end() {
    let mut site = Site::start();
    let bulk = token(&site.tokens(), &["new"]);
    exchange(&mut site.stranger(), &bulk);
    site.service.signal(libc::SIGINT);
    let status = site.service.wait_for_exit(Duration::from_secs(12)).expect("it drains and ends");
    assert!(status.success(), "{status}\n{}", site.service.log());
    // Without it there is no session, and everything else goes on.
    let answer = ask(&mut site.stranger(), "ServerAuth", "CCM_STS", Some(&bulk));
    assert_eq!((answer.status, answer.reason.as_str()), (502, "CMGConnector_BadGateway"));
    let answer = ask(&mut site.stack.client().unwrap(), "MutualAuth", "SMS_MP/x", None);
    assert_eq!(answer.status, 200);
}
