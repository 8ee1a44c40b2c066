//! What must hold for any bytes that somebody shows as a certificate or a token.

use rustls::pki_types::UnixTime;

use super::token::{
    AUDIENCE, DirectoryFault, Issuers, TokenIssuer, TokenKey, TokenKind, TokenKinds, TokenMaterial, bearer,
    directory as directory_info, issuer_of,
};
use super::{
    BlockList, CONTEXT, InternalName, Renewal, RevocationList, Trust, certificate, client_cert_field,
    client_cert_of, internal_identity, judge, judge_renewed, life_of, read_chain, thumbprints, write_chain,
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

/// `bytes` as what a role asks for its next certificate with, and as the chain that comes of it.
///
/// # Panics
/// When something is made that nobody signed for, or something is read that is not written as the same bytes.
pub fn renewal(bytes: &[u8]) {
    let root = Trust::new(&[ROOT], &[]).expect("the root is sound");
    if let Ok(renewal) = Renewal::parse(bytes) {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(renewal.made));
        assert!(renewal.judge(&root, now).is_err(), "its key is gone");
        let unsigned = Renewal::unsigned(renewal.made, &renewal.chain, renewal.request).expect("it was read");
        let signature = &bytes[unsigned.len() - CONTEXT.len()..];
        assert_eq!(Renewal::signed(&unsigned, signature).as_deref(), Some(bytes));
    }
    if let Some(chain) = read_chain(bytes) {
        assert_eq!(write_chain(&chain).as_deref(), Some(bytes));
        if let Some(name) = chain.first().and_then(|leaf| internal_identity(leaf).ok()) {
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
            assert!(judge_renewed(&chain, &name, b"", &root, now).is_err(), "nobody asked for it");
        }
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

/// `bytes` as the value of `Client-Cert`, and as the certificate in it.
///
/// # Panics
/// When a value has a second spelling, or a certificate does not survive being written and read.
pub fn client_cert(bytes: &[u8]) {
    assert_eq!(client_cert_of([]), Ok(None));
    if let Ok(read) = client_cert_of([bytes]) {
        let der = read.expect("there is a value");
        assert_eq!(client_cert_field(&der).as_bytes(), bytes);
        assert!(life_of(&der).is_some() && !thumbprints(&der).is_empty());
        assert!(client_cert_of([bytes, bytes]).is_err(), "of two nobody knows which is meant");
    }
    let written = client_cert_field(bytes);
    match client_cert_of([written.as_bytes()]) {
        Ok(read) => assert_eq!(read.as_deref(), Some(bytes)),
        Err(_) => assert_eq!(life_of(bytes), None),
    }
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

/// `bytes` as what a connection point says of tokens, and as an operator's list of blocked ones.
///
/// # Panics
/// When what is read does not survive being written, or a token that is named is not blocked.
pub fn token_material(bytes: &[u8]) {
    if let Ok(material) = TokenMaterial::from_bytes(bytes) {
        let written = material.to_bytes();
        // A key that says what it is for is longer than one that does not.
        if material.check_size().is_ok() {
            assert_eq!(TokenMaterial::from_bytes(&written).as_ref(), Ok(&material));
        }
        let issuers = TokenMaterial::issuers(&[], std::iter::once(&material));
        assert!(issuers.is_empty(), "material brings keys and no issuers");
        assert!(material.blocked.iter().all(|id| issuers.is_blocked(&id.to_ascii_uppercase())));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(blocked) = TokenMaterial::read_blocked(text) {
        assert_eq!(TokenMaterial::read_blocked(&blocked.join(" # why\n")).as_ref(), Ok(&blocked));
        let material = TokenMaterial { blocked, ..TokenMaterial::default() };
        if material.check_size().is_ok() {
            assert_eq!(TokenMaterial::from_bytes(&material.to_bytes()).as_ref(), Ok(&material));
        }
    }
}

/// `bytes` as the query of `AADAuthInfo`, to a gateway of two sites that have one tenant in common.
///
/// # Panics
/// When a tenant is told of that nobody named, or that two sites did, or otherwise than as JSON of it.
pub fn directory(bytes: &[u8]) {
    let tenants = ["aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "contoso.example", "both"];
    let of = |tenants: &[&str], client: &str| {
        let entry = TokenIssuer {
            name: "directory".to_owned(),
            issuer: "https://login.example/t".to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            tenants: tenants.iter().map(|&tenant| tenant.to_owned()).collect(),
            kinds: TokenKinds::of(&[TokenKind::Directory]),
            keys: Vec::new(),
            client: Some(client.to_owned()),
        };
        Issuers::new(&[entry], [], [""; 0])
    };
    let sites = [of(&[tenants[0], "both"], "one"), of(&[tenants[1], "both"], "other")];
    let is_in_query = |tenant: &str| {
        String::from_utf8_lossy(bytes).to_ascii_lowercase().contains(&format!("tenantid={tenant}"))
    };
    match directory_info(bytes, &sites) {
        Ok(told) => {
            let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
            let tenant = told["TenantId"].as_str().expect("it says whose it is").to_ascii_lowercase();
            let place = tenants.iter().position(|one| *one == tenant).expect("a site named it");
            assert_eq!(told["ClientAppId"].as_str(), ["one", "other"].get(place).copied());
            assert!(is_in_query(&tenant));
        }
        Err(DirectoryFault::Claimed(tenant)) => assert!(tenant.eq_ignore_ascii_case("both")),
        Err(DirectoryFault::Unknown(tenant)) => {
            assert!(tenants.iter().all(|one| !one.eq_ignore_ascii_case(&tenant)));
        }
        Err(DirectoryFault::NoTenant) => assert!(tenants.iter().all(|one| {
            let alone = format!("TenantID={one}");
            bytes != alone.as_bytes()
        })),
    }
}
