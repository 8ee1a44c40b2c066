//! Internal URLs: where an origin is and which path there stands for an endpoint.

use super::path;

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Port when a URL names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// As a URL spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Scheme, host and port of an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginAddress {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl OriginAddress {
    /// What stands in its `Host` field: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    /// The URL of `target` there.
    pub fn url(&self, target: &str) -> String {
        format!("{}://{}{target}", self.scheme.as_str(), self.authority())
    }
}

/// An address and a path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalUrl {
    /// Where.
    pub address: OriginAddress,
    /// Empty, or `/segments` without a slash at the end.
    pub prefix: String,
}

impl InternalUrl {
    /// Reads `http(s)://host[:port][/path]`.
    ///
    /// # Errors
    /// What was expected instead, as a phrase.
    pub fn parse(text: &str) -> Result<InternalUrl, &'static str> {
        let (address, path) = split_url(text).ok_or("a URL like \"http://mp.corp\" (http or https)")?;
        let prefix = path.strip_suffix('/').unwrap_or(path);
        let is_canonical = prefix.strip_prefix('/').is_some_and(|path| path::is_canonical(path.as_bytes()));
        if !prefix.is_empty() && !is_canonical || prefix.contains(['?', '%', ';']) {
            return Err(
                "a URL whose path is plain: no query, no fragment, no parameters, no dot or empty segments",
            );
        }
        Ok(InternalUrl { address, prefix: prefix.to_owned() })
    }
}

/// Address of an absolute URL and everything from its path on (empty, or from `/`, `?` or `#` on).
pub(super) fn split_url(text: &str) -> Option<(OriginAddress, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = split_authority(authority)?;
    let port = match port {
        Some(port) => port,
        None => scheme.default_port(),
    };
    Some((OriginAddress { scheme, host, port }, path))
}

/// Host in lower case (IPv6 without brackets) and port of `host`, `host:port`, `[v6]` or `[v6]:port`.
pub fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':')
                    .or(port.is_empty().then_some(""))
                    .map(|port| (port, !port.is_empty()))?,
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (is_host(host).then_some(host)?, (port, true)),
            None => (is_host(authority).then_some(authority)?, ("", false)),
        },
    };
    let port = match port {
        (_, false) => None,
        (digits, true) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port != 0)?)
        }
        _ => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// Whether `text` can be the name (or IPv4 address) of a host.
pub fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
