//! What was revoked: a small dated file beside the authorities, from which lists are signed.
//!
//! Entries stay: whoever looks up an old list, or why a device was shut out, finds them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{RevocationReason, RevokedCertParams, SerialNumber};
use serde::{Deserialize, Serialize};

use super::files::{PUBLIC_MODE, write_file};
use super::{PkiError, Revoked, authority};

/// Which of the two authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityKind {
    /// Signs what the internet sees: servers and clients.
    Site,
    /// Signs what roles show one another.
    Internal,
}

impl AuthorityKind {
    /// Both.
    pub const ALL: [AuthorityKind; 2] = [AuthorityKind::Site, AuthorityKind::Internal];

    /// As an option spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthorityKind::Site => "site",
            AuthorityKind::Internal => "internal",
        }
    }

    /// Name of its files, without what stands behind the dot.
    pub(super) const fn stem(self) -> &'static str {
        match self {
            AuthorityKind::Site => "ca",
            AuthorityKind::Internal => "internal-ca",
        }
    }

    /// Name of the file with its revocation list, without what stands behind the dot.
    pub(super) const fn list_stem(self) -> &'static str {
        match self {
            AuthorityKind::Site => "crl",
            AuthorityKind::Internal => "internal-crl",
        }
    }
}

/// Why a certificate was revoked, as lists of RFC 5280 tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Not said.
    #[default]
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// The device belongs to somebody else now.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The device is no longer in use.
    CessationOfOperation,
    /// It may no longer do what it could.
    PrivilegeWithdrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 6] = [
        Reason::Unspecified,
        Reason::KeyCompromise,
        Reason::AffiliationChanged,
        Reason::Superseded,
        Reason::CessationOfOperation,
        Reason::PrivilegeWithdrawn,
    ];

    /// As an option spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Unspecified => "unspecified",
            Reason::KeyCompromise => "keyCompromise",
            Reason::AffiliationChanged => "affiliationChanged",
            Reason::Superseded => "superseded",
            Reason::CessationOfOperation => "cessationOfOperation",
            Reason::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    fn code(self) -> RevocationReason {
        match self {
            Reason::Unspecified => RevocationReason::Unspecified,
            Reason::KeyCompromise => RevocationReason::KeyCompromise,
            Reason::AffiliationChanged => RevocationReason::AffiliationChanged,
            Reason::Superseded => RevocationReason::Superseded,
            Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
            Reason::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        }
    }
}

/// A serial number: its octets without zeros before them. Displays as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Octets of the longest serial number that RFC 5280 allows.
    const SIZE_MAX: usize = 20;

    pub(super) fn of(octets: &[u8]) -> Serial {
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        Serial(octets[zeros..].to_vec())
    }

    /// Reads hexadecimal digits as tools print them: `0x`, `:` and blanks are read over.
    pub fn parse(text: &str) -> Option<Serial> {
        let text = text.trim().trim_start_matches("0x").trim_start_matches("0X");
        let signs = text.chars().filter(|sign| !matches!(sign, ':' | ' '));
        let digits: Vec<u8> =
            signs.map(|sign| sign.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
        let odd = digits.len() % 2;
        let first = digits.get(..odd)?.to_vec();
        let pairs = digits.get(odd..)?.chunks(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low));
        let serial = Serial::of(&first.into_iter().chain(pairs).collect::<Vec<u8>>());
        (!digits.is_empty() && serial.0.len() <= Serial::SIZE_MAX).then_some(serial)
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        serial.to_string()
    }
}

impl TryFrom<String> for Serial {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Serial, &'static str> {
        Serial::parse(&text).ok_or("not the hexadecimal digits of a serial number")
    }
}

/// One certificate that is no longer to be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Who signed it.
    pub authority: AuthorityKind,
    /// Its serial number.
    pub serial: Serial,
    /// What it was called; empty where only the serial number was given.
    pub name: String,
    /// Since when.
    pub when: Timestamp,
    /// Why.
    pub reason: Reason,
}

/// Numbers of the lists signed last; a reader believes no list with a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    site: u64,
    internal: u64,
}

/// `revoked.json`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    list_numbers: Numbers,
    pub(super) revoked: Vec<Revocation>,
}

impl Register {
    pub(super) fn read(folder: &Path) -> Result<Register, PkiError> {
        let path = path(folder);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| PkiError::Unusable { path, reason: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Register::default()),
            Err(source) => Err(PkiError::File { path, source }),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), PkiError> {
        let path = path(folder);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| PkiError::Unusable { path: path.clone(), reason: error.to_string() })?;
        write_file(&path, &text, PUBLIC_MODE)
    }

    pub(super) fn find(&self, authority: AuthorityKind, serial: &Serial) -> Option<&Revocation> {
        self.revoked.iter().find(|one| one.authority == authority && one.serial == *serial)
    }

    /// Writes one down, unless it is there; whoever changed it writes the file.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> Revoked {
        match self.find(revocation.authority, &revocation.serial) {
            Some(before) => Revoked::Before(before.clone()),
            None => {
                self.revoked.push(revocation.clone());
                Revoked::Now(revocation)
            }
        }
    }

    /// A number above that of every list signed before, also of one that this register forgot (`found`), and of those
    /// that the whole folder forgot, since it was put back from a copy: no list is signed each second, so the seconds
    /// since 1970 (`now`) are above theirs.
    pub(super) fn next_number(&mut self, authority: AuthorityKind, found: u64, now: u64) -> u64 {
        let number = match authority {
            AuthorityKind::Site => &mut self.list_numbers.site,
            AuthorityKind::Internal => &mut self.list_numbers.internal,
        };
        *number = found.max(*number).saturating_add(1).max(now);
        *number
    }

    /// What an authority's list says, but for those that have long ended.
    pub(super) fn entries(&self, authority: AuthorityKind, over: &HashSet<Serial>) -> Vec<RevokedCertParams> {
        let entry = |one: &Revocation| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial.0.clone()),
            revocation_time: authority::date(one.when.into()),
            reason_code: Some(one.reason.code()),
            invalidity_date: None,
        };
        let all = self.revoked.iter().filter(|one| one.authority == authority);
        all.filter(|one| !over.contains(&one.serial)).map(entry).collect()
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("revoked.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_reads_as_tools_print_it() {
        let rows = [
            ("01ab", Some("01ab")),
            ("1AB", Some("01ab")),
            ("0x00:01:AB", Some("01ab")),
            ("00", Some("00")),
            ("", None),
            ("xyz", None),
            ("é", None),
            ("0102030405060708090a0b0c0d0e0f1011121314", Some("0102030405060708090a0b0c0d0e0f1011121314")),
            ("0102030405060708090a0b0c0d0e0f101112131415", None),
        ];
        for (text, serial) in rows {
            assert_eq!(Serial::parse(text).map(|serial| serial.to_string()).as_deref(), serial, "{text}");
        }
    }

    #[test]
    fn a_number_exceeds_all_before_it() {
        let mut register = Register::default();
        let numbers = [0, 0, 7, 0, 3].map(|found| register.next_number(AuthorityKind::Site, found, 0));
        assert_eq!(numbers, [1, 2, 8, 9, 10]);
        assert_eq!(register.next_number(AuthorityKind::Internal, 0, 0), 1);
        // Two in one second, and a clock that was put back.
        let numbers = [100, 100, 50].map(|now| register.next_number(AuthorityKind::Site, 0, now));
        assert_eq!(numbers, [100, 101, 102]);
    }

    #[test]
    fn a_list_signed_after_the_folder_was_put_back_exceeds_those_that_it_forgot() {
        let (mut register, mut now) = (Register::default(), 1_000);
        let copy = register.clone();
        let mut last = 0;
        for _ in 0..100 {
            now += 1;
            last = register.next_number(AuthorityKind::Internal, last, now);
        }
        let mut restored = copy;
        assert!(restored.next_number(AuthorityKind::Internal, 0, now + 1) > last);
    }
}
