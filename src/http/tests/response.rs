use crate::http::*;
use crate::refusal::Refusal;

fn with_head(text: &[u8], request_is_head: bool, check: impl FnOnce(&ResponseHead<'_, '_>)) {
    let mut scratch = FieldScratch::new();
    match parse_response(text, request_is_head, &mut scratch) {
        Ok(Parsed::Complete { head, .. }) => check(&head),
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn is_refused(text: &[u8]) -> bool {
    let mut scratch = FieldScratch::new();
    parse_response(text, false, &mut scratch)
        .is_err_and(|error| error.origin_refusal() == Refusal::BadGateway)
}

#[test]
fn an_answer_of_iis_is_read_as_it_came() {
    let text = b"HTTP/1.1 403 Client certificate required\r\nContent-Type: text/html\r\n\
        Content-Length: 1233\r\nServer: Microsoft-IIS/10.0\r\n\r\n<!";
    with_head(text, false, |head| {
        assert_eq!((head.version, head.status), (Version::Http11, 403));
        assert_eq!(head.reason, b"Client certificate required");
        assert_eq!(head.framing, ResponseFraming::Length(1233));
        assert!(head.keep_alive && !head.is_interim());
        assert_eq!(head.fields.find("server"), Some(b"Microsoft-IIS/10.0".as_slice()));
    });
}

#[test]
fn reasons_may_be_missing_or_beyond_ascii() {
    for (line, reason) in [
        (b"HTTP/1.1 200".as_slice(), b"".as_slice()),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200 Non trouv\xE9", b"Non trouv\xE9"),
        (b"HTTP/1.0 200 O\tK", b"O\tK"),
    ] {
        let text = [line, b"\r\nContent-Length: 0\r\n\r\n"].concat();
        with_head(&text, false, |head| assert_eq!(head.reason, reason));
    }
}

#[test]
fn the_end_of_a_body_follows_from_request_status_and_fields() {
    use ResponseFraming::{Chunked, Length, None as Nothing, UntilClose};
    for (line, lines, is_head, framing, content_length, keep_alive) in [
        ("1.1 200", "Content-Length: 5\r\n", false, Length(5), Some(5), true),
        ("1.1 200", "Content-Length: 0\r\n", false, Length(0), Some(0), true),
        ("1.1 200", "Transfer-Encoding: Chunked\r\n", false, Chunked, None, true),
        ("1.1 200", "", false, UntilClose, None, false),
        ("1.1 200", "Connection: keep-alive\r\n", false, UntilClose, None, false),
        ("1.1 200", "Content-Length: 5\r\nConnection: close\r\n", false, Length(5), Some(5), false),
        ("1.0 200", "Content-Length: 5\r\n", false, Length(5), Some(5), false),
        ("1.0 200", "Content-Length: 5\r\nConnection: keep-alive\r\n", false, Length(5), Some(5), true),
        ("1.1 200", "Content-Length: 5\r\n", true, Nothing, Some(5), true),
        ("1.1 200", "Transfer-Encoding: chunked\r\n", true, Nothing, None, true),
        ("1.1 200", "", true, Nothing, None, true),
        ("1.1 304", "Content-Length: 5\r\n", false, Nothing, Some(5), true),
        ("1.1 304", "Transfer-Encoding: chunked\r\n", false, Nothing, None, false),
        ("1.1 204", "", false, Nothing, None, true),
        ("1.1 204", "Content-Length: 0\r\n", false, Nothing, Some(0), true),
        ("1.1 204", "Content-Length: 5\r\n", false, Nothing, Some(5), false),
        ("1.1 204", "Transfer-Encoding: chunked\r\n", false, Nothing, None, false),
        ("1.1 100", "", false, Nothing, None, true),
        ("1.1 101", "", false, Nothing, None, true),
        ("1.1 599", "", false, UntilClose, None, false),
    ] {
        let text = format!("HTTP/{line} X\r\n{lines}\r\n");
        with_head(text.as_bytes(), is_head, |head| {
            assert_eq!(head.framing, framing, "{text:?}");
            assert_eq!(head.content_length, content_length, "{text:?}");
            assert_eq!(head.keep_alive, keep_alive, "{text:?}");
        });
    }
}

#[test]
fn interim_answers_are_told_from_the_final_one() {
    for (status, is_interim) in [(100, true), (102, true), (103, true), (101, false), (200, false)] {
        with_head(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes(), false, |head| {
            assert_eq!(head.is_interim(), is_interim, "{status}");
        });
    }
    with_head(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false, |head| {
        assert_eq!(head.upgrade, Some(b"websocket".as_slice()));
    });
}

#[test]
fn a_tunnel_begins_only_with_what_was_asked_for() {
    for (line, lines, is_taken) in [
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\n", true),
        ("1.1 101", "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n", true),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", true),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: other\r\n", false),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket, other\r\n", false),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n", false),
        ("1.1 101", "Connection: upgrade\r\n", false),
        ("1.1 101", "Upgrade: websocket\r\n", false),
        ("1.1 101", "", false),
        ("1.1 101", "Connection: upgrade, close\r\nUpgrade: websocket\r\n", false),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", false),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", false),
        ("1.0 101", "Connection: upgrade, keep-alive\r\nUpgrade: websocket\r\n", false),
        ("1.1 200", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", false),
        ("1.1 426", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", false),
        ("1.1 100", "Connection: upgrade\r\nUpgrade: websocket\r\n", false),
    ] {
        let text = format!("HTTP/{line} X\r\n{lines}\r\n");
        with_head(text.as_bytes(), false, |head| {
            assert_eq!(head.switches_to(b"websocket"), is_taken, "{text:?}");
        });
    }
}

#[test]
fn an_answer_with_two_readings_is_a_bad_gateway() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\nA: b\n\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>",
    ] {
        assert!(is_refused(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn what_is_written_is_what_was_meant() {
    let mut out = Vec::new();
    write_status_line(&mut out, 503, b"CMGService_No_Connector");
    write_content_length(&mut out, 0);
    write_content_length(&mut out, u64::MAX);
    write_field(&mut out, b"Retry-After", b"30");
    write_end(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 503 CMGService_No_Connector\r\nContent-Length: 0\r\n\
         Content-Length: 18446744073709551615\r\nRetry-After: 30\r\n\r\n"
    );
    let mut out = Vec::new();
    write_request_line(&mut out, b"CCM_POST", b"/base", b"/CCM_System/request?x");
    assert_eq!(out, b"CCM_POST /base/CCM_System/request?x HTTP/1.1\r\n");
}
