//! Readers of single values: what is there becomes a type, or the reader says what it expected.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeValue;

use super::connector::DialAddress;
use super::document::Expected;
use super::gateway::TlsVersion;
use super::site::ListSource;
use crate::auth::is_name_rule;
use crate::auth::{RevocationMode, is_name, is_site_code};
use crate::dispatch::Per;
use crate::limits::{
    HELD_WITHIN_MIN, LOG_TEXT_SIZE_MAX, PROBE_PATH_SIZE_MAX, PROXY_WORD_SIZE_MAX, RATE_COUNT_MAX,
};
use crate::mapping::{EndpointPath, Family, InternalUrl, Method, is_host, split_authority};

type Read<T> = Result<T, Expected>;

fn text<'v>(value: &'v DeValue<'_>, expected: &'static str) -> Result<&'v str, Expected> {
    value.as_str().ok_or(Expected::Borrowed(expected))
}

fn parsed<T>(value: &DeValue<'_>, expected: &'static str, parse: impl Fn(&str) -> Option<T>) -> Read<T> {
    parse(text(value, expected)?).ok_or(Expected::Borrowed(expected))
}

/// Any u64: an integer, or the same in quotes.
fn whole(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        DeValue::String(digits) => decimal(digits),
        _ => None,
    }
}

fn decimal(digits: &str) -> Option<u64> {
    let is_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
    is_digits.then(|| digits.parse().ok()).flatten()
}

/// A whole number within bounds.
pub(super) fn number(bounds: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let found = matches!(value, DeValue::Integer(_)).then(|| whole(value)).flatten();
        let (from, to) = (bounds.start(), bounds.end());
        let expected = || Expected::Owned(format!("a whole number from {from} to {to}"));
        found.filter(|found| bounds.contains(found)).ok_or_else(expected)
    }
}

/// A whole number from one.
pub(super) fn count(most: u32) -> impl Fn(&DeValue<'_>) -> Read<NonZeroU32> {
    move |value| {
        let found = number(1..=most.into())(value)?;
        Ok(u32::try_from(found).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN))
    }
}

/// `"20/s"`, `"600/min"`, `"100/h"`
pub(super) fn rate(value: &DeValue<'_>) -> Read<(NonZeroU32, Per)> {
    let expected = "requests per time, like \"20/s\", \"600/min\" or \"100/h\", a million at most";
    parsed(value, expected, |text| {
        let (count, unit) = text.split_once('/')?;
        let count = decimal(count).filter(|count| *count <= RATE_COUNT_MAX.into())?;
        let (per, _) = Per::ALL.into_iter().find(|(_, name)| *name == unit)?;
        Some((NonZeroU32::new(count.try_into().ok()?)?, per))
    })
}

/// Whole seconds, from one to a day.
pub(super) fn seconds(value: &DeValue<'_>) -> Read<Duration> {
    number(1..=86_400)(value).map(Duration::from_secs).map_err(|_| "whole seconds from 1 to 86400".into())
}

/// Whole seconds within bounds.
pub(super) fn some_seconds(bounds: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        let (from, to) = (bounds.start(), bounds.end());
        let expected = || Expected::Owned(format!("whole seconds from {from} to {to}"));
        number(bounds.clone())(value).map(Duration::from_secs).map_err(|_| expected())
    }
}

/// Whole seconds that a held request may wait for its answer.
pub(super) fn held_seconds(value: &DeValue<'_>) -> Read<Duration> {
    let expected = "whole seconds from 960 to 86400: clients say every 15 minutes that they are there";
    seconds(value).ok().filter(|held| *held >= HELD_WITHIN_MIN).ok_or(expected.into())
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or("true or false".into())
}

/// A role id.
pub(super) fn role_id(value: &DeValue<'_>) -> Read<u64> {
    whole(value).ok_or("a role id: a whole number below 2^64".into())
}

/// `"8"`, `8` or `"100-199"`.
pub(super) fn role_ids(value: &DeValue<'_>) -> Read<RangeInclusive<u64>> {
    let range = match value {
        DeValue::String(text) => match text.split_once('-') {
            Some((from, to)) => decimal(from.trim()).zip(decimal(to.trim())),
            None => decimal(text).map(|id| (id, id)),
        },
        value => whole(value).map(|id| (id, id)),
    };
    let range = range.filter(|(from, to)| from <= to).map(|(from, to)| from..=to);
    range.ok_or("a role id or a range of them like \"100-199\"".into())
}

/// A path; any text but the empty one.
pub(super) fn path(value: &DeValue<'_>) -> Read<PathBuf> {
    parsed(value, "the path of a file", |text| {
        (!text.is_empty() && !text.contains('\0')).then(|| text.into())
    })
}

/// Where a revocation list comes from.
pub(super) fn list_source(value: &DeValue<'_>) -> Read<ListSource> {
    let expected = "a file or an http URL";
    let text = text(value, expected)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http") if !has_host(text) => {
            Err("an http URL with a host and without a user or a password, which logs would show".into())
        }
        Some("http") => Ok(ListSource::Url(text.to_owned())),
        Some("https") => {
            Err("a file or an http URL: lists are signed, and TLS would need lists itself".into())
        }
        Some("ldap" | "ldaps") => {
            Err("a file or an http URL: LDAP is not spoken; have the list copied to one of them".into())
        }
        _ => path(value).map(ListSource::File).map_err(|_| expected.into()),
    }
}

fn has_host(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    !authority.is_empty() && !authority.starts_with(':') && !authority.contains('@')
}

/// The least version of TLS.
pub(super) fn tls_version(value: &DeValue<'_>) -> Read<TlsVersion> {
    parsed(value, "\"1.2\" or \"1.3\"", |text| match text {
        "1.2" => Some(TlsVersion::Tls12),
        "1.3" => Some(TlsVersion::Tls13),
        _ => None,
    })
}

/// What missing revocation lists mean.
pub(super) fn revocation_mode(value: &DeValue<'_>) -> Read<RevocationMode> {
    parsed(value, "\"hard\", \"soft\" or \"off\"", |text| match text {
        "hard" => Some(RevocationMode::Hard),
        "soft" => Some(RevocationMode::Soft),
        "off" => Some(RevocationMode::Off),
        _ => None,
    })
}

/// Whole seconds for which a list counts behind its end.
pub(super) fn grace(value: &DeValue<'_>) -> Read<Duration> {
    number(0..=2_592_000)(value)
        .map(Duration::from_secs)
        .map_err(|_| "whole seconds from 0 to 2592000".into())
}

/// Attributes of a distinguished name.
pub(super) fn name_rule(value: &DeValue<'_>) -> Read<String> {
    parsed(value, "attributes of a name like \"O=Contoso, OU=Devices\"", |text| {
        let is_rule = text.len() <= LOG_TEXT_SIZE_MAX && is_name_rule(text);
        is_rule.then(|| text.to_owned())
    })
}

/// An alternative name of a certificate.
pub(super) fn alternative_name_rule(value: &DeValue<'_>) -> Read<String> {
    parsed(value, "an alternative name like \"pc1.corp\" or \"*.corp\"", |text| {
        let is_rule = !text.is_empty()
            && text.len() <= LOG_TEXT_SIZE_MAX
            && !text.strip_prefix("*.").unwrap_or(text).contains('*');
        is_rule.then(|| text.to_owned())
    })
}

/// The path of a folder.
pub(super) fn folder(value: &DeValue<'_>) -> Read<PathBuf> {
    path(value).map_err(|_| "the path of a folder".into())
}

/// A TLS name.
pub(super) fn host_name(value: &DeValue<'_>) -> Read<String> {
    parsed(value, "a host name like \"cmg.example.org\"", |text| {
        is_host(text).then(|| text.to_ascii_lowercase())
    })
}

/// An identity or instance name: part of a URI and of a file name.
pub(super) fn name(value: &DeValue<'_>) -> Read<String> {
    let expected = "a name of up to 63 letters, digits, '-', '_' or '.', letters or digits at its ends";
    parsed(value, expected, |text| is_name(text).then(|| text.to_owned()))
}

/// A site code.
pub(super) fn site_code(value: &DeValue<'_>) -> Read<String> {
    let expected = "a site code: three letters or digits, upper case, like \"PS1\"";
    parsed(value, expected, |text| is_site_code(text).then(|| text.to_owned()))
}

/// Address and port to listen on.
pub(super) fn listen_address(value: &DeValue<'_>) -> Read<SocketAddr> {
    let expected = "an address and port like \"0.0.0.0:443\" or \"[::]:443\"";
    parsed(value, expected, |text| text.parse().ok())
}

/// An address or a network; of IPv4 where it is one mapped into IPv6, as addresses of peers are.
pub(super) fn network(value: &DeValue<'_>) -> Read<IpNet> {
    let expected = "an address or a network like \"10.0.0.5\", \"10.0.0.0/24\" or \"fd00::/64\", with no bit set \
                    behind its prefix";
    parsed(value, expected, |text| match text.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical().into()),
        Err(_) => text.parse().ok().filter(|network: &IpNet| network.trunc() == *network).map(unmapped),
    })
}

fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let four = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    let four = four.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok());
    four.map_or(network, IpNet::V4)
}

/// An address of this machine to dial from.
pub(super) fn source_address(value: &DeValue<'_>) -> Read<IpAddr> {
    let expected = "one address of this machine like \"10.0.0.5\" or \"fd00::5\"";
    parsed(value, expected, |text| {
        text.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast())
    })
}

/// Host and port to dial.
pub(super) fn dial_address(value: &DeValue<'_>) -> Read<DialAddress> {
    parsed(value, "host and port like \"cmg.example.org:10140\"", |text| {
        let (host, port) = split_authority(text)?;
        Some(DialAddress { host, port: port? })
    })
}

/// A user's name as basic authentication carries it.
pub(super) fn proxy_user(value: &DeValue<'_>) -> Read<String> {
    parsed(value, "a user's name without a colon", |text| {
        let is_plain = !text.contains(|sign: char| sign == ':' || sign.is_control());
        (is_plain && !text.is_empty() && text.len() <= PROXY_WORD_SIZE_MAX).then(|| text.to_owned())
    })
}

/// An internal URL.
pub(super) fn internal_url(value: &DeValue<'_>) -> Read<InternalUrl> {
    InternalUrl::parse(value.as_str().unwrap_or_default()).map_err(Expected::Borrowed)
}

/// Path, and perhaps query, that a probe asks an origin for.
pub(super) fn probe_path(value: &DeValue<'_>) -> Read<String> {
    let expected =
        "a path like \"/SMS_MP/.sms_aut?MPLIST\": visible ASCII from a slash on, without a fragment";
    parsed(value, expected, |text| {
        let is_path = text.starts_with('/')
            && text.len() <= PROBE_PATH_SIZE_MAX
            && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
        is_path.then(|| text.to_owned())
    })
}

/// Path of an endpoint of one's own.
pub(super) fn endpoint_path(value: &DeValue<'_>) -> Read<EndpointPath> {
    let expected = "a path like \"reports/upload\", or \"/\" for all of the role: plain ASCII, no dot or empty \
                    segments, no query";
    parsed(value, expected, |text| EndpointPath::parse(text).ok())
}

/// A method.
pub(super) fn method(value: &DeValue<'_>) -> Read<Method> {
    parsed(value, "a method like \"GET\" or \"CCM_POST\"", |text| Method::parse(text).ok())
}

/// A URL family.
pub(super) fn family(value: &DeValue<'_>) -> Read<Family> {
    parsed(value, "\"mutual_auth\" or \"server_auth\"", |text| match text {
        "mutual_auth" => Some(Family::MutualAuth),
        "server_auth" => Some(Family::ServerAuth),
        _ => None,
    })
}

/// SHA-256 in hexadecimal digits; colons and blanks between them are read over.
pub(super) fn thumbprint(value: &DeValue<'_>) -> Read<[u8; 32]> {
    parsed(value, "a SHA-256 thumbprint: 64 hexadecimal digits", |text| {
        let digits = text.chars().filter(|sign| !matches!(sign, ':' | ' '));
        let digits: Vec<u8> =
            digits.map(|sign| sign.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
        let octets: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low)).collect();
        (digits.len() == 64).then(|| octets.try_into().ok()).flatten()
    })
}
