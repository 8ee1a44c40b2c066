//! What `AADAuthInfo` is asked, by anybody, and what it tells: whom a client of a tenant asks for a token.

use super::{Issuers, TokenIssuer};

/// Why nothing is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryFault {
    /// Nobody is asked about.
    #[error("no TenantID in the query of AADAuthInfo")]
    NoTenant,
    /// Of two sites that name one tenant nobody can tell which it belongs to, and one may lie.
    #[error("tenant {0:?} is named by more than one site")]
    Claimed(String),
    /// Nobody named it.
    #[error("tenant {0:?} is that of no token issuer here")]
    Unknown(String),
}

/// What is told of the tenant in `query`, JSON, by the one among these sites that has taken it up.
///
/// # Errors
/// It is not exactly one.
pub fn directory<'i>(
    query: &[u8],
    sites: impl IntoIterator<Item = &'i Issuers>,
) -> Result<String, DirectoryFault> {
    let tenant = tenant_of(query).ok_or(DirectoryFault::NoTenant)?;
    let mut entries = sites.into_iter().filter_map(|issuers| issuers.directory_of(tenant));
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(told(tenant, entry)),
        (Some(_), Some(_)) => Err(DirectoryFault::Claimed(tenant.to_owned())),
        (None, _) => Err(DirectoryFault::Unknown(tenant.to_owned())),
    }
}

fn tenant_of(query: &[u8]) -> Option<&str> {
    let mut parameters = std::str::from_utf8(query).ok()?.split('&').filter_map(|one| one.split_once('='));
    parameters.find(|(name, _)| name.eq_ignore_ascii_case("TenantID")).map(|(_, tenant)| tenant)
}

fn told(tenant: &str, entry: &TokenIssuer) -> String {
    let told = serde_json::json!({
        "TenantId": tenant,
        "ClientAppId": entry.client,
        "ResourceUri": entry.audiences.first(),
    });
    told.to_string()
}
