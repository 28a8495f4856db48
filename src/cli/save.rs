//! `save`: the configuration in force, written by the caller and with the
//! caller's rights.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::client::CallError;
use super::line;
use crate::api::RunningConfig;

/// Writes what `config.get` gave to `file`, or to the file it names.
pub(super) fn save(result: Value, file: Option<&Path>, json: bool) -> Result<String, CallError> {
    let running: RunningConfig =
        serde_json::from_value(result).map_err(|error| CallError::Nonsense(error.to_string()))?;
    let file = file.unwrap_or(&running.path);
    let former = replace(file, &running.toml).map_err(|source| CallError::Io {
        path: file.into(),
        source,
    })?;
    if json {
        return Ok(line(&json!({"path": file, "former": former})));
    }
    let name = file.display();
    Ok(match former {
        Some(former) => format!(
            "saved to {name}; what was there is in {}\n",
            former.display()
        ),
        None => format!("saved to {name}\n"),
    })
}

/// Replaces a file at once, and keeps what was there, comments and all, beside
/// it. Whoever reads it meanwhile finds the one or the other.
fn replace(file: &Path, text: &str) -> io::Result<Option<std::path::PathBuf>> {
    let beside = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        std::path::PathBuf::from(name)
    };
    let (unfinished, former) = (beside(".new"), beside(".old"));
    let mode = match fs::metadata(file) {
        Ok(metadata) => Some(metadata.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let write = || {
        let mut new = File::create(&unfinished)?;
        if let Some(mode) = &mode {
            new.set_permissions(mode.clone())?;
            fs::copy(file, &former)?;
        }
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&unfinished, file)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(mode.map(|_| former))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_there_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.toml");
        let running = json!({"toml": "a = 1\n", "path": file});
        let said = save(running.clone(), None, false).expect("saved");
        assert_eq!(said, format!("saved to {}\n", file.display()));
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("set");
        let running = json!({"toml": "a = 2\n", "path": file});
        let said = save(running, None, false).expect("saved");
        assert!(said.ends_with("f.toml.old\n"), "{said}");
        assert_eq!(fs::read_to_string(&file).expect("read"), "a = 2\n");
        let old = fs::read_to_string(dir.path().join("f.toml.old")).expect("read");
        assert_eq!(old, "a = 1\n");
        let mode = fs::metadata(&file).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("nowhere/f.toml");
        let running = json!({"toml": "", "path": "/unused"});
        let error = save(running, Some(&file), false).expect_err("no directory");
        assert!(error.to_string().contains("nowhere/f.toml"), "{error}");
    }
}
