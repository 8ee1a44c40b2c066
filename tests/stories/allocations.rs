//! A request like the one before allocates nothing: counted in the built `cmg`, which counts only with
//! the feature `count-allocations`.

use std::net::SocketAddr;

use crate::client::Client;
use crate::harness::{MANAGEMENT_POINT, SampleOrigin, Setup, Stack, ask_admin};

/// What a role's shards allocated so far.
#[derive(Clone, Copy, Debug)]
struct Counted {
    ours: f64,
    tls: f64,
}

fn counted(admin: SocketAddr) -> Counted {
    let (_, page) = ask_admin(admin, "/metrics").unwrap();
    let of = |whose: &str| {
        let start = format!("cmg_allocations_total{{whose=\"{whose}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("nothing counted for {whose}")).parse().unwrap()
    };
    Counted { ours: of("ours"), tls: of("tls") }
}

fn both(stack: &Stack) -> [Counted; 2] {
    [stack.gateway_admin(), stack.connector_admin()].map(counted)
}

fn ask(clients: &mut [Client], rounds: usize) {
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/.sms_aut?MPLIST&bytes=200");
    for _ in 0..rounds {
        for client in clients.iter_mut() {
            assert_eq!(client.ask("GET", &target).unwrap().status, 200);
        }
    }
}

#[test]
fn a_request_like_the_one_before_allocates_nothing_in_either_role() {
    const ROUNDS: usize = 500;
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut clients: Vec<Client> = (0..4).map(|_| stack.client().unwrap()).collect();
    ask(&mut clients, 200);
    let before = both(&stack);
    ask(&mut clients, ROUNDS);
    let after = both(&stack);
    let requests = (ROUNDS * clients.len()) as f64;
    for (role, (before, after)) in ["gateway", "connector"].iter().zip(before.iter().zip(&after)) {
        let (ours, tls) = ((after.ours - before.ours) / requests, (after.tls - before.tls) / requests);
        println!("{role}: {ours:.3} of ours and {tls:.3} of rustls for each request");
        // What a shard does by the second (counts for the metrics, pings) shows here, too.
        assert!(ours < 0.1, "{role}: {ours} allocations of ours for each request");
        // One for each record at most: two of the client, and of the channel two.
        assert!(tls <= 4.5, "{role}: {tls} allocations of rustls for each request");
    }
}
