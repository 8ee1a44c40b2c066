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
    name: OsString,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = within(&self.folder, &self.name);
        if fs::symlink_metadata(&path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the socket `path`, in the place of one that a dead process left.
///
/// It is bound under another name and moved when it is complete. Its rights are set before it has a name
/// at all: on Linux a bound socket's file takes the mode of the socket, so that it is never wider, and no
/// process-wide umask has to change under running threads.
///
/// # Errors
/// See [`SocketError`].
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let (folder, name) = open_folder(path)?;
    // Two that find the same dead socket must not both take its place.
    lock(&folder)?;
    let place = within(&folder, &name);
    check_free(&place)?;
    let draft = within(&folder, &format!(".cmg-{}.sock", std::process::id()).into());
    let _ = fs::remove_file(&draft);
    let listener = listen(&draft);
    let made = listener.and_then(|listener| {
        let found = fs::symlink_metadata(&draft)?;
        if found.mode() & 0o777 != MODE {
            return Err(io::Error::other("this kernel does not bind sockets with the rights they have"));
        }
        fs::rename(&draft, &place)?;
        Ok((listener, identity(&found)))
    });
    let _ = folder.unlock();
    match made {
        Ok((listener, identity)) => Ok((listener, SocketFile { folder, name, identity })),
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(error.into())
        }
    }
}

/// Looks whether `path` is free, or a dead process left it; changes nothing.
///
/// # Errors
/// See [`SocketError`].
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

fn check_free(place: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket),
        Ok(_) => {}
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
