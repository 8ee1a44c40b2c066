//! A site's own tokens: the folder with the one key that signs them, what was issued, and what is blocked.
//!
//! Tokens themselves are never kept, only their ids and lives. What others need lies beside: `keys.json`
//! with the public keys for `[[token_issuer]]`, `blocked.txt` for `[tokens]`, both of `site.toml`. Whoever
//! changes the folder waits for whoever else does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use ring::rsa::PublicKeyComponents;
use ring::signature::RsaKeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::auth::token::{
    AUDIENCE, AUTHORITY, CATEGORY_PRE_AUTH, KeyFault, PublicKey, TYPE_BULK, TokenKey, issuer_of,
};
use crate::limits::{TOKEN_CLOCK_SKEW, TOKEN_ISSUED_COUNT_MAX, TOKEN_REGISTRATION_LIFE_MAX};
use crate::pki::{self, KEY_MODE, KeyKind, PUBLIC_MODE, PkiError, write_file};
use crate::request_id::RequestId;

use super::signer::Signer;

const SIGNING_KEY: &str = "signing.key";
/// Public keys: the one that signs, and those that did.
pub const KEYS: &str = "keys.json";
/// Ids of blocked tokens.
pub const BLOCKED: &str = "blocked.txt";
const LEDGER: &str = "tokens.json";

/// What goes wrong with tokens of one's own.
#[derive(Debug, thiserror::Error)]
pub enum StsError {
    /// A file.
    #[error("{0}")]
    File(#[from] PkiError),
    /// A file that is not what it was when it was written.
    #[error("{path}: {text}")]
    Unusable {
        /// Which.
        path: String,
        /// What is wrong.
        text: String,
    },
    /// A life that no registration token may have.
    #[error("a life of {0} s; expected from 60 s to {max} s (7 days)", max = TOKEN_REGISTRATION_LIFE_MAX.as_secs())]
    Life(u64),
    /// No token of that id was issued here.
    #[error("no token {0} was issued here (cmg token list)")]
    Unknown(String),
    /// Too many that live.
    #[error("{TOKEN_ISSUED_COUNT_MAX} tokens live already; block some, or wait until they have ended")]
    Full,
    /// A key that cannot be made or used.
    #[error("the signing key: {0}")]
    Key(String),
}

/// What was issued, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// `UniqueId` of the token.
    pub id: String,
    /// For people.
    pub note: String,
    /// Seconds since 1970.
    pub issued: u64,
    /// The same.
    pub until: u64,
    /// Refused from now on.
    pub blocked: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    hierarchy: String,
    tokens: Vec<Issued>,
}

/// See the file's head.
pub struct TokenFolder {
    folder: PathBuf,
    /// Nobody else changes it as long as this is open.
    _lock: fs::File,
    ledger: Ledger,
    now: u64,
}

impl TokenFolder {
    /// Opens the folder, or makes it with a key of its own; `hierarchy` is the site's GUID, made up where
    /// nobody says it.
    ///
    /// # Errors
    /// A file that cannot be read or made.
    pub fn open(folder: &Path, hierarchy: Option<&str>) -> Result<TokenFolder, StsError> {
        pki::make_folder(folder)?;
        let lock = pki::lock(folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let path = folder.join(LEDGER);
        let ledger = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unusable(&path, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger {
                hierarchy: hierarchy.map_or_else(guid, |text| Ok(text.to_owned()))?,
                tokens: Vec::new(),
            },
            Err(error) => return Err(unusable(&path, error)),
        };
        let folder = TokenFolder { folder: folder.to_owned(), _lock: lock, ledger, now };
        // A link that leads nowhere now, as to a key that is not mounted, is no reason for another key.
        let key = fs::symlink_metadata(folder.folder.join(SIGNING_KEY));
        if key.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            folder.make_key()?;
            folder.write()?;
        }
        Ok(folder)
    }

    /// Opens a folder that is there and has a key.
    ///
    /// # Errors
    /// It has none, or a file cannot be read.
    pub fn existing(folder: &Path) -> Result<TokenFolder, StsError> {
        let path = folder.join(SIGNING_KEY);
        fs::metadata(&path).map_err(|error| unusable(&path, error))?;
        TokenFolder::open(folder, None)
    }

    /// GUID of the hierarchy that its tokens are of.
    pub fn hierarchy(&self) -> &str {
        &self.ledger.hierarchy
    }

    /// What was issued and lives, blocked or not.
    pub fn tokens(&self) -> impl Iterator<Item = &Issued> {
        self.ledger.tokens.iter().filter(|one| self.lives(one))
    }

    /// With what others still take for alive: clocks differ.
    fn lives(&self, one: &Issued) -> bool {
        one.until + TOKEN_CLOCK_SKEW.as_secs() >= self.now
    }

    /// A new registration token in the published format, and what is kept of it.
    ///
    /// # Errors
    /// A life out of bounds, too many tokens, a file.
    pub fn issue(&mut self, life: Duration, note: &str) -> Result<(String, Issued), StsError> {
        let secs = life.as_secs();
        if secs < 60 || life > TOKEN_REGISTRATION_LIFE_MAX {
            return Err(StsError::Life(secs));
        }
        if self.tokens().count() >= TOKEN_ISSUED_COUNT_MAX {
            return Err(StsError::Full);
        }
        let (id, until) = (guid()?, self.now + secs);
        let claims = json!({
            "SCCMTokenCategory": CATEGORY_PRE_AUTH,
            "Authority": AUTHORITY,
            "License": AUTHORITY,
            "Type": TYPE_BULK,
            "TenantId": self.ledger.hierarchy.to_ascii_uppercase(),
            "UniqueId": id,
            "iss": issuer_of(&self.ledger.hierarchy),
            "aud": AUDIENCE,
            "nbf": self.now,
            "exp": until,
        });
        let token = self.signer()?.sign(&claims)?;
        let issued = Issued { id, note: note.to_owned(), issued: self.now, until, blocked: false };
        self.ledger.tokens.push(issued.clone());
        self.write()?;
        Ok((token, issued))
    }

    /// Blocks a token, or takes that back.
    ///
    /// # Errors
    /// No such token, or a file.
    pub fn block(&mut self, id: &str, is_blocked: bool) -> Result<Issued, StsError> {
        let found = self.ledger.tokens.iter_mut().find(|one| one.id.eq_ignore_ascii_case(id));
        let found = found.ok_or_else(|| StsError::Unknown(id.to_owned()))?;
        found.blocked = is_blocked;
        let issued = found.clone();
        self.write()?;
        Ok(issued)
    }

    /// What stands in `site.toml` for these tokens to be taken.
    pub fn site_toml(&self) -> String {
        let folder = self.folder.display();
        format!(
            "[[token_issuer]]\nname = \"cmg-token\"\nissuer = \"{issuer}\"\naudiences = [\"{AUDIENCE}\"]\n\
             tenants = [\"{hierarchy}\"]\nkinds = [\"registration\", \"client\", \"ccm\"]\nkeys = [\"{folder}/{KEYS}\"]\n\
             [tokens]\nblocked = \"{folder}/{BLOCKED}\"\n",
            issuer = issuer_of(&self.ledger.hierarchy),
            hierarchy = self.ledger.hierarchy,
        )
    }

    /// What signs in the name of this folder's hierarchy.
    ///
    /// # Errors
    /// The key cannot be read or used.
    pub fn signer(&self) -> Result<Signer, StsError> {
        let path = self.folder.join(SIGNING_KEY);
        let der = PrivatePkcs8KeyDer::from_pem_file(&path).map_err(|error| unusable(&path, error))?;
        Ok(Signer::new(self.ledger.hierarchy.clone(), public(&der)?.kid, &der))
    }

    /// Makes a key; those before it stay among the public ones, so that their tokens live to their end.
    fn make_key(&self) -> Result<(), StsError> {
        let made = KeyKind::Rsa2048.make().map_err(|error| StsError::Key(error.to_string()))?;
        let der = PrivatePkcs8KeyDer::from(made.serialize_der());
        let path = self.folder.join(KEYS);
        let mut keys = match fs::read(&path) {
            Ok(bytes) => TokenKey::read_set(&bytes).map_err(|fault: KeyFault| unusable(&path, fault))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable(&path, error)),
        };
        keys.insert(0, public(&der)?);
        keys.truncate(KEYS_KEPT);
        write_file(&path, TokenKey::write_set(&keys).as_bytes(), PUBLIC_MODE)?;
        write_file(&self.folder.join(SIGNING_KEY), made.serialize_pem().as_bytes(), KEY_MODE)?;
        Ok(())
    }

    fn write(&self) -> Result<(), StsError> {
        let kept =
            Ledger { hierarchy: self.ledger.hierarchy.clone(), tokens: self.tokens().cloned().collect() };
        let json = serde_json::to_vec_pretty(&kept).expect("texts and numbers always have a JSON form");
        write_file(&self.folder.join(LEDGER), &json, KEY_MODE)?;
        self.write_blocked()?;
        Ok(())
    }

    /// Lines of tokens that were issued here are written anew; those that people wrote beside them stay.
    fn write_blocked(&self) -> Result<(), StsError> {
        let path = self.folder.join(BLOCKED);
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(unusable(&path, error)),
        };
        let is_ours = |line: &str| {
            let id = line.split_whitespace().next().unwrap_or_default();
            line == BLOCKED_HEAD || self.ledger.tokens.iter().any(|one| one.id == id)
        };
        let ours = self.tokens().filter(|one| one.blocked).map(|one| one.id.as_str());
        let others = before.lines().filter(|line| !is_ours(line));
        let lines: Vec<&str> = std::iter::once(BLOCKED_HEAD).chain(ours).chain(others).collect();
        write_file(&path, (lines.join("\n") + "\n").as_bytes(), PUBLIC_MODE)?;
        Ok(())
    }
}

const BLOCKED_HEAD: &str =
    "# Blocked tokens: cmg token writes those that it issued and leaves other lines as they are.";

fn public(der: &PrivatePkcs8KeyDer<'_>) -> Result<TokenKey, StsError> {
    let pair =
        RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| StsError::Key(error.to_string()))?;
    let PublicKeyComponents { n, e } = pair.public().into();
    Ok(TokenKey::nameless(PublicKey::Rsa { n, e }))
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> StsError {
    StsError::Unusable { path: path.display().to_string(), text: error.to_string() }
}

/// A random GUID (RFC 9562 5.4), in upper case as the original writes them.
pub(super) fn guid() -> Result<String, StsError> {
    let mut octets = [0; 16];
    SystemRandom::new()
        .fill(&mut octets)
        .map_err(|_| StsError::Key("the system gives no randomness".to_owned()))?;
    octets[6] = octets[6] & 0x0F | 0x40;
    octets[8] = octets[8] & 0x3F | 0x80;
    Ok(RequestId(octets).text().as_str().to_ascii_uppercase())
}

/// Public keys in `keys.json`: the one that signs, and some that did. A device's own token lives for 90 days: who
/// takes another key every two weeks leaves nobody behind.
const KEYS_KEPT: usize = 8;
