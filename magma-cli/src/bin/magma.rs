//! The tools.

use std::process::ExitCode;

use magma_cli::program::Program;

fn main() -> ExitCode {
    Program::Tools.main()
}
