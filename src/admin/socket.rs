//! A Unix socket as a file: made so that nobody else can ever use it, found again, taken away at the end.
//!
//! Addresses of Unix sockets hold 107 bytes. Files are therefore named by way of an open folder or file
//! under `/proc/self/fd`, and paths may be as long as paths may be.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits;

/// Nobody but the owner, and root.
const MODE: u32 = 0o600;
/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 16;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a socket cannot be made.
#[derive(Debug)]
pub enum SocketError {
    /// A process answers there.
    Alive,
    /// Something else has that name.
    NoSocket,
    /// The system says no.
    Io(io::Error),
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> SocketError {
        SocketError::Io(error)
    }
}

/// A socket file of ours; taken away when dropped, unless somebody else's stands there by then.
#[derive(Debug)]
pub struct SocketFile {
    folder: File,
    /// What it is called.
    name: OsString,
    /// What it is to be called.
    place: OsString,
    identity: (u64, u64),
    /// Open, so that the system gives its number to no other file: neither the listener nor the name may last as
    /// long as this.
    _pin: File,
}

impl SocketFile {
    /// Moves a draft to where it was made for, in the place of a socket at which a process may still answer: one
    /// whose place this one takes.
    ///
    /// # Errors
    /// See `SocketError`; none is `SocketError::Alive`.
    pub fn take_place(&mut self) -> Result<(), SocketError> {
        // The process before looks whose file is there, and takes its own away. Who keeps the lock keeps nobody out.
        let is_locked = lock(&self.folder).is_ok();
        let moved = check_kind(&within(&self.folder, &self.place)).and_then(|_| self.move_to_place());
        if is_locked {
            let _ = self.folder.unlock();
        }
        moved
    }

    fn move_to_place(&mut self) -> Result<(), SocketError> {
        fs::rename(within(&self.folder, &self.name), within(&self.folder, &self.place))?;
        self.name.clone_from(&self.place);
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Until the folder is closed.
        let _ = lock(&self.folder);
        let path = within(&self.folder, &self.name);
        if fs::symlink_metadata(&path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the socket `path`, in the place of one that a dead process left.
///
/// # Errors
/// See `SocketError`.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let (listener, mut file) = draft(path)?;
    // Two that find the same dead socket must not both take its place.
    lock(&file.folder)?;
    let moved = check_free(&within(&file.folder, &file.place)).and_then(|()| file.move_to_place());
    let _ = file.folder.unlock();
    moved.map(|()| (listener, file))
}

/// Makes the socket `path` under another name beside it, where nobody finds it until it takes its place
/// ([`SocketFile::take_place`]). What can go wrong has gone right then, but for a rename.
///
/// Its rights are set before it has a name at all: on Linux a bound socket's file takes the mode of the socket, so
/// that it is never wider, and no process-wide umask has to change under running threads.
///
/// # Errors
/// See `SocketError`; none is `SocketError::Alive`.
pub fn draft(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let (folder, place) = open_folder(path)?;
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let name = format!(".cmg-{}-{number}.sock", std::process::id()).into();
    let at = within(&folder, &name);
    let _ = fs::remove_file(&at);
    match listen(&at).and_then(|listener| Ok((listener, pin(&at)?))) {
        Ok((listener, (pin, identity))) => {
            Ok((listener, SocketFile { folder, name, place, identity, _pin: pin }))
        }
        Err(error) => {
            let _ = fs::remove_file(&at);
            Err(error.into())
        }
    }
}

/// Holds a new socket's file, which must have the rights that the socket has.
fn pin(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if found.mode() & 0o777 != MODE {
        return Err(io::Error::other("this kernel does not bind sockets with the rights they have"));
    }
    Ok((file, identity(&found)))
}

/// Looks whether `path` is free, or a dead process left it; changes nothing.
///
/// # Errors
/// See `SocketError`.
pub fn look(path: &Path) -> Result<(), SocketError> {
    let (folder, name) = open_folder(path)?;
    check_free(&within(&folder, &name))
}

/// Connects to the socket `path` without waiting: full is [`io::ErrorKind::WouldBlock`].
///
/// # Errors
/// It is missing, nobody listens, or we may not.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("/proc/self/fd/{}", file.as_raw_fd()))?)?;
    Ok(OwnedFd::from(socket).into())
}

fn open_folder(path: &Path) -> Result<(File, OsString), SocketError> {
    let name = path.file_name().ok_or(SocketError::NoSocket)?.to_owned();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok((OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder)?, name))
}

fn within(folder: &File, name: &OsString) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Anybody who can read the folder could hold its lock: we wait for a while only.
fn lock(folder: &File) -> io::Result<()> {
    let until = Instant::now() + limits::BIND_WITHIN;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOOK_AGAIN),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process holds the lock of the folder"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether a socket is there; something else must not be.
fn check_kind(place: &Path) -> Result<bool, SocketError> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NoSocket),
        Ok(_) => Ok(true),
    }
}

fn check_free(place: &Path) -> Result<(), SocketError> {
    if !check_kind(place)? {
        return Ok(());
    }
    match connect(place) {
        Ok(_) => Err(SocketError::Alive),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Err(SocketError::Alive),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            _ => Err(error.into()),
        },
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    socket.set_permissions(Permissions::from_mode(MODE))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_leaves_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.sock");
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        connect(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::Alive)));
        // As a killed process leaves it.
        drop(listener);
        let (_listener, second) = bind(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the first must not take the second's away");
        connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_successor_takes_the_place_of_a_live_socket_when_it_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (first, file) = bind(&path).unwrap();
        // One that comes to nothing is as if it had not been.
        drop(draft(&path).unwrap());
        let (second, mut own) = draft(&path).unwrap();
        connect(&path).unwrap();
        assert!(first.accept().is_ok() && second.accept().is_err(), "nobody finds the second yet");
        own.take_place().unwrap();
        assert_eq!((mode(&path), fs::read_dir(folder.path()).unwrap().count()), (0o600, 1));
        connect(&path).unwrap();
        assert!(first.accept().is_err() && second.accept().is_ok(), "who comes now comes to the second");
        drop((first, file));
        assert!(path.exists(), "the first must not take the second's away");
        drop(own);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let (_listener, mut file) = draft(&path).unwrap();
        assert!(matches!(file.take_place(), Err(SocketError::NoSocket)));
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_socket_whose_lock_another_holds_takes_its_place_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_first, _file) = bind(&path).unwrap();
        let (second, mut own) = draft(&path).unwrap();
        let held = File::open(folder.path()).unwrap();
        held.lock().unwrap();
        own.take_place().unwrap();
        held.unlock().unwrap();
        connect(&path).unwrap();
        assert!(second.accept().is_ok());
    }

    #[test]
    fn no_later_socket_is_taken_for_one_whose_listener_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, first) = bind(&path).unwrap();
        drop(listener);
        for _ in 0..32 {
            // A file system may give a number again as soon as nobody has it.
            let (_listener, later) = bind(&path).unwrap();
            assert_ne!(later.identity, first.identity);
        }
    }

    #[test]
    fn a_full_socket_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, _file) = bind(&path).unwrap();
        let waiting: Vec<_> = (0..=BACKLOG).map(|_| connect(&path).unwrap()).collect();
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock, "{}", waiting.len());
        assert!(matches!(bind(&path), Err(SocketError::Alive)));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NoSocket)));
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join("link")).unwrap();
        assert!(matches!(bind(&folder.path().join("link")), Err(SocketError::NoSocket)));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(matches!(bind(&folder.path().join("no/s")), Err(SocketError::Io(_))));
    }

    #[test]
    fn a_path_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join(format!("{}.sock", "n".repeat(200)));
        let (listener, _file) = bind(&path).unwrap();
        connect(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(listener);
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn of_two_at_the_same_time_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let tries: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || bind(&path))
            })
            .collect();
        let outcomes: Vec<_> = tries.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    }
}
