//! Finding the running role of a settings file: where it is asked, and where it is changed.

use std::fs;
use std::path::Path;

use cmg::admin::{Target, default_socket};
use cmg::settings::{AdminSettings, ConnectorSettings, GatewaySettings, SettingsErrors};

use super::{Failure, folder_of};

/// What a settings file says of the role it is for.
pub struct RoleFile {
    /// Its name in texts.
    pub role: &'static str,
    admin: AdminSettings,
}

impl RoleFile {
    /// Reads `gateway.toml` or `connector.toml`, whichever it is.
    pub fn read(config: &Path) -> Result<RoleFile, Failure> {
        let name = config.display().to_string();
        let text = fs::read_to_string(config).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
        let usage = |errors: SettingsErrors| Failure::Usage(errors.to_string());
        // A file with mistakes is told about as what it is meant to be.
        let (role, admin) = if text.lines().any(|line| line.trim_start().starts_with("[connector]")) {
            ("connector", ConnectorSettings::parse(&text, &name).map_err(usage)?.admin)
        } else {
            ("gateway", GatewaySettings::parse(&text, &name).map_err(usage)?.admin)
        };
        Ok(RoleFile { role, admin })
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
