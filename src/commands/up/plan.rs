//! What will run, as the settings files on disk say: they may have been edited since they were written.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use cmg::mapping::RoleKind;
use cmg::settings::{ConnectorSettings, GatewaySettings, SettingsErrors, SiteSettings};

use super::super::Failure;
use super::choices::{Choices, LOOPBACK};
use super::{MANAGEMENT_POINT, broken, path_text};

pub struct Plan {
    /// TLS name of the service.
    pub service: String,
    /// Where clients reach the gateway from this machine.
    pub gateway: SocketAddr,
    /// Where connection points reach it.
    pub channel: SocketAddr,
    pub gateway_admin: SocketAddr,
    pub connector_admin: SocketAddr,
    /// Where the embedded management point listens, if it is used.
    pub sample: Option<SocketAddr>,
    /// URL of the management point.
    pub origin: String,
    /// Folder of a load tool's key, whose tokens the site takes.
    pub tokens: Option<PathBuf>,
    /// Code of the site.
    pub site: String,
    /// Role id of the management point that clients are sent to.
    pub management_point: u64,
    /// Role id of the software update point, if the site has one.
    pub update_point: Option<u64>,
}

impl Plan {
    pub fn read(folder: &Path, choices: &Choices) -> Result<Plan, Failure> {
        let gateway = read(&folder.join("gateway.toml"), GatewaySettings::parse)?;
        let connector = read(&folder.join("connector.toml"), ConnectorSettings::parse)?;
        let site = read(&folder.join(&connector.site), SiteSettings::parse)?;
        let first = |kind| site.roles.iter().find(|role| role.kind == kind).map(|role| role.id);
        Ok(Plan {
            management_point: first(RoleKind::ManagementPoint).unwrap_or(MANAGEMENT_POINT),
            update_point: first(RoleKind::SoftwareUpdatePoint),
            site: site.code,
            gateway: first_local(&gateway.listeners, choices.gateway_address()),
            channel: first_local(&gateway.internal_listeners, choices.channel_address()),
            service: gateway.name,
            gateway_admin: gateway.admin.address,
            connector_admin: connector.admin.address,
            sample: choices.origin.is_none().then(|| choices.origin_address()),
            origin: choices.origin_url(),
            tokens: choices.tokens.as_ref().map(|tokens| tokens.folder.clone()),
        })
    }
}

fn read<T>(path: &Path, parse: fn(&str, &str) -> Result<T, SettingsErrors>) -> Result<T, Failure> {
    let text = fs::read_to_string(path).map_err(|error| broken(path, &error))?;
    parse(&text, &path_text(path)).map_err(|errors| Failure::Usage(errors.to_string()))
}

/// The first address, as this machine reaches it. Settings always have one.
fn first_local(addresses: &[SocketAddr], otherwise: SocketAddr) -> SocketAddr {
    let address = addresses.first().copied().unwrap_or(otherwise);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(LOOPBACK, address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(LOOPBACK, address.port()),
        _ => address,
    }
}
