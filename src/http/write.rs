//! Writing heads and chunks. Everything is appended; what is written must have been judged before.

use super::head::Field;

/// `method prefix+rest HTTP/1.1`.
pub fn write_request_line(out: &mut Vec<u8>, method: &[u8], prefix: &[u8], rest: &[u8]) {
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(prefix);
    out.extend_from_slice(rest);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// `HTTP/1.1 status reason`; the blank stands also before an empty reason (RFC 9112 4).
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    debug_assert!((100..1000).contains(&status), "a status has three digits");
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// `name: value`.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Content-Length: length`.
pub fn write_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// `Upgrade: protocol`, and that it is about this connection.
pub fn write_upgrade(out: &mut Vec<u8>, protocol: &[u8]) {
    write_field(out, b"Connection", b"Upgrade");
    write_field(out, b"Upgrade", protocol);
}

/// The empty line that ends a head.
pub fn write_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// The size line before `len` bytes of data; [`chunk_end`] follows them.
///
/// # Panics
/// With `len` 0, which would end the body early.
pub fn chunk_header(len: usize, out: &mut Vec<u8>) {
    assert!(len > 0, "an empty chunk is the last one");
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[rest % 16];
        rest /= 16;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// What follows the data of a chunk.
pub fn chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body, with its trailers.
pub fn last_chunk<'b>(out: &mut Vec<u8>, trailers: impl Iterator<Item = Field<'b>>) {
    out.extend_from_slice(b"0\r\n");
    for Field { name, value } in trailers {
        write_field(out, name, value);
    }
    write_end(out);
}

fn write_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
