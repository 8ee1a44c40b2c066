//! What a connection point works by: its settings and what they name, read and judged at start (`review`).

use std::net::IpAddr;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::lists::Lists;
use crate::channel::RevisionTag;
use crate::mapping::UrlMapping;
use crate::metrics;
use crate::review::{self, Site, SiteTokens};
use crate::settings::{ConnectorLimits, ConnectorSettings, OriginSettings, Revision};
use crate::shard;
use crate::transport::StartError;

/// An instance to keep channels to.
pub struct InstancePlan {
    /// Name or address to dial.
    pub host: String,
    /// Port of its channel listener.
    pub port: u16,
    /// What logs and reports call it: `host:port`.
    pub dialled: String,
    /// Name its certificate must bear.
    pub tls_name: ServerName<'static>,
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
}

/// See the file's head.
pub struct Plan {
    /// Random, one for each start.
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
    /// Every instance.
    pub instances: Vec<InstancePlan>,
    /// External URL to origin and internal target.
    pub mapping: UrlMapping,
    /// Whose tokens the site takes.
    pub tokens: SiteTokens,
    /// By the mapping's numbers.
    pub origins: Vec<OriginPlan>,
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
        certificates: Vec<metrics::Certificate>,
    ) -> Result<Plan, StartError> {
        let mut connection_id = [0; 16];
        SystemRandom::new()
            .fill(&mut connection_id)
            .map_err(|_| StartError("the system gives no randomness".to_owned()))?;
        let Revision { serial, sha256, .. } = site.revision;
        let refresh = site.settings.revocation.refresh;
        let lists = Lists::new(site.trust, &site.crls, site.blocked.as_deref(), refresh);
        let origins = site.settings.origins.iter().zip(site.origins);
        Ok(Plan {
            connection_id,
            name: settings.identity.clone(),
            site: site.settings.code.clone(),
            shards: shards(settings),
            channels: settings.channels.unwrap_or(crate::limits::SHARD_COUNT_MAX),
            tls,
            instances: instances(settings)?,
            mapping: site.settings.url_mapping(),
            tokens: site.tokens,
            origins: origins.map(|(one, tls)| origin(one, tls)).collect(),
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
    let plan = |gateway: &crate::settings::GatewayAddress| {
        let tls_name = ServerName::try_from(gateway.name.clone())
            .map_err(|error| StartError(format!("{}: {error}", gateway.name)))?;
        Ok(InstancePlan {
            host: gateway.host.clone(),
            port: gateway.port,
            dialled: gateway.dialled(),
            tls_name,
        })
    };
    settings.gateways.iter().map(plan).collect()
}

fn origin(settings: &OriginSettings, tls: review::Origin) -> OriginPlan {
    let address = &settings.address;
    OriginPlan {
        host: address.host.clone(),
        port: address.port,
        authority: address.authority(),
        connections_max: settings.connections_max,
        tls,
    }
}
