//! One process per instance: an exclusive lock on a file that names the
//! process holding it. The kernel lets go of it when the process ends, however
//! it ends. Taken once, by `main`, before anything is touched. A process that is
//! on its way out still holds it, and what else it had, for a moment: that is
//! waited for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a holder is waited for that may be about to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one is waited for that has begun to end: the kernel takes about a
/// second to free 10 GB.
const PATIENCE_ENDING: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Why the lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("already running{holder} ({path} is locked)")]
    Held {
        path: PathBuf,
        /// ` as pid N`, where the file says so.
        holder: String,
    },
    #[error("cannot lock {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The lock. Dropping it removes the file.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    _file: File,
}

impl InstanceLock {
    /// Takes the lock, or names the process that has it. Waits a moment for it,
    /// and longer where the process that had it is ending.
    ///
    /// # Errors
    /// Another process has it, or the file can't be made.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        Self::take_within(path, PATIENCE)
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let begun = Instant::now();
        let io_error = |source| LockError::Io {
            path: path.into(),
            source,
        };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map_err(io_error)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&mut file);
                    let patience = match holder.is_some_and(is_ending) {
                        true => PATIENCE_ENDING,
                        false => patience,
                    };
                    if begun.elapsed() < patience {
                        std::thread::sleep(LOOK);
                        continue;
                    }
                    return Err(LockError::Held {
                        path: path.into(),
                        holder: holder.map_or(String::new(), |pid| format!(" as pid {pid}")),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io_error(source)),
            }
            if !is_at(&file, path) {
                // Its holder removed it between our opening and locking it.
                continue;
            }
            // The kernel frees an ending process's lock before its sockets and
            // interfaces.
            if let Some(last) = holder(&mut file) {
                while is_ending(last) && begun.elapsed() < PATIENCE_ENDING {
                    std::thread::sleep(LOOK);
                }
            }
            write_pid(&mut file).map_err(io_error)?;
            return Ok(Self {
                path: path.into(),
                _file: file,
            });
        }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process that the file names.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    let _ = file.take(32).read_to_string(&mut text);
    text.trim().parse().ok()
}

/// Whether a process is between the begin of its end and that end: it has given
/// up its memory, and some thread of it is still there. One that is over and
/// only waits for its parent has none but a zombie.
fn is_ending(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let has = |key: &str| status.lines().any(|line| line.starts_with(key));
    if has("VmSize:") {
        return false;
    }
    if !has("State:\tZ") {
        return true;
    }
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads.is_ok_and(|threads| threads.count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.lock");
        let first = InstanceLock::take(&path).expect("free");
        let second = InstanceLock::take_within(&path, Duration::ZERO);
        let second = second.expect_err("held").to_string();
        let expected = format!("already running as pid {}", std::process::id());
        assert!(second.starts_with(&expected), "{second}");
        drop(first);
        assert!(!path.exists());
        InstanceLock::take(&path).expect("free again");
    }

    #[test]
    fn a_holder_that_lets_go_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.lock");
        let first = InstanceLock::take(&path).expect("free");
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(first);
        });
        let begun = Instant::now();
        let _second = InstanceLock::take_within(&path, Duration::from_secs(60)).expect("free");
        assert!(begun.elapsed() >= Duration::from_millis(200));
        ends.join().expect("the end");
    }

    #[test]
    fn who_is_ending_has_no_memory_but_threads() {
        assert!(!is_ending(std::process::id()), "alive");
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        // Over, but for its parent.
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = format!("/proc/{}/status", child.id());
        while !std::fs::read_to_string(&status).is_ok_and(|text| text.contains("State:\tZ")) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_ending(child.id()), "a zombie");
        child.wait().expect("its end");
        assert!(!is_ending(child.id()), "gone");
    }

    #[test]
    fn a_file_left_behind_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.lock");
        std::fs::write(&path, "4294967295 and more than a number").expect("written");
        let _lock = InstanceLock::take(&path).expect("nobody holds it");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
