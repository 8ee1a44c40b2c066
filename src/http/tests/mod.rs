//! Claims about heads, bodies and fields; hostile rows beside honest ones.
#![allow(clippy::unwrap_used)] // A test that cannot go on says so.

mod body;
mod fields;
mod request;
mod response;
mod seeded;
