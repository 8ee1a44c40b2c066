//! What must hold for any bytes that somebody shows as a certificate or a token.

use rustls::pki_types::UnixTime;

use super::token::{AUDIENCE, Issuers, TokenIssuer, TokenKey, TokenKind, TokenKinds, bearer, issuer_of};
use super::{
    BlockList, InternalName, RevocationList, Trust, certificate, client_cert_field, internal_identity, judge,
};
use super::{list_der, name_text, revocation_list};

/// A root whose key nobody has any more, and a leaf that it issued for client authentication.
const ROOT: &[u8] = include_bytes!("../../fuzz/seeds/certificate/root.der");
const LEAF: &[u8] = include_bytes!("../../fuzz/seeds/certificate/client.der");
/// Amid the life of both, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

/// `bytes` as a certificate, to everything that reads one.
///
/// # Panics
/// When somebody is trusted whom nobody issued, when it is told otherwise than it stands there, or when
/// a name does not survive being written and read.
pub fn certificate(bytes: &[u8]) {
    let nobody = Trust::default();
    let root = Trust::new(&[ROOT], &[]).expect("the root is sound");
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    assert!(judge(&[bytes, bytes], &nobody, now).is_err());
    assert!(judge(&[LEAF], &root, now).is_ok());
    // What is shown beside a good leaf may be anything; beside anything, a good leaf helps nothing.
    let _ = judge(&[LEAF, bytes, bytes], &root, now);
    for chain in [&[bytes][..], &[bytes, LEAF], &[bytes, ROOT]] {
        if let Ok(facts) = judge(chain, &root, now) {
            assert_eq!(signed_part(bytes), signed_part(LEAF), "{facts:?}");
        }
    }
    let with_intermediate = Trust::new(&[ROOT], &[bytes]);
    assert_eq!(with_intermediate.is_ok(), certificate::parse(bytes).is_some());
    if let Ok(trust) = with_intermediate {
        assert!(judge(&[LEAF], &trust, now).is_ok(), "what an operator adds takes nobody's access");
    }
    let _ = Trust::new(&[bytes], &[bytes]);
    names(bytes);
}

/// `bytes` as a revocation list and as a block list, to everything that reads one.
///
/// # Panics
/// When a list is believed that nobody signed, or what it names is not found in it again.
pub fn revocation_list(bytes: &[u8]) {
    let root = Trust::new(&[ROOT], &[]).expect("the root is sound");
    assert!(RevocationList::read(bytes, &root, NOW).is_err(), "its key is gone");
    let Ok(der) = list_der(bytes) else { return };
    if let Ok(list) = revocation_list::parse(&der) {
        let issuer = name_text(list.issuer());
        assert!(issuer.chars().all(|sign| !sign.is_control()), "{issuer:?}");
        if let Ok(read) = RevocationList::of(&list, [0; 32], issuer, &der, NOW) {
            assert!(read.revoked.iter().all(|serial| read.names(serial)));
            assert!(read.removed.iter().all(|serial| read.takes_off(serial)));
            assert!(read.stands_for(&read) && read.place().len() == 32);
            let _ = read.life_percent(NOW);
        }
    }
    if let Ok(blocked) = BlockList::parse(bytes) {
        assert!(blocked.len() <= bytes.len());
    }
}

fn names(bytes: &[u8]) {
    if let Ok(name) = internal_identity(bytes) {
        assert_eq!(InternalName::parse(&name.to_string()), Some(name));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(name) = InternalName::parse(text)
    {
        assert_eq!(name.to_string(), text, "a name has one spelling");
    }
    let field = client_cert_field(bytes);
    assert!(
        field.starts_with(':') && field.ends_with(':') && field.bytes().all(|octet| octet.is_ascii_graphic())
    );
}

/// What the signature of a certificate covers: its own encoding has more than one form.
fn signed_part(der: &[u8]) -> Option<Vec<u8>> {
    certificate::parse(der).map(|certificate| certificate.tbs_certificate.as_ref().to_vec())
}

/// A site's key set, and tokens that its keys signed.
const TOKEN_KEYS: &[u8] = include_bytes!("../../fuzz/seeds/token/keys.json");
const TOKENS: [&[u8]; 4] = [
    include_bytes!("../../fuzz/seeds/token/registration.jwt"),
    include_bytes!("../../fuzz/seeds/token/client.jwt"),
    include_bytes!("../../fuzz/seeds/token/ccm.jwt"),
    include_bytes!("../../fuzz/seeds/token/directory.jwt"),
];

/// `bytes` as a token, as the value of `Authorization`, and as a key set.
///
/// # Panics
/// When a token is taken that nobody signed, or a key set does not survive being written and read.
pub fn token(bytes: &[u8]) {
    let keys = TokenKey::read_set(TOKEN_KEYS).expect("the keys are sound");
    let hierarchy = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let entry = |name: &str, issuer: &str, audience: &str, kinds: &[TokenKind]| TokenIssuer {
        name: name.to_owned(),
        issuer: issuer.to_owned(),
        audiences: vec![audience.to_owned()],
        tenants: vec![hierarchy.to_owned()],
        kinds: TokenKinds::of(kinds),
        keys: keys.clone(),
        client: None,
    };
    let own = [TokenKind::Registration, TokenKind::Client, TokenKind::Ccm];
    let list = [
        entry("site", &issuer_of(hierarchy), AUDIENCE, &own),
        entry("directory", "https://login.example/t", "app", &[TokenKind::Directory]),
    ];
    let issuers = Issuers::new(&list, [], [""; 0]);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    for good in TOKENS {
        assert!(issuers.verify(good, now).is_ok());
    }
    let shown = bearer(std::iter::once(bytes), TokenKinds::NONE).unwrap_or_default();
    for asked in [bytes, shown] {
        match issuers.verify(asked, now) {
            Ok(facts) => {
                let is_known = TOKENS.iter().any(|good| message_of(good) == message_of(asked));
                assert!(is_known, "{facts:?}");
            }
            Err(fault) => assert!(fault.to_string().len() < 2_048, "a fault fits a line"),
        }
    }
    if let Ok(keys) = TokenKey::read_set(bytes) {
        assert_eq!(TokenKey::read_set(TokenKey::write_set(&keys).as_bytes()), Ok(keys));
    }
    let _ = TokenKey::from_spki(bytes);
    let _ = TokenKey::from_certificate(bytes);
}

/// What the signature of a token covers: of a signature by P-256 there is a second form.
fn message_of(token: &[u8]) -> &[u8] {
    let end = token.iter().rposition(|octet| *octet == b'.').unwrap_or(token.len());
    &token[..end]
}
