//! Ctrl-C: ends a run early, so that it still tells what it found. A second one ends the program.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static WANTED: AtomicBool = AtomicBool::new(false);

/// Whether the user wants the run to end.
pub fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// Takes the next SIGINT or SIGTERM as that wish.
pub fn listen() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: zeroes are a valid sigaction; the handler does nothing but one atomic store.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn note(_: libc::c_int) {
    WANTED.store(true, Ordering::Relaxed);
}
