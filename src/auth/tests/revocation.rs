//! Revocation lists, block lists and rules of admission, on chains that are made here.

use std::slice::from_ref;
use std::sync::Arc;

use rcgen::{DnType, KeyUsagePurpose, SanType, SerialNumber, SigningKey as _};

use super::super::*;
use super::chains::{Authority, NOW, at, below, der, leaf, root, trust};
use crate::refusal::Refusal;

// ── lists, made octet by octet: rcgen makes neither deltas nor wrong ones ────────────────────────

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn time(seconds: u64) -> Vec<u8> {
    let time = jiff::Timestamp::from_second(seconds as i64).unwrap();
    let digits: String = time.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    tlv(0x18, format!("{digits}Z").as_bytes())
}

fn extension(oid: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if is_critical { tlv(1, &[0xff]) } else { Vec::new() };
    sequence(&[tlv(6, oid), critical, tlv(4, value)])
}

const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const REASON: &[u8] = &[0x55, 0x1d, 0x15];
const DELTA: &[u8] = &[0x55, 0x1d, 0x1b];
const SCOPE: &[u8] = &[0x55, 0x1d, 0x1c];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
/// ecdsaWithSHA256
const ALGORITHM: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

struct Draft {
    number: Option<u8>,
    base: Option<u8>,
    this_update: u64,
    next_update: Option<u64>,
    revoked: Vec<u8>,
    removed: Vec<u8>,
    /// More extensions of the list.
    more: Vec<Vec<u8>>,
    /// And of each entry.
    of_entries: Vec<u8>,
}

fn draft(number: u8, revoked: &[u8]) -> Draft {
    Draft {
        number: Some(number),
        base: None,
        this_update: NOW - 1_000,
        next_update: Some(NOW + 1_000),
        revoked: revoked.to_vec(),
        removed: Vec::new(),
        more: Vec::new(),
        of_entries: Vec::new(),
    }
}

impl Draft {
    fn signed(&self, issuer: &Authority) -> Vec<u8> {
        let certificate = issuer.der();
        let parsed = certificate::parse(certificate).unwrap();
        let entry = |serial: &u8, extensions: Vec<u8>| {
            let extensions = if extensions.is_empty() { extensions } else { sequence(&[extensions]) };
            sequence(&[tlv(2, &[*serial]), time(NOW - 2_000), extensions])
        };
        let removed = extension(REASON, false, &[0x0a, 1, 8]);
        let entries = self.revoked.iter().map(|serial| entry(serial, self.of_entries.clone()));
        let entries: Vec<_> =
            entries.chain(self.removed.iter().map(|serial| entry(serial, removed.clone()))).collect();
        let mut extensions = self.more.clone();
        extensions.extend(self.number.map(|number| extension(CRL_NUMBER, false, &tlv(2, &[number]))));
        extensions.extend(self.base.map(|base| extension(DELTA, true, &tlv(2, &[base]))));
        let tbs = sequence(&[
            tlv(2, &[1]),
            ALGORITHM.to_vec(),
            parsed.subject().as_raw().to_vec(),
            time(self.this_update),
            self.next_update.map(time).unwrap_or_default(),
            if entries.is_empty() { Vec::new() } else { sequence(&entries) },
            tlv(0xa0, &sequence(&extensions)),
        ]);
        let signature = issuer.key().sign(&tbs).unwrap();
        let bits = [&[0][..], &signature].concat();
        sequence(&[tbs, ALGORITHM.to_vec(), tlv(3, &bits)])
    }
}

fn numbered(serial: u8) -> impl Fn(&mut rcgen::CertificateParams) {
    move |params| params.serial_number = Some(SerialNumber::from(vec![serial]))
}

fn read(list: &[u8], trust: &Trust) -> Result<RevocationList, ListFault> {
    RevocationList::read(list, trust, NOW)
}

/// `trust` in this mode, with these lists.
fn with(trust: &Trust, mode: RevocationMode, grace: u64, lists: &[Vec<u8>]) -> Trust {
    let mut trust = trust.clone().with_rules(AllowRules::default(), mode, grace);
    for list in lists {
        let list = read(list, &trust).unwrap();
        let taken = trust.take_list(Arc::new(list));
        assert!(matches!(taken, Ok(_) | Err(ListFault::NoBase { .. })), "{taken:?}");
    }
    trust
}

// ── claims ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_revoked_certificate_is_refused_whatever_its_place_in_the_chain() {
    let top = root("Root");
    let issuing = below(&top, "Issuing");
    let middle = rcgen::CertifiedIssuer::signed_by(
        {
            let mut params = super::chains::authority_params("Middle");
            numbered(9)(&mut params);
            params
        },
        rcgen::KeyPair::generate().unwrap(),
        &top,
    )
    .unwrap();
    let base = trust(&[&top], &[&issuing, &middle]);
    let (own, other) = (leaf(&issuing, numbered(5)), leaf(&issuing, numbered(6)));
    let under_middle = leaf(&middle, numbered(5));
    let lists = [draft(1, &[9]).signed(&top), draft(1, &[5]).signed(&issuing), draft(1, &[]).signed(&middle)];
    for mode in [RevocationMode::Hard, RevocationMode::Soft] {
        let trust = with(&base, mode, 0, &lists);
        let fault = judge(from_ref(&own), &trust, at(NOW)).unwrap_err();
        assert!(matches!(&fault, CertificateFault::Revoked { serial, .. } if serial == "5"), "{fault}");
        assert_eq!(fault.refusal(), Refusal::UntrustedCertificate);
        let facts = judge(from_ref(&other), &trust, at(NOW)).unwrap();
        assert_eq!((facts.valid.until, facts.unchecked), (NOW + 1_000, vec![]));
        let fault = judge(from_ref(&under_middle), &trust, at(NOW)).unwrap_err();
        let text = "\"CN=Middle\", serial number 9, was revoked by \"CN=Root\"";
        assert_eq!(fault.to_string(), text, "an authority above it");
        assert!(may_be_shut_out(from_ref(&own), &trust), "any chain may lead over the middle one");
    }
    judge(&[own], &with(&base, RevocationMode::Off, 0, &lists), at(NOW)).unwrap();
}

#[test]
fn only_whom_a_list_names_is_looked_at_again() {
    let top = root("Root");
    let trust = with(&trust(&[&top], &[]), RevocationMode::Hard, 0, &[draft(1, &[5]).signed(&top)]);
    assert!(may_be_shut_out(&[leaf(&top, numbered(5))], &trust));
    assert!(!may_be_shut_out(&[leaf(&top, numbered(6))], &trust));
    assert!(!may_be_shut_out(&[leaf(&root("Other"), numbered(5))], &trust));
}

#[test]
fn a_missing_or_old_list_means_what_the_mode_says() {
    let top = root("Root");
    let issuing = below(&top, "Issuing");
    let base = trust(&[&top], &[&issuing]);
    let chain = [leaf(&issuing, numbered(5))];
    let of_top = draft(1, &[]).signed(&top);
    let of_issuing = draft(1, &[]).signed(&issuing);
    let both = vec![of_top.clone(), of_issuing.clone()];
    let (hard, soft, off) = (RevocationMode::Hard, RevocationMode::Soft, RevocationMode::Off);
    // Mode, grace, lists, when; whether it passes, and whether it is counted as unchecked.
    let rows = [
        (hard, 0, both.clone(), NOW, Some(false)),
        (hard, 0, both.clone(), NOW + 1_000, Some(false)),
        (hard, 0, both.clone(), NOW + 1_001, None),
        (hard, 500, both.clone(), NOW + 1_500, Some(false)),
        (hard, 500, both.clone(), NOW + 1_501, None),
        (hard, 0, vec![of_issuing.clone()], NOW, None),
        (hard, 0, vec![of_top.clone()], NOW, None),
        (hard, 0, vec![], NOW, None),
        (soft, 0, both.clone(), NOW, Some(false)),
        (soft, 0, both, NOW + 1_001, Some(true)),
        (soft, 0, vec![of_top], NOW, Some(true)),
        (soft, 0, vec![], NOW, Some(true)),
        (off, 0, vec![], NOW, Some(false)),
    ];
    for (row, (mode, grace, lists, now, expected)) in rows.into_iter().enumerate() {
        let trust = with(&base, mode, grace, &lists);
        let judged = judge(&chain, &trust, at(now));
        assert_eq!(
            judged.as_ref().ok().map(|facts| !facts.unchecked.is_empty()),
            expected,
            "row {row}: {judged:?}"
        );
    }
    let none = judge(&chain, &with(&base, hard, 0, &[]), at(NOW)).unwrap_err().to_string();
    assert!(none.contains("no revocation list of \"CN=Issuing\""), "{none}");
    let lists = [draft(1, &[]).signed(&top), of_issuing];
    let old = judge(&chain, &with(&base, hard, 0, &lists), at(NOW + 2_000)).unwrap_err().to_string();
    assert!(old.contains("ended at 2030-01-01T00:16:40Z"), "{old}");
}

#[test]
fn a_certificate_whose_list_is_found_by_ldap_says_so_where_there_is_none() {
    let top = root("Root");
    let points = |uris: &'static [&'static str]| {
        move |params: &mut rcgen::CertificateParams| {
            let point = |uri: &&str| rcgen::CrlDistributionPoint { uris: vec![(*uri).to_owned()] };
            params.crl_distribution_points = uris.iter().map(point).collect();
        }
    };
    let none = "there is no revocation list of \"CN=Root\"; name it in the site's revocation.crls";
    let rows: [(&[&str], &str); 6] = [
        (&[], ""),
        (&["http://pki.corp/a.crl"], ""),
        (
            &["ldap:///CN=a"],
            " as a file or http URL: of 1 ldap: points, as \"ldap:///CN=a\", none can be used",
        ),
        (
            &["LDAPS://dc/CN=a"],
            " as a file or http URL: of 1 ldap: points, as \"LDAPS://dc/CN=a\", none can be used",
        ),
        (
            &["http://pki.corp/a.crl", "ldap:///CN=a", "ldaps://dc/CN=a"],
            " as a file or http URL: of 2 ldap: points, as \"ldap:///CN=a\", none can be used",
        ),
        (&["ldapx:///CN=a"], ""),
    ];
    for (uris, expected) in rows {
        let chain = [leaf(&top, points(uris))];
        let hard = with(&trust(&[&top], &[]), RevocationMode::Hard, 0, &[]);
        let fault = judge(&chain, &hard, at(NOW)).unwrap_err();
        assert_eq!(fault.to_string(), format!("{none}{expected}"), "{uris:?}");
        let soft = with(&trust(&[&top], &[]), RevocationMode::Soft, 0, &[]);
        assert_eq!(judge(&chain, &soft, at(NOW)).unwrap().unchecked, [fault], "{uris:?}: the same is told");
    }
}

#[test]
fn an_older_list_never_takes_a_revocation_back() {
    let top = root("Root");
    let mut trust = with(&trust(&[&top], &[]), RevocationMode::Hard, 0, &[]);
    let take = |trust: &mut Trust, draft: Draft| {
        let list = read(&draft.signed(&top), trust).unwrap();
        trust.take_list(Arc::new(list))
    };
    assert_eq!(take(&mut trust, draft(7, &[5])), Ok(ListStanding::New));
    let again = read(&draft(7, &[5]).signed(&top), &trust).unwrap();
    assert!(matches!(take(&mut trust, draft(6, &[])), Err(ListFault::Older { .. })));
    assert!(matches!(take(&mut trust, draft(7, &[])), Err(ListFault::Diverged { .. })));
    assert!(judge(&[leaf(&top, numbered(5))], &trust, at(NOW)).is_err());
    // One with other octets, for signatures differ; what is held is the same.
    assert!(matches!(trust.take_list(Arc::new(again)), Err(ListFault::Diverged { .. })));
    assert_eq!(take(&mut trust, draft(8, &[])), Ok(ListStanding::New));
    judge(&[leaf(&top, numbered(5))], &trust, at(NOW)).unwrap();
}

#[test]
fn a_delta_is_read_with_the_list_it_is_for() {
    let top = root("Root");
    let base = trust(&[&top], &[]);
    let complete = draft(10, &[5]).signed(&top);
    let delta = |number, needs, revoked: &[u8], removed: &[u8]| {
        Draft { base: Some(needs), removed: removed.to_vec(), ..draft(number, revoked) }.signed(&top)
    };
    // Which deltas, and who is revoked then.
    let rows: [(Vec<Vec<u8>>, &[u8]); 7] = [
        (vec![], &[5]),
        (vec![delta(11, 10, &[6], &[])], &[5, 6]),
        (vec![delta(11, 9, &[6], &[5])], &[6]),
        (vec![delta(11, 11, &[6], &[5])], &[5]),
        (vec![delta(9, 9, &[6], &[5])], &[5]),
        (vec![delta(11, 10, &[6], &[]), delta(12, 10, &[7], &[])], &[5, 7]),
        // A delta for a list that did not come takes no revocation back.
        (vec![delta(12, 10, &[6], &[]), delta(21, 20, &[7], &[])], &[5, 6]),
    ];
    for (row, (deltas, revoked)) in rows.into_iter().enumerate() {
        let lists = [vec![complete.clone()], deltas].concat();
        let trust = with(&base, RevocationMode::Hard, 0, &lists);
        let found: Vec<u8> = (5..8)
            .filter(|serial| judge(&[leaf(&top, numbered(*serial))], &trust, at(NOW)).is_err())
            .collect();
        assert_eq!(found, revoked, "row {row}");
    }
    let alone = with(&base, RevocationMode::Hard, 0, &[delta(11, 10, &[], &[])]);
    assert!(judge(&[leaf(&top, numbered(7))], &alone, at(NOW)).is_err(), "a delta alone vouches for nobody");
}

#[test]
fn what_is_wrong_with_a_list_is_told_and_costs_nothing() {
    let (top, impostor) = (root("Root"), root("Root"));
    let trust = trust(&[&top], &[]);
    let good = || draft(1, &[5]);
    let scope = |content: &[u8]| extension(SCOPE, true, &sequence(&[content.to_vec()]));
    let rows: [(Vec<u8>, &str); 12] = [
        (good().signed(&impostor), "signature"),
        (good().signed(&root("Other")), "whom the site does not know"),
        (Draft { number: None, ..good() }.signed(&top), "no number"),
        (Draft { next_update: None, ..good() }.signed(&top), "does not say when the next one comes"),
        (Draft { this_update: NOW + 301, ..good() }.signed(&top), "begins only at 2030-01-01T00:05:01Z"),
        (Draft { more: vec![scope(&[0x84, 1, 0xff])], ..good() }.signed(&top), "is indirect"),
        (Draft { more: vec![scope(&[0x83, 2, 1, 6])], ..good() }.signed(&top), "some reasons"),
        (Draft { more: vec![scope(&[0x85, 1, 0xff])], ..good() }.signed(&top), "attribute certificates"),
        (Draft { more: vec![extension(&[0x2a, 3], true, &[5, 0])], ..good() }.signed(&top), "critical"),
        (
            Draft { of_entries: extension(CERTIFICATE_ISSUER, true, &[0x30, 0]), ..good() }.signed(&top),
            "critical extension, as indirect lists",
        ),
        ([good().signed(&top), vec![0]].concat(), "something follows"),
        (vec![0x30; crate::limits::CRL_SIZE_MAX + 1], "octets, more than"),
    ];
    for (list, text) in rows {
        let fault = read(&list, &trust).unwrap_err().to_string();
        assert!(fault.contains(text), "{fault}: {text}");
    }
    let mut flipped = good().signed(&top);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(read(&flipped, &trust).is_err());
    assert!(
        read(&Draft { more: vec![extension(&[0x2a, 3], false, &[5, 0])], ..good() }.signed(&top), &trust)
            .is_ok()
    );
}

#[test]
fn an_authority_that_may_not_sign_lists_is_not_believed() {
    let mut params = super::chains::authority_params("Root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let top = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let fault = read(&draft(1, &[]).signed(&top), &trust(&[&top], &[])).unwrap_err();
    assert_eq!(fault, ListFault::BadSignature("CN=Root".to_owned()));
}

#[test]
fn a_list_of_users_alone_vouches_for_no_authority() {
    let top = root("Root");
    let users = extension(SCOPE, true, &sequence(&[vec![0x81, 1, 0xff]]));
    let list = Draft { more: vec![users], ..draft(1, &[]) }.signed(&top);
    let issuing = below(&top, "Issuing");
    let trust =
        with(&trust(&[&top], &[&issuing]), RevocationMode::Hard, 0, &[list, draft(1, &[]).signed(&issuing)]);
    judge(&[leaf(&top, numbered(5))], &trust, at(NOW)).unwrap();
    let fault = judge(&[leaf(&issuing, numbered(5))], &trust, at(NOW)).unwrap_err();
    assert!(fault.to_string().contains("no revocation list of \"CN=Root\""), "{fault}");
}

#[test]
fn lists_outlive_new_settings_as_long_as_their_authority_is_trusted() {
    let (top, other) = (root("Root"), root("Other"));
    let old = with(&trust(&[&top], &[]), RevocationMode::Hard, 0, &[draft(1, &[5]).signed(&top)]);
    let rules = |trust: Trust| trust.with_rules(AllowRules::default(), RevocationMode::Hard, 0);
    let kept = rules(trust(&[&other, &top], &[])).with_lists_of(&old);
    assert_eq!(kept.revocation().lists().len(), 1);
    let dropped = rules(trust(&[&other], &[])).with_lists_of(&old);
    assert!(dropped.revocation().lists().is_empty());
    let renewed = rules(trust(&[&root("Root")], &[])).with_lists_of(&old);
    assert!(renewed.revocation().lists().is_empty(), "another key of that name signed nothing");
}

#[test]
fn a_blocked_certificate_is_refused_by_either_name() {
    let top = root("Root, Ltd");
    let issuing = below(&top, "Issuing");
    let chain = [leaf(&issuing, numbered(5)), der(&issuing)];
    let digits = |der: &[u8]| {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        digest.as_ref().iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
    };
    let serial: Vec<_> = certificate::parse(&chain[1]).unwrap().raw_serial().to_vec();
    let serial: String = serial.iter().map(|octet| format!("{octet:02x}")).collect();
    let rows = [
        (format!("sha256 {}", digits(&chain[0])), true),
        (format!("sha256 {}", digits(&chain[1])), true),
        (format!("sha256 {}", digits(b"other")), false),
        ("serial 05 issuer CN=Issuing".to_owned(), true),
        ("serial 06 issuer CN=Issuing".to_owned(), false),
        ("serial 05 issuer CN=Other".to_owned(), false),
        (format!("serial {serial} issuer CN=Root\\, Ltd"), true),
        (format!("sha256 {}", digits(&der(&top))), true),
    ];
    for (text, is_blocked) in rows {
        let mut trust = trust(&[&top], &[]);
        trust.block(BlockList::parse(text.as_bytes()).unwrap());
        let judged = judge(&chain, &trust, at(NOW));
        assert_eq!(matches!(judged, Err(CertificateFault::Blocked { .. })), is_blocked, "{text}");
        assert_eq!(may_be_shut_out(&chain, &trust), is_blocked, "{text}");
    }
}

#[test]
fn a_blocked_certificate_stays_blocked_when_its_signature_is_written_otherwise() {
    let top = root("Root");
    let leaf = leaf(&top, numbered(5));
    let digest = ring::digest::digest(&ring::digest::SHA256, &leaf);
    let digits: String = digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    let mut trust = trust(&[&top], &[]);
    let twins = crate::auth::twin::twins(&leaf);
    let taken: Vec<_> = twins.into_iter().filter(|twin| judge(&[twin], &trust, at(NOW)).is_ok()).collect();
    assert_eq!(taken.len(), 1, "one of them is signed as well as the leaf");
    trust.block(BlockList::parse(format!("sha256 {digits}").as_bytes()).unwrap());
    let judged = judge(&taken, &trust, at(NOW));
    assert!(matches!(judged, Err(CertificateFault::Blocked { .. })), "{judged:?}");
}

#[test]
fn rules_of_admission_leave_out_whom_they_do_not_name() {
    let top = root("Root");
    let client = leaf(&top, |params| {
        params.distinguished_name.push(DnType::OrganizationName, "Contoso");
        params.subject_alt_names = vec![SanType::DnsName("pc1.corp".try_into().unwrap())];
    });
    let rule = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);
    let rows: [Row; 10] = [
        (&[], &[], &[], true),
        (&["CN=Root"], &[], &[], true),
        (&["CN=Other", "CN=Root"], &[], &[], true),
        (&["CN=Other"], &[], &[], false),
        (&[], &["O=Contoso"], &[], true),
        (&[], &["O=Contoso, CN=client1"], &[], true),
        (&[], &["O=Contoso, OU=Devices"], &[], false),
        (&[], &[], &["*.corp"], true),
        (&[], &[], &["pc2.corp"], false),
        (&["CN=Root"], &["O=Contoso"], &["*.example"], false),
    ];
    for (issuers, subjects, names, passes) in rows {
        let allowed = AllowRules { issuers: rule(issuers), subjects: rule(subjects), names: rule(names) };
        let trust = trust(&[&top], &[]).with_rules(allowed.clone(), RevocationMode::Off, 0);
        assert_eq!(judge(from_ref(&client), &trust, at(NOW)).is_ok(), passes, "{allowed:?}");
    }
}

#[test]
fn a_subject_does_not_read_as_another() {
    let top = root("Root");
    let trust = trust(&[&top], &[]);
    let honest = leaf(&top, |params| params.distinguished_name.push(DnType::OrganizationName, "b"));
    let forger = leaf(&top, |params| {
        params.distinguished_name.push(DnType::CommonName, "client1, O=b");
    });
    let subject = |leaf: &Vec<u8>| judge(from_ref(leaf), &trust, at(NOW)).unwrap().subject;
    assert_eq!(subject(&honest), "CN=client1, O=b");
    assert_eq!(subject(&forger), r"CN=client1\, O\=b");
    let only = AllowRules { subjects: vec!["O=b".to_owned()], ..AllowRules::default() };
    let strict = trust.clone().with_rules(only, RevocationMode::Off, 0);
    assert!(judge(&[honest], &strict, at(NOW)).is_ok() && judge(&[forger], &strict, at(NOW)).is_err());
}
