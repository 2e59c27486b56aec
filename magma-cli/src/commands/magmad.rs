//! `magmad`: reads its options and runs a volcano until it is told to end.

use std::ffi::OsString;
use std::process::ExitCode;

use magma_actors::config::secret;

use crate::flags::{MagmadFlags, Refused, key_variable};
use crate::{output, process_title, wiring};

/// Runs the program; `arguments` begins with its name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let read = key_variable().and_then(|key| Ok((MagmadFlags::read(arguments)?, key)));
    process_title::scrub();
    let key_file_is_exposed = match &read {
        Ok((flags, _)) => flags.key_file().is_some_and(secret::is_exposed),
        Err(_) => false,
    };
    let config = match read.and_then(|(flags, key)| flags.into_config(key)) {
        Ok(config) => config,
        Err(Refused::Show(text)) => {
            output::result(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Refused::Usage(line)) => {
            output::error(
                "magmad",
                format_args!("{line} (magmad -h shows the options)"),
            );
            return ExitCode::from(output::USAGE);
        }
    };
    if key_file_is_exposed {
        output::error(
            "magmad",
            "warning: others than its owner may read the key file: chmod 600 it",
        );
    }
    wiring::run_volcano(config)
}
