//! `cmg check`: everything a start would refuse, found by looking; files against each other; and what
//! becomes of a URL.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cmg::admin::{Target, ask};
use cmg::review::{
    Asked, ConnectorReview, Document, Findings, GatewayReview, Listener, SiteReview, across, judge_url,
    sample_client, shut_out,
};
use cmg::settings::{AdminSettings, Kind, SettingsError, SiteSettings};
use cmg::shard::{self, Needs, ProbeErrors};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use super::Failure;

#[derive(clap::Args)]
pub struct Arguments {
    /// Settings files, in any order; what each is for is seen by its content. None: this machine alone
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Say what becomes of this URL (or path with its query)
    #[arg(long, value_name = "URL", requires = "files")]
    url: Option<String>,
    /// Method of the request to --url
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "url")]
    method: String,
    /// Judge a client's certificate (PEM, its own first) as a request with it would be
    #[arg(long, value_name = "FILE.pem", requires = "files")]
    client_cert: Option<PathBuf>,
    /// Look at the files alone: not at this machine's kernel, limits and ports
    #[arg(long, requires = "files")]
    files_only: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut check = Check { now: Some(UnixTime::now()), ..Check::default() };
    for file in &arguments.files {
        check.open(file);
    }
    check.forget_followed_sites();
    if !arguments.files_only {
        check.machine();
        check.ports();
    }
    check.judge();
    if let Some(file) = &arguments.client_cert {
        check.client(file);
    }
    let asked = arguments.url.as_ref().map(|url| check.ask(url, &arguments.method));
    let text = if arguments.json {
        check.json(asked.as_ref()).to_string() + "\n"
    } else {
        check.text(asked.as_ref())
    };
    // A closed pipe is nothing to die of.
    let _ = io::stdout().write_all(text.as_bytes());
    // What is wrong was said already, where it was asked for.
    if check.has_mistakes() { Err(Failure::Usage(String::new())) } else { Ok(()) }
}

/// What both roles do before they start: says everything at once that is wrong with the files and with the
/// machine, while no port is taken yet.
pub fn starting(files: &Findings, machine: Result<(), ProbeErrors>) -> Result<(), Failure> {
    let files = files.verdict().err().map(|errors| errors.to_string());
    let machine = machine.err().map(|errors| errors.to_string());
    let texts: Vec<String> = files.into_iter().chain(machine).collect();
    if texts.is_empty() { Ok(()) } else { Err(Failure::Usage(texts.join("\n"))) }
}

#[derive(Default)]
struct Check {
    now: Option<UnixTime>,
    files: Vec<String>,
    gateways: Vec<GatewayReview>,
    connectors: Vec<ConnectorReview>,
    sites: Vec<SiteReview>,
    /// What is wrong with the machine, in whole sentences.
    machine: Vec<String>,
    findings: Findings,
}

impl Check {
    fn now(&self) -> UnixTime {
        self.now.unwrap_or_else(UnixTime::now)
    }

    fn open(&mut self, file: &Path) {
        let now = self.now();
        self.files.push(file.display().to_string());
        let document = match Document::open(file) {
            Ok(document) => document,
            Err(error) => return self.findings.errors.push(error),
        };
        match Kind::of(&document.text) {
            Some(Kind::Gateway) => self.gateways.push(GatewayReview::of(document, now)),
            Some(Kind::Connector) => {
                let review = ConnectorReview::of(document, now);
                self.files.extend(review.site.iter().map(|site| site.document.name.clone()));
                self.connectors.push(review);
            }
            Some(Kind::Site) => self.sites.push(SiteReview::of(document, now)),
            None => self.unknown(&document),
        }
    }

    /// A file that nobody can tell the kind of: where it is no TOML, that is why.
    fn unknown(&mut self, document: &Document) {
        let syntax = SiteSettings::parse(&document.text, &document.name).err();
        let syntax = syntax.into_iter().flat_map(|errors| errors.0).filter(|error| error.key.is_empty());
        let before = self.findings.errors.len();
        self.findings.errors.extend(syntax);
        if self.findings.errors.len() == before {
            let expected = "settings of a gateway ([gateway]), a connection point ([connector]) or a site (code, serial)";
            self.findings.errors.push(document.source().error("", "no section that is known", expected));
        }
    }

    /// A site's file that was given and is followed by a connection point too is looked at once.
    fn forget_followed_sites(&mut self) {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let followed: Vec<PathBuf> = self
            .connectors
            .iter()
            .filter_map(|connector| Some(whole(&connector.site.as_ref()?.document.path)))
            .collect();
        self.sites.retain(|site| !followed.contains(&whole(&site.document.path)));
        self.files.dedup();
        let mut seen = Vec::new();
        self.files.retain(|file| {
            let path = whole(Path::new(file));
            let is_new = !seen.contains(&path);
            seen.push(path);
            is_new
        });
    }

    fn machine(&mut self) {
        let gateways = self.gateways.iter().filter_map(|gateway| gateway.settings.as_ref());
        let connectors = self.connectors.iter().filter_map(|connector| connector.settings.as_ref());
        let mut needs: Vec<Needs> =
            gateways.map(Needs::of_gateway).chain(connectors.map(Needs::of_connector)).collect();
        if needs.is_empty() {
            needs.push(Needs::default());
        }
        for needs in &needs {
            if let Err(ProbeErrors(errors)) = shard::probe(needs) {
                self.machine.extend(errors.iter().map(ToString::to_string));
            }
        }
        let mut seen = Vec::new();
        self.machine.retain(|line| {
            let is_new = !seen.contains(line);
            seen.push(line.clone());
            is_new
        });
        if self.machine.is_empty() {
            self.findings.fine.push("this machine: io_uring, open files and locked memory".to_owned());
        }
    }

    /// Which ports cannot be had. One that the very role holds that runs from this file is no mistake.
    fn ports(&mut self) {
        let now = self.now();
        for gateway in &mut self.gateways {
            let taken = gateway.ports(now);
            let Some(settings) = &gateway.settings else { continue };
            let is_own =
                |status: &Value| status["role"] == "gateway" && status["instance"] == settings.instance;
            let name = format!("gateway {}", settings.instance);
            excuse(&gateway.document, &mut gateway.findings, &taken, &settings.admin, &name, is_own);
        }
        for connector in &mut self.connectors {
            let taken = connector.ports(now);
            let Some(settings) = &connector.settings else { continue };
            let is_own =
                |status: &Value| status["role"] == "connector" && status["name"] == settings.identity;
            let name = format!("connection point {}", settings.identity);
            let admin = &settings.admin;
            excuse(&connector.document, &mut connector.findings, &taken, admin, &name, is_own);
        }
    }

    /// Each file by itself, then all of them together.
    fn judge(&mut self) {
        let now = self.now();
        for gateway in &self.gateways {
            self.findings.join(alone(&gateway.document, "gateway settings", &gateway.findings));
            self.findings.join(shut_out(gateway));
        }
        for connector in &self.connectors {
            self.findings.join(alone(&connector.document, "connection point settings", &connector.findings));
            // What is wrong there is among the connection point's findings already.
            if let Some(site) = connector.site.as_ref().filter(|site| site.findings.errors.is_empty()) {
                self.findings.fine.push(format!("{}: site settings", site.document.name));
            }
        }
        for site in &self.sites {
            self.findings.join(alone(&site.document, "site settings", &site.findings));
        }
        self.findings.join(across(&self.gateways, &self.connectors, &self.sites, now));
        // A mistake that two files share is one.
        let mut seen: Vec<SettingsError> = Vec::new();
        self.findings.errors.retain(|error| {
            let is_new = !seen.contains(error);
            seen.push(error.clone());
            is_new
        });
        let mut warned: Vec<SettingsError> = Vec::new();
        self.findings.warnings.retain(|warning| {
            let is_new = !warned.contains(warning) && !seen.contains(warning);
            warned.push(warning.clone());
            is_new
        });
    }

    fn all_sites(&self) -> impl Iterator<Item = &SiteReview> {
        self.connectors.iter().filter_map(|connector| connector.site.as_ref()).chain(&self.sites)
    }

    fn client(&mut self, file: &Path) {
        let name = file.display().to_string();
        let verdicts: Vec<(String, Result<String, String>)> = self
            .all_sites()
            .map(|site| (site.document.name.clone(), sample_client(file, &site.clients(), self.now())))
            .collect();
        if verdicts.is_empty() {
            self.machine
                .push(format!("{name}: no site's settings among the files to judge it by; name site.toml"));
        }
        for (site, verdict) in verdicts {
            match verdict {
                Ok(text) => self.findings.fine.push(format!("{name} by {site}: {text}")),
                Err(text) => self.machine.push(format!("{name} by {site}: {text}")),
            }
        }
    }

    fn ask(&self, url: &str, method: &str) -> Asked {
        let gateway = self.gateways.iter().find_map(|gateway| gateway.settings.as_ref());
        let sites: Vec<&SiteSettings> = self.all_sites().filter_map(|site| site.settings.as_ref()).collect();
        judge_url(url, method, gateway, &sites)
    }

    fn has_mistakes(&self) -> bool {
        !self.findings.errors.is_empty() || !self.machine.is_empty()
    }

    fn text(&self, asked: Option<&Asked>) -> String {
        let mut text = String::new();
        for line in &self.findings.fine {
            let _ = writeln!(text, "ok       {line}");
        }
        for warning in &self.findings.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        for line in &self.machine {
            let _ = writeln!(text, "error:   {line}");
        }
        for error in &self.findings.errors {
            let _ = writeln!(text, "error:   {error}");
        }
        if let Some(asked) = asked {
            let _ = write!(text, "{asked}");
        }
        let _ = writeln!(
            text,
            "{}, {} in {}",
            count(self.findings.errors.len() + self.machine.len(), "error"),
            count(self.findings.warnings.len(), "warning"),
            count(self.files.len(), "file")
        );
        text
    }

    fn json(&self, asked: Option<&Asked>) -> Value {
        let one = |level: &str, error: &SettingsError| {
            json!({
                "level": level, "file": error.file, "line": error.line, "column": error.column,
                "key": error.key, "found": error.found, "expected": error.expected,
                "text": error.to_string(),
            })
        };
        let mut findings: Vec<Value> =
            self.machine.iter().map(|text| json!({ "level": "error", "text": text })).collect();
        findings.extend(self.findings.errors.iter().map(|error| one("error", error)));
        findings.extend(self.findings.warnings.iter().map(|error| one("warning", error)));
        findings.extend(self.findings.fine.iter().map(|text| json!({ "level": "ok", "text": text })));
        json!({
            "files": self.files,
            "errors": self.findings.errors.len() + self.machine.len(),
            "warnings": self.findings.warnings.len(),
            "findings": findings,
            "url": asked.map(Asked::to_json),
        })
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn alone(document: &Document, what: &str, findings: &Findings) -> Findings {
    let mut findings = findings.clone();
    if findings.errors.is_empty() {
        findings.fine.push(format!("{}: {what}", document.name));
    }
    findings
}

/// Takes back what was said of ports in use where the role itself answers on its admin listener, and says
/// that it has them.
fn excuse(
    document: &Document,
    findings: &mut Findings,
    taken: &[Listener],
    admin: &AdminSettings,
    name: &str,
    is_own: impl Fn(&Value) -> bool,
) {
    if taken.is_empty() {
        return;
    }
    let Some(status) = status(&Target::of(admin, &document.folder())).filter(is_own) else { return };
    let held = |listener: &&Listener| {
        let address = json!(listener.address);
        let lists = ["listeners", "internal_listeners", "https_listeners"];
        let lists = lists.iter().filter_map(|list| status[list].as_array());
        listener.key.starts_with("admin.") || lists.flatten().any(|held| *held == address)
    };
    let keys: Vec<&str> = taken.iter().filter(held).map(|listener| listener.key.as_str()).collect();
    let is_held = |error: &SettingsError| {
        error.file == document.name && error.found.ends_with("in use") && keys.contains(&error.key.as_str())
    };
    findings.errors.retain(|error| !is_held(error));
    findings.fine.push(format!("{}: {name} runs, and holds {}", document.name, keys.join(", ")));
}

/// `/status` of whoever listens there, if it is one of us and lets us ask.
fn status(admin: &Target) -> Option<Value> {
    let answer = ask(admin, "GET", "/status", "").ok().filter(|answer| answer.status == 200)?;
    serde_json::from_str(&answer.body).ok()
}
