//! Why a request is turned away: one closed table of status, reason text, blame and retry.
//!
//! Cores name a [`Refusal`]; `gateway/client.rs` alone turns one into a response. Reason texts are
//! those of the original where it has one (`CMGService_*`: the gateway's verdicts, `CMGConnector_*`:
//! the connection point's).

use std::borrow::Cow;
use std::time::Duration;

/// Whose doing a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client sent what cannot be served.
    Client,
    /// No connection point could take the request.
    ConnectionPoint,
    /// The origin failed or answered what cannot be passed on.
    Origin,
}

/// A request turned away. The number is its code on the channel (RESET).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The head or body can be read in two ways, or not at all.
    BadRequest = 1,
    /// No token, or none that is accepted here.
    InvalidToken = 2,
    /// A certificate was shown that the site does not trust.
    UntrustedCertificate = 3,
    /// The URL family needs a client certificate and none was shown.
    ClientCertificateRequired = 4,
    /// No site publishes the URL.
    UnknownUrl = 5,
    /// The publishing endpoint does not take the method.
    MethodNotAllowed = 6,
    /// The request is longer than its endpoint allows.
    ContentTooLarge = 7,
    /// The client asks too often.
    TooManyRequests = 8,
    /// The head is longer than the bound.
    HeadTooLarge = 9,
    /// Published, but no live connection point took it in time.
    NoConnector = 10,
    /// The origin could not be reached, or broke off, or cannot be understood.
    BadGateway = 11,
    /// The origin did not answer in time.
    GatewayTimeout = 12,
    /// The origin wants the connection point's certificate and got none.
    ConnectorCertificateRequired = 13,
    /// The origin redirected to somewhere that is not mapped.
    Redirect = 14,
    /// The connection point has no port left towards the origin.
    NoSourcePort = 15,
}

impl Refusal {
    /// Every refusal, for tables and tests.
    pub const ALL: [Refusal; 15] = [
        Refusal::BadRequest,
        Refusal::InvalidToken,
        Refusal::UntrustedCertificate,
        Refusal::ClientCertificateRequired,
        Refusal::UnknownUrl,
        Refusal::MethodNotAllowed,
        Refusal::ContentTooLarge,
        Refusal::TooManyRequests,
        Refusal::HeadTooLarge,
        Refusal::NoConnector,
        Refusal::BadGateway,
        Refusal::GatewayTimeout,
        Refusal::ConnectorCertificateRequired,
        Refusal::Redirect,
        Refusal::NoSourcePort,
    ];

    /// The refusal with this code on the channel.
    pub fn from_code(code: u8) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == code)
    }

    /// Status, reason text, blame, and whether trying again later is sensible (`Retry-After`).
    const fn row(self) -> (u16, &'static str, Blame, bool) {
        match self {
            Refusal::BadRequest => (400, "CMGService_Bad_Request", Blame::Client, false),
            Refusal::InvalidToken => (401, "CMGService_Invalid_Token", Blame::Client, false),
            Refusal::UntrustedCertificate => (401, "CMGService_Untrusted_Certificate", Blame::Client, false),
            Refusal::ClientCertificateRequired => {
                (403, "CMGService_Client_Certificate_Required", Blame::Client, false)
            }
            Refusal::UnknownUrl => (404, "CMGService_Unknown_Url", Blame::Client, false),
            Refusal::MethodNotAllowed => (405, "CMGService_Method_Not_Allowed", Blame::Client, false),
            Refusal::ContentTooLarge => (413, "CMGService_Content_Too_Large", Blame::Client, false),
            Refusal::TooManyRequests => (429, "CMGService_Too_Many_Requests", Blame::Client, true),
            Refusal::HeadTooLarge => (431, "CMGService_Head_Too_Large", Blame::Client, false),
            Refusal::NoConnector => (503, "CMGService_No_Connector", Blame::ConnectionPoint, true),
            Refusal::BadGateway => (502, "CMGConnector_BadGateway", Blame::Origin, false),
            Refusal::GatewayTimeout => (504, "CMGConnector_GatewayTimeout", Blame::Origin, false),
            Refusal::ConnectorCertificateRequired => {
                (403, "CMGConnector_Clientcertificaterequired", Blame::Origin, false)
            }
            Refusal::Redirect => (502, "CMGConnector_Redirect", Blame::Origin, false),
            Refusal::NoSourcePort => (503, "CMGConnector_No_Source_Port", Blame::ConnectionPoint, true),
        }
    }

    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// Reason phrase and `X-CMG-Status`.
    pub const fn reason(self) -> &'static str {
        self.row().1
    }

    /// Whose doing it is.
    pub const fn blame(self) -> Blame {
        self.row().2
    }

    /// Whether the answer carries `Retry-After`.
    pub const fn is_worth_retrying(self) -> bool {
        self.row().3
    }
}

/// A request turned away, and what was found and expected: for the log, never for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client is answered.
    pub refusal: Refusal,
    /// A plain sentence without its full stop.
    pub cause: Cow<'static, str>,
    /// Seconds after which asking again is of use, where that is known.
    pub again: Option<u16>,
}

impl Refused {
    /// Turned away for this cause.
    pub fn new(refusal: Refusal, cause: impl Into<Cow<'static, str>>) -> Refused {
        Refused { refusal, cause: cause.into(), again: None }
    }

    /// Asking again before this time is of no use.
    pub fn again_after(self, wait: Duration) -> Refused {
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Refused { again: Some(secs.clamp(1, u16::MAX.into()) as u16), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal as u8), Some(refusal));
        }
        assert_eq!(Refusal::from_code(0), None);
        assert_eq!(Refusal::from_code(200), None);
    }

    #[test]
    fn the_prefix_of_a_reason_names_the_hop_that_decided() {
        for refusal in Refusal::ALL {
            let connector = refusal.blame() == Blame::Origin || refusal == Refusal::NoSourcePort;
            let prefix = if connector { "CMGConnector_" } else { "CMGService_" };
            assert!(refusal.reason().starts_with(prefix), "{refusal:?}");
            assert!(refusal.status() >= 400);
        }
    }
}
