//! What operators write, parsed into what cannot be wrong, and what a site publishes.
//!
//! Pure: text in, values out. Paths are as written; the shell resolves them against the folder of
//! the file and reads what they name. Every mistake of a file is told at once, each with its line,
//! column and key, what was found and what was expected; an unknown key is a mistake.
//!
//! [`GatewaySettings`] is `gateway.toml`, [`ConnectorSettings`] `connector.toml`, [`SiteSettings`]
//! `site.toml`; [`PublishedSettings`] is the part of the latter that gateways get to know.

mod bounds;
mod change;
mod connector;
mod document;
pub mod fuzz;
mod gateway;
mod health;
mod published;
mod report;
mod shared;
mod site;
mod source;
#[cfg(test)]
mod tests;
mod tokens;
mod value;

pub use change::Change;
pub use connector::{ConnectorLimits, ConnectorSettings, DialAddress, GatewayAddress, ProxySettings};
pub use gateway::{GatewayLimits, GatewaySettings, ServerCertificate, SiteRights, TlsVersion};
pub use health::HealthSettings;
pub use published::{
    PublicationError, PublishedRevocation, PublishedSettings, PublishedTrust, Revision, Standing,
};
pub use report::{SettingsError, SettingsErrors};
pub use shared::{
    AccessLog, AdminProtection, AdminSettings, InternalFiles, KeyPair, LogFormat, LogLevel, LogSettings,
};
pub use site::{
    GroupSettings, ListSource, OriginSettings, OriginTrust, RevocationSettings, SiteSettings, TrustFiles,
};
pub use source::{Kind, Source};
pub use tokens::{IssuerSettings, KeySource, TokenSettings};
