//! Finding the running role of a settings file: where it is asked, and where it is changed.

use std::path::{Path, PathBuf};

use cmg::admin::{Target, default_socket};
use cmg::review::{Document, upgrade_socket};
use cmg::settings::{AdminSettings, ConnectorSettings, GatewaySettings, Kind, SettingsErrors};

use super::{Failure, folder_of};

/// What a settings file says of the role it is for.
pub struct RoleFile {
    /// Its name in texts.
    pub role: &'static str,
    admin: AdminSettings,
    /// Where another process asks for its place.
    pub upgrade_socket: PathBuf,
}

impl RoleFile {
    /// Reads `gateway.toml` or `connector.toml`, whichever it is.
    pub fn read(config: &Path) -> Result<RoleFile, Failure> {
        let usage = |errors: SettingsErrors| Failure::Usage(errors.to_string());
        let document = Document::open(config).map_err(|error| usage(SettingsErrors(vec![error])))?;
        let Document { text, name, .. } = &document;
        // A file with mistakes is told about as what it is meant to be.
        let (kind, admin) = match Kind::of(text) {
            Some(Kind::Connector) => {
                (Kind::Connector, ConnectorSettings::parse(text, name).map_err(usage)?.admin)
            }
            Some(Kind::Gateway) | None => {
                (Kind::Gateway, GatewaySettings::parse(text, name).map_err(usage)?.admin)
            }
            Some(Kind::Site) => {
                let expected = "those of a role that runs: a gateway or a connection point";
                let error = document.source().error("", "the settings of a site", expected);
                return Err(usage(SettingsErrors(vec![error])));
            }
        };
        let upgrade_socket = upgrade_socket(&document, &admin);
        Ok(RoleFile { role: kind.as_str(), admin, upgrade_socket })
    }

    /// Its admin listener.
    pub fn listener(&self, config: &Path) -> Target {
        Target::of(&self.admin, folder_of(config))
    }

    /// Its control socket.
    pub fn socket(&self, config: &Path) -> Target {
        Target::Socket(match &self.admin.socket {
            Some(path) => folder_of(config).join(path),
            None => default_socket(config),
        })
    }
}
