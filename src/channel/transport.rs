//! How a channel is carried: by TLS from its first byte, or over HTTPS.

use std::fmt;

/// ALPN of a channel that is TLS from its first byte.
pub const ALPN: &[u8] = b"cmg-channel/1";
/// ALPN of a channel that begins as a request over HTTPS.
pub const HTTPS_ALPN: &[u8] = b"cmg-channel-https/1";

/// What carries a channel; the better before the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP and TLS.
    TcpTls,
    /// HTTPS, changed over.
    Https,
    /// The same through an HTTP proxy. A gateway cannot know of it.
    HttpsByProxy,
}

impl Transport {
    /// As `/status`, metrics and logs call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::TcpTls => "tcp-tls",
            Transport::Https => "https",
            Transport::HttpsByProxy => "https-by-proxy",
        }
    }

    /// What the two ends agree on in the TLS handshake.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Transport::TcpTls => ALPN,
            Transport::Https | Transport::HttpsByProxy => HTTPS_ALPN,
        }
    }

    /// Whether one request and its answer come before the first frame.
    pub fn is_over_http(self) -> bool {
        self.alpn() == HTTPS_ALPN
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
