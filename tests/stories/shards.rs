//! A shard without a channel of its own: its clients are served by way of the others.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::client::{Client, config};
use crate::harness::{
    MANAGEMENT_POINT, SERVICE, SampleOrigin, Setup, Stack, ask_admin, eventually, free_port,
};

/// Stands before the gateway's channel listener and lets only so many channels through at once.
struct Door {
    address: SocketAddr,
}

impl Door {
    fn before(channel: u16, most: usize) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for outside in listener.incoming().flatten() {
                let open = open.clone();
                if open.load(Ordering::SeqCst) >= most {
                    continue;
                }
                let Ok(inside) = TcpStream::connect(("127.0.0.1", channel)) else { continue };
                open.fetch_add(1, Ordering::SeqCst);
                let copies = [(&outside, &inside), (&inside, &outside)].map(|(from, to)| {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let _ = to.set_nodelay(true);
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    })
                });
                thread::spawn(move || {
                    copies.into_iter().for_each(|copy| copy.join().unwrap());
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Door { address }
    }
}

/// A gateway with two shards of which one has a channel.
pub fn one_channel(origin: &SampleOrigin) -> Stack {
    behind_one_channel(Setup::new(origin.url()))
}

/// The same for a setup whose management point is a sample origin.
pub fn behind_one_channel(setup: Setup) -> Stack {
    let channel = free_port();
    let door = Door::before(channel, 1);
    let setup = Setup {
        channel: Some(door.address),
        connector_shards: 1,
        gateway_limits: "wait_secs = 300".into(),
        ..setup
    };
    let mut stack = setup.prepare_with(|ports| ports.channel = channel);
    stack.start_gateway();
    stack.start_connector();
    eventually("one channel is up", || {
        matches!(ask_admin(stack.gateway_admin(), "/readyz"), Some((200, _))) && stack.count("links") == 1
    });
    // A link is up before what it publishes is in force on every shard.
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    let is_served = || stack.client().is_some_and(|mut one| one.ask("GET", &target).unwrap().status == 200);
    eventually("every shard serves", || (0..12).all(|_| is_served()));
    stack
}

#[test]
fn clients_of_a_shard_without_a_channel_get_the_right_answers() {
    let origin = SampleOrigin::start();
    let stack = one_channel(&origin);
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let config = config.clone();
            thread::spawn(move || {
                let connect =
                    |_| Client::connect_with(address, config.clone(), crate::harness::PATIENCE).unwrap();
                let mut clients: Vec<Client> = (0..12).map(connect).collect();
                for round in 0..20 {
                    for (number, client) in clients.iter_mut().enumerate() {
                        exchange(client, &format!("w{worker}-c{number}-r{round}"), round * 300);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(
        stack.count("crossed") > 0,
        "every client was on the shard with the channel: {:?}",
        stack.by_shard("handshakes")
    );
    assert_eq!(stack.count("panics"), 0);

    // Long bodies take the same way.
    let mut clients: Vec<Client> = (0..8).map(|_| stack.client().unwrap()).collect();
    for client in &mut clients {
        let size = 3_000_000;
        let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x?bytes={size}");
        let answer = client.ask("GET", &target).unwrap();
        assert!(answer.body.iter().copied().eq((b'a'..=b'z').cycle().take(size)), "{}", answer.body.len());
        exchange(client, "long", size);
    }
}

/// Sends an id in path and body, and checks that both came back.
fn exchange(client: &mut Client, id: &str, size: usize) {
    let body = format!("{id}{}", "b".repeat(size));
    let head = format!(
        "CCM_POST /CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/CCM_System/{id} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(format!("{head}{body}").as_bytes());
    let answer = client.read().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let sum: String = ring::digest::digest(&ring::digest::SHA256, body.as_bytes())
        .as_ref()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let text = answer.text();
    assert!(text.contains(&format!("target: /CCM_System/{id}\n")), "{id}: {text}");
    assert!(text.contains(&format!("sha256: {sum}\n")), "{id}: {text}");
}

#[test]
fn roles_with_different_numbers_of_shards_attach() {
    let origin = SampleOrigin::start();
    for (gateway_shards, connector_shards) in [(1, 3), (3, 1)] {
        let stack = Setup { gateway_shards, connector_shards, ..Setup::new(origin.url()) }.start();
        // Ready is who has one channel; the others follow.
        eventually(&format!("three channels of {gateway_shards} and {connector_shards} shards"), || {
            stack.count("links") == 3
        });
        assert!(stack.by_shard("links").iter().all(|links| *links > 0), "each shard has a channel");
        for _ in 0..10 {
            exchange(&mut stack.client().unwrap(), "any", 10);
        }
    }
}
