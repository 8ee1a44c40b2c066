//! Who asked is who is answered: two identities that alternate over the same shards, channels and origin
//! connections, and two sites on one gateway, of which neither's trust admits to the other's roles.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cmg::pki::Pki;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::client::{Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, SERVICE, Setup, Stack, cmg, eventually, read_head, run, text,
};

/// The management point of a second site.
const ELSEWHERE: u64 = MANAGEMENT_POINT + 200;

/// Answers with its own name, who asks as it was told, and what was asked.
fn mirror(name: &'static str) -> impl Fn(TcpStream) + Clone + Send {
    move |mut stream: TcpStream| {
        loop {
            let head = read_head(&mut stream);
            let Some(target) = head.split(' ').nth(1) else { return };
            let told = head.lines().find_map(|line| line.strip_prefix("Client-Cert: ")).unwrap_or("nobody");
            let body = format!("{name} {told} {target}");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// One who asks.
#[derive(Clone)]
struct Identity {
    name: &'static str,
    config: Arc<ClientConfig>,
    /// As `Client-Cert` says it.
    told: String,
}

impl Identity {
    fn new(stack: &Stack, name: &'static str) -> Identity {
        let pair = Pki::open(&stack.path("pki")).unwrap().client(name).unwrap();
        let config = config(&stack.path("pki/ca.pem"), Some((&pair.certificate, &pair.key)));
        let leaf = CertificateDer::from_pem_file(&pair.certificate).unwrap();
        Identity { name, config, told: format!(":{}:", BASE64.encode(&leaf)) }
    }

    fn connect(&self, stack: &Stack) -> Client {
        Client::connect_with(stack.gateway_address(), self.config.clone(), PATIENCE).unwrap()
    }

    fn ask(&self, client: &mut Client, number: usize) {
        let path = format!("own/{}-{number}", self.name);
        let target = format!("/CCM_Proxy_MutualAuth/{OWN}/{path}");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
    }

    fn check(&self, client: &mut Client, number: usize) {
        let answer = client.read().unwrap();
        let expected = format!("only {} /own/{}-{number}", self.told, self.name);
        assert_eq!((answer.status, answer.text()), (200, expected));
    }
}

/// So many requests of each of two identities, in turn, over so many connections of each in each of four threads.
fn alternate(connections: usize, requests: usize) {
    let origin = HandOrigin::start(mirror("only"));
    let site = format!("[[endpoint]]\nid = {OWN}\npath = \"own\"\nurl = \"{}/own\"\n", origin.url());
    let stack = Setup { site, ..Setup::new(origin.url()) }.start();
    let identities = [Identity::new(&stack, "alice"), Identity::new(&stack, "bob")];
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (stack, identities) = (&stack, &identities);
            scope.spawn(move || {
                let connect = |_| identities.each_ref().map(|one| one.connect(stack));
                let mut pairs: Vec<[Client; 2]> = (0..connections).map(connect).collect();
                for number in 0..requests {
                    let place = number % pairs.len();
                    let number = worker * requests + number;
                    // Both are under way at once.
                    for (one, client) in identities.iter().zip(&mut pairs[place]) {
                        one.ask(client, number);
                    }
                    for (one, client) in identities.iter().zip(&mut pairs[place]) {
                        one.check(client, number);
                    }
                }
            });
        }
    });
    assert_eq!(stack.count("answered"), 2 * (WORKERS * requests) as u64);
    assert_eq!(stack.count("panics"), 0);
}

const WORKERS: usize = 4;

#[test]
fn ten_thousand_requests_of_two_identities_over_few_connections_are_never_the_others() {
    alternate(1, 1_250);
}

#[test]
fn ten_thousand_requests_of_two_identities_over_many_connections_are_never_the_others() {
    alternate(125, 1_250);
}

fn token(stack: &Stack, folder: &str, arguments: &[&str]) -> String {
    text(&run(cmg().args(["token", "--dir"]).arg(stack.path(folder)).args(arguments)))
}

#[test]
fn of_two_sites_neither_admits_to_the_others_roles() {
    let origins = ["first", "second"].map(|name| HandOrigin::start(mirror(name)));
    let mut stack = Setup::new(origins[0].url()).prepare();
    let folders = ["tokens1", "tokens2"];
    let tokens = folders.map(|folder| token(&stack, folder, &["new"]).trim().to_owned());
    let issuers = folders.map(|folder| token(&stack, folder, &["site"]));
    let site = std::fs::read_to_string(stack.path("site.toml")).unwrap() + &issuers[0];
    std::fs::write(stack.path("site.toml"), site).unwrap();
    let papers = ["pki", "elsewhere"].map(|folder| {
        let pair = Pki::open(&stack.path(folder)).unwrap().client("device").unwrap();
        (pair.certificate, pair.key)
    });
    stack.add_site(ELSEWHERE, &origins[1].url(), "elsewhere/ca.pem", &issuers[1]);
    stack.start_gateway();
    stack.start_connector();
    let other = stack.start_second_connector();
    stack.wait_until_ready();
    let client = |(certificate, key): &(PathBuf, PathBuf)| {
        let config = config(&stack.path("pki/ca.pem"), Some((certificate, key)));
        Client::connect_with(stack.gateway_address(), config, PATIENCE).unwrap()
    };
    let mut clients = papers.each_ref().map(client);
    let ids = [MANAGEMENT_POINT, ELSEWHERE];
    let by_certificate = |client: &mut Client, site: usize| {
        let target = format!("/CCM_Proxy_MutualAuth/{}/SMS_MP/x", ids[site]);
        client.ask("GET", &target).unwrap()
    };
    let by_token = |client: &mut Client, token: &str, site: usize| {
        let target = format!("/CCM_Proxy_ServerAuth/{}/CCM_Client/x", ids[site]);
        let line =
            format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\nAuthorization: Bearer {token}\r\n\r\n");
        client.send(line.as_bytes());
        client.read().unwrap()
    };
    for (site, client) in clients.iter_mut().enumerate() {
        eventually("the site is served", || by_certificate(client, site).status == 200);
    }
    let check = |clients: &mut [Client; 2], rounds: usize| {
        for round in 0..rounds {
            for (whose, client) in clients.iter_mut().enumerate() {
                for (site, name) in ["first", "second"].into_iter().enumerate() {
                    let answers = [
                        ("CMGService_Untrusted_Certificate", by_certificate(client, site)),
                        ("CMGService_Invalid_Token", by_token(client, &tokens[whose], site)),
                    ];
                    for (reason, answer) in answers {
                        if whose == site {
                            let is_right = answer.text().starts_with(name);
                            assert!(answer.status == 200 && is_right, "round {round}: {answer:?}");
                        } else {
                            let found = (answer.status, answer.reason.as_str());
                            assert_eq!(found, (401, reason), "round {round}");
                        }
                    }
                }
            }
        }
    };
    check(&mut clients, 100);
    // The second site claims the first one's role, and trust for it: it gets neither.
    other.kill();
    eventually("its channels are gone", || stack.status()["sites"][1]["links"] == 0);
    let claim = format!("[[management_point]]\nid = {MANAGEMENT_POINT}\nurl = \"{}\"\n", origins[1].url());
    let site = std::fs::read_to_string(stack.path("site2.toml")).unwrap();
    let claimed = site
        .replace("serial = 1", "serial = 2")
        .replace("[[management_point]]", &(claim + "[[management_point]]"));
    assert_ne!(site, claimed);
    std::fs::write(stack.path("site2.toml"), claimed).unwrap();
    let _other = stack.start_second_connector();
    eventually("the gateway refuses what it publishes", || {
        stack.gateway().log().contains("published settings refused")
    });
    eventually("its own role is served as before", || by_certificate(&mut clients[1], 1).status == 200);
    check(&mut clients, 20);
    assert_eq!(stack.count("panics"), 0);
}
