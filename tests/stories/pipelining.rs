//! Connections used to the full: many requests in one write, answers in order, ends that come early.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, Nginx, OWN, SERVICE, SampleOrigin, Setup, noise, read_head, run, text,
};
use crate::needs;

fn get(rest: &str) -> String {
    format!("GET /CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n")
}

fn post(rest: &str, fields: &str) -> String {
    format!(
        "POST /CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest} HTTP/1.1\r\nHost: {SERVICE}\r\n{fields}\r\n"
    )
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    let mut written = Vec::new();
    for number in 0..100 {
        // Bodies and refusals in between: neither may put the rest out of step.
        match number % 4 {
            1 => {
                let body = format!("body {number}");
                let fields = format!("Content-Length: {}\r\n", body.len());
                written.extend(post(&format!("CCM_System/{number}"), &fields).into_bytes());
                written.extend(body.into_bytes());
            }
            2 => {
                let fields = "Transfer-Encoding: chunked\r\n";
                written.extend(post(&format!("CCM_System/{number}"), fields).into_bytes());
                written.extend(format!("3\r\nabc\r\n{:x};x=y\r\n{number:04}\r\n0\r\n\r\n", 4).into_bytes());
            }
            3 => written.extend(get(&format!("Nothing/{number}")).into_bytes()),
            _ => written.extend(get(&format!("SMS_MP/{number}")).into_bytes()),
        }
    }
    client.send(&written);
    for number in 0..100 {
        let answer = client.read().unwrap_or_else(|error| panic!("answer {number}: {error}"));
        if number % 4 == 3 {
            assert_eq!(answer.status, 404, "answer {number}: {answer:?}");
            continue;
        }
        assert_eq!(answer.status, 200, "answer {number}: {answer:?}");
        let length = [0, format!("body {number}").len(), 7][number % 4];
        let folder = if number % 4 == 0 { "SMS_MP" } else { "CCM_System" };
        assert!(
            answer.text().contains(&format!("target: /{folder}/{number}\n")),
            "{number}: {}",
            answer.text()
        );
        assert!(answer.text().contains(&format!("length: {length}\n")), "{number}: {}", answer.text());
    }
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn large_bodies_behind_one_another_are_told_apart() {
    // Written alone, a body ends with a record, and records of the next request lie behind it already;
    // written together, it ends in the middle of one.
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    for (first, alone) in [(1, true), (1, false), (70_000, true), (200_000, false)] {
        let mut client = stack.client().unwrap();
        for round in 0..4 {
            let sizes: Vec<_> = (0..12).map(|number| first + number * 7_001 + round).chain([20]).collect();
            let request = |size: &usize| {
                let head = post(&format!("CCM_System/{size}"), &format!("Content-Length: {size}\r\n"));
                [head.as_bytes(), &noise(*size)].concat()
            };
            let requests: Vec<_> = sizes.iter().map(request).collect();
            if alone {
                requests.iter().for_each(|request| client.send(request));
            } else {
                client.send(&requests.concat());
            }
            for size in sizes {
                let answer = client.read().unwrap_or_else(|error| panic!("{size} after {first}: {error}"));
                assert_eq!(answer.status, 200, "{size}: {answer:?}");
                let told = answer.text();
                assert!(told.contains(&format!("target: /CCM_System/{size}\n")), "{size}: {told}");
                assert!(told.contains(&format!("length: {size}\n")), "{size}: {told}");
                let sum = digest(&SHA256, &noise(size));
                let sum: String = sum.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
                assert!(told.contains(&format!("sha256: {sum}\n")), "{size}: {told}");
            }
        }
    }
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn one_upload_after_the_other_on_a_kept_connection_however_it_is_written() {
    // Behind a long body the next bytes are received otherwise than at first: heads alone and with their
    // bodies, in pieces, by byte, small requests between, and a leave in the middle.
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    let mut number = 0;
    let mut upload = |client: &mut Client, size: usize, pieces: &[usize]| {
        number += 1;
        let head = post(&format!("CCM_System/{number}"), &format!("Content-Length: {size}\r\n"));
        let request = [head.as_bytes(), &noise(size)].concat();
        let mut rest = &request[..];
        for piece in pieces {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            client.send(now);
            rest = later;
        }
        client.send(rest);
        let told = client.read().unwrap_or_else(|error| panic!("{number}: {error}")).text();
        assert!(told.contains(&format!("target: /CCM_System/{number}\n")), "{number}: {told}");
        let sum = digest(&SHA256, &noise(size));
        let sum: String = sum.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
        assert!(told.contains(&format!("sha256: {sum}\n")), "{number}: {told}");
    };
    for size in [300_000, 1_500_000, 9_000, 20, 40_000, 250_000] {
        let byte_by_byte = [1; 400];
        let manners: [&[usize]; 6] = [&[], &[90], &[16_384; 9], &[3_000; 40], &byte_by_byte, &[1, 130_000]];
        for pieces in manners {
            upload(&mut client, size, pieces);
            client.send(get(&format!("SMS_MP/between/{size}")).as_bytes());
            let told = client.read().unwrap().text();
            assert!(told.contains(&format!("target: /SMS_MP/between/{size}\n")), "{told}");
            upload(&mut client, size, pieces);
        }
    }
    client.send(post("CCM_System/left", "Content-Length: 500000\r\n").as_bytes());
    client.send(&noise(100_000));
    drop(client);
    let mut other = stack.client().unwrap();
    upload(&mut other, 200_000, &[]);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    for octet in get("SMS_MP/slow").bytes() {
        client.send(&[octet]);
    }
    assert!(client.read().unwrap().text().contains("target: /SMS_MP/slow\n"));
}

#[test]
fn a_client_that_closed_its_half_still_gets_its_answers() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    for is_polite in [true, false] {
        let mut client = stack.client().unwrap();
        client.send(format!("{}{}", get("SMS_MP/first"), get("SMS_MP/second?bytes=300000")).as_bytes());
        if is_polite {
            client.half_close()
        } else {
            client.cut()
        }
        assert!(client.read().unwrap().text().contains("target: /SMS_MP/first\n"), "polite: {is_polite}");
        assert_eq!(client.read().unwrap().body.len(), 300_000, "polite: {is_polite}");
        assert!(client.is_ended());
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_hurts_nobody() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let mut stayed = stack.client().unwrap();
    for _ in 0..20 {
        let mut client = stack.client().unwrap();
        client.send(get("SMS_MP/x?bytes=50000000").as_bytes());
        client.bytes(100_000).unwrap();
        drop(client);
        let mut client = stack.client().unwrap();
        client.send(post("CCM_System/x", "Content-Length: 1000000\r\n").as_bytes());
        client.send(&noise(1_000));
        drop(client);
        assert_eq!(
            stayed.ask("GET", &format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/y")).unwrap().status,
            200
        );
    }
    crate::harness::eventually("what they asked for is given up", || stack.count("active") == 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_body_is_asked_for_before_it_is_sent() {
    needs!("curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    let file = stack.path("body");
    std::fs::write(&file, noise(3_000_000)).unwrap();
    let mut curl = stack.curl();
    curl.args([
        "--verbose",
        "--request",
        "CCM_POST",
        "--header",
        "Expect: 100-continue",
        "--expect100-timeout",
        "30",
    ]);
    curl.args(["--data-binary", &format!("@{}", file.display())]).arg(stack.url("CCM_System/request"));
    let output = curl.output().unwrap();
    let (answer, told) = (text(&output.stdout), text(&output.stderr));
    assert!(told.contains("HTTP/1.1 100 "), "{told}");
    assert!(crate::harness::is_same(&nginx.stored(&answer), &file), "{answer}");

    // One that would be refused is told so instead, and sends nothing.
    let mut client = stack.client().unwrap();
    client.send(post("Nothing/x", "Expect: 100-continue\r\nContent-Length: 1000\r\n").as_bytes());
    assert_eq!(client.read_headless().unwrap().status, 404);
}

#[test]
fn an_origin_that_never_says_continue_gets_the_body_after_a_moment() {
    let origin = HandOrigin::start(|mut stream: TcpStream| {
        while !read_head(&mut stream).is_empty() {
            let mut body = [0; 5];
            stream.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", text(&body));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    client.send(post("CCM_System/x", "Expect: 100-continue\r\nContent-Length: 5\r\n").as_bytes());
    assert_eq!(client.read_headless().unwrap().status, 100, "a client that waits for ever must not");
    client.send(b"hello");
    assert_eq!(client.read().unwrap().text(), "hello");
}

/// Answers in chunks with trailers, after an interim answer; says which trailers came.
fn with_trailers(mut stream: TcpStream) {
    loop {
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        let mut came = String::new();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            while !came.contains("\r\n\r\n") {
                let mut piece = [0; 1024];
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => return,
                    Ok(size) => came.push_str(&text(&piece[..size])),
                }
            }
        }
        let checksum = if came.contains("X-Checksum: up") { "came" } else { "missing" };
        let secret = if came.to_ascii_lowercase().contains("client-cert") { "forged" } else { "clean" };
        let answer = format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Down: {checksum} {secret}\r\nContent-Type: x/y\r\n\r\n"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn trailers_pass_both_ways_without_those_that_must_not() {
    let origin = HandOrigin::start(with_trailers);
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    let fields = "Transfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n";
    client.send(post("CCM_System/x", fields).as_bytes());
    client.send(b"3\r\nabc\r\n0\r\nX-Checksum: up\r\nClient-Cert: :AAAA:\r\n\r\n");
    let mut answer = client.read().unwrap();
    if answer.status == 103 {
        answer = client.read().unwrap();
    }
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{answer:?}");
    assert_eq!(answer.trailer("X-Down"), Some("came clean"), "{answer:?}");
    assert_eq!(answer.trailer("Content-Type"), None, "{answer:?}");
}

/// Ends its body by closing.
fn until_close(mut stream: TcpStream) {
    let head = read_head(&mut stream);
    if !head.is_empty() {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n");
        let _ = stream.write_all(&noise(200_000));
    }
}

#[test]
fn an_answer_that_ends_by_closing_is_framed_anew() {
    needs!("curl");
    let origin = HandOrigin::start(until_close);
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    for _ in 0..2 {
        let answer =
            client.ask("GET", &format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x")).unwrap();
        assert_eq!(answer.field("Transfer-Encoding"), Some("chunked"), "{answer:?}");
        assert!(answer.body == noise(200_000));
    }
    // To HTTP/1.0 it ends by closing again.
    let body = run(stack.curl().arg("--http1.0").arg(stack.url("SMS_MP/x")));
    assert!(body == noise(200_000));
}

/// Says what reached it: the head, as text.
fn mirror(mut stream: TcpStream) {
    loop {
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn an_origin_is_told_who_asks_and_never_by_the_client() {
    let origin = HandOrigin::start(mirror);
    let site = format!("[[endpoint]]\nid = {OWN}\npath = \"own\"\nurl = \"{}/base\"\n", origin.url());
    let stack = Setup { site, ..Setup::new(origin.url()) }.start();
    let forged = "Client-Cert: :AAAA:\r\nClient_Cert: :AAAA:\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n\
                  X-Real-IP: 1.2.3.4\r\nX-ARR-ClientCert: AAAA\r\nX-Original-URL: /AdminService\r\n\
                  X-CMG-Request-Id: forged\r\nConnection: X-Secret\r\nX-Secret: s\r\nUpgrade: h2c\r\nX-Kept: yes\r\n";
    for (target, is_told) in [
        (format!("/CCM_Proxy_MutualAuth/{OWN}/own/a?b=%2F"), true),
        (format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/a?b=%2F"), false),
    ] {
        let mut client = stack.client().unwrap();
        client.set_patience(Duration::from_secs(60));
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n{forged}\r\n").as_bytes());
        let head = client.read().unwrap().text();
        let has = |name: &str| {
            head.lines().filter(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:"))).count()
        };
        assert!(!head.contains("AAAA") && !head.contains("1.2.3.4") && !head.contains("forged"), "{head}");
        for gone in [
            "client_cert",
            "x-forwarded-for",
            "x-real-ip",
            "x-arr-clientcert",
            "x-original-url",
            "x-secret",
            "upgrade",
        ] {
            assert_eq!(has(gone), 0, "{gone}: {head}");
        }
        assert_eq!(has("x-kept"), 1, "{head}");
        assert_eq!(has("x-cmg-request-id"), 1, "{head}");
        assert_eq!(has("host"), 1, "{head}");
        assert!(head.contains(&format!("{}", origin.address)), "an origin gets its own authority: {head}");
        assert_eq!(has("client-cert"), usize::from(is_told), "{head}");
        assert!(
            head.starts_with(if is_told { "GET /base/a?b=%2F " } else { "GET /SMS_MP/a?b=%2F " }),
            "{head}"
        );
    }
}
