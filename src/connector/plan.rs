//! What a connection point works by, read once at start: its settings and the files they name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::auth::{InternalRole, internal_identity};
use crate::channel::RevisionTag;
use crate::mapping::{Scheme, UrlMapping};
use crate::metrics;
use crate::settings::{
    ConnectorLimits, ConnectorSettings, KeyPair, OriginSettings, OriginTrust, PublishedTrust, Revision,
    SiteSettings,
};
use crate::shard;
use crate::transport::StartError;
use crate::transport::tls_config::{self, Credential};

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
    /// By the mapping's numbers.
    pub origins: Vec<OriginPlan>,
    /// Deadlines.
    pub limits: ConnectorLimits,
    /// What gateways are told, in octets.
    pub published: Vec<u8>,
    /// Which settings those are.
    pub revision: RevisionTag,
    /// Certificates in use: for what, which file, when they end.
    pub certificates: Vec<metrics::Certificate>,
}

impl Plan {
    /// Reads everything that `settings` name; paths start from `folder`.
    pub fn read(settings: &ConnectorSettings, folder: &Path) -> Result<Plan, StartError> {
        let site_file = folder.join(&settings.site);
        let site = read_site(&site_file)?;
        let site_folder = site_file.parent().unwrap_or(folder);
        let own = credential(folder, &settings.internal.identity)?;
        let ca = certificates(&folder.join(&settings.internal.ca))?;
        check_identity(&own, settings, &site, &folder.join(&settings.internal.identity.chain))?;
        let tls = tls_config::for_dialling(&ca, own).map_err(|error| wrong("internal certificate", error))?;
        let (published, revision) = publication(&site, site_folder)?;
        let mut connection_id = [0; 16];
        SystemRandom::new()
            .fill(&mut connection_id)
            .map_err(|_| StartError("the system gives no randomness".to_owned()))?;
        Ok(Plan {
            connection_id,
            name: settings.identity.clone(),
            site: site.code.clone(),
            shards: shards(settings),
            channels: settings.channels.unwrap_or(crate::limits::SHARD_COUNT_MAX),
            tls,
            instances: instances(settings)?,
            mapping: site.url_mapping(),
            origins: site.origins.iter().map(|one| origin(one, site_folder)).collect::<Result<_, _>>()?,
            limits: settings.limits,
            published,
            revision,
            certificates: ends(settings, folder, &site, site_folder),
        })
    }
}

fn read_site(file: &Path) -> Result<SiteSettings, StartError> {
    let text = fs::read_to_string(file).map_err(|error| wrong(&file.display().to_string(), error))?;
    SiteSettings::parse(&text, &file.display().to_string()).map_err(|errors| StartError(errors.to_string()))
}

fn shards(settings: &ConnectorSettings) -> u16 {
    let allowed = || u16::try_from(shard::allowed_cpus().len()).unwrap_or(crate::limits::SHARD_COUNT_MAX);
    settings.shards.unwrap_or_else(allowed).clamp(1, crate::limits::SHARD_COUNT_MAX)
}

/// A gateway would refuse a name that differs from the certificate; here it is said before we dial.
fn check_identity(
    own: &Credential,
    settings: &ConnectorSettings,
    site: &SiteSettings,
    file: &Path,
) -> Result<(), StartError> {
    let leaf = own.chain.first().ok_or_else(|| wrong(&file.display().to_string(), "no certificate in it"))?;
    let name = internal_identity(leaf).map_err(|fault| wrong(&file.display().to_string(), fault))?;
    let is_ours = name.role == InternalRole::Connector
        && name.site.as_deref() == Some(site.code.as_str())
        && name.name == settings.identity;
    if is_ours {
        return Ok(());
    }
    let (identity, code) = (&settings.identity, &site.code);
    let expected =
        format!("it names {name}, but the settings say connection point {identity} of site {code}");
    Err(wrong(&file.display().to_string(), expected))
}

fn instances(settings: &ConnectorSettings) -> Result<Vec<InstancePlan>, StartError> {
    let plan = |gateway: &crate::settings::GatewayAddress| {
        Ok(InstancePlan {
            host: gateway.host.clone(),
            port: gateway.port,
            dialled: gateway.dialled(),
            tls_name: server_name(&gateway.name)?,
        })
    };
    settings.gateways.iter().map(plan).collect()
}

fn server_name(name: &str) -> Result<ServerName<'static>, StartError> {
    ServerName::try_from(name.to_owned()).map_err(|error| wrong(name, error))
}

fn origin(settings: &OriginSettings, folder: &Path) -> Result<OriginPlan, StartError> {
    let address = &settings.address;
    let tls = match address.scheme {
        Scheme::Http => None,
        Scheme::Https => Some((origin_tls(settings, folder)?, server_name(&address.host)?)),
    };
    Ok(OriginPlan {
        host: address.host.clone(),
        port: address.port,
        authority: address.authority(),
        connections_max: settings.connections_max,
        tls,
    })
}

fn origin_tls(settings: &OriginSettings, folder: &Path) -> Result<Arc<ClientConfig>, StartError> {
    let trust = match &settings.trust {
        OriginTrust::Plain => tls_config::OriginTrust::Roots(Vec::new()),
        OriginTrust::Ca(file) => tls_config::OriginTrust::Roots(certificates(&folder.join(file))?),
        OriginTrust::Thumbprint(sha256) => tls_config::OriginTrust::Thumbprint(*sha256),
    };
    let own = settings.client_certificate.as_ref().map(|pair| credential(folder, pair)).transpose()?;
    tls_config::for_origin(trust, own).map_err(|error| wrong(&settings.address.authority(), error))
}

fn publication(site: &SiteSettings, folder: &Path) -> Result<(Vec<u8>, RevisionTag), StartError> {
    let read = |files: &[PathBuf]| -> Result<Vec<Vec<u8>>, StartError> {
        let mut list = Vec::new();
        for file in files {
            list.extend(certificates(&folder.join(file))?.iter().map(|der| der.to_vec()));
        }
        Ok(list)
    };
    let trust =
        PublishedTrust { roots: read(&site.trust.roots)?, intermediates: read(&site.trust.intermediates)? };
    let settings = site.publish(trust);
    settings.check().map_err(|error| StartError(error.to_string()))?;
    let bytes = settings.to_bytes();
    let Revision { serial, sha256, .. } = Revision::of(&settings, &bytes);
    Ok((bytes, RevisionTag { serial, sha256 }))
}

fn ends(
    settings: &ConnectorSettings,
    folder: &Path,
    site: &SiteSettings,
    site_folder: &Path,
) -> Vec<metrics::Certificate> {
    let own = [("internal", folder, &settings.internal.identity)];
    let origins = site.origins.iter().filter_map(|origin| origin.client_certificate.as_ref());
    let all = own.into_iter().chain(origins.map(|pair| ("origin", site_folder, pair)));
    let mut ends: Vec<_> = all
        .filter_map(|(what, folder, pair)| {
            let chain = certificates(&folder.join(&pair.chain)).ok()?;
            Some((what, pair.chain.display().to_string(), metrics::expiry(&chain)?))
        })
        .collect();
    // Several origins may be shown the same one.
    ends.sort();
    ends.dedup();
    ends
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let name = file.display().to_string();
    let list: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(&name, error))?.collect();
    let list = list.map_err(|error| wrong(&name, error))?;
    if list.is_empty() { Err(wrong(&name, "no certificate in it")) } else { Ok(list) }
}

fn credential(folder: &Path, pair: &KeyPair) -> Result<Credential, StartError> {
    let key_file = folder.join(&pair.key);
    let key = PrivateKeyDer::from_pem_file(&key_file)
        .map_err(|error| wrong(&key_file.display().to_string(), error))?;
    Ok(Credential { chain: certificates(&folder.join(&pair.chain))?, key })
}

fn wrong(what: &str, why: impl std::fmt::Display) -> StartError {
    StartError(format!("{what}: {why}"))
}
