//! `Host`: a DNS name or an address, with an optional port, and nothing that needs quoting later.

use crate::limits::HOST_SIZE_MAX;

/// Whether `host` is a name of letters, digits, `-`, `.` and `_`, or an IPv6 address in brackets, with
/// an optional port. RFC 3986 would take more, but no name a client could look up holds it.
pub fn is_host(host: &[u8]) -> bool {
    if host.len() > HOST_SIZE_MAX {
        return false;
    }
    match host {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            is_ipv6(&rest[..end]) && is_port_or_none(&rest[end + 1..])
        }
        _ => {
            let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
            is_name(&host[..end]) && is_port_or_none(&host[end..])
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Nothing, or a colon and a number that is a port.
fn is_port_or_none(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] => {
            !digits.is_empty()
                && digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0')) <= 65_535
        }
        _ => false,
    }
}
