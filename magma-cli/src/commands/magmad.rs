//! `magmad`: reads its options and runs a volcano until it is told to end.

use std::ffi::OsString;

use magma_actors::config::secret;

use crate::flags::{MagmadFlags, Refused, key_variable};
use crate::logging::{self, Target};
use crate::{output, process_title, wiring};

/// Runs the program; `arguments` begins with its name.
pub fn main(arguments: Vec<OsString>) -> u8 {
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
            return 0;
        }
        Err(Refused::Usage(line)) => {
            output::error(
                "magmad",
                format_args!("{line} (magmad -h shows the options)"),
            );
            return output::USAGE;
        }
    };
    if let Err(error) = logging::init(Target::Stderr, config.debug) {
        output::error("magmad", format_args!("cannot log: {error}"));
        return output::FAILED;
    }
    if config.secret.looks_weak() {
        tracing::warn!("the secret key looks easy to guess: `magma keygen` makes a strong one");
    }
    if key_file_is_exposed {
        tracing::warn!("others than its owner may read the key file: chmod 600 it");
    }
    wiring::run_volcano(config)
}
