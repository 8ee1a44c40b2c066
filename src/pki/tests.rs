use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rcgen::PublicKeyData as _;
use rustls::pki_types::{ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::*;
use crate::auth::{InternalRole, RevocationList, Trust};

const DAY: Duration = Duration::from_secs(86_400);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open_at(folder: &Path, now: SystemTime) -> Result<Pki, PkiError> {
    Pki::open_at(folder, Terms::default(), now)
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file")
}

fn der(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// What the roles ask of one another's and of clients' certificates.
fn verifies(ca: &Path, usage: KeyUsage, certificate: &Path) -> bool {
    let (ca, certificate) = (der(ca), der(certificate));
    let anchors = [webpki::anchor_from_trusted_cert(&ca).unwrap()];
    let algorithms = [webpki::ring::ECDSA_P256_SHA256];
    let leaf = EndEntityCert::try_from(&certificate).unwrap();
    leaf.verify_for_usage(&algorithms, &anchors, &[], UnixTime::now(), usage, None, None).is_ok()
}

/// Under which authority, for which use, which certificate, verifies.
type Row<'a> = (&'a Path, fn() -> KeyUsage, &'a Pair, bool);

#[test]
fn chains_verify_for_their_purpose_and_for_no_other() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let server = pki.server(&["cmg.localhost".into()], &["127.0.0.1".parse().unwrap()]).unwrap();
    let client = pki.client("client-1").unwrap();
    let gateway = pki.gateway("gw1").unwrap();
    let connector = pki.connector("PS1", "1").unwrap();
    let (site, internal) = (pki.site_ca(), pki.internal_ca());
    let rows: [Row<'_>; 10] = [
        (&site, KeyUsage::server_auth, &server, true),
        (&site, KeyUsage::client_auth, &server, false),
        (&site, KeyUsage::client_auth, &client, true),
        (&site, KeyUsage::server_auth, &client, false),
        (&internal, KeyUsage::server_auth, &gateway, true),
        (&internal, KeyUsage::client_auth, &gateway, false),
        (&internal, KeyUsage::client_auth, &connector, true),
        (&internal, KeyUsage::server_auth, &connector, false),
        (&site, KeyUsage::client_auth, &connector, false),
        (&internal, KeyUsage::client_auth, &client, false),
    ];
    for (ca, usage, pair, good) in rows {
        let found = verifies(ca, usage(), &pair.certificate);
        assert_eq!(found, good, "{} under {}", pair.certificate.display(), ca.display());
    }
}

#[test]
fn certificates_bear_the_names_they_are_asked_by() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let address = "127.0.0.1".parse().unwrap();
    let server = pki.server(&["a.example".into(), "b.example".into()], &[address]).unwrap();
    let gateway = pki.gateway("gw1").unwrap();
    let rows = [
        (&server, "a.example", true),
        (&server, "b.example", true),
        (&server, "127.0.0.1", true),
        (&server, "c.example", false),
        (&gateway, "gw1.gateway.cmg.internal", true),
        (&gateway, "gw2.gateway.cmg.internal", false),
    ];
    for (pair, name, good) in rows {
        let certificate = der(&pair.certificate);
        let leaf = EndEntityCert::try_from(&certificate).unwrap();
        let name = ServerName::try_from(name).unwrap();
        assert_eq!(leaf.verify_is_valid_for_subject_name(&name).is_ok(), good, "{name:?}");
    }
}

#[test]
fn internal_certificates_name_role_site_and_identity() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let rows = [
        (pki.gateway("gw1").unwrap(), "cmg://gateway/gw1"),
        (pki.connector("PS1", "1").unwrap(), "cmg://site/PS1/connector/1"),
    ];
    for (pair, uri) in rows {
        let certificate = der(&pair.certificate);
        let leaf = EndEntityCert::try_from(&certificate).unwrap();
        assert_eq!(leaf.valid_uri_names().collect::<Vec<_>>(), [uri]);
        assert!(internal_identity(&certificate).is_ok());
    }
}

#[test]
fn keys_are_for_their_owner_alone() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let pair = pki.client("client-1").unwrap();
    for key in [pair.key, folder.path().join("ca.key"), folder.path().join("internal-ca.key")] {
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
}

#[test]
fn an_existing_folder_is_kept() {
    let folder = folder();
    let names = ["a.example".to_owned()];
    let made = {
        let pki = Pki::open(folder.path()).unwrap();
        let pairs = [pki.server(&names, &[]).unwrap(), pki.client("x").unwrap(), pki.gateway("gw1").unwrap()];
        (bytes(&pki.site_ca()), pairs.map(|pair| (bytes(&pair.certificate), bytes(&pair.key))))
    };
    let pki = Pki::open(folder.path()).unwrap();
    let pairs = [pki.server(&names, &[]).unwrap(), pki.client("x").unwrap(), pki.gateway("gw1").unwrap()];
    let kept = (bytes(&pki.site_ca()), pairs.map(|pair| (bytes(&pair.certificate), bytes(&pair.key))));
    assert!(made == kept);
}

#[test]
fn a_pair_is_renewed_in_the_last_third_of_its_life() {
    let folder = folder();
    let now = SystemTime::now();
    let made = bytes(&open_at(folder.path(), now).unwrap().gateway("gw1").unwrap().certificate);
    for (days, renewed) in [(0, false), (30, false), (58, false), (61, true), (200, true)] {
        let fresh = tempfile::tempdir().unwrap();
        for entry in ["ca.pem", "ca.key", "internal-ca.pem", "internal-ca.key"] {
            fs::copy(folder.path().join(entry), fresh.path().join(entry)).unwrap();
        }
        fs::create_dir(fresh.path().join("internal")).unwrap();
        for entry in ["internal/gateway-gw1.pem", "internal/gateway-gw1.key"] {
            fs::copy(folder.path().join(entry), fresh.path().join(entry)).unwrap();
        }
        let pair = open_at(fresh.path(), now + days * DAY).unwrap().gateway("gw1").unwrap();
        assert_eq!(bytes(&pair.certificate) != made, renewed, "after {days} days");
    }
}

#[test]
fn a_pair_that_lacks_a_name_or_a_half_is_made_anew() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let first = pki.server(&["a.example".into()], &[]).unwrap();
    let before = bytes(&first.certificate);
    let same = pki.server(&["a.example".into(), "b.example".into()], &[]).unwrap();
    let wider = bytes(&same.certificate);
    assert_ne!(before, wider);
    let address = ["::1".parse().unwrap()];
    pki.server(&["a.example".into(), "b.example".into()], &address).unwrap();
    let addressed = bytes(&same.certificate);
    assert_ne!(wider, addressed);
    fs::remove_file(&first.key).unwrap();
    pki.server(&["a.example".into()], &address).unwrap();
    assert_ne!(bytes(&first.certificate), addressed);
}

#[test]
fn a_pair_of_another_authority_is_made_anew() {
    let folder = folder();
    let now = SystemTime::now();
    let pair = open_at(folder.path(), now).unwrap().client("x").unwrap();
    let before = bytes(&pair.certificate);
    fs::remove_file(folder.path().join("ca.pem")).unwrap();
    fs::remove_file(folder.path().join("ca.key")).unwrap();
    open_at(folder.path(), now + DAY).unwrap().client("x").unwrap();
    assert_ne!(bytes(&pair.certificate), before);
}

#[test]
fn half_an_authority_is_refused_not_replaced() {
    for (gone, left) in [("ca.key", "ca.pem"), ("ca.pem", "ca.key"), ("internal-ca.key", "internal-ca.pem")] {
        let folder = folder();
        let pki = Pki::open(folder.path()).unwrap();
        pki.client("x").unwrap();
        pki.gateway("gw1").unwrap();
        let before = bytes(&folder.path().join(left));
        fs::remove_file(folder.path().join(gone)).unwrap();
        let error = Pki::open(folder.path()).err().expect("refused").to_string();
        assert!(error.contains(gone) && error.contains(left), "{error}");
        assert_eq!(bytes(&folder.path().join(left)), before);
    }
}

#[test]
fn names_that_would_leave_the_folder_are_refused() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let long = "x".repeat(64);
    for name in ["", "../x", "a/b", ".x", "-x", "a b", "a\nb", "é", "a\0", long.as_str()] {
        assert!(matches!(pki.client(name), Err(PkiError::Name(_))), "{name:?}");
        assert!(matches!(pki.gateway(name), Err(PkiError::Name(_))), "{name:?}");
        assert!(matches!(pki.connector("PS1", name), Err(PkiError::Name(_))), "{name:?}");
        assert!(matches!(pki.connector(name, "1"), Err(PkiError::SiteCode(_))), "{name:?}");
        assert!(pki.server(&[name.into()], &[]).is_err(), "{name:?}");
    }
}

#[test]
fn many_clients_each_get_a_key_of_their_own_and_nothing_is_left_over() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("client-{number}")).collect();
    pki.clients(&names).unwrap();
    let mut keys = std::collections::HashSet::new();
    for name in &names {
        assert!(keys.insert(bytes(&pki.clients_folder().join(format!("{name}.key")))));
    }
    assert_eq!(fs::read_dir(pki.clients_folder()).unwrap().count(), 400);
    pki.clients(&[]).unwrap();
}

#[test]
fn halves_of_a_killed_writer_are_swept_and_nothing_else() {
    let folder = folder();
    Pki::open(folder.path()).unwrap().client("x").unwrap();
    let place = |name: &str| folder.path().join(name);
    // No process has a number beyond 2^22; ours runs, and so may a role that is putting its next pair there.
    let halves = [".ca.key.9999991", "clients/.y.key.9999992", "clients/.y.pem.9999992"];
    let ours = format!("clients/.gateway-gw1.key.next.{}", std::process::id());
    let others = [".lock", "clients/.hidden", "clients/x.pem", "clients/notes.17", "clients/.17a", &ours];
    for name in halves.iter().chain(&others[1..2]).chain(&others[3..]) {
        fs::write(place(name), "").unwrap();
    }
    drop(Pki::open(folder.path()).unwrap());
    assert!(halves.iter().all(|name| !place(name).exists()));
    assert!(others.iter().all(|name| place(name).exists()));
}

#[test]
fn a_revoked_pair_is_not_current_in_the_folder_that_revoked_it() {
    let folder = folder();
    let mut pki = Pki::open(folder.path()).unwrap();
    let pair = pki.client("x").unwrap();
    let before = bytes(&pair.certificate);
    pki.revoke(&Subject::Named("x".into()), Reason::KeyCompromise).unwrap();
    pki.client("x").unwrap();
    let after = bytes(&pair.certificate);
    assert_ne!(before, after);
    // What replaced it is.
    Pki::open(folder.path()).unwrap().client("x").unwrap();
    assert_eq!(bytes(&pair.certificate), after);
}

#[test]
fn an_authority_with_the_key_of_another_is_refused() {
    let (folder, other) = (folder(), folder());
    drop(Pki::open(folder.path()).unwrap());
    drop(Pki::open(other.path()).unwrap());
    fs::copy(other.path().join("ca.key"), folder.path().join("ca.key")).unwrap();
    let error = Pki::open(folder.path()).err().expect("refused").to_string();
    assert!(error.contains("ca.pem") && error.contains("ca.key"), "{error}");
}

#[test]
fn every_name_of_a_server_is_checked() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(pki.server(&names(&["a.example", "*.a.example"]), &[]).is_ok());
    for bad in [&["*.a.example"][..], &["a.example", "b c"], &["a.example", ""], &["a.example", "*."]] {
        assert!(matches!(pki.server(&names(bad), &[]), Err(PkiError::Name(_))), "{bad:?}");
    }
}

#[test]
fn rewriting_a_key_never_widens_it() {
    let folder = folder();
    let path = folder.path().join("x.key");
    write_file(&path, b"one", KEY_MODE).unwrap();
    let first = fs::metadata(&path).unwrap().ino();
    write_file(&path, b"two", KEY_MODE).unwrap();
    let second = fs::metadata(&path).unwrap();
    assert_eq!(bytes(&path), b"two");
    assert_ne!(first, second.ino(), "a rename, not a rewrite in place");
    assert_eq!(second.permissions().mode() & 0o777, 0o600);
}

// ── internal certificates that are renewed and revoked ──────────────────────────────────────────────

/// What a connection point asks that has proved itself.
fn renewable(name: &str) -> Renewable {
    let key = KeyKind::default().make().unwrap();
    let name = InternalName { role: InternalRole::Connector, site: Some("PS1".into()), name: name.into() };
    Renewable { name, names: Vec::new(), key: key.subject_public_key_info(), serial: vec![1] }
}

/// Serial numbers on the internal list that is in the folder.
fn listed(folder: &Path) -> Vec<Serial> {
    let list = folder.join("internal-crl.pem");
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_file(list).unwrap();
    let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
    list.iter_revoked_certificates().map(|one| Serial::of(one.raw_serial())).collect()
}

fn of(revoked: &[Revoked]) -> Vec<Serial> {
    let serial = |one: &Revoked| match one {
        Revoked::Now(one) | Revoked::Before(one) => one.serial.clone(),
    };
    revoked.iter().map(serial).collect()
}

fn named(name: &str) -> Subject {
    Subject::Named(name.to_owned())
}

#[test]
fn an_identity_has_so_many_good_certificates_and_no_more() {
    let folder = folder();
    let now = SystemTime::now();
    let pki = open_at(folder.path(), now).unwrap();
    for _ in 0..ISSUED_GOOD_MAX {
        pki.renew(&renewable("1")).unwrap();
    }
    assert!(matches!(pki.renew(&renewable("1")), Err(PkiError::TooMany(name)) if name == "connector-PS1-1"));
    assert!(pki.renew(&renewable("2")).is_ok(), "it is nobody else's fault");
    // What has ended does not count, and neither does what is revoked.
    assert!(open_at(folder.path(), now + 91 * DAY).unwrap().renew(&renewable("1")).is_ok());
    open_at(folder.path(), now).unwrap().revoke(&named("connector-PS1-1"), Reason::KeyCompromise).unwrap();
    assert!(pki.renew(&renewable("1")).is_ok());
}

#[test]
fn what_has_long_ended_is_neither_revoked_nor_listed() {
    let folder = folder();
    let now = SystemTime::now();
    let name = named("connector-PS1-1");
    let first = {
        let pki = open_at(folder.path(), now).unwrap();
        serial_of(&pki.renew(&renewable("1")).unwrap()[0]).unwrap()
    };
    // Of clocks that are late somebody may believe it a little longer.
    for (days, is_there) in [(89, true), (90, true), (92, false)] {
        let copy = tempfile::tempdir().unwrap();
        for entry in ["ca.pem", "ca.key", "internal-ca.pem", "internal-ca.key", "issued.jsonl"] {
            fs::copy(folder.path().join(entry), copy.path().join(entry)).unwrap();
        }
        let mut pki = open_at(copy.path(), now + days * DAY).unwrap();
        pki.renew(&renewable("1")).unwrap();
        let revoked = of(&pki.revoke(&name, Reason::KeyCompromise).unwrap());
        assert_eq!(revoked.contains(&first), is_there, "after {days} days");
        pki.sign_internal_list().unwrap();
        assert_eq!(listed(copy.path()), revoked);
    }
    let revoked = of(&open_at(folder.path(), now).unwrap().revoke(&name, Reason::KeyCompromise).unwrap());
    for (days, is_there) in [(0, true), (90, true), (92, false)] {
        open_at(folder.path(), now + days * DAY).unwrap().sign_internal_list().unwrap();
        assert_eq!(listed(folder.path()).contains(&revoked[0]), is_there, "after {days} days");
    }
    assert_eq!(Register::read(folder.path()).unwrap().revoked.len(), 1, "why it was shut out is still known");
}

#[test]
fn a_list_that_nobody_would_take_is_not_signed_and_that_is_told() {
    let folder = folder();
    let mut pki = Pki::open(folder.path()).unwrap();
    pki.connector("PS1", "1").unwrap();
    let list = pki.sign_internal_list().unwrap();
    let before = bytes(&list);
    let mut register = Register::read(folder.path()).unwrap();
    let many = |number: u32| Revocation {
        authority: AuthorityKind::Internal,
        serial: Serial::of(&[&[0x40; 16][..], &number.to_be_bytes()].concat()),
        name: String::new(),
        when: Timestamp::UNIX_EPOCH,
        reason: Reason::KeyCompromise,
    };
    register.revoked.extend((0..8_000).map(many));
    register.write(folder.path()).unwrap();
    pki.revoke(&named("connector-PS1-1"), Reason::KeyCompromise).unwrap();
    let error = pki.sign_internal_list().expect_err("refused");
    assert!(matches!(error, PkiError::ListTooLong { entries: 8_001, .. }), "{error}");
    assert!(error.to_string().contains("internal-crl.pem is not signed"), "{error}");
    assert_eq!(bytes(&list), before, "the one before counts still");
}

/// Whether somebody takes the internal list whose clock says `at`.
fn is_taken(pki: &Pki, at: SystemTime) -> bool {
    let list = rustls::pki_types::CertificateRevocationListDer::from_pem_file(pki.internal_list()).unwrap();
    let trust = Trust::new(&[pki.internal_authority()], &[]).unwrap();
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    RevocationList::read(&list, &trust, at).is_ok()
}

#[test]
fn a_list_is_taken_by_a_clock_that_is_late_and_none_of_a_clock_that_was_ahead_stays() {
    let (folder, now) = (folder(), SystemTime::now());
    let ahead = open_at(folder.path(), now + 3 * DAY).unwrap();
    ahead.sign_internal_list().unwrap();
    let number = number_of(&ahead.internal_list());
    assert!(!is_taken(&ahead, now));

    let pki = open_at(folder.path(), now).unwrap();
    pki.keep_internal_list().unwrap();
    assert!(number_of(&pki.internal_list()) > number, "whoever has the other one takes it, too");
    assert!(is_taken(&pki, now) && is_taken(&pki, now - DAY) && !is_taken(&pki, now - 2 * DAY));
    let kept = bytes(&pki.internal_list());
    open_at(folder.path(), now + 9 * DAY).unwrap().keep_internal_list().unwrap();
    assert_eq!(bytes(&pki.internal_list()), kept);
    open_at(folder.path(), now + 10 * DAY).unwrap().keep_internal_list().unwrap();
    assert_ne!(bytes(&pki.internal_list()), kept);
}

#[test]
fn every_internal_certificate_of_a_role_is_revoked_by_whichever_it_is_named() {
    let subjects: [fn(&Path, &[Serial]) -> Subject; 5] = [
        |_, _| named("connector-PS1-1"),
        |_, all| Subject::Numbered(AuthorityKind::Internal, all[0].clone()),
        |_, all| Subject::Numbered(AuthorityKind::Internal, all[2].clone()),
        |folder, _| Subject::InFile(folder.join("internal/connector-PS1-1.pem")),
        |folder, _| {
            fs::copy(folder.join("internal/connector-PS1-1.pem"), folder.join("copy.pem")).unwrap();
            Subject::InFile(folder.join("copy.pem"))
        },
    ];
    for (row, subject) in subjects.iter().enumerate() {
        let folder = folder();
        let mut pki = Pki::open(folder.path()).unwrap();
        let pair = pki.connector("PS1", "1").unwrap();
        let other = pki.connector("PS1", "2").unwrap();
        let mut all = vec![serial_of(&der(&pair.certificate)).unwrap()];
        all.extend((0..2).map(|_| serial_of(&pki.renew(&renewable("1")).unwrap()[0]).unwrap()));
        let subject = subject(folder.path(), &all);
        let mut revoked = pki.revoke(&subject, Reason::KeyCompromise).unwrap();
        assert!(revoked.iter().all(|one| matches!(one, Revoked::Now(one) if one.name == "connector-PS1-1")));
        let sorted = |mut all: Vec<Serial>| {
            all.sort_by_key(Serial::to_string);
            all
        };
        assert_eq!(sorted(of(&revoked)), sorted(all.clone()), "row {row}");
        revoked = pki.revoke(&subject, Reason::Superseded).unwrap();
        assert!(revoked.len() == 3 && revoked.iter().all(|one| matches!(one, Revoked::Before(_))));
        assert!(!of(&revoked).contains(&serial_of(&der(&other.certificate)).unwrap()));
    }
}

#[test]
fn who_has_no_file_any_more_is_revoked_by_name() {
    let folder = folder();
    let mut pki = Pki::open(folder.path()).unwrap();
    let pair = pki.connector("PS1", "1").unwrap();
    let serial = serial_of(&der(&pair.certificate)).unwrap();
    fs::remove_file(&pair.certificate).unwrap();
    assert!(matches!(
        pki.revoke(&named("connector-PS1-2"), Reason::Unspecified),
        Err(PkiError::Unknown { .. })
    ));
    // A client of the same name is somebody else.
    let client = pki.client("connector-PS1-1").unwrap();
    let either = pki.revoke(&named("connector-PS1-1"), Reason::Unspecified);
    assert!(matches!(either, Err(PkiError::Several { files, .. }) if files.len() == 2));
    fs::remove_file(&client.certificate).unwrap();
    assert_eq!(of(&pki.revoke(&named("connector-PS1-1"), Reason::Unspecified).unwrap()), [serial]);
}

#[test]
fn no_serial_number_is_given_twice_not_even_to_one_key() {
    let folder = folder();
    let pki = Pki::open(folder.path()).unwrap();
    let asked = renewable("1");
    let serials: HashSet<Serial> =
        (0..8).map(|_| serial_of(&pki.renew(&asked).unwrap()[0]).unwrap()).collect();
    assert_eq!(serials.len(), 8);
    assert!(serials.iter().all(|serial| serial.to_string().len() == 32), "{serials:?}");
}

#[test]
fn near_the_end_of_the_authority_no_certificate_is_due_at_once() {
    for left in [100 * DAY, 30 * DAY, DAY, DAY / 24, Duration::from_secs(60)] {
        let (folder, now) = (folder(), SystemTime::now());
        let terms = Terms { key: None, life: Some(left) };
        let pki = Pki::open_at(folder.path(), terms, now).unwrap();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let pair = pki.connector("PS1", "1").unwrap();
        for leaf in [&pki.renew(&renewable("1")).unwrap()[0], &der(&pair.certificate)] {
            let (due, end) = (renewal_due(leaf, u32::MAX).unwrap(), not_after(leaf).unwrap());
            assert!(end <= now + left.as_secs(), "{left:?}");
            assert!(due >= now + (end - now) / 2, "{left:?}: due {} s from now", due as i64 - now as i64);
        }
        let before = bytes(&pair.certificate);
        pki.connector("PS1", "1").unwrap();
        assert_eq!(bytes(&pair.certificate), before, "{left:?}: it is current");
    }
}
