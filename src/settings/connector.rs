//! `connector.toml`

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Section, read_document};
use super::report::{Report, SettingsErrors};
use super::shared::{AdminSettings, InternalFiles, LogSettings, admin, internal, log, shards};
use super::value;
use crate::limits;

const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9141);

/// Where something is dialled. Displays as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialAddress {
    /// Name or address, lower case; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DialAddress { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// An instance of the gateway that the connection point keeps channels to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAddress {
    /// Its channel listener.
    pub address: DialAddress,
    /// TLS name that its internal certificate must bear.
    pub name: String,
    /// Where it is reached by HTTPS, in this order, when it is not at `address`.
    pub https: Vec<DialAddress>,
}

/// The HTTP proxy by which HTTPS leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where it is.
    pub address: DialAddress,
    /// Who we are there, and the file with the password.
    pub credentials: Option<(String, PathBuf)>,
}

/// Deadlines of a connection point; defaults are those of [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectorLimits {
    /// TCP connect and TLS handshake with an origin.
    pub connect: Duration,
    /// From a request to the head of its answer.
    pub answer: Duration,
    /// The same, and between two steps of the answer, where requests are held.
    pub held: Duration,
    /// Between two steps of a body.
    pub body: Duration,
    /// Waiting for a free connection to an origin.
    pub wait: Duration,
    /// Keep-alive time that origins are assumed to have.
    pub origin_idle: Duration,
    /// For requests to end when the connection point does.
    pub drain: Duration,
}

impl Default for ConnectorLimits {
    fn default() -> ConnectorLimits {
        ConnectorLimits {
            connect: limits::ORIGIN_CONNECT_WITHIN,
            answer: limits::ANSWER_WITHIN,
            held: limits::HELD_WITHIN,
            body: limits::BODY_PROGRESS_WITHIN,
            wait: limits::ORIGIN_WAIT,
            origin_idle: limits::ORIGIN_IDLE_TIMEOUT,
            drain: limits::DRAIN_WITHIN,
        }
    }
}

/// One connection point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorSettings {
    /// Its name; its internal certificate says the same.
    pub identity: String,
    /// Executors; `None`: one for each CPU allowed.
    pub shards: Option<u16>,
    /// Channels to each instance at most; `None`: one to every shard of it. Where there are fewer, an
    /// instance's other shards reach the connection point by way of those that have one.
    pub channels: Option<u16>,
    /// The file with [`SiteSettings`](super::SiteSettings).
    pub site: PathBuf,
    /// Instances to attach to; at least one.
    pub gateways: Vec<GatewayAddress>,
    /// `None`: HTTPS leaves directly.
    pub proxy: Option<ProxySettings>,
    /// Whom to believe on channels, and who we are there.
    pub internal: InternalFiles,
    /// The issuer, who renews internal certificates; `None`: they are made by hand.
    pub issuer: Option<DialAddress>,
    /// Where connections to origins come from; none: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Deadlines.
    pub limits: ConnectorLimits,
    /// What is logged.
    pub log: LogSettings,
    /// Admin listeners.
    pub admin: AdminSettings,
}

impl ConnectorSettings {
    /// Reads `connector.toml`; `file` is what errors call it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str) -> Result<ConnectorSettings, SettingsErrors> {
        read_document(text, file, read)
    }
}

fn read(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<ConnectorSettings> {
    let mut connector = root.section(report, "connector");
    let identity = connector.required(report, "identity", value::name);
    let site = connector.required(report, "site", value::path);
    let shards = shards(&mut connector, report);
    let bounds = 1..=u64::from(crate::limits::SHARD_COUNT_MAX);
    let channels = connector.optional(report, "channels", value::number(bounds));
    let source_addresses = connector.list(report, "source_addresses", value::source_address);
    for (index, address) in source_addresses.iter().enumerate() {
        if source_addresses[..index].contains(address) {
            let (key, place) = (connector.key("source_addresses"), connector.place("source_addresses"));
            report.add(key, place, format!("\"{address}\" twice"), "each address once");
        }
    }
    connector.finish(report);

    let mut internal_section = root.section(report, "internal");
    let internal = internal(&mut internal_section, report);
    let issuer = internal_section.optional(report, "issuer", value::dial_address);
    internal_section.finish(report);

    let gateways = gateways(root, report);
    let proxy = proxy(root, report);
    let limits = connector_limits(root, report);
    let log = log(root, report);
    let admin = admin(root, report, ADMIN_DEFAULT);
    Some(ConnectorSettings {
        identity: identity?,
        shards,
        channels: channels.and_then(|count| count.try_into().ok()),
        site: site?,
        gateways,
        proxy,
        source_addresses,
        internal: internal?,
        issuer,
        limits,
        log,
        admin,
    })
}

fn gateways(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<GatewayAddress> {
    let mut gateways: Vec<GatewayAddress> = Vec::new();
    let mut taken = Taken::default();
    let sections = root.some_sections(report, "gateway");
    let count = sections.len();
    for mut section in sections {
        let address = section.required(report, "address", value::dial_address);
        let name = section.required(report, "name", value::host_name);
        let written = section.has("https");
        let https = section.list(report, "https", value::dial_address);
        section.finish(report);
        if https.len() > limits::HTTPS_WAYS_MAX {
            let most = format!("{} addresses at most", limits::HTTPS_WAYS_MAX);
            report.add(
                section.key("https"),
                section.place("https"),
                format!("{} addresses", https.len()),
                most,
            );
        }
        if !written && count > usize::from(limits::NUMBERED_INSTANCES) {
            let found = format!("nothing, with {count} instances");
            let expected =
                "the addresses of HTTPS, or [] for none: ports follow from one another for 16 instances";
            report.add(section.key("https"), section.place("https"), found, expected);
        }
        let Some((address, name)) = address.zip(name) else { continue };
        let https = if written { https } else { https_of(&address, count) };
        taken.take(&section, report, "address", &address);
        https.iter().for_each(|one| taken.take(&section, report, "https", one));
        gateways.push(GatewayAddress { address, name, https });
    }
    gateways
}

/// Where an instance is reached by HTTPS unless it is written down: as in the original, at 443 if there is one
/// instance, else at a port that follows from its number; and then at 443, where a balancer stands before all of
/// them, because a proxy may let through to that port alone.
fn https_of(address: &DialAddress, count: usize) -> Vec<DialAddress> {
    let number = address.port.checked_sub(limits::CHANNEL_PORT);
    let Some(number) = number.filter(|number| *number < limits::NUMBERED_INSTANCES) else {
        return Vec::new();
    };
    let own = (count > 1).then_some(limits::CHANNEL_HTTPS_PORT + number);
    let ports = own.into_iter().chain([limits::HTTPS_PORT]);
    ports.map(|port| DialAddress { host: address.host.clone(), port }).collect()
}

/// Addresses that were named, and the keys that did.
#[derive(Default)]
struct Taken(Vec<(DialAddress, String, &'static str)>);

impl Taken {
    /// Each address leads to one instance in one way, but for the port of HTTPS, where a balancer may stand.
    fn take(
        &mut self,
        section: &Section<'_, '_>,
        report: &mut Report<'_>,
        key: &'static str,
        address: &DialAddress,
    ) {
        let own = section.key(key);
        let is_shared = |other: &(DialAddress, String, &str)| {
            let is_balanced = key == "https" && other.2 == "https" && address.port == limits::HTTPS_PORT;
            is_balanced && other.1 != own
        };
        let other = self.0.iter().find(|other| other.0 == *address && !is_shared(other));
        match other {
            Some((_, _, "address")) if key == "address" => {
                report.add(own.clone(), section.place(key), "an instance twice", "each once");
            }
            Some((_, other, _)) => {
                let found = format!("\"{address}\", which {other} is already");
                let expected =
                    "an address of its own for each way to each instance (port 443 of HTTPS may be shared)";
                report.add(own.clone(), section.place(key), found, expected);
            }
            None => {}
        }
        self.0.push((address.clone(), own, key));
    }
}

fn proxy(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<ProxySettings> {
    let mut section = root.optional_section(report, "proxy")?;
    let address = section.required(report, "address", value::dial_address);
    let user = section.optional(report, "user", value::proxy_user);
    let password_file = section.optional(report, "password_file", value::path);
    section.finish(report);
    let (has_user, has_file) = (section.has("user"), section.has("password_file"));
    if has_user != has_file {
        let missing = if has_user { "password_file" } else { "user" };
        let expected = "user and password_file together, or none of them";
        report.add(section.key(missing), section.place("address"), "nothing", expected);
    }
    Some(ProxySettings { address: address?, credentials: user.zip(password_file) })
}

fn connector_limits(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> ConnectorLimits {
    let mut section = root.section(report, "limits");
    let default = ConnectorLimits::default();
    let held = section.optional(report, "held_secs", value::held_seconds);
    let mut seconds = |key, default| section.optional(report, key, value::seconds).unwrap_or(default);
    let limits = ConnectorLimits {
        connect: seconds("connect_secs", default.connect),
        answer: seconds("answer_secs", default.answer),
        held: held.unwrap_or(default.held),
        body: seconds("body_secs", default.body),
        wait: seconds("wait_secs", default.wait),
        origin_idle: seconds("origin_idle_secs", default.origin_idle),
        drain: seconds("drain_secs", default.drain),
    };
    section.finish(report);
    limits
}
