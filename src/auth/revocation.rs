//! What a site's revocation lists say of a chain that leads to its trust.
//!
//! Of the lists of one authority, for the same certificates, the one with the highest number counts: an
//! older one never takes a revocation back. A delta is read together with the complete list it is for.
//! Every certificate below the root is looked up, in the list of the key that signed it.

use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::certificate::CertificateFault;
use super::name::name_text;
use super::revocation_list::{ListFault, Number, RevocationList, digits, number_of, uris};
use crate::limits::CRL_COUNT_MAX;

/// What becomes of a certificate whose authority has no list that is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationMode {
    /// Lists are not looked at.
    #[default]
    Off,
    /// It is admitted, and counted.
    Soft,
    /// It is refused.
    Hard,
}

/// A site's lists, and how they are used.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    /// What missing lists mean.
    pub mode: RevocationMode,
    /// Seconds for which a list counts behind its end.
    pub grace: u64,
    pub(super) lists: Vec<Arc<RevocationList>>,
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStanding {
    /// It counts from now on.
    New,
    /// It was there already.
    Same,
}

/// A certificate of a chain, and the key of the authority above it.
pub(super) struct Linked<'c> {
    pub certificate: &'c X509Certificate<'c>,
    /// SHA-256 of the authority's public key.
    pub issuer_key: [u8; 32],
}

/// What the lists say of a chain that none of them revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unrevoked {
    /// Seconds since 1970 until which that holds.
    pub until: u64,
    /// Of each certificate that is on no list in force, why.
    pub unchecked: Vec<CertificateFault>,
}

impl Revocation {
    /// The lists that count.
    pub fn lists(&self) -> &[Arc<RevocationList>] {
        &self.lists
    }

    /// Takes a list.
    ///
    /// # Errors
    /// One that does not take the place of what is held.
    pub fn take(&mut self, list: Arc<RevocationList>) -> Result<ListStanding, ListFault> {
        let issuer = || list.issuer_text.clone();
        if let Some(needs) = list.base {
            let is_base = |one: &Arc<RevocationList>| {
                !one.is_delta() && one.is_about_those_of(&list) && one.number >= needs
            };
            if !self.lists.iter().any(is_base) {
                return Err(ListFault::NoBase { issuer: issuer(), needs: digits(&needs) });
            }
        }
        let Some(held) = self.lists.iter_mut().find(|held| held.stands_for(&list)) else {
            if self.lists.len() >= CRL_COUNT_MAX {
                return Err(ListFault::TooMany(CRL_COUNT_MAX));
            }
            self.lists.push(list);
            return Ok(ListStanding::New);
        };
        if held.sha256 == list.sha256 {
            return Ok(ListStanding::Same);
        }
        match list.number.cmp(&held.number) {
            std::cmp::Ordering::Greater => {
                *held = list;
                Ok(ListStanding::New)
            }
            std::cmp::Ordering::Equal => {
                Err(ListFault::Diverged { issuer: issuer(), number: list.number_text() })
            }
            std::cmp::Ordering::Less => Err(ListFault::Older {
                issuer: issuer(),
                offered: list.number_text(),
                held: held.number_text(),
            }),
        }
    }

    /// Keeps those lists whose authority `is_known` by name and key.
    pub(super) fn keep(&mut self, is_known: impl Fn(&[u8], &[u8; 32]) -> bool) {
        self.lists.retain(|list| is_known(&list.issuer, &list.key));
    }

    /// Looks up every certificate below the root, `chain` from the leaf on, at `now` in seconds since 1970.
    pub(super) fn look(&self, chain: &[Linked<'_>], now: u64) -> Result<Unrevoked, CertificateFault> {
        let mut found = Unrevoked { until: u64::MAX, unchecked: Vec::new() };
        if self.mode == RevocationMode::Off {
            return Ok(found);
        }
        for linked in chain {
            match self.look_up(linked, now) {
                Ok(until) => found.until = found.until.min(until),
                Err(revoked @ CertificateFault::Revoked { .. }) => return Err(revoked),
                Err(unknown) if self.mode == RevocationMode::Hard => return Err(unknown),
                Err(unknown) => found.unchecked.push(unknown),
            }
        }
        Ok(found)
    }

    /// Until when the lists vouch for a certificate; or that they do not.
    fn look_up(&self, linked: &Linked<'_>, now: u64) -> Result<u64, CertificateFault> {
        let Linked { certificate, issuer_key } = linked;
        let serial = number_of(certificate.raw_serial());
        let own = || {
            self.lists.iter().filter(|list| {
                list.issuer == certificate.issuer().as_raw()
                    && list.key == *issuer_key
                    && speaks_of(list, certificate)
            })
        };
        let bases = own().filter(|list| !list.is_delta());
        let (mut latest, mut until) = (None, None);
        for base in bases {
            let deltas = own().filter(|delta| {
                let fits = delta.base.is_some_and(|needs| needs <= base.number);
                fits && delta.number >= base.number && delta.scope == base.scope
            });
            let delta = deltas.max_by_key(|delta| delta.number);
            if serial.is_some_and(|serial| is_revoked(base, delta.map(Arc::as_ref), &serial)) {
                return Err(revoked(certificate, base));
            }
            let end = base.next_update.saturating_add(self.grace);
            latest = latest.max(Some(base.next_update));
            if end >= now && serial.is_some() {
                until = until.max(Some(end));
            }
        }
        match (until, latest) {
            (Some(until), _) => Ok(until),
            (None, Some(since)) if serial.is_some() => {
                Err(CertificateFault::ListTooOld { issuer: name_text(certificate.issuer()), since })
            }
            _ => Err(unknown(certificate)),
        }
    }

    /// Whether a list names the certificate, whichever key of its authority signed that; quick.
    pub(super) fn may_have_revoked(&self, certificate: &X509Certificate<'_>) -> bool {
        let Some(serial) = number_of(certificate.raw_serial()) else { return false };
        let issuer = certificate.issuer().as_raw();
        self.mode != RevocationMode::Off
            && self.lists.iter().any(|list| list.issuer == issuer && list.names(&serial))
    }
}

fn is_revoked(base: &RevocationList, delta: Option<&RevocationList>, serial: &Number) -> bool {
    match delta {
        Some(delta) if delta.names(serial) => true,
        Some(delta) if delta.takes_off(serial) => false,
        _ => base.names(serial),
    }
}

/// Whether a list's scope has the certificate in it.
fn speaks_of(list: &RevocationList, certificate: &X509Certificate<'_>) -> bool {
    let scope = &list.scope;
    let is_kind = if certificate.is_ca() { !scope.users_alone } else { !scope.authorities_alone };
    is_kind && (scope.points.is_empty() || points(certificate).iter().any(|uri| scope.points.contains(uri)))
}

/// Where a certificate says that lists are found.
fn points(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() {
            let names = points.iter().filter_map(|point| uris(point.distribution_point.as_ref()?));
            found.extend(names.flatten());
        }
    }
    found
}

fn revoked(certificate: &X509Certificate<'_>, list: &RevocationList) -> CertificateFault {
    CertificateFault::Revoked {
        subject: name_text(certificate.subject()),
        issuer: list.issuer_text.clone(),
        serial: number_of(certificate.raw_serial()).map_or_else(String::new, |serial| digits(&serial)),
    }
}

fn unknown(certificate: &X509Certificate<'_>) -> CertificateFault {
    let is_ldap = |uri: &String| {
        let scheme = uri.split(':').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case("ldap") || scheme.eq_ignore_ascii_case("ldaps")
    };
    CertificateFault::NoList {
        issuer: name_text(certificate.issuer()),
        unusable: points(certificate).into_iter().filter(is_ldap).collect(),
    }
}
