//! Publishing endpoints: what is offered under a role id, to which URL family, with which bounds.
//!
//! [`STANDARD`] is the one table that says which family reaches which endpoint of a management point
//! or software update point (IIS application names of those roles; facts of the original product).
//! What is not in it (`*_WindowsAuth`, `AdminService`, `/`, reporting and console paths) is published
//! only when an operator writes it as an endpoint of his own.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::path;
use crate::auth::token::TokenKind::{Ccm, Client, Directory, Registration};
use crate::auth::token::{TokenKind, TokenKinds};
use crate::dispatch::{Per, Rate, RequestBounds};
use crate::limits::{METHOD_SIZE_MAX, OPEN_BURST, OPEN_RATE_PER_SECOND, REQUEST_LENGTH_MAX_DEFAULT};
use crate::refusal::Refusal;

/// Bytes in the path of an endpoint; the longest standard one has 20.
pub const ENDPOINT_PATH_SIZE_MAX: usize = 256;
/// Methods that one endpoint may list.
pub const METHOD_COUNT_MAX: usize = 32;

/// First segment of an external URL: how the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// With a client certificate.
    MutualAuth,
    /// With a token.
    ServerAuth,
}

impl Family {
    /// Both of them.
    pub const ALL: [Family; 2] = [Family::MutualAuth, Family::ServerAuth];

    /// The segment as the original spells it; matched without regard to case.
    pub const fn segment(self) -> &'static str {
        match self {
            Family::MutualAuth => "CCM_Proxy_MutualAuth",
            Family::ServerAuth => "CCM_Proxy_ServerAuth",
        }
    }

    /// Number of the offer to this family of the endpoint with number `endpoint`, in the order of
    /// [`Family::ALL`].
    pub(super) const fn offer(self, endpoint: usize) -> usize {
        let family = match self {
            Family::MutualAuth => 0,
            Family::ServerAuth => 1,
        };
        endpoint * Family::ALL.len() + family
    }
}

/// Which families reach an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Family>", into = "Vec<Family>")]
pub struct Families {
    mutual_auth: bool,
    server_auth: bool,
}

impl Families {
    /// Both families.
    pub const BOTH: Families = Families { mutual_auth: true, server_auth: true };
    /// With a certificate only.
    pub const MUTUAL_AUTH: Families = Families { mutual_auth: true, server_auth: false };
    /// With a token only.
    pub const SERVER_AUTH: Families = Families { mutual_auth: false, server_auth: true };

    /// Whether `family` is one of them.
    pub const fn contains(self, family: Family) -> bool {
        match family {
            Family::MutualAuth => self.mutual_auth,
            Family::ServerAuth => self.server_auth,
        }
    }

    /// Whether no family is.
    pub const fn is_empty(self) -> bool {
        !self.mutual_auth && !self.server_auth
    }

    /// Whether a family is in both sets.
    pub const fn overlaps(self, other: Families) -> bool {
        self.mutual_auth && other.mutual_auth || self.server_auth && other.server_auth
    }
}

impl From<Vec<Family>> for Families {
    fn from(list: Vec<Family>) -> Families {
        Families {
            mutual_auth: list.contains(&Family::MutualAuth),
            server_auth: list.contains(&Family::ServerAuth),
        }
    }
}

impl From<Families> for Vec<Family> {
    fn from(families: Families) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| families.contains(*family)).collect()
    }
}

/// What a role id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleKind {
    /// Policy, inventory, status, locations, client notification.
    ManagementPoint,
    /// Update scans (WSUS).
    SoftwareUpdatePoint,
    /// Whatever the operator wrote as endpoints.
    Own,
}

/// Path of an endpoint below `/family/role-id`: segments without the slash before or after; empty is
/// the whole role. Printable ASCII that needs no percent-encoding, so that it has one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointPath(Box<str>);

impl EndpointPath {
    /// The path `text` names; one slash before and after is read over.
    ///
    /// # Errors
    /// What is wrong, as a phrase, when it could alias another path or escape its own.
    pub fn parse(text: &str) -> Result<EndpointPath, &'static str> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.starts_with('/') {
            return Err("not a canonical path");
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.len() > ENDPOINT_PATH_SIZE_MAX {
            return Err("longer than 256 octets");
        }
        if text.contains(['%', '?', ';']) {
            return Err("percent-encoded, or with parameters or a query");
        }
        if !text.is_empty() && !path::is_canonical(text.as_bytes()) {
            return Err("not a canonical path");
        }
        Ok(EndpointPath(text.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What of `path` (as received: empty, or from its first slash on) the endpoint takes.
    #[inline]
    pub(super) fn take(&self, path: &[u8], is_plain: bool) -> Take {
        if self.0.is_empty() {
            return Take::Octets(0);
        }
        if is_plain { self.take_plain(path) } else { self.take_encoded(path) }
    }

    #[inline]
    fn take_plain(&self, path: &[u8]) -> Take {
        let end = self.0.len() + 1;
        let is_whole_segment = path.get(end).is_none_or(|octet| *octet == b'/');
        let is_same = path.get(1..end).is_some_and(|same| same.eq_ignore_ascii_case(self.0.as_bytes()));
        if is_same && is_whole_segment { Take::Octets(end) } else { Take::Nothing }
    }

    fn take_encoded(&self, path: &[u8]) -> Take {
        let mut at = 1;
        let mut has_parameters = false;
        for expected in self.0.bytes() {
            if expected == b'/' && path.get(at) == Some(&b';') {
                has_parameters = true;
                at = end_of_segment(path, at);
            }
            match path::octet_at(path, at) {
                Some((octet, size)) if octet.eq_ignore_ascii_case(&expected) => at += size,
                _ => return Take::Nothing,
            }
        }
        match path::octet_at(path, at).map(|(octet, _)| octet) {
            // Encoded, the last two: nobody's either, for a reader that decodes before it cuts.
            Some(b';' | b'?' | b'#') => Take::Parameters,
            None | Some(b'/') if has_parameters => Take::Parameters,
            None | Some(b'/') => Take::Octets(at),
            Some(_) => Take::Nothing,
        }
    }
}

/// See [`EndpointPath::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Another path.
    Nothing,
    /// So many octets; the next one is a slash or the end.
    Octets(usize),
    /// Its path for a reader that strips the parameters of segments, or decodes before it cuts the query
    /// off, another one for the rest: nobody's.
    Parameters,
}

fn end_of_segment(path: &[u8], from: usize) -> usize {
    let rest = path.get(from..).unwrap_or_default();
    from + rest.iter().position(|octet| *octet == b'/').unwrap_or(rest.len())
}

impl TryFrom<String> for EndpointPath {
    type Error = &'static str;
    fn try_from(text: String) -> Result<EndpointPath, &'static str> {
        EndpointPath::parse(&text)
    }
}

impl From<EndpointPath> for String {
    fn from(path: EndpointPath) -> String {
        path.0.into_string()
    }
}

/// A method: any token (`CCM_POST`), compared octet by octet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(Box<str>);

impl Method {
    /// The method `text` names.
    ///
    /// # Errors
    /// What is wrong, as a phrase.
    pub fn parse(text: &str) -> Result<Method, &'static str> {
        let is_token =
            text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet));
        if text.is_empty() || text.len() > METHOD_SIZE_MAX || !is_token {
            return Err("not a method");
        }
        Ok(Method(text.into()))
    }

    /// The method as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Method {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Method, &'static str> {
        Method::parse(&text)
    }
}

impl From<Method> for String {
    fn from(method: Method) -> String {
        method.0.into_string()
    }
}

/// A publishing endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Below `/family/role-id`.
    pub path: EndpointPath,
    /// Who may come.
    pub families: Families,
    /// Methods it takes; empty is any, save those that only serve to spy on a proxy.
    pub methods: Vec<Method>,
    /// Bytes of the longest request body.
    pub request_length_max: u64,
    /// Never repeat a request here, not even a GET.
    pub once: bool,
    /// Answers are held until the site has something to say (client notification): requests wait for a long
    /// time, each on an origin connection apart from the others, and are never repeated.
    pub held: bool,
    /// `Upgrade` may turn the exchange into a tunnel; [`Endpoint::held`] then holds, too.
    pub tunnel: bool,
    /// The origin is told who the client is, so the gateway must say it to the connection point.
    pub forward_identity: bool,
    /// What the family for tokens must show; none: nobody is let in by it.
    #[serde(default, skip_serializing_if = "are_none")]
    pub tokens: TokenKinds,
    /// The family for tokens need show nothing. Only update services with named methods are published so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
    /// How many requests it takes, and how fast.
    #[serde(default, skip_serializing_if = "EndpointBounds::is_empty")]
    pub bounds: EndpointBounds,
}

/// What an instance takes for one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointBounds {
    /// Of all clients together.
    #[serde(default, skip_serializing_if = "RequestBounds::is_empty")]
    pub all: RequestBounds,
    /// Of each of them.
    #[serde(default, skip_serializing_if = "RequestBounds::is_empty")]
    pub each: RequestBounds,
}

impl EndpointBounds {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.each.is_empty()
    }

    /// Whether every number is within what settings can name.
    pub fn is_bounded(&self) -> bool {
        self.all.is_bounded() && self.each.is_bounded()
    }

    /// Of each address, where nobody need show who he is: there is always a rate; that of settings, where they
    /// have one.
    pub fn of_strangers(&self) -> RequestBounds {
        let usual = Rate { count: OPEN_COUNT, per: Per::Second, burst: OPEN_AT_ONCE };
        RequestBounds { rate: self.each.rate.or(Some(usual)), ..self.each }
    }
}

const OPEN_COUNT: NonZeroU32 = NonZeroU32::new(OPEN_RATE_PER_SECOND).expect("a rate");
const OPEN_AT_ONCE: NonZeroU32 = NonZeroU32::new(OPEN_BURST).expect("a burst");

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn are_none(tokens: &TokenKinds) -> bool {
    tokens.is_empty()
}

impl Endpoint {
    /// Whether the endpoint takes this request; `length` is `None` for a body of unknown length,
    /// whose octets the caller compares with `request_length_max` as they come.
    ///
    /// # Errors
    /// `MethodNotAllowed`, `ContentTooLarge`.
    #[inline]
    pub fn admit(&self, method: &[u8], length: Option<u64>) -> Result<(), Refusal> {
        let is_taken = match self.methods.as_slice() {
            [] => !matches!(method, b"TRACE" | b"TRACK" | b"CONNECT"),
            listed => listed.iter().any(|one| one.0.as_bytes() == method),
        };
        if !is_taken {
            return Err(Refusal::MethodNotAllowed);
        }
        if length.is_some_and(|length| length > self.request_length_max) {
            return Err(Refusal::ContentTooLarge);
        }
        Ok(())
    }
}

/// One row of [`STANDARD`].
#[derive(Clone, Copy, Debug)]
pub struct StandardEndpoint {
    /// Of which role.
    pub kind: RoleKind,
    /// Its path.
    pub path: &'static str,
    /// Who may come.
    pub families: Families,
    /// See [`Endpoint::once`].
    pub once: bool,
    /// See [`Endpoint::held`].
    pub held: bool,
    /// Whether it is published without being asked for.
    pub by_default: bool,
    /// See [`Endpoint::tokens`].
    pub tokens: TokenKinds,
}

/// For clients with a certificate alone.
const fn mutual(kind: RoleKind, path: &'static str) -> StandardEndpoint {
    row(kind, path, Families::MUTUAL_AUTH, &[])
}

/// For clients with a token alone.
const fn server(kind: RoleKind, path: &'static str, tokens: &[TokenKind]) -> StandardEndpoint {
    row(kind, path, Families::SERVER_AUTH, tokens)
}

/// For both.
const fn both(kind: RoleKind, path: &'static str, tokens: &[TokenKind]) -> StandardEndpoint {
    row(kind, path, Families::BOTH, tokens)
}

const fn row(
    kind: RoleKind,
    path: &'static str,
    families: Families,
    tokens: &[TokenKind],
) -> StandardEndpoint {
    let tokens = TokenKinds::of(tokens);
    StandardEndpoint { kind, path, families, once: false, held: false, by_default: true, tokens }
}

const fn once(row: StandardEndpoint) -> StandardEndpoint {
    StandardEndpoint { once: true, ..row }
}

const fn held(row: StandardEndpoint) -> StandardEndpoint {
    StandardEndpoint { held: true, ..once(row) }
}

const fn on_request(row: StandardEndpoint) -> StandardEndpoint {
    StandardEndpoint { by_default: false, ..row }
}

const MP: RoleKind = RoleKind::ManagementPoint;
const SUP: RoleKind = RoleKind::SoftwareUpdatePoint;

/// Which family reaches which standard endpoint, and with which tokens. The plain messaging endpoints
/// trust the certificate that the gateway checked and are never reached with a token; `*_TokenAuth` asks
/// for no certificate at the origin, so only the family whose tokens the gateway checks may reach it. A
/// registration token is handed out in bulk: it gets a device as far as registering, and no further. A
/// directory's is for CCM_STS, which gives another for it, and for what a device needs before. A log-in
/// for client notification, and a service call of Software Center, is not repeated.
pub const STANDARD: &[StandardEndpoint] = &[
    mutual(MP, "CCM_System"),
    mutual(MP, "CCM_System_AltAuth"),
    server(MP, "CCM_System_TokenAuth", &[Registration, Client, Ccm]),
    mutual(MP, "SMS_MP"),
    mutual(MP, "SMS_MP_AltAuth"),
    server(MP, "SMS_MP_TokenAuth", &[Registration, Client, Ccm]),
    mutual(MP, "CCM_Incoming"),
    held(mutual(MP, "BGB")),
    both(MP, "CCM_Client", &[Registration, Client, Ccm, Directory]),
    both(MP, "CCM_STS", &[Registration, Client, Directory]),
    once(both(MP, "CMUserService", &[Ccm, Directory])),
    both(SUP, "ClientWebService", &[Client, Ccm]),
    both(SUP, "SimpleAuthWebService", &[Client, Ccm]),
    both(SUP, "ReportingWebService", &[Client, Ccm]),
    on_request(both(SUP, "Content", &[Client, Ccm])),
    on_request(both(SUP, "SelfUpdate", &[Client, Ccm])),
];

/// What an endpoint of the operator's own takes of the family for tokens where nothing is said: tokens of
/// devices and users that the site knows.
pub const OWN_TOKENS: TokenKinds = TokenKinds::of(&[Client, Ccm]);

impl StandardEndpoint {
    /// The rows of one kind of role.
    pub fn of(kind: RoleKind) -> impl Iterator<Item = &'static StandardEndpoint> {
        STANDARD.iter().filter(move |row| row.kind == kind)
    }

    /// The endpoint this row yields, with the default bounds.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            path: EndpointPath(self.path.into()),
            families: self.families,
            methods: Vec::new(),
            request_length_max: REQUEST_LENGTH_MAX_DEFAULT,
            once: self.once,
            held: self.held,
            tunnel: false,
            forward_identity: false,
            tokens: self.tokens,
            open: false,
            bounds: EndpointBounds::default(),
        }
    }
}
