//! Settings and a running stack: what `cmg check` says is what the roles do. That each mistake keeps a
//! role from starting is in `tests/check/mistakes.rs`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::Value;

use crate::harness::{
    MANAGEMENT_POINT, OWN, SampleOrigin, Setup, Stack, ask_admin, cmg, eventually, free_port, outcome, text,
};

fn check(stack: &Stack, options: &[&str]) -> (Option<i32>, Value) {
    let files = ["gateway.toml", "connector.toml"].map(|name| stack.path(name));
    let output = outcome(cmg().arg("check").args(files).arg("--json").args(options));
    let answer =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (output.status.code(), answer)
}

#[test]
fn what_check_says_of_a_url_is_what_the_gateway_answers() {
    let origin = SampleOrigin::start();
    let mut setup = Setup::new(origin.url());
    setup.site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"reports\"\nurl = \"{}/in\"\nmethods = [\"GET\", \"PUT\"]\n",
        origin.url()
    );
    let stack = setup.start();
    let (mutual, server, mp) = ("/CCM_Proxy_MutualAuth", "/CCM_Proxy_ServerAuth", MANAGEMENT_POINT);
    let rows = [
        (format!("{mutual}/{mp}/SMS_MP/.sms_aut?MPLIST"), "GET"),
        (format!("{mutual}/{mp}/SMS_MP/.sms_pol?{{A}}.1_00"), "GET"),
        (format!("{mutual}/{mp}/sms_mp/x"), "CCM_POST"),
        (format!("{mutual}/{mp}/SMS_MP%2Fx"), "GET"),
        (format!("{mutual}/{mp}/SMS_MP/../x"), "GET"),
        (format!("{mutual}/{mp}/SMS_MP_TokenAuth"), "GET"),
        (format!("{mutual}/{mp}/AdminService/v1.0"), "GET"),
        (format!("{mutual}/{mp}/SMS_MP"), "TRACE"),
        (format!("{mutual}/{OWN}/reports/a"), "PUT"),
        (format!("{mutual}/{OWN}/reports/a"), "POST"),
        (format!("{mutual}/{OWN}/report"), "GET"),
        (format!("{mutual}/0{mp}/SMS_MP"), "GET"),
        (format!("{mutual}/7/SMS_MP"), "GET"),
        (format!("{mutual}/ServiceMetadata"), "GET"),
        (format!("{server}/ServiceMetadata"), "GET"),
        (format!("{server}/{mp}/CCM_Client"), "GET"),
        (format!("{server}/ImplicitAuth"), "GET"),
        ("/".to_owned(), "GET"),
        ("/other".to_owned(), "GET"),
    ];
    for (target, method) in rows {
        let answer = stack.client().unwrap().ask(method, &target).unwrap();
        let (code, said) = check(&stack, &["--url", &target, "--method", method]);
        assert_eq!(code, Some(0), "{said:#}");
        let said = &said["url"];
        if answer.status == 200 {
            assert_eq!(said["taken"], true, "{method} {target}: {said:#}");
            if let Some(inside) = said["facts"]["internal URL"].as_str() {
                let inside = inside.strip_prefix(&origin.url()).unwrap();
                assert!(answer.text().contains(inside), "{inside}: {}", answer.text());
            }
        } else {
            assert_eq!(said["status"], answer.status, "{method} {target}: {said:#}");
            assert_eq!(said["reason"], answer.reason, "{method} {target}: {said:#}");
        }
    }
}

#[test]
fn ports_that_the_role_itself_holds_are_no_mistake_and_others_are() {
    let stack = Setup::new("http://127.0.0.1:1").start();
    let (code, answer) = check(&stack, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    let said = answer["findings"].to_string();
    for words in [
        "gateway gw1 runs, and holds listener[1].address, internal.listener[1].address, admin.address",
        "connection point 1 runs, and holds admin.address",
    ] {
        assert!(said.contains(words), "{answer:#}");
    }

    // The file says another port by now, and somebody else has that one.
    let other = free_port();
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, other)).unwrap();
    let path = stack.path("gateway.toml");
    let before = fs::read_to_string(&path).unwrap();
    let own = format!("127.0.0.1:{}", stack.ports.gateway);
    fs::write(&path, before.replacen(&own, &format!("127.0.0.1:{other}"), 1)).unwrap();
    let (code, answer) = check(&stack, &[]);
    assert_eq!(code, Some(2), "{answer:#}");
    assert_eq!(answer["errors"], 1, "{answer:#}");
    assert!(answer["findings"].to_string().contains(&format!("sport = :{other}")), "{answer:#}");
    drop(held);
}

#[test]
fn a_second_start_beside_the_first_ends_with_2_and_harms_nobody() {
    let mut stack = Setup::new("http://127.0.0.1:1").start();
    for role in ["gateway", "connector"] {
        let config = stack.path(&format!("{role}.toml"));
        let output = outcome(cmg().arg(role).arg("--config").arg(config));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("admin.address: found"), "{errors}");
    }
    stack.wait_until_ready();
}

#[test]
fn settings_that_changed_without_a_higher_serial_are_told_as_such() {
    let mut stack = Setup::new("http://127.0.0.1:1").start();
    let before = fs::read_to_string(stack.path("site.toml")).unwrap();
    for (site, words) in [
        (
            before.replace("127.0.0.1:1", "127.0.0.1:2")
                + "\n[[endpoint]]\nid = 72057594037927944\npath = \"x\"\nurl = \"http://127.0.0.1:1\"\n",
            "other settings of the same serial 1; raise it",
        ),
        (before.replace("serial = 1", "serial = 2"), ""),
        (before.clone(), "the gateway has serial 2, 1 is older; raise it"),
    ] {
        drop(stack.connector.take());
        fs::write(stack.path("site.toml"), &site).unwrap();
        stack.start_connector();
        if words.is_empty() {
            stack.wait_until_ready();
        } else {
            let is_told = || stack.connector().log().contains(words);
            eventually("the connection point is told why its settings are not in force", is_told);
            let (status, body) = ask_admin(stack.connector_admin(), "/status").unwrap();
            assert!(status == 200 && body.contains(words), "{body}");
            assert_eq!(ask_admin(stack.connector_admin(), "/readyz").unwrap().0, 503);
        }
    }
}
