//! Where a process waits for the one that takes its place: a Unix socket with a file of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Predecessor, give};
use crate::admin::{SocketFile, Wrong, bind_socket, draft_socket};
use crate::handover::Role;

/// Beside the control socket at `control`, and named like it: `gateway.sock` and `gateway.upgrade.sock`.
pub fn default_socket(control: &Path) -> PathBuf {
    let mut name = control.file_stem().map(OsString::from).unwrap_or_default();
    name.push(".upgrade.sock");
    control.with_file_name(name)
}

/// The socket before anybody waits there.
pub struct Post {
    path: PathBuf,
    /// The settings have it; otherwise a role runs without.
    is_written: bool,
    bound: Option<(UnixListener, SocketFile)>,
}

/// Waiting there; the socket's file goes when this does.
#[derive(Debug)]
pub struct Giving {
    file: SocketFile,
    path: PathBuf,
}

impl Giving {
    /// Takes the place of another process's socket, which has left it. That it cannot is only warned of: that process
    /// is gone.
    pub(super) fn take_place(&mut self) {
        if let Err(error) = self.file.take_place() {
            warn(&Wrong::of_socket(KEY, &self.path, error));
        }
    }
}

impl Post {
    /// At `path`, not bound yet: another process has it, or none is to take this one's place.
    pub fn later(path: PathBuf, is_written: bool) -> Post {
        Post { path, is_written, bound: None }
    }

    /// Binds it.
    ///
    /// # Errors
    /// The settings have it, and it cannot be had. One by default is only warned of.
    pub fn bind(path: PathBuf, is_written: bool) -> Result<Post, Wrong> {
        let mut post = Post::later(path, is_written);
        match bind_socket(&post.path) {
            Ok(bound) => post.bound = Some(bound),
            Err(error) => {
                let wrong = Wrong::of_socket(KEY, &post.path, error);
                if post.is_written {
                    return Err(wrong);
                }
                warn(&wrong);
            }
        }
        Ok(post)
    }

    /// Where it is, or will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the one that will take the place of another process's.
    ///
    /// # Errors
    /// It cannot be made. That process has one: it was asked there.
    pub(super) fn prepare(&mut self) -> Result<(), Wrong> {
        let made = draft_socket(&self.path);
        self.bound = Some(made.map_err(|error| Wrong::of_socket(KEY, &self.path, error))?);
        Ok(())
    }

    /// Waits in a thread of its own until a process has taken this one's place.
    pub(super) fn give(self, role: Role, predecessor: impl Predecessor) -> io::Result<Option<Giving>> {
        let Some((listener, file)) = self.bound else { return Ok(None) };
        listener.set_nonblocking(false)?;
        let wait = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        if give(stream, role, &predecessor) {
                            return;
                        }
                    }
                    // No descriptor is left, perhaps.
                    Err(_) => thread::sleep(ACCEPT_AGAIN_AFTER),
                }
            }
        };
        thread::Builder::new().name("upgrade".into()).spawn(wait)?;
        Ok(Some(Giving { file, path: self.path }))
    }
}

fn warn(Wrong { key, found, expected }: &Wrong) {
    tracing::warn!(key, found, expected, "no upgrade socket: another process cannot take this one's place");
}

const KEY: &str = "admin.upgrade_socket";

const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
