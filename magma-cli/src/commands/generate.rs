//! `magma generate DIR`: the man pages and the completions of shells, from the same definitions
//! as `--help`. For packages; the subcommand is not shown.
//!
//! | file | what |
//! |---|---|
//! | [`pages`] | the man pages |

mod pages;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args, Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use magma_fuse::helper::help::{ABOUT, OPTIONS};

use super::tools;
use crate::flags::MagmadFlags;
use crate::output;

/// Options of the generator.
#[derive(Args, Debug)]
pub struct GenerateFlags {
    /// Directory to write into; `man` and `completions` are made in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the generator.
pub fn run(flags: &GenerateFlags) -> u8 {
    match write(&flags.dir) {
        Ok(()) => 0,
        Err(error) => {
            output::error("magma", format_args!("{}: {error}", flags.dir.display()));
            output::FAILED
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man)?;
    for (name, page) in pages::all()? {
        fs::write(man.join(name), page)?;
    }
    let completions = dir.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        for command in [
            MagmadFlags::command(),
            mount_command(),
            shown(tools::command()),
        ] {
            let name = command.get_name().to_owned();
            let mut command = command;
            generate_to(shell, &mut command, name, &completions)?;
        }
    }
    Ok(())
}

/// The options of `mount.magma`, which reads its line itself, as a definition of clap.
fn mount_command() -> Command {
    let options = OPTIONS.iter().map(|known| {
        // Nobody sees it: it must only differ.
        let id = known.word.unwrap_or(known.help);
        let mut option = Arg::new(id).help(known.help.replace('\n', " "));
        if let Some(letter) = known.letter {
            option = option.short(letter);
        }
        if let Some(word) = known.word {
            option = option.long(word);
        }
        match known.value {
            Some(value) => option.value_name(value),
            None => option.action(ArgAction::SetTrue),
        }
    });
    Command::new("mount.magma")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(options)
        .arg(
            Arg::new("spec")
                .value_name("HOST:/SUBDIR")
                .help("What to mount, as mount(8) and fstab name it; instead of --host"),
        )
        .arg(
            Arg::new("dir")
                .value_name("DIR")
                .help("Where to mount it")
                .value_hint(clap::ValueHint::DirPath),
        )
}

/// A definition without what its help does not show.
fn shown(command: Command) -> Command {
    let visible: Vec<Command> = command
        .get_subcommands()
        .filter(|tool| !tool.is_hide_set())
        .cloned()
        .collect();
    let mut anew = Command::new("magma")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(visible);
    if let Some(about) = command.get_about() {
        anew = anew.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        anew = anew.after_help(after.clone());
    }
    anew
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::ffi::OsString;

    use magma_fuse::helper::request;

    #[test]
    fn everything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        for (page, texts) in [
            (
                "magmad.8",
                &["evict", "join", "Debug channels", "EXIT STATUS"][..],
            ),
            ("mount.magma.8", &["key", "file", "remount", "fstab"]),
            (
                "magma.1",
                &["magma lava", "magma fsck", "repair", "Exit codes"],
            ),
            ("magmad.toml.5", &["nick", "redundancy", "storage"]),
        ] {
            let text = read(&format!("man/{page}"));
            for about in texts {
                assert!(text.contains(about), "{page}: {about}\n{text}");
            }
        }
        let bash = read("completions/magma.bash");
        assert!(
            bash.contains("fsck") && !bash.contains("generate"),
            "{bash}"
        );
        assert!(read("completions/_magmad").contains("--evict-after"));
        assert!(read("completions/mount.magma.fish").contains("key-file"));
    }

    #[test]
    fn mount_magma_knows_what_it_explains() {
        for known in &OPTIONS {
            let value = match known.value {
                Some("PORT" | "SECS") => "7",
                Some("MASK") => "f",
                Some("OPTION,...") => "ro",
                _ => "x",
            };
            let names = [
                known.letter.map(|letter| format!("-{letter}")),
                known.word.map(|word| format!("--{word}")),
            ];
            for name in names.into_iter().flatten() {
                let mut line = vec!["--host=h".to_owned(), name.clone()];
                line.extend(known.value.map(|_| value.to_owned()));
                line.push("/mnt".to_owned());
                let line: Vec<OsString> = line.into_iter().map(OsString::from).collect();
                assert!(request::parse(&line).is_ok(), "{name}");
            }
        }
        mount_command().debug_assert();
    }
}
