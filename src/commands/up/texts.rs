//! The settings files that `cmg up` writes, and whether one may be written over.

use std::fs;
use std::io;
use std::path::Path;

use cmg::pki::gateway_tls_name;
use cmg::settings::{ConnectorSettings, GatewaySettings, SiteSettings};

use super::super::Failure;
use super::choices::{Choices, Origin};
use super::{CONNECTOR, INSTANCE, MANAGEMENT_POINT, SITE, UPDATE_POINT, broken, path_text};

/// One settings file as it should read.
pub struct SettingsFile {
    pub name: &'static str,
    pub text: String,
}

const NOTE: &str = "# Written by `cmg up`. Change what you like: a changed file is kept as it is.\n";

/// Names of the files.
pub const NAMES: [&str; 3] = ["gateway.toml", "connector.toml", "site.toml"];

pub fn all(choices: &Choices) -> [SettingsFile; 3] {
    let [gateway_name, connector_name, site_name] = NAMES;
    [
        SettingsFile { name: gateway_name, text: gateway(choices) },
        SettingsFile { name: connector_name, text: connector(choices) },
        SettingsFile { name: site_name, text: site(choices) },
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
ca = "internal-ca.pem"
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
    let trust = choices.origin.as_ref().map_or(String::new(), origin_trust);
    let issuers = choices.tokens.as_ref().map_or(String::new(), |tokens| format!("\n{}", tokens.issuers));
    format!(
        r#"{NOTE}
code = "{SITE}"
serial = {serial}

[[management_point]]
id = {MANAGEMENT_POINT}
url = {url}
{trust}forward_identity = {forward_identity}

[[software_update_point]]
id = {UPDATE_POINT}
url = {url}
{trust}content = true
self_update = true

[trust]
roots = ["pki/ca.pem"]
{issuers}"#
    )
}

fn origin_trust(origin: &Origin) -> String {
    let line = |key: &str, value: String| format!("{key} = {}\n", quote(&value));
    let ca = origin.ca.as_ref().map(|path| line("ca", path_text(path)));
    let thumbprint = origin.thumbprint.clone().map(|value| line("thumbprint_sha256", value));
    [ca, thumbprint].into_iter().flatten().collect()
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
    /// Whether the file is to be written: it is missing, or still reads as we once wrote it (`before`). An
    /// edited one is kept, and refused when a changed choice could only take effect in it.
    pub fn is_stale(&self, folder: &Path, before: Option<&str>) -> Result<bool, Failure> {
        let path = folder.join(self.name);
        let found = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(broken(&path, &error)),
        };
        if found == self.text || before == Some(&self.text) {
            return Ok(false);
        }
        if before == Some(&found) {
            return Ok(true);
        }
        Err(Failure::Usage(format!(
            "{} was edited, and an option (or a port that is taken now) would have to change it: \
             change it there, or move it away to have it written anew",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SettingsFile {
        SettingsFile { name: "x.toml", text: text.to_owned() }
    }

    #[test]
    fn a_file_is_written_over_only_while_it_reads_as_we_wrote_it() {
        // Found on disk, as we once wrote it, as it should read; whether it is written unless refused.
        let rows = [
            (None, None, "new", Some(true)),
            (None, Some("old"), "new", Some(true)),
            (Some("old"), Some("old"), "new", Some(true)),
            (Some("old"), Some("old"), "old", Some(false)),
            (Some("edited"), Some("old"), "old", Some(false)),
            (Some("edited"), Some("old"), "new", None),
            (Some("edited"), None, "new", None),
            (Some("new"), None, "new", Some(false)),
            (Some("new"), Some("old"), "new", Some(false)),
        ];
        for (found, before, text, written) in rows {
            let folder = tempfile::tempdir().unwrap();
            if let Some(found) = found {
                fs::write(folder.path().join("x.toml"), found).unwrap();
            }
            let outcome = file(text).is_stale(folder.path(), before).ok();
            assert_eq!(outcome, written, "{found:?} {before:?} {text}");
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
