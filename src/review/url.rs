//! What would become of one URL: which site, role and publishing endpoint take it, for whom, and where it
//! goes inside; or why not, with the status and reason text that the client would get.
//!
//! The order of questions is the gateway's own (`gateway/request.rs`), then the connection point's.

use std::fmt;

use serde_json::{Value, json};

use crate::mapping::{
    Endpoint, Families, Family, Found, Path, Publication, PublishedTable, Resource, Role, RoleIds, RoleKind,
    split_authority,
};
use crate::refusal::Refusal;
use crate::settings::{GatewaySettings, PublishedTrust, SiteSettings};

/// The answer to `--url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was asked.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `None`: it is taken.
    pub refusal: Option<Refusal>,
    /// One sentence of cause.
    pub why: String,
    /// Facts in the order of the way, as far as it went.
    pub facts: Vec<(&'static str, String)>,
}

impl Asked {
    /// For scripts.
    pub fn to_json(&self) -> Value {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        json!({
            "method": self.method,
            "target": self.target,
            "taken": self.refusal.is_none(),
            "status": self.refusal.map(Refusal::status),
            "reason": self.refusal.map(Refusal::reason),
            "why": self.why,
            "facts": facts,
        })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { method, target, refusal, why, facts } = self;
        match refusal {
            None => writeln!(f, "url {method} {target}: taken: {why}")?,
            Some(refusal) => {
                writeln!(f, "url {method} {target}: {} {}: {why}", refusal.status(), refusal.reason())?;
            }
        }
        for (name, value) in facts {
            writeln!(f, "  {name:<14} {value}")?;
        }
        Ok(())
    }
}

/// Judges `url` (absolute, or a path with its query) by what the sites publish and the gateway allows.
pub fn judge_url(
    url: &str,
    method: &str,
    gateway: Option<&GatewaySettings>,
    sites: &[&SiteSettings],
) -> Asked {
    let (authority, target) = split(url);
    let mut asked = Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        refusal: None,
        why: String::new(),
        facts: Vec::new(),
    };
    if let Some(note) = authority.and_then(|authority| wrong_host(authority, gateway)) {
        asked.facts.push(("host", note));
    }
    match judge(&mut asked.facts, target.as_bytes(), method, gateway, sites) {
        Ok(why) => asked.why = why,
        Err((refusal, why)) => (asked.refusal, asked.why) = (Some(refusal), why),
    }
    asked
}

fn split(url: &str) -> (Option<&str>, &str) {
    match url.split_once("://") {
        None => (None, url),
        Some((_, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let target = &rest[end..];
            (Some(&rest[..end]), if target.starts_with('/') { target } else { "/" })
        }
    }
}

fn wrong_host(authority: &str, gateway: Option<&GatewaySettings>) -> Option<String> {
    let gateway = gateway?;
    let (host, port) = split_authority(authority)?;
    if host != gateway.name {
        return Some(format!("{host} is not gateway.name ({}): clients check the name", gateway.name));
    }
    let port = port.unwrap_or(443);
    let is_listened = gateway.listeners.iter().any(|listener| listener.port() == port);
    (!is_listened).then(|| {
        let ports: Vec<_> = gateway.listeners.iter().map(|listener| listener.port().to_string()).collect();
        format!(
            "port {port} is none of the listeners' ({}), unless something in front maps it",
            ports.join(", ")
        )
    })
}

type Refused = (Refusal, String);

fn judge(
    facts: &mut Vec<(&'static str, String)>,
    target: &[u8],
    method: &str,
    gateway: Option<&GatewaySettings>,
    sites: &[&SiteSettings],
) -> Result<String, Refused> {
    let path = Path::parse(target).map_err(|refusal| {
        let why = match refusal {
            Refusal::UnknownUrl => "a URL begins with /CCM_Proxy_MutualAuth/ or /CCM_Proxy_ServerAuth/",
            _ => "the path is not in canonical form: two readers could take it for different files",
        };
        (refusal, why.to_owned())
    })?;
    facts.push(("family", format!("{} ({})", path.family.segment(), identity(path.family))));
    if let Resource::Role(below) = &path.resource {
        facts.push(("role id", below.id.to_string()));
    }
    let all = RoleIds::all();
    let none = RoleIds::default();
    let roles: Vec<Vec<Role>> =
        sites.iter().map(|site| site.publish(PublishedTrust::default()).roles).collect();
    let publications = sites.iter().zip(&roles).enumerate().map(|(site, (settings, roles))| {
        let rights =
            |gateway: &'_ GatewaySettings| gateway.sites.iter().position(|one| one.code == settings.code);
        let allowed = match gateway {
            None => &all,
            Some(gateway) => rights(gateway).map_or(&none, |place| &gateway.sites[place].role_ids),
        };
        Publication { site, roles, allowed }
    });
    let (table, _) = PublishedTable::new(publications);
    let family = path.family;
    let found = table.look_up(path).map_err(|refusal| (refusal, why_unknown(path, gateway, sites)))?;
    let (site, role, endpoint) = match found {
        Found::Metadata(_) => return Ok("the gateway answers by itself, whoever asks".to_owned()),
        Found::AadAuthInfo(_) => {
            return Ok(
                "the gateway answers by itself, to tenants of a token issuer with client_id".to_owned()
            );
        }
        Found::ImplicitAuth => {
            return Err((Refusal::InvalidToken, "approval by mail is not served".to_owned()));
        }
        Found::Endpoint { site, role, endpoint, .. } => (sites[site], role, endpoint),
    };
    describe(facts, site, role, endpoint);
    endpoint
        .admit(method.as_bytes(), None)
        .map_err(|refusal| (refusal, format!("the endpoint takes {}, not {method}", methods(endpoint))))?;
    if family == Family::ServerAuth && !endpoint.open && site.tokens.issuers.is_empty() {
        let why = "the site has no [[token_issuer]], so that no token is taken".to_owned();
        return Err((Refusal::InvalidToken, why));
    }
    let mapping = site.url_mapping();
    let mapped = mapping
        .map(target)
        .map_err(|refusal| (refusal, "the connection point maps it nowhere".to_owned()))?;
    let inside = [mapped.prefix, mapped.rest].concat();
    let inside = String::from_utf8_lossy(&inside);
    let origins = site.groups[mapped.group()].origins.iter().map(|origin| &site.origins[*origin].address);
    let inside = origins.map(|address| address.url(&inside)).collect::<Vec<_>>().join(" or ");
    facts.push(("internal URL", inside.clone()));
    Ok(format!("it goes to {inside}"))
}

const fn identity(family: Family) -> &'static str {
    match family {
        Family::MutualAuth => "a client certificate that the site trusts",
        Family::ServerAuth => "a token",
    }
}

fn describe(facts: &mut Vec<(&'static str, String)>, site: &SiteSettings, role: &Role, endpoint: &Endpoint) {
    let kind = match role.kind {
        RoleKind::ManagementPoint => "management point",
        RoleKind::SoftwareUpdatePoint => "software update point",
        RoleKind::Own => "the site's own endpoints",
    };
    let section =
        site.roles.iter().position(|one| one.id == role.id).and_then(|place| site.role_keys.get(place));
    let path = endpoint.path.as_str();
    let path = if path.is_empty() { "/ (the whole role)" } else { path };
    let families = match endpoint.families {
        Families::BOTH => "mutual_auth, server_auth",
        Families::MUTUAL_AUTH => "mutual_auth",
        _ => "server_auth",
    };
    facts.push(("site", format!("{} (serial {})", site.code, site.serial)));
    facts.push(("role", format!("{kind} ({})", section.map_or("", String::as_str))));
    facts.push(("endpoint", path.to_owned()));
    facts.push(("families", families.to_owned()));
    if endpoint.families.contains(Family::ServerAuth) {
        let tokens = if endpoint.open { "anybody".to_owned() } else { endpoint.tokens.to_string() };
        facts.push(("tokens", tokens));
    }
    facts.push(("methods", methods(endpoint)));
    facts.push(("request limit", format!("{} octets of body", endpoint.request_length_max)));
    facts.push((
        "repeated",
        if endpoint.once { "never" } else { "GET, HEAD, OPTIONS, PROPFIND without a body" }.to_owned(),
    ));
    facts.push((
        "identity told",
        if endpoint.forward_identity { "yes, to the origin" } else { "no" }.to_owned(),
    ));
}

fn methods(endpoint: &Endpoint) -> String {
    match endpoint.methods.as_slice() {
        [] => "any method but TRACE, TRACK, CONNECT".to_owned(),
        listed => listed.iter().map(crate::mapping::Method::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn why_unknown(path: Path<'_>, gateway: Option<&GatewaySettings>, sites: &[&SiteSettings]) -> String {
    let Resource::Role(below) = path.resource else {
        return "no role id follows the family, and it is none of the gateway's own resources".to_owned();
    };
    let id = below.id;
    let Some((site, role)) =
        sites.iter().find_map(|site| Some((site, site.roles.iter().find(|role| role.id == id)?)))
    else {
        let codes: Vec<_> = sites.iter().map(|site| site.code.as_str()).collect();
        return format!(
            "no role {id} in the settings of {}",
            if codes.is_empty() {
                "any site (no file of one was given)".to_owned()
            } else {
                format!("site {}", codes.join(", "))
            }
        );
    };
    if let Some(gateway) = gateway {
        let Some(rights) = gateway.sites.iter().find(|one| one.code == site.code) else {
            return format!("the gateway has no [[site]] with code {}", site.code);
        };
        if !rights.role_ids.contains(id) {
            return format!(
                "role {id} is not among the role_ids of site {} at the gateway ({})",
                site.code, rights.role_ids
            );
        }
    }
    let other_family = role.endpoints.iter().find(|mapped| {
        let first = String::from_utf8_lossy(below.path()).to_ascii_lowercase();
        let own = format!("/{}", mapped.endpoint.path.as_str().to_ascii_lowercase());
        (first == own || first.starts_with(&format!("{own}/")))
            && !mapped.endpoint.families.contains(path.family)
    });
    match other_family {
        Some(mapped) => format!("\"{}\" is published, but not to this family", mapped.endpoint.path.as_str()),
        None => {
            let paths: Vec<_> = role
                .endpoints
                .iter()
                .filter(|mapped| mapped.endpoint.families.contains(path.family))
                .map(|mapped| mapped.endpoint.path.as_str())
                .collect();
            format!("role {id} publishes no such path to this family; it has: {}", paths.join(", "))
        }
    }
}
