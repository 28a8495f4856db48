//! Calls made inside another network namespace.
//!
//! A thread's namespace decides where the kernel puts what the thread creates.
//! A TAP has to be created where it is to live: moved later, it answers every
//! further ioctl with "No such device".

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::error::Error;

/// A named network namespace, kept open, so that it can be entered even after
/// its name is gone.
#[derive(Debug)]
pub(super) struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Opens the namespace that `ip netns` calls `name`, for `port`.
    pub(super) fn open(port: &str, name: &str) -> Result<Self, Error> {
        let missing = || Error::NoNetns {
            port: port.to_owned(),
            netns: name.to_owned(),
        };
        if name.is_empty() || name.contains('/') {
            return Err(missing());
        }
        let file = match File::open(Path::new("/var/run/netns").join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(source) => {
                return Err(Error::Netns {
                    netns: name.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Runs `call` in the namespace: on a thread that enters it and then ends,
    /// so that no failure can leave the caller in the wrong one.
    fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let failed = |source| Error::Netns {
            netns: self.name.clone(),
            source,
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                // SAFETY: the descriptor is open as long as `self`; the call
                // changes nothing but this thread's namespace.
                if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(call())
            });
            match thread.map_err(failed)?.join() {
                Ok(result) => result.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Runs `call`, which closes what was made in `netns`: there, if the process may
/// still enter it. A TAP is closed from anywhere: its driver talks through
/// sockets that are of that namespace since it was made. The drivers that have
/// to be there keep the right to (`host::privileges`).
pub(super) fn close_in<T: Send>(
    netns: Option<&Netns>,
    call: impl Fn() -> Result<T, Error> + Sync,
) -> Result<T, Error> {
    match netns.map(|netns| netns.run(&call)) {
        None | Some(Err(_)) => call(),
        Some(Ok(closed)) => closed,
    }
}

/// Runs `call` in `netns`, or right here without one.
pub(super) fn run_in<T: Send>(
    netns: Option<&Netns>,
    call: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    match netns {
        Some(netns) => netns.run(call)?,
        None => call(),
    }
}
