//! What must hold for any text in a settings file, and for any bytes that are published.

use super::{
    ConnectorSettings, GatewaySettings, GroupSettings, PublishedSettings, PublishedTrust, Revision,
    SettingsErrors, SiteSettings, Source, Standing,
};
use crate::limits::{GROUP_ORIGINS_MAX, SETTINGS_SIZE_MAX};
use crate::mapping::{self, PublishedTable, RoleIds};

/// `bytes` as each of the three files.
///
/// # Panics
/// When a mistake has no place in the text, or when a site is read that gateways would not take.
pub fn files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_places(text, GatewaySettings::parse(text, "f").err());
    check_places(text, ConnectorSettings::parse(text, "f").err());
    match SiteSettings::parse(text, "f") {
        Ok(site) => {
            let published = site.publish(PublishedTrust::default());
            check_published(&published);
            let _ = site.url_mapping();
            let leads_somewhere =
                |group: &GroupSettings| (1..=GROUP_ORIGINS_MAX).contains(&group.origins.len());
            assert!(site.groups.iter().all(leads_somewhere), "each group has an origin whose turn it is");
        }
        Err(errors) => check_places(text, Some(errors)),
    }
}

fn check_places(text: &str, errors: Option<SettingsErrors>) {
    let lines = text.lines().count().max(1) + 1;
    for error in errors.iter().flat_map(|errors| &errors.0) {
        assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
    }
    // Looked up again only for a few: each reads the whole text.
    for error in errors.iter().flat_map(|errors| errors.0.iter().take(2)) {
        let found_again = Source::new(text, "f").error(&error.key, "", "");
        assert!((1..=lines).contains(&found_again.line) && found_again.column >= 1, "{found_again}");
    }
}

/// `bytes` as a publication, from a channel or from disk.
///
/// # Panics
/// When what is read does not survive being written, or breaks a bound it was judged by.
pub fn publication(bytes: &[u8]) {
    let Ok(published) = PublishedSettings::from_bytes(bytes) else { return };
    assert!(bytes.len() <= SETTINGS_SIZE_MAX);
    check_published(&published);
}

fn check_published(published: &PublishedSettings) {
    let written = published.to_bytes();
    assert_eq!(published.check().is_ok(), written.len() <= SETTINGS_SIZE_MAX);
    if written.len() > SETTINGS_SIZE_MAX {
        return;
    }
    assert_eq!(PublishedSettings::from_bytes(&written).as_ref(), Ok(published));
    let revision = Revision::of(published, &written);
    assert_eq!(revision.judge(&revision), Standing::Same);
    let allowed = RoleIds::all();
    let publication = mapping::Publication { site: 0, roles: &published.roles, allowed: &allowed };
    let (table, conflicts) = PublishedTable::new([publication]);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    assert_eq!(table.roles().count(), published.roles.len());
}
