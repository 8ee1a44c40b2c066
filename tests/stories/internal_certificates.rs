//! Internal certificates in their life: renewed while requests go on, revoked and cut within seconds, and the
//! authority's key kept away from gateways.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cmg::pki::{Pki, Terms};
use serde_json::Value;

use crate::client::Client;
use crate::harness::{
    PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin, cmg, eventually, eventually_within,
    free_port, local, outcome, run, text,
};
use crate::needs;

/// What the issue promises.
const CUT_WITHIN: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3_600);
const LIST: &str = "crl = \"pki/internal-crl.pem\"\n";

/// Adds a line to `[internal]` of a settings file.
fn add_internal(stack: &Stack, file: &str, line: &str) {
    let text = fs::read_to_string(stack.path(file)).unwrap();
    let with = format!("[internal]\n{line}");
    fs::write(stack.path(file), text.replacen("[internal]\n", &with, 1)).unwrap();
}

fn pki(stack: &Stack, arguments: &[&str]) -> String {
    text(&run(cmg().arg("pki").arg("--dir").arg(stack.path("pki")).args(arguments)))
}

/// Connection points with a channel to the gateway.
fn attached(stack: &Stack) -> Vec<String> {
    let status = stack.status();
    let links = status["links"].as_array().unwrap().iter();
    let mut points: Vec<_> =
        links.map(|link| link["connection_point"].as_str().unwrap().to_owned()).collect();
    points.sort();
    points.dedup();
    points
}

fn get(client: &mut Client, stack: &Stack) -> u16 {
    let path = stack.url("SMS_MP/x").split_once(&stack.ports.gateway.to_string()).unwrap().1.to_owned();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
    client.read().unwrap().status
}

#[test]
fn a_revoked_connection_point_is_cut_within_five_seconds_and_does_not_come_back() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    pki(&stack, &["crl"]);
    stack.add_connection_point();
    // The gateway has no file: connection points bring the list.
    for file in ["connector.toml", "connector2.toml"] {
        add_internal(&stack, file, LIST);
    }
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let second = stack.start_second_connector();
    eventually("both are attached", || attached(&stack) == ["1", "2"]);
    assert_eq!(get(&mut stack.client().unwrap(), &stack), 200);

    let began = Instant::now();
    let said = pki(&stack, &["revoke", "connector-PS1-1", "--reason", "keyCompromise"]);
    assert!(said.contains("connector-PS1-1"), "{said}");
    assert!(eventually_within(CUT_WITHIN, || attached(&stack) == ["2"]), "{:?}", attached(&stack));
    let took = began.elapsed();
    assert!(took < CUT_WITHIN, "{took:?}");
    println!("cut after {took:?}");
    let log = stack.gateway().log();
    assert!(
        log.contains("cmg://site/PS1/connector/1") && log.contains("is revoked: the channel is cut"),
        "{log}"
    );
    // It dials again and again, and is turned away; the other one answers meanwhile.
    let mut client = stack.client().unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(attached(&stack), ["2"]);
        assert_eq!(get(&mut client, &stack), 200);
        thread::sleep(Duration::from_millis(200));
    }
    eventually("it is told why", || stack.connector().log().contains("CertificateRevoked"));
    eventually("the gateway says so", || stack.gateway().log().contains("invalid peer certificate: Revoked"));

    // A gateway that starts anew knows before anybody tells it.
    drop(second);
    drop(stack.gateway.take());
    assert!(stack.path("state/internal.crl").exists());
    stack.start_gateway();
    eventually("the gateway listens", || ask_admin(stack.gateway_admin(), "/healthz").is_some());
    assert!(!eventually_within(Duration::from_secs(4), || !attached(&stack).is_empty()));
    // Another certificate of the same name is as good as any.
    pki(&stack, &["connector", "1", "--site", "PS1"]);
    eventually("it is attached by its new one", || attached(&stack) == ["1"]);
}

#[test]
fn a_revoked_instance_is_cut_by_its_connection_point_within_five_seconds() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    pki(&stack, &["crl"]);
    add_internal(&stack, "connector.toml", LIST);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let began = Instant::now();
    pki(&stack, &["revoke", "gateway-gw1"]);
    let has_none = || stack.connector_status()["instances"][0]["channels"] == 0;
    assert!(eventually_within(CUT_WITHIN, has_none), "{}", stack.connector_status());
    println!("cut after {:?}", began.elapsed());
    let log = stack.connector().log();
    assert!(log.contains("cmg://gateway/gw1") && log.contains("is revoked: the channel is cut"), "{log}");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(has_none());
        thread::sleep(Duration::from_millis(200));
    }
    eventually("it says why", || {
        let trouble = stack.connector_status()["instances"][0]["trouble"].to_string();
        trouble.contains("Revoked")
    });
}

#[test]
fn who_is_revoked_is_cut_and_refused_by_https_too() {
    let origin = SampleOrigin::start();
    let gateway = free_port();
    // Nobody is where channels come in by TCP-TLS.
    let ways = format!("https = [\"{}\"]", local(gateway));
    let setup = Setup { channel: Some(local(free_port())), ways, ..Setup::new(origin.url()) };
    let mut stack = setup.prepare_with(|ports| ports.gateway = gateway);
    pki(&stack, &["crl"]);
    stack.add_connection_point();
    for file in ["connector.toml", "connector2.toml"] {
        add_internal(&stack, file, LIST);
    }
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let _second = stack.start_second_connector();
    eventually("both are attached", || attached(&stack) == ["1", "2"]);
    let links = stack.status()["links"].clone();
    assert!(links.as_array().unwrap().iter().all(|link| link["transport"] == "https"), "{links}");

    pki(&stack, &["revoke", "connector-PS1-1"]);
    assert!(eventually_within(CUT_WITHIN, || attached(&stack) == ["2"]), "{:?}", attached(&stack));
    eventually("it is told why", || stack.connector().log().contains("CertificateRevoked"));
    assert_eq!(attached(&stack), ["2"]);
    assert_eq!(get(&mut stack.client().unwrap(), &stack), 200);
    // And the other way round: whoever is left has no instance any more.
    pki(&stack, &["revoke", "gateway-gw1"]);
    assert!(eventually_within(CUT_WITHIN, || attached(&stack).is_empty()), "{:?}", attached(&stack));
    let log = || fs::read_to_string(stack.path("connector2.log")).unwrap();
    eventually("it says why", || log().contains("invalid peer certificate: Revoked"));
    assert!(attached(&stack).is_empty());
}

#[test]
fn what_is_put_there_by_hand_is_taken_up_and_whoever_takes_the_place_goes_on_with_it() {
    let origin = SampleOrigin::start();
    let limits = || "drain_secs = 5".to_owned();
    let setup = Setup { gateway_limits: limits(), connector_limits: limits(), ..Setup::new(origin.url()) };
    let mut stack = setup.prepare();
    pki(&stack, &["crl"]);
    stack.add_connection_point();
    add_internal(&stack, "connector.toml", LIST);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let all = |stack: &Stack| [stack.status(), stack.connector_status()];
    let serials = |stack: &Stack| all(stack).map(|status| status["internal"]["serial"].clone());
    let renew = |stack: &Stack| {
        let before = serials(stack);
        make_short(stack, 3_600);
        eventually("others are shown", || serials(stack).iter().zip(&before).all(|(now, then)| now != then));
    };
    renew(&stack);
    // Also while something else is wrong.
    let site = fs::read(stack.path("site.toml")).unwrap();
    fs::write(stack.path("site.toml"), "wrong").unwrap();
    let error = || stack.connector_status()["reloads"]["error"].clone();
    eventually("it is told", || !error().is_null());
    renew(&stack);
    assert!(!error().is_null());
    fs::write(stack.path("site.toml"), site).unwrap();
    eventually("it is right again", || error().is_null());
    let after = serials(&stack);
    assert_eq!(get(&mut stack.client().unwrap(), &stack), 200);
    // Of somebody who is not here: the list alone is new.
    let numbers = |stack: &Stack| all(stack).map(|status| status["internal"]["lists"][0]["number"].clone());
    eventually("both have the list", || numbers(&stack).iter().all(|number| !number.is_null()));
    let first = numbers(&stack);
    pki(&stack, &["revoke", "connector-PS1-2"]);
    let are_new = || numbers(&stack).iter().zip(&first).all(|(now, then)| now != then);
    assert!(eventually_within(CUT_WITHIN, are_new), "{:?}", numbers(&stack));
    let listed = numbers(&stack);
    // A list that is none is told of, takes nothing back, and is in nobody's way.
    let list = stack.path("pki/internal-crl.pem");
    let kept = fs::read(&list).unwrap();
    fs::write(&list, "none").unwrap();
    let trouble = || stack.connector_status()["internal"]["trouble"].to_string();
    eventually("it is told", || trouble().contains("the list of revoked internal certificates"));
    assert_eq!(numbers(&stack), listed);
    fs::write(&list, kept).unwrap();
    eventually("it is well again", || trouble() == "[]");

    for role in ["gateway", "connector"] {
        let successor = stack.start_successor(role);
        let place = if role == "gateway" { &mut stack.gateway } else { &mut stack.connector };
        let mut old = place.replace(successor).unwrap();
        assert!(old.wait_for_exit(PATIENCE).is_some_and(|status| status.success()), "{}", old.log());
    }
    eventually("it flows", || get(&mut stack.client().unwrap(), &stack) == 200);
    assert_eq!(serials(&stack), after);
    assert_eq!(numbers(&stack), listed);
    assert_eq!(stack.count("panics"), 0);
}

/// An issuer beside a stack.
struct Issuer {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Issuer {
    fn start(stack: &Stack, seconds: u64) -> Issuer {
        let (address, admin) = (local(free_port()), local(free_port()));
        let mut command = cmg();
        command.arg("issuer").arg("--dir").arg(stack.path("pki"));
        command.args(["--listen", &address.to_string(), "--admin", &admin.to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        let process = Process::start(&mut command, &stack.path("issuer.log"));
        eventually("the issuer listens", || ask_admin(admin, "/readyz").is_some());
        Issuer { process, address, admin }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&ask_admin(self.admin, "/status").unwrap().1).unwrap()
    }
}

/// Makes the certificates of both roles anew, good for so long.
fn make_short(stack: &Stack, seconds: u64) {
    make(stack, Duration::from_secs(seconds), SystemTime::now());
}

/// The same with so much left of an hour: a quarter of it or less, so that they are to be renewed at once.
fn make_old(stack: &Stack, left: Duration) {
    assert!(left <= HOUR / 4);
    make(stack, HOUR, SystemTime::now() - (HOUR - left));
}

fn make(stack: &Stack, life: Duration, when: SystemTime) {
    for name in ["gateway-gw1", "connector-PS1-1"] {
        fs::remove_file(stack.path(&format!("pki/internal/{name}.pem"))).unwrap();
    }
    let pki = Pki::open_at(&stack.path("pki"), Terms::default(), when).unwrap();
    let pki = pki.under(Terms { key: None, life: Some(life) });
    pki.gateway("gw1").unwrap();
    pki.connector("PS1", "1").unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn certificates_renew_themselves_while_requests_go_on() {
    const LEFT: Duration = Duration::from_secs(25);
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let issuer = Issuer::start(&stack, HOUR.as_secs());
    add_internal(&stack, "connector.toml", &format!("issuer = \"{}\"\n", issuer.address));
    make_old(&stack, LEFT);
    let began = Instant::now();
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let internal =
        |stack: &Stack| [stack.status(), stack.connector_status()].map(|all| all["internal"].clone());
    let (mut client, mut count) = (stack.client().unwrap(), 0);
    let mut ask_until = |what: &str, holds: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !holds() {
            assert!(since.elapsed() < PATIENCE, "never: {what}: {:?}", internal(&stack));
            for _ in 0..10 {
                assert_eq!(get(&mut client, &stack), 200);
                count += 1;
                thread::sleep(Duration::from_millis(20));
            }
        }
    };
    let are_renewed = |times: u64| internal(&stack).iter().all(|role| role["renewals"] == times);
    ask_until("both have another", &|| are_renewed(1));
    // Those that are put there by hand are renewed, too.
    make_old(&stack, HOUR / 4);
    ask_until("both have one more", &|| are_renewed(2));
    ask_until("those of the start have ended", &|| began.elapsed() > LEFT + Duration::from_secs(2));
    println!("{count} requests, none lost, over {:?}", began.elapsed());
    for role in internal(&stack) {
        assert_eq!(role["trouble"], serde_json::json!([]));
    }
    let pair = ["pem", "key"].map(|kind| stack.path(&format!("pki/internal/connector-PS1-1.{kind}")));
    assert_eq!(mode(&pair[1]), 0o600);
    assert_eq!(mode(&stack.path("pki/internal/gateway-gw1.key")), 0o600);
    let status = issuer.status();
    assert!(status["given"].as_u64().unwrap() >= 4 && status["refused"] == 0, "{status}");
    assert!(
        issuer.process.log().contains("cmg://gateway/gw1"),
        "a connection point carries for the instance"
    );
    // What was renewed is what a start finds: new channels are made by it.
    drop(stack.connector.take());
    drop(stack.gateway.take());
    let read = || pair.each_ref().map(|file| fs::read(file).unwrap());
    let put = |[certificate, key]: &[Vec<u8>; 2]| {
        fs::write(&pair[1], key).unwrap();
        fs::write(&pair[0], certificate).unwrap();
    };
    let (renewed, gateway) = (read(), stack.path("pki/internal/gateway-gw1"));
    let of_gateway = ["pem", "key"].map(|kind| fs::read(gateway.with_extension(kind)).unwrap());
    make_old(&stack, HOUR / 4);
    let old = read();
    put(&renewed);
    ["pem", "key"].iter().zip(of_gateway).for_each(|(kind, was)| {
        fs::write(gateway.with_extension(kind), was).unwrap();
    });
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    assert!(internal(&stack).iter().all(|role| role["renewals"] == 0));
    // Who is revoked is revoked with every certificate that he had, is cut though nobody has a file of the list, and
    // gets no other certificate.
    let began = Instant::now();
    let said = pki(&stack, &["revoke", "connector-PS1-1"]);
    assert!(said.lines().count() >= 3, "{said}");
    assert!(eventually_within(CUT_WITHIN, || attached(&stack).is_empty()));
    println!("cut after {:?}", began.elapsed());
    put(&old);
    eventually("it gets no other", || {
        let trouble = stack.connector_status()["internal"]["trouble"].to_string();
        trouble.contains("is not renewed") && trouble.contains("its certificate is revoked")
    });
    assert!(issuer.status()["refused"].as_u64().unwrap() >= 1);
    assert!(attached(&stack).is_empty());
}

#[test]
fn an_issuer_that_is_away_is_told_of_and_asked_again() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let issuer = Issuer::start(&stack, HOUR.as_secs());
    add_internal(&stack, "connector.toml", &format!("issuer = \"{}\"\n", issuer.address));
    make_old(&stack, HOUR / 4);
    let Issuer { process, address, admin } = issuer;
    drop(process);
    stack.start_gateway();
    eventually("the gateway listens", || ask_admin(stack.gateway_admin(), "/healthz").is_some());
    // Long enough to look for a channel: before there is one nothing fails.
    thread::sleep(Duration::from_secs(4));
    let internal = stack.status()["internal"].clone();
    assert!(internal["renewals_failed"] == 0 && internal["trouble"] == serde_json::json!([]), "{internal}");
    stack.start_connector();
    stack.wait_until_ready();
    let trouble = |status: &Value| status["internal"]["trouble"].to_string();
    eventually("both tell that nothing comes", || {
        trouble(&stack.connector_status()).contains("is not renewed")
            && trouble(&stack.status()).contains("is not renewed")
    });
    assert_eq!(stack.connector_status()["state"], "Degraded");
    let (_, metrics) = ask_admin(stack.connector_admin(), "/metrics").unwrap();
    assert!(metrics.contains("\ncmg_connector_internal_trouble 1\n"), "{metrics}");
    let mut command = cmg();
    command.arg("issuer").arg("--dir").arg(stack.path("pki"));
    command.args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--seconds", "3600"]);
    let _process = Process::start(&mut command, &stack.path("issuer.log"));
    eventually("both have another", || {
        trouble(&stack.connector_status()) == "[]"
            && trouble(&stack.status()) == "[]"
            && stack.status()["internal"]["renewals"] == 1
            && stack.connector_status()["internal"]["renewals"] == 1
    });
}

#[test]
fn a_connection_point_that_starts_while_the_issuer_is_away_knows_who_is_revoked() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let issuer = Issuer::start(&stack, HOUR.as_secs());
    add_internal(&stack, "connector.toml", &format!("issuer = \"{}\"\n", issuer.address));
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let kept = || fs::read(stack.path("pki/internal/connector-PS1-1.revoked.der")).unwrap_or_default();
    eventually("a list of nobody is kept", || !kept().is_empty());
    let of_nobody = kept();
    pki(&stack, &["revoke", "gateway-gw1"]);
    let channels = |stack: &Stack| stack.connector_status()["instances"][0]["channels"].clone();
    assert!(eventually_within(CUT_WITHIN, || channels(&stack) == 0), "{}", stack.connector_status());
    eventually("the other one is kept", || kept() != of_nobody);
    let lists = |stack: &Stack| stack.connector_status()["internal"]["lists"].clone();
    let before = lists(&stack);
    assert_eq!(before[0]["entries"], 1);
    drop(stack.connector.take());
    drop(issuer);

    stack.start_connector();
    eventually("it says how it is", || ask_admin(stack.connector_admin(), "/healthz").is_some());
    eventually("the issuer is missed", || {
        stack.connector_status()["internal"]["trouble"].to_string().contains("the issuer")
    });
    assert_eq!(lists(&stack)[0]["number"], before[0]["number"], "it has what was kept");
    assert!(!eventually_within(Duration::from_secs(3), || channels(&stack) != 0));
    eventually("it says why", || {
        stack.connector_status()["instances"][0]["trouble"].to_string().contains("Revoked")
    });
}

#[test]
fn an_issuer_that_is_to_end_while_it_starts_waits_for_nobody() {
    let stack = Setup::new("http://127.0.0.1:1").prepare();
    // Somebody changes the folder, and takes his time.
    let held = cmg::pki::lock(&stack.path("pki")).unwrap();
    let mut command = cmg();
    command.arg("issuer").arg("--dir").arg(stack.path("pki"));
    command.args(["--listen", &local(free_port()).to_string(), "--admin", &local(free_port()).to_string()]);
    let mut process = Process::start(&mut command, &stack.path("issuer.log"));
    let status = format!("/proc/{}/status", process.pid());
    let takes_signals = || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
    };
    eventually("it takes signals", takes_signals);
    process.signal(libc::SIGTERM);
    let ended = process.wait_for_exit(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?} {}", process.log());
    drop(held);
    // What it left is in nobody's way, and once it serves it drains.
    let mut issuer = Issuer::start(&stack, 3_600);
    issuer.process.signal(libc::SIGTERM);
    let ended = issuer.process.wait_for_exit(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?} {}", issuer.process.log());
}

#[test]
fn the_issuer_hears_roles_alone() {
    needs!("openssl");
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).prepare();
    let issuer = Issuer::start(&stack, 3_600);
    let visit = |what: &str, pair: Option<(&Path, &Path)>| {
        let shown = pair.map_or(String::new(), |(certificate, key)| {
            format!("-cert {} -key {}", certificate.display(), key.display())
        });
        let line = format!(
            "(printf '{what} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n'; sleep 2) | openssl s_client \
             -quiet -verify_return_error -connect {} -CAfile {} {shown}",
            issuer.address,
            stack.path("pki/internal-ca.pem").display(),
        );
        text(&outcome(std::process::Command::new("sh").args(["-c", &line])).stdout)
    };
    let file = |name: &str| stack.path(&format!("pki/internal/connector-PS1-1.{name}"));
    let (list, renewal) = ("GET /list", "POST /renewal");
    let role = || (file("pem"), file("key"));
    let as_role = |what: &str| visit(what, Some((&role().0, &role().1)));
    let heard = as_role(list);
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    // Who is one and proves nothing.
    assert!(as_role(renewal).starts_with("HTTP/1.1 403"));
    let (certificate, key) = stack.client_pair();
    for pair in [None, Some((certificate.as_path(), key.as_path()))] {
        assert_eq!(visit(list, pair), "");
    }
    assert_eq!(issuer.status()["strangers"], 2);
    pki(&stack, &["revoke", "connector-PS1-1"]);
    // Who is revoked is told the list, and nothing else.
    let is_out = || as_role(renewal).contains("its certificate is revoked");
    assert!(eventually_within(PATIENCE, is_out));
    let heard = as_role(list);
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
}

#[test]
fn a_gateway_with_the_key_of_the_internal_authority_does_not_start() {
    let stack = Setup::new("http://127.0.0.1:1").prepare();
    let whole = fs::read_to_string(stack.path("pki/internal-ca.pem")).unwrap()
        + &fs::read_to_string(stack.path("pki/internal-ca.key")).unwrap();
    fs::write(stack.path("both.pem"), whole).unwrap();
    let text_of = fs::read_to_string(stack.path("gateway.toml")).unwrap();
    fs::write(stack.path("gateway.toml"), text_of.replace("pki/internal-ca.pem", "both.pem")).unwrap();
    let ended = outcome(&mut stack.role("gateway"));
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(
        said.contains("internal.ca") && said.contains("no key of the internal authority on a gateway"),
        "{said}"
    );
    let checked = outcome(cmg().arg("check").arg(stack.path("gateway.toml")));
    assert_eq!(checked.status.code(), Some(2));
}
