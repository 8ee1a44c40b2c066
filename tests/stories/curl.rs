//! Real curl against a real nginx, through gateway and connector: what clients of a management point
//! do, byte by byte.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Nginx, SERVICE, Setup, Stack, is_long, is_same, noise, run, text};
use crate::needs;

fn start() -> (Nginx, Stack) {
    let nginx = Nginx::start();
    let stack = Setup::new(nginx.url()).start();
    (nginx, stack)
}

/// Status line and fields of an answer that curl printed with `--include`, and what came behind.
fn split(answer: &[u8]) -> (String, Vec<u8>) {
    let mut rest = answer;
    loop {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let head = text(&rest[..end]);
        rest = &rest[end..];
        // Interim heads come first.
        if !head.starts_with("HTTP/1.1 1") {
            return (head, rest.to_vec());
        }
    }
}

fn has_field(head: &str, field: &str) -> bool {
    head.lines().any(|line| line.eq_ignore_ascii_case(field))
}

#[test]
fn get_and_head_reach_the_origin_and_come_back() {
    needs!("curl", "nginx");
    let (nginx, stack) = start();
    let (head, body) =
        split(&run(stack.curl().arg("--include").arg(stack.url("SMS_MP/.sms_aut?MPLIST&a=%20b"))));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(text(&body), "GET /SMS_MP/.sms_aut?MPLIST&a=%20b\n");
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name}: {head}")).to_owned()
    };
    assert_eq!(field("X-CMG-Request-Id"), field("X-Seen-Request-Id"), "one id at the origin and the client");
    assert_eq!(field("X-Seen-Host"), format!("127.0.0.1:{}", nginx.port), "an origin gets its own authority");

    // Braces and all, as policy requests come.
    let policy = stack.url("SMS_MP/.sms_pol?{0A1B}.1_00");
    let answer = text(&run(stack.curl().arg("--globoff").arg(policy)));
    assert_eq!(answer, "GET /SMS_MP/.sms_pol?{0A1B}.1_00\n");

    nginx.offer("head.bin", &noise(12_345));
    let (head, body) = split(&run(stack.curl().arg("--head").arg(stack.url("CCM_Client/head.bin"))));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && has_field(&head, "Content-Length: 12345"), "{head}");
    assert!(body.is_empty());
}

#[test]
fn every_method_with_a_body_arrives_byte_exact() {
    needs!("curl", "nginx");
    let (nginx, stack) = start();
    let small = stack.path("small");
    fs::write(&small, noise(7_000)).unwrap();

    // As the client sends it: multipart/mixed, its second part binary.
    let boundary = "aAbBcCdDv1234567890VxXyYzZ";
    let mut message =
        format!("--{boundary}\r\ncontent-type: text/plain; charset=UTF-16\r\n\r\n").into_bytes();
    message.extend_from_slice(&noise(4_000));
    message.extend_from_slice(
        format!("\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n").as_bytes(),
    );
    message.extend_from_slice(&noise(5_000_000));
    message.extend_from_slice(format!("\r\n--{boundary}--").as_bytes());
    let multipart = stack.path("multipart");
    fs::write(&multipart, message).unwrap();
    let content_type = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"");

    let rows: [(&str, &str, &PathBuf, &[&str]); 6] = [
        ("POST", "CCM_System/request", &small, &[]),
        ("POST", "CCM_System/request", &small, &["--header", "Transfer-Encoding: chunked"]),
        ("CCM_POST", "ccm_system/request", &multipart, &["--header", &content_type]),
        (
            "CCM_POST",
            "CCM_System/request",
            &multipart,
            &["--header", &content_type, "--header", "Transfer-Encoding: chunked"],
        ),
        ("BITS_POST", "CCM_Incoming/%7B0A1B%7D.xmh", &multipart, &["--header", "BITS-Packet-Type: Fragment"]),
        ("POST", "CCM_System/request", &multipart, &["--header", "Expect: 100-continue"]),
    ];
    for (method, path, file, options) in rows {
        let data = format!("@{}", file.display());
        let mut curl = stack.curl();
        curl.args(["--request", method, "--data-binary", &data]).args(options).arg(stack.url(path));
        let answer = text(&run(&mut curl));
        assert!(answer.contains(&format!("method: {method}\n")), "{method} {options:?}: {answer}");
        assert!(answer.contains(&format!("uri: /{path}\n")), "the path byte-exact, {method}: {answer}");
        assert!(is_same(&nginx.stored(&answer), file), "{method} {options:?}: {answer}");
        let is_chunked = options.contains(&"Transfer-Encoding: chunked");
        let length = fs::metadata(file).unwrap().len();
        let framing = if is_chunked { "coding: chunked".into() } else { format!("length: {length}\n") };
        assert!(answer.contains(&framing), "{method} {options:?}: {answer}");
    }

    // From a pipe: curl knows no length and frames in chunks.
    let mut feed = Command::new("cat").arg(&small).stdout(Stdio::piped()).spawn().unwrap();
    let mut curl = stack.curl();
    curl.args(["--request", "POST", "--upload-file", "-"]).arg(stack.url("CCM_System/request"));
    let output = curl.stdin(feed.stdout.take().unwrap()).output().unwrap();
    feed.wait().unwrap();
    let answer = text(&output.stdout);
    assert!(answer.contains("coding: chunked"), "{answer}{}", text(&output.stderr));
    assert!(is_same(&nginx.stored(&answer), &small), "{answer}");
}

#[test]
fn ranges_and_validators_pass() {
    needs!("curl", "nginx");
    let (nginx, stack) = start();
    let content = noise(300_000);
    nginx.offer("part.bin", &content);
    let url = stack.url("CCM_Client/part.bin");
    let (head, body) = split(&run(stack.curl().args(["--include", "--range", "1000-200999"]).arg(&url)));
    assert!(head.starts_with("HTTP/1.1 206 Partial Content\r\n"), "{head}");
    assert!(has_field(&head, "Content-Range: bytes 1000-200999/300000"), "{head}");
    assert!(body == content[1000..=200_999]);

    let (head, body) = split(&run(stack.curl().arg("--include").arg(&url)));
    assert!(body == content);
    let tag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).expect(&head).to_owned();
    let condition = format!("If-None-Match: {tag}");
    let (head, body) = split(&run(stack.curl().args(["--include", "--header", &condition]).arg(&url)));
    assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
    assert!(has_field(&head, &format!("ETag: {tag}")) && body.is_empty(), "{head}");

    let broken = stack.curl().args(["--include", "--range", "999999-"]).arg(&url).output().unwrap().stdout;
    assert!(split(&broken).0.starts_with("HTTP/1.1 416 CMGConnector_RequestedRangeNotSatisfiable\r\n"));
}

#[test]
fn long_bodies_pass_both_ways_in_bounded_memory() {
    needs!("curl", "nginx");
    let (nginx, stack) = start();
    let size: usize = if is_long() { 1 << 30 } else { 64 << 20 };
    let file = nginx.folder.path().join("files/CCM_Client/long.bin");
    fs::write(&file, noise(size)).unwrap();
    let (url, back) = (stack.url("CCM_Client/long.bin"), stack.path("back.bin"));
    let down = || {
        run(stack.curl().arg("--output").arg(&back).arg(&url));
        assert!(is_same(&file, &back), "what came down is not what nginx has");
    };
    let up = || {
        // `--data-binary` would hold all of it in memory.
        let mut curl = stack.curl();
        curl.args(["--request", "BITS_POST", "--upload-file"]).arg(&file).arg(stack.url("CCM_Incoming/long"));
        let answer = text(&run(&mut curl));
        let stored = nginx.stored(&answer);
        assert!(is_same(&file, &stored), "what nginx got is not what went up: {answer}");
        fs::remove_file(stored).unwrap();
    };
    down();
    up();
    let before = (stack.gateway().resident(), stack.connector().resident());
    down();
    up();
    let after = (stack.gateway().resident(), stack.connector().resident());
    for (role, before, after) in [("gateway", before.0, after.0), ("connector", before.1, after.1)] {
        let grown = after.saturating_sub(before);
        assert!(grown < 8 << 20, "{role} grew by {grown} bytes from {before}");
    }
}

#[test]
fn old_and_new_tls_and_http_are_spoken() {
    needs!("curl", "nginx");
    let nginx = Nginx::start();
    let stack = Setup { ipv6: true, ..Setup::new(nginx.url()) }.start();
    nginx.offer("file.bin", &noise(100_000));
    let url = stack.url("CCM_Client/file.bin");
    let place = format!("{SERVICE}:{}:[::1]", stack.ports.gateway);
    let rows: [&[&str]; 5] = [
        &["--tlsv1.2", "--tls-max", "1.2"],
        &["--tlsv1.3"],
        &["--http1.0"],
        &["--http2"],
        &["--ipv6", "--resolve", &place],
    ];
    for options in rows {
        let (head, body) = split(&run(stack.curl().arg("--include").args(options).arg(&url)));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{options:?}: {head}");
        assert!(body == noise(100_000), "{options:?}");
    }
    // Several requests on one connection: the second of each kind finds it still open.
    for version in ["--http1.1", "--http1.0"] {
        let mut curl = stack.curl();
        curl.args([
            version,
            "--header",
            "Connection: keep-alive",
            "--output",
            "/dev/null",
            "--output",
            "/dev/null",
        ]);
        curl.args(["--write-out", "%{num_connects} "]).args([&url, &url]);
        assert_eq!(text(&run(&mut curl)), "1 0 ", "{version}");
    }
}
