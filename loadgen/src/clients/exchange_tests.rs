use super::*;
use crate::clients::options::Options;
use crate::content::Account;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn plan(flags: &str) -> Plan {
    let line = ["x", "--plain", "--target", "127.0.0.1:9", "--path", "/a/b"]
        .into_iter()
        .chain(flags.split_whitespace());
    Line::try_parse_from(line)
        .map_err(|error| error.to_string())
        .expect("flags")
        .options
        .plan(100)
        .expect("plan")
}

fn answer(id: &[u8; ID_SIZE], body: &[u8], request: &[u8], size: usize) -> Vec<u8> {
    let mut hash = Hash64::default();
    hash.update(request);
    let mut account = Vec::new();
    Account { id, path: b"/x/b", body, size: hash.size(), hash: hash.finish() }.write(&mut account);
    let mut content = vec![0; size];
    Pattern::new(id).fill(0, &mut content);
    let shown = account.len().min(size);
    content[..shown].copy_from_slice(&account[..shown]);
    let mut wire =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nX-Id: {}\r\n\r\n", id.escape_ascii())
            .into_bytes();
    wire.extend_from_slice(&content);
    wire
}

fn asked(plan: &Plan, ids: &[u64]) -> (Exchange, Vec<u8>) {
    let (mut exchange, mut out) = (Exchange::default(), Vec::new());
    for id in ids {
        let now = Instant::now();
        exchange.ask(plan, *id, now, now, &mut out);
        while exchange.is_uploading() {
            exchange.write_body(&mut out);
        }
    }
    (exchange, out)
}

fn read(plan: &Plan, exchange: &mut Exchange, wire: &[u8], piece: usize) -> Result<Vec<u16>, Wrong> {
    let mut answered = Vec::new();
    for bytes in wire.chunks(piece) {
        exchange.read(plan, bytes, Instant::now(), &mut answered)?;
    }
    Ok(answered.iter().map(|answer| answer.status).collect())
}

#[test]
fn right_answers_are_right_in_any_pieces() {
    let plan = plan("--answer 300");
    let wire =
        [answer(&content::id_text(1), b"-", b"", 300), answer(&content::id_text(2), b"-", b"", 300)].concat();
    for piece in 1..wire.len() {
        let (mut exchange, out) = asked(&plan, &[1, 2]);
        assert!(out.starts_with(b"GET /a/b?id=0000000000000001&bytes=300 HTTP/1.1\r\n"));
        assert_eq!(read(&plan, &mut exchange, &wire, piece), Ok(vec![200, 200]), "{piece}");
        assert_eq!(exchange.outstanding(), 0);
    }
}

#[test]
fn bodies_are_hashed_as_they_were_sent() {
    for (flags, size) in
        [("--body 100", 100), ("--body 40000 --chunked", 40_000), ("--body 7", 7), ("--body 0", 0)]
    {
        let plan = plan(flags);
        let (mut exchange, out) = asked(&plan, &[9]);
        let end = out.windows(4).position(|window| window == b"\r\n\r\n").expect("head") + 4;
        let mut framing = crate::wire::Body::new(if flags.contains("chunked") {
            Framing::Chunked
        } else {
            Framing::Length(size)
        });
        let (mut used, mut request) = (end, Vec::new());
        while !framing.is_done() {
            let (size, content) = framing.read(&out[used..]).expect("valid");
            request.extend_from_slice(content);
            used += size;
        }
        assert_eq!((request.len() as u64, used), (size, out.len()));
        let wire = answer(&content::id_text(9), content::body_id(&request), &request, 200);
        assert_eq!(read(&plan, &mut exchange, &wire, 64), Ok(vec![200]), "{flags}");
    }
}

#[test]
fn every_mix_up_is_caught() {
    let plan = plan("");
    let (mine, other) = (content::id_text(1), content::id_text(2));
    let right = answer(&mine, b"-", b"", 200);
    let changed = |at: usize, to: u8| {
        let mut wire = right.clone();
        let index = if at == usize::MAX { wire.len() - 1 } else { at };
        wire[index] = to;
        wire
    };
    let text = |from: &str, to: &str| {
        right
            .escape_ascii()
            .to_string()
            .replace("\\r", "\r")
            .replace("\\n", "\n")
            .replace(from, to)
            .into_bytes()
    };
    for (what, wire, wrong) in [
        ("another's answer", answer(&other, b"-", b"", 200), Wrong::Id),
        ("another's head", text("X-Id: 0000000000000001", "X-Id: 0000000000000002"), Wrong::Id),
        ("another's body", text("\r\n\r\nid=0000000000000001", "\r\n\r\nid=0000000000000002"), Wrong::Id),
        ("no id", text("X-Id", "X-No"), Wrong::Id),
        ("another's request body", answer(&mine, &other, b"", 200), Wrong::Id),
        ("another body", answer(&mine, b"-", b"x", 200), Wrong::Content),
        ("another path", text("path=/x/b", "path=/x/c"), Wrong::Content),
        ("another length", answer(&mine, b"-", b"", 201), Wrong::Content),
        ("one byte", changed(usize::MAX, b'!'), Wrong::Content),
        ("no HTTP", changed(0, b'x'), Wrong::Malformed),
        ("one answer too many", [&right[..], &right[..]].concat(), Wrong::Malformed),
    ] {
        let (mut exchange, _) = asked(&plan, &[1]);
        assert_eq!(read(&plan, &mut exchange, &wire, 50), Err(wrong), "{what}");
    }
}

#[test]
fn an_interim_answer_is_read_over() {
    let plan = plan("");
    let (mut exchange, _) = asked(&plan, &[1]);
    let wire =
        [&b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"[..], &answer(&content::id_text(1), b"-", b"", 200)]
            .concat();
    for piece in [1, 7, wire.len()] {
        let (mut exchange, _) = asked(&plan, &[1]);
        assert_eq!(read(&plan, &mut exchange, &wire, piece), Ok(vec![200]));
    }
    assert_eq!(read(&plan, &mut exchange, &wire, 10_000), Ok(vec![200]));
}

#[test]
fn statuses_other_than_success_are_told_unchecked() {
    let plan = plan("");
    let (mut exchange, _) = asked(&plan, &[1]);
    assert_eq!(
        read(&plan, &mut exchange, b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", 9),
        Ok(vec![503])
    );
    assert!(exchange.is_closing());
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let plan = plan("--ids off");
    let (mut exchange, _) = asked(&plan, &[1]);
    assert_eq!(read(&plan, &mut exchange, b"HTTP/1.1 200 OK\r\n\r\nabc", 99), Ok(vec![]));
    let mut answered = Vec::new();
    assert_eq!(exchange.handle_end(&plan, Instant::now(), &mut answered), Ok(true));
    assert_eq!(answered.len(), 1);
}

/// Asks what a script would, and reads `wire`.
fn order(change: impl FnOnce(&mut Request), wire: &[u8]) -> Result<Vec<Answered>, Wrong> {
    let plan = plan("");
    let expect = Expect { keeps: true, size: None, ..plan.expect.clone() };
    let mut request =
        Request { head: b"GET /a/b HTTP/1.1\r\n\r\n".to_vec(), body: RequestBody::None, expect, name: 3 };
    change(&mut request);
    let (mut exchange, mut out, now) = (Exchange::default(), Vec::new(), Instant::now());
    exchange.ask_order(1, request, now, now, &mut out);
    while exchange.is_uploading() {
        exchange.write_body(&mut out);
    }
    let mut answered = Vec::new();
    exchange.read(&plan, wire, now, &mut answered)?;
    Ok(answered)
}

#[test]
fn a_script_reads_what_it_wants_to_keep() {
    let wire = answer(&content::id_text(1), b"-", b"", 5000);
    let found = order(|_| {}, &wire).expect("right");
    let kept = found[0].kept.as_ref().expect("kept");
    assert!(kept.head.starts_with(b"HTTP/1.1 200 OK\r\n") && kept.head.ends_with(b"\r\n\r\n"));
    assert_eq!(kept.body, wire[wire.len() - 5000..][..BODY_KEPT_SIZE_MAX]);
    assert_eq!((found[0].name, found[0].size, found[0].is_right), (3, 5000, true));
}

#[test]
fn a_script_says_which_statuses_are_right() {
    let wire = b"HTTP/1.1 404 No\r\nX-Id: 0000000000000001\r\nContent-Length: 0\r\n\r\n";
    for (expected, is_right) in [(&[404, 200][..], true), (&[200], false)] {
        let change = |request: &mut Request| {
            request.expect.statuses = crate::clients::work::Statuses::of(expected);
            request.expect.check = Check::Off;
        };
        assert_eq!(order(change, wire).expect("an answer")[0].is_right, is_right);
    }
}

#[test]
fn the_body_a_script_gives_is_hashed_too() {
    let body = b"id=abc\nmore";
    let give = |request: &mut Request| request.body = RequestBody::Bytes(body.as_slice().into());
    let right = answer(&content::id_text(1), b"abc", body, 200);
    assert_eq!(order(give, &right).expect("right").len(), 1);
    let wrong = answer(&content::id_text(1), b"abc", b"id=abc\nmole", 200);
    assert_eq!(order(give, &wrong), Err(Wrong::Content));
}

#[test]
fn the_length_a_head_announces_is_compared() {
    let wire = b"HTTP/1.1 200 OK\r\nX-Id: 0000000000000001\r\nContent-Length: 77\r\n\r\n";
    for (size, is_right) in [(77, true), (78, false)] {
        let change = |request: &mut Request| {
            (request.expect.is_head, request.expect.size) = (true, Some(size));
        };
        let found = order(change, wire);
        assert_eq!(found.is_ok(), is_right);
        assert!(found.is_err() || found.expect("right")[0].size == 77);
    }
}

#[test]
fn a_part_of_the_content_is_compared_from_its_place_on() {
    let mut content = vec![0; 300];
    Pattern::new(&content::id_text(1)).fill(10_000, &mut content);
    let wire = |content: &[u8]| {
        let head = b"HTTP/1.1 206 Part\r\nX-Id: 0000000000000001\r\nContent-Length: 300\r\n\r\n";
        [&head[..], content].concat()
    };
    let at = |offset| move |request: &mut Request| request.expect.offset = offset;
    assert_eq!(order(at(10_000), &wire(&content)).expect("right")[0].size, 300);
    assert_eq!(order(at(10_001), &wire(&content)), Err(Wrong::Content));
}
