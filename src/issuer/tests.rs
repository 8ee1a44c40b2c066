//! The issuer whole, on a port of its own.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConnection, StreamOwned};

use super::counts::{Counts, Trouble};
use super::desk::{Desk, Refused};
use super::serve::{Service, own};
use super::upkeep::Upkeep;
use crate::admin::Report as _;
use crate::auth::Renewal;
use crate::inside::{self, Bounds, Stop};
use crate::limits::{INTERNAL_LIST_SIZE_MAX, ISSUER_HANDSHAKES_EACH_MAX};
use crate::pki::{ISSUER_TLS_NAME, NewKey, Pair, Pki, Reason, Subject, lock};
use crate::renewal::Issuer;
use crate::settings::DialAddress;
use crate::transport::Internal;
use crate::transport::tls_config::{self, Credential, for_issuing};

const EACH: usize = 2;
const WITHIN: Duration = Duration::from_secs(4);

/// An issuer that listens until this is dropped.
struct Running {
    address: SocketAddr,
    folder: tempfile::TempDir,
    pki: Pki,
    internal: Arc<Internal>,
    counts: Arc<Counts>,
    stop: tokio::sync::watch::Sender<u32>,
}

impl Running {
    fn start() -> Running {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        pki.sign_internal_list().unwrap();
        let internal = own(&pki).unwrap();
        let counts = Arc::new(Counts::new(internal.clone()));
        Upkeep::new(&internal, &pki, folder.path().to_owned(), &counts).start().unwrap();
        let desk = Desk::new(&internal, folder.path().to_owned(), None, &counts);
        let service = Arc::new(Service::new(internal.clone(), desk, counts.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = for_issuing(&internal).unwrap();
        let (stop, stopped) = Stop::by_hand();
        let bounds = Bounds {
            connections_each: EACH,
            handshakes_each: ISSUER_HANDSHAKES_EACH_MAX,
            connection_within: Some(WITHIN),
        };
        thread::spawn(move || inside::run(listener, tls, service, bounds, stopped).unwrap());
        Running { address, folder, pki, internal, counts, stop }
    }

    /// Connection point `name`, as it shows itself.
    fn role(&self, name: &str) -> Arc<Internal> {
        role(&self.pki, &self.pki.connector("PS1", name).unwrap())
    }

    fn issuer(&self, role: &Arc<Internal>) -> Issuer {
        let address = DialAddress { host: "127.0.0.1".to_owned(), port: self.address.port() };
        Issuer::new(&address, role).unwrap()
    }

    /// A connection as this role on which nothing was said yet.
    fn connect(&self, role: &Arc<Internal>) -> StreamOwned<ClientConnection, TcpStream> {
        let config = tls_config::for_issuer(role).unwrap();
        let name = ServerName::try_from(ISSUER_TLS_NAME).unwrap();
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_modify(|count| *count += 2);
    }
}

fn role(pki: &Pki, pair: &Pair) -> Arc<Internal> {
    let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    Internal::new(&[pki.internal_authority()], Credential { chain, key }).unwrap()
}

/// A request for the next certificate of a role.
fn request(role: &Internal) -> Vec<u8> {
    let own = role.own();
    let key = NewKey::like(&own.cert[0]).unwrap();
    let unsigned = Renewal::unsigned(UnixTime::now().as_secs(), &own.cert, key.request()).unwrap();
    let signer = own.key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    Renewal::signed(&unsigned, &signer.sign(&unsigned).unwrap()).unwrap()
}

/// Whether it is still open though nothing comes.
fn is_open(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> bool {
    match stream.read(&mut [0; 64]) {
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        Ok(size) => size > 0,
    }
}

fn lines(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("issued.jsonl")).unwrap();
    text.lines().filter(|line| !line.is_empty()).count()
}

#[test]
fn whoever_holds_connections_keeps_the_list_from_nobody() {
    let running = Running::start();
    let (first, second) = (running.role("1"), running.role("2"));
    let mut held: Vec<_> = (0..EACH + 3).map(|_| running.connect(&first)).collect();
    let open = held.iter_mut().map(|stream| usize::from(is_open(stream))).sum::<usize>();
    assert_eq!(open, EACH, "it has its share and no more");
    assert!(!running.issuer(&second).list().unwrap().is_empty());
    assert!(running.issuer(&first).list().is_err());
    // However it holds them: they are silent, or do not read what comes.
    thread::sleep(WITHIN);
    assert!(held.iter_mut().all(|stream| !is_open(stream)), "and not for long");
    assert!(!running.issuer(&first).list().unwrap().is_empty());
}

#[test]
fn a_connection_is_for_one_question() {
    let running = Running::start();
    let mut stream = running.connect(&running.role("1"));
    stream.write_all(b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(text.starts_with("http/1.1 200") && text.contains("\r\nconnection: close\r\n"), "{text}");
    assert!(!is_open(&mut stream));
}

#[test]
fn one_address_does_not_take_all_handshakes() {
    let running = Running::start();
    let role = running.role("1");
    let silent: Vec<_> =
        (0..ISSUER_HANDSHAKES_EACH_MAX).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    thread::sleep(Duration::from_millis(300));
    let mut more = TcpStream::connect(running.address).unwrap();
    more.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let said = more.read(&mut [0; 1]);
    assert!(!said.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)));
    // From another address of this machine somebody is heard meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    socket.connect(&running.address.into()).unwrap();
    let config = tls_config::for_issuer(&role).unwrap();
    let name = ServerName::try_from(ISSUER_TLS_NAME).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), TcpStream::from(socket));
    stream.write_all(b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    drop(silent);
}

#[test]
fn a_request_that_is_sent_again_has_the_same_answer_and_counts_once() {
    let running = Running::start();
    let role = running.role("1");
    let desk = Desk::new(&running.internal, running.folder.path().to_owned(), None, &running.counts);
    let message = request(&role);
    let before = lines(running.folder.path());
    let first = desk.give(&message, "somebody").unwrap();
    for _ in 0..50 {
        assert_eq!(desk.give(&message, "somebody else").unwrap(), first);
    }
    assert_eq!(lines(running.folder.path()), before + 1);
    let status = running.counts.status();
    assert_eq!((&status["given"], &status["repeated"]), (&1.into(), &50.into()));
    assert_ne!(desk.give(&request(&role), "somebody").unwrap(), first);
    // Whoever is revoked meanwhile is not even told again what there was.
    let subject = Subject::Named("connector-PS1-1".to_owned());
    let mut pki = Pki::open(running.folder.path()).unwrap();
    pki.revoke(&subject, Reason::KeyCompromise).unwrap();
    running.internal.take_lists(&fs::read(pki.sign_internal_list().unwrap()).unwrap()).unwrap();
    assert!(matches!(desk.give(&message, "somebody"), Err(Refused::Fault(_))));
}

#[test]
fn a_folder_that_somebody_holds_delays_no_list() {
    let running = Running::start();
    let role = running.role("1");
    let held = lock(running.folder.path()).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let (issuer, message, done) = (running.issuer(&role), request(&role), is_done.clone());
    let asks = thread::spawn(move || {
        let renewed = issuer.renew(&message);
        done.store(true, Ordering::Relaxed);
        renewed
    });
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    assert!(!running.issuer(&role).list().unwrap().is_empty());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!is_done.load(Ordering::Relaxed), "it waits for the folder");
    drop(held);
    assert!(asks.join().unwrap().is_ok());
}

#[test]
fn an_issuer_whose_list_cannot_be_read_starts_and_tells_it() {
    for broken in [b"none".to_vec(), vec![b'x'; 2 * INTERNAL_LIST_SIZE_MAX]] {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let internal = own(&pki).unwrap();
        let counts = Arc::new(Counts::new(internal.clone()));
        let upkeep = Upkeep::new(&internal, &pki, folder.path().to_owned(), &counts);
        fs::write(pki.internal_list(), &broken).unwrap();
        let mut seen = None;
        upkeep.look(&internal, &mut seen);
        let status = counts.status();
        assert_eq!(status["state"], "Degraded");
        assert!(status["trouble"].to_string().contains("internal-crl.pem"), "{status}");
        assert!(counts.metrics().contains("\ncmg_issuer_trouble 1\n"));
        // It goes on, and is well once the list is.
        upkeep.keep(&internal);
        upkeep.look(&internal, &mut seen);
        let status = counts.status();
        assert_eq!((&status["state"], &status["trouble"]), (&"Healthy".into(), &serde_json::json!([])));
        assert!(counts.metrics().contains("\ncmg_issuer_trouble 0\n"));
        fs::remove_file(pki.internal_list()).unwrap();
        upkeep.look(&internal, &mut seen);
        assert_eq!(counts.status()["state"], "Degraded", "it is gone");
    }
}

#[test]
fn what_is_wrong_is_told_until_it_is_not_and_its_own_certificate_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::open(folder.path()).unwrap();
    pki.sign_internal_list().unwrap();
    let internal = own(&pki).unwrap();
    let counts = Arc::new(Counts::new(internal.clone()));
    let upkeep = Upkeep::new(&internal, &pki, folder.path().to_owned(), &counts);
    upkeep.look(&internal, &mut None);
    assert_eq!(counts.status()["state"], "Healthy");
    let page = counts.metrics();
    let ends = "cmg_certificate_expiry_timestamp_seconds{use=\"issuer\",file=\"issuer.cmg.internal\"} ";
    assert!(page.contains(ends) && page.contains("cmg_issuer_internal_list_next_update_timestamp_seconds{"));
    for which in [Trouble::Reading, Trouble::Signing, Trouble::Certificate] {
        counts.tell(which, Some(format!("{which:?}")));
        assert_eq!(counts.status()["trouble"], serde_json::json!([format!("{which:?}")]));
        counts.tell(which, None);
    }
    // The folder cannot be used: neither of what it is for can be done.
    fs::write(folder.path().join("revoked.json"), "none").unwrap();
    upkeep.keep(&internal);
    assert_eq!(counts.status()["trouble"].as_array().unwrap().len(), 2, "{}", counts.status());
    fs::remove_file(folder.path().join("revoked.json")).unwrap();
    upkeep.keep(&internal);
    assert_eq!(counts.status()["state"], "Healthy");
}
