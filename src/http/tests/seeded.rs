//! The fuzz entries on seeds and mutations of them, by number.

use crate::http::fuzz;
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
