//! What the programs write to standard output and standard error. A full disk,
//! a closed pipe or no stream at all ends no program: `print!` and its kin panic
//! there. Called by both programs, never by a worker.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes to standard output. A reader that has seen enough (`| head`) is no
/// fault; everything else that keeps the text from being written is.
///
/// # Errors
/// The text, or its end, was not written.
pub fn out(text: &str) -> io::Result<()> {
    written(&mut io::stdout().lock(), text)
}

/// Writes a line to standard error; where it can't be written, nobody can be
/// told.
pub fn error(line: &dyn Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn written(to: &mut impl Write, text: &str) -> io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_full_disk_is_an_error_and_no_panic() {
        let mut full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let error = written(&mut full, "a line\n").expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        written(&mut writer, "a line\n").expect("quiet");
    }
}
