//! Inputs by number: messages put together from pieces that are mostly right, sometimes wrong in a telling
//! way, and then changed octet by octet.

use crate::reading::Kind;
use crate::seeded::Random;

/// The input with this number.
pub fn input(number: u64) -> (Kind, Vec<u8>) {
    let mut random = Random(number);
    // Consecutive numbers are consecutive states of the generator: far apart they share nothing.
    random = Random(random.next());
    let kind = match random.below(20) {
        0..12 => Kind::Request,
        12..18 => Kind::Response,
        _ => Kind::ResponseToHead,
    };
    let mut bytes = message(&mut random, kind);
    if random.below(6) == 0 {
        let other = message(&mut random, kind);
        bytes.extend_from_slice(&other);
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    if random.below(2) == 0 {
        let others = [message(&mut random, kind)];
        for _ in 0..1 + random.below(3) {
            random.mutate(&mut bytes, &others);
        }
    }
    (kind, bytes)
}

fn message(random: &mut Random, kind: Kind) -> Vec<u8> {
    let mut text = Vec::new();
    if kind == Kind::Request {
        request_line(random, &mut text)
    } else {
        status_line(random, &mut text)
    }
    let mut lines = Vec::new();
    if kind == Kind::Request && random.below(24) != 0 {
        lines.push(pick(random, HOSTS, 6).as_bytes().to_vec());
    }
    for _ in 0..random.below(6) {
        let list = if random.below(8) == 0 { HOSTILE_FIELDS } else { FIELDS };
        lines.push(pick(random, list, 1).as_bytes().to_vec());
    }
    let body = framing(random, &mut lines);
    if random.below(2) == 0 && !lines.is_empty() {
        let (from, to) = (random.below(lines.len()), random.below(lines.len()));
        lines.swap(from, to);
    }
    for line in lines {
        text.extend_from_slice(&line);
        text.extend_from_slice(line_end(random));
    }
    text.extend_from_slice(line_end(random));
    text.extend_from_slice(&body);
    text
}

fn request_line(random: &mut Random, text: &mut Vec<u8>) {
    text.extend_from_slice(pick(random, METHODS, 2).as_bytes());
    text.extend_from_slice(if random.below(200) == 0 { b"  " } else { b" " });
    text.extend_from_slice(pick(random, TARGETS, 2).as_bytes());
    text.push(b' ');
    text.extend_from_slice(pick(random, VERSIONS, 20).as_bytes());
    text.extend_from_slice(line_end(random));
}

fn status_line(random: &mut Random, text: &mut Vec<u8>) {
    text.extend_from_slice(pick(random, VERSIONS, 20).as_bytes());
    text.push(b' ');
    text.extend_from_slice(pick(random, STATUSES, 3).as_bytes());
    text.extend_from_slice(line_end(random));
}

/// Adds what says where the body ends, and gives the body: mostly the one that was said.
fn framing(random: &mut Random, lines: &mut Vec<Vec<u8>>) -> Vec<u8> {
    match random.below(16) {
        0..5 => Vec::new(),
        5..9 => {
            let size = random.below(40);
            let body = random.bytes(size);
            let said = if random.below(12) == 0 { random.below(60) } else { size };
            lines.push(format!("Content-Length: {said}").into_bytes());
            body
        }
        9..14 => {
            lines.push(pick(random, CODINGS, 8).as_bytes().to_vec());
            if random.below(20) == 0 {
                lines.push(pick(random, LENGTHS, 1).as_bytes().to_vec());
            }
            chunks(random)
        }
        _ => {
            lines.push(pick(random, LENGTHS, 1).as_bytes().to_vec());
            let size = random.below(12);
            random.bytes(size)
        }
    }
}

fn chunks(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.below(4) {
        let size = 1 + random.below(30);
        chunk_line(random, size, &mut body);
        body.extend(random.bytes(size));
        body.extend_from_slice(line_end(random));
    }
    chunk_line(random, 0, &mut body);
    for _ in 0..random.below(8).saturating_sub(5) {
        let list = if random.below(8) == 0 { HOSTILE_FIELDS } else { FIELDS };
        body.extend_from_slice(pick(random, list, 1).as_bytes());
        body.extend_from_slice(line_end(random));
    }
    body.extend_from_slice(line_end(random));
    body
}

fn chunk_line(random: &mut Random, size: usize, body: &mut Vec<u8>) {
    let size = match random.below(24) {
        0 => format!("{size:X}"),
        1 => format!("{size:05x}"),
        2 => format!("{size:016x}"),
        3 => format!("{size:017x}"),
        4 => format!("0x{size:x}"),
        5 => format!("+{size:x}"),
        6 => format!("{size:x} "),
        _ => format!("{size:x}"),
    };
    body.extend_from_slice(size.as_bytes());
    if random.below(4) == 0 {
        body.extend_from_slice(pick(random, EXTENSIONS, 1).as_bytes());
    }
    body.extend_from_slice(line_end(random));
}

fn line_end(random: &mut Random) -> &'static [u8] {
    match random.below(400) {
        0 => b"\n",
        1 => b"\r",
        2 => b"\n\r",
        3 => b"\r\r\n",
        4 => b" \r\n",
        _ => b"\r\n",
    }
}

/// One of a list; the first one `favour` times as often as all the others.
fn pick<'l>(random: &mut Random, list: &[&'l str], favour: usize) -> &'l str {
    if random.below(favour + 1) != 0 && favour > 1 { list[0] } else { list[random.below(list.len())] }
}

const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "CCM_POST",
    "BITS_POST",
    "PROPFIND",
    "M-SEARCH",
    "get",
    "head",
    "CONNECT",
    "TRACE",
    "PRI",
    "SOURCE",
    "DESCRIBE",
    "!#$%&'*+-.^_`|~",
    "",
    "GE T",
    "G@T",
    "POSTPOSTPOSTPOSTPOSTPOSTPOSTPOST1",
];

const TARGETS: &[&str] = &[
    "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_aut?mplist",
    "/",
    "/.sms_pol?{5F1C-1}.1_00",
    "/a?b=c&{}|\\^`\"<>",
    "/a;b=c/d",
    "/%00%2e",
    "//a//b",
    "/a?b?c",
    "/?/../",
    "http://h/x?y",
    "HTTPS://h:443/x",
    "http://[::1]:80/",
    "http://h",
    "http://u@h/",
    "http://h?x",
    "http:///x",
    "ftp://h/x",
    "*",
    "h:443",
    "/a#b",
    "/a\tb",
    "/a b",
    "/\u{e9}",
    "",
    "a/b",
    "/\u{7f}",
    "/'()*+,-.:;=@[]_~!$&",
];

const VERSIONS: &[&str] = &[
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP/01.1",
    "HTTP/1.10",
    "RTSP/1.0",
    "ICE/1.0",
    "",
];

const STATUSES: &[&str] = &[
    "200 OK",
    "200",
    "200 ",
    "204 No Content",
    "304 Not Modified",
    "100 Continue",
    "101 Switching Protocols",
    "103 Early Hints",
    "206 Partial Content",
    "401 Unauthorized",
    "404 Not Found",
    "500 CMGConnector_Internal",
    "599 x",
    "600 x",
    "099 x",
    "20 x",
    "2000 x",
    "200  two",
    "200 \u{e9}",
    "200\tOK",
    "205 Reset Content",
    "+20 x",
];

const HOSTS: &[&str] = &[
    "Host: h",
    "host: h:443",
    "Host: [::1]:80",
    "HOST:h",
    "Host: \th \t",
    "Host:",
    "Host: h, h",
    "Host: h h",
    "Host : h",
    "Host: h\r\nHost: h",
    "Host: h@i",
    "Host: h/",
    "Host: h:65536",
];

const FIELDS: &[&str] = &[
    "Accept: */*",
    "User-Agent: SMS CCM 5.0",
    "A:",
    "A: ",
    "A:\t",
    "x-y_z.1: v",
    "A: b  ",
    "A:\t b\t c \t",
    "A: \u{e9}\u{fc}",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Keep-Alive, X",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Connection: x, ,y",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "TE: trailers",
    "Trailer: X",
    "Date: now",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Content-Type: text/plain; a=\"b, c\"",
    "Set-Cookie: a=b",
    "!#$%&'*+-.^_`|~: t",
    "A: a:b:c",
    "Content-Lengths: 5",
    "Transfer-Encodings: chunked",
    "Content_Length: 5",
];

const HOSTILE_FIELDS: &[&str] = &[
    "A : b",
    " A: b",
    "A",
    ": b",
    "A\t: b",
    "A: b\r\n c",
    "A: b\r\n\tc",
    "A: \u{1}",
    "A: b\u{b}c",
    "A: b\u{c}c",
    "A: b\0c",
    "A: b\rc",
    "A: b\nc",
    "A: \u{7f}",
    "A(: b",
    "\u{e9}: b",
    "A: b\r\n ",
    "Connection: a b",
    "Connection: \"close\"",
    "Connection: close\0",
    "Transfer-Encoding: gzip",
    "Content-Length: 3",
    "Content-Length : 3",
    "Transfer-Encoding : chunked",
    "A: b\r\n\r",
];

const CODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "transfer-encoding:chunked",
    "Transfer-Encoding: \tChunked ",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: ",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding:\u{b}chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked\r\n ,x",
    "Transfer-Encoding: \r\n chunked",
];

const LENGTHS: &[&str] = &[
    "Content-Length: 0",
    "Content-Length: 5",
    "content-length:\t7 ",
    "Content-Length: 00003",
    "Content-Length: +3",
    "Content-Length: -1",
    "Content-Length: 3, 3",
    "Content-Length: 3\r\nContent-Length: 3",
    "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: 0x3",
    "Content-Length: 3 ",
    "Content-Length:",
    "Content-Length: 3 3",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 3.0",
    "Content-Length: \u{ff13}",
    "Content-Length: 000000000000000000000003",
    "Content-Length: 3\r\n 4",
    "Content-Length: 1_0",
];

const EXTENSIONS: &[&str] = &[
    ";a",
    ";a=b",
    ";a=\"b\"",
    ";a=\"b;c\"",
    ";a=\"\\\"\"",
    ";a=\"b",
    "; a = b",
    " ;a",
    ";",
    ";;",
    ";a;b=c",
    ";=b",
    ";a b",
    ";a=b c",
    ";\ta",
    ";{}",
    ";a=\"\u{e9}\"",
    ";a=\u{1}",
    "\t",
    ";a=b=c",
    ";a=\"b\"c",
];
