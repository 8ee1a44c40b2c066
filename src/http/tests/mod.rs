//! Claims about heads, bodies and fields; hostile rows beside honest ones.

mod body;
mod fields;
mod request;
mod response;
mod seeded;
