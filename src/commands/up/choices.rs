//! What `cmg up` settled on in a folder: names, ports, the origin. Kept in `choices.json`, so that
//! the next start takes the same, and turned into settings files.
//!
//! A settings file that still reads as it was written is written anew when a choice changes; one that somebody
//! edited is left alone, and a choice that could only take effect by overwriting it is refused.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use cmg::pki::{PUBLIC_MODE, Pki, write_file};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::super::Failure;
use super::{Arguments, broken, texts};

/// Where everything of `cmg up` is bound.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Below 32768, where Linux begins to take ports for outgoing connections: a port from there could be
/// gone at the next start.
const PORTS: std::ops::Range<u16> = 21_000..31_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// TLS name of the service.
    pub name: String,
    /// The management point; none for the embedded one.
    pub origin: Option<Origin>,
    /// Whose tokens the site takes besides.
    pub tokens: Option<Tokens>,
    pub shards: Option<u16>,
    pub ports: Ports,
    /// Of `site.toml`: grows with each change, for a gateway ignores what is older than what it has, and
    /// refuses what is as old and different.
    pub serial: u64,
    /// SHA-256 of the site authority that `site.toml` names: a new one is a change too.
    pub trust: String,
}

/// A management point of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    pub url: String,
    /// PEM file that says whom to believe; its absolute path.
    pub ca: Option<PathBuf>,
    /// Or the one certificate to believe.
    pub thumbprint: Option<String>,
}

/// A load tool's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Its folder; the absolute path.
    pub folder: PathBuf,
    /// Sections of `site.toml`, as they were when the folder was given.
    pub issuers: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    pub gateway: u16,
    pub channel: u16,
    pub gateway_admin: u16,
    pub connector_admin: u16,
    pub origin: u16,
}

impl Choices {
    /// Takes up what the folder has, changes what the arguments ask for, finds ports where those kept
    /// are taken, and leaves settings files that say so.
    pub fn settle(folder: &Path, pki: &Pki, arguments: &Arguments) -> Result<Choices, Failure> {
        let kept = load(folder)?;
        if kept.is_none() {
            check_orphans(folder)?;
        }
        let mut choices = kept.clone().unwrap_or_else(|| Choices::first(first_serial(folder)));
        choices.change(arguments)?;
        choices.trust = thumbprint(&pki.site_ca())?;
        choices.find_ports(arguments)?;
        choices.leave_files(folder, kept.as_ref())?;
        Ok(choices)
    }

    fn first(serial: u64) -> Choices {
        let ports = Ports { gateway: 0, channel: 0, gateway_admin: 0, connector_admin: 0, origin: 0 };
        Choices {
            name: "cmg.localhost".into(),
            origin: None,
            tokens: None,
            shards: None,
            ports,
            serial,
            trust: String::new(),
        }
    }

    fn change(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        if let Some(name) = &arguments.name {
            self.name.clone_from(name);
        }
        match arguments.origin.as_deref() {
            None => {}
            Some("sample") => self.origin = None,
            Some(url) => self.origin = Some(Origin::asked(url, arguments)?),
        }
        match arguments.tokens.as_deref() {
            None => {}
            Some(folder) if folder == "none" => self.tokens = None,
            Some(folder) => self.tokens = Some(Tokens::read(folder)?),
        }
        self.shards = arguments.shards.or(self.shards);
        for (_, port, given) in self.ports.options(arguments) {
            *port = given.unwrap_or(*port);
        }
        Ok(())
    }

    /// Checks ports that were given; chooses anew those that were not and are taken. All are held
    /// until the last is found, so that they differ.
    fn find_ports(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        let mut held: Vec<(&str, u16, TcpListener)> = Vec::new();
        // Those that were given first, so that none of them is found for another.
        let mut options = self.ports.options(arguments);
        options.sort_by_key(|(_, _, given)| given.is_none());
        for (option, port, given) in options {
            let twice = held.iter().find(|(_, other, _)| given == Some(*other));
            if let Some((other, ..)) = twice {
                return Err(Failure::Usage(format!(
                    "{other} and {option} are both {port}: each needs its own"
                )));
            }
            let listener = match hold(*port) {
                Ok(listener) => listener,
                Err(error) if given.is_some() => return Err(taken(option, *port, &error)),
                Err(_) => {
                    let (found, listener) = find_port()?;
                    *port = found;
                    listener
                }
            };
            held.push((option, *port, listener));
        }
        Ok(())
    }

    fn leave_files(&mut self, folder: &Path, kept: Option<&Choices>) -> Result<(), Failure> {
        // The serial itself is part of the text: compared with the old one, then counted up.
        if let Some(kept) = kept
            && (texts::site(self) != texts::site(kept) || self.trust != kept.trust)
        {
            self.serial = kept.serial + 1;
        }
        let files = texts::all(self);
        texts::check(&files)?;
        let before = kept.map(texts::all);
        // All are judged before the first is written: half of a change would be none that anybody asked for.
        let mut stale = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let before = before.as_ref().map(|files| files[index].text.as_str());
            if file.is_stale(folder, before)? {
                stale.push(file);
            }
        }
        // Interrupted between, the next start finds files it wrote, never files it cannot tell from edited
        // ones: at first none are there yet, later those there already read as the same options will ask.
        if kept.is_none() {
            self.keep(folder)?;
        }
        for file in stale {
            write_file(&folder.join(file.name), file.text.as_bytes(), PUBLIC_MODE)?;
        }
        self.keep(folder)
    }

    fn keep(&self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join("choices.json");
        let text = serde_json::to_vec_pretty(self).map_err(|error| broken(&path, &error))?;
        Ok(write_file(&path, &text, PUBLIC_MODE)?)
    }

    pub fn gateway_address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.ports.gateway)
    }

    pub fn channel_address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.ports.channel)
    }

    pub fn gateway_admin_address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.ports.gateway_admin)
    }

    pub fn connector_admin_address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.ports.connector_admin)
    }

    pub fn origin_address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.ports.origin)
    }

    /// The management point's URL, embedded or not.
    pub fn origin_url(&self) -> String {
        match &self.origin {
            Some(origin) => origin.url.clone(),
            None => format!("http://{}", self.origin_address()),
        }
    }
}

impl Ports {
    /// Each port with the option that sets it and what was given.
    fn options(&mut self, arguments: &Arguments) -> [(&'static str, &mut u16, Option<u16>); 5] {
        [
            ("--gateway-port", &mut self.gateway, arguments.gateway_port),
            ("--channel-port", &mut self.channel, arguments.channel_port),
            ("--gateway-admin-port", &mut self.gateway_admin, arguments.gateway_admin_port),
            ("--connector-admin-port", &mut self.connector_admin, arguments.connector_admin_port),
            ("--origin-port", &mut self.origin, arguments.origin_port),
        ]
    }
}

impl Origin {
    fn asked(url: &str, arguments: &Arguments) -> Result<Origin, Failure> {
        let absolute = |path: &PathBuf| {
            path.canonicalize().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
        };
        let ca = arguments.origin_ca.as_ref().map(absolute).transpose()?;
        let is_trusted = ca.is_some() || arguments.origin_thumbprint.is_some();
        if !is_trusted && url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(Failure::Usage(format!(
                "--origin {url}: --origin-ca FILE or --origin-thumbprint HEX must say by what its certificate \
                 is trusted"
            )));
        }
        Ok(Origin { url: url.to_owned(), ca, thumbprint: arguments.origin_thumbprint.clone() })
    }
}

impl Tokens {
    fn read(folder: &Path) -> Result<Tokens, Failure> {
        let path = folder.join("issuers.toml");
        let issuers = fs::read_to_string(&path).map_err(|error| {
            let (path, folder) = (path.display(), folder.display());
            Failure::Usage(format!("--tokens: {path}: {error}; `loadgen tokens {folder}` makes it"))
        })?;
        let folder = folder.canonicalize().map_err(|error| broken(folder, &error))?;
        Ok(Tokens { folder, issuers })
    }
}

fn load(folder: &Path) -> Result<Option<Choices>, Failure> {
    let path = folder.join("choices.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let path = path.display();
            Failure::Usage(format!(
                "{path}: {error}; it holds what `cmg up` settled on: mend it, or move it and the settings files \
                 beside it away to have all written anew"
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(&path, &error)),
    }
}

/// Without `choices.json` nobody knows which of the settings files were edited, or what they meant.
fn check_orphans(folder: &Path) -> Result<(), Failure> {
    let found: Vec<&str> = texts::NAMES.into_iter().filter(|name| folder.join(name).exists()).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{}: found {} but not choices.json, which says how they came about: put it back, or move them away to \
         have all written anew",
        folder.display(),
        found.join(", ")
    )))
}

/// Of the first settings of a folder: above that of any that its gateway may still remember.
fn first_serial(folder: &Path) -> u64 {
    let has_past = folder.join("state").exists();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    if has_past { now } else { 1 }
}

fn thumbprint(path: &Path) -> Result<String, Failure> {
    let bytes = fs::read(path).map_err(|error| broken(path, &error))?;
    Ok(digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Binds the port, if it is one and free.
fn hold(port: u16) -> io::Result<TcpListener> {
    if port == 0 {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    TcpListener::bind((LOOPBACK, port))
}

/// The first free port, from a place that differs by process: several may look at the same time.
fn find_port() -> Result<(u16, TcpListener), Failure> {
    let count = PORTS.end - PORTS.start;
    let first = u16::try_from(process::id().wrapping_mul(97) % u32::from(count)).unwrap_or_default();
    (0..count)
        .map(|step| PORTS.start + (first + step) % count)
        .find_map(|port| hold(port).ok().map(|listener| (port, listener)))
        .ok_or_else(|| {
            Failure::Broken(format!("no free port on {LOOPBACK} from {} to {}", PORTS.start, PORTS.end - 1))
        })
}

fn taken(option: &str, port: u16, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program listens there (`ss -ltnp 'sport = :{port}'` names it); choose another port or leave the option out for a free one"
        ),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right CAP_NET_BIND_SERVICE; choose a higher one".to_owned()
        }
        _ => "choose another port".to_owned(),
    };
    Failure::Broken(format!("{option}: port {port} on {LOOPBACK} cannot be used: {error}; {remedy}"))
}
