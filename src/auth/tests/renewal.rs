//! What a role asks for its next internal certificate with, and everything that is wrong with it.

use std::sync::Arc;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SanType, SerialNumber, SigningKey as _,
};

use super::super::*;
use super::chains::{Authority, NOW, at, authority_params, params, trust};

const URI: &str = "cmg://gateway/gw1";
const DNS: &str = "gw1.gateway.cmg.internal";
const CONNECTOR: &str = "cmg://site/PS1/connector/1";

fn authority(name: &str) -> Authority {
    let mut params = authority_params(name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Somebody with a certificate.
struct Role {
    leaf: Vec<u8>,
    key: KeyPair,
}

fn names(uri: &str, dns: &[&str]) -> Vec<SanType> {
    let dns = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
    std::iter::once(SanType::URI(uri.try_into().unwrap())).chain(dns).collect()
}

fn role(ca: &Authority, uri: &str, dns: &[&str], usage: ExtendedKeyUsagePurpose) -> Role {
    let key = KeyPair::generate().unwrap();
    let mut params = params("role");
    params.subject_alt_names = names(uri, dns);
    params.extended_key_usages = vec![usage];
    params.serial_number = Some(SerialNumber::from(vec![0x17]));
    Role { leaf: params.signed_by(&key, ca).unwrap().der().to_vec(), key }
}

fn gateway(ca: &Authority) -> Role {
    role(ca, URI, &[DNS], ExtendedKeyUsagePurpose::ServerAuth)
}

fn request_by(key: &KeyPair, names: Vec<SanType>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().der().to_vec()
}

fn request(names: Vec<SanType>) -> Vec<u8> {
    request_by(&KeyPair::generate().unwrap(), names)
}

/// What `role` sends for a request.
fn asked(role: &Role, made: u64, request: &[u8]) -> Vec<u8> {
    let unsigned = Renewal::unsigned(made, &[&role.leaf], request).unwrap();
    Renewal::signed(&unsigned, &role.key.sign(&unsigned).unwrap()).unwrap()
}

fn judged(bytes: &[u8], trust: &Trust) -> Result<Renewable, RenewalFault> {
    Renewal::parse(bytes)?.judge(trust, at(NOW))
}

#[test]
fn who_proves_both_keys_gets_what_he_has() {
    let ca = authority("Internal");
    let trust = trust(&[&ca], &[]);
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
    ] {
        let gateway = gateway(&ca);
        let bytes = asked(&gateway, NOW, &request_by(&key, names(URI, &[DNS])));
        let renewable = judged(&bytes, &trust).unwrap();
        assert_eq!(renewable.name, InternalName::parse(URI).unwrap());
        assert_eq!((renewable.names, renewable.serial), (vec![DNS.to_owned()], vec![0x17]));
        assert_eq!(renewable.key, key.subject_public_key_info());
    }
    let connector = role(&ca, CONNECTOR, &[], ExtendedKeyUsagePurpose::ClientAuth);
    assert!(judged(&asked(&connector, NOW, &request(names(CONNECTOR, &[]))), &trust).is_ok());
}

#[test]
fn whoever_proves_less_or_asks_for_more_gets_nothing() {
    let (ca, other) = (authority("Internal"), authority("Internal"));
    let known = trust(&[&ca], &[]);
    let own = gateway(&ca);
    let good = || names(URI, &[DNS]);
    let connector = role(&ca, CONNECTOR, &[], ExtendedKeyUsagePurpose::ClientAuth);
    let mixed = Role { leaf: own.leaf.clone(), key: KeyPair::generate().unwrap() };
    let borrowed =
        Role { leaf: own.leaf.clone(), key: KeyPair::try_from(connector.key.serialize_der()).unwrap() };
    let wrong_use = role(&ca, URI, &[DNS], ExtendedKeyUsagePurpose::ClientAuth);
    let nobody = role(&ca, "https://example/", &[DNS], ExtendedKeyUsagePurpose::ServerAuth);
    let addressed = {
        let mut names = good();
        names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        request(names)
    };
    let unproven = {
        // The key of one request in the place of another's: the last octets are the signature.
        let (mut one, other) = (request(good()), request(good()));
        let size = one.len();
        one[size - 8..].copy_from_slice(&other[other.len() - 8..]);
        one
    };
    let ed25519 = request_by(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), good());
    let unnamed = |bytes: Result<Renewable, RenewalFault>| match bytes {
        Ok(renewable) => panic!("given: {renewable:?}"),
        Err(fault) => fault,
    };
    use RenewalFault as Fault;
    type Row = (&'static str, Vec<u8>, fn(&Fault) -> bool);
    let rows: Vec<Row> = vec![
        ("long ago", asked(&own, NOW - 301, &request(good())), |f| matches!(f, Fault::Untimely { .. })),
        ("in time to come", asked(&own, NOW + 301, &request(good())), |f| {
            matches!(f, Fault::Untimely { .. })
        }),
        ("of another authority", asked(&gateway(&other), NOW, &request(good())), |f| {
            matches!(f, Fault::Untrusted(_))
        }),
        ("for clients", asked(&wrong_use, NOW, &request(good())), |f| matches!(f, Fault::Untrusted(_))),
        ("of nobody", asked(&nobody, NOW, &request(good())), |f| matches!(f, Fault::Nobody(_))),
        ("another's key", asked(&mixed, NOW, &request(good())), |f| *f == Fault::BadSignature),
        ("the carrier's key", asked(&borrowed, NOW, &request(good())), |f| *f == Fault::BadSignature),
        ("a key not held", asked(&own, NOW, &unproven), |f| {
            matches!(f, Fault::NotProven | Fault::Malformed(_))
        }),
        ("the key that it has", asked(&own, NOW, &request_by(&own.key, good())), |f| *f == Fault::SameKey),
        ("a key of another kind", asked(&own, NOW, &ed25519), |f| matches!(f, Fault::OddKey(_))),
        ("a connector for a gateway", asked(&connector, NOW, &request(good())), |f| *f == Fault::OtherNames),
        ("another instance", asked(&own, NOW, &request(names("cmg://gateway/gw2", &[DNS]))), |f| {
            *f == Fault::OtherNames
        }),
        ("a name more", asked(&own, NOW, &request(names(URI, &[DNS, "issuer.cmg.internal"]))), |f| {
            *f == Fault::OtherNames
        }),
        ("a name less", asked(&own, NOW, &request(names(URI, &[]))), |f| *f == Fault::OtherNames),
        ("an address", asked(&own, NOW, &addressed), |f| *f == Fault::OtherNames),
        ("no names", asked(&own, NOW, &request(Vec::new())), |f| *f == Fault::OtherNames),
        ("no request", asked(&own, NOW, b"request"), |f| matches!(f, Fault::Malformed(_))),
        ("nothing", Vec::new(), |f| matches!(f, Fault::Malformed(_))),
    ];
    for (what, bytes, is_fault) in rows {
        let fault = unnamed(judged(&bytes, &known));
        assert!(is_fault(&fault), "{what}: {fault:?}");
    }
}

#[test]
fn who_is_revoked_gets_nothing() {
    let ca = authority("Internal");
    let mut trust = trust(&[&ca], &[]).with_rules(AllowRules::default(), RevocationMode::Soft, 0);
    let bytes = asked(&gateway(&ca), NOW, &request(names(URI, &[DNS])));
    assert!(judged(&bytes, &trust).is_ok());
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2029, 12, 1),
        next_update: rcgen::date_time_ymd(2030, 2, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(vec![0x17]),
            revocation_time: rcgen::date_time_ymd(2029, 12, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let der = list.signed_by(&ca).unwrap();
    let read = RevocationList::read(der.der(), &trust, NOW).unwrap();
    trust.take_list(Arc::new(read)).unwrap();
    assert_eq!(judged(&bytes, &trust), Err(RenewalFault::Revoked));
    // As PEM and as DER, alone and behind another.
    let two = [&der.der()[..], &der.der()[..]].concat();
    assert_eq!(lists_der(&two).unwrap(), [der.der().to_vec(), der.der().to_vec()]);
    let pem = der.pem().unwrap();
    assert_eq!(lists_der(format!("{pem}\n{pem}").as_bytes()).unwrap().len(), 2);
    for bad in [&b""[..], b"list", &two[..two.len() - 1]] {
        assert!(lists_der(bad).is_err());
    }
}

#[test]
fn what_is_changed_anywhere_on_the_way_is_refused() {
    let ca = authority("Internal");
    let trust = trust(&[&ca], &[]);
    let bytes = asked(&gateway(&ca), NOW, &request(names(URI, &[DNS])));
    assert!(judged(&bytes, &trust).is_ok());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(judged(&changed, &trust).is_err(), "octet {at}");
        assert!(judged(&bytes[..at], &trust).is_err(), "cut at {at}");
    }
    assert!(judged(&[&bytes[..], b"0"].concat(), &trust).is_err());
}

#[test]
fn only_the_certificate_that_was_asked_for_is_taken() {
    let (ca, other) = (authority("Internal"), authority("Internal"));
    let known = trust(&[&ca], &[]);
    let key = KeyPair::generate().unwrap();
    let made = |ca: &Authority, uri: &str, key: &KeyPair, usage| {
        let mut params = params("role");
        params.subject_alt_names = names(uri, &[DNS]);
        params.extended_key_usages = vec![usage];
        params.signed_by(key, ca).unwrap().der().to_vec()
    };
    let (name, public) = (InternalName::parse(URI).unwrap(), key.subject_public_key_info());
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let rows = [
        (made(&ca, URI, &key, server.clone()), true),
        (made(&other, URI, &key, server.clone()), false),
        (made(&ca, "cmg://gateway/gw2", &key, server.clone()), false),
        (made(&ca, URI, &KeyPair::generate().unwrap(), server), false),
        (made(&ca, URI, &key, ExtendedKeyUsagePurpose::ClientAuth), false),
        (b"no certificate".to_vec(), false),
    ];
    for (row, (leaf, is_taken)) in rows.into_iter().enumerate() {
        let written = write_chain(&[&leaf]).unwrap();
        let read = read_chain(&written).unwrap();
        assert_eq!(judge_renewed(&read, &name, &public, &known, at(NOW)).is_ok(), is_taken, "{row}");
    }
    assert!(judge_renewed::<&[u8]>(&[], &name, &public, &known, at(NOW)).is_err());
}
