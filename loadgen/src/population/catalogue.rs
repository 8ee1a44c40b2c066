//! What the endpoints of a management point and a software update point answer: the one table that the origin answers from
//! and that clients expect from.
//!
//! Paths are those of the site systems; sizes are those seen in published logs where there are any (client notification, token
//! exchange, location), else in the middle of what is known. What stands between front and end of a body are letters of the
//! request's id, or of a file: an answer to another request never fits.

use crate::content::Shape;
use std::sync::LazyLock;

/// The boundary that real clients and management points use.
pub const BOUNDARY: &str = "aAbBcCdDv1234567890VxXyYzZ";
/// The one upload protocol there is.
pub const BITS_PROTOCOL: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";
/// Bytes of the client's installation files.
pub const CLIENT_FILE_SIZE: u64 = 2_600_000;
/// Bytes of an update's or a package's content.
pub const CONTENT_FILE_SIZE: u64 = 6_000_000;

/// One kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `.sms_aut?MPLIST`.
    PointList,
    /// `.sms_aut?MPCERT` and `?SITESIGNCERT`.
    PointCertificate,
    /// `.sms_aut?SMSTRC`.
    PointTrace,
    /// `.sms_aut?MPKEYINFORMATIONMEDIA`.
    MediaKeys,
    /// The body of the policy with this number in [`POLICIES`].
    Policy(usize),
    /// The package with this number in [`PACKAGES`].
    Package(usize),
    /// What `MP_LocationManager` says.
    Location,
    /// What `MP_ClientRegistration` says.
    Registration,
    /// What `MP_PolicyManager` says.
    Assignments,
    /// What `MP_TokenManager` says.
    SiteToken,
    /// A message that is only taken.
    Taken,
    /// What `CCM_STS` says.
    Token,
    /// Signed in for client notification.
    SignedIn,
    /// A held notification ended without one.
    Nothing,
    /// A notification: run a script, a query, an action.
    Push,
    /// A file of the client's installation.
    ClientFile,
    /// What a package's folder has.
    Listing,
    /// Any call of the user service.
    UserService,
    /// A BITS packet was taken.
    Ack,
    /// What the software update point says of itself.
    UpdateConfig,
    /// Cookies of both kinds.
    UpdateCookie,
    /// The updates that may concern the client.
    Updates,
    /// More of some updates.
    UpdateDetails,
    /// A report was taken.
    Reported,
    /// An update's content.
    UpdateContent,
    /// The self-update index.
    SelfUpdate,
    /// Answered by the gateway itself; by the origin when asked directly.
    Gateway,
}

/// Policies by id, with the bytes of each.
pub const POLICIES: [(&str, u64); 4] = [
    ("{0f1e2d3c-0001-4a5b-8c6d-7e8f90a1b201}.1.00", 3_900),
    ("{0f1e2d3c-0002-4a5b-8c6d-7e8f90a1b202}.7.00", 17_000),
    ("{0f1e2d3c-0003-4a5b-8c6d-7e8f90a1b203}.12.00", 61_000),
    ("{0f1e2d3c-0004-4a5b-8c6d-7e8f90a1b204}.3.00", 190_000),
];

/// Packages that `.sms_dcm` hands out: a baseline, an item, a script, an application; with the bytes of each.
pub const PACKAGES: [(&str, u64); 4] =
    [("Baseline_1", 9_200), ("ConfigurationItem_2", 31_000), ("Script_3", 6_400), ("Application_4", 22_000)];

/// What is answered, but for the letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The status, when nothing else is asked for.
    pub status: u16,
    /// `Content-Type`.
    pub kind: &'static str,
    /// The body.
    pub shape: Shape,
}

const XML: &str = "text/xml; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

fn row(kind: &'static str, size: u64, lead: &'static str, tail: &'static str) -> Row {
    debug_assert!(size >= (lead.len() + tail.len()) as u64, "lead and tail fit");
    let shape = Shape { lead: lead.as_bytes(), tail: tail.as_bytes(), size, file: None };
    Row { status: 200, kind, shape }
}

fn file(name: &'static str, size: u64) -> Row {
    Row { status: 200, kind: OCTETS, shape: Shape { lead: b"", tail: b"", size, file: Some(name) } }
}

fn soap(size: u64) -> Row {
    let lead = "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body><Answer>";
    row(XML, size, lead, "</Answer></soap:Body></soap:Envelope>")
}

/// Two parts: the message in UTF-16, and its payload, which begins as zlib does.
fn message(size: u64) -> Row {
    static LEAD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let envelope =
            "<Msg SchemaVersion=\"1.1\"><Body Type=\"ByteRange\" Offset=\"0\"/><Priority>0</Priority></Msg>";
        let mut lead = part_head("text/plain; charset=UTF-16");
        lead.extend_from_slice(&utf16(envelope));
        lead.extend_from_slice(b"\r\n");
        lead.extend_from_slice(&part_head(OCTETS));
        lead.extend_from_slice(b"\x78\x9c");
        lead
    });
    static TAIL: LazyLock<String> = LazyLock::new(|| format!("\r\n--{BOUNDARY}--\r\n"));
    let shape = Shape { lead: &LEAD, tail: TAIL.as_bytes(), size, file: None };
    Row { status: 200, kind: "multipart/mixed; boundary=\"aAbBcCdDv1234567890VxXyYzZ\"", shape }
}

/// The head of one part of a message.
pub fn part_head(kind: &str) -> Vec<u8> {
    format!("--{BOUNDARY}\r\ncontent-type: {kind}\r\n\r\n").into_bytes()
}

/// UTF-16, little-endian, with its mark, as messages have it.
pub fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

impl Reply {
    /// What is answered.
    pub fn row(self) -> Row {
        match self {
            Self::PointList => row(XML, 1_480, "<MPList>", "</MPList>"),
            Self::PointCertificate => row(XML, 1_900, "<MPCertificate>", "</MPCertificate>"),
            Self::PointTrace => row(XML, 900, "<SMSTRC>", "</SMSTRC>"),
            Self::MediaKeys => row(XML, 3_400, "<MPKEYINFORMATION>", "</MPKEYINFORMATION>"),
            Self::Policy(index) => row(OCTETS, POLICIES[index].1, "", ""),
            Self::Package(index) => row(XML, PACKAGES[index].1, "<DesiredConfigurationDigest>", "\n"),
            Self::Location => message(1_800),
            Self::Registration => message(2_600),
            Self::Assignments => message(14_000),
            Self::SiteToken => message(3_300),
            Self::Taken | Self::Ack => row(OCTETS, 0, "", ""),
            Self::Token => row("application/json", 1_566, "{\"access_token\":\"", "\"}"),
            Self::SignedIn => row(XML, 358, "<BgbSignInConfirmMessage>", "</BgbSignInConfirmMessage>"),
            Self::Nothing => row(XML, 358, "<BgbKeepAliveMessage>", "</BgbKeepAliveMessage>"),
            Self::Push => row(XML, 1_240, "<BgbRequestMessage>", "</BgbRequestMessage>"),
            Self::ClientFile => file("ccmsetup.cab", CLIENT_FILE_SIZE),
            Self::Listing => {
                let lead = "<?xml version=\"1.0\" encoding=\"utf-8\"?><D:multistatus xmlns:D=\"DAV:\">";
                Row { status: 207, ..row(XML, 4_200, lead, "</D:multistatus>") }
            }
            Self::UserService => soap(6_000),
            Self::UpdateConfig => soap(2_600),
            Self::UpdateCookie => soap(980),
            Self::Updates => soap(1_400_000),
            Self::UpdateDetails => soap(120_000),
            Self::Reported => soap(420),
            Self::UpdateContent => file("update.cab", CONTENT_FILE_SIZE),
            Self::SelfUpdate => file("wuident.cab", 24_000),
            Self::Gateway => row("application/json", 120, "{\"loadgen\":\"", "\"}"),
        }
    }
}

/// What a path stands for, before fields and body are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `CCM_POST`; the message names its endpoint.
    Messaging,
    /// `BITS_POST`.
    Uploads,
    /// `BGB/handler.ashx`; true for a request that is held.
    Notification(bool),
    /// SOAP of the software update point; `SOAPAction` says which.
    Updates,
    /// The same answer for everybody who asks with one of its methods.
    Plain(Reply),
    /// A named endpoint, and nothing there.
    Missing,
}

/// What `path` (with or without `/CCM_Proxy_…/ROLE-ID` before it) and `query` stand for; `None` is no endpoint of ours.
pub fn find(path: &[u8], query: &[u8]) -> Option<Service> {
    let path = inner(std::str::from_utf8(path).ok()?);
    let query = std::str::from_utf8(query).ok()?;
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let is = |name: &str| first.eq_ignore_ascii_case(name);
    let variant = ["_TokenAuth", "_AltAuth", "_WindowsAuth"]
        .iter()
        .find_map(|end| cut_end(first, end))
        .unwrap_or(first);
    let is_variant_of = |name: &str| variant.eq_ignore_ascii_case(name);
    Some(match () {
        () if is_variant_of("CCM_System") && rest.eq_ignore_ascii_case("request") => Service::Messaging,
        () if is_variant_of("CCM_System") => Service::Missing,
        () if is_variant_of("SMS_MP") => site_information(rest, query),
        () if is("CCM_Incoming") => Service::Uploads,
        () if is("CCM_STS") => Service::Plain(Reply::Token),
        () if is("BGB") => Service::Notification(!query.to_ascii_lowercase().contains("requesttype=login")),
        () if is("CCM_Client") && rest.ends_with('/') => Service::Plain(Reply::Listing),
        () if is("CCM_Client") => Service::Plain(Reply::ClientFile),
        () if is_variant_of("CMUserService") => Service::Plain(Reply::UserService),
        () if is("ClientWebService") || is("SimpleAuthWebService") || is("ReportingWebService") => {
            Service::Updates
        }
        () if is("Content") => Service::Plain(Reply::UpdateContent),
        () if is("SelfUpdate") => Service::Plain(Reply::SelfUpdate),
        () if is("ServiceMetadata") || is("AADAuthInfo") => Service::Plain(Reply::Gateway),
        () => return None,
    })
}

fn cut_end<'t>(text: &'t str, end: &str) -> Option<&'t str> {
    let at = text.len().checked_sub(end.len())?;
    text.is_char_boundary(at)
        .then(|| text.split_at(at))
        .filter(|(_, last)| last.eq_ignore_ascii_case(end))
        .map(|(first, _)| first)
}

/// The path as a site system sees it, without its first slash.
fn inner(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let Some((family, rest)) = path.split_once('/') else { return path };
    if !["CCM_Proxy_MutualAuth", "CCM_Proxy_ServerAuth"].iter().any(|name| family.eq_ignore_ascii_case(name))
    {
        return path;
    }
    match rest.split_once('/') {
        Some((role, rest)) if role.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => rest,
    }
}

fn site_information(rest: &str, query: &str) -> Service {
    let verb = query.split('&').next().unwrap_or_default();
    let of = |table: &[(&str, u64)], reply: fn(usize) -> Reply| {
        let found = table.iter().position(|(name, _)| query.eq_ignore_ascii_case(name));
        found.map_or(Service::Missing, |index| Service::Plain(reply(index)))
    };
    match rest {
        ".sms_pol" => of(&POLICIES, Reply::Policy),
        ".sms_dcm" => of(&PACKAGES, Reply::Package),
        ".sms_aut" => match verb.to_ascii_uppercase().as_str() {
            "MPLIST" | "MPLIST1" | "MPLIST2" => Service::Plain(Reply::PointList),
            "MPCERT" | "SITESIGNCERT" => Service::Plain(Reply::PointCertificate),
            "SMSTRC" => Service::Plain(Reply::PointTrace),
            "MPKEYINFORMATIONMEDIA" => Service::Plain(Reply::MediaKeys),
            _ => Service::Missing,
        },
        _ => Service::Missing,
    }
}

impl Service {
    /// The methods it takes.
    pub fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Messaging => &["CCM_POST"],
            Self::Uploads => &["BITS_POST"],
            Self::Notification(_) => &["GET", "POST"],
            Self::Updates => &["POST"],
            Self::Plain(Reply::Listing) => &["PROPFIND"],
            Self::Plain(Reply::UserService) => &["GET", "POST"],
            Self::Plain(_) | Self::Missing => &["GET", "HEAD"],
        }
    }
}

/// What an endpoint inside a management point says to a message. Those that only take answer nothing.
pub fn message_reply(endpoint: &str) -> Reply {
    match endpoint {
        "MP_LocationManager" => Reply::Location,
        "MP_ClientRegistration" => Reply::Registration,
        "MP_PolicyManager" => Reply::Assignments,
        "MP_TokenManager" => Reply::SiteToken,
        _ => Reply::Taken,
    }
}

/// What a software update point says to an action; its last segment decides.
pub fn soap_reply(action: &str) -> Option<Reply> {
    Some(match action.trim_matches('"').rsplit('/').next().unwrap_or_default() {
        "GetConfig" => Reply::UpdateConfig,
        "GetAuthorizationCookie" | "GetCookie" | "RegisterComputer" => Reply::UpdateCookie,
        "SyncUpdates" => Reply::Updates,
        "GetExtendedUpdateInfo" => Reply::UpdateDetails,
        "ReportEventBatch" => Reply::Reported,
        _ => return None,
    })
}

/// Name of the target endpoint in the first bytes of a message.
pub fn target_endpoint(start: &[u8]) -> Option<String> {
    let mark: Vec<u8> = "<TargetEndpoint>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let from = start.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let units = start[from..].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let name: Vec<u16> = units.take_while(|unit| *unit != u16::from(b'<')).take(64).collect();
    String::from_utf16(&name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_with_and_without_what_a_gateway_strips() {
        for (target, found) in [
            ("/SMS_MP/.sms_aut?MPLIST", Some(Service::Plain(Reply::PointList))),
            (
                "/CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/.sms_aut?MPLIST1&ABC",
                Some(Service::Plain(Reply::PointList)),
            ),
            (
                "/sms_mp_tokenauth/.sms_pol?{0f1e2d3c-0002-4a5b-8c6d-7e8f90a1b202}.7.00",
                Some(Service::Plain(Reply::Policy(1))),
            ),
            ("/SMS_MP/.sms_pol?{other}.1.00", Some(Service::Missing)),
            ("/CCM_Proxy_ServerAuth/9/ccm_system_tokenauth/request", Some(Service::Messaging)),
            ("/CCM_System/else", Some(Service::Missing)),
            ("/CCM_Incoming/{x}.mif", Some(Service::Uploads)),
            ("/BGB/handler.ashx?RequestType=LogIn", Some(Service::Notification(false))),
            ("/BGB/handler.ashx?RequestType=KeepAlive", Some(Service::Notification(true))),
            ("/CCM_Client/ccmsetup.cab", Some(Service::Plain(Reply::ClientFile))),
            ("/CCM_Client/package/", Some(Service::Plain(Reply::Listing))),
            ("/CCM_Proxy_ServerAuth/AADAuthInfo?TenantID=1", Some(Service::Plain(Reply::Gateway))),
            ("/ClientWebService/client.asmx", Some(Service::Updates)),
            ("/SMS_MPx/.sms_aut?MPLIST", None),
            ("/", None),
            ("/x/SMS_MP/.sms_aut?MPLIST", None),
        ] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            assert_eq!(find(path.as_bytes(), query.as_bytes()), found, "{target}");
        }
    }

    #[test]
    fn front_and_end_of_every_body_fit() {
        for reply in
            [Reply::Location, Reply::Token, Reply::Push, Reply::Updates, Reply::Listing, Reply::Gateway]
        {
            let shape = reply.row().shape;
            assert!(shape.size >= (shape.lead.len() + shape.tail.len()) as u64 + 16, "{reply:?}");
        }
    }

    #[test]
    fn a_message_names_its_endpoint_in_utf_16() {
        let mut start = part_head("text/plain; charset=UTF-16");
        start.extend_from_slice(&utf16("<Msg><TargetEndpoint>MP_PolicyManager</TargetEndpoint></Msg>"));
        assert_eq!(target_endpoint(&start).as_deref(), Some("MP_PolicyManager"));
        assert_eq!(target_endpoint(b"<TargetEndpoint>MP_PolicyManager<"), None);
    }
}
