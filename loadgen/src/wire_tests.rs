use super::*;
use proptest::prelude::*;

fn read_all(body: &mut Body, bytes: &[u8], piece: usize) -> Result<(usize, Vec<u8>), Malformed> {
    let (mut used, mut content) = (0, Vec::new());
    while used < bytes.len() && !body.is_done() {
        let end = (used + piece).min(bytes.len());
        let (size, data) = body.read(&bytes[used..end])?;
        content.extend_from_slice(data);
        used += size;
    }
    Ok((used, content))
}

#[test]
fn a_response_head_tells_where_its_body_ends() {
    for (head, is_head, status, framing, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, 200, Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, 200, Framing::Length(0), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", false, 200, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", false, 200, Framing::Close, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, 200, Framing::Length(1), false),
        (
            "HTTP/1.1 503 No\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
            false,
            503,
            Framing::Length(0),
            false,
        ),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, 304, Framing::Length(0), true),
        ("HTTP/1.1 100 Continue\r\n\r\n", false, 100, Framing::Length(0), true),
    ] {
        let found = parse_response(head.as_bytes(), is_head).expect(head).expect(head);
        assert_eq!(
            (found.status, found.framing, found.keep_alive, found.size),
            (status, framing, keep_alive, head.len()),
            "{head}"
        );
    }
}

#[test]
fn a_response_that_two_readers_could_frame_differently_is_malformed() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ] {
        assert!(parse_response(head.as_bytes(), false).is_err(), "{head}");
    }
}

#[test]
fn a_request_head_is_split_at_its_query() {
    let head = b"CCM_POST /a/b?x&id=7 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\nX-Id: 9\r\n\r\nabc";
    let found = parse_request(head).expect("valid").expect("complete");
    assert_eq!((found.method, found.path, found.query), (&b"CCM_POST"[..], &b"/a/b"[..], &b"x&id=7"[..]));
    assert_eq!((found.framing, found.keep_alive, found.expects_continue), (Framing::Length(3), true, true));
    assert_eq!(found.size, head.len() - 3);
}

#[test]
fn a_head_in_pieces_is_incomplete_until_its_last_byte() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    for size in 0..head.len() {
        assert_eq!(parse_request(&head[..size]), Ok(None), "{size}");
    }
}

#[test]
fn chunks_are_read_in_any_pieces() {
    let wire = b"5;ext=1\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nNEXT";
    for piece in 1..wire.len() {
        let mut body = Body::new(Framing::Chunked);
        let (used, content) = read_all(&mut body, wire, piece).expect("valid");
        assert_eq!(
            (used, &content[..], body.is_done()),
            (wire.len() - 4, &b"hello0123456789"[..], true),
            "{piece}"
        );
    }
}

#[test]
fn bad_chunks_are_malformed() {
    for wire in [
        "\r\n",
        "g\r\n",
        "5\nhello",
        "-5\r\n",
        " 5\r\n",
        "5 \r\n",
        "2\r\nabc",
        "1\r\na\n",
        "0\r\n\x01",
        "1111111111111111\r\n",
    ] {
        assert!(read_all(&mut Body::new(Framing::Chunked), wire.as_bytes(), 99).is_err(), "{wire:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_body_read_more_than_was_there(bytes: Vec<u8>, length in 0u64..300) {
        for framing in [Framing::Length(length), Framing::Chunked, Framing::Close] {
            let mut body = Body::new(framing);
            if let Ok((used, content)) = read_all(&mut body, &bytes, 7) {
                prop_assert!(used <= bytes.len() && content.len() <= used);
            }
        }
    }
}
