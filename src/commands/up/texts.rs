//! The settings files that `cmg up` writes, and whether one may be written over.

use std::fs;
use std::io;
use std::path::Path;

use cmg::pki::{PUBLIC_MODE, gateway_tls_name, write_file};
use cmg::settings::{ConnectorSettings, GatewaySettings, SiteSettings};

use super::super::Failure;
use super::choices::Choices;
use super::{CONNECTOR, INSTANCE, MANAGEMENT_POINT, SITE, broken};

/// One settings file as it should read.
pub struct SettingsFile {
    pub name: &'static str,
    pub text: String,
}

const NOTE: &str = "# Written by `cmg up`. Change what you like: a changed file is kept as it is.\n";

pub fn all(choices: &Choices) -> [SettingsFile; 3] {
    [
        SettingsFile { name: "gateway.toml", text: gateway(choices) },
        SettingsFile { name: "connector.toml", text: connector(choices) },
        SettingsFile { name: "site.toml", text: site(choices) },
    ]
}

fn gateway(choices: &Choices) -> String {
    let name = quote(&choices.name);
    let chain = quote(&format!("pki/server/{}.pem", choices.name));
    let key = quote(&format!("pki/server/{}.key", choices.name));
    let (listener, channel, admin) =
        (choices.gateway_address(), choices.channel_address(), choices.gateway_admin_address());
    let (first, last) = (1_u64 << 56, (1_u64 << 56) + 10_000);
    let shards = shards(choices);
    format!(
        r#"{NOTE}
[gateway]
name = {name}
instance = "{INSTANCE}"
{shards}state_dir = "state"

[[listener]]
address = "{listener}"

[[server_certificate]]
chain = {chain}
key = {key}

[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/gateway-{INSTANCE}.pem"
key = "pki/internal/gateway-{INSTANCE}.key"

[[internal.listener]]
address = "{channel}"

[admin]
address = "{admin}"

[[site]]
code = "{SITE}"
role_ids = ["{first}-{last}"]
"#
    )
}

fn connector(choices: &Choices) -> String {
    let (channel, admin) = (choices.channel_address(), choices.connector_admin_address());
    let tls_name = gateway_tls_name(INSTANCE);
    let shards = shards(choices);
    format!(
        r#"{NOTE}
[connector]
identity = "{CONNECTOR}"
{shards}site = "site.toml"

[[gateway]]
address = "{channel}"
name = "{tls_name}"

[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/connector-{SITE}-{CONNECTOR}.pem"
key = "pki/internal/connector-{SITE}-{CONNECTOR}.key"

[admin]
address = "{admin}"
"#
    )
}

pub fn site(choices: &Choices) -> String {
    let (url, serial) = (quote(&choices.origin_url()), choices.serial);
    // A real management point does not read who asked; the sample shows that it was told.
    let forward_identity = choices.origin.is_none();
    format!(
        r#"{NOTE}
code = "{SITE}"
serial = {serial}

[[management_point]]
id = {MANAGEMENT_POINT}
url = {url}
forward_identity = {forward_identity}

[trust]
roots = ["pki/ca.pem"]
"#
    )
}

fn shards(choices: &Choices) -> String {
    choices.shards.map_or(String::new(), |shards| format!("shards = {shards}\n"))
}

/// A TOML string with this content, whatever it holds.
fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Refuses choices that make no valid settings before anything is written.
pub fn check([gateway, connector, site]: &[SettingsFile; 3]) -> Result<(), Failure> {
    let errors = [
        GatewaySettings::parse(&gateway.text, gateway.name).err(),
        ConnectorSettings::parse(&connector.text, connector.name).err(),
        SiteSettings::parse(&site.text, site.name).err(),
    ];
    let texts: Vec<String> = errors.into_iter().flatten().map(|errors| errors.to_string()).collect();
    if texts.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!("these options make no valid settings:\n{}", texts.join("\n"))))
}

impl SettingsFile {
    /// Writes the file where it is missing or still reads as we once wrote it (`before`); keeps an edited
    /// one unless a changed choice could only take effect in it.
    pub fn leave(&self, folder: &Path, before: Option<&str>) -> Result<(), Failure> {
        let path = folder.join(self.name);
        let found = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(broken(&path, &error)),
        };
        let is_ours = found.is_none() || found.as_deref() == before;
        match before {
            _ if found.as_deref() == Some(&self.text) => Ok(()),
            _ if is_ours => write_file(&path, self.text.as_bytes(), PUBLIC_MODE)
                .map_err(|error| Failure::Broken(error.to_string())),
            Some(before) if before == self.text => Ok(()),
            _ => Err(Failure::Usage(format!(
                "{} was edited, and an option (or a port that is taken now) would have to change it: change it there, or move it away to have it written anew",
                path.display()
            ))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(text: &str) -> SettingsFile {
        SettingsFile { name: "x.toml", text: text.to_owned() }
    }

    #[test]
    fn a_file_is_written_over_only_while_it_reads_as_we_wrote_it() {
        // Found on disk, as we once wrote it, as it should read; what is left unless that is refused.
        let rows = [
            (None, None, "new", Some("new")),
            (None, Some("old"), "new", Some("new")),
            (Some("old"), Some("old"), "new", Some("new")),
            (Some("old"), Some("old"), "old", Some("old")),
            (Some("edited"), Some("old"), "old", Some("edited")),
            (Some("edited"), Some("old"), "new", None),
            (Some("edited"), None, "new", None),
            (Some("new"), None, "new", Some("new")),
            (Some("new"), Some("old"), "new", Some("new")),
        ];
        for (found, before, text, left) in rows {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.toml");
            if let Some(found) = found {
                fs::write(&path, found).unwrap();
            }
            let outcome = file(text).leave(folder.path(), before);
            let row = format!("{found:?} {before:?} {text}");
            assert_eq!(outcome.is_ok(), left.is_some(), "{row}");
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), left.or(found), "{row}");
        }
    }

    #[test]
    fn whatever_is_quoted_reads_back() {
        for text in ["plain", r#"a "b" \ c"#, "it's", "line\nbreak", "tab\t", "\u{7f}\0", ""] {
            let document = format!("x = {}", quote(text));
            let read: toml::Table = toml::from_str(&document).unwrap();
            assert_eq!(read["x"].as_str(), Some(text), "{document}");
        }
    }
}
