//! From an external URL to a publishing endpoint, and from there to an internal URL.
//!
//! Pure. The gateway holds a [`PublishedTable`] of what the sites publish; the connection point holds
//! a [`UrlMapping`] of its own settings and asks it again for every request, taking no target from the
//! wire. Both read a target with the same [`Path`]. Who may come is judged by `auth`; a request is
//! carried by the roles.

mod endpoint;
mod explain;
pub mod fuzz;
mod origin;
mod path;
mod table;
#[cfg(test)]
mod tests;
mod url;

pub use endpoint::{
    ENDPOINT_PATH_SIZE_MAX, Endpoint, EndpointBounds, EndpointPath, Families, Family, METHOD_COUNT_MAX,
    Method, OWN_TOKENS, RoleKind, STANDARD, StandardEndpoint,
};
pub use origin::{InternalUrl, OriginAddress, Scheme, is_host, split_authority};
pub use path::{Path, Resource, RolePath};
pub use table::{Conflict, Found, Publication, PublishedTable, Role, RoleIds};
pub use url::{Mapped, MappedEndpoint, MappedRole, UrlMapping};
