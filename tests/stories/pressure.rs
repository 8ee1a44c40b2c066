//! Slow readers and stalled origins: they hold back themselves, and nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, noise, read_head,
};

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

/// Asks many times and says how long the slowest answer took.
fn slowest(client: &mut Client, times: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 0..times {
        let begin = Instant::now();
        let answer = client.ask("GET", &target(&format!("SMS_MP/small-{number}"))).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        slowest = slowest.max(begin.elapsed());
    }
    slowest
}

fn residents(stack: &Stack) -> (u64, u64) {
    (stack.gateway().resident(), stack.connector().resident())
}

fn assert_bounded(stack: &Stack, before: (u64, u64), connections: u64) {
    let after = residents(stack);
    for (role, before, after) in [("gateway", before.0, after.0), ("connector", before.1, after.1)] {
        let grown = after.saturating_sub(before);
        // 2 MB each is what it may cost; the allocator may keep a little more.
        assert!(grown < connections * (2 << 20) + (8 << 20), "{role} grew by {grown} bytes from {before}");
    }
}

/// Serves small answers, endless ones for `/SMS_MP/long`, and takes bodies nowhere.
fn endless_and_stalled(mut stream: TcpStream) {
    loop {
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        if head.starts_with("POST ") {
            // Reads nothing more until everybody has lost patience.
            thread::sleep(2 * PATIENCE);
            return;
        }
        let is_long = head.contains("/long");
        let length: u64 = if is_long { 1 << 30 } else { 5 };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        let piece = vec![b'x'; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let size = left.min(piece.len() as u64) as usize;
            if stream.write_all(&piece[..size]).is_err() {
                return;
            }
            left -= size as u64;
        }
    }
}

#[test]
fn uploads_that_end_in_a_changed_record_cost_their_channel_nothing() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let channels = || stack.connector().log().matches("channel up").count();
    let before = channels();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/CCM_System/x");
    let mut stayed = stack.client().unwrap();
    // What passes before the changed records is more than the channel's window in all.
    for number in 0..300 {
        let mut client = stack.client().unwrap();
        let head = |length: usize| {
            format!("POST {target} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {length}\r\n\r\n")
                .into_bytes()
        };
        // Behind an exchange of some size records are passed on as they are.
        client.send(&[head(20_000), noise(20_000)].concat());
        assert_eq!(client.read().unwrap().status, 200, "{number}");
        client.send(&[head(1_000_000), noise(64 * 1024)].concat());
        let _ = client.send_changed(&noise(8 * 16 * 1024));
        let answer = client.read();
        assert!(answer.as_ref().map_or(true, |answer| answer.status >= 400), "{number}: {answer:?}");
        assert_eq!(stayed.ask("GET", &target).unwrap().status, 200, "{number}");
    }
    assert_eq!(channels(), before, "the channel stood: {}", stack.connector().log());
    crate::harness::eventually("nothing is left", || stack.count("active") == 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn clients_that_read_nothing_hold_back_only_themselves() {
    let origin = HandOrigin::start(endless_and_stalled);
    // One shard each: everything shares one channel.
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let mut other = stack.client().unwrap();
    slowest(&mut other, 20);
    let before = residents(&stack);

    let mut readers: Vec<Client> = (0..8).map(|_| stack.client().unwrap()).collect();
    for reader in &mut readers {
        reader.send(format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("SMS_MP/long")).as_bytes());
        // The answer has begun; from here on nobody reads.
        assert_eq!(reader.read_headless().unwrap().status, 200);
    }
    let slowest = slowest(&mut other, 200);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert_bounded(&stack, before, 8);

    // Whoever reads again gets on where it stopped.
    let piece = readers[0].bytes(20_000_000).unwrap();
    assert!(piece.iter().all(|octet| *octet == b'x'));
    drop(readers);
    crate::harness::eventually("the streams are given up", || stack.count("active") == 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_stalled_origin_holds_back_only_those_who_send_to_it() {
    let origin = HandOrigin::start(endless_and_stalled);
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let mut other = stack.client().unwrap();
    slowest(&mut other, 20);
    let before = residents(&stack);

    let senders: Vec<_> = (0..8)
        .map(|_| {
            let mut client = stack.client().unwrap();
            client.set_patience(Duration::from_secs(3));
            thread::spawn(move || {
                let head = format!(
                    "POST {} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {}\r\n\r\n",
                    target("CCM_System/request"),
                    1 << 30
                );
                client.send(head.as_bytes());
                let piece = vec![b'y'; 256 * 1024];
                let mut sent = 0_u64;
                // Until the socket takes no more: back-pressure has reached the client.
                while sent < 1 << 30 && client.try_send(&piece).is_ok() {
                    sent += piece.len() as u64;
                }
                (client, sent)
            })
        })
        .collect();
    let slowest = slowest(&mut other, 200);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    for sender in senders {
        let (_client, sent) = sender.join().unwrap();
        assert!(sent < 64 << 20, "{sent} bytes went somewhere, and the origin read none");
    }
    assert_bounded(&stack, before, 8);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn long_and_short_exchanges_share_a_channel_fairly() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let loads: Vec<_> = (0..4)
        .map(|_| {
            let mut client = stack.client().unwrap();
            thread::spawn(move || {
                let answer = client.ask("GET", &target(&format!("SMS_MP/x?bytes={}", 40 << 20))).unwrap();
                let is_whole = answer.body.iter().copied().eq((b'a'..=b'z').cycle().take(40 << 20));
                assert!(is_whole, "{} bytes came", answer.body.len());
            })
        })
        .collect();
    let slowest = slowest(&mut stack.client().unwrap(), 100);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    for load in loads {
        load.join().unwrap();
    }
}

/// Answers before it has the body, and ends.
fn hasty(mut stream: TcpStream) {
    let head = read_head(&mut stream);
    if head.starts_with("POST") {
        let mut piece = [0; 1000];
        let _ = stream.read(&mut piece);
        let _ =
            stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        // Lets the answer arrive before the reset that unread bytes cause.
        thread::sleep(Duration::from_millis(500));
    } else {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

#[test]
fn an_origin_that_answers_before_the_body_ends_is_heard() {
    let origin = HandOrigin::start(hasty);
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: 50000000\r\n\r\n",
        target("CCM_System/request")
    );
    client.send(head.as_bytes());
    let piece = vec![b'y'; 64 * 1024];
    for _ in 0..100 {
        if client.try_send(&piece).is_err() {
            break;
        }
    }
    let answer = client.read().unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (413, "CMGConnector_TooMuch"), "{answer:?}");
    assert_eq!(stack.count("panics"), 0);
}
