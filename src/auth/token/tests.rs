#![allow(clippy::unwrap_used)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use super::*;
use crate::limits;

const NOW: u64 = 1_800_000_000;
const HIERARCHY: &str = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE";
const ID: &str = "11111111-2222-4333-8444-555555555555";
/// A key that nobody uses for anything else.
const RSA: &[u8] = include_bytes!("rsa-for-tests.pk8");

/// A site's own issuer with an RSA key, a token service with a P-256 key, and a directory with both.
struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
}

impl Keys {
    fn new() -> Keys {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        Keys { rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(), ec: ec.unwrap() }
    }

    fn rsa_key(&self, kid: &str) -> TokenKey {
        let ring::rsa::PublicKeyComponents { n, e } = self.rsa.public().into();
        TokenKey { kid: Some(kid.into()), x5t: Some(format!("x5t-{kid}")), public: PublicKey::Rsa { n, e } }
    }

    fn ec_key(&self, kid: &str) -> TokenKey {
        let point = self.ec.public_key().as_ref().to_vec();
        TokenKey { kid: Some(kid.into()), x5t: None, public: PublicKey::P256(point) }
    }

    fn issuers(&self, blocked: &[&str]) -> Issuers {
        let entry = |name: &str, issuer: &str, kinds: &[TokenKind], keys| TokenIssuer {
            name: name.into(),
            issuer: issuer.into(),
            audiences: vec![AUDIENCE.into()],
            tenants: vec![HIERARCHY.into()],
            kinds: TokenKinds::of(kinds),
            keys,
            client: Some("22222222-0000-4000-8000-000000000000".into()),
        };
        let site = issuer_of(HIERARCHY);
        let list = [
            entry("site", &site, &[TokenKind::Registration, TokenKind::Client], vec![self.rsa_key("rsa-1")]),
            entry("sts", "sts", &[TokenKind::Ccm], vec![self.ec_key("ec-1")]),
            entry(
                "directory",
                "https://login.example/t",
                &[TokenKind::Directory],
                vec![self.ec_key("ec-2"), self.rsa_key("two"), self.ec_key("two")],
            ),
        ];
        TokenIssuer::judge_all(&list).unwrap();
        Issuers::new(&list, [], blocked)
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = match header["alg"].as_str() {
            Some("ES256") => {
                self.ec.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            _ => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let random = SystemRandom::new();
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", BASE64URL.encode(signature))
    }
}

fn encoded(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "RS256", "x5t": "x5t-rsa-1"})
}

/// As the published sample: a registration token of three days.
fn registration() -> Value {
    json!({
        "SCCMTokenCategory": "SCCMPreAuthToken", "Authority": "SCCM", "License": "SCCM",
        "Type": "BulkRegistration", "TenantId": HIERARCHY, "UniqueId": ID,
        "iss": "urn:sccm:oauth2:aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "aud": "urn:sccm:service",
        "exp": NOW + 259_000, "nbf": NOW - 200,
    })
}

fn ccm() -> Value {
    json!({
        "SCCMTokenCategory": "SCCMSessionToken", "Type": "UDA", "hierarchyId": HIERARCHY, "iss": "sts",
        "deviceId": "GUID:7", "userId": "u1", "aud": ["other", "urn:sccm:service"], "exp": NOW + 28_800,
        "nbf": NOW, "jti": ID,
    })
}

fn with(mut value: Value, changes: Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

#[test]
fn a_token_in_the_published_format_is_taken_and_says_who_bears_it() {
    let keys = Keys::new();
    let issuers = keys.issuers(&["another"]);
    let facts = issuers.verify(keys.sign(&header(), &registration()).as_bytes(), now()).unwrap();
    assert_eq!((facts.kind, facts.subject.as_str(), facts.id.as_str()), (TokenKind::Registration, ID, ID));
    assert_eq!((facts.tenant.as_str(), facts.issuer.as_str()), (HIERARCHY, "site"));
    assert_eq!(facts.valid.until, NOW + 259_000);
    let es256 = json!({"alg": "ES256", "kid": "ec-1"});
    let facts = issuers.verify(keys.sign(&es256, &ccm()).as_bytes(), now()).unwrap();
    assert_eq!((facts.kind, facts.subject.as_str()), (TokenKind::Ccm, "GUID:7"));
    let directory = json!({
        "iss": "https://login.example/t", "aud": AUDIENCE, "tid": HIERARCHY.to_lowercase(), "sub": "s",
        "oid": "o", "exp": NOW + 3_600, "uti": "u",
    });
    let facts = issuers.verify(keys.sign(&with(es256, json!({"kid": "ec-2"})), &directory).as_bytes(), now());
    let facts = facts.unwrap();
    assert_eq!((facts.label.as_str(), facts.id.as_str()), ("directory:o", "u"));
}

/// Every row is good but for one thing, which the fault names: what was found, and what was expected.
#[test]
fn every_misuse_is_refused_and_told_without_the_token() {
    let keys = Keys::new();
    let issuers = keys.issuers(&[]);
    let rows: &[(&str, Value, Value, &str)] = &[
        ("issuer", json!({}), json!({"iss": "urn:evil"}), r#"issuer "urn:evil"; expected "urn:sccm:oauth2:"#),
        ("no issuer", json!({}), json!({"iss": null}), "no claim iss"),
        (
            "audience",
            json!({}),
            json!({"aud": "urn:else"}),
            r#"audience "urn:else"; expected "urn:sccm:service""#,
        ),
        ("no audience", json!({}), json!({"aud": null}), "audience none; expected"),
        ("tenant", json!({}), json!({"TenantId": ID}), "tenant \"11111111-"),
        ("no tenant", json!({}), json!({"TenantId": null}), "tenant \"\"; expected"),
        (
            "category",
            json!({}),
            json!({"SCCMTokenCategory": "Other", "Type": "UDA"}),
            "category \"Other of type UDA\"; expected a token of kind registration, client",
        ),
        (
            "no category",
            json!({}),
            json!({"SCCMTokenCategory": null}),
            "expected a token of kind registration",
        ),
        (
            "expired",
            json!({}),
            json!({"exp": NOW - 301, "nbf": NOW - 400}),
            "it expired at 2027-01-15T07:54:59Z; it is 2027-",
        ),
        (
            "early",
            json!({}),
            json!({"nbf": NOW + 301, "exp": NOW + 400}),
            "it is not valid before 2027-01-15T08:05:01Z; it is",
        ),
        ("long-lived", json!({}), json!({"exp": NOW + 700_000}), "expected 604800 s at most"),
        ("no end", json!({}), json!({"exp": null}), "no claim exp"),
        ("no begin", json!({}), json!({"nbf": null}), "no claim nbf"),
        ("an end that is text", json!({}), json!({"exp": "1900000000"}), "a claim has another type"),
        ("an end before all time", json!({}), json!({"exp": -1}), "no claim exp"),
        ("no id", json!({}), json!({"UniqueId": null}), "no claim UniqueId"),
        (
            "unknown key",
            json!({"x5t": "x5t-rsa-9"}),
            json!({}),
            r#"key "x5t-rsa-9", which issuer site does not have; it has "rsa-1""#,
        ),
        (
            "key of another issuer",
            json!({"x5t": null, "kid": "ec-1", "alg": "ES256"}),
            json!({}),
            "which issuer site does not have",
        ),
        ("two names that differ", json!({"kid": "rsa-2"}), json!({}), "which issuer site does not have"),
        ("no key", json!({"x5t": null}), json!({}), "it names no key"),
        (
            "two keys of one kid",
            json!({"x5t": null, "kid": "two"}),
            json!({"iss": "https://login.example/t"}),
            "key \"two\", of which issuer directory has 2",
        ),
        ("alg none", json!({"alg": "none"}), json!({}), r#"algorithm "none"; expected RS256"#),
        (
            "HS256 with the public key",
            json!({"alg": "HS256"}),
            json!({}),
            r#"algorithm "HS256"; expected RS256"#,
        ),
        ("ES256 for an RSA key", json!({"alg": "ES256"}), json!({}), r#"algorithm "ES256"; expected RS256"#),
        (
            "RS256 for a P-256 key",
            json!({"x5t": null, "kid": "ec-2"}),
            json!({"iss": "https://login.example/t"}),
            r#"algorithm "RS256"; expected ES256"#,
        ),
        ("jku", json!({"jku": "https://evil.example"}), json!({}), "its header has \"jku\""),
        ("x5u", json!({"x5u": "https://evil.example"}), json!({}), "its header has \"x5u\""),
        ("jwk", json!({"jwk": {"kty": "RSA"}}), json!({}), "its header has \"jwk\""),
        ("crit", json!({"crit": ["exp"]}), json!({}), "its header has \"crit\""),
        ("zip", json!({"zip": "DEF"}), json!({}), "its header has \"zip\""),
    ];
    for (what, in_header, in_claims, expected) in rows {
        let token = keys.sign(&with(header(), in_header.clone()), &with(registration(), in_claims.clone()));
        let fault = issuers.verify(token.as_bytes(), now()).expect_err(what).to_string();
        assert!(fault.contains(expected), "{what}: {fault}");
        assert!(token.split('.').all(|part| !fault.contains(part)), "{what}: {fault}");
    }
}

#[test]
fn what_is_no_token_is_none() {
    let keys = Keys::new();
    let issuers = keys.issuers(&[]);
    let good = keys.sign(&header(), &registration());
    let rows = [
        (String::new(), "not three parts"),
        ("a.b".into(), "not three parts"),
        (format!("{good}.x"), "not three parts"),
        ("..".into(), "a part of it is empty"),
        (good.rsplit_once('.').unwrap().0.to_owned() + ".", "a part of it is empty"),
        (good[..good.len() - 2].into(), "its signature is not that of key \"rsa-1\" of issuer site"),
        (good.replacen('.', "=.", 1), "no base64url"),
        ("!.!.!".into(), "no base64url"),
        (format!("{}.e30.AA", encoded(&json!("x"))), "its header is not one of a JWT"),
        ("A".repeat(8_193), "a token of 8193 octets; expected 8192 at most"),
    ];
    for (token, expected) in rows {
        let fault = issuers.verify(token.as_bytes(), now()).unwrap_err().to_string();
        assert!(fault.contains(expected), "{expected}: {fault}");
    }
    for place in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        assert!(issuers.verify(&bytes, now()).is_err(), "octet {place} changed");
    }
    let twice = format!(
        "{}.{}",
        encoded(&header()),
        BASE64URL.encode(registration().to_string().replacen('{', r#"{"aud":"urn:else","#, 1))
    );
    let mut signature = vec![0; 256];
    keys.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), twice.as_bytes(), &mut signature).unwrap();
    let fault = issuers.verify(format!("{twice}.{}", BASE64URL.encode(signature)).as_bytes(), now());
    assert!(fault.unwrap_err().to_string().contains("stands there twice"));
}

#[test]
fn a_blocked_token_is_refused_by_each_of_its_names() {
    let keys = Keys::new();
    let token = keys.sign(&header(), &registration());
    let fault = keys.issuers(&[&ID.to_uppercase()]).verify(token.as_bytes(), now()).unwrap_err();
    assert!(matches!(fault, TokenFault::Blocked(_)), "{fault}");
    let token = keys.sign(&json!({"alg": "ES256", "kid": "ec-1"}), &ccm());
    for name in ["guid:7", "U1", ID] {
        let fault = keys.issuers(&[name]).verify(token.as_bytes(), now()).unwrap_err();
        assert!(matches!(fault, TokenFault::Blocked(_)), "{name}: {fault}");
    }
    let twice = keys.sign(&header(), &with(registration(), json!({"jti": "another"})));
    let fault = keys.issuers(&["another"]).verify(twice.as_bytes(), now()).unwrap_err();
    assert!(matches!(fault, TokenFault::Blocked(_)), "{fault}");
    keys.issuers(&["guid:8", "u2"]).verify(token.as_bytes(), now()).unwrap();
}

#[test]
fn clocks_may_differ_by_five_minutes() {
    let keys = Keys::new();
    let issuers = keys.issuers(&[]);
    for (changes, is_good) in [
        (json!({"exp": NOW - 300, "nbf": NOW - 400}), true),
        (json!({"exp": NOW - 301, "nbf": NOW - 400}), false),
        (json!({"nbf": NOW + 300, "exp": NOW + 400}), true),
        (json!({"nbf": NOW + 301, "exp": NOW + 400}), false),
        (json!({"exp": (NOW + 5) as f64 + 0.5}), true),
    ] {
        let token = keys.sign(&header(), &with(registration(), changes.clone()));
        assert_eq!(issuers.verify(token.as_bytes(), now()).is_ok(), is_good, "{changes}");
    }
}

#[test]
fn while_keys_are_rotated_tokens_of_both_are_taken() {
    let (old, new) = (Keys::new(), Keys::new());
    let site = old.issuers(&[]).directory_of(HIERARCHY).unwrap().clone();
    let fetched = [new.ec_key("ec-next"), old.ec_key("ec-2")];
    let issuers = Issuers::new(&[site], [("directory", &fetched[..]), ("nobody", &fetched[..])], [""; 0]);
    let claims = json!({
        "iss": "https://login.example/t", "aud": AUDIENCE, "tid": HIERARCHY, "sub": "s", "exp": NOW + 60,
    });
    for (keys, kid) in [(&old, "ec-2"), (&new, "ec-next")] {
        let token = keys.sign(&json!({"alg": "ES256", "kid": kid}), &claims);
        assert!(issuers.verify(token.as_bytes(), now()).is_ok(), "{kid}");
    }
}

/// As one connection point fetched it and, with one name more, another.
#[test]
fn one_key_that_is_written_in_two_ways_is_one() {
    let (keys, other) = (Keys::new(), Keys::new());
    let site = keys.issuers(&[]).directory_of(HIERARCHY).unwrap().clone();
    let renamed = TokenKey { x5t: Some("thumbprint".to_owned()), ..keys.ec_key("ec-2") };
    let claims = json!({
        "iss": "https://login.example/t", "aud": AUDIENCE, "tid": HIERARCHY, "sub": "s", "exp": NOW + 60,
    });
    let token = keys.sign(&json!({"alg": "ES256", "kid": "ec-2"}), &claims);
    let judge = |fetched: &[TokenKey]| {
        Issuers::new(std::slice::from_ref(&site), [("directory", fetched)], [""; 0])
            .verify(token.as_bytes(), now())
    };
    assert!(judge(&[keys.ec_key("ec-2"), renamed.clone()]).is_ok());
    let fault = judge(&[renamed, other.ec_key("ec-2")]).unwrap_err();
    assert!(matches!(fault, TokenFault::AmbiguousKey { count: 2, .. }), "{fault}");
}

#[test]
fn a_subject_is_taken_whole_or_not_at_all() {
    let keys = Keys::new();
    let issuers = keys.issuers(&[]);
    let judge = |size: usize| {
        let claims = json!({
            "iss": "https://login.example/t", "aud": AUDIENCE, "tid": HIERARCHY, "sub": "s".repeat(size),
            "exp": NOW + 60,
        });
        issuers.verify(keys.sign(&json!({"alg": "ES256", "kid": "ec-2"}), &claims).as_bytes(), now())
    };
    let longest = limits::TOKEN_SUBJECT_SIZE_MAX;
    assert_eq!(judge(longest).unwrap().subject.len(), longest);
    assert!(judge(longest).unwrap().label.len() < longest, "a log line needs less");
    assert_eq!(judge(longest + 1), Err(TokenFault::LongSubject { found: longest + 1, expected: longest }));
}

#[test]
fn one_authorization_with_bearer_and_one_token_is_read() {
    let all = TokenKinds::of(&TokenKind::ALL);
    let rows: [(&[&str], Result<&str, TokenFault>); 9] = [
        (&["Bearer a.b.c"], Ok("a.b.c")),
        (&["bEARER   a.b.c"], Ok("a.b.c")),
        (&[], Err(TokenFault::Missing(all))),
        (&["Bearer a", "Bearer a"], Err(TokenFault::Twice)),
        (&["Bearer"], Err(TokenFault::NotBearer)),
        (&["Bearer "], Err(TokenFault::NotBearer)),
        (&["Bearera.b.c"], Err(TokenFault::NotBearer)),
        (&["Bearer a.b.c d"], Err(TokenFault::NotBearer)),
        (&["Basic QUJD"], Err(TokenFault::NotBearer)),
    ];
    for (values, expected) in rows {
        let read = bearer(values.iter().map(|value| value.as_bytes()), all);
        assert_eq!(read, expected.map(str::as_bytes), "{values:?}");
    }
}

#[test]
fn a_key_set_is_read_as_it_is_written_and_other_keys_are_passed_over() {
    let keys = Keys::new();
    let list = vec![keys.rsa_key("a"), keys.ec_key("b")];
    assert_eq!(TokenKey::read_set(TokenKey::write_set(&list).as_bytes()).unwrap(), list);
    let (n, e, long) = ("A".repeat(342), "AQAB", "_".repeat(341) + "w");
    let rows = [
        (json!({"kty": "RSA", "n": n, "e": e}), Err("RSA key of 0 bits")),
        (json!({"kty": "RSA", "n": long, "e": e}), Ok(1)),
        (json!({"kty": "RSA", "n": "_".repeat(172), "e": e}), Err("RSA key of 1032 bits")),
        (json!({"kty": "RSA", "n": long, "e": "Ag"}), Err("RSA key of")),
        (json!({"kty": "RSA", "n": "!", "e": e}), Err("member n")),
        (json!({"kty": "RSA", "n": long, "e": e, "use": "enc"}), Ok(0)),
        (json!({"kty": "RSA", "n": long, "e": e, "alg": "RS512"}), Ok(0)),
        (json!({"kty": "RSA", "n": long, "e": e, "kid": ""}), Err("name is empty")),
        (json!({"kty": "EC", "crv": "P-384", "x": "", "y": ""}), Ok(0)),
        (json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), Err("point")),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), Ok(0)),
        (json!({"kty": 7}), Ok(0)),
    ];
    for (jwk, expected) in rows {
        let read = TokenKey::read_set(json!({"keys": [jwk]}).to_string().as_bytes());
        match (read, expected) {
            (Ok(keys), Ok(count)) => assert_eq!(keys.len(), count, "{jwk}"),
            (Err(fault), Err(text)) => assert!(fault.to_string().contains(text), "{jwk}: {fault}"),
            (read, expected) => panic!("{jwk}: {read:?}, not {expected:?}"),
        }
    }
    let many: Vec<_> = (0..33).map(|kid| keys.ec_key(&kid.to_string())).collect();
    assert!(TokenKey::read_set(TokenKey::write_set(&many).as_bytes()).is_err());
    assert!(TokenKey::read_set(b"[]").is_err());
}

#[test]
fn accepted_tokens_are_remembered_within_their_life_and_bounds() {
    let mut verdicts = TokenVerdicts::<u32>::default();
    let life = crate::auth::Validity { from: 10, until: 20 };
    let at = |second| UnixTime::since_unix_epoch(Duration::from_secs(second));
    let asked = TokenAsked::new(b"token", 0, 1);
    verdicts.remember(asked, 7, life);
    for (second, found) in [(9, None), (10, Some(7)), (20, Some(7)), (21, None)] {
        assert_eq!(verdicts.find(&asked, at(second)), found, "second {second}");
    }
    for other in [(&b"other"[..], 0, 1), (b"token", 1, 1), (b"token", 0, 2)] {
        assert_eq!(verdicts.find(&TokenAsked::new(other.0, other.1, other.2), at(15)), None);
    }
    verdicts.clear();
    assert!(verdicts.is_empty());
}

/// By number with short tokens, by size with long ones.
#[test]
fn remembered_tokens_have_bounds_and_who_comes_often_is_known() {
    let life = crate::auth::Validity { from: 10, until: 20 };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(15));
    for size in [8, limits::TOKEN_SIZE_MAX] {
        let mut verdicts = TokenVerdicts::<usize>::default();
        let token = |number: usize| {
            let mut token = vec![b'.'; size];
            token[size - 8..].copy_from_slice(&number.to_be_bytes());
            token
        };
        let per_half = (limits::TOKEN_VERDICT_COUNT_MAX / 2).min(limits::TOKEN_VERDICT_SIZE_MAX / 2 / size);
        for number in 0..3 * per_half {
            verdicts.remember(TokenAsked::new(&token(number), 0, 1), number, life);
            assert!(verdicts.len() <= 2 * per_half && verdicts.size() == verdicts.len() * size);
            if number % 1_000 == 0 {
                assert_eq!(verdicts.find(&TokenAsked::new(&token(0), 0, 1), now), Some(0), "the regular");
            }
        }
        let last = 3 * per_half - 1;
        assert_eq!(verdicts.find(&TokenAsked::new(&token(last), 0, 1), now), Some(last));
        assert_eq!(verdicts.find(&TokenAsked::new(&token(1), 0, 1), now), None, "forgotten");
        verdicts.remember(TokenAsked::new(&token(last), 0, 1), 1, life);
        assert_eq!(verdicts.find(&TokenAsked::new(&token(last), 0, 1), now), Some(1), "the later");
    }
}

/// The hash looks at the end alone.
#[test]
fn a_remembered_token_answers_for_itself_alone() {
    let life = crate::auth::Validity { from: 10, until: 20 };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(15));
    let token: Vec<u8> = (0..200u8).collect();
    let mut verdicts = TokenVerdicts::default();
    verdicts.remember(TokenAsked::new(&token, 0, 1), "it", life);
    for place in 0..token.len() {
        let mut other = token.clone();
        other[place] ^= 1;
        assert_eq!(verdicts.find(&TokenAsked::new(&other, 0, 1), now), None, "octet {place}");
    }
    for other in [&token[1..], &token[..199], &[], &[&token[..], b"."].concat()] {
        assert_eq!(verdicts.find(&TokenAsked::new(other, 0, 1), now), None);
    }
    assert_eq!(verdicts.find(&TokenAsked::new(&token, 0, 1), now), Some("it"));
    let twin = [&[255], &token[1..]].concat();
    verdicts.remember(TokenAsked::new(&twin, 0, 1), "its twin", life);
    assert_eq!(verdicts.find(&TokenAsked::new(&twin, 0, 1), now), Some("its twin"));
    assert_eq!(verdicts.find(&TokenAsked::new(&token, 0, 1), now), None, "of two with one hash the later");
    assert_eq!((verdicts.len(), verdicts.size()), (1, token.len()));
}

/// A few with each look; however often all is forgotten, and before anybody looks.
#[test]
fn what_is_forgotten_is_freed_little_by_little_and_in_bounds() {
    let life = crate::auth::Validity { from: 10, until: 20 };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(15));
    let mut verdicts = TokenVerdicts::default();
    let alive = std::rc::Rc::new(());
    let ask = |number: u32| number.to_be_bytes();
    for cleared in 1..20u32 {
        for number in 0..100 {
            verdicts.remember(TokenAsked::new(&ask(number), 0, 1), alive.clone(), life);
        }
        verdicts.clear();
        assert!(verdicts.is_empty());
        let held = std::rc::Rc::strong_count(&alive) - 1;
        assert!((100..=400).contains(&held), "{held} are still held when {cleared} hundred were forgotten");
    }
    for look in 0..100 {
        let held = std::rc::Rc::strong_count(&alive) - 1;
        assert!(verdicts.find(&TokenAsked::new(&ask(0), 0, 1), now).is_none());
        let freed = held - (std::rc::Rc::strong_count(&alive) - 1);
        assert!(freed <= 4, "look {look} freed {freed}");
    }
    assert_eq!(std::rc::Rc::strong_count(&alive), 1, "all are gone");
}

#[test]
fn seeded_tokens_are_taken_only_as_they_were_signed() {
    crate::seeded::run("token", 3_000, crate::auth::fuzz::token);
}

#[test]
fn seeded_material_blocks_what_it_names_and_survives_being_written() {
    crate::seeded::run("token_material", 8_000, crate::auth::fuzz::token_material);
}

#[test]
fn seeded_queries_are_told_of_a_tenant_that_one_site_named() {
    crate::seeded::run("directory", 8_000, crate::auth::fuzz::directory);
}
