//! `/metrics` and `/status` of both roles, read by those who read them in earnest: promtool and a real
//! Prometheus.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    MANAGEMENT_POINT, Nginx, Process, Setup, Stack, ask_admin, eventually, free_port, noise, outcome, run,
    text,
};
use crate::needs;

/// What a story sent, so that it can be compared with what was counted.
const GOOD: usize = 7;
const FORBIDDEN: usize = 2;
const UPLOADED: usize = 70_000;

/// Traffic of several kinds: answers, refusals of either role, bodies both ways.
fn traffic(nginx: &Nginx, stack: &Stack) {
    nginx.offer("file.bin", &noise(50_000));
    let mut good = stack.curl();
    good.args(["--output", "/dev/null"].repeat(GOOD)).args(vec![stack.url("CCM_Client/file.bin"); GOOD]);
    run(&mut good);
    for _ in 0..FORBIDDEN {
        outcome(stack.curl().arg(stack.url("SMS_MP/forbidden")));
    }
    let upload = stack.path("upload");
    fs::write(&upload, noise(UPLOADED)).unwrap();
    let data = format!("@{}", upload.display());
    run(stack
        .curl()
        .args(["--request", "CCM_POST", "--data-binary", &data])
        .arg(stack.url("CCM_System/request")));
    // Nobody publishes it; nobody knows the client; and a head that is none.
    outcome(stack.curl().arg(stack.url("Unknown/x")));
    outcome(stack.curl_as_stranger().arg(stack.url("SMS_MP/x")));
    outcome(stack.curl().args(["--path-as-is", "--request-target", "/a/../b"]).arg(stack.url("")));
}

fn metrics(address: SocketAddr) -> String {
    let (status, text) = ask_admin(address, "/metrics").expect("the role answers");
    assert_eq!(status, 200);
    text
}

/// The sum of a metric's samples that bear all of these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let rows = text.lines().filter(|line| {
        let own = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        own && labels.iter().all(|label| line.contains(label))
    });
    rows.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn promtool_accepts_the_metrics_of_both_roles() {
    needs!("promtool", "curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    traffic(&nginx, &stack);
    for address in [stack.gateway_admin(), stack.connector_admin()] {
        let text = metrics(address);
        let mut promtool = Command::new("promtool");
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = promtool.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap();
        let complaints = [said.stdout, said.stderr].concat();
        assert!(said.status.success() && complaints.is_empty(), "{}\n{text}", self::text(&complaints));
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}

#[test]
fn every_request_is_counted_where_it_belongs() {
    needs!("curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    traffic(&nginx, &stack);
    let role = format!("role=\"{MANAGEMENT_POINT}\"");
    let at = |endpoint: &str| format!("endpoint=\"{endpoint}\"");
    let site = "site=\"PS1\"";
    for (prefix, address) in
        [("cmg_gateway", stack.gateway_admin()), ("cmg_connector", stack.connector_admin())]
    {
        let count = |text: &str, name: &str, labels: &[&str]| sum(text, &format!("{prefix}_{name}"), labels);
        // The end of the last answer may be counted after its client has gone.
        eventually("all requests are counted", || {
            count(&metrics(address), "requests_total", &[&at("/CCM_System"), "code=\"2xx\""]) == 1.0
        });
        let text = metrics(address);
        let client = at("/CCM_Client");
        let labels = [site, &role, &client, "family=\"mutual_auth\"", "code=\"2xx\""];
        assert_eq!(count(&text, "requests_total", &labels), GOOD as f64, "{text}");
        let received = count(&text, "response_bytes_total", &[&client]);
        assert_eq!(received, (GOOD * 50_000) as f64, "{prefix}");
        assert_eq!(count(&text, "request_bytes_total", &[&at("/CCM_System")]), UPLOADED as f64, "{prefix}");
        assert!(count(&text, "requests_active_max", &[&client]) >= 1.0, "{text}");
        assert_eq!(count(&text, "requests_active", &[]), 0.0, "{text}");
        assert!(count(&text, "channels", &[]) >= 2.0, "{text}");
        eventually("the shards have looked at their channels again", || {
            count(&metrics(address), "channel_received_bytes_total", &["channel=\""]) > 50_000.0
        });
        assert!(
            sum(&text, "cmg_certificate_expiry_timestamp_seconds", &["use=\"internal\""]) > 1.7e9,
            "{text}"
        );
    }
    let text = metrics(stack.gateway_admin());
    let refused = |reason: &str, endpoint: &str| {
        let reason = format!("reason=\"CMGService_{reason}\"");
        sum(&text, "cmg_gateway_requests_refused_total", &[&reason, &format!("endpoint=\"{endpoint}\"")])
    };
    assert_eq!(refused("Unknown_Url", "none"), 1.0, "{text}");
    assert_eq!(refused("Bad_Request", "none"), 1.0, "{text}");
    assert_eq!(refused("Client_Certificate_Required", "/SMS_MP"), 1.0, "{text}");
    let forbidden = sum(&text, "cmg_gateway_requests_total", &["endpoint=\"/SMS_MP\"", "code=\"4xx\""]);
    // The harness asks with a method that is not allowed until both are ready.
    let not_allowed = refused("Method_Not_Allowed", "/SMS_MP");
    assert_eq!(forbidden, FORBIDDEN as f64 + 1.0 + not_allowed, "{text}");
    assert_eq!(sum(&text, "cmg_gateway_publication_serial", &["site=\"PS1\""]), 1.0);
    let took = "cmg_gateway_request_duration_seconds_count";
    assert_eq!(sum(&text, took, &["endpoint=\"/CCM_Client\""]), GOOD as f64, "{text}");
    // Of the connector's own.
    let text = metrics(stack.connector_admin());
    let origin = format!("origin=\"127.0.0.1:{}\"", nginx.port);
    let took = "cmg_connector_origin_response_duration_seconds_count";
    assert_eq!(sum(&text, took, &[&origin, "endpoint=\"/CCM_Client\""]), GOOD as f64, "{text}");
    eventually("connections to the origin are shown", || {
        let text = metrics(stack.connector_admin());
        let opened = sum(&text, "cmg_connector_origin_connections_opened_total", &[&origin]);
        let reused = sum(&text, "cmg_connector_origin_connections_reused_total", &[&origin]);
        opened >= 1.0 && opened + reused == (GOOD + FORBIDDEN + 1) as f64
    });
}

#[test]
fn waiting_for_a_connection_point_is_measured() {
    needs!("curl");
    let origin = crate::harness::SampleOrigin::start();
    let setup = Setup { gateway_limits: "wait_secs = 1".to_owned(), ..Setup::new(origin.url()) };
    let mut stack = setup.start();
    stack.connector.take().unwrap().kill();
    eventually("the gateway knows", || {
        sum(&metrics(stack.gateway_admin()), "cmg_gateway_channels", &[]) == 0.0
            && !metrics(stack.gateway_admin()).contains("cmg_gateway_channel_streams{")
    });
    let answer = run(stack.curl().args(["--write-out", "%{http_code}"]).arg(stack.url("SMS_MP/x")));
    assert!(text(&answer).ends_with("503"), "{}", text(&answer));
    let waited = |text: &str, end: &str| sum(text, &format!("cmg_gateway_request_wait_seconds_{end}"), &[]);
    eventually("the wait is counted", || waited(&metrics(stack.gateway_admin()), "count") == 1.0);
    let text = metrics(stack.gateway_admin());
    assert!(waited(&text, "sum") > 0.5, "{text}");
    let labels = ["reason=\"CMGService_No_Connector\"", "endpoint=\"/SMS_MP\""];
    assert_eq!(sum(&text, "cmg_gateway_requests_refused_total", &labels), 1.0, "{text}");
    assert_eq!(sum(&text, "cmg_gateway_requests_waiting", &[]), 0.0, "{text}");
}

#[test]
fn a_real_prometheus_scrapes_both_roles() {
    needs!("prometheus", "promtool", "curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    traffic(&nginx, &stack);
    let prometheus = Prometheus::start(&[stack.gateway_admin(), stack.connector_admin()]);
    eventually("both are scraped", || prometheus.value("sum(up)") == Some(2.0));
    let good = "sum by (job) (cmg_gateway_requests_total{endpoint=\"/CCM_Client\",code=\"2xx\"})";
    eventually("the gateway's requests are known", || prometheus.value(good) == Some(GOOD as f64));
    let good = "sum(cmg_connector_requests_total{endpoint=\"/CCM_Client\",code=\"2xx\"})";
    eventually("the connector's requests are known", || prometheus.value(good) == Some(GOOD as f64));
    let refused = "cmg_gateway_requests_refused_total{reason=\"CMGService_Unknown_Url\"}";
    assert_eq!(prometheus.value(refused), Some(1.0));
    let slowest = "histogram_quantile(1, sum by (le) (cmg_gateway_request_duration_seconds_bucket))";
    assert!(prometheus.value(slowest).is_some_and(|seconds| seconds > 0.0 && seconds <= 60.0));
    assert_eq!(prometheus.value("count(cmg_build_info{version!=\"\"})"), Some(2.0));
    assert!(prometheus.value("min(process_resident_memory_bytes)").is_some_and(|bytes| bytes > 1e6));
    assert!(prometheus.value("sum(cmg_gateway_channel_streams)").is_some());
}

#[test]
fn the_state_is_a_word_with_its_reason() {
    let nginx = crate::harness::SampleOrigin::start();
    let mut stack = Setup::new(nginx.url()).prepare();
    let state = |address: SocketAddr| -> Option<(String, Value)> {
        let status: Value = serde_json::from_str(&ask_admin(address, "/status")?.1).unwrap();
        Some((status["state"].as_str().unwrap().to_owned(), status))
    };
    let gateway = stack.gateway_admin();
    stack.start_gateway();
    eventually("a gateway alone is down", || state(gateway).is_some_and(|(word, _)| word == "Down"));
    let (_, alone) = state(gateway).unwrap();
    let reason = alone["reason"].as_str().unwrap();
    assert!(reason.contains("no channel is up") && reason.contains("PS1 has never published"), "{alone}");
    stack.start_connector();
    stack.wait_until_ready();
    for address in [gateway, stack.connector_admin()] {
        eventually("both are healthy", || state(address).is_some_and(|(word, _)| word == "Healthy"));
        let (_, status) = state(address).unwrap();
        assert!(status["reason"].is_null(), "{status}");
        let links = status["links"].as_array().unwrap();
        assert!(links.len() >= 2 && links.iter().all(|link| link["open"] == true), "{status}");
    }
    let (_, status) = state(gateway).unwrap();
    assert_eq!(status["sites"][0]["serial"], 1, "{status}");
    assert_eq!(status["sites"][0]["connection_points"], serde_json::json!(["1"]), "{status}");
    stack.connector.take().unwrap().kill();
    eventually("a gateway that lost its connector says so", || {
        state(gateway).is_some_and(|(word, status)| {
            let reason = status["reason"].as_str().unwrap_or_default().to_owned();
            word == "Down" && reason.contains("no connection point of site PS1 is attached")
        })
    });
}

/// The real one, with data and settings of its own.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: cmg\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        fs::write(&config, text).unwrap();
        run(Command::new("promtool").args(["check", "config"]).arg(&config));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::start(&mut command, &folder.path().join("prometheus.log"));
        eventually("Prometheus is ready", || matches!(ask_admin(address, "/-/ready"), Some((200, _))));
        Prometheus { address, _process: process, _folder: folder }
    }

    /// The value of a query that has one.
    fn value(&self, query: &str) -> Option<f64> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--get", "--data-urlencode", &format!("query={query}")]);
        let answer = run(curl.arg(format!("http://{}/api/v1/query", self.address)));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let value = &answer["data"]["result"][0]["value"][1];
        value.as_str().map(|value| value.parse().unwrap())
    }
}

#[test]
fn traffic_is_told_by_endpoint_and_window() {
    needs!("curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    traffic(&nginx, &stack);
    let shown = || -> Value {
        let (status, text) = ask_admin(stack.connector_admin(), "/traffic").expect("the role answers");
        assert_eq!(status, 200);
        serde_json::from_str(&text).unwrap()
    };
    let told = shown();
    let open = &told["open"];
    let of = |endpoint: &str, key: &str| -> u64 {
        let mut found =
            open["endpoints"].as_array().unwrap().iter().filter(|one| one["endpoint"] == endpoint);
        let one = found.next().unwrap_or_else(|| panic!("{endpoint}: {told:#}"));
        assert!(found.next().is_none(), "{endpoint} is there once: {told:#}");
        assert_eq!((&one["site"], &one["role"]), (&"PS1".into(), &MANAGEMENT_POINT.to_string().into()));
        one[key].as_u64().unwrap()
    };
    assert_eq!(of("/CCM_Client", "requests"), GOOD as u64);
    assert_eq!(of("/CCM_Client", "response_bytes"), 50_000 * GOOD as u64);
    assert_eq!(of("/CCM_Client", "requests_failed"), 0);
    assert_eq!(of("/SMS_MP", "requests"), FORBIDDEN as u64, "what the gateway refuses does not come here");
    assert_eq!(of("/CCM_System", "request_bytes"), UPLOADED as u64);
    assert_eq!(open["requests"].as_u64().unwrap(), (GOOD + FORBIDDEN + 1) as u64);
    assert!(open["requests_active_max"].as_u64().unwrap() >= 1);
    assert_eq!(open["requests_with_token"], 0);
    // An origin that is gone is a failure, of one request more.
    drop(nginx);
    outcome(stack.curl().arg(stack.url("CCM_Client/file.bin")));
    let later = &shown()["open"];
    assert_eq!(later["requests_failed"], 1, "{later:#}");
    assert_eq!(later["began"], open["began"], "five minutes are not over");
    assert_eq!(ask_admin(stack.gateway_admin(), "/traffic").unwrap().0, 404);
}
