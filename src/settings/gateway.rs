//! `gateway.toml`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::bounds::{self, request_bounds};
use super::document::{Section, read_document};
use super::report::{Report, SettingsErrors};
use super::shared::{AdminSettings, InternalFiles, KeyPair, LogSettings, admin, internal, log, shards};
use super::value;
use crate::dispatch::RequestBounds;
use crate::limits;
use crate::mapping::RoleIds;

/// Clients of one instance unless written otherwise: below what one shard's table of descriptors
/// holds, less its outgoing sockets.
const CLIENTS_MAX_DEFAULT: u32 = 18_000;
/// Clients of one instance at most, over all its shards.
const CLIENTS_MAX: u64 = 10_000_000;
/// Requests waiting on one shard at most.
const WAITING_MAX: u64 = limits::WAITING_COUNT_MAX as u64;
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9140);

/// A server certificate that clients are shown.
pub type ServerCertificate = KeyPair;

/// A version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// What old clients speak.
    #[default]
    Tls12,
    /// The latest.
    Tls13,
}

/// What a site may do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRights {
    /// Three letters or digits.
    pub code: String,
    /// Roles it may publish.
    pub role_ids: RoleIds,
}

/// Deadlines and bounds of a gateway; defaults are those of [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// From accept to a finished TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two steps of a body.
    pub body: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// From a request to the head of its answer.
    pub answer: Duration,
    /// The same, and between two steps of the answer, where requests are held.
    pub held: Duration,
    /// Waiting for a live connection point.
    pub wait: Duration,
    /// Requests that may wait so on one shard.
    pub waiting_max: usize,
    /// What each client may.
    pub client: RequestBounds,
    /// For requests to end when the gateway does.
    pub drain: Duration,
}

impl Default for GatewayLimits {
    fn default() -> GatewayLimits {
        GatewayLimits {
            handshake: limits::HANDSHAKE_WITHIN,
            head: limits::HEAD_WITHIN,
            body: limits::BODY_PROGRESS_WITHIN,
            idle: limits::IDLE_FOR,
            answer: limits::ANSWER_WITHIN,
            held: limits::HELD_WITHIN,
            wait: limits::WAIT_FOR_CHANNEL,
            waiting_max: limits::WAITING_COUNT_MAX,
            client: RequestBounds::default(),
            drain: limits::DRAIN_WITHIN,
        }
    }
}

/// One instance of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// TLS name of the service, lower case.
    pub name: String,
    /// Name of this instance; its internal certificate says the same.
    pub instance: String,
    /// Executors; `None`: one for each CPU allowed.
    pub shards: Option<u16>,
    /// Clients connected at once, over all shards.
    pub clients_max: u32,
    /// The least version that clients may speak.
    pub tls_min: TlsVersion,
    /// Proxies in front: they say by the PROXY protocol, version 2, for whom they connect, and nobody else may.
    pub proxies: Vec<IpNet>,
    /// Folder for what must outlive the process.
    pub state_dir: PathBuf,
    /// File with the keys of session tickets; `None`: made at start, for this process alone.
    pub ticket_keys: Option<PathBuf>,
    /// Where clients come in; at least one.
    pub listeners: Vec<SocketAddr>,
    /// Shown to clients; at least one.
    pub server_certificates: Vec<ServerCertificate>,
    /// Whom to believe on channels, and who we are there.
    pub internal: InternalFiles,
    /// Where connection points come in; at least one.
    pub internal_listeners: Vec<SocketAddr>,
    /// Where they come in by HTTPS besides the listeners of clients.
    pub https_listeners: Vec<SocketAddr>,
    /// They come in where clients do, too.
    pub https_among_clients: bool,
    /// Deadlines.
    pub limits: GatewayLimits,
    /// What is logged.
    pub log: LogSettings,
    /// Admin listeners.
    pub admin: AdminSettings,
    /// Sites that may attach; at least one, codes unique.
    pub sites: Vec<SiteRights>,
}

impl GatewaySettings {
    /// Reads `gateway.toml`; `file` is what errors call it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str) -> Result<GatewaySettings, SettingsErrors> {
        read_document(text, file, read)
    }
}

fn read(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<GatewaySettings> {
    let mut gateway = root.section(report, "gateway");
    let name = gateway.required(report, "name", value::host_name);
    let instance = gateway.required(report, "instance", value::name);
    let shards = shards(&mut gateway, report);
    let tls_min = gateway.optional(report, "tls_min", value::tls_version).unwrap_or_default();
    let clients_max = gateway.optional(report, "clients_max", value::number(1..=CLIENTS_MAX));
    let proxies = gateway.list(report, "proxy_protocol_from", value::network);
    if proxies.len() > limits::PROXIES_COUNT_MAX {
        let (found, most) = (proxies.len(), limits::PROXIES_COUNT_MAX);
        let (key, place) = (gateway.key("proxy_protocol_from"), gateway.place("proxy_protocol_from"));
        report.add(key, place, format!("{found} addresses and networks"), format!("{most} at most"));
    }
    let state_dir = gateway.optional(report, "state_dir", value::folder).unwrap_or_else(|| "state".into());
    let ticket_keys = gateway.optional(report, "ticket_keys", value::path);
    gateway.finish(report);

    let mut internal_section = root.section(report, "internal");
    let internal = internal(&mut internal_section, report);
    let https_among_clients = internal_section.optional(report, "https_among_clients", value::boolean);
    let internal_listeners = listeners(&mut internal_section, report);
    let sections = internal_section.sections(report, "https_listener");
    let https_listeners = addresses(sections, report);
    internal_section.finish(report);

    let listeners = listeners(root, report);
    let server_certificates = server_certificates(root, report);
    let limits = gateway_limits(root, report);
    let log = log(root, report);
    let admin = admin(root, report, ADMIN_DEFAULT);
    let sites = sites(root, report);
    Some(GatewaySettings {
        name: name?,
        instance: instance?,
        shards,
        clients_max: clients_max.and_then(|clients| clients.try_into().ok()).unwrap_or(CLIENTS_MAX_DEFAULT),
        tls_min,
        proxies,
        state_dir,
        ticket_keys,
        listeners,
        server_certificates,
        internal: internal?,
        internal_listeners,
        https_listeners,
        https_among_clients: https_among_clients.unwrap_or(true),
        limits,
        log,
        admin,
        sites,
    })
}

fn listeners(parent: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let sections = parent.some_sections(report, "listener");
    addresses(sections, report)
}

fn addresses(sections: Vec<Section<'_, '_>>, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for mut section in sections {
        let address = section.required(report, "address", value::listen_address);
        section.finish(report);
        match address {
            Some(address) if addresses.contains(&address) && address.port() != 0 => {
                report.add(section.key("address"), section.place("address"), "an address twice", "each once");
            }
            address => addresses.extend(address),
        }
    }
    addresses
}

fn server_certificates(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<ServerCertificate> {
    let mut certificates = Vec::new();
    for mut section in root.some_sections(report, "server_certificate") {
        let chain = section.required(report, "chain", value::path);
        let key = section.required(report, "key", value::path);
        section.finish(report);
        certificates.extend(chain.zip(key).map(|(chain, key)| KeyPair { chain, key }));
    }
    certificates
}

fn gateway_limits(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> GatewayLimits {
    let mut section = root.section(report, "limits");
    let default = GatewayLimits::default();
    let waiting_max = section.optional(report, "waiting_max", value::number(1..=WAITING_MAX));
    let held = section.optional(report, "held_secs", value::held_seconds);
    let client = request_bounds(&mut section, report, &bounds::EACH);
    let mut seconds = |key, default| section.optional(report, key, value::seconds).unwrap_or(default);
    let limits = GatewayLimits {
        handshake: seconds("handshake_secs", default.handshake),
        head: seconds("head_secs", default.head),
        body: seconds("body_secs", default.body),
        idle: seconds("idle_secs", default.idle),
        answer: seconds("answer_secs", default.answer),
        held: held.unwrap_or(default.held),
        wait: seconds("wait_secs", default.wait),
        waiting_max: waiting_max.and_then(|count| count.try_into().ok()).unwrap_or(default.waiting_max),
        client,
        drain: seconds("drain_secs", default.drain),
    };
    section.finish(report);
    limits
}

fn sites(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<SiteRights> {
    let mut sites: Vec<SiteRights> = Vec::new();
    for mut section in root.some_sections(report, "site") {
        let code = section.required(report, "code", value::site_code);
        if !section.has("role_ids") {
            let expected = "the role ids it may publish, like [\"100-199\", \"8\"]";
            report.add(section.key("role_ids"), section.place("role_ids"), "nothing", expected);
        }
        let role_ids = RoleIds::new(section.list(report, "role_ids", value::role_ids));
        section.finish(report);
        let Some(code) = code else { continue };
        if sites.len() == limits::SITE_COUNT_MAX || sites.iter().any(|site| site.code == code) {
            let expected = format!("each site once, {} at most", limits::SITE_COUNT_MAX);
            report.add(section.key("code"), section.place("code"), format!("\"{code}\" again"), expected);
        }
        sites.push(SiteRights { code, role_ids });
    }
    sites
}
