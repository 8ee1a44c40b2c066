use crate::http::*;
use crate::limits::*;
use crate::refusal::Refusal;

/// Runs `check` on the head that `text` must be.
fn with_head(text: &[u8], check: impl FnOnce(&RequestHead<'_, '_>)) {
    let mut scratch = FieldScratch::new();
    match parse_request(text, &mut scratch) {
        Ok(Parsed::Complete { head, size }) => {
            assert!(size <= text.len());
            check(&head);
        }
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn fault(text: &[u8]) -> HeadError {
    let mut scratch = FieldScratch::new();
    match parse_request(text, &mut scratch) {
        Err(error) => error,
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

/// A request with these lines after its request line and Host.
fn get_with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
}

#[test]
fn a_client_message_is_read_as_it_came() {
    let text = b"CCM_POST /CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request HTTP/1.1\r\n\
        Connection: Keep-Alive\r\nUser-Agent: ConfigMgr Messaging HTTP Sender\r\n\
        Content-Type: multipart/mixed; boundary=\"a\"\r\nContent-Length: 812\r\nHost: gw.example:443\r\n\
        X-Empty:\r\nX-Latin: caf\xE9 \t\r\n\r\nBODY";
    with_head(text, |head| {
        assert_eq!(head.method, b"CCM_POST");
        assert_eq!(head.target, b"/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request");
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.host, b"gw.example:443");
        assert_eq!(head.framing, Framing::Length(812));
        assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none() && !head.is_head());
        assert_eq!(head.fields.iter().len(), 7);
        assert_eq!(head.fields.find("x-EMPTY"), Some(b"".as_slice()));
        assert_eq!(head.fields.find("x-latin"), Some(b"caf\xE9".as_slice()));
        assert_eq!(head.fields.find("range"), None);
    });
}

#[test]
fn the_size_ends_where_the_next_request_begins() {
    let first = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let both = [first.as_slice(), b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { size, .. }) = parse_request(&both, &mut scratch) else { panic!("no head") };
    assert_eq!(size, first.len());
}

#[test]
fn any_beginning_of_a_head_needs_more() {
    let text = get_with("Content-Length: 3\r\nA: b\r\n");
    for end in 0..text.len() {
        let mut scratch = FieldScratch::new();
        assert_eq!(parse_request(&text[..end], &mut scratch), Ok(Parsed::Partial), "{end}");
    }
}

#[test]
fn real_targets_pass_with_braces_and_all() {
    for target in [
        "/",
        "/CCM_Proxy_MutualAuth/8/SMS_MP/.sms_pol?{D6FF-41}.1_00",
        "/a//b/../c\\d|e^f`g\"h<i>",
        "/%2e%2E/%00",
        "/?MPLIST",
        "/~!$&'()*+,;=:@",
        "/*",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        with_head(text.as_bytes(), |head| assert_eq!(head.target, target.as_bytes()));
    }
}

#[test]
fn an_absolute_target_loses_scheme_and_authority() {
    for (target, host, expected) in [
        ("http://gw.example/a?b", "gw.example", "/a?b"),
        ("HTTPS://GW.example:443/a", "gw.EXAMPLE:443", "/a"),
        ("https://[2001:db8::1]:8443/", "[2001:DB8::1]:8443", "/"),
        ("http://gw.example", "gw.example", "/"),
        ("http://gw.example//a@b", "gw.example", "//a@b"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        with_head(text.as_bytes(), |head| {
            assert_eq!(head.target, expected.as_bytes());
            assert_eq!(head.host, host.as_bytes());
        });
    }
    with_head(b"GET http://gw.example/a HTTP/1.0\r\n\r\n", |head| assert_eq!(head.host, b"gw.example"));
}

#[test]
fn what_is_no_target_of_ours_is_refused() {
    for target in [
        "*",
        "host:443",
        "a",
        "?a",
        "/a#b",
        "/#",
        "/caf\u{e9}",
        "/a\tb",
        "/\u{7f}",
        "ftp://h/",
        "http:/h/",
        "http://h?x",
        "http:///a",
        "http://user@h/",
        "http://h:99999/",
        "http://h\\@evil/",
        "http://h#/",
        "//",
    ] {
        let text = format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        if target == "//" {
            with_head(text.as_bytes(), |head| assert_eq!(head.target, b"//")); // `mapping` judges paths.
        } else {
            assert_eq!(fault(text.as_bytes()).refusal(), Refusal::BadRequest, "{target}");
        }
    }
}

#[test]
fn start_lines_have_one_reading() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET HTTP/1.1",
        "GET / HTTP/0.9",
        "G(T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "/ HTTP/1.1",
        "GET / /b HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "PRI * HTTP/2.0",
        "CONNECT / HTTP/1.1",
        "CONNECT h:443 HTTP/1.1",
        "connect / HTTP/1.1",
        "head / HTTP/1.1",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1",
        "{\"json\":1} / HTTP/1.1",
        "\u{16}\u{3}\u{1} / HTTP/1.1",
    ] {
        let text = format!("{line}\r\nHost: h\r\n\r\n");
        assert_eq!(fault(text.as_bytes()).refusal(), Refusal::BadRequest, "{line}");
    }
}

#[test]
fn any_token_is_a_method() {
    for method in ["GET", "HEAD", "CCM_POST", "BITS_POST", "PROPFIND", "get", "M-SEARCH", "!#$%&'*+-.^_`|~1a"]
    {
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
        with_head(text.as_bytes(), |head| {
            assert_eq!(head.method, method.as_bytes());
            assert_eq!(head.is_head(), method == "HEAD");
        });
    }
}

#[test]
fn lines_end_with_cr_lf_and_nothing_else() {
    for text in [
        b"GET / HTTP/1.1\nHost: h\r\n\r\n".as_slice(),
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        b"GET / HTTP/1.1\r\nHost: h\n\n",
        b"GET / HTTP/1.1\rHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\rA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nA:\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n",
        b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\r\n\r\n",
    ] {
        assert_eq!(fault(text).refusal(), Refusal::BadRequest, "{}", text.escape_ascii());
    }
}

#[test]
fn what_can_never_become_a_head_is_refused_before_it_ends() {
    for text in [b"\r".as_slice(), b"\x16\x03\x01", b" ", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\n"] {
        assert_eq!(fault(text).refusal(), Refusal::BadRequest, "{}", text.escape_ascii());
    }
}

#[test]
fn field_lines_have_one_reading() {
    for lines in [
        "A : b\r\n",
        "A\t: b\r\n",
        " A: b\r\n",
        ": b\r\n",
        "A\r\n",
        "A: b\r\n folded\r\n",
        "A: b\r\n\tfolded\r\n",
        "A: b\0c\r\n",
        "A: b\u{1}c\r\n",
        "A: b\u{7f}\r\n",
        "A: b\u{b}\r\n",
        "A\u{e9}: b\r\n",
        "A(: b\r\n",
        "A B: c\r\n",
        "\"A\": b\r\n",
        "A/b: c\r\n",
        "A\0: b\r\n",
    ] {
        assert_eq!(fault(&get_with(lines)).refusal(), Refusal::BadRequest, "{lines:?}");
    }
}

#[test]
fn blanks_around_a_value_are_not_part_of_it() {
    for (line, value) in
        [("A:b", "b"), ("A: \t b \t", "b"), ("A:", ""), ("A: \t ", ""), ("A: b\tc d", "b\tc d")]
    {
        with_head(&get_with(&format!("{line}\r\n")), |head| {
            assert_eq!(head.fields.find("a"), Some(value.as_bytes()), "{line:?}");
        });
    }
}

#[test]
fn exactly_one_host_that_is_a_host() {
    for (lines, error) in [
        ("", HeadError::HostMissing),
        ("Host: a\r\nHost: a\r\n", HeadError::HostRepeated),
        ("Host: a\r\nhOST: b\r\n", HeadError::HostRepeated),
        ("Host:\r\n", HeadError::Host),
        ("Host: a, b\r\n", HeadError::Host),
        ("Host: a b\r\n", HeadError::Host),
        ("Host: http://a\r\n", HeadError::Host),
        ("Host: a/b\r\n", HeadError::Host),
        ("Host: u@a\r\n", HeadError::Host),
        ("Host: a:\r\n", HeadError::Host),
        ("Host: a:0x50\r\n", HeadError::Host),
        ("Host: a:65536\r\n", HeadError::Host),
        ("Host: a:000080\r\n", HeadError::Host),
        ("Host: a:80:80\r\n", HeadError::Host),
        ("Host: :80\r\n", HeadError::Host),
        ("Host: a%2eb\r\n", HeadError::Host),
        ("Host: caf\u{e9}\r\n", HeadError::Host),
        ("Host: ::1\r\n", HeadError::Host),
        ("Host: [::1\r\n", HeadError::Host),
        ("Host: [::1]a\r\n", HeadError::Host),
        ("Host: [::1]:\r\n", HeadError::Host),
        ("Host: [gw]\r\n", HeadError::Host),
        ("Host: [fe80::1%25eth0]\r\n", HeadError::Host),
        ("Host: a\"b\r\n", HeadError::Host),
    ] {
        assert_eq!(fault(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes()), error, "{lines:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(HOST_SIZE_MAX + 1));
    assert_eq!(fault(long.as_bytes()), HeadError::Host);
    for other in ["b", "a:443", "a.", ""] {
        let text = format!("GET http://a/ HTTP/1.1\r\nHost: {other}\r\n\r\n");
        assert_eq!(fault(text.as_bytes()).refusal(), Refusal::BadRequest, "{other}");
    }
    for host in ["a", "A.b-c_d.", "10.0.0.1:8443", "[::1]", "[::ffff:10.0.0.1]:65535", "x:0"] {
        with_head(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), |head| {
            assert_eq!(head.host, host.as_bytes());
        });
    }
    with_head(b"GET / HTTP/1.0\r\n\r\n", |head| assert_eq!(head.host, b""));
}

#[test]
fn framing_is_told_once_and_plainly() {
    for (lines, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-LENGTH: 007\r\n", Framing::Length(7)),
        ("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding: \tCHUNKED \r\n", Framing::Chunked),
    ] {
        with_head(&get_with(lines), |head| assert_eq!(head.framing, framing, "{lines:?}"));
    }
    for lines in [
        "Content-Length:\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 1 2\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 000000000000000000005\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: \u{665}\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: cow\r\n",
    ] {
        assert_eq!(fault(&get_with(lines)).refusal(), Refusal::BadRequest, "{lines:?}");
    }
    assert_eq!(fault(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), HeadError::TransferEncoding);
}

#[test]
fn a_connection_is_kept_as_version_and_tokens_say() {
    for (version, lines, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: ,, close ,\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
        with_head(text.as_bytes(), |head| assert_eq!(head.keep_alive, keep_alive, "{version} {lines:?}"));
    }
    for lines in ["Connection: a b\r\n", "Connection: \"close\"\r\n", "Connection: a,b,c,d,e,f,g,h,i\r\n"] {
        assert_eq!(fault(&get_with(lines)), HeadError::Connection, "{lines:?}");
    }
    with_head(&get_with("Connection: a,b,c,d,e,f,g,h,A,b,close\r\n"), |head| assert!(!head.keep_alive));
}

#[test]
fn expect_and_upgrade_count_only_where_they_can_be_met() {
    for (version, lines, expect) in [
        ("1.1", "Expect: 100-Continue\r\nContent-Length: 5\r\n", true),
        ("1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("1.1", "Expect: 100-continue\r\n", false),
        ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
        ("1.1", "Expect: 200-ok\r\nContent-Length: 5\r\n", false),
        ("1.0", "Expect: 100-continue\r\nContent-Length: 5\r\n", false),
    ] {
        let text = format!("POST / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
        with_head(text.as_bytes(), |head| assert_eq!(head.expect_continue, expect, "{lines:?}"));
    }
    for (version, lines, upgrade) in [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
        ("1.1", "Upgrade: websocket\r\n", None),
        ("1.1", "Connection: Upgrade\r\n", None),
        ("1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", None),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n", None),
        ("1.1", "Connection: Upgrade\r\nUpgrade: h2 /x\r\n", None),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", None),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
        with_head(text.as_bytes(), |head| {
            assert_eq!(head.upgrade, upgrade.map(str::as_bytes), "{lines:?}");
        });
    }
}

#[test]
fn a_request_that_speaks_of_an_upgrade_in_any_other_way_is_as_if_it_did_not() {
    for (method, lines, upgrade) in [
        ("GET", "Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n", Some("WebSocket")),
        ("GET", "Upgrade: websocket\r\nConnection: a\r\nConnection: upgrade\r\n", Some("websocket")),
        ("GET", "Connection: close, Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
        ("POST", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
        ("HEAD", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
        ("get", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket, other\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket,\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: web socket\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: \r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: H2C\r\n", None),
        ("GET", "Connection: Upgrade\r\nUpgrade: h2\r\n", None),
        ("GET", "Connection: close\r\nUpgrade: websocket\r\n", None),
        ("GET", "Connection: Upgrade\r\nX-Upgrade: websocket\r\n", None),
    ] {
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        with_head(text.as_bytes(), |head| {
            assert_eq!(head.upgrade, upgrade.map(str::as_bytes), "{method} {lines:?}");
        });
    }
}

#[test]
fn what_is_too_large_is_said_to_be_so() {
    let of_size = |size: usize| {
        let frame = get_with("A: \r\n").len();
        get_with(&format!("A: {}\r\n", "a".repeat(size - frame)))
    };
    with_head(&of_size(HEAD_SIZE_MAX), |head| assert_eq!(head.fields.iter().len(), 2));
    assert_eq!(fault(&of_size(HEAD_SIZE_MAX + 1)), HeadError::TooLarge);
    assert_eq!(fault(&of_size(HEAD_SIZE_MAX + 1)[..HEAD_SIZE_MAX]), HeadError::TooLarge);
    assert_eq!(fault(&vec![b'a'; HEAD_SIZE_MAX]), HeadError::TooLarge);

    with_head(&get_with(&"A: b\r\n".repeat(FIELD_COUNT_MAX - 1)), |head| {
        assert_eq!(head.fields.iter().len(), FIELD_COUNT_MAX);
    });
    let many = get_with(&"A: b\r\n".repeat(FIELD_COUNT_MAX));
    assert_eq!(fault(&many), HeadError::TooManyFields);
    assert_eq!(fault(&many[..many.len() - 2]), HeadError::TooManyFields);

    let named = |size: usize| get_with(&format!("{}: b\r\n", "n".repeat(size)));
    with_head(&named(FIELD_NAME_SIZE_MAX), |head| assert_eq!(head.fields.iter().len(), 2));
    assert_eq!(fault(&named(FIELD_NAME_SIZE_MAX + 1)), HeadError::NameTooLong);

    let targeting =
        |size: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "t".repeat(size - 1)).into_bytes();
    with_head(&targeting(TARGET_SIZE_MAX), |head| assert_eq!(head.target.len(), TARGET_SIZE_MAX));
    assert_eq!(fault(&targeting(TARGET_SIZE_MAX + 1)), HeadError::TargetTooLong);
    for error in
        [HeadError::TooLarge, HeadError::TooManyFields, HeadError::NameTooLong, HeadError::TargetTooLong]
    {
        assert_eq!(error.refusal(), Refusal::HeadTooLarge);
    }
}

#[test]
fn no_tab_follows_what_says_where_a_body_ends() {
    let post = |line: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{line}\r\nA: b\t\r\n\r\n");
    for blanks in ["\t", " \t", "\t ", "\t\t"] {
        let coding = post(&format!("Transfer-Encoding: chunked{blanks}"));
        assert_eq!(fault(coding.as_bytes()), HeadError::TransferEncoding, "{blanks:?}");
        let length = post(&format!("Content-Length: 3{blanks}"));
        assert_eq!(fault(length.as_bytes()), HeadError::ContentLength, "{blanks:?}");
    }
    for fine in ["Transfer-Encoding:\tchunked  ", "Content-Length: \t3 "] {
        let text = post(fine);
        assert!(parse_request(text.as_bytes(), &mut FieldScratch::new()).is_ok(), "{fine:?}");
    }
}
