//! HTTP/1.0 and 1.1 as bytes: heads, bodies, and which fields pass a hop.
//!
//! Pure: looks at bytes the caller holds, answers with slices of them, and appends to buffers given.
//! Knows nothing of URLs' meaning (`mapping`), identities (`auth`) or sockets; the shells are
//! `gateway/client.rs` and `connector/origin.rs`. Whatever RFC 9110 or 9112 lets two readers frame
//! differently is an error here, so that no two hops can disagree about where a message ends.

mod body;
mod connect;
mod connection;
mod fields;
pub mod fuzz;
mod head;
mod host;
mod request;
mod response;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use body::{BodyError, BodyReader, Step};
pub use connect::{ConnectError, basic, read_connected, write_connect};
pub use connection::ConnectionTokens;
pub use fields::{
    forwarded_request_fields, forwarded_response_fields, forwarded_trailer_fields,
    is_forwarded_request_field, is_forwarded_response_field, is_forwarded_trailer_field,
};
pub use head::{
    Field, FieldScratch, Fields, Framing, HeadError, Parsed, ResponseFraming, Version, is_tunnel_protocol,
};
pub use host::is_host;
pub use request::{RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use scan::{is_field_value, is_target, is_token};
pub use write::{
    chunk_end, chunk_header, last_chunk, write_content_length, write_end, write_field, write_request_line,
    write_status_line, write_upgrade,
};
