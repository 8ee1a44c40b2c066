//! What a gateway has of its own settings and of the files that they name, as far as it changes while the gateway runs.
//! Never changed: another takes its place on every shard when settings are reloaded.

use std::sync::Arc;

use rustls::ServerConfig;

use super::certificates::{self, Shown};
use crate::limits;
use crate::review::{FileRead, GatewayWorks};
use crate::settings::GatewaySettings;
use crate::transport::{StartError, tls_config};

/// See the file's head.
pub struct Local {
    /// As they are written. Of what only a start reads the gateway's own are those in force.
    pub settings: GatewaySettings,
    /// Files that were read for it.
    pub reads: Vec<FileRead>,
    /// TLS with clients.
    pub clients: Arc<ServerConfig>,
    /// TLS with connection points: by what `internal` of the keeper shows and believes then, so that these never change.
    pub channels: Arc<ServerConfig>,
    /// The same with those that come by HTTPS.
    pub https_channels: Arc<ServerConfig>,
}

impl Local {
    /// From what was read and judged; `before` is what it takes the place of. What is the same in both is shared, so
    /// that session tickets stay good.
    ///
    /// # Errors
    /// What the system or rustls says.
    pub fn new(works: GatewayWorks, shown: &Arc<Shown>, before: Option<&Local>) -> Result<Local, StartError> {
        let GatewayWorks { settings, ticket_secret, internal, reads, .. } = works;
        let is_same = |before: &&Local, key| !FileRead::differ(&before.reads, &reads, key);
        let tickets = before.filter(|before| is_same(before, "gateway.ticket_keys"));
        let clients = match tickets {
            Some(before) if before.settings.tls_min == settings.tls_min => before.clients.clone(),
            before => {
                let held = before.map(|before| before.clients.ticketer.clone());
                certificates::client_config(shown.clone(), ticket_secret.as_ref(), held, settings.tls_min)?
            }
        };
        let (channels, https_channels) = match before {
            Some(before) => (before.channels.clone(), before.https_channels.clone()),
            None => {
                let channels = certificates::channel_config(&internal)?;
                let https_channels = tls_config::for_https_channels(&channels);
                (channels, https_channels)
            }
        };
        Ok(Local { settings, reads, clients, channels, https_channels })
    }

    /// Requests that may wait on one shard.
    pub fn waiting_max(&self) -> usize {
        self.settings.limits.waiting_max.min(limits::WAITING_COUNT_MAX)
    }
}
