//! Which of the programs this process is.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::commands;

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The daemon.
    Magmad,
    /// The mount helper.
    Mount,
    /// The tools.
    Tools,
}

impl Program {
    /// The subcommand by which [`Program::Tools`] becomes another program: only the one binary
    /// is sure to be there after `cargo run --bin magma`.
    pub fn subcommand(self) -> Option<&'static str> {
        match self {
            Program::Magmad => Some("magmad"),
            Program::Mount => Some("mount"),
            Program::Tools => None,
        }
    }

    /// Runs this program with the arguments of the process.
    pub fn main(self) -> ExitCode {
        let mut arguments: Vec<OsString> = std::env::args_os().collect();
        let mut program = self;
        if self == Program::Tools {
            // A link called mount.magma (as mount(8) looks for it) or magmad is that program.
            let by_name = arguments.first().and_then(|name| called(name));
            let by_word = arguments.get(1).and_then(|word| {
                [Program::Magmad, Program::Mount]
                    .into_iter()
                    .find(|other| other.subcommand().is_some_and(|name| *word == *name))
            });
            if let Some(named) = by_name {
                program = named;
            } else if let Some(other) = by_word {
                program = other;
                arguments.remove(0);
            }
        }
        match program {
            Program::Magmad => commands::magmad::main(arguments),
            Program::Mount => ExitCode::from(commands::mount::main(arguments)),
            Program::Tools => ExitCode::from(commands::tools::main(arguments)),
        }
    }
}

fn called(name: &std::ffi::OsStr) -> Option<Program> {
    match Path::new(name).file_name()?.to_str()? {
        "magmad" => Some(Program::Magmad),
        "mount.magma" | "mount-magma" => Some(Program::Mount),
        _ => None,
    }
}
