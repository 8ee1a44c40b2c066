use super::*;
use crate::notification::SHARE_ALL;
use crate::origin::rules::{Likely, Span};

fn fresh() -> Exchange {
    Exchange::new(&Arc::default(), 0)
}

fn ask(exchange: &mut Exchange, wire: &[u8]) -> (String, Next) {
    let mut staged = Vec::new();
    let (used, next) = exchange.handle_bytes(wire, &mut staged);
    assert_eq!(used, wire.len());
    (String::from_utf8(staged).expect("text"), next)
}

#[test]
fn an_answer_says_who_asked_and_has_the_size_asked_for() {
    let mut exchange = fresh();
    let (answer, next) = ask(
        &mut exchange,
        b"POST /p;q/r?id=ab&bytes=150 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nid=cd\nxyz",
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains("X-Id: ab") && head.contains("Content-Length: 150"), "{head}");
    assert!(body.starts_with("id=ab path=/p%3Bq/r body=cd len=9 hash="), "{body}");
    let end = body.find(';').expect("account") + 1;
    assert_eq!((body.len(), next), (150, Next::Read));
    assert!(Pattern::new(b"ab").matches(end as u64, &body.as_bytes()[end..]));
}

#[test]
fn pipelined_requests_in_any_pieces_are_answered_in_order() {
    let wire: Vec<u8> =
        (0..5).flat_map(|id| format!("GET /?id={id} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()).collect();
    let mut whole = Vec::new();
    let mut exchange = fresh();
    assert_eq!(exchange.handle_bytes(&wire, &mut whole), (wire.len(), Next::Read));
    for cut in 1..wire.len() {
        let (mut exchange, mut staged) = (fresh(), Vec::new());
        let (used, _) = exchange.handle_bytes(&wire[..cut], &mut staged);
        exchange.handle_bytes(&wire[used..], &mut staged);
        assert_eq!(staged, whole, "{cut}");
    }
}

#[test]
fn a_large_answer_is_staged_in_bounded_pieces() {
    let mut exchange = fresh();
    let mut staged = Vec::new();
    let wire = b"GET /?bytes=10000000&id=x HTTP/1.1\r\nHost: h\r\n\r\n";
    let (mut used, mut next) = exchange.handle_bytes(wire, &mut staged);
    let mut size = 0;
    while next == Next::Send {
        assert!(staged.len() < STAGED_SIZE_MAX + 2 * CHUNK_SIZE);
        size += staged.len();
        staged.clear();
        (used, next) = exchange.handle_bytes(&wire[used.min(wire.len())..][..0], &mut staged);
    }
    let head = 82;
    assert!((10_000_000..10_000_000 + 2 * head).contains(&(size + staged.len())), "{size}");
}

#[test]
fn what_the_query_wishes_is_done() {
    for (query, expected, next) in [
        ("stall", "", Next::Stall),
        ("delay_ms=20", "", Next::Wait(Duration::from_millis(20))),
        ("status=503", "HTTP/1.1 503 Service Unavailable", Next::Read),
        ("framing=chunked&bytes=3", "\r\n\r\n3\r\nid=\r\n0\r\n\r\n", Next::Read),
        ("framing=close&bytes=3", "Connection: close\r\n\r\nid=", Next::Close),
        ("bytes=100&cut=3", "Content-Length: 100", Next::Close),
    ] {
        let wire = format!("GET /?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (answer, found) = ask(&mut fresh(), wire.as_bytes());
        assert!(answer.contains(expected), "{query}: {answer}");
        assert_eq!(found, next, "{query}");
    }
}

#[test]
fn what_is_not_http_is_refused_and_the_connection_ends() {
    let (answer, next) = ask(&mut fresh(), b"\x16\x03\x01\x02\x00\x01");
    assert!(answer.starts_with("HTTP/1.1 400"));
    assert_eq!(next, Next::Close);
}

fn with(rules: Rules) -> Exchange {
    Exchange::new(&Arc::new(Common { rules, ..Common::default() }), 0)
}

/// One whole answer to a request to a named endpoint: its head, and its body.
fn say(exchange: &mut Exchange, line: &str, fields: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut wire = format!(
        "{line} HTTP/1.1\r\nHost: h\r\nX-Load-Id: 00000000000000ab\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    wire.extend_from_slice(body);
    let (mut staged, mut used) = (Vec::new(), 0);
    loop {
        let (size, next) = exchange.handle_bytes(&wire[used..], &mut staged);
        used += size;
        match next {
            Next::Send => {}
            Next::Read => break,
            Next::Wait(_) => exchange.answer_delayed(&mut staged),
            other => panic!("{other:?}"),
        }
        // The shell would send; here all is kept.
        if staged.len() >= STAGED_SIZE_MAX {
            let mut more = Vec::new();
            while let (size, Next::Send) = exchange.handle_bytes(&wire[used..], &mut more) {
                used += size;
                staged.append(&mut more);
            }
            staged.append(&mut more);
            break;
        }
    }
    let end = staged.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(staged[..end].to_vec()).expect("text"), staged[end..].to_vec())
}

#[test]
fn named_endpoints_answer_as_the_table_says() {
    use crate::population::catalogue::{Reply, part_head, utf16};
    let mut message = part_head("text/plain; charset=UTF-16");
    message.extend_from_slice(&utf16("<Msg><TargetEndpoint>MP_PolicyManager</TargetEndpoint></Msg>"));
    let soap = "SOAPAction: \"http://example/ClientWebService/SyncUpdates\"\r\n";
    for (line, fields, body, reply) in [
        ("GET /SMS_MP/.sms_aut?MPLIST", "", &b""[..], Reply::PointList),
        ("CCM_POST /CCM_System/request", "", &message, Reply::Assignments),
        ("CCM_POST /CCM_Proxy_ServerAuth/9/ccm_system_tokenauth/request", "", &message, Reply::Assignments),
        ("GET /CCM_STS", "", b"", Reply::Token),
        ("POST /BGB/handler.ashx?RequestType=LogIn", "", b"x", Reply::SignedIn),
        ("POST /BGB/handler.ashx?RequestType=KeepAlive", "", b"x", Reply::Nothing),
        (
            "POST /BGB/handler.ashx?RequestType=KeepAlive",
            "X-Load: push=script&delay_ms=5\r\n",
            b"x",
            Reply::Push,
        ),
        ("GET /CCM_Client/ccmsetup.cab", "", b"", Reply::ClientFile),
        ("PROPFIND /CCM_Client/package/", "", b"", Reply::Listing),
        ("POST /CMUserService", "", b"x", Reply::UserService),
        ("POST /ClientWebService/client.asmx", soap, b"x", Reply::Updates),
    ] {
        let (head, found) = say(&mut fresh(), line, fields, body);
        let row = reply.row();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", row.status)), "{line}: {head}");
        assert!(head.contains("X-Id: 00000000000000ab\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", row.shape.size)), "{line}: {head}");
        assert!(head.contains(&format!("X-Load-Account: len={} hash=", body.len())), "{line}: {head}");
        assert_eq!(found.len() as u64, row.shape.size, "{line}");
        assert!(row.shape.matches(b"00000000000000ab", 0, &found), "{line}");
        assert!(row.shape.file.is_some() || !row.shape.matches(b"00000000000000ac", 0, &found), "{line}");
    }
}

#[test]
fn a_named_endpoint_refuses_what_it_does_not_know() {
    for (line, status) in [
        ("POST /SMS_MP/.sms_aut?MPLIST", 405),
        ("GET /SMS_MP/.sms_aut?OTHER", 404),
        ("GET /SMS_MP/.sms_pol?{none}.1.00", 404),
        ("CCM_POST /CCM_System/request", 400),
        ("POST /ClientWebService/client.asmx", 500),
        ("BITS_POST /CCM_Incoming/x.mif", 400),
        ("GET /CCM_Incoming/x.mif", 405),
    ] {
        let (head, body) = say(&mut fresh(), line, "", b"");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
        assert!(body.is_empty());
    }
}

#[test]
fn a_query_with_a_wish_has_a_plain_answer_wherever_it_goes() {
    for query in ["MPLIST&id=ab", "MPLIST&bytes=200", "id=ab"] {
        let (answer, _) =
            ask(&mut fresh(), format!("GET /SMS_MP/.sms_aut?{query} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        assert!(
            answer.contains("Content-Length: 200\r\n") && answer.contains(" path=/SMS_MP/.sms_aut "),
            "{answer}"
        );
    }
}

#[test]
fn a_file_is_the_same_for_everybody_and_in_parts() {
    use crate::population::catalogue::Reply;
    let shape = Reply::ClientFile.row().shape;
    let (head, body) =
        say(&mut fresh(), "GET /CCM_Client/ccmsetup.cab", "Range: bytes=1000000-1000999\r\n", b"");
    assert!(
        head.starts_with("HTTP/1.1 206 ")
            && head.contains("Content-Range: bytes 1000000-1000999/2600000\r\n"),
        "{head}"
    );
    assert!(shape.matches(b"anybody", 1_000_000, &body));
    let (whole, body) = say(&mut fresh(), "HEAD /CCM_Client/ccmsetup.cab", "", b"");
    assert!(whole.contains("Content-Length: 2600000\r\n") && body.is_empty(), "{whole}");
    let etag = |head: &str| head.lines().find(|line| line.starts_with("ETag: ")).map(str::to_owned);
    assert!(etag(&head).is_some() && etag(&head) == etag(&whole));
}

#[test]
fn an_upload_over_two_connections_is_one_session() {
    let common = Arc::default();
    let (mut one, mut two) = (Exchange::new(&common, 1), Exchange::new(&common, 2));
    let line = "BITS_POST /CCM_Incoming/{1}.mif";
    let create = format!(
        "BITS-Packet-Type: CREATE-SESSION\r\nBITS-Supported-Protocols: {}\r\n",
        crate::population::catalogue::BITS_PROTOCOL
    );
    let (head, _) = say(&mut one, line, &create, b"");
    let session =
        head.lines().find(|line| line.starts_with("BITS-Session-Id: ")).expect("a session").to_owned();
    let fragment =
        |range: &str| format!("BITS-Packet-Type: FRAGMENT\r\n{session}\r\nContent-Range: bytes {range}\r\n");
    let (head, _) = say(&mut two, line, &fragment("4-7/8"), b"5678");
    assert!(
        head.starts_with("HTTP/1.1 416 ") && head.contains("BITS-Received-Content-Range: 0\r\n"),
        "{head}"
    );
    for (by_two, range, bytes, received) in
        [(true, "0-3/8", b"1234", 4), (false, "0-3/8", b"1234", 4), (false, "4-7/8", b"5678", 8)]
    {
        let exchange = if by_two { &mut two } else { &mut one };
        let (head, _) = say(exchange, line, &fragment(range), bytes);
        assert!(head.contains(&format!("BITS-Received-Content-Range: {received}\r\n")), "{head}");
        assert!(head.contains("X-Load-Account: len=4 hash="), "{head}");
    }
    let close = format!("BITS-Packet-Type: CLOSE-SESSION\r\n{session}\r\n");
    assert!(say(&mut two, line, &close, b"").0.starts_with("HTTP/1.1 200 "));
    assert!(say(&mut two, line, &close, b"").0.starts_with("HTTP/1.1 500 "));
}

#[test]
fn faults_come_when_asked_for_and_when_rules_say_so() {
    for (fault, next) in [
        ("reset", Next::Reset),
        ("stall", Next::Stall),
        ("close", Next::Close),
        ("cut", Next::Close),
        ("garbage", Next::Close),
    ] {
        let wire = format!("GET /x?bytes=1000&fault={fault} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut staged = Vec::new();
        let asked = fresh().handle_bytes(wire.as_bytes(), &mut staged);
        assert_eq!(asked, (wire.len(), next), "{fault}");
        let mut again = Vec::new();
        let rules = Rules {
            faults: vec![Likely::parse(&format!("{fault}=1")).expect("a fault")],
            ..Rules::default()
        };
        let wire = b"GET /x?bytes=1000 HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(with(rules).handle_bytes(wire, &mut again), (wire.len(), next), "{fault}");
        assert_eq!(staged, again, "{fault}");
        let is_http = wire::parse_response(&staged, false).is_ok_and(|head| head.is_some());
        assert_eq!(is_http, fault == "cut", "{fault}");
        if fault == "cut" {
            let end = staged.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
            assert_eq!(staged.len() - end, 500);
        }
    }
}

#[test]
fn notification_requests_are_held_and_others_delayed() {
    let rules = Rules {
        delay: Span::parse("7").expect("a span"),
        hold: Span::parse("900").expect("a span"),
        ..Rules::default()
    };
    for (target, millis) in [
        ("/BGB/handler.ashx?RequestType=KeepAlive", 900),
        ("/BGB/handler.ashx?RequestType=LogIn", 7),
        ("/SMS_MP/.sms_aut?MPLIST", 7),
        ("/x?id=1", 7),
        ("/x?id=1&delay_ms=3", 3),
    ] {
        let wire = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (_, next) = with(rules.clone()).handle_bytes(wire.as_bytes(), &mut Vec::new());
        assert_eq!(next, Next::Wait(Duration::from_millis(millis)), "{target}");
    }
}

/// A notification request of client 7 that saw push 2, in an exchange after a push of that number.
fn ask_held(exchange: &mut Exchange, seen: u64) -> (String, Next) {
    let wire = format!(
        "GET /BGB/handler.ashx?RequestType=KeepAlive HTTP/1.1\r\nHost: h\r\nX-Load-Id: ab\r\nX-Load: client=7&seen={seen}&delay_ms=60000\r\n\r\n"
    );
    ask(exchange, wire.as_bytes())
}

fn after_push(number: u64) -> Exchange {
    let common = Common::default();
    common.push.store(Push { number, share: SHARE_ALL }.pack(), Ordering::Release);
    Exchange::new(&Arc::new(common), 0)
}

#[test]
fn a_push_answers_what_is_held_and_has_not_seen_it() {
    let mut exchange = after_push(2);
    assert_eq!(ask_held(&mut exchange, 2).1, Next::Wait(Duration::from_secs(60)));
    assert!(exchange.is_held());
    let mut staged = Vec::new();
    assert!(!exchange.push(Push { number: 2, share: SHARE_ALL }, &mut staged), "it has seen that one");
    assert!(staged.is_empty() && exchange.is_held());
    assert!(exchange.push(Push { number: 3, share: SHARE_ALL }, &mut staged));
    exchange.handle_bytes(b"", &mut staged);
    let text = String::from_utf8(staged).expect("text");
    assert!(text.contains("X-Load-Push: 3\r\n") && text.contains("X-Load-Client: 7\r\n"), "{text}");
    assert!(text.contains("X-Id: ab\r\n") && text.ends_with("</BgbRequestMessage>"), "{text}");
    assert!(!exchange.is_held());
    assert!(!exchange.push(Push { number: 4, share: SHARE_ALL }, &mut Vec::new()), "nothing is held");
}

#[test]
fn who_was_away_has_the_last_push_at_once() {
    let mut exchange = after_push(2);
    let (answer, next) = ask_held(&mut exchange, 1);
    assert!(answer.contains("X-Load-Push: 2\r\n") && next == Next::Read, "{answer}");
    assert_eq!(ask_held(&mut exchange, 2).1, Next::Wait(Duration::from_secs(60)));
    // Who says nothing of itself is owed nothing when it comes, and is pushed to while it is held.
    let mut exchange = after_push(2);
    let wire = b"GET /BGB/handler.ashx?RequestType=KeepAlive HTTP/1.1\r\nHost: h\r\n\r\n";
    let rules = Rules { hold: Span::parse("1000").expect("a span"), ..Rules::default() };
    assert_eq!(ask(&mut with(rules), wire).1, Next::Wait(Duration::from_secs(1)));
    let (answer, _) = ask(&mut exchange, wire);
    assert!(!answer.contains("X-Load-Push"), "{answer}");
}

#[test]
fn a_held_request_ends_with_nothing_when_its_time_is_over() {
    let mut exchange = fresh();
    ask_held(&mut exchange, 0);
    let mut staged = Vec::new();
    exchange.answer_delayed(&mut staged);
    exchange.handle_bytes(b"", &mut staged);
    let text = String::from_utf8(staged).expect("text");
    assert!(!text.contains("X-Load-Push") && text.ends_with("</BgbKeepAliveMessage>"), "{text}");
}
