//! Tokens of clients, signed: what a directory or a site gives to a device, and what a token service gives for that.
//!
//! `loadgen tokens` makes a folder with one key (ES256, RFC 7518 3.4) and prints the lines of `site.toml` by which a site takes
//! what it signs. With the folder, `loadgen clients` shows the directory's tokens and those for registration, and `loadgen origin` gives its own for them
//! at `CCM_STS`. Claims are those by which cmg knows the kinds apart (docs/with-configuration-manager.md).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The field in which the origin gives a token: every byte of its body is checked, and a token's cannot be known before.
pub const TOKEN_FIELD: &str = "X-Load-Token";
/// The tenant whose devices ask; `AADAuthInfo` is asked for it.
pub const TENANT: &str = "6f1c2a3b-4d5e-4f60-8a7b-9c0d1e2f3a4b";

const SIGNING_KEY: &str = "signing.pem";
const HALF_A_KEY: &str = ".signing.pem.new";
const PUBLIC_KEYS: &str = "keys.json";
/// What is printed, for `cmg up --tokens`.
const ISSUERS: &str = "issuers.toml";
const KEY_NAME: &str = "loadgen";
/// `iss` of a token of the directory.
const DIRECTORY: &str = "urn:loadgen:directory";
/// `aud` of the same, and the client id that `AADAuthInfo` tells.
const APPLICATION: &str = "loadgen";
/// `iss` of tokens of the site, which are for registration or of its token service, with the hierarchy they are of.
const SERVICE: &str = "urn:sccm:oauth2:00000000-0000-4000-8000-00006c6f6164";
const HIERARCHY: &str = "00000000-0000-4000-8000-00006C6F6164";
/// Seconds: of the directory's, and of the token service's, which is that of the original.
const LIVES: (u64, u64) = (3_600, 8 * 3_600);
/// Seconds of a token for registration, the same as the original's unless it is told another.
const REGISTRATION_LIFE: u64 = 3 * 86_400;
/// `Type` of the same.
const REGISTRATION: &str = "BulkRegistration";

/// The flags of `loadgen tokens`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder to make, for --tokens of `loadgen clients` and `loadgen origin`; with its key, if it has one already
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// Makes the folder; gives what `site.toml` needs.
///
/// # Errors
/// A text for the user.
pub fn make(options: &Options) -> Result<String, String> {
    let folder = &options.folder;
    let fault = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
    fs::create_dir_all(folder).map_err(|error| fault(folder, &error))?;
    let path = folder.join(SIGNING_KEY);
    if !path.exists() {
        let pem = new_key().map_err(|error| fault(&path, &error))?;
        // Whole or not at all: half a key would be in the way of another.
        let half = folder.join(HALF_A_KEY);
        let _ = fs::remove_file(&half);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half);
        file.and_then(|mut file| file.write_all(pem.as_bytes()))
            .and_then(|()| fs::rename(&half, &path))
            .map_err(|error| fault(&path, &error))?;
    }
    let signer = Signer::read(folder)?;
    let keys = folder.join(PUBLIC_KEYS);
    fs::write(&keys, signer.public_keys()).map_err(|error| fault(&keys, &error))?;
    let keys = fs::canonicalize(&keys).map_err(|error| fault(&keys, &error))?;
    let keys = keys.to_str().ok_or_else(|| fault(&keys, &"no UTF-8"))?;
    let keys = Value::from(keys);
    let issuers = format!(
        "[[token_issuer]]\nname = \"loadgen-directory\"\nissuer = \"{DIRECTORY}\"\naudiences = [\"{APPLICATION}\"]\n\
         tenants = [\"{TENANT}\"]\nkinds = [\"directory\"]\nkeys = [{keys}]\nclient_id = \"{APPLICATION}\"\n\n\
         [[token_issuer]]\nname = \"loadgen-service\"\nissuer = \"{SERVICE}\"\naudiences = [\"urn:sccm:service\"]\n\
         tenants = [\"{HIERARCHY}\"]\nkinds = [\"registration\", \"ccm\"]\nkeys = [{keys}]\n"
    );
    let path = folder.join(ISSUERS);
    fs::write(&path, &issuers).map_err(|error| fault(&path, &error))?;
    Ok(issuers)
}

fn new_key() -> Result<String, &'static str> {
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let text = BASE64.encode(made.map_err(|_| "the system gives no randomness")?);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (place, letter) in text.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// Signs, and knows what it signed.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// With the key that [`make`] put into the folder.
    ///
    /// # Errors
    /// A text for the user.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join(SIGNING_KEY);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("{}: not there; `loadgen tokens {}` makes it", path.display(), folder.display())
            }
            _ => format!("{}: {error}", path.display()),
        })?;
        let wrong =
            || format!("{}: no key of `loadgen tokens`; move it away to have one made", path.display());
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64.decode(body).map_err(|_| wrong())?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
        Ok(Self { pair: pair.map_err(|_| wrong())?, random })
    }

    /// A JWK set (RFC 7517).
    fn public_keys(&self) -> String {
        // 4, then both coordinates (SEC 1, 2.3.3).
        let point = &self.pair.public_key().as_ref()[1..];
        let coordinate = |half: &[u8]| BASE64URL.encode(half);
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_NAME,
            "x": coordinate(&point[..32]), "y": coordinate(&point[32..]),
        });
        json!({ "keys": [key] }).to_string()
    }

    /// What the directory gives to this device.
    pub fn of_directory(&self, device: &str) -> String {
        let now = now();
        self.sign(&json!({
            "iss": DIRECTORY, "aud": APPLICATION, "tid": TENANT, "oid": device, "sub": device,
            "nbf": now, "exp": now + LIVES.0,
        }))
    }

    /// What the site's tool made for this device to register with. Real ones are for many devices: with one each, none of them
    /// counts for another where a gateway counts by token.
    pub fn of_site(&self, device: &str) -> String {
        let now = now();
        self.sign(&json!({
            "iss": SERVICE, "aud": "urn:sccm:service", "SCCMTokenCategory": "SCCMPreAuthToken", "Authority": "SCCM",
            "License": "SCCM", "Type": REGISTRATION, "TenantId": HIERARCHY, "UniqueId": device,
            "nbf": now, "exp": now + REGISTRATION_LIFE,
        }))
    }

    /// What the token service gives to the device that shows `token`; `None` when that is neither the directory's nor for
    /// registration.
    pub fn exchange(&self, token: &[u8]) -> Option<String> {
        let device = self.device(token)?;
        let now = now();
        Some(self.sign(&json!({
            "iss": SERVICE, "aud": "urn:sccm:service", "SCCMTokenCategory": "SCCMSessionToken", "Type": "DA",
            "HierarchyId": HIERARCHY, "DeviceId": device, "nbf": now, "exp": now + LIVES.1,
        })))
    }

    /// Whose token of the directory or for registration this is, if it is one that lives.
    fn device(&self, token: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(token).ok()?;
        let (message, signature) = text.rsplit_once('.')?;
        let signature = BASE64URL.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(message.as_bytes(), &signature)
            .ok()?;
        let claims = BASE64URL.decode(message.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let lives = claims["exp"].as_u64().is_some_and(|until| until > now());
        let bearer = match (claims["iss"].as_str(), claims["Type"].as_str()) {
            (Some(DIRECTORY), _) => claims["oid"].as_str(),
            (Some(SERVICE), Some(REGISTRATION)) => claims["UniqueId"].as_str(),
            _ => None,
        };
        bearer.filter(|_| lives).map(str::to_owned)
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "ES256", "kid": KEY_NAME });
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&self.random, message.as_bytes());
        let signature = signature.expect("the system gave randomness when the key was read");
        format!("{message}.{}", BASE64URL.encode(signature))
    }
}

/// Of `Authorization`: the token, where it shows one.
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

/// Tokens are judged by the time there is, not by that of a population.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn folder() -> (tempfile::TempDir, Options) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tokens");
        (root, Options { folder })
    }

    #[test]
    fn a_folder_is_made_once_and_its_key_is_nobody_elses() {
        let (_root, options) = folder();
        let lines = make(&options).unwrap();
        let key = options.folder.join(SIGNING_KEY);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        assert_eq!(make(&options).unwrap(), lines, "the same again");
        assert_eq!(fs::read(&key).unwrap(), before);
        assert_eq!(fs::read_to_string(options.folder.join(ISSUERS)).unwrap(), lines);
        let table: toml::Table = lines.parse().unwrap();
        assert_eq!(table["token_issuer"].as_array().unwrap().len(), 2);
        let keys: Value =
            serde_json::from_slice(&fs::read(options.folder.join(PUBLIC_KEYS)).unwrap()).unwrap();
        assert_eq!(keys["keys"][0]["kid"], KEY_NAME);
        assert_eq!(keys["keys"][0]["x"].as_str().unwrap().len(), 43, "32 octets");
    }

    #[test]
    fn a_token_is_exchanged_for_one_of_the_same_device_and_nothing_else_is() {
        let (_root, options) = folder();
        make(&options).unwrap();
        let signer = Signer::read(&options.folder).unwrap();
        let shown = signer.of_directory("GUID:7");
        let given = signer.exchange(shown.as_bytes()).unwrap();
        let claims = BASE64URL.decode(given.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["DeviceId"], "GUID:7");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["nbf"].as_u64().unwrap(), LIVES.1);
        assert_eq!(signer.exchange(given.as_bytes()), None, "nobody's to exchange");
        let claims = signer.exchange(signer.of_site("GUID:8").as_bytes()).unwrap();
        let claims = BASE64URL.decode(claims.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["DeviceId"], &claims["Type"]), (&json!("GUID:8"), &json!("DA")));
        let old = signer.sign(&json!({ "iss": DIRECTORY, "oid": "GUID:7", "exp": now() - 1 }));
        assert_eq!(signer.exchange(old.as_bytes()), None, "over");
        let (head, tail) = shown.split_at(shown.len() - 10);
        let other = if tail.starts_with('A') { 'B' } else { 'A' };
        for wrong in [format!("{head}{other}{}", &tail[1..]), String::new(), "a.b".into(), "..".into()] {
            assert_eq!(signer.exchange(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_folder_without_its_key_is_told() {
        let (_root, options) = folder();
        let text = Signer::read(&options.folder).unwrap_err();
        assert!(text.contains("signing.pem: not there; `loadgen tokens "), "{text}");
        fs::create_dir(&options.folder).unwrap();
        fs::write(options.folder.join(SIGNING_KEY), "x\n").unwrap();
        let text = Signer::read(&options.folder).unwrap_err();
        assert!(text.contains("no key of `loadgen tokens`; move it away"), "{text}");
    }

    #[test]
    fn only_bearer_is_a_token() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value}");
        }
    }
}
