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
        let mut choices = kept.clone().unwrap_or_else(Choices::first);
        choices.change(arguments)?;
        choices.trust = thumbprint(&pki.site_ca())?;
        choices.find_ports(arguments)?;
        choices.leave_files(folder, kept.as_ref())?;
        Ok(choices)
    }

    fn first() -> Choices {
        let ports = Ports { gateway: 0, channel: 0, gateway_admin: 0, connector_admin: 0, origin: 0 };
        Choices {
            name: "cmg.localhost".into(),
            origin: None,
            shards: None,
            ports,
            serial: 1,
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
        self.shards = arguments.shards.or(self.shards);
        self.ports.gateway = arguments.gateway_port.unwrap_or(self.ports.gateway);
        self.ports.channel = arguments.channel_port.unwrap_or(self.ports.channel);
        Ok(())
    }

    /// Checks ports that were given; chooses anew those that were not and are taken. All are held
    /// until the last is found, so that they differ.
    fn find_ports(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        let ports = &mut self.ports;
        let mut held = Vec::new();
        for (port, given) in [
            (&mut ports.gateway, arguments.gateway_port.is_some()),
            (&mut ports.channel, arguments.channel_port.is_some()),
            (&mut ports.gateway_admin, false),
            (&mut ports.connector_admin, false),
            (&mut ports.origin, false),
        ] {
            held.push(match hold(*port) {
                Ok(listener) => listener,
                Err(error) if given => return Err(taken(*port, &error)),
                Err(_) => {
                    let (found, listener) = find_port()?;
                    *port = found;
                    listener
                }
            });
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
        for file in stale {
            write_file(&folder.join(file.name), file.text.as_bytes(), PUBLIC_MODE)?;
        }
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

impl Origin {
    fn asked(url: &str, arguments: &Arguments) -> Result<Origin, Failure> {
        let absolute = |path: &PathBuf| {
            path.canonicalize().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
        };
        let ca = arguments.origin_ca.as_ref().map(absolute).transpose()?;
        Ok(Origin { url: url.to_owned(), ca, thumbprint: arguments.origin_thumbprint.clone() })
    }
}

fn load(folder: &Path) -> Result<Option<Choices>, Failure> {
    let path = folder.join("choices.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(&path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(&path, &error)),
    }
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

fn taken(port: u16, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program listens there (`ss -ltnp 'sport = :{port}'` names it); choose another port or leave the option out for a free one"
        ),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right CAP_NET_BIND_SERVICE; choose a higher one".to_owned()
        }
        _ => "choose another port".to_owned(),
    };
    Failure::Broken(format!("port {port} on {LOOPBACK} cannot be used: {error}; {remedy}"))
}
