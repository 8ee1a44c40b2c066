//! Limits of clients: those who are silent too long leave, those who are too many wait.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, config};
use crate::harness::{MANAGEMENT_POINT, PATIENCE, SampleOrigin, Setup, eventually};

fn target() -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x")
}

#[test]
fn a_silent_client_is_closed_on_an_otherwise_silent_shard() {
    let origin = SampleOrigin::start();
    let limits = "idle_secs = 2\nhead_secs = 2\nhandshake_secs = 2";
    let setup = Setup { gateway_limits: limits.into(), gateway_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let begin = Instant::now();
    let mut idle = stack.client().unwrap();
    assert_eq!(idle.ask("GET", &target()).unwrap().status, 200);
    let mut slow = stack.client().unwrap();
    slow.send(b"GET /CCM_Proxy");
    let mut mute = TcpStream::connect(stack.gateway_address()).unwrap();
    mute.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(idle.is_ended() && begin.elapsed() > Duration::from_secs(1));
    assert!(slow.is_ended());
    let ended = std::io::Read::read(&mut mute, &mut [0; 16]);
    assert!(
        matches!(ended, Ok(0)) || ended.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET))
    );
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    eventually("all are gone", || stack.count("clients") == 0);
}

#[test]
fn a_client_beyond_the_bound_waits_in_the_backlog_and_is_served() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway: "clients_max = 4".into(), ..Setup::new(origin.url()) };
    let stack = setup.start();
    // The client that asked whether all is ready has left.
    eventually("nobody is there", || stack.count("clients") == 0);
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let mut held: Vec<Client> = Vec::new();
    while let Ok(mut client) = Client::connect_with(address, config.clone(), Duration::from_secs(3)) {
        assert_eq!(client.ask("GET", &target()).unwrap().status, 200);
        client.set_patience(PATIENCE);
        held.push(client);
        assert!(held.len() <= 4, "one more than clients_max was served");
    }
    // A shard may hold a seat for an accept that it armed, so fewer may be in.
    assert!(held.len() >= 2, "{} were served", held.len());

    let waiting = {
        let config = config.clone();
        thread::spawn(move || {
            let mut client = Client::connect_with(address, config, PATIENCE).unwrap();
            client.ask("GET", &target()).unwrap().status
        })
    };
    thread::sleep(Duration::from_secs(1));
    assert!(!waiting.is_finished(), "it waits");
    for client in &mut held {
        assert_eq!(
            client.ask("GET", &target()).unwrap().status,
            200,
            "those inside are served all the while"
        );
    }
    held.clear();
    assert_eq!(waiting.join().unwrap(), 200);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn many_connections_get_each_its_own_answers() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let config = config.clone();
            thread::spawn(move || {
                let mut clients: Vec<Client> = (0..50)
                    .map(|_| Client::connect_with(address, config.clone(), PATIENCE).unwrap())
                    .collect();
                for round in 0..10 {
                    // All ask before the first reads, so that many are under way at once.
                    let id = |number: usize| format!("w{worker}-c{number}-r{round}");
                    for (number, client) in clients.iter_mut().enumerate() {
                        let target = format!("{}?{}", target(), id(number));
                        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
                    }
                    for (number, client) in clients.iter_mut().enumerate() {
                        let answer = client.read().unwrap();
                        assert!(answer.text().contains(&format!("SMS_MP/x?{}\n", id(number))), "{answer:?}");
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(stack.count("panics"), 0);
}
