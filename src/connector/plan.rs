//! What a connection point works by: its settings and what they name, read and judged at start (`review`).

use std::net::IpAddr;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::lists::Lists;
use crate::channel::{RevisionTag, Transport};
use crate::dispatch::OriginRules;
use crate::http;
use crate::mapping::UrlMapping;
use crate::metrics;
use crate::review::{self, Site, SiteTokens};
use crate::settings::{
    ConnectorLimits, ConnectorSettings, DialAddress, GatewayAddress, HealthSettings, OriginSettings,
    ProxySettings, Revision, SiteSettings,
};
use crate::shard;
use crate::transport::{StartError, tls_config};

/// An instance to keep channels to.
pub struct InstancePlan {
    /// What logs and reports call it: `host:port` of its channel listener.
    pub dialled: String,
    /// Name its certificate must bear.
    pub tls_name: ServerName<'static>,
    /// The ways there, the best first.
    pub ways: Vec<WayPlan>,
}

/// A way to an instance.
#[derive(Clone)]
pub struct WayPlan {
    /// What carries channels.
    pub transport: Transport,
    /// Name or address to dial, or to have dialled.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Both: `host:port`.
    pub dialled: String,
    /// Another instance has one by the same port: one balancer in front of both, perhaps under several names.
    pub is_shared: bool,
}

impl WayPlan {
    fn new(transport: Transport, to: &DialAddress) -> WayPlan {
        WayPlan { transport, host: to.host.clone(), port: to.port, dialled: to.to_string(), is_shared: false }
    }
}

/// The HTTP proxy by which HTTPS leaves.
pub struct ProxyPlan {
    /// Name or address to dial.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What logs call it: `host:port`.
    pub dialled: String,
    /// What it is shown; as good as the password.
    pub authorization: Option<String>,
}

/// An origin and how to reach it.
pub struct OriginPlan {
    /// Name or address to dial.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its `Host`.
    pub authority: String,
    /// Connections of one shard.
    pub connections_max: usize,
    /// `None`: without TLS.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// How it is judged.
    pub rules: OriginRules,
    /// How it is probed, if it is.
    pub health: HealthSettings,
}

/// See the file's head.
pub struct Plan {
    /// Random, one for each start; its last four octets differ with each channel.
    pub connection_id: [u8; 16],
    /// Name of this connection point, as in its certificate.
    pub name: String,
    /// Its site, as in its certificate.
    pub site: String,
    /// Shards of this process.
    pub shards: u16,
    /// Channels to one instance at most.
    pub channels: u16,
    /// TLS towards instances.
    pub tls: Arc<ClientConfig>,
    /// The same by HTTPS.
    pub https_tls: Arc<ClientConfig>,
    /// `None`: HTTPS leaves directly.
    pub proxy: Option<ProxyPlan>,
    /// Every instance.
    pub instances: Vec<InstancePlan>,
    /// External URL to origin and internal target.
    pub mapping: UrlMapping,
    /// Whose tokens the site takes.
    pub tokens: SiteTokens,
    /// As in the settings.
    pub origins: Vec<OriginPlan>,
    /// By the mapping's numbers: those that stand for one another, in the order of the settings.
    pub groups: Vec<Vec<usize>>,
    /// Where connections to origins come from; none: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Deadlines.
    pub limits: ConnectorLimits,
    /// What gateways are told, in octets.
    pub published: Vec<u8>,
    /// Which settings those are.
    pub revision: RevisionTag,
    /// Revocation lists and the block list.
    pub lists: Arc<Lists>,
    /// Certificates in use: for what, which file, when they end.
    pub certificates: Vec<metrics::Certificate>,
}

impl Plan {
    /// From what was read and judged at start.
    pub fn new(
        settings: &ConnectorSettings,
        site: Site,
        tls: Arc<ClientConfig>,
        proxy_password: Option<String>,
        certificates: Vec<metrics::Certificate>,
    ) -> Result<Plan, StartError> {
        let mut connection_id = [0; 16];
        SystemRandom::new()
            .fill(&mut connection_id)
            .map_err(|_| StartError("the system gives no randomness".to_owned()))?;
        let Revision { serial, sha256, .. } = site.revision;
        let refresh = site.settings.revocation.refresh;
        let lists = Lists::new(site.trust, &site.crls, site.blocked.as_deref(), refresh);
        let groups = site.settings.groups.iter().map(|group| group.origins.clone()).collect();
        let origins = site.settings.origins.iter().zip(site.origins).enumerate();
        let origins = origins.map(|(index, (one, tls))| origin(one, tls, is_probed(&site.settings, index)));
        Ok(Plan {
            connection_id,
            name: settings.identity.clone(),
            site: site.settings.code.clone(),
            shards: shards(settings),
            channels: settings.channels.unwrap_or(crate::limits::SHARD_COUNT_MAX),
            https_tls: tls_config::for_https_dialling(&tls),
            tls,
            proxy: settings.proxy.as_ref().map(|proxy| proxy_plan(proxy, proxy_password.as_deref())),
            instances: instances(settings)?,
            mapping: site.settings.url_mapping(),
            tokens: site.tokens,
            origins: origins.collect(),
            groups,
            source_addresses: settings.source_addresses.clone(),
            limits: settings.limits,
            published: site.published,
            revision: RevisionTag { serial, sha256 },
            lists,
            certificates,
        })
    }
}

fn shards(settings: &ConnectorSettings) -> u16 {
    let allowed = || u16::try_from(shard::allowed_cpus().len()).unwrap_or(crate::limits::SHARD_COUNT_MAX);
    settings.shards.unwrap_or_else(allowed).clamp(1, crate::limits::SHARD_COUNT_MAX)
}

fn instances(settings: &ConnectorSettings) -> Result<Vec<InstancePlan>, StartError> {
    let by_https = if settings.proxy.is_some() { Transport::HttpsByProxy } else { Transport::Https };
    let plan = |gateway: &GatewayAddress| {
        let tls_name = ServerName::try_from(gateway.name.clone())
            .map_err(|error| StartError(format!("{}: {error}", gateway.name)))?;
        let best = WayPlan::new(Transport::TcpTls, &gateway.address);
        let of_others = || settings.gateways.iter().filter(|other| !std::ptr::eq(*other, gateway));
        let is_shared = |port| of_others().any(|other| other.https.iter().any(|to| to.port == port));
        let https = gateway.https.iter();
        let https = https.map(|to| WayPlan { is_shared: is_shared(to.port), ..WayPlan::new(by_https, to) });
        let ways = std::iter::once(best).chain(https).collect();
        Ok(InstancePlan { dialled: gateway.address.to_string(), tls_name, ways })
    };
    settings.gateways.iter().map(plan).collect()
}

fn proxy_plan(settings: &ProxySettings, password: Option<&str>) -> ProxyPlan {
    let DialAddress { host, port } = &settings.address;
    let user = settings.credentials.as_ref().map(|(user, _)| user.as_str());
    let authorization = user.zip(password).map(|(user, password)| http::basic(user, password));
    ProxyPlan { host: host.clone(), port: *port, dialled: settings.address.to_string(), authorization }
}

/// Whether somebody wants to know how this origin is.
fn is_probed(site: &SiteSettings, origin: usize) -> bool {
    site.groups.iter().any(|group| group.is_probed && group.origins.contains(&origin))
}

fn origin(settings: &OriginSettings, tls: review::Origin, is_probed: bool) -> OriginPlan {
    let address = &settings.address;
    let HealthSettings { failures, successes, slow_start, .. } = settings.health;
    OriginPlan {
        host: address.host.clone(),
        port: address.port,
        authority: address.authority(),
        connections_max: settings.connections_max,
        tls,
        rules: OriginRules { failures, successes, slow_start, is_probed },
        health: settings.health.clone(),
    }
}
