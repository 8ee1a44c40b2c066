//! From rows to the text of `site.toml`.
//!
//! Rows of one role id whose endpoints and internal paths are those of a management point or software update
//! point become one such section; what the table lacks is excluded there. An endpoint that the table opens to
//! fewer clients than the standard would, one that lies elsewhere and one that is not standard become
//! `[[endpoint]]`s. So what is published is what the table had, and nothing more.

use std::collections::HashMap;

use cmg::limits::{ENDPOINT_COUNT_MAX, ROLE_COUNT_MAX};
use cmg::mapping::{
    EndpointPath, Families, Family, InternalUrl, OriginAddress, RoleKind, STANDARD, Scheme, StandardEndpoint,
};

use super::Note;
use super::table::{Row, Table};

/// What the settings say besides the rows.
pub struct Options {
    pub source: String,
    pub site: Option<String>,
    pub serial: u64,
    /// Absolute paths.
    pub ca: Option<String>,
    pub thumbprint: Option<String>,
    pub client_cas: Vec<String>,
}

pub struct Written {
    pub text: String,
    pub notes: Vec<Note>,
    /// Rows that the settings have.
    pub taken: usize,
    pub roles: usize,
    /// Lines that say what the table does not.
    pub to_complete: usize,
}

/// Marks a line that an operator must complete.
const TO_COMPLETE: &str = "# TO COMPLETE:";

/// One row, understood.
struct Routing {
    line: u64,
    id: u64,
    family: Family,
    path: EndpointPath,
    target: InternalUrl,
}

/// A standard role at one place: kind, where, and the path there above its endpoints.
#[derive(Clone, PartialEq, Eq)]
struct Base {
    kind: RoleKind,
    address: OriginAddress,
    prefix: String,
}

pub fn write(table: &Table, options: &Options) -> Written {
    let mut notes = Vec::new();
    let routings = understood(&table.rows, &mut notes);
    let mut text = head(options);
    let ids = in_order(&routings);
    for id in &ids {
        let routings: Vec<&Routing> = routings.iter().filter(|routing| routing.id == *id).collect();
        text.push_str(&role(*id, &routings, options));
    }
    notes.sort_by_key(|note| note.line);
    let to_complete = text.matches(TO_COMPLETE).count();
    Written { text, notes, taken: routings.len(), roles: ids.len(), to_complete }
}

fn in_order(routings: &[Routing]) -> Vec<u64> {
    let mut ids = Vec::new();
    for routing in routings {
        if !ids.contains(&routing.id) {
            ids.push(routing.id);
        }
    }
    ids
}

// ── reading rows ────────────────────────────────────────────────────────────────────────────────

/// Rows that can be taken over, each external URL once; the others are noted.
fn understood(rows: &[Row], notes: &mut Vec<Note>) -> Vec<Routing> {
    let mut routings: Vec<Routing> = Vec::new();
    let mut seen: HashMap<(u64, Family, String), usize> = HashMap::new();
    let mut of_role: HashMap<u64, usize> = HashMap::new();
    for row in rows {
        let routing = match understand(row) {
            Ok(routing) => routing,
            Err(note) => {
                notes.push(note);
                continue;
            }
        };
        let key = (routing.id, routing.family, routing.path.as_str().to_ascii_lowercase());
        match seen.get(&key).map(|place| &routings[*place]) {
            Some(first) if first.target == routing.target => {
                notes.push(Note::new(
                    row.line,
                    &row.external,
                    format!("which line {} has already", first.line),
                ));
            }
            Some(first) => {
                let found = format!("{} to {}", row.external, row.internal);
                let why =
                    format!("expected each external URL once: line {} maps it to another place", first.line);
                notes.push(Note::new(row.line, found, why));
            }
            None => {
                let is_new = !of_role.contains_key(&routing.id);
                if is_new && of_role.len() >= ROLE_COUNT_MAX {
                    let why = format!("expected at most {ROLE_COUNT_MAX} roles of one site");
                    notes.push(Note::new(row.line, &row.external, why));
                    continue;
                }
                let count = of_role.entry(routing.id).or_default();
                if *count >= ENDPOINT_COUNT_MAX * Family::ALL.len() {
                    let why = format!("expected at most {ENDPOINT_COUNT_MAX} endpoints of one role");
                    notes.push(Note::new(row.line, &row.external, why));
                    continue;
                }
                *count += 1;
                seen.insert(key, routings.len());
                routings.push(routing);
            }
        }
    }
    routings
}

fn understand(row: &Row) -> Result<Routing, Note> {
    let wrong = |found: &str, why: &str| Note::new(row.line, found, why);
    let external = row.external.trim_end_matches('*');
    let mut segments = external.split('/').skip_while(|segment| family(segment).is_none());
    let family = segments.next().and_then(family).ok_or_else(|| {
        wrong(
            &row.external,
            "expected an external URL with /CCM_Proxy_MutualAuth/ROLE-ID/ or /CCM_Proxy_ServerAuth/ROLE-ID/",
        )
    })?;
    let id = segments.next().unwrap_or_default();
    if ["ServiceMetadata", "AADAuthInfo", "ImplicitAuth"].iter().any(|name| id.eq_ignore_ascii_case(name)) {
        return Err(wrong(&row.external, "which every gateway answers by itself: no setting is needed"));
    }
    let is_digits = !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit());
    let id = is_digits.then(|| id.parse::<u64>().ok()).flatten();
    let id = id.ok_or_else(|| {
        wrong(&row.external, "expected a role id behind the family: a whole number below 2^64")
    })?;
    let rest = segments.collect::<Vec<_>>().join("/");
    let name = if rest.trim_matches('/').is_empty() { row.endpoint.as_str() } else { rest.as_str() };
    let path = EndpointPath::parse(name).map_err(|fault| {
        wrong(name, &format!("{fault}: expected an endpoint like CCM_System, plain ASCII without query"))
    })?;
    let target = InternalUrl::parse(row.internal.trim_end_matches('*'))
        .map_err(|expected| wrong(&row.internal, &format!("expected as internal URL {expected}")))?;
    is_open(&path, family).map_err(|why| wrong(&row.external, why))?;
    Ok(Routing { line: row.line, id, family, path, target })
}

fn family(segment: &str) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family.segment().eq_ignore_ascii_case(segment))
}

/// What the table may open. Whom a standard endpoint is for is no matter of taste: the management point
/// believes who comes there.
fn is_open(path: &EndpointPath, family: Family) -> Result<(), &'static str> {
    if path.as_str().to_ascii_lowercase().split('/').any(|segment| segment.ends_with("_windowsauth")) {
        return Err(
            "which logs connections in with NTLM or Negotiate: not taken over, a gateway shares connections",
        );
    }
    match STANDARD.iter().find(|row| path.as_str().eq_ignore_ascii_case(row.path)) {
        Some(row) if !row.families.contains(family) => Err(match family {
            Family::ServerAuth => "which is for clients with a certificate only: not taken over for tokens",
            Family::MutualAuth => "which is for clients with a token only: not taken over for certificates",
        }),
        _ => Ok(()),
    }
}

// ── one role ────────────────────────────────────────────────────────────────────────────────────

/// An endpoint that gets a section of its own.
struct Own<'r> {
    path: &'r EndpointPath,
    target: &'r InternalUrl,
    families: Vec<Family>,
}

fn role(id: u64, routings: &[&Routing], options: &Options) -> String {
    let base = best_base(routings);
    let families_at = |row: &StandardEndpoint, base: &Base| -> Families {
        let here = routings
            .iter()
            .filter(|routing| fit(routing).is_some_and(|(at, found)| found == *base && at.path == row.path));
        Families::from(here.map(|routing| routing.family).collect::<Vec<_>>())
    };
    // Standard endpoints that are open to exactly those whom the table lets in.
    let whole: Vec<&StandardEndpoint> = base
        .iter()
        .flat_map(|base| {
            StandardEndpoint::of(base.kind).filter(move |row| families_at(row, base) == row.families)
        })
        .collect();
    let mut text = String::new();
    if let Some(base) = base.as_ref().filter(|_| !whole.is_empty()) {
        text.push_str(&standard(id, base, &whole, options));
    }
    let is_whole = |routing: &Routing| {
        fit(routing).is_some_and(|(row, found)| {
            Some(&found) == base.as_ref() && whole.iter().any(|one| one.path == row.path)
        })
    };
    let mut own: Vec<Own<'_>> = Vec::new();
    for routing in routings.iter().filter(|routing| !is_whole(routing)) {
        let same = |own: &&mut Own<'_>| {
            own.path.as_str().eq_ignore_ascii_case(routing.path.as_str()) && *own.target == routing.target
        };
        match own.iter_mut().find(same) {
            Some(own) => own.families.push(routing.family),
            None => {
                own.push(Own { path: &routing.path, target: &routing.target, families: vec![routing.family] })
            }
        }
    }
    own.iter().for_each(|own| text.push_str(&endpoint(id, own, options)));
    text
}

/// The standard endpoint that a routing is, and the place of the role that then has it.
fn fit(routing: &Routing) -> Option<(&'static StandardEndpoint, Base)> {
    let row = STANDARD.iter().find(|row| routing.path.as_str().eq_ignore_ascii_case(row.path))?;
    let InternalUrl { address, prefix } = &routing.target;
    let above = prefix.len().checked_sub(row.path.len() + 1)?;
    let (above, own) = prefix.split_at_checked(above)?;
    own.strip_prefix('/')?
        .eq_ignore_ascii_case(row.path)
        .then(|| (row, Base { kind: row.kind, address: address.clone(), prefix: above.to_owned() }))
}

/// The place that most routings agree on.
fn best_base(routings: &[&Routing]) -> Option<Base> {
    let bases: Vec<Base> = routings.iter().filter_map(|routing| fit(routing).map(|(_, base)| base)).collect();
    let count = |base: &Base| bases.iter().filter(|other| *other == base).count();
    // Of several the first: `max_by_key` would take the last.
    bases.iter().rev().max_by_key(|base| count(base)).cloned()
}

// ── writing ─────────────────────────────────────────────────────────────────────────────────────

fn head(options: &Options) -> String {
    let code = match &options.site {
        Some(code) => format!("code = {}", quote(code)),
        None => format!("code = \"PS1\"  {TO_COMPLETE} code of the site"),
    };
    let roots = match options.client_cas.as_slice() {
        [] => format!(
            "roots = []  {TO_COMPLETE} PEM files with the CAs of client certificates; without one no client gets in"
        ),
        files => format!("roots = [{}]", list(files.iter().map(|file| quote(file)))),
    };
    let (source, serial) = (options.source.escape_debug(), options.serial);
    format!("# Written by `cmg import` from {source}.\n\n{code}\nserial = {serial}\n\n[trust]\n{roots}\n")
}

fn standard(id: u64, base: &Base, whole: &[&StandardEndpoint], options: &Options) -> String {
    let section = match base.kind {
        RoleKind::ManagementPoint => "management_point",
        RoleKind::SoftwareUpdatePoint | RoleKind::Own => "software_update_point",
    };
    let has = |row: &StandardEndpoint| whole.iter().any(|one| one.path == row.path);
    let mut text = format!("\n[[{section}]]\n{}", place(id, &base.address, &base.prefix, options, None));
    for (key, path) in [("content", "Content"), ("self_update", "SelfUpdate")] {
        if whole.iter().any(|row| row.path == path) {
            text.push_str(&format!("{key} = true\n"));
        }
    }
    let missing = StandardEndpoint::of(base.kind).filter(|row| row.by_default && !has(row));
    let missing: Vec<String> = missing.map(|row| quote(row.path)).collect();
    if !missing.is_empty() {
        text.push_str(&format!("exclude = [{}]\n", list(missing.into_iter())));
    }
    text
}

fn endpoint(id: u64, own: &Own<'_>, options: &Options) -> String {
    let known = STANDARD.iter().find(|row| own.path.as_str().eq_ignore_ascii_case(row.path));
    let path = if own.path.as_str().is_empty() { "/" } else { own.path.as_str() };
    let families = own.families.iter().map(|family| match family {
        Family::MutualAuth => "\"mutual_auth\"".to_owned(),
        Family::ServerAuth => "\"server_auth\"".to_owned(),
    });
    let InternalUrl { address, prefix } = own.target;
    let mut text = format!("\n[[endpoint]]\n{}", place(id, address, prefix, options, Some(path)));
    text.push_str(&format!("families = [{}]\n", list(families)));
    if let Some(row) = known {
        // As in the section of its role.
        text.push_str(if row.once {
            "once = true\nforward_identity = false\n"
        } else {
            "forward_identity = false\n"
        });
    }
    text
}

/// Role id, path where there is one, URL, and whom to believe there.
fn place(id: u64, address: &OriginAddress, prefix: &str, options: &Options, path: Option<&str>) -> String {
    // Integers of TOML end at 2^63.
    let id = if i64::try_from(id).is_ok() { id.to_string() } else { quote(&id.to_string()) };
    let path = path.map_or(String::new(), |path| format!("path = {}\n", quote(path)));
    let url = quote(&format!("{}://{}{prefix}", address.scheme.as_str(), address.authority()));
    let trust = match (address.scheme, &options.ca, &options.thumbprint) {
        (Scheme::Http, _, _) => String::new(),
        (Scheme::Https, Some(ca), _) => format!("ca = {}\n", quote(ca)),
        (Scheme::Https, None, Some(thumbprint)) => format!("thumbprint_sha256 = {}\n", quote(thumbprint)),
        (Scheme::Https, None, None) => format!(
            "ca = \"origin-ca.pem\"  {TO_COMPLETE} PEM file with the CA of {}, or thumbprint_sha256 of its certificate\n",
            address.host
        ),
    };
    format!("id = {id}\n{path}url = {url}\n{trust}")
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A TOML string with this content, whatever it holds.
fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}
