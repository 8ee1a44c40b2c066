//! Claims about what keeps a role's certificate and list up, with whoever is asked made up.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::*;
use crate::auth::write_chain;
use crate::pki::{Pki, Reason, Subject, Terms};
use crate::settings::DialAddress;
use crate::transport::tls_config::Credential;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Of a certificate that lives an hour: two thirds are over, and all of it.
const DUE: Duration = Duration::from_secs(50 * 60);
const EXPIRED_SINCE: Duration = Duration::from_secs(61 * 60);

/// A role whose certificate was made so long ago.
struct Role {
    folder: tempfile::TempDir,
    pair: Pair,
    keeper: Arc<Keeper>,
}

fn chain(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

impl Role {
    fn new(ago: Duration) -> Role {
        Role::by(ago, |pair| pair)
    }

    /// With its pair where `laid` puts it.
    fn by(ago: Duration, laid: impl FnOnce(Pair) -> Pair) -> Role {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open_at(folder.path(), Terms::default(), SystemTime::now() - ago).unwrap();
        let pki = pki.under(Terms { key: None, life: Some(HOUR) });
        let pair = laid(pki.gateway("gw1").unwrap());
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let own = Credential { chain: chain(&pair.certificate), key };
        let internal = Internal::new(&[pki.internal_authority()], own).unwrap();
        let keeper = Keeper::new(&internal, Place { pair: pair.clone(), issuer: None });
        Role { folder, pair, keeper }
    }

    /// What an issuer gives.
    fn given(&self, message: &[u8]) -> Vec<u8> {
        let renewable = Renewal::parse(message).unwrap();
        let renewable = renewable.judge(&self.keeper.internal.trust(), UnixTime::now()).unwrap();
        write_chain(&Pki::existing(self.folder.path()).unwrap().renew(&renewable).unwrap()).unwrap()
    }

    /// Names and content of the files beside the pair.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.pair.key.parent().unwrap()).unwrap().map(Result::unwrap);
        let read = |path: &Path| (path.display().to_string(), fs::read(path).unwrap());
        let mut files: Vec<_> = entries.map(|entry| read(&entry.path())).collect();
        files.sort();
        files
    }

    fn failures(&self) -> u64 {
        self.keeper.failed.load(Ordering::Relaxed)
    }
}

/// Answers so, and counts how often it was asked.
struct Answers<F>(F, AtomicU64);

impl<F: Fn(&[u8]) -> Result<Vec<u8>, NotCarried> + Send> Carries for Answers<F> {
    fn carry(
        &self,
        message: &dyn Fn() -> Result<Vec<u8>, String>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), NotCarried> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let given = (self.0)(&message().unwrap())?;
        take(&given).map_err(NotCarried::Failed)
    }
}

fn answers<F: Fn(&[u8]) -> Result<Vec<u8>, NotCarried> + Send>(answer: F) -> Answers<F> {
    Answers(answer, AtomicU64::new(0))
}

#[test]
fn files_change_only_when_something_came() {
    let role = Role::new(DUE);
    let before = role.files();
    let looks = |answer: fn() -> NotCarried| {
        let (mut due, asked) = (Due::default(), answers(move |_| Err(answer())));
        for _ in 0..2 {
            role.keeper.renew_when_due(&mut due, Some(&asked));
        }
        assert_eq!(role.files(), before);
        asked.1.into_inner()
    };
    assert_eq!(looks(|| NotCarried::Nobody), 1);
    assert_eq!(role.keeper.troubles(), [""; 0], "whoever makes them does it by hand");
    // Before there is a way nothing has failed, and as soon as there is one it is asked.
    assert_eq!(looks(|| NotCarried::NotYet), 2);
    assert!(role.failures() == 0 && role.keeper.troubles().is_empty());
    assert_eq!(looks(|| NotCarried::Failed("away".to_owned())), 1);
    assert!(role.failures() == 1 && role.keeper.troubles()[0].ends_with("is not renewed: away"));

    let given = answers(|message| Ok(role.given(message)));
    role.keeper.renew_when_due(&mut Due::default(), Some(&given));
    assert!(role.keeper.troubles().is_empty(), "{:?}", role.keeper.troubles());
    assert!(role.files() != before && !role.pair.has_next());
    // It is about to be taken up: nobody is asked once more.
    role.keeper.renew_when_due(&mut Due::default(), Some(&given));
    assert_eq!(given.1.into_inner(), 1);
}

#[test]
fn a_pair_in_one_file_is_renewed_in_it() {
    let role = Role::by(DUE, |pair| {
        let both = fs::read_to_string(&pair.certificate).unwrap() + &fs::read_to_string(&pair.key).unwrap();
        let file = pair.key.with_file_name("own.pem");
        fs::write(&file, both).unwrap();
        Pair { certificate: file.clone(), key: file }
    });
    let before = role.pair.leaf();
    role.keeper.renew_when_due(&mut Due::default(), Some(&answers(|message| Ok(role.given(message)))));
    assert!(role.keeper.troubles().is_empty(), "{:?}", role.keeper.troubles());
    assert_ne!(role.pair.leaf(), before);
    let own = Credential {
        chain: chain(&role.pair.certificate),
        key: PrivateKeyDer::from_pem_file(&role.pair.key).unwrap(),
    };
    Internal::new(&[Pki::existing(role.folder.path()).unwrap().internal_authority()], own).unwrap();
}

#[test]
fn what_somebody_put_there_meanwhile_stays() {
    let role = Role::new(DUE);
    let asked = answers(|message| {
        fs::remove_file(&role.pair.certificate).unwrap();
        Pki::open(role.folder.path()).unwrap().gateway("gw1").unwrap();
        Ok(role.given(message))
    });
    role.keeper.renew_when_due(&mut Due::default(), Some(&asked));
    let made = role.files();
    role.keeper.renew_when_due(&mut Due::default(), Some(&answers(|_| Err(NotCarried::Nobody))));
    assert_eq!(role.files(), made);
    assert_eq!(role.keeper.renewed.load(Ordering::Relaxed), 0);
}

impl Role {
    /// Lets no certificate be put there any more, as a disk that is full or a folder that nobody may change does.
    fn block(&self) -> PathBuf {
        let next = format!("{}.next", self.pair.certificate.display()).into();
        fs::create_dir(&next).unwrap();
        next
    }

    /// Looks now, whenever the next attempt was to be.
    fn looks_at_once(&self, due: &mut Due, carries: &dyn Carries) {
        due.not_before = None;
        self.keeper.renew_when_due(due, Some(carries));
    }
}

#[test]
fn what_came_is_kept_until_it_can_be_put_and_nobody_is_asked_again() {
    let role = Role::new(DUE);
    let given = Mutex::default();
    let asked = answers(|message| {
        let chain = role.given(message);
        *given.lock().unwrap() = read_chain(&chain).unwrap()[0].to_vec();
        Ok(chain)
    });
    let (before, in_the_way, mut due) = (role.pair.leaf(), role.block(), Due::default());
    for failures in 1..=20 {
        role.looks_at_once(&mut due, &asked);
        assert!(role.keeper.troubles()[0].contains("is not renewed: "), "{:?}", role.keeper.troubles());
        assert_eq!((role.failures(), asked.1.load(Ordering::Relaxed)), (failures, 1));
        assert_eq!(role.pair.leaf(), before);
    }
    fs::remove_dir(in_the_way).unwrap();
    role.looks_at_once(&mut due, &asked);
    assert!(role.keeper.troubles().is_empty(), "{:?}", role.keeper.troubles());
    assert_eq!(asked.1.load(Ordering::Relaxed), 1);
    assert_eq!(role.pair.leaf().unwrap().as_ref(), given.into_inner().unwrap());
    let own = Credential {
        chain: chain(&role.pair.certificate),
        key: PrivateKeyDer::from_pem_file(&role.pair.key).unwrap(),
    };
    Internal::new(&[Pki::existing(role.folder.path()).unwrap().internal_authority()], own).unwrap();
}

#[test]
fn what_came_and_was_revoked_since_is_not_put() {
    let role = Role::new(DUE);
    let asked = answers(|message| Ok(role.given(message)));
    let (before, in_the_way, mut due) = (role.pair.leaf(), role.block(), Due::default());
    role.looks_at_once(&mut due, &asked);
    let mut pki = Pki::existing(role.folder.path()).unwrap();
    pki.revoke(&Subject::Named("gateway-gw1".to_owned()), Reason::KeyCompromise).unwrap();
    let list = fs::read(pki.sign_internal_list().unwrap()).unwrap();
    role.keeper.take_list(&list, "somebody").unwrap();
    fs::remove_dir(in_the_way).unwrap();
    let refuses = answers(|_| Err(NotCarried::Failed("revoked".to_owned())));
    role.looks_at_once(&mut due, &refuses);
    assert_eq!((refuses.1.into_inner(), role.pair.leaf()), (1, before));
}

#[test]
fn an_issuer_is_not_asked_for_what_cannot_be_put_anyway() {
    let role = Role::new(DUE);
    let nobody = DialAddress { host: "127.0.0.1".to_owned(), port: 1 };
    let issuer = Issuer::new(&nobody, &role.keeper.internal).unwrap();
    role.keeper.place.store(Arc::new(Place { pair: role.pair.clone(), issuer: Some(issuer) }));
    // Nobody can lock what is no file.
    let lock = role.pair.key.with_file_name(".lock");
    fs::create_dir(&lock).unwrap();
    role.keeper.renew_when_due(&mut Due::default(), None);
    assert!(role.keeper.troubles()[0].contains(".lock"), "{:?}", role.keeper.troubles());
    fs::remove_dir(&lock).unwrap();
    role.keeper.renew_when_due(&mut Due::default(), None);
    assert!(role.keeper.troubles()[0].contains("127.0.0.1:1"), "{:?}", role.keeper.troubles());
}

#[test]
fn nobody_is_asked_for_what_has_expired() {
    let role = Role::new(EXPIRED_SINCE);
    let asked = answers(|message| Ok(role.given(message)));
    for _ in 0..3 {
        role.keeper.renew_when_due(&mut Due::default(), Some(&asked));
    }
    assert_eq!(asked.1.into_inner(), 0);
    assert_eq!(role.keeper.troubles(), [EXPIRED]);
    assert_eq!(role.failures(), 0);
}

/// Asks two, the second a while after the first.
struct Slow(Mutex<Vec<u64>>);

impl Carries for Slow {
    fn carry(
        &self,
        message: &dyn Fn() -> Result<Vec<u8>, String>,
        _take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), NotCarried> {
        let made = || self.0.lock().unwrap().push(Renewal::parse(&message().unwrap()).unwrap().made);
        made();
        thread::sleep(Duration::from_millis(1_100));
        made();
        Err(NotCarried::Nobody)
    }
}

#[test]
fn each_who_is_asked_gets_what_was_signed_then() {
    let (role, slow) = (Role::new(DUE), Slow(Mutex::default()));
    role.keeper.renew_when_due(&mut Due::default(), Some(&slow));
    let made = slow.0.into_inner().unwrap();
    assert!(made.len() == 2 && made[0] < made[1], "{made:?}");
}

#[test]
fn a_start_waits_until_another_process_has_put_its_pair() {
    let role = Role::new(DUE);
    let identity =
        crate::settings::KeyPair { chain: role.pair.certificate.clone(), key: role.pair.key.clone() };
    let files = InternalFiles { ca: role.pair.certificate.clone(), identity, crl: None };
    let before = role.files();
    assert!(settle(Path::new("/"), &files).is_none());
    assert_eq!(role.files(), before, "whoever may not start leaves nothing");
    let turn = role.pair.lock().unwrap();
    let start = thread::spawn(move || settle(Path::new("/"), &files).is_some());
    thread::sleep(Duration::from_millis(200));
    assert!(!start.is_finished());
    drop(turn);
    assert!(start.join().unwrap());
}

#[test]
fn an_issuer_with_an_older_list_is_told_of_and_others_are_not() {
    let role = Role::new(DUE);
    let pki = Pki::existing(role.folder.path()).unwrap();
    let lists = [0, 1].map(|_| fs::read(pki.sign_internal_list().unwrap()).unwrap());
    role.keeper.take_issuers(&lists[1]).unwrap();
    role.keeper.take_issuers(&lists[1]).unwrap();
    let said = role.keeper.take_issuers(&lists[0]).unwrap_err();
    assert!(said.contains("older than") && said.contains("put back from a copy"), "{said}");
    assert_eq!(role.keeper.take_list(&lists[0], "a connection point"), Ok(()));
    assert_eq!(role.keeper.take_issuers(b""), Ok(()));
}

#[test]
fn the_end_that_is_told_is_that_of_the_certificate_shown() {
    let role = Role::new(DUE);
    let end = metrics::expiry(&role.keeper.internal.own().cert).unwrap();
    let row = |what, end| (what, "own.pem".to_owned(), end);
    let read = vec![row(INTERNAL, 7), row("server", 8)];
    assert_eq!(role.keeper.ends(read), [row(INTERNAL, end), row("server", 8)]);
}

#[test]
fn waits_double_and_are_never_a_tenth_of_what_is_left() {
    let day = Duration::from_secs(24 * 60 * 60);
    for random in [0, u32::MAX / 3, u32::MAX] {
        let mut before = Duration::ZERO;
        for attempts in 0..100 {
            let wait = again_after(attempts, 30 * day, random);
            assert!(wait >= before && wait <= RENEWAL_AGAIN_LONGEST);
            before = wait;
        }
        assert!(before >= RENEWAL_AGAIN_LONGEST / 2);
        let wait = again_after(100, Duration::from_secs(600), random);
        assert!((Duration::from_secs(30)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        for left in [Duration::ZERO, Duration::from_secs(30)] {
            let wait = again_after(100, left, random);
            assert!((RENEWAL_AGAIN_FIRST / 2..=RENEWAL_AGAIN_FIRST).contains(&wait), "{wait:?}");
        }
    }
}
