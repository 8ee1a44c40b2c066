//! What a connection point works by: its settings and what they name, read and judged at start and whenever they are
//! reloaded (`review`). A plan is never changed: another takes its place, and what is the same in both is shared, so
//! that its connections go on.

use std::path::Path;
use std::sync::{Arc, Weak};

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::board::{InstanceBoard, OriginCounts, Outlook};
use super::lists::{Lists, Sources};
use crate::channel::{RevisionTag, Transport};
use crate::dispatch::OriginRules;
use crate::http;
use crate::mapping::UrlMapping;
use crate::metrics::{self, Ledger, Name, Series};
use crate::review::{self, ConnectorWorks, FileRead, INTERNAL_FILES, Site, SiteTokens};
use crate::settings::{
    ConnectorLimits, ConnectorSettings, DialAddress, GatewayAddress, HealthSettings, OriginSettings,
    OriginTrust, ProxySettings, Revision, SiteSettings,
};
use crate::shard;
use crate::transport::{StartError, tls_config};

/// An instance to keep channels to.
#[derive(Debug, PartialEq, Eq)]
pub struct InstancePlan {
    /// What logs and reports call it: `host:port` of its channel listener.
    pub dialled: String,
    /// Name its certificate must bear.
    pub tls_name: ServerName<'static>,
    /// The ways there, the best first.
    pub ways: Vec<WayPlan>,
}

/// A way to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(PartialEq, Eq)]
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

/// How instances are dialled, all of them alike.
pub struct Dialling {
    /// TLS towards instances.
    pub tls: Arc<ClientConfig>,
    /// The same by HTTPS.
    pub https_tls: Arc<ClientConfig>,
    /// `None`: HTTPS leaves directly.
    pub proxy: Option<ProxyPlan>,
    /// Channels to one instance at most.
    pub channels: u16,
    /// What the files of `[internal]` held that say who we are and whom to believe.
    files: Vec<Digest>,
}

/// What a file held, if it could be read.
type Digest = Option<[u8; 32]>;

/// An instance as it is dialled, and how it is. Another one where any of that is another.
pub struct Instance {
    /// Where it is.
    pub plan: InstancePlan,
    /// How it is dialled.
    pub dialling: Arc<Dialling>,
    /// How it is, however it is dialled; that of the one before it that it takes the place of.
    pub board: Arc<InstanceBoard>,
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
    /// How it is, as the shards found it.
    pub outlook: Outlook,
    /// Connections, as their shards saw them last; by shard.
    pub counts: Vec<OriginCounts>,
    /// The one at the same place in the plan before, of which no other goes on with what was counted.
    pub follows: Option<Weak<OriginPlan>>,
    settings: OriginSettings,
    /// What the files held that these name.
    files: Vec<Digest>,
}

/// See the file's head.
pub struct Plan {
    /// Random, one for each start; its last four octets differ with each channel.
    pub connection_id: [u8; 16],
    /// As they are written.
    pub settings: ConnectorSettings,
    /// Files that were read for it.
    pub reads: Vec<FileRead>,
    /// Its site, as in its certificate.
    pub site: String,
    /// Shards of this process.
    pub shards: u16,
    /// Every instance.
    pub instances: Vec<Arc<Instance>>,
    /// External URL to origin and internal target.
    pub mapping: UrlMapping,
    /// What is counted, by number of the endpoint in the mapping.
    pub series: Vec<Arc<Series>>,
    /// Whose tokens the site takes.
    pub tokens: SiteTokens,
    /// As in the settings.
    pub origins: Vec<Arc<OriginPlan>>,
    /// By the mapping's numbers: those that stand for one another, in the order of the settings.
    pub groups: Vec<Vec<usize>>,
    /// Deadlines.
    pub limits: ConnectorLimits,
    /// What gateways are told, in octets.
    pub published: Vec<u8>,
    /// Which settings those are.
    pub revision: Revision,
    /// Revocation lists and the block list.
    pub lists: Arc<Lists>,
    /// TLS towards instances, the same as long as the process runs: what it shows and believes changes in it.
    tls: Arc<ClientConfig>,
    /// Certificates in use: for what, which file, when they end.
    pub certificates: Vec<metrics::Certificate>,
}

impl Plan {
    /// From what was read and judged at start.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(works: ConnectorWorks, ledger: &Ledger, shards: u16) -> Result<Plan, StartError> {
        let mut connection_id = [0; 16];
        SystemRandom::new()
            .fill(&mut connection_id)
            .map_err(|_| StartError("the system gives no randomness".to_owned()))?;
        Plan::of(works, ledger, connection_id, shards, None)
    }

    /// From what was read and judged while this one is in force. What is the same is shared by both.
    ///
    /// # Errors
    /// A name that no certificate can bear.
    pub fn next(&self, works: ConnectorWorks, ledger: &Ledger) -> Result<Plan, StartError> {
        Plan::of(works, ledger, self.connection_id, self.shards, Some(self))
    }

    fn of(
        works: ConnectorWorks,
        ledger: &Ledger,
        connection_id: [u8; 16],
        shards: u16,
        before: Option<&Plan>,
    ) -> Result<Plan, StartError> {
        let ConnectorWorks { settings, site, tls, proxy_password, ends, reads, .. } = works;
        let tls = before.map_or(tls, |before| before.tls.clone());
        let dialling = dialling(&settings, tls.clone(), proxy_password.as_deref(), &reads, before);
        let instances = instances(&settings, &dialling, before)?;
        let lists = lists(&site, before);
        let origins = origins(&site.settings, site.origins, (&site.folder, &reads), shards, before);
        let groups: Vec<_> = site.settings.groups.iter().map(|group| group.origins.clone()).collect();
        let mapping = site.settings.url_mapping();
        let code = site.settings.code;
        // An endpoint is not asked by a family it is not open to.
        let names = mapping.offers().map(|(role, one, family)| {
            if !one.endpoint.families.contains(family) {
                return Name::without_endpoint("none");
            }
            let name = Name::new(&code, role, one.endpoint.path.as_str(), family);
            let authorities = groups[one.group].iter().map(|origin: &usize| &*origins[*origin].authority);
            Name { origin: authorities.collect::<Vec<_>>().join(","), ..name }
        });
        let series = ledger.find(names);
        Ok(Plan {
            connection_id,
            site: code,
            shards,
            instances,
            series,
            mapping,
            tokens: site.tokens,
            origins,
            groups,
            limits: settings.limits,
            published: site.published,
            revision: site.revision,
            lists,
            tls,
            certificates: ends,
            settings,
            reads,
        })
    }

    /// Which settings gateways are told.
    pub fn tag(&self) -> RevisionTag {
        RevisionTag { serial: self.revision.serial, sha256: self.revision.sha256 }
    }
}

/// The number of shards that these settings ask for.
pub fn shards(settings: &ConnectorSettings) -> u16 {
    let allowed = || u16::try_from(shard::allowed_cpus().len()).unwrap_or(crate::limits::SHARD_COUNT_MAX);
    settings.shards.unwrap_or_else(allowed).clamp(1, crate::limits::SHARD_COUNT_MAX)
}

fn dialling(
    settings: &ConnectorSettings,
    tls: Arc<ClientConfig>,
    proxy_password: Option<&str>,
    reads: &[FileRead],
    before: Option<&Plan>,
) -> Arc<Dialling> {
    let proxy = settings.proxy.as_ref().map(|proxy| proxy_plan(proxy, proxy_password));
    let channels = settings.channels.unwrap_or(crate::limits::SHARD_COUNT_MAX);
    let of_internal = reads.iter().filter(|read| INTERNAL_FILES.contains(&&*read.key));
    let files: Vec<_> = of_internal.map(|read| read.sha256).collect();
    let mut held = before.iter().flat_map(|before| &before.instances).map(|instance| &instance.dialling);
    let is_same =
        |held: &&Arc<Dialling>| held.files == files && held.proxy == proxy && held.channels == channels;
    held.find(is_same).cloned().unwrap_or_else(|| {
        Arc::new(Dialling { https_tls: tls_config::for_https_dialling(&tls), tls, proxy, channels, files })
    })
}

fn instances(
    settings: &ConnectorSettings,
    dialling: &Arc<Dialling>,
    before: Option<&Plan>,
) -> Result<Vec<Arc<Instance>>, StartError> {
    let by_https = if settings.proxy.is_some() { Transport::HttpsByProxy } else { Transport::Https };
    let instance = |gateway: &GatewayAddress| {
        let tls_name = ServerName::try_from(gateway.name.clone())
            .map_err(|error| StartError(format!("{}: {error}", gateway.name)))?;
        let best = WayPlan::new(Transport::TcpTls, &gateway.address);
        let of_others = || settings.gateways.iter().filter(|other| !std::ptr::eq(*other, gateway));
        let is_shared = |port| of_others().any(|other| other.https.iter().any(|to| to.port == port));
        let https = gateway.https.iter();
        let https = https.map(|to| WayPlan { is_shared: is_shared(to.port), ..WayPlan::new(by_https, to) });
        let ways = std::iter::once(best).chain(https).collect();
        let plan = InstancePlan { dialled: gateway.address.to_string(), tls_name, ways };
        let is_same = |held: &&Arc<Instance>| held.plan == plan && Arc::ptr_eq(&held.dialling, dialling);
        let all = || before.iter().flat_map(|before| &before.instances);
        if let Some(held) = all().find(is_same) {
            return Ok(held.clone());
        }
        // One that has moved is known by its name, if no other has that.
        let is_at =
            |held: &&Arc<Instance>| held.plan.dialled == plan.dialled && held.plan.tls_name == plan.tls_name;
        let named = || all().filter(|held| held.plan.tls_name == plan.tls_name);
        let is_only = named().count() == 1 && of_others().all(|other| other.name != gateway.name);
        let held = all().find(is_at).or_else(|| named().next().filter(|_| is_only));
        let board = held.map(|held| held.board.clone()).unwrap_or_default();
        Ok(Arc::new(Instance { plan, dialling: dialling.clone(), board }))
    };
    settings.gateways.iter().map(instance).collect()
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

fn lists(site: &Site, before: Option<&Plan>) -> Arc<Lists> {
    let sources = Sources {
        anchors: site.anchors.clone(),
        crls: site.crls.clone(),
        blocked: site.blocked.clone(),
        refresh: site.settings.revocation.refresh,
    };
    match before {
        Some(before) if *before.lists.sources() == sources => before.lists.clone(),
        before => Lists::new(site.trust.clone(), sources, before.map(|before| &*before.lists)),
    }
}

fn origins(
    site: &SiteSettings,
    tls: Vec<review::Origin>,
    (folder, reads): (&Path, &[FileRead]),
    shards: u16,
    before: Option<&Plan>,
) -> Vec<Arc<OriginPlan>> {
    let digest = |file: &Path| {
        let path = folder.join(file);
        reads.iter().find(|read| read.path == path).and_then(|read| read.sha256)
    };
    let wanted = site.origins.iter().enumerate().map(|(number, settings)| WantedOrigin {
        settings,
        files: files_of(settings).map(digest).collect(),
        is_probed: is_probed(site, number),
    });
    let wanted: Vec<_> = wanted.collect();
    let held = before.map_or(&[][..], |before| &before.origins);
    let is_gone = |held: &&Arc<OriginPlan>| !wanted.iter().any(|wanted| wanted.is(held));
    let mut gone: Vec<_> = held.iter().filter(is_gone).collect();
    let mut origin = |(wanted, tls): (WantedOrigin<'_>, review::Origin)| {
        if let Some(same) = held.iter().find(|held| wanted.is(held)) {
            return same.clone();
        }
        let authority = wanted.settings.address.authority();
        let place = gone.iter().position(|gone| gone.authority == authority);
        Arc::new(wanted.plan(tls, shards, place.map(|place| gone.remove(place))))
    };
    wanted.into_iter().zip(tls).map(&mut origin).collect()
}

/// What makes an origin another one than that of the plan before.
struct WantedOrigin<'s> {
    settings: &'s OriginSettings,
    files: Vec<Digest>,
    is_probed: bool,
}

impl WantedOrigin<'_> {
    fn is(&self, held: &OriginPlan) -> bool {
        held.settings == *self.settings && held.files == self.files && held.rules.is_probed == self.is_probed
    }

    fn plan(self, tls: review::Origin, shards: u16, follows: Option<&Arc<OriginPlan>>) -> OriginPlan {
        let WantedOrigin { settings, files, is_probed } = self;
        let address = &settings.address;
        let HealthSettings { failures, successes, slow_start, .. } = settings.health;
        let rules = OriginRules { failures, successes, slow_start, is_probed };
        let counts = |shard: u16| {
            let counts = OriginCounts::default();
            if let Some(before) = follows.and_then(|before| before.counts.get(usize::from(shard))) {
                counts.go_on_from(before);
            }
            counts
        };
        OriginPlan {
            host: address.host.clone(),
            port: address.port,
            authority: address.authority(),
            connections_max: settings.connections_max,
            tls,
            rules,
            health: settings.health.clone(),
            outlook: Outlook::new(rules),
            counts: (0..shards).map(counts).collect(),
            follows: follows.map(Arc::downgrade),
            settings: settings.clone(),
            files,
        }
    }
}

fn files_of(settings: &OriginSettings) -> impl Iterator<Item = &Path> {
    let ca = match &settings.trust {
        OriginTrust::Ca(file) => Some(&**file),
        OriginTrust::Plain | OriginTrust::Thumbprint(_) => None,
    };
    let own = settings.client_certificate.iter().flat_map(|pair| [&*pair.chain, &*pair.key]);
    ca.into_iter().chain(own)
}
