//! `cmg status`: how running roles are, asked at their admin listeners and told for people.
//!
//! What a role says of itself is its own business; keys that this command does not know are shown as
//! they are, so that an older command still tells what a newer role says.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cmg::admin::{AskError, Target, Trust, ask};
use cmg::mapping::split_authority;
use serde_json::{Map, Value, json};

use super::Failure;
use super::running::RoleFile;

#[derive(clap::Args)]
pub struct Arguments {
    /// Ask the role with these settings; may be repeated
    #[arg(long, value_name = "FILE", group = "whom")]
    config: Vec<PathBuf>,
    /// Ask the roles that `cmg up` runs in this folder; ./cmg-up if nothing else is said
    #[arg(long, value_name = "FOLDER", group = "whom")]
    dir: Option<PathBuf>,
    /// Ask the admin listener at this host:port or URL
    #[arg(long, value_name = "ADDRESS", group = "whom")]
    address: Option<String>,
    /// Certificates to believe at a listener with TLS, PEM; with --config the listener's own is enough
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token that the listener asks for; with --config the one in the settings
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON: an array with role, address, state, reason and what each said
    #[arg(long)]
    json: bool,
    /// Ask again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

const WATCH_EVERY: Duration = Duration::from_secs(2);
const DEFAULT_FOLDER: &str = "./cmg-up";
const HEALTHY: &str = "Healthy";
const DOWN: &str = "Down";

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let whom = whom(arguments)?;
    loop {
        let told: Vec<Told> = whom.iter().map(|(role, target)| look(role, target)).collect();
        let text = if arguments.json { as_json(&told, !arguments.watch) } else { as_text(&told) };
        if !arguments.watch {
            let _ = io::stdout().write_all(text.as_bytes());
            return verdict(&told);
        }
        let mut out = io::stdout().lock();
        let clear = if out.is_terminal() && !arguments.json { "\x1b[H\x1b[2J" } else { "" };
        if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() {
            // Whoever watched has gone.
            return Ok(());
        }
        drop(out);
        thread::sleep(WATCH_EVERY);
    }
}

fn verdict(told: &[Told]) -> Result<(), Failure> {
    let unwell: Vec<String> = told
        .iter()
        .filter(|told| !told.is_healthy())
        .map(|told| format!("{} at {} is {}", told.role, told.address, told.state))
        .collect();
    if unwell.is_empty() { Ok(()) } else { Err(Failure::Broken(unwell.join("; "))) }
}

// ── whom to ask ─────────────────────────────────────────────────────────────────────────────────

type Whom = Vec<(String, Target)>;

fn whom(arguments: &Arguments) -> Result<Whom, Failure> {
    let mut whom = if !arguments.config.is_empty() {
        let read = |config: &PathBuf| {
            RoleFile::read(config).map(|file| (file.role.to_owned(), file.listener(config)))
        };
        arguments.config.iter().map(read).collect::<Result<Whom, _>>()?
    } else if let Some(address) = &arguments.address {
        let is_protected = arguments.ca.is_some() || arguments.token_file.is_some();
        vec![("role".to_owned(), listener(address, is_protected)?)]
    } else {
        of_up(arguments.dir.as_deref())?
    };
    for (_, target) in &mut whom {
        protect(target, arguments)?;
    }
    Ok(whom)
}

/// The roles in the `up.json` of a folder, which is there while they run.
fn of_up(folder: Option<&Path>) -> Result<Whom, Failure> {
    let file = folder.unwrap_or(Path::new(DEFAULT_FOLDER)).join("up.json");
    let text = std::fs::read_to_string(&file).map_err(|error| match folder {
        Some(_) => Failure::Broken(format!(
            "{}: {error}; `cmg up` writes it when everything is ready and removes it at its end: is it running?",
            file.display()
        )),
        None => Failure::Usage(format!(
            "whom to ask? --config FILE, --address HOST:PORT or --dir FOLDER says it ({}: {error})",
            file.display()
        )),
    })?;
    let wrong = |what: &str| Failure::Broken(format!("{}: {what}", file.display()));
    let report: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let roles = report["admin"].as_object().filter(|roles| !roles.is_empty());
    let roles = roles.ok_or_else(|| wrong("names no admin listeners"))?;
    roles
        .iter()
        .map(|(role, address)| {
            let address = address.as_str().ok_or_else(|| wrong("an admin listener without an address"))?;
            Ok((role.clone(), listener(address, false)?))
        })
        .collect()
}

/// `host:port`, or a URL without a path.
fn listener(address: &str, is_protected: bool) -> Result<Target, Failure> {
    let wrong = || {
        let text = "expected host and port like 127.0.0.1:9140, or a URL like https://gw1.example.org:9140";
        Failure::Usage(format!("{address}: {text}"))
    };
    let (scheme, authority) = address.split_once("://").unwrap_or(("", address));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (is_tls, default_port) = match scheme {
        "http" => (false, Some(80)),
        "https" => (true, Some(443)),
        "" => (is_protected, None),
        _ => return Err(wrong()),
    };
    let (host, port) = split_authority(authority).ok_or_else(wrong)?;
    let port = port.or(default_port).ok_or_else(wrong)?;
    // Whom to believe comes from --ca; an empty path is replaced or refused by `protect`.
    let trust = is_tls.then(|| Trust::Authority(PathBuf::new()));
    Ok(Target::Listener { host, port, trust, token_file: None })
}

/// What the command line says of TLS and token goes before what the settings say.
fn protect(target: &mut Target, arguments: &Arguments) -> Result<(), Failure> {
    let Target::Listener { trust, token_file, .. } = target else { return Ok(()) };
    if let (Some(trust), Some(ca)) = (trust.as_mut(), &arguments.ca) {
        *trust = Trust::Authority(ca.clone());
    }
    if let Some(file) = &arguments.token_file {
        *token_file = Some(file.clone());
    }
    if *trust == Some(Trust::Authority(PathBuf::new())) {
        return Err(Failure::Usage("--ca FILE must say whom to believe at a listener with TLS".into()));
    }
    if trust.is_none() && (token_file.is_some() || arguments.ca.is_some()) {
        let text = "--ca and --token-file are for a listener with TLS; a token is never sent in plain";
        return Err(Failure::Usage(text.into()));
    }
    Ok(())
}

// ── asking ──────────────────────────────────────────────────────────────────────────────────────

/// What is known of one role.
struct Told {
    role: String,
    address: String,
    state: String,
    reason: Option<String>,
    /// What it said, if it did.
    status: Option<Map<String, Value>>,
}

impl Told {
    fn is_healthy(&self) -> bool {
        self.state.eq_ignore_ascii_case(HEALTHY)
    }
}

fn look(role: &str, target: &Target) -> Told {
    let address = target.to_string();
    match ask_status(target) {
        Ok(status) => {
            let word = |key| status.get(key).and_then(Value::as_str).map(plain);
            let role = word("role").unwrap_or_else(|| role.to_owned());
            let (state, reason) = match word("state") {
                Some(state) => (state, word("reason")),
                None => by_readiness(target),
            };
            Told { role, address, state, reason, status: Some(status) }
        }
        Err(reason) => {
            Told { role: role.to_owned(), address, state: DOWN.into(), reason: Some(reason), status: None }
        }
    }
}

/// A role that gives its state no word is what it answers to load balancers.
fn by_readiness(target: &Target) -> (String, Option<String>) {
    match ask(target, "GET", "/readyz", "") {
        Ok(answer) if answer.status == 200 => (HEALTHY.into(), None),
        Ok(answer) => (DOWN.into(), Some(plain(answer.body.trim_end()))),
        Err(error) => (DOWN.into(), Some(error.to_string())),
    }
}

/// `/status`, or why there is none and what to look at.
fn ask_status(target: &Target) -> Result<Map<String, Value>, String> {
    let answer = ask(target, "GET", "/status", "").map_err(|error| {
        let look_at = match &error {
            AskError::Unreachable(_) => {
                "; nobody to be reached there. Is the role running? Its log says why it ended, and \
                 admin.address in its settings where it is asked (from other machines only with TLS and a token)"
            }
            AskError::Broken(text) if text.starts_with("TLS: ") => {
                "; --ca must name the authority of its certificate, and the address its name; and it must be \
                 a listener with TLS"
            }
            AskError::Broken(_) => "; if it asks for TLS, an https:// URL with --ca and --token-file is needed",
            AskError::Silent => "; something holds the port and says nothing, or a firewall drops packets",
            AskError::File(_) => "",
        };
        format!("{error}{look_at}")
    })?;
    match answer.status {
        200 => {}
        401 => {
            return Err(
                "it asks for another token; --token-file or admin.token_file names it, and the role \
                        read it when it started"
                    .into(),
            );
        }
        404 => return Err("it has no /status: a health listener, or something else than cmg".into()),
        status => return Err(format!("it answers {status}: {}", plain(answer.body.trim_end()))),
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("it does not speak as a role of cmg: {error}"))
}

// ── telling ─────────────────────────────────────────────────────────────────────────────────────

fn as_json(told: &[Told], is_pretty: bool) -> String {
    let all = told.iter().map(|told| {
        let Told { role, address, state, reason, status } = told;
        json!({ "role": role, "address": address, "state": state, "reason": reason, "status": status })
    });
    let all = Value::Array(all.collect());
    if is_pretty { format!("{all:#}\n") } else { format!("{all}\n") }
}

fn as_text(told: &[Told]) -> String {
    told.iter().map(describe).collect::<Vec<_>>().join("\n")
}

/// Told under another name, or too long for a page.
const SPOKEN_OF: [&str; 16] = [
    "role",
    "state",
    "reason",
    "ready",
    "service",
    "instance",
    "name",
    "site",
    "version",
    "uptime_secs",
    "started",
    "clients",
    "clients_max",
    "shards",
    "direct_descriptors_per_shard",
    "settings_folder",
];

fn describe(told: &Told) -> String {
    let mut text = format!("{:<11}{:<10}{}\n", told.role, told.state, told.address);
    if let Some(reason) = &told.reason {
        row(&mut text, "reason", reason);
    }
    let Some(status) = &told.status else { return text };
    row(&mut text, "is", &introduction(status));
    if let Some(clients) = status.get("clients") {
        let most = status.get("clients_max").map(|most| format!(" of {} at most", scalar(most)));
        row(&mut text, "clients", &format!("{}{}", scalar(clients), most.unwrap_or_default()));
    }
    if !status.contains_key("requests")
        && let Some(requests) = over_shards(status, "requests")
    {
        row(&mut text, "requests", &requests.to_string());
    }
    if !status.contains_key("links")
        && let Some(links) = over_shards(status, "links")
    {
        row(&mut text, "links", &links.to_string());
    }
    for (key, value) in status.iter().filter(|(key, _)| !SPOKEN_OF.contains(&key.as_str())) {
        describe_key(&mut text, &plain(key), value);
    }
    text
}

fn describe_key(text: &mut String, key: &str, value: &Value) {
    match (key, value) {
        (_, Value::Null) => {}
        ("refused", Value::Object(reasons)) => {
            let mut counts: Vec<_> = reasons.iter().filter(|(_, count)| count.as_u64() != Some(0)).collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.as_u64()));
            if counts.is_empty() {
                row(text, key, "none");
            }
            for (reason, count) in counts {
                row(text, key, &format!("{} {}", scalar(count), plain(reason)));
            }
        }
        ("sites", Value::Object(sites)) => {
            for (site, told) in sites {
                row(text, "settings", &format!("{} {}", plain(site), facts(told)));
            }
        }
        ("limits", Value::Array(limits)) => {
            let is_near = |limit: &&Value| limit["level"].as_str() != Some("ample");
            let near: Vec<Value> = limits.iter().filter(is_near).cloned().collect();
            each(text, "near a limit", &near);
        }
        ("sites", Value::Array(sites)) => each(text, "settings", sites),
        ("links" | "instances" | "certificates" | "origins", Value::Array(items)) => each(text, key, items),
        ("https_listeners", Value::Array(items)) if items.is_empty() => {}
        ("listeners" | "internal_listeners" | "https_listeners", Value::Array(items)) => {
            let name =
                key.replace("internal_listeners", "channels on").replace("https_listeners", "by https on");
            row(text, &name, &scalars(items));
        }
        (_, Value::Array(items)) => entries(text, key, items.len()),
        (_, Value::Object(members)) => entries(text, key, members.len()),
        (_, value) => row(text, key, &scalar(value)),
    }
}

fn entries(text: &mut String, key: &str, count: usize) {
    let what = if count == 1 { "entry (--json shows it)" } else { "entries (--json shows them)" };
    row(text, key, &format!("{count} {what}"));
}

/// One line an item; the rest of a long list is counted.
fn each(text: &mut String, key: &str, items: &[Value]) {
    const SHOWN_MAX: usize = 32;
    if items.is_empty() {
        row(text, key, "none");
    }
    for item in items.iter().take(SHOWN_MAX) {
        row(text, key, &facts(item));
    }
    if let Some(more) = items.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        row(text, key, &format!("and {more} more (--json shows them)"));
    }
}

/// `name value, name value`; what is true is named, what is false or null is left out.
fn facts(value: &Value) -> String {
    let Value::Object(members) = value else { return scalar(value) };
    let told = members.iter().filter_map(|(key, value)| {
        let name = plain(key).replace('_', " ");
        match value {
            Value::Null => None,
            Value::Bool(true) => Some(name),
            Value::Bool(false) => Some(format!("not {name}")),
            Value::String(digest) if key == "sha256" => {
                Some(format!("{name} {}", plain(digest.get(..12).unwrap_or(digest))))
            }
            Value::Array(items) if items.is_empty() => Some(format!("no {name}")),
            Value::Array(items) => Some(format!("{name} {}", scalars(items))),
            Value::Number(_) => Some(measured(&name, value)),
            value => Some(format!("{name} {}", scalar(value))),
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// A number by the unit at the end of its name: whole seconds are an age, a fraction was measured.
fn measured(name: &str, value: &Value) -> String {
    let number = value.as_f64().unwrap_or_default();
    match name.strip_suffix(" secs") {
        Some(name) if value.is_f64() && number < 1.0 => format!("{name} {:.3} ms", number * 1000.0),
        Some(name) if value.is_f64() && number < 10.0 => format!("{name} {number:.3} s"),
        Some(name) => format!("{name} {}", span(number)),
        None => format!("{name} {}", scalar(value)),
    }
}

fn introduction(status: &Map<String, Value>) -> String {
    let mut parts = Vec::new();
    for (key, word) in [("instance", "instance"), ("name", ""), ("service", "of"), ("site", "of site")] {
        if let Some(value) = status.get(key).and_then(Value::as_str) {
            parts.push(format!("{word} {}", plain(value)).trim_start().to_owned());
        }
    }
    let mut text = parts.join(" ");
    if let Some(version) = status.get("version").and_then(Value::as_str) {
        let _ = write!(text, ", version {}", plain(version));
    }
    if let Some(up) = status.get("uptime_secs").and_then(Value::as_f64) {
        let _ = write!(text, ", up {}", span(up));
    }
    text.trim_start_matches(", ").to_owned()
}

fn span(secs: f64) -> String {
    match secs {
        ..120.0 => format!("{secs:.0} s"),
        120.0..7_200.0 => format!("{:.0} min", secs / 60.0),
        7_200.0..172_800.0 => format!("{:.0} h", secs / 3_600.0),
        _ => format!("{:.0} days", secs / 86_400.0),
    }
}

/// The sum of a counter over all shards, where it is told by shard only.
fn over_shards(status: &Map<String, Value>, key: &str) -> Option<u64> {
    let shards = status.get("shards")?.as_array()?;
    shards.iter().map(|shard| shard.get(key)?.as_u64()).sum()
}

fn row(text: &mut String, key: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(text, "  {key:<12} {value}");
    }
}

fn scalars(items: &[Value]) -> String {
    items.iter().map(scalar).collect::<Vec<_>>().join(" ")
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        value => value.to_string(),
    }
}

/// What a role says is shown on a terminal: names in it must not drive that.
fn plain(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() { '\u{FFFD}' } else { sign }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: Value) -> String {
        let Value::Object(status) = status else { panic!("an object") };
        let text = |text: &str| text.to_owned();
        let (role, address) = (text("gateway"), text("http://127.0.0.1:9140"));
        describe(&Told { role, address, state: text(HEALTHY), reason: None, status: Some(status) })
    }

    #[test]
    fn a_role_is_told_of_in_rows() {
        let text = told(json!({
            "role": "gateway", "service": "cmg.example", "instance": "gw1", "version": "1.2",
            "uptime_secs": 600, "clients": 3, "clients_max": 18000,
            "refused": { "A": 0, "B": 2, "C": 7 },
            "links": [
                { "connection_point": "1", "site": "PS1", "open": true, "round_trip_secs": 0.0004, "up_secs": 5 },
                { "connection_point": "2", "site": "PS1", "open": false, "round_trip_secs": 5.25, "up_secs": 0 },
            ],
            "listeners": ["127.0.0.1:443", "[::1]:443"],
            "internal_listeners": ["127.0.0.1:10140"],
            "sites": [{ "site": "PS1", "serial": 4, "sha256": "00112233445566778899", "connection_points": ["1"] }],
            "shards": [{ "requests": 4 }, { "requests": 5 }],
        }));
        let expected = "gateway    Healthy   http://127.0.0.1:9140\n\
            \x20 is           instance gw1 of cmg.example, version 1.2, up 10 min\n\
            \x20 clients      3 of 18000 at most\n\
            \x20 requests     9\n\
            \x20 channels on  127.0.0.1:10140\n\
            \x20 links        connection point 1, open, round trip 0.400 ms, site PS1, up 5 s\n\
            \x20 links        connection point 2, not open, round trip 5.250 s, site PS1, up 0 s\n\
            \x20 listeners    127.0.0.1:443 [::1]:443\n\
            \x20 refused      7 C\n\
            \x20 refused      2 B\n\
            \x20 settings     connection points 1, serial 4, sha256 001122334455, site PS1\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_known_is_shown_and_drives_no_terminal() {
        let text = told(json!({
            "brand_new": 7, "something_long": 1, "list": [1, 2], "object": { "a": 1 }, "nothing": null, "x\u{1b}[2J": "\u{1b}[31m\nred",
        }));
        for row in
            ["brand_new    7\n", "list         2 entries", "object       1 entry (", "something_long 1\n"]
        {
            assert!(text.contains(row), "{row}: {text}");
        }
        assert!(!text.contains("nothing") && !text.contains('\u{1b}') && !text.contains("\nred"), "{text}");
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (address, shown) in [
            ("127.0.0.1:9140", "http://127.0.0.1:9140"),
            ("http://localhost:1/", "http://localhost:1"),
            ("https://gw1.example.org", "https://gw1.example.org:443"),
            ("[::1]:9140", "http://[::1]:9140"),
        ] {
            let target = listener(address, false).ok().unwrap();
            assert_eq!(target.to_string(), shown);
        }
        for address in ["", "gw1", ":1", "gw1:x", "ftp://a:1", "http://a:1/status", "a b:1"] {
            assert!(matches!(listener(address, false), Err(Failure::Usage(_))), "{address}");
        }
    }
}
