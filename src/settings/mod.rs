//! What operators write, parsed into what cannot be wrong, and what a site publishes.
//!
//! Pure: text in, values out. Paths are as written; the shell resolves them against the folder of
//! the file and reads what they name. Every mistake of a file is told at once, each with its line,
//! column and key, what was found and what was expected; an unknown key is a mistake.
//!
//! [`GatewaySettings`] is `gateway.toml`, [`ConnectorSettings`] `connector.toml`, [`SiteSettings`]
//! `site.toml`; [`PublishedSettings`] is the part of the latter that gateways get to know.

mod connector;
mod document;
mod gateway;
mod published;
mod report;
mod shared;
mod site;
mod source;
#[cfg(test)]
mod tests;
mod value;

pub use connector::{ConnectorLimits, ConnectorSettings, GatewayAddress};
pub use gateway::{GatewayLimits, GatewaySettings, ServerCertificate, SiteRights};
pub use published::{PublicationError, PublishedSettings, PublishedTrust, Revision, Standing};
pub use report::{SettingsError, SettingsErrors};
pub use shared::{
    AccessLog, AdminProtection, AdminSettings, InternalFiles, KeyPair, LogFormat, LogLevel, LogSettings,
};
pub use site::{OriginSettings, OriginTrust, SiteSettings, TrustFiles};
pub use source::{Kind, Source};

/// Feeds bytes to every reader of this module.
///
/// # Panics
/// When an error points outside its text, or a publication does not survive being written and read.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let lines = text.lines().count().max(1) + 1;
        let faults = [
            GatewaySettings::parse(text, "f").err(),
            ConnectorSettings::parse(text, "f").err(),
            SiteSettings::parse(text, "f").err(),
        ];
        for error in faults.iter().flatten().flat_map(|errors| &errors.0) {
            assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
        }
    }
    if let Ok(published) = PublishedSettings::from_bytes(bytes) {
        let written = published.to_bytes();
        assert_eq!(PublishedSettings::from_bytes(&written).as_ref(), Ok(&published));
    }
}
