//! What the tests start: all programs in one, always as new as the tests.

use std::process::ExitCode;

use magma_cli::program::Program;

fn main() -> ExitCode {
    Program::Tools.main()
}
