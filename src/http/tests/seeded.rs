//! The fuzz entries on seeds and mutations of them, by number.

use crate::http::fuzz;
use crate::limits::{FIELD_COUNT_MAX, HEAD_SIZE_MAX, TRAILERS_SIZE_MAX};
use crate::seeded::run;

#[test]
fn a_request_head_that_is_taken_reads_the_same_at_the_next_hop() {
    run("request_head", 15_000, fuzz::request_head);
}

#[test]
fn a_response_head_that_is_taken_reads_the_same_at_the_next_hop() {
    run("response_head", 15_000, fuzz::response_head);
}

#[test]
fn a_body_that_is_taken_apart_and_made_anew_is_the_same() {
    run("body", 20_000, fuzz::body);
}

/// Where a fuzzer seldom comes.
#[test]
fn what_stands_at_its_bound_holds_the_same() {
    let filled = |front: &str, size: usize| {
        let room = size - front.len() - "A: \r\n\r\n".len();
        format!("{front}A: {}\r\n\r\n", "x".repeat(room)).into_bytes()
    };
    let (request, response) = ("GET / HTTP/1.1\r\nHost: h\r\n", "HTTP/1.1 200 OK\r\n");
    for size in HEAD_SIZE_MAX - 2..=HEAD_SIZE_MAX + 2 {
        fuzz::request_head(&filled(request, size));
        fuzz::response_head(&filled(response, size));
    }
    for count in FIELD_COUNT_MAX - 3..=FIELD_COUNT_MAX + 1 {
        fuzz::request_head(format!("{request}{}\r\n", "A: b\r\n".repeat(count)).as_bytes());
        fuzz::response_head(format!("{response}{}\r\n", "A: b\r\n".repeat(count)).as_bytes());
    }
    for size in TRAILERS_SIZE_MAX - 2..=TRAILERS_SIZE_MAX + 2 {
        fuzz::body(&[b"1\r\nx\r\n0\r\n".to_vec(), filled("B: c\r\n", size)].concat());
    }
}
