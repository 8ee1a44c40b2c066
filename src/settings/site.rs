//! `site.toml`: the site's roles, where they are inside, and whom it trusts.
//!
//! A management point or software update point yields its standard publishing endpoints by itself;
//! `[[endpoint]]` adds one of the operator's own, to a role id of its own or to one of those.

use std::path::PathBuf;
use std::time::Duration;

use super::bounds::endpoint_bounds;
use super::document::{Section, read_document};
use super::health::{HealthSettings, health};
use super::published::{PublishedRevocation, PublishedSettings, PublishedTrust};
use super::report::{Report, SettingsErrors};
use super::shared::KeyPair;
use super::tokens::{self, Scheme as AuthScheme, TokenSettings};
use super::value;
use crate::auth::token::{TokenKind, TokenKinds};
use crate::auth::{AllowRules, RevocationMode};
use crate::limits::{
    ALLOW_RULE_COUNT_MAX, CRL_COUNT_MAX, ENDPOINT_COUNT_MAX, GROUP_ORIGINS_MAX, LIST_FETCH_EVERY,
    ORIGIN_CONNECTIONS_MAX, ORIGIN_COUNT_MAX, REQUEST_LENGTH_MAX_DEFAULT, ROLE_COUNT_MAX, TRUST_COUNT_MAX,
};
use crate::mapping::{
    Endpoint, EndpointPath, Families, Family, InternalUrl, METHOD_COUNT_MAX, MappedEndpoint, MappedRole,
    OWN_TOKENS, OriginAddress, Role, RoleKind, Scheme, StandardEndpoint, UrlMapping,
};

/// How an origin's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OriginTrust {
    /// No TLS, nothing to judge.
    Plain,
    /// By chain to the certificates of a PEM file, and by name.
    Ca(PathBuf),
    /// By the SHA-256 of the leaf alone.
    Thumbprint([u8; 32]),
}

/// An origin: a server inside and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginSettings {
    /// Where it is.
    pub address: OriginAddress,
    /// How its certificate is judged; `Plain` exactly where the scheme is `Http`.
    pub trust: OriginTrust,
    /// What the connection point shows of itself; never where the scheme is `Http`.
    pub client_certificate: Option<KeyPair>,
    /// Connections of one shard.
    pub connections_max: usize,
    /// How it is found out whether it is there.
    pub health: HealthSettings,
}

/// Origins that stand for one another: what a role, an endpoint or a token service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// [`SiteSettings::origins`] that they are, each once, in the order written; at least one.
    pub origins: Vec<usize>,
    /// They are asked, now and then, whether they are there: where there are several, or the settings say how.
    pub is_probed: bool,
}

/// Whose client certificates the site takes, PEM files of one or more certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustFiles {
    /// Trust anchors.
    pub roots: Vec<PathBuf>,
    /// Issuing CAs that clients need not send.
    pub intermediates: Vec<PathBuf>,
    /// Whom alone the site lets in of those its roots vouch for.
    pub allowed: AllowRules,
    /// File with the block list.
    pub blocked: Option<PathBuf>,
}

/// Where a revocation list comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListSource {
    /// DER or PEM.
    File(PathBuf),
    /// An http URL.
    Url(String),
}

/// `[revocation]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationSettings {
    /// What missing lists mean.
    pub mode: RevocationMode,
    /// For so long a list counts behind its end.
    pub grace: Duration,
    /// Where lists come from.
    pub crls: Vec<ListSource>,
    /// How often URLs are asked.
    pub refresh: Duration,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteSettings {
    /// Three letters or digits.
    pub code: String,
    /// Raised with each change; a lower one is ignored by gateways.
    pub serial: u64,
    /// Ids unique; in no endpoint list do two endpoints meet in path and family.
    pub roles: Vec<MappedRole>,
    /// No two are the same.
    pub origins: Vec<OriginSettings>,
    /// [`MappedEndpoint::group`] counts in here; no two are of the same origins.
    pub groups: Vec<GroupSettings>,
    /// Section that each role was first named in, as in `management_point[1]`.
    pub role_keys: Vec<String>,
    /// The same of origins.
    pub origin_keys: Vec<String>,
    /// For client certificates.
    pub trust: TrustFiles,
    /// Of client certificates.
    pub revocation: RevocationSettings,
    /// Whose tokens it takes.
    pub tokens: TokenSettings,
}

impl SiteSettings {
    /// Reads `site.toml`; `file` is what errors call it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str) -> Result<SiteSettings, SettingsErrors> {
        read_document(text, file, read)
    }

    /// How the connection point maps URLs.
    pub fn url_mapping(&self) -> UrlMapping {
        let address = |origin: &usize| self.origins[*origin].address.clone();
        let groups = self.groups.iter().map(|group| group.origins.iter().map(address).collect());
        UrlMapping::new(&self.roles, &groups.collect::<Vec<_>>())
    }

    /// What gateways get to know, with the certificates that `trust` names; token issuers are added by who
    /// has read their keys.
    pub fn publish(&self, trust: PublishedTrust) -> PublishedSettings {
        let published = |role: &MappedRole| Role {
            id: role.id,
            kind: role.kind,
            endpoints: role.endpoints.iter().map(|mapped| mapped.endpoint.clone()).collect(),
        };
        let roles = self.roles.iter().map(published).collect();
        let RevocationSettings { mode, grace, .. } = self.revocation;
        let revocation = PublishedRevocation { mode, grace_secs: grace.as_secs() };
        PublishedSettings {
            site: self.code.clone(),
            serial: self.serial,
            roles,
            trust,
            revocation,
            token_issuers: Vec::new(),
        }
    }
}

fn read(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<SiteSettings> {
    let code = root.required(report, "code", value::site_code);
    let serial = root.required(report, "serial", value::number(1..=i64::MAX as u64));
    let trust = trust(root, report);
    let revocation = revocation(root, report);
    let tokens = tokens::tokens(root, report);
    let mut site = Site::default();
    for section in root.sections(report, "management_point") {
        site.add_standard(section, report, RoleKind::ManagementPoint);
    }
    for section in root.sections(report, "software_update_point") {
        site.add_standard(section, report, RoleKind::SoftwareUpdatePoint);
    }
    for section in root.sections(report, "endpoint") {
        site.add_own(section, report);
    }
    let Site { roles, origins, groups, role_keys, origin_keys, .. } = site;
    Some(SiteSettings {
        code: code?,
        serial: serial?,
        roles,
        origins,
        groups,
        role_keys,
        origin_keys,
        trust,
        revocation,
        tokens,
    })
}

fn trust(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> TrustFiles {
    let mut section = root.section(report, "trust");
    let roots = section.list(report, "roots", value::path);
    let intermediates = section.list(report, "intermediates", value::path);
    let allowed = AllowRules {
        issuers: section.list(report, "issuers", value::name_rule),
        subjects: section.list(report, "subjects", value::name_rule),
        names: section.list(report, "names", value::alternative_name_rule),
    };
    let blocked = section.optional(report, "blocked", value::path);
    section.finish(report);
    let AllowRules { issuers, subjects, names } = &allowed;
    for (key, rules) in [("issuers", issuers), ("subjects", subjects), ("names", names)] {
        if rules.len() > ALLOW_RULE_COUNT_MAX {
            let (found, most) = (format!("{} rules", rules.len()), format!("{ALLOW_RULE_COUNT_MAX} at most"));
            report.add(section.key(key), section.place(key), found, most);
        }
    }
    for (key, files) in [("roots", &roots), ("intermediates", &intermediates)] {
        if files.len() > TRUST_COUNT_MAX {
            let found = format!("{} files", files.len());
            report.add(section.key(key), section.place(key), found, format!("{TRUST_COUNT_MAX} at most"));
        }
    }
    TrustFiles { roots, intermediates, allowed, blocked }
}

/// Without the section nobody is asked for revocations; with it, whoever is on no list is refused unless
/// it says otherwise.
fn revocation(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> RevocationSettings {
    let is_written = root.has("revocation");
    let mut section = root.section(report, "revocation");
    let default = if is_written { RevocationMode::Hard } else { RevocationMode::Off };
    let mode = section.optional(report, "mode", value::revocation_mode).unwrap_or(default);
    let grace = section.optional(report, "grace_secs", value::grace).unwrap_or_default();
    let crls = section.list(report, "crls", value::list_source);
    let refresh = section.optional(report, "refresh_secs", value::seconds).unwrap_or(LIST_FETCH_EVERY);
    section.finish(report);
    if crls.len() > CRL_COUNT_MAX {
        let (found, most) = (format!("{} lists", crls.len()), format!("{CRL_COUNT_MAX} at most"));
        report.add(section.key("crls"), section.place("crls"), found, most);
    }
    if mode == RevocationMode::Hard && crls.is_empty() && !section.has("crls") {
        let expected = "files or http URLs of revocation lists: without one every client is refused";
        report.add(section.key("crls"), section.place("crls"), "nothing", expected);
    }
    RevocationSettings { mode, grace, crls, refresh }
}

/// Roles and origins as they come together.
#[derive(Default)]
struct Site {
    roles: Vec<MappedRole>,
    origins: Vec<OriginSettings>,
    groups: Vec<GroupSettings>,
    role_keys: Vec<String>,
    origin_keys: Vec<String>,
    /// Section of each endpoint of each role, so that a second one can name the first.
    endpoint_keys: Vec<Vec<String>>,
}

impl Site {
    fn add_standard(&mut self, mut section: Section<'_, '_>, report: &mut Report<'_>, kind: RoleKind) {
        let id = section.required(report, "id", value::role_id);
        let target = self.target(&mut section, report);
        let forward_identity = section.optional(report, "forward_identity", value::boolean).unwrap_or(false);
        let request_length_max = request_length_max(&mut section, report);
        let bounds = endpoint_bounds(&mut section, report);
        let chosen = chosen(&mut section, report, kind);
        let service = self.token_service(&mut section, report, kind, &chosen);
        section.finish(report);
        let Some((id, (group, prefix))) = id.zip(target) else { return };
        let endpoints = chosen.into_iter().map(|row| {
            let service = service.as_ref().filter(|_| row.path == TOKEN_ENDPOINT);
            let (group, prefix) = service.map_or((group, &prefix), |(group, prefix)| (*group, prefix));
            MappedEndpoint {
                endpoint: Endpoint {
                    forward_identity: forward_identity || service.is_some(),
                    request_length_max,
                    bounds,
                    ..row.endpoint()
                },
                group,
                prefix: prefix.clone(),
                replaces_path: false,
                // It asks again; an update service has no use for it.
                forwards_token: kind == RoleKind::ManagementPoint,
            }
        });
        let endpoints = endpoints.collect();
        if let Some(place) = self.roles.iter().position(|role| role.id == id) {
            let found = format!("role {id} again, which {} has", self.role_keys[place]);
            report.add(section.key("id"), section.place("id"), found, "each role once");
        }
        self.add_role(&section, report, MappedRole { id, kind, endpoints });
    }

    fn add_own(&mut self, mut section: Section<'_, '_>, report: &mut Report<'_>) {
        let id = section.required(report, "id", value::role_id);
        let path = section.required(report, "path", value::endpoint_path);
        let target = self.target(&mut section, report);
        let auth = auth(&mut section, report);
        let methods = section.list(report, "methods", value::method);
        let request_length_max = request_length_max(&mut section, report);
        let bounds = endpoint_bounds(&mut section, report);
        let mut flag = |key, default| section.optional(report, key, value::boolean).unwrap_or(default);
        let (tunnel, forward_identity) = (flag("tunnel", false), flag("forward_identity", true));
        let forwards_token = flag("forward_token", false);
        // A tunnel lives as long as a held request, and keeps its origin's connection to itself.
        let held = flag("held", false) || tunnel;
        // What was held may have been told: it is not sent again.
        let once = flag("once", false) || held;
        section.finish(report);
        if methods.len() > METHOD_COUNT_MAX {
            let expected = format!("{METHOD_COUNT_MAX} at most, or none for any");
            report.add(section.key("methods"), section.place("methods"), "too many methods", expected);
        }
        let (Some(id), Some(path), Some((group, prefix))) = (id, path, target) else { return };
        let Auth { families, tokens, open } = auth;
        if open {
            self.check_open(&section, report, id, &path, methods.is_empty());
        }
        let endpoint = Endpoint {
            path,
            families,
            methods,
            request_length_max,
            once,
            held,
            tunnel,
            forward_identity,
            tokens,
            open,
            bounds,
        };
        let mapped = MappedEndpoint { endpoint, group, prefix, replaces_path: true, forwards_token };
        match self.roles.iter().position(|role| role.id == id) {
            Some(place) => self.extend_role(place, &section, report, mapped),
            None => {
                let role = MappedRole { id, kind: RoleKind::Own, endpoints: vec![mapped] };
                self.add_role(&section, report, role);
            }
        }
    }

    /// Nobody need show anything only where an update service is asked, and only for what is named.
    fn check_open(
        &self,
        section: &Section<'_, '_>,
        report: &mut Report<'_>,
        id: u64,
        path: &EndpointPath,
        any_method: bool,
    ) {
        let kind = RoleKind::SoftwareUpdatePoint;
        let is_update_point = self.roles.iter().any(|role| role.id == id && role.kind == kind);
        let first = path.as_str().split('/').next().unwrap_or_default();
        let is_service = StandardEndpoint::of(kind).any(|row| row.path.eq_ignore_ascii_case(first));
        if !is_update_point || !is_service || any_method {
            let expected = "\"none\" only with methods, for a path of a software update point under its id: \
                            ClientWebService, SimpleAuthWebService, ReportingWebService, Content, SelfUpdate";
            report.add(section.key("auth"), section.place("auth"), "\"none\"", expected);
        }
    }

    fn add_role(&mut self, section: &Section<'_, '_>, report: &mut Report<'_>, role: MappedRole) {
        if self.roles.len() == ROLE_COUNT_MAX {
            report.add(
                section.key("id"),
                section.place("id"),
                "one role more",
                format!("{ROLE_COUNT_MAX} at most"),
            );
        } else {
            self.role_keys.push(section.key(""));
            self.endpoint_keys.push(vec![section.key(""); role.endpoints.len()]);
            self.roles.push(role);
        }
    }

    fn extend_role(
        &mut self,
        place: usize,
        section: &Section<'_, '_>,
        report: &mut Report<'_>,
        mapped: MappedEndpoint,
    ) {
        let endpoints = &mut self.roles[place].endpoints;
        let holder = endpoints.iter().position(|other| mapped.endpoint.meets(&other.endpoint));
        let path = mapped.endpoint.path.as_str();
        let wrong = match holder {
            Some(holder) => {
                let held = &self.endpoint_keys[place][holder];
                let found = format!("\"{path}\" again, which {held} publishes for the same family and role");
                Some((found, "each path once for each family of a role".to_owned()))
            }
            None if endpoints.len() == ENDPOINT_COUNT_MAX => {
                Some((format!("\"{path}\", one path more"), format!("{ENDPOINT_COUNT_MAX} paths at most")))
            }
            None => None,
        };
        match wrong {
            Some((found, expected)) => {
                report.add(section.key("path"), section.place("path"), found, expected)
            }
            None => {
                endpoints.push(mapped);
                self.endpoint_keys[place].push(section.key(""));
            }
        }
    }

    /// Who answers [`TOKEN_ENDPOINT`] instead of the management point, where somebody does. It believes a connection
    /// point's word, so it has to know one when it sees it.
    fn token_service(
        &mut self,
        section: &mut Section<'_, '_>,
        report: &mut Report<'_>,
        kind: RoleKind,
        chosen: &[&StandardEndpoint],
    ) -> Option<(usize, String)> {
        if kind != RoleKind::ManagementPoint {
            return None;
        }
        let mut service = section.optional_section(report, "token_service")?;
        let target = self.target(&mut service, report);
        service.finish(report);
        let of_group = |group: usize| self.groups[group].origins.iter().map(|origin| &self.origins[*origin]);
        let is_shown = |group| of_group(group).all(|origin| origin.client_certificate.is_some());
        if target.as_ref().is_some_and(|(group, _)| !is_shown(*group)) {
            let expected =
                "an https URL, and certificate and key of the connection point (those of [internal])";
            report.add(service.key("certificate"), service.place("url"), "nothing", expected);
        }
        if !chosen.iter().any(|row| row.path == TOKEN_ENDPOINT) {
            let expected = "no such section, or CCM_STS not in exclude: nobody would be sent there";
            report.add(service.key(""), service.place("url"), "a token service", expected);
        }
        target
    }

    /// Reads `url`, one or several, and how to speak to its origins: their group's number, and the path there.
    fn target(&mut self, section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<(usize, String)> {
        let urls = urls(section, report);
        let client_certificate = client_certificate(section, report);
        let trusts = trusts(section, report, &urls);
        let connections_bounds = 1..=ORIGIN_CONNECTIONS_MAX as u64;
        let connections_max = section.optional(report, "connections_max", value::number(connections_bounds));
        let connections_max = connections_max.map_or(ORIGIN_CONNECTIONS_MAX, |count| count as usize);
        let written = health(section, report);
        let is_probed = urls.len() > 1 || written.is_some();
        let health = written.unwrap_or_default();
        let prefix = urls.first()?.prefix.clone();
        let (mut origins, known) = (Vec::new(), self.origins.len());
        for (url, trust) in urls.into_iter().zip(trusts?) {
            let (address, client_certificate) = (url.address, client_certificate.clone());
            let health = health.clone();
            let origin = OriginSettings { address, trust, client_certificate, connections_max, health };
            origins.push(self.origin(origin, section, report));
        }
        Some((self.group(origins, known, is_probed), prefix))
    }

    fn origin(
        &mut self,
        origin: OriginSettings,
        section: &Section<'_, '_>,
        report: &mut Report<'_>,
    ) -> usize {
        if let Some(place) = self.origins.iter().position(|other| *other == origin) {
            return place;
        }
        if self.origins.len() == ORIGIN_COUNT_MAX {
            let expected = format!("{ORIGIN_COUNT_MAX} at most");
            report.add(section.key("url"), section.place("url"), "one origin more", expected);
            return 0;
        }
        self.origins.push(origin);
        self.origin_keys.push(section.key(""));
        self.origins.len() - 1
    }

    /// The group of these; origins from `known` on have just been added, and are in none.
    fn group(&mut self, origins: Vec<usize>, known: usize, is_probed: bool) -> usize {
        let is_same = |other: &GroupSettings| other.origins == origins;
        let may_be_there = origins.iter().all(|origin| *origin < known);
        if let Some(place) = may_be_there.then(|| self.groups.iter().position(is_same)).flatten() {
            self.groups[place].is_probed |= is_probed;
            return place;
        }
        self.groups.push(GroupSettings { origins, is_probed });
        self.groups.len() - 1
    }
}

/// Reads `url`: of several each must have the same path, be spoken to in the same way, and be there once.
fn urls(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Vec<InternalUrl> {
    if !section.has("url") {
        return section.required(report, "url", value::internal_url).into_iter().collect();
    }
    let urls = section.one_or_more(report, "url", value::internal_url);
    let Some(first) = urls.first() else { return urls };
    let is_unlike =
        |url: &InternalUrl| url.prefix != first.prefix || url.address.scheme != first.address.scheme;
    let twice = (1..urls.len()).find(|place| urls[..*place].contains(&urls[*place]));
    let mut wrong = |found: String, expected: String| {
        report.add(section.key("url"), section.place("url"), found, expected)
    };
    if let Some(url) = urls.iter().find(|url| is_unlike(url)) {
        let found = format!("{} beside {}", url.address.url(&url.prefix), first.address.url(&first.prefix));
        wrong(
            found,
            "URLs of one scheme (http or https) and one path: any of them is to stand for all".into(),
        );
    } else if let Some(place) = twice {
        let found = format!("{} twice", urls[place].address.url(&urls[place].prefix));
        wrong(found, "each server once".to_owned());
    } else if urls.len() > GROUP_ORIGINS_MAX {
        wrong(format!("{} URLs", urls.len()), format!("{GROUP_ORIGINS_MAX} at most"));
    }
    urls
}

/// Reads `certificate` and `key`.
fn client_certificate(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<KeyPair> {
    let chain = section.optional(report, "certificate", value::path);
    let key = section.optional(report, "key", value::path);
    if chain.is_some() != key.is_some() {
        let (found, expected) = ("half a pair", "both certificate and key");
        report.add(section.key(""), section.place("certificate"), found, expected);
    }
    chain.zip(key).map(|(chain, key)| KeyPair { chain, key })
}

/// Reads by what each of the origins at `urls` is believed.
fn trusts(
    section: &mut Section<'_, '_>,
    report: &mut Report<'_>,
    urls: &[InternalUrl],
) -> Option<Vec<OriginTrust>> {
    let ca = section.optional(report, "ca", value::path);
    let thumbprints = section.one_or_more(report, "thumbprint_sha256", value::thumbprint);
    let is_plain = urls.first()?.address.scheme == Scheme::Http;
    for key in ["certificate", "key", "ca", "thumbprint_sha256"] {
        if is_plain && section.has(key) {
            report.add(section.key(key), section.place(key), "TLS for an http URL", "an https URL");
        }
    }
    match (ca, thumbprints.as_slice()) {
        (None, []) if is_plain => Some(vec![OriginTrust::Plain; urls.len()]),
        (Some(ca), []) => Some(vec![OriginTrust::Ca(ca); urls.len()]),
        (None, [thumbprint]) => Some(vec![OriginTrust::Thumbprint(*thumbprint); urls.len()]),
        (None, [_, ..]) if thumbprints.len() == urls.len() => {
            Some(thumbprints.iter().map(|sha256| OriginTrust::Thumbprint(*sha256)).collect())
        }
        (None, [_, ..]) => {
            let key = "thumbprint_sha256";
            let found = format!("{} thumbprints for {} URLs", thumbprints.len(), urls.len());
            let expected = "one for all of them, or one for each in their order";
            report.add(section.key(key), section.place(key), found, expected);
            None
        }
        (ca, []) | (ca @ Some(_), _) => {
            let is_written = section.has("ca") || section.has("thumbprint_sha256");
            if ca.is_some() || !is_written {
                let found = if ca.is_some() { "both" } else { "neither" };
                let expected = "ca (a PEM file) or thumbprint_sha256, by which an https origin is trusted";
                report.add(section.key("ca"), section.place("ca"), found, expected);
            }
            None
        }
    }
}

/// What a token service of a site's own answers.
const TOKEN_ENDPOINT: &str = "CCM_STS";

fn request_length_max(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> u64 {
    let read = value::number(0..=i64::MAX as u64);
    section.optional(report, "request_length_max", read).unwrap_or(REQUEST_LENGTH_MAX_DEFAULT)
}

fn families(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Families {
    let list = section.list(report, "families", value::family);
    match (section.has("families"), list.is_empty()) {
        (false, _) => Families::BOTH,
        (true, false) => Families::from(list),
        (true, true) => {
            let expected = "at least one family, or no such line for both";
            report.add(section.key("families"), section.place("families"), "no family", expected);
            Families::BOTH
        }
    }
}

/// Who may come to an endpoint of the operator's own.
struct Auth {
    families: Families,
    tokens: TokenKinds,
    open: bool,
}

/// Reads `families` and `auth`, which say the same where both are there.
fn auth(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Auth {
    let named = families(section, report);
    let schemes = section.list(report, "auth", tokens::scheme);
    if !section.has("auth") {
        let tokens = if named.contains(Family::ServerAuth) { OWN_TOKENS } else { TokenKinds::NONE };
        return Auth { families: named, tokens, open: false };
    }
    let kinds = schemes.iter().filter_map(|scheme| match scheme {
        AuthScheme::Token(kind) => Some(*kind),
        AuthScheme::Certificate | AuthScheme::None => None,
    });
    let tokens = TokenKinds::of(&kinds.collect::<Vec<TokenKind>>());
    let open = schemes.contains(&AuthScheme::None);
    let mut list = Vec::new();
    if schemes.contains(&AuthScheme::Certificate) {
        list.push(Family::MutualAuth);
    }
    if open || !tokens.is_empty() {
        list.push(Family::ServerAuth);
    }
    let families = Families::from(list);
    let mut wrong = |found: &str, expected: &str| {
        report.add(section.key("auth"), section.place("auth"), found, expected);
    };
    if families.is_empty() {
        wrong("no scheme", "at least one, or no such line for the usual ones");
    } else if section.has("families") && families != named {
        wrong("schemes of other families than those of families", "both the same, or one of the lines");
    } else if open && !tokens.is_empty() {
        wrong("\"none\" beside kinds of tokens", "\"none\" or kinds of tokens");
    }
    Auth { families, tokens, open }
}

/// The standard endpoints of a role less `exclude`, with those that are only published on request.
fn chosen(
    section: &mut Section<'_, '_>,
    report: &mut Report<'_>,
    kind: RoleKind,
) -> Vec<&'static StandardEndpoint> {
    let names: Vec<&str> = StandardEndpoint::of(kind).map(|row| row.path).collect();
    let excluded = section.list(report, "exclude", |value| {
        let name =
            value.as_str().and_then(|name| names.iter().find(|known| known.eq_ignore_ascii_case(name)));
        name.copied().ok_or_else(|| format!("one of {}", names.join(", ")).into())
    });
    let mut requested = Vec::new();
    if kind == RoleKind::SoftwareUpdatePoint {
        for (key, path) in [("content", "Content"), ("self_update", "SelfUpdate")] {
            if section.optional(report, key, value::boolean).unwrap_or(false) {
                requested.push(path);
            }
        }
    }
    let is_chosen = |row: &&StandardEndpoint| {
        (row.by_default || requested.contains(&row.path)) && !excluded.contains(&row.path)
    };
    StandardEndpoint::of(kind).filter(is_chosen).collect()
}

impl Endpoint {
    /// Whether a request could be for both of them.
    pub(crate) fn meets(&self, other: &Endpoint) -> bool {
        let text = EndpointPath::as_str;
        text(&self.path).eq_ignore_ascii_case(text(&other.path)) && self.families.overlaps(other.families)
    }
}
