//! `floor tls`: a TLS server that answers every GET by itself, and does nothing else.
//!
//! One pinned thread and one ring per CPU, direct descriptors, multishot receives into lent buffers, rustls unbuffered, client
//! certificates verified. No executor, no tasks, no routing, no limits, no second hop: what a small request costs
//! at least on this machine, for the gateway to be compared with.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ring::{Completion, Operation, Ring};
use crate::session::Session;

/// Accepts armed at once, per thread, as a shard of the gateway arms.
const ACCEPTS: usize = 64;
/// Files that the process itself needs beside the table of direct descriptors.
const OTHER_FILES: u64 = 500;
const SLOTS_MAX: u64 = 19_000;

/// Certificates and trust, PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom clients must come from.
    pub ca: PathBuf,
}

/// Binds `address` and serves it with `threads` threads until the process ends; `ready` hears the bound address.
pub fn serve(
    address: SocketAddr,
    files: &Files,
    threads: usize,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let config = config(files)?;
    let slots = slots()?;
    let cpus = cpus()?;
    let listener = Arc::new(listen(address)?);
    ready(listener.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?);
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let (config, listener, cpu) = (config.clone(), listener.clone(), cpus[index % cpus.len()]);
            std::thread::spawn(move || {
                pin(cpu)?;
                Worker::new(listener, config, slots)?.run()
            })
        })
        .collect();
    workers
        .into_iter()
        .try_for_each(|worker| worker.join().map_err(|_| io::Error::other("a thread panicked"))?)
}

fn config(files: &Files) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_client_cert_verifier(verifier).with_single_cert(
                certificates(&files.cert).map_err(|error| rustls::Error::General(error.to_string()))?,
                key,
            )
        })
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(io::Error::other)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Inherited by what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Raises the limit of open files and says how many slots a ring may have.
fn slots() -> io::Result<u32> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_max.saturating_sub(OTHER_FILES).clamp(64, SLOTS_MAX) as u32)
}

/// CPUs this process may run on.
pub fn cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a CPU set is a plain bit field, written by the call.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    // SAFETY: the index is below the set's size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Keeps this thread on `cpu`.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a CPU set is a plain bit field, and the index is one the kernel gave.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Connection {
    session: Session,
    staged: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    is_receiving: bool,
    is_sending: bool,
    is_ending: bool,
    shutdown: Shutdown,
}

/// Not ── asked for ──▶ Under way ── completion ──▶ Done. The kernel works it off in a thread of its own: a slot that was
/// closed meanwhile would be another client's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    Not,
    UnderWay,
    Done,
}

struct Worker {
    ring: Ring,
    listener: Arc<Socket>,
    config: Arc<ServerConfig>,
    connections: Vec<Option<Box<Connection>>>,
}

impl Worker {
    fn new(listener: Arc<Socket>, config: Arc<ServerConfig>, slots: u32) -> io::Result<Worker> {
        let mut ring = Ring::new(slots)?;
        (0..ACCEPTS).for_each(|_| ring.accept(listener.as_raw_fd()));
        Ok(Worker { ring, listener, config, connections: (0..slots).map(|_| None).collect() })
    }

    fn run(mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        loop {
            self.ring.wait(&mut completions)?;
            for completion in &completions {
                match completion.operation {
                    Operation::Accept => self.accepted(completion.result),
                    Operation::Receive => self.received(completion),
                    Operation::Send => self.went(completion),
                    Operation::Shutdown => self.shut_down(completion.slot),
                    Operation::Close => {}
                }
            }
        }
    }

    fn accepted(&mut self, result: i32) {
        self.ring.accept(self.listener.as_raw_fd());
        let Ok(slot) = u32::try_from(result) else { return };
        match Session::new(self.config.clone()) {
            Ok(session) => {
                self.ring.receive(slot);
                self.connections[slot as usize] = Some(Box::new(Connection {
                    session,
                    staged: Vec::new(),
                    sending: Vec::new(),
                    sent: 0,
                    is_receiving: true,
                    is_sending: false,
                    is_ending: false,
                    shutdown: Shutdown::Not,
                }));
            }
            Err(_) => self.ring.close(slot),
        }
    }

    fn received(&mut self, completion: &Completion) {
        let slot = completion.slot;
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        connection.is_receiving = completion.more;
        let size = usize::try_from(completion.result).unwrap_or_default();
        // A receive that found no buffer is armed again below: those of this turn are back by then.
        let has_ended = size == 0 && completion.result != -libc::ENOBUFS;
        let mut goes_on = true;
        if let Some(buffer) = completion.buffer {
            if !connection.is_ending {
                let bytes = self.ring.filled(buffer, size);
                goes_on = connection.session.take(bytes, &mut connection.staged).unwrap_or(false);
            }
            self.ring.give_back(buffer);
        }
        connection.is_ending |= has_ended || !goes_on;
        connection.offer(slot, &mut self.ring);
        if connection.is_ending {
            self.end(slot);
        } else if !connection.is_receiving {
            connection.is_receiving = true;
            self.ring.receive(slot);
        }
    }

    fn went(&mut self, completion: &Completion) {
        let slot = completion.slot;
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        connection.is_sending = false;
        match usize::try_from(completion.result) {
            Ok(size) => connection.sent += size,
            Err(_) => connection.is_ending = true,
        }
        if connection.sent == connection.sending.len() {
            (connection.sending, connection.sent) = (Vec::new(), 0);
        }
        if completion.result >= 0 {
            connection.offer(slot, &mut self.ring);
        }
        if connection.is_ending {
            self.end(slot);
        }
    }

    fn shut_down(&mut self, slot: u32) {
        if let Some(connection) = &mut self.connections[slot as usize] {
            connection.shutdown = Shutdown::Done;
            self.end(slot);
        }
    }

    /// Closes when nothing is in flight, and sees to it that nothing stays so.
    fn end(&mut self, slot: u32) {
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        if connection.is_sending || connection.shutdown == Shutdown::UnderWay {
            return;
        }
        if connection.is_receiving && connection.shutdown == Shutdown::Not {
            connection.shutdown = Shutdown::UnderWay;
            self.ring.shut_down(slot);
        } else if !connection.is_receiving {
            self.connections[slot as usize] = None;
            self.ring.close(slot);
        }
    }
}

impl Connection {
    /// Sends what is staged, unless something is on its way.
    fn offer(&mut self, slot: u32, ring: &mut Ring) {
        if self.is_sending {
            return;
        }
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.staged);
        }
        if self.sent < self.sending.len() {
            self.is_sending = true;
            ring.send(slot, &self.sending[self.sent..]);
        }
    }
}
