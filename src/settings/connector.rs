//! `connector.toml`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Section, read_document};
use super::report::{Report, SettingsErrors};
use super::shared::{AdminSettings, InternalFiles, LogSettings, admin, internal, log, shards};
use super::value;
use crate::limits;

const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9141);

/// An instance of the gateway that the connection point keeps channels to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAddress {
    /// Name or address to dial, lower case; IPv6 without brackets.
    pub host: String,
    /// Port of its channel listener.
    pub port: u16,
    /// TLS name that its internal certificate must bear.
    pub name: String,
}

impl GatewayAddress {
    /// `host:port`, as hello says it.
    pub fn dialled(&self) -> String {
        let GatewayAddress { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
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
    /// Whom to believe on channels, and who we are there.
    pub internal: InternalFiles,
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
    internal_section.finish(report);

    let gateways = gateways(root, report);
    let limits = connector_limits(root, report);
    let log = log(root, report);
    let admin = admin(root, report, ADMIN_DEFAULT);
    Some(ConnectorSettings {
        identity: identity?,
        shards,
        channels: channels.and_then(|count| count.try_into().ok()),
        site: site?,
        gateways,
        source_addresses,
        internal: internal?,
        limits,
        log,
        admin,
    })
}

fn gateways(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<GatewayAddress> {
    let mut gateways: Vec<GatewayAddress> = Vec::new();
    for mut section in root.some_sections(report, "gateway") {
        let address = section.required(report, "address", value::dial_address);
        let name = section.required(report, "name", value::host_name);
        section.finish(report);
        let Some(((host, port), name)) = address.zip(name) else { continue };
        if gateways.iter().any(|gateway| (&gateway.host, gateway.port) == (&host, port)) {
            report.add(section.key("address"), section.place("address"), "an instance twice", "each once");
        }
        gateways.push(GatewayAddress { host, port, name });
    }
    gateways
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
    };
    section.finish(report);
    limits
}
