//! Writes the manual pages and shell completions of both programs below a
//! directory, where a package has them: `manuals DIR`.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use fullgate::control::cli::commands;

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

/// A page for the program and one for each of its commands.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    for inner in command.get_subcommands() {
        pages(inner, directory)?;
    }
    let man = Man::new(command.clone()).section("8");
    let mut file = fs::File::create(directory.join(man.get_filename()))?;
    man.render(&mut file)
}
