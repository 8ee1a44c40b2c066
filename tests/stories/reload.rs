//! Settings, certificates and keys that change while a role runs: in force everywhere soon, without a request that
//! fails, and what is wrong takes the place of nothing.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cmg::pki::Pki;
use serde_json::Value;

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin,
    eventually, eventually_within, read_head,
};
use crate::upgrade::Load;

/// What a change takes to be in force everywhere.
const SOON: Duration = Duration::from_secs(2);

// ── changing files ──────────────────────────────────────────────────────────────────────────────

fn read(stack: &Stack, file: &str) -> String {
    fs::read_to_string(stack.path(file)).unwrap()
}

/// As editors do: the file is another one at once.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn change(stack: &Stack, file: &str, from: &str, to: &str) {
    let before = read(stack, file);
    assert!(before.contains(from), "{from} is not in {before}");
    write(&stack.path(file), &before.replacen(from, to, 1));
}

/// Writes the site anew, with this serial and these sections behind those it had at first.
fn write_site(stack: &Stack, first: &str, serial: u64, more: &str) {
    let text = first.replacen("serial = 1", &format!("serial = {serial}"), 1) + more;
    write(&stack.path("site.toml"), &text);
}

fn endpoint(number: u64, origin: &str) -> String {
    let id = OWN + number;
    format!("[[endpoint]]\nid = {id}\npath = \"app\"\nurl = \"{origin}/app\"\nforward_identity = false\n")
}

// ── asking ──────────────────────────────────────────────────────────────────────────────────────

/// What a request for an endpoint of the site's own comes to at the gateway with this port.
fn ask_at(stack: &Stack, port: u16, role: u64, rest: &str) -> (u16, String) {
    let (certificate, key) = stack.client_pair();
    let pair = Some((certificate.as_path(), key.as_path()));
    let mut client = Client::connect(crate::harness::local(port), &stack.path("pki/ca.pem"), pair).unwrap();
    let answer = client.ask("GET", &format!("/CCM_Proxy_MutualAuth/{role}/{rest}")).unwrap();
    (answer.status, answer.text())
}

fn reloads(status: &Value) -> [u64; 4] {
    ["applied", "unchanged", "refused", "handed_over"].map(|name| status["reloads"][name].as_u64().unwrap())
}

fn metric(address: std::net::SocketAddr, line: &str) -> bool {
    ask_admin(address, "/metrics").unwrap().1.lines().any(|one| one == line)
}

/// Asks the role to look at its settings, and waits until it has; the error, if there is one.
fn hang_up(process: &Process, status: impl Fn() -> Value) -> Option<String> {
    let before: u64 = reloads(&status()).iter().sum();
    process.signal(libc::SIGHUP);
    eventually("it is looked", || reloads(&status()).iter().sum::<u64>() > before);
    status()["reloads"]["error"].as_str().map(str::to_owned)
}

// ── connection points ───────────────────────────────────────────────────────────────────────────

#[test]
fn roles_come_change_and_go_under_load() {
    let (origin, other) = (SampleOrigin::start(), SampleOrigin::start());
    let mut stack = Setup::new(origin.url()).prepare();
    stack.start_gateway();
    let second = stack.start_second_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let ports = [stack.ports.gateway, second.address.port()];
    let first = read(&stack, "site.toml");
    let load = Load::start(&stack, 8);
    load.flows("it flows");
    let mut serial = 1;
    // By a file that has changed, and by a signal.
    for is_asked in [false, true] {
        let steps = [
            (endpoint(0, &origin.url()), Some(&origin)),
            (endpoint(0, &other.url()), Some(&other)),
            (String::new(), None),
        ];
        for (more, target) in steps {
            serial += 1;
            write_site(&stack, &first, serial, &more);
            let began = Instant::now();
            if is_asked {
                stack.connector().signal(libc::SIGHUP);
            }
            for port in ports {
                let is_so = || match (ask_at(&stack, port, OWN, "app/x"), target) {
                    ((200, said), Some(at)) => said.contains(&format!("host: {}", at.address)),
                    ((404, _), None) => true,
                    _ => false,
                };
                assert!(eventually_within(SOON, is_so), "{:?} not in force at {port}", began.elapsed());
            }
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            let status = stack.connector_status();
            assert_eq!(status["serial"], serial);
            // A role that only leads elsewhere may do so before the gateway has heard of it.
            let is_in_step = || {
                let site = stack.status()["sites"][0].take();
                site["serial"] == serial && site["sha256"] == status["sha256"]
            };
            assert!(eventually_within(SOON, is_in_step), "{}", stack.status());
            load.flows("it flows on");
        }
    }
    eventually("each instance has said so", || {
        let status = stack.connector_status();
        let instances = status["instances"].as_array().unwrap();
        instances.iter().all(|one| one["serial_in_force"] == serial && one["settings_in_force"] == true)
    });
    let (good, unread) = load.stop();
    assert!(good > 600 && unread == 0, "{good} {unread}");
    let status = stack.connector_status();
    assert_eq!(reloads(&status), [6, 0, 0, 0], "{status}");
    assert!(status["reloads"]["last_applied"].is_string(), "{status}");
    // What an origin that is gone had open is closed, and it is told of no more.
    assert_eq!(status["origins"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(stack.count("panics"), 0);
    assert!(!stack.connector().log().contains("no channel"), "{}", stack.connector().log());
    drop(second);
}

#[test]
fn what_is_wrong_takes_the_place_of_nothing() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let first = read(&stack, "site.toml");
    let status = || stack.connector_status();
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    assert_eq!(hang_up(stack.connector(), status), None);
    assert_eq!(reloads(&status()), [0, 1, 0, 0], "nothing has changed");

    let wrong = |text: String| {
        let refused = reloads(&status())[2];
        write(&stack.path("site.toml"), &text);
        eventually("it is refused", || reloads(&status())[2] > refused);
        let error = status()["reloads"]["error"].as_str().unwrap().to_owned();
        eventually("it is in the log", || stack.connector().log().contains(&error));
        assert!(metric(stack.connector_admin(), "cmg_connector_reload_failing 1"));
        assert_eq!(status()["state"], "Degraded");
        assert_eq!(status()["serial"], 1, "what was in force is");
        error
    };
    let error = wrong(first.replace("serial = 1", "serial = \"two\""));
    assert!(
        error.contains("site.toml:2") && error.contains("serial") && error.contains("expected"),
        "{error}"
    );
    let error = wrong(first.replace("pki/ca.pem", "pki/nothing.pem"));
    assert!(error.contains("trust.roots[1]") && error.contains("no such file"), "{error}");
    // Gateways would not take it.
    let error = wrong(first.clone() + &endpoint(0, &origin.url()));
    assert!(error.contains("serial") && error.contains("2 or more"), "{error}");
    let lower = first.replace("serial = 1", "serial = 0");
    let error = wrong(lower + &endpoint(0, &origin.url()));
    assert!(error.contains("serial"), "{error}");
    load.flows("it flows on");
    let count = || stack.connector().log().matches("not reloaded").count();
    assert_eq!(count(), 4, "each is said once");
    // As it was.
    write(&stack.path("site.toml"), &first);
    eventually("it is right again", || status()["reloads"]["error"].is_null());
    assert!(metric(stack.connector_admin(), "cmg_connector_reload_failing 0"));
    // The role's own settings are read when somebody asks.
    change(&stack, "connector.toml", "[limits]", "[limits]\nbody_secs = \"long\"");
    thread::sleep(SOON);
    assert_eq!(reloads(&status())[2], 4);
    let error = hang_up(stack.connector(), status).unwrap();
    assert!(error.contains("connector.toml:") && error.contains("limits.body_secs"), "{error}");
    // A file that is wrong and right again does not make the settings right that somebody asked for.
    write(&stack.path("site.toml"), &first.replace("serial = 1", "serial = \"two\""));
    eventually("both are told", || {
        let error = status()["reloads"]["error"].to_string();
        error.contains("limits.body_secs") && error.contains("site.toml:2")
    });
    write(&stack.path("site.toml"), &first);
    eventually("that one is right again", || !status()["reloads"]["error"].to_string().contains("site.toml"));
    assert!(status()["reloads"]["error"].to_string().contains("limits.body_secs"));
    change(&stack, "connector.toml", "\"long\"", "50");
    assert_eq!(hang_up(stack.connector(), status), None);
    assert_eq!(reloads(&status())[0], 1);
    // What gateways would not take is not taken by a process that starts with it either.
    write(&stack.path("site.toml"), &(first.clone() + &endpoint(0, &origin.url())));
    change(&stack, "connector.toml", "shards = 2", "shards = 1");
    let error = hang_up(stack.connector(), status).unwrap();
    assert!(error.contains("serial") && error.contains("2 or more"), "{error}");
    assert_eq!(reloads(&status())[3], 0, "nobody took over");
    assert_eq!(load.stop().1, 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn instances_come_and_go_while_a_connection_point_runs() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let alone = read(&stack, "connector.toml");
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    let second = stack.start_second_gateway();
    let both = read(&stack, "connector.toml");
    let status = || stack.connector_status();
    let log = || stack.connector().log();
    for round in 1..=2 {
        write(&stack.path("connector.toml"), &both);
        assert_eq!(hang_up(stack.connector(), status), None);
        eventually("the second one listens", || std::net::TcpStream::connect(second.address).is_ok());
        let path = "SMS_MP/x";
        assert!(
            eventually_within(PATIENCE, || ask_at(&stack, second.address.port(), MANAGEMENT_POINT, path).0
                == 200),
            "{}",
            log()
        );
        eventually("both are whole", || {
            matches!(ask_admin(stack.connector_admin(), "/readyz"), Some((200, _)))
        });
        assert_eq!(status()["instances"].as_array().unwrap().len(), 2);
        write(&stack.path("connector.toml"), &alone);
        assert_eq!(hang_up(stack.connector(), status), None);
        eventually("its channels leave", || status()["links"].as_array().unwrap().len() == 2);
        assert_eq!(status()["instances"].as_array().unwrap().len(), 1);
        assert_eq!(reloads(&status())[0], 2 * round);
        load.flows("it flows on");
    }
    assert_eq!(load.stop().1, 0);
    // Limits of the process itself.
    let change_of = |from: &str, to: &str| change(&stack, "connector.toml", from, to);
    change_of("[limits]", "[limits]\norigin_idle_secs = 3\ndrain_secs = 7");
    change_of("shards = 2", "shards = 2\nchannels = 1\nsource_addresses = [\"127.0.0.1\"]");
    assert_eq!(hang_up(stack.connector(), status), None);
    eventually("there is one channel", || {
        status()["links"].as_array().unwrap().len() == 1
            && matches!(ask_admin(stack.connector_admin(), "/readyz"), Some((200, _)))
    });
    assert_eq!(ask_at(&stack, stack.ports.gateway, MANAGEMENT_POINT, "SMS_MP/x").0, 200);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_connection_point_shows_another_certificate_without_losing_a_request() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let status = || stack.connector_status();
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    let ups = || stack.connector().log().matches("channel up").count();
    let before = ups();
    let folder = stack.path("pki/internal");
    // Made elsewhere, because it is another one: chain and key are written one after the other.
    let kept: Vec<_> = ["pem", "key"].map(|end| folder.join(format!("connector-PS1-1.{end}"))).into();
    let old: Vec<_> = kept.iter().map(|file| fs::read(file).unwrap()).collect();
    kept.iter().for_each(|file| fs::remove_file(file).unwrap());
    Pki::open(&stack.path("pki")).unwrap().connector("PS1", "1").unwrap();
    let new: Vec<_> = kept.iter().map(|file| fs::read(file).unwrap()).collect();
    assert_ne!(old[0], new[0]);
    eventually("channels stand by the new one", || ups() >= before + 2 && reloads(&status())[0] == 1);
    eventually("those before leave", || status()["links"].as_array().unwrap().len() == 2);
    load.flows("it flows on");
    // A key that does not belong to it. Files that are gone for long are refused, too.
    let refused = reloads(&status())[2];
    fs::write(&kept[1], &old[1]).unwrap();
    eventually("it is refused", || reloads(&status())[2] > refused);
    let error = status()["reloads"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("internal.key") && error.contains("does not belong"), "{error}");
    fs::write(&kept[1], &new[1]).unwrap();
    eventually("it is right again", || status()["reloads"]["error"].is_null());
    assert_eq!(load.stop().1, 0);
    assert!(!stack.connector().log().contains("no channel"), "{}", stack.connector().log());
    assert_eq!(stack.count("panics"), 0);
}

// ── gateways ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_gateway_takes_up_its_own_settings_without_losing_a_request() {
    let origin = SampleOrigin::start();
    let stack = Setup { gateway: "ticket_keys = \"tickets\"\n".into(), ..Setup::new(origin.url()) };
    let mut stack = stack.prepare();
    fs::write(stack.path("tickets"), [7; 32]).unwrap();
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let status = || stack.status();
    let first = read(&stack, "gateway.toml");
    let load = Load::start(&stack, 6);
    load.flows("it flows");
    assert_eq!(hang_up(stack.gateway(), status), None);
    assert_eq!(reloads(&status()), [0, 1, 0, 0], "nothing has changed");

    // Who was connected before has the new deadlines, too.
    let mut early = stack.client().unwrap();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    assert_eq!(early.ask("GET", &target).unwrap().status, 200);
    change(&stack, "gateway.toml", "[limits]", "[limits]\nwaiting_max = 100\nclient_rate = \"1000/s\"");
    change(&stack, "gateway.toml", "shards = 2", "shards = 2\nclients_max = 500\ntls_min = \"1.3\"");
    change(&stack, "gateway.toml", "[admin]", "[log]\nlevel = \"debug\"\n[admin]");
    assert_eq!(hang_up(stack.gateway(), status), None);
    assert_eq!(status()["clients_max"], 500);
    assert_eq!(early.ask("GET", &target).unwrap().status, 200);
    assert!(stack.gateway().log().contains("log level changed level=\"debug\""));

    // A site that may not publish its role any more, and may again.
    let last = MANAGEMENT_POINT + 100;
    let (may, may_not) = (format!("\"{MANAGEMENT_POINT}-{last}\""), format!("\"{last}\""));
    load.flows("it flows on");
    let (good, unread) = load.stop();
    assert!(good > 100 && unread == 0, "{good} {unread}");
    change(&stack, "gateway.toml", &may, &may_not);
    assert_eq!(hang_up(stack.gateway(), status), None);
    eventually("the role is not served", || early.ask("GET", &target).unwrap().status == 404);
    change(&stack, "gateway.toml", &may_not, &may);
    assert_eq!(hang_up(stack.gateway(), status), None);
    eventually("it is served again", || early.ask("GET", &target).unwrap().status == 200);

    // What is wrong, and what nobody asked for.
    write(&stack.path("gateway.toml"), &first.replace("[limits]", "[limits]\nidle_secs = -1"));
    let error = hang_up(stack.gateway(), status).unwrap();
    assert!(error.contains("gateway.toml:") && error.contains("limits.idle_secs"), "{error}");
    assert!(metric(stack.gateway_admin(), "cmg_gateway_reload_failing 1"));
    assert!(metric(stack.gateway_admin(), "cmg_gateway_reloads_total{outcome=\"refused\"} 1"));
    assert_eq!(status()["state"], "Degraded");
    assert_eq!(status()["clients_max"], 500, "what was in force is");
    write(&stack.path("gateway.toml"), &first);
    assert_eq!(hang_up(stack.gateway(), status), None);
    assert_eq!(status()["clients_max"], 18_000);

    // Files: who connects next is shown another certificate, and tickets are others.
    let before = reloads(&status())[0];
    fs::write(stack.path("tickets"), [8; 32]).unwrap();
    eventually("it is noticed", || reloads(&status())[0] == before + 1);
    let folder = stack.path("pki/internal");
    ["pem", "key"].iter().for_each(|end| fs::remove_file(folder.join(format!("gateway-gw1.{end}"))).unwrap());
    Pki::open(&stack.path("pki")).unwrap().gateway("gw1").unwrap();
    eventually("it is noticed", || reloads(&status())[0] == before + 2);
    stack.connector.take().unwrap().kill();
    stack.start_connector();
    stack.wait_until_ready();
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_role_that_a_site_may_not_publish_any_more_takes_no_other_with_it() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let site = read(&stack, "site.toml") + &endpoint(0, &origin.url());
    write(&stack.path("site.toml"), &site);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let answers = |stack: &Stack| {
        [(MANAGEMENT_POINT, "SMS_MP/x"), (OWN, "app/x")].map(|(role, rest)| {
            let (status, _) = ask_at(stack, stack.ports.gateway, role, rest);
            status
        })
    };
    assert_eq!(answers(&stack), [200, 200]);
    let may = format!("\"{MANAGEMENT_POINT}-{}\"", MANAGEMENT_POINT + 100);
    change(&stack, "gateway.toml", &may, &format!("\"{MANAGEMENT_POINT}\""));
    assert_eq!(hang_up(stack.gateway(), || stack.status()), None);
    eventually("it is not served", || answers(&stack) == [200, 404]);
    let is_told = |stack: &Stack| stack.gateway().log().contains("a published role is not served");
    assert!(is_told(&stack), "{}", stack.gateway().log());
    // As it is, so it stays.
    stack.gateway.take().unwrap().kill();
    stack.start_gateway();
    stack.wait_until_ready();
    assert_eq!(answers(&stack), [200, 404]);
    assert!(is_told(&stack), "{}", stack.gateway().log());
    // Whoever publishes it once more is told.
    write(&stack.path("site.toml"), &site.replacen("serial = 1", "serial = 2", 1));
    eventually("it is refused", || {
        let status = stack.connector_status();
        status["instances"][0]["trouble"]
            .to_string()
            .contains("is not among those that this site may publish")
    });
    assert_eq!(answers(&stack), [200, 404]);
    assert_eq!(stack.count("panics"), 0);
}

// ── what only another process can change ────────────────────────────────────────────────────────

#[test]
fn another_process_starts_only_when_somebody_asks_and_it_would_be_found() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let status = || stack.status();
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    // A file of the gateway's that only a start reads, beside settings that nobody has said are whole.
    change(&stack, "gateway.toml", "[limits]", "[limits]\nidle_secs = 77");
    let ca = stack.path("pki/internal-ca.pem");
    let before = fs::read_to_string(&ca).unwrap();
    write(&ca, &format!("{before}\n"));
    eventually("it is noticed", || reloads(&status())[2] == 1);
    let error = status()["reloads"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("internal.ca") && error.contains("send SIGHUP"), "{error}");
    assert_eq!(status()["state"], "Degraded");
    write(&ca, &before);
    eventually("it is right again", || status()["reloads"]["error"].is_null());

    // The next process would not find this one.
    let settings = read(&stack, "gateway.toml");
    change(&stack, "gateway.toml", "[admin]", "[admin]\nupgrade_socket = \"elsewhere.sock\"");
    let error = hang_up(stack.gateway(), status).unwrap();
    assert!(error.contains("is asked for its place where admin.upgrade_socket says"), "{error}");
    write(&stack.path("gateway.toml"), &settings.replace("shards = 2", "shards = 1"));
    // Somebody else would be found.
    let socket = stack.path("gateway.upgrade.sock");
    fs::remove_file(&socket).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = hang_up(stack.gateway(), status).unwrap();
    assert!(error.contains(&format!("is process {}'s", std::process::id())), "{error}");
    assert_eq!(reloads(&status())[3], 0, "nobody took over");
    load.flows("it flows on");
    assert_eq!(load.stop().1, 0);
    assert_eq!(stack.count("panics"), 0);
}

/// A process that nobody here has started; ends with this.
struct Stray(u32);

impl Drop for Stray {
    fn drop(&mut self) {
        // SAFETY: it is a process of this story's, by the number that it told of itself.
        unsafe { libc::kill(self.0.try_into().unwrap(), libc::SIGKILL) };
    }
}

/// The process that has taken the place of the one whose log this is.
fn successor(log: &str) -> Stray {
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("another process has taken this one's place pid="))
        .unwrap();
    Stray(line.rsplit_once("pid=").unwrap().1.trim().parse().unwrap())
}

#[test]
fn what_a_process_starts_with_is_changed_by_another_that_takes_its_place() {
    let origin = SampleOrigin::start();
    let mut stack = Setup {
        gateway_limits: "drain_secs = 5".into(),
        connector_limits: "drain_secs = 5".into(),
        ..Setup::new(origin.url())
    }
    .start();
    let load = Load::start(&stack, 6);
    load.flows("it flows");
    let mut strays = Vec::new();
    for role in ["gateway", "connector"] {
        change(&stack, &format!("{role}.toml"), "shards = 2", "shards = 3");
        let mut process =
            if role == "gateway" { stack.gateway.take() } else { stack.connector.take() }.unwrap();
        process.signal(libc::SIGHUP);
        let ended = process.wait_for_exit(PATIENCE).expect("it makes way");
        assert!(ended.success(), "{}", process.log());
        strays.push(successor(&process.log()));
        assert!(
            process.log().contains(&format!("{role}.shards: another process has to start")),
            "{}",
            process.log()
        );
        load.flows("it flows by the next one");
        let status = if role == "gateway" { stack.status() } else { stack.connector_status() };
        assert_eq!(status["shards"].as_array().unwrap().len(), 3, "{status}");
        // What the one before had open is not the next one's.
        let pid = strays.last().unwrap().0;
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let rings = links.filter(|link| link.to_string_lossy().contains("io_uring")).count();
        // glommio has three of its own for each shard.
        assert!(rings <= 4 * 3, "{rings} rings");
    }
    let (good, unread) = load.stop();
    assert!(good > 300 && unread <= 6, "{good} {unread}");

    // Without a place to hand over, the keys are named and everything stays.
    let pid = strays[1].0;
    fs::remove_file(stack.path("connector.upgrade.sock")).unwrap();
    change(&stack, "connector.toml", "shards = 3", "shards = 1");
    change(&stack, "connector.toml", "drain_secs = 5", "drain_secs = 6");
    let refused = reloads(&stack.connector_status())[2];
    // SAFETY: as above.
    unsafe { libc::kill(pid.try_into().unwrap(), libc::SIGHUP) };
    eventually("it is refused", || reloads(&stack.connector_status())[2] > refused);
    let error = stack.connector_status()["reloads"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("connector.shards") && error.contains("restart the connector"), "{error}");
    assert_eq!(ask_at(&stack, stack.ports.gateway, MANAGEMENT_POINT, "SMS_MP/x").0, 200);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn who_cannot_start_leaves_its_place_to_the_one_that_runs() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("[[listener]]\naddress = \"{}\"\n[[server", taken.local_addr().unwrap());
    change(&stack, "gateway.toml", "[[server", &more);
    let error = hang_up(stack.gateway(), || stack.status()).unwrap();
    assert!(error.contains("listener: another process has to start with this: it ended"), "{error}");
    assert!(stack.gateway().log().contains("in use"), "{}", stack.gateway().log());
    load.flows("it flows by the one that is there");
    assert_eq!(load.stop().1, 0);
    assert_eq!(stack.count("panics"), 0);
}

// ── again and again ─────────────────────────────────────────────────────────────────────────────

const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: x\r\n\r\n";

/// So many as `CMG_RELOADS` says, a tenth of them wrong.
#[test]
fn reloads_without_end_cost_no_request_and_no_memory() {
    let count: u64 = std::env::var("CMG_RELOADS").map_or(50, |text| text.parse().unwrap());
    let (origin, other) = (SampleOrigin::start(), SampleOrigin::start());
    let tunnelled = HandOrigin::start(|mut stream| {
        if !read_head(&mut stream).is_empty() {
            stream.write_all(SWITCHING).unwrap();
            // Until it ends.
            let _ = stream.read(&mut [0]);
        }
    });
    let chat = OWN + 50;
    let site = format!(
        "[[endpoint]]\nid = {chat}\npath = \"chat\"\nurl = \"{}/chat\"\ntunnel = true\n",
        tunnelled.url()
    );
    let mut setup = Setup { site, ..Setup::new(origin.url()) };
    setup.trust.push_str("\nblocked = \"blocked-0\"");
    let mut stack = setup.prepare();
    // Two certificates of its own, each in force for a while.
    let folder = stack.path("pki/internal");
    let pair = ["pem", "key"].map(|end| folder.join(format!("connector-PS1-1.{end}")));
    let pairs = [0, 1].map(|number| {
        if number == 1 {
            pair.iter().for_each(|file| fs::remove_file(file).unwrap());
            Pki::open(&stack.path("pki")).unwrap().connector("PS1", "1").unwrap();
        }
        ["pem", "key"].map(|end| {
            let kept = stack.path(&format!("own-{number}.{end}"));
            fs::copy(folder.join(format!("connector-PS1-1.{end}")), &kept).unwrap();
            kept
        })
    });
    ["blocked-0", "blocked-1"].iter().for_each(|file| fs::write(stack.path(file), "# nobody\n").unwrap());
    stack.start_gateway();
    let second = stack.start_second_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    // What began by the first settings goes on all the while.
    let mut early = stack.client().unwrap();
    let path = format!("/CCM_Proxy_MutualAuth/{chat}/chat");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    early.send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n{upgrade}\r\n").as_bytes());
    assert_eq!(early.read_headless().unwrap().status, 101);
    let connector = read(&stack, "connector.toml");
    let second_admin = {
        let text = read(&stack, "gateway2.toml");
        let line = text.split_once("[admin]\naddress = \"").unwrap().1;
        line.split_once('"').unwrap().0.parse().unwrap()
    };
    let first = read(&stack, "site.toml");
    let gateway = read(&stack, "gateway.toml");
    let load = Load::start(&stack, 8);
    load.flows("it flows");
    let gateways = [stack.gateway_admin(), second_admin];
    let sites = || {
        gateways.map(|admin| -> Value {
            serde_json::from_str::<Value>(&ask_admin(admin, "/status").unwrap().1).unwrap()["sites"][0].take()
        })
    };
    let resident =
        || [stack.gateway(), &second.process, stack.connector()].map(|process| process.resident() >> 10);
    let (mut serial, mut wrongs, mut slowest) = (1, 0, Duration::ZERO);
    let mut at_first = [0; 3];
    for round in 1..=count {
        let before = reloads(&stack.connector_status());
        let began = Instant::now();
        if round % 10 == 0 {
            wrongs += 1;
            let mistakes = [
                ("serial = 1", "serial = -1"),
                ("pki/ca.pem", "pki/nothing.pem"),
                ("url = ", "uri = "),
                ("[trust]", "[trust"),
            ];
            let (from, to) = mistakes[usize::try_from(wrongs).unwrap() % mistakes.len()];
            write(&stack.path("site.toml"), &first.replacen(from, to, 1));
            stack.connector().signal(libc::SIGHUP);
            eventually("it is refused", || reloads(&stack.connector_status())[2] > before[2]);
        } else {
            serial += 1;
            // Roles come, go and lead elsewhere; of twenty that there ever are.
            let places = [&origin, &other, &origin];
            let more: String = (0..round % 4)
                .map(|place| endpoint((round + place) % 20, &places[((round + place) % 3) as usize].url()))
                .collect();
            let blocked = format!("blocked-{}", round / 5 % 2);
            write_site(&stack, &first.replacen("blocked-0", &blocked, 1), serial, &more);
            if round % 11 == 0 {
                let number = usize::from(round % 2 == 0);
                let [chain, key] = &pairs[number];
                let text = connector.replace("pki/internal/connector-PS1-1.pem", chain.to_str().unwrap());
                let text = text.replace("pki/internal/connector-PS1-1.key", key.to_str().unwrap());
                write(&stack.path("connector.toml"), &text);
            }
            stack.connector().signal(libc::SIGHUP);
            let is_so = || sites().iter().all(|site| site["serial"] == serial);
            assert!(eventually_within(PATIENCE, is_so), "{}", stack.connector().log());
            slowest = slowest.max(began.elapsed());
            let sha256 = stack.connector_status()["sha256"].take();
            assert!(sites().iter().all(|site| site["sha256"] == sha256), "in step");
        }
        if round % 7 == 0 {
            let (own, idle) = (reloads(&stack.status())[0], 60 + round);
            write(
                &stack.path("gateway.toml"),
                &gateway.replace("[limits]", &format!("[limits]\nidle_secs = {idle}")),
            );
            stack.gateway().signal(libc::SIGHUP);
            eventually("it is in force", || reloads(&stack.status())[0] > own);
        }
        if round == count / 10 {
            at_first = resident();
        }
    }
    load.flows("it flows on");
    let (good, unread) = load.stop();
    early.send(b"!");
    assert_eq!(stack.count("panics"), 0);
    let at_last = resident();
    println!("{count} reloads, {wrongs} of them wrong: {good} requests, 0 failed, {unread} asked once more");
    println!("slowest until both gateways had it: {slowest:?}; serial {serial} in force on every hop");
    println!(
        "KiB resident of gateways and connection point: {at_first:?} after a tenth, {at_last:?} at the end"
    );
    let threads = |process: &Process| fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap().count();
    println!("threads: {} and {}", threads(stack.gateway()), threads(stack.connector()));
    assert_eq!(unread, 0);
    assert!(slowest < SOON, "{slowest:?}");
    for (first, last) in at_first.into_iter().zip(at_last) {
        // What allocators keep, and the histograms of twenty endpoints.
        assert!(last < first + first / 5 + 4_096, "{first} KiB grew to {last} KiB");
    }
    assert!(threads(stack.connector()) < 30, "{} threads", threads(stack.connector()));
    let status = stack.connector_status();
    assert_eq!(reloads(&status)[2], wrongs, "{status}");
    assert_eq!(stack.count("panics"), 0);
}
