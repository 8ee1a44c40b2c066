//! What the stories need: the binary, and a small relay that can do wrong.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_loadgen");

/// How a run of loadgen ended.
pub struct Outcome {
    pub code: i32,
    pub text: String,
    pub report: serde_json::Value,
}

/// Runs `loadgen clients`.
pub fn clients(flags: &str) -> Outcome {
    clients_until(flags, |_| {})
}

/// Runs `loadgen clients`, and does `meanwhile` with its process id.
pub fn clients_until(flags: &str, meanwhile: impl FnOnce(u32)) -> Outcome {
    loadgen_until("clients", flags, meanwhile)
}

/// Runs `loadgen MODE`, and does `meanwhile` with its process id.
pub fn loadgen_until(mode: &str, flags: &str, meanwhile: impl FnOnce(u32)) -> Outcome {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("report.json");
    let child = Command::new(BINARY)
        .arg(mode)
        .args(flags.split_whitespace())
        .arg("--json")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadgen runs");
    meanwhile(child.id());
    let output = child.wait_with_output().expect("loadgen ends");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report =
        std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    Outcome { code: output.status.code().expect("not killed"), text, report }
}

/// A running `loadgen origin`, ended with the test.
pub struct Origin {
    process: Child,
    said: BufReader<ChildStdout>,
    pub address: String,
}

impl Origin {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", flags)
    }

    pub fn start_at(address: &str, flags: &[&str]) -> Self {
        let mut process = Command::new(BINARY)
            .args(["origin", "--listen", address])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("loadgen runs");
        let said = BufReader::new(process.stdout.take().expect("piped"));
        let mut origin = Self { process, said, address: String::new() };
        origin.address = origin.next_address();
        origin
    }

    /// The address in the next line it says.
    pub fn next_address(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        let address = line.trim().split(['/', ' ']).find(|word| word.contains("127.0.0.1:"));
        address.expect("an address").to_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Passes one request after another on to an origin, changing what goes by.
pub struct Relay {
    pub address: String,
}

impl Relay {
    /// `answer` tells whether the connection stays.
    pub fn start(
        origin: &str,
        request: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
        answer: impl Fn(&mut Vec<u8>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let changes = Arc::new((request, answer));
        Self::serve(origin, move |mut client, mut origin| {
            let changes = Arc::clone(&changes);
            while let Some(mut bytes) = read_message(&mut client) {
                changes.0(&mut bytes);
                if origin.write_all(&bytes).is_err() {
                    return;
                }
                let Some(mut bytes) = read_message(&mut origin) else { return };
                if !changes.1(&mut bytes) || client.write_all(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// Passes on as it is, and stands still for `length` before its answer number `index`.
    pub fn start_stalling(origin: &str, index: u64, length: Duration) -> Self {
        let count = AtomicU64::new(0);
        Self::start(
            origin,
            |_| {},
            move |_| {
                if count.fetch_add(1, Ordering::Relaxed) == index {
                    std::thread::sleep(length);
                }
                true
            },
        )
    }

    /// Ends TLS and asks for a client certificate.
    pub fn start_tls(origin: &str, files: &TlsFiles) -> Self {
        let config = files.server_config();
        Self::serve(origin, move |client, mut origin| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a valid configuration");
            let mut client = StreamOwned::new(connection, client);
            while let Some(bytes) = read_message(&mut client) {
                if origin.write_all(&bytes).is_err() {
                    return;
                }
                let Some(bytes) = read_message(&mut origin) else { return };
                if client.write_all(&bytes).and_then(|()| client.flush()).is_err() {
                    return;
                }
            }
        })
    }

    fn serve(origin: &str, relay: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (origin, relay) = (origin.to_owned(), Arc::new(relay));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (relay, origin) = (Arc::clone(&relay), origin.clone());
                std::thread::spawn(move || {
                    if let Ok(origin) = TcpStream::connect(&origin) {
                        relay(client, origin);
                    }
                });
            }
        });
        Self { address }
    }
}

/// One whole message with Content-Length or none.
fn read_message(stream: &mut impl Read) -> Option<Vec<u8>> {
    let (mut message, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let size = stream.read(&mut piece).ok().filter(|size| *size > 0)?;
        message.extend_from_slice(&piece[..size]);
        let Some(head) = message.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&message[..head]).to_ascii_lowercase();
        let length =
            text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        if message.len() >= head + 4 + length.unwrap_or(0) {
            return Some(message);
        }
    }
}

/// A CA, a server `proxy.test` and three clients, as files.
pub struct TlsFiles {
    folder: tempfile::TempDir,
}

impl TlsFiles {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("a CA");
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write("ca.pem", ca.pem());
        std::fs::create_dir(folder.path().join("clients")).expect("a folder");
        let leaves = [
            ("server", "proxy.test", ExtendedKeyUsagePurpose::ServerAuth),
            ("clients/one", "one.test", ExtendedKeyUsagePurpose::ClientAuth),
            ("clients/two", "two.test", ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (file, name, usage) in leaves {
            let key = KeyPair::generate().expect("key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.extended_key_usages = vec![usage];
            let certificate = params.signed_by(&key, &ca).expect("signed");
            write(&format!("{file}.pem"), certificate.pem());
            write(&format!("{file}.key"), key.serialize_pem());
        }
        Self { folder }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn clients_dir(&self) -> PathBuf {
        self.folder.path().join("clients")
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("a CA")).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain =
            CertificateDer::from_pem_file(self.folder.path().join("server.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.folder.path().join("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_client_cert_verifier(verifier.build().expect("roots"))
            .with_single_cert(vec![chain], key)
            .expect("a pair");
        Arc::new(config)
    }
}
