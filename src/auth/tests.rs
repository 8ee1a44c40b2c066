use rustls::pki_types::UnixTime;

use super::*;

#[test]
fn an_internal_name_has_one_spelling() {
    let gateway = InternalName { role: InternalRole::Gateway, site: None, name: "gw1".to_owned() };
    let connector = InternalName {
        role: InternalRole::Connector,
        site: Some("PS1".to_owned()),
        name: "dmz-1.a".to_owned(),
    };
    let table = [
        ("cmg://gateway/gw1", Some(gateway)),
        ("cmg://site/PS1/connector/dmz-1.a", Some(connector)),
        ("CMG://gateway/gw1", None),
        ("cmg:/gateway/gw1", None),
        ("cmg://gateway/", None),
        ("cmg://gateway", None),
        ("cmg://gateway/gw1/", None),
        ("cmg://gateway/gw1/x", None),
        ("cmg://gateway/gw1?x", None),
        ("cmg://gateway/gw%31", None),
        ("cmg://gateway/../site", None),
        ("cmg://gateway/.gw", None),
        ("cmg://site/ps1/connector/1", None),
        ("cmg://site/PS12/connector/1", None),
        ("cmg://site/PS1/gateway/1", None),
        ("cmg://site/PS1/connector/1/x", None),
        ("cmg://site/PS1/connector", None),
        ("cmg://site//connector/1", None),
    ];
    for (uri, name) in table {
        assert_eq!(InternalName::parse(uri), name, "{uri}");
        if let Some(name) = name {
            assert_eq!(name.to_string(), uri);
        }
    }
}

#[test]
fn seeded_lists_are_believed_only_as_they_were_signed() {
    crate::seeded::run("revocation_list", 2_000, fuzz::revocation_list);
}

#[test]
fn seeded_certificates_are_trusted_only_as_they_were_issued() {
    crate::seeded::run("certificate", 2_000, fuzz::certificate);
}

#[test]
fn seeded_renewals_are_read_in_one_way_and_give_nothing() {
    crate::seeded::run("renewal", 2_000, fuzz::renewal);
}

#[test]
fn seeded_client_cert_fields_have_one_spelling() {
    crate::seeded::run("client_cert", 4_000, fuzz::client_cert);
}

#[test]
fn a_client_cert_field_is_a_byte_sequence() {
    assert_eq!(client_cert_field(b""), "::");
    assert_eq!(client_cert_field(&[0xFB, 0xFF, 0x01]), ":+/8B:");
}

#[test]
fn no_certificate_is_a_matter_of_showing_one() {
    let nobody = Trust::default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
    let fault = judge::<&[u8]>(&[], &nobody, now).unwrap_err();
    assert_eq!((fault.refusal().status(), fault), (403, CertificateFault::Missing));
    let fault = judge(&[b"junk"], &nobody, now).unwrap_err();
    assert_eq!(fault.refusal().status(), 401);
    assert!(matches!(fault, CertificateFault::Malformed(_)));
}

#[cfg(feature = "shells")]
mod renewal;
#[cfg(feature = "shells")]
mod revocation;

#[cfg(feature = "shells")]
mod chains {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        SanType, date_time_ymd,
    };

    use super::*;
    use crate::limits::{CERTIFICATE_CHAIN_SIZE_MAX, INTERMEDIATE_COUNT_MAX};

    pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

    /// 2030-01-01, amid the life of every certificate made here unless it says otherwise.
    pub(super) const NOW: u64 = 1_893_456_000;

    pub(super) fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    pub(super) fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2035, 1, 1);
        params
    }

    pub(super) fn authority_params(name: &str) -> CertificateParams {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub(super) fn root(name: &str) -> Authority {
        CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
    }

    pub(super) fn below(issuer: &Authority, name: &str) -> Authority {
        CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), issuer).unwrap()
    }

    pub(super) fn leaf(issuer: &Authority, change: impl Fn(&mut CertificateParams)) -> Vec<u8> {
        let mut params = params("client1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
    }

    pub(super) fn trust(roots: &[&Authority], intermediates: &[&Authority]) -> Trust {
        let ders = |list: &[&Authority]| list.iter().map(|one| one.der().to_vec()).collect::<Vec<_>>();
        Trust::new(&ders(roots), &ders(intermediates)).unwrap()
    }

    pub(super) fn der(authority: &Authority) -> Vec<u8> {
        authority.der().to_vec()
    }

    #[test]
    fn a_chain_to_a_trusted_root_is_accepted_and_its_facts_are_told() {
        let (root, other) = (root("Root"), root("Other"));
        let issuing = below(&root, "Issuing");
        let client = leaf(&issuing, |_| {});
        let sent = judge(&[client.clone(), der(&issuing)], &trust(&[&other, &root], &[]), at(NOW)).unwrap();
        let uploaded = judge(std::slice::from_ref(&client), &trust(&[&root], &[&issuing]), at(NOW)).unwrap();
        assert_eq!(sent, uploaded);
        assert_eq!((sent.subject.as_str(), sent.issuer.as_str()), ("CN=client1", "CN=Issuing"));
        assert_eq!(sent.valid, Validity { from: 1_735_689_600, until: 2_051_222_400 });
        assert_eq!(sent.thumbprint, ring::digest::digest(&ring::digest::SHA256, &client).as_ref());
        assert!(!sent.serial.is_empty() && sent.serial.bytes().all(|digit| digit.is_ascii_hexdigit()));
        judge(&[leaf(&root, |params| params.extended_key_usages.clear())], &trust(&[&root], &[]), at(NOW))
            .unwrap();
    }

    #[test]
    fn an_acceptance_lives_as_long_as_all_certificates_on_the_way() {
        let top = root("Root");
        let mut short = authority_params("Issuing");
        short.not_before = date_time_ymd(2027, 1, 1);
        short.not_after = date_time_ymd(2031, 1, 1);
        let issuing = CertifiedIssuer::signed_by(short, KeyPair::generate().unwrap(), &top).unwrap();
        let brief = leaf(&issuing, |params| params.not_after = date_time_ymd(2030, 6, 1));
        let (y2025, y2027, y2030_june, y2031, y2035) =
            (1_735_689_600, 1_798_761_600, 1_906_502_400, 1_924_992_000, 2_051_222_400);
        let table = [
            (vec![leaf(&issuing, |_| {}), der(&issuing)], y2027, y2031),
            (vec![brief, der(&issuing)], y2027, y2030_june),
            // What is shown and not needed has no say.
            (vec![leaf(&top, |_| {}), der(&issuing)], y2025, y2035),
        ];
        let trust = trust(&[&top], &[]);
        for (chain, from, until) in table {
            let valid = judge(&chain, &trust, at(NOW)).unwrap().valid;
            assert_eq!(valid, Validity { from, until });
            for (now, accepted) in [(from - 1, false), (from, true), (until, true), (until + 1, false)] {
                assert_eq!(valid.contains(at(now)), accepted, "second {now}");
                assert_eq!(judge(&chain, &trust, at(now)).is_ok(), accepted, "second {now}");
            }
        }
    }

    #[test]
    fn a_missing_link_is_named() {
        let top = root("Root");
        let middle = below(&top, "Middle");
        let issuing = below(&middle, "Issuing");
        let client = leaf(&issuing, |_| {});
        let table = [
            (vec![client.clone()], trust(&[&top], &[&middle]), "CN=Issuing"),
            (vec![client.clone(), der(&issuing)], trust(&[&top], &[]), "CN=Middle"),
            (vec![client.clone(), der(&issuing), der(&middle)], trust(&[], &[]), "CN=Root"),
            (
                vec![client.clone(), der(&issuing), der(&middle), der(&top)],
                trust(&[&root("Other")], &[]),
                "CN=Root",
            ),
        ];
        for (chain, trust, name) in table {
            let fault = judge(&chain, &trust, at(NOW)).unwrap_err();
            assert_eq!(fault, CertificateFault::UnknownIssuer { issuer: name.to_owned() });
            assert!(fault.to_string().contains(name), "{fault}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_chain_is_told() {
        let good = root("Root");
        let impostor = root("Root");
        let trusted = trust(&[&good], &[]);
        let old = leaf(&good, |params| params.not_after = date_time_ymd(2026, 1, 1));
        let early = leaf(&good, |params| params.not_before = date_time_ymd(2031, 1, 1));
        let server =
            leaf(&good, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let verdict = |chain: &[Vec<u8>]| judge(chain, &trusted, at(NOW)).unwrap_err();
        let expired = verdict(&[old]);
        assert_eq!(expired, CertificateFault::Expired { since: 1_767_225_600 });
        assert!(expired.to_string().ends_with("2026-01-01T00:00:00Z"), "{expired}");
        assert_eq!(verdict(&[early]), CertificateFault::NotYetValid { until: 1_924_992_000 });
        assert_eq!(verdict(&[server]), CertificateFault::NotForClients);
        assert_eq!(verdict(&[leaf(&impostor, |_| {})]), CertificateFault::BadSignature);
        assert_eq!(verdict(&[der(&below(&good, "CA"))]), CertificateFault::Authority);
        let client = leaf(&good, |_| {});
        let many = INTERMEDIATE_COUNT_MAX + 1;
        let chain = [vec![client.clone()], vec![der(&good); many]].concat();
        assert_eq!(verdict(&chain), CertificateFault::TooManyIntermediates(many));
        let long = vec![0; CERTIFICATE_CHAIN_SIZE_MAX];
        assert!(matches!(verdict(&[client.clone(), long]), CertificateFault::TooLong(_)));
        let trailing = [client.as_slice(), &[0]].concat();
        assert!(matches!(verdict(&[trailing]), CertificateFault::Malformed(_)));
        judge(&[client, vec![1, 2, 3]], &trusted, at(NOW)).expect("junk beside a whole chain does no harm");
    }

    #[test]
    fn six_intermediates_are_enough_and_seven_too_many() {
        let top = root("Root");
        let mut chain = vec![below(&top, "CA 1")];
        for number in 2..=INTERMEDIATE_COUNT_MAX {
            let next = below(chain.last().unwrap(), &format!("CA {number}"));
            chain.push(next);
        }
        let client = leaf(chain.last().unwrap(), |_| {});
        let sent: Vec<_> = [client].into_iter().chain(chain.iter().rev().map(der)).collect();
        judge(&sent, &trust(&[&top], &[]), at(NOW)).unwrap();
        let last = below(chain.last().unwrap(), "CA 7");
        let uploaded: Vec<_> = chain.iter().collect();
        let fault =
            judge(&[leaf(&last, |_| {}), der(&last)], &trust(&[&top], &uploaded), at(NOW)).unwrap_err();
        assert_eq!(fault.refusal().status(), 401, "{fault}");
    }

    #[test]
    fn of_intermediates_with_one_name_the_first_counts() {
        let top = root("Root");
        let (issuing, double) = (below(&top, "Issuing"), below(&top, "Issuing"));
        let (client, trusted) = (leaf(&issuing, |_| {}), trust(&[&top], &[]));
        judge(&[client.clone(), der(&issuing), der(&double)], &trusted, at(NOW)).unwrap();
        let chain = [client, der(&double), der(&issuing)];
        assert_eq!(judge(&chain, &trusted, at(NOW)), Err(CertificateFault::BadSignature));
        judge(&chain, &trust(&[&top], &[&issuing]), at(NOW)).expect("an uploaded one is always tried");
    }

    #[test]
    fn an_internal_certificate_names_one_role() {
        let ca = root("Internal");
        let with = |uris: &[&str]| {
            leaf(&ca, |params| {
                let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
                params.subject_alt_names = uris.iter().map(uri).collect();
                params
                    .subject_alt_names
                    .push(SanType::DnsName("gw1.gateway.cmg.internal".try_into().unwrap()));
            })
        };
        let name = internal_identity(&with(&["https://x/", "cmg://site/PS1/connector/1"])).unwrap();
        assert_eq!(
            (name.role, name.site.as_deref(), name.name.as_str()),
            (InternalRole::Connector, Some("PS1"), "1")
        );
        assert_eq!(internal_identity(&with(&["cmg://gateway/gw1"])).unwrap().role, InternalRole::Gateway);
        assert_eq!(internal_identity(&with(&[])), Err(InternalFault::Missing));
        assert_eq!(internal_identity(&leaf(&ca, |_| {})), Err(InternalFault::Missing));
        assert_eq!(internal_identity(&with(&["CMG://gateway/gw1"])), Err(InternalFault::Unknown));
        assert_eq!(
            internal_identity(&with(&["cmg://gateway/a", "cmg://gateway/b"])),
            Err(InternalFault::Several)
        );
        assert_eq!(internal_identity(b"junk"), Err(InternalFault::Malformed));
    }

    #[test]
    fn trust_says_which_certificate_cannot_be_read() {
        let top = der(&root("Root"));
        let fault = Trust::new(&[top.clone(), vec![1]], &[]).unwrap_err();
        assert!(fault.to_string().starts_with("trusted root number 2 cannot be read: "), "{fault}");
        let fault = Trust::new(&[top], &[vec![]]).unwrap_err();
        assert!(fault.to_string().starts_with("intermediate number 1"), "{fault}");
    }

    #[test]
    fn mutilated_certificates_are_never_trusted() {
        let top = root("Root");
        let trusted = trust(&[&top], &[]);
        let client = leaf(&top, |params| {
            params.subject_alt_names = vec![SanType::URI("cmg://site/PS1/connector/1".try_into().unwrap())];
        });
        let mut seed = 11_u64;
        let mut next = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..2_000 {
            let mut bytes = client.clone();
            let place = next(bytes.len());
            let flipped = 1 << next(8);
            bytes[place] ^= flipped;
            if next(4) == 0 {
                bytes.truncate(next(bytes.len()));
            }
            fuzz::certificate(&bytes);
            if let Ok(facts) = judge(&[bytes], &trusted, at(NOW)) {
                panic!("octet {place} with {flipped:#x} flipped is trusted: {facts:?}");
            }
        }
        for bytes in [&b""[..], b"0", b"cmg://gateway/gw1", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            fuzz::certificate(bytes);
        }
    }
}
