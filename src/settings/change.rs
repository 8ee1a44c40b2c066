//! What it takes to put other settings in force: which keys a running process can change for itself, and which
//! need a process that starts with them.
//!
//! Every field is named here once, so that a new one asks what it takes. What the files hold that settings name is
//! compared by who reads them (`review`).

use super::connector::ConnectorSettings;
use super::gateway::GatewaySettings;
use super::shared::{AdminSettings, LogSettings};

/// Keys whose values differ, dotted as in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A running process changes these for itself.
    pub within: Vec<&'static str>,
    /// These are what a process starts with: another one has to.
    pub anew: Vec<&'static str>,
}

impl Change {
    /// Nothing differs.
    pub fn is_none(&self) -> bool {
        self.within.is_empty() && self.anew.is_empty()
    }

    fn within(&mut self, key: &'static str, differs: bool) {
        self.within.extend(differs.then_some(key));
    }

    fn anew(&mut self, key: &'static str, differs: bool) {
        self.anew.extend(differs.then_some(key));
    }
}

impl ConnectorSettings {
    /// What it takes to go on with `next`.
    pub fn change_to(&self, next: &ConnectorSettings) -> Change {
        let ConnectorSettings {
            identity,
            shards,
            channels,
            site,
            gateways,
            proxy,
            internal,
            issuer,
            source_addresses,
            limits,
            log,
            admin,
        } = self;
        let mut change = Change::default();
        // Its certificate says the same, and gateways know it by that.
        change.anew("connector.identity", *identity != next.identity);
        change.anew("connector.shards", *shards != next.shards);
        change.within("connector.channels", *channels != next.channels);
        change.within("connector.site", *site != next.site);
        change.within("connector.source_addresses", *source_addresses != next.source_addresses);
        change.within("gateway", *gateways != next.gateways);
        change.within("proxy", *proxy != next.proxy);
        change.within("internal", *internal != next.internal);
        change.within("internal.issuer", *issuer != next.issuer);
        change.within("limits", *limits != next.limits);
        change.log(log, &next.log);
        change.admin(admin, &next.admin);
        change
    }
}

impl GatewaySettings {
    /// What it takes to go on with `next`.
    pub fn change_to(&self, next: &GatewaySettings) -> Change {
        let GatewaySettings {
            name,
            instance,
            shards,
            clients_max,
            tls_min,
            proxies,
            state_dir,
            ticket_keys,
            listeners,
            server_certificates,
            internal,
            internal_listeners,
            https_listeners,
            https_among_clients,
            limits,
            log,
            admin,
            sites,
        } = self;
        let mut change = Change::default();
        change.within("gateway.name", *name != next.name);
        change.anew("gateway.instance", *instance != next.instance);
        change.anew("gateway.shards", *shards != next.shards);
        change.within("gateway.clients_max", *clients_max != next.clients_max);
        change.within("gateway.tls_min", *tls_min != next.tls_min);
        change.within("gateway.proxy_protocol_from", *proxies != next.proxies);
        change.anew("gateway.state_dir", *state_dir != next.state_dir);
        change.within("gateway.ticket_keys", *ticket_keys != next.ticket_keys);
        change.anew("listener", *listeners != next.listeners);
        change.within("server_certificate", *server_certificates != next.server_certificates);
        change.within("internal.certificate", internal.identity != next.internal.identity);
        change.within("internal.crl", internal.crl != next.internal.crl);
        // Channels that stand were let in by the one before; a process that begins anew has none of them.
        change.anew("internal.ca", internal.ca != next.internal.ca);
        change.anew("internal.listener", *internal_listeners != next.internal_listeners);
        change.anew("internal.https_listener", *https_listeners != next.https_listeners);
        // What stands was let in by the setting before.
        change.anew("internal.https_among_clients", *https_among_clients != next.https_among_clients);
        change.within("limits", *limits != next.limits);
        change.log(log, &next.log);
        change.admin(admin, &next.admin);
        // Everything is kept by the number of its site.
        let codes = |settings: &GatewaySettings| -> Vec<String> {
            settings.sites.iter().map(|site| site.code.clone()).collect()
        };
        let are_others = codes(self) != codes(next);
        change.anew("site", are_others);
        change.within("site.role_ids", !are_others && *sites != next.sites);
        change
    }
}

impl Change {
    fn log(&mut self, before: &LogSettings, next: &LogSettings) {
        let LogSettings { level, format, access_log, access_log_one_in, access_log_size_max } = before;
        self.within("log.level", *level != next.level);
        self.anew("log.format", *format != next.format);
        self.anew("log.access_log", *access_log != next.access_log);
        self.anew("log.access_log_one_in", *access_log_one_in != next.access_log_one_in);
        self.anew("log.access_log_size_mib", *access_log_size_max != next.access_log_size_max);
    }

    fn admin(&mut self, before: &AdminSettings, next: &AdminSettings) {
        let AdminSettings { address, protection, health_address, socket, upgrade_socket } = before;
        self.anew("admin.address", *address != next.address);
        self.anew("admin.certificate", *protection != next.protection);
        self.anew("admin.health_address", *health_address != next.health_address);
        self.anew("admin.socket", *socket != next.socket);
        self.anew("admin.upgrade_socket", *upgrade_socket != next.upgrade_socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTOR: &str = r#"
[connector]
identity = "1"
site = "site.toml"
shards = 2
channels = 4
source_addresses = ["127.0.0.1"]
[[gateway]]
address = "gw:10140"
name = "gw1"
[proxy]
address = "proxy:8080"
[internal]
ca = "ca.pem"
certificate = "own.pem"
key = "own.key"
crl = "list.pem"
issuer = "issuer:9444"
[limits]
body_secs = 60
[log]
level = "info"
format = "text"
access_log = true
access_log_one_in = 1
access_log_size_mib = 10
[admin]
address = "127.0.0.1:9141"
health_address = "127.0.0.1:9142"
socket = "a.sock"
upgrade_socket = "b.sock"
"#;

    const GATEWAY: &str = r#"
[gateway]
name = "cmg.example"
instance = "gw1"
shards = 2
clients_max = 100
tls_min = "1.2"
proxy_protocol_from = ["192.0.2.1"]
state_dir = "state"
ticket_keys = "tickets"
[[listener]]
address = "127.0.0.1:443"
[[server_certificate]]
chain = "a.pem"
key = "a.key"
[internal]
ca = "ca.pem"
certificate = "own.pem"
key = "own.key"
crl = "list.pem"
[[internal.listener]]
address = "127.0.0.1:10140"
[[internal.https_listener]]
address = "127.0.0.1:10124"
[limits]
body_secs = 60
[log]
level = "info"
[admin]
address = "127.0.0.1:9140"
[[site]]
code = "PS1"
role_ids = ["8"]
"#;

    #[test]
    fn what_a_connection_point_changes_within_itself_and_what_not() {
        let read = |text: &str| ConnectorSettings::parse(text, "c").expect(text);
        let before = read(CONNECTOR);
        assert!(before.change_to(&before).is_none());
        let rows = [
            ("identity = \"1\"", "identity = \"2\"", None, Some("connector.identity")),
            ("shards = 2", "shards = 3", None, Some("connector.shards")),
            ("channels = 4", "channels = 5", Some("connector.channels"), None),
            ("site.toml", "site2.toml", Some("connector.site"), None),
            ("[\"127.0.0.1\"]", "[\"127.0.0.2\"]", Some("connector.source_addresses"), None),
            ("gw:10140", "gw:10141", Some("gateway"), None),
            ("name = \"gw1\"", "name = \"gw2\"", Some("gateway"), None),
            ("proxy:8080", "proxy:8081", Some("proxy"), None),
            ("own.pem", "new.pem", Some("internal"), None),
            ("list.pem", "list2.pem", Some("internal"), None),
            ("issuer:9444", "issuer:9445", Some("internal.issuer"), None),
            ("body_secs = 60", "body_secs = 61", Some("limits"), None),
            ("\"info\"", "\"debug\"", Some("log.level"), None),
            ("\"text\"", "\"json\"", None, Some("log.format")),
            ("access_log = true", "access_log = false", None, Some("log.access_log")),
            ("access_log_one_in = 1", "access_log_one_in = 2", None, Some("log.access_log_one_in")),
            ("access_log_size_mib = 10", "access_log_size_mib = 11", None, Some("log.access_log_size_mib")),
            ("127.0.0.1:9141", "127.0.0.1:9143", None, Some("admin.address")),
            ("127.0.0.1:9142", "127.0.0.1:9143", None, Some("admin.health_address")),
            ("a.sock", "c.sock", None, Some("admin.socket")),
            ("b.sock", "c.sock", None, Some("admin.upgrade_socket")),
        ];
        for (from, to, within, anew) in rows {
            let change = before.change_to(&read(&CONNECTOR.replace(from, to)));
            assert_eq!((change.within, change.anew), (Vec::from_iter(within), Vec::from_iter(anew)), "{to}");
        }
    }

    #[test]
    fn what_a_gateway_changes_within_itself_and_what_not() {
        let read = |text: &str| GatewaySettings::parse(text, "g").expect(text);
        let before = read(GATEWAY);
        assert!(before.change_to(&before).is_none());
        let other_site = "role_ids = [\"8\"]\n[[site]]\ncode = \"PS2\"\nrole_ids = [\"9\"]";
        let rows = [
            ("cmg.example", "cmg2.example", Some("gateway.name"), None),
            ("\"gw1\"", "\"gw2\"", None, Some("gateway.instance")),
            ("shards = 2", "shards = 3", None, Some("gateway.shards")),
            ("clients_max = 100", "clients_max = 101", Some("gateway.clients_max"), None),
            ("\"1.2\"", "\"1.3\"", Some("gateway.tls_min"), None),
            ("192.0.2.1", "192.0.2.2", Some("gateway.proxy_protocol_from"), None),
            ("\"state\"", "\"state2\"", None, Some("gateway.state_dir")),
            ("\"tickets\"", "\"tickets2\"", Some("gateway.ticket_keys"), None),
            ("127.0.0.1:443", "127.0.0.1:444", None, Some("listener")),
            ("\"a.pem", "\"b.pem", Some("server_certificate"), None),
            ("own.pem", "new.pem", Some("internal.certificate"), None),
            ("list.pem", "list2.pem", Some("internal.crl"), None),
            ("\"ca.pem", "\"ca2.pem", None, Some("internal.ca")),
            ("127.0.0.1:10140", "127.0.0.1:10141", None, Some("internal.listener")),
            ("127.0.0.1:10124", "127.0.0.1:10125", None, Some("internal.https_listener")),
            ("body_secs = 60", "body_secs = 61", Some("limits"), None),
            ("\"info\"", "\"debug\"", Some("log.level"), None),
            ("127.0.0.1:9140", "127.0.0.1:9141", None, Some("admin.address")),
            ("role_ids = [\"8\"]", "role_ids = [\"8\", \"9\"]", Some("site.role_ids"), None),
            ("role_ids = [\"8\"]", other_site, None, Some("site")),
            ("PS1", "PS3", None, Some("site")),
        ];
        for (from, to, within, anew) in rows {
            let change = before.change_to(&read(&GATEWAY.replace(from, to)));
            assert_eq!((change.within, change.anew), (Vec::from_iter(within), Vec::from_iter(anew)), "{to}");
        }
    }
}
