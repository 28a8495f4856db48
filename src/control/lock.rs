//! One process per instance: an exclusive lock on a file that names the
//! process holding it. The kernel lets go of it when the process ends, however
//! it ends. Taken once, by `main`, before anything is touched.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
    /// Takes the lock, or names the process that has it.
    ///
    /// # Errors
    /// Another process has it, or the file can't be made.
    pub fn take(path: &Path) -> Result<Self, LockError> {
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
                    return Err(LockError::Held {
                        path: path.into(),
                        holder: holder(&mut file),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io_error(source)),
            }
            if !is_at(&file, path) {
                // Its holder removed it between our opening and locking it.
                continue;
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

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!(" as pid {pid}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.lock");
        let first = InstanceLock::take(&path).expect("free");
        let second = InstanceLock::take(&path).expect_err("held").to_string();
        let expected = format!("already running as pid {}", std::process::id());
        assert!(second.starts_with(&expected), "{second}");
        drop(first);
        assert!(!path.exists());
        InstanceLock::take(&path).expect("free again");
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
