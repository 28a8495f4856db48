//! Writes the manual pages and shell completions of both programs below a
//! directory, where a package has them: `manuals DIR`. The page of the
//! configuration file is made of `docs/configuration.md`.

#[path = "manuals/markdown.rs"]
mod markdown;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use fullgate::cli::commands;

fn main() -> io::Result<()> {
    let root = std::env::args_os().nth(1);
    let root = root.ok_or_else(|| io::Error::other("usage: manuals DIR"))?;
    let share = Path::new(&root).join("usr/share");
    let manuals = directory(&share, "man/man8")?;
    let shells = [
        (
            Shell::Bash,
            directory(&share, "bash-completion/completions")?,
        ),
        (Shell::Zsh, directory(&share, "zsh/vendor-completions")?),
        (Shell::Fish, directory(&share, "fish/vendor_completions.d")?),
    ];
    let reference = include_str!("../docs/configuration.md");
    let page = markdown::page("fullgate.toml", 5, "configuration of fullgate", reference);
    fs::write(directory(&share, "man/man5")?.join("fullgate.toml.5"), page)?;
    for mut command in commands() {
        command.build();
        pages(&command, &manuals)?;
        let name = command.get_name().to_owned();
        for (shell, directory) in &shells {
            let path = generate_to(*shell, &mut command, &name, directory)?;
            // bash-completion looks for the plain name.
            if *shell == Shell::Bash {
                fs::rename(path, directory.join(&name))?;
            }
        }
    }
    Ok(())
}

fn directory(share: &Path, name: &str) -> io::Result<std::path::PathBuf> {
    let directory = share.join(name);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// What clap does not know: the last sections of the programs' own pages.
const DAEMON: &str = "\
.SH SIGNALS
.TP
SIGHUP
reads the configuration again; one that is wrong is refused as a whole
.TP
SIGTERM, SIGINT
end it
.SH EXIT STATUS
0 after a stop, 2 for a wrong configuration, 1 for any other failure; each is one
line on standard error.
.SH FILES
.TP
/etc/fullgate/fullgate.toml
the configuration
.TP
/run/fullgate/fullgate.sock
the admin socket
.SH SEE ALSO
\\fBfullgate.toml\\fR(5), \\fBfullgatectl\\fR(8), /usr/share/doc/fullgate/
";
const CONTROL: &str = "\
.SH EXIT STATUS
0, or 1 for any failure, which is one line on standard error.
.SH FILES
.TP
/run/fullgate/fullgate.sock
the admin socket: for root, and for the groups of the configuration
.SH SEE ALSO
\\fBfullgate\\fR(8), \\fBfullgate.toml\\fR(5), /usr/share/doc/fullgate/admin.md
";

/// A page for the program and one for each of its commands.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    for inner in command.get_subcommands() {
        pages(inner, directory)?;
    }
    let man = Man::new(command.clone()).section("8");
    let mut file = fs::File::create(directory.join(man.get_filename()))?;
    man.render(&mut file)?;
    file.write_all(match command.get_name() {
        "fullgate" => DAEMON.as_bytes(),
        "fullgatectl" => CONTROL.as_bytes(),
        _ => b"",
    })
}
