//! The mount helper, installed as mount.magma.

use std::process::ExitCode;

use magma_cli::program::Program;

fn main() -> ExitCode {
    Program::Mount.main()
}
