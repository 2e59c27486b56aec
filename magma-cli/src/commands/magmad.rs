//! `magmad`: reads its options and runs a volcano until it is told to end.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use magma_actors::config::VolcanoConfig;
use magma_actors::config::secret;

use crate::flags::file::{self, DEFAULT_FILE};
use crate::flags::merge::Surroundings;
use crate::flags::{MagmadFlags, Refused, key_variable};
use crate::{output, process_title, wiring};

/// Runs the program; `arguments` begins with its name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let read = key_variable().and_then(|key| Ok((MagmadFlags::read(arguments)?, key)));
    process_title::scrub();
    let config = match read.and_then(|(flags, key)| complete(flags, key)) {
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
    wiring::run_volcano(config)
}

/// Adds what the file of options, the environment and systemd say.
fn complete(flags: MagmadFlags, key: Option<String>) -> Result<VolcanoConfig, Refused> {
    let path = flags.config_file().map(Path::to_owned).or_else(|| {
        let default = Path::new(DEFAULT_FILE);
        // One that is there and cannot be read is an error: it was meant.
        let is_there = default.try_exists().unwrap_or(true);
        is_there.then(|| default.to_owned())
    });
    let file = match &path {
        Some(path) => file::read(path).map_err(|error| Refused::Usage(error.to_string()))?,
        None => MagmadFlags::default(),
    };
    if let Some(path) = path.filter(|path| file.has_key() && secret::is_exposed(path)) {
        warn_exposed("the file of options, which holds the secret key", &path);
    }
    if let Some(path) = [flags.key_file(), file.key_file()]
        .into_iter()
        .flatten()
        .find(|path| secret::is_exposed(path))
    {
        warn_exposed("the key file", path);
    }
    let around = Surroundings::of_process(key);
    let dir = flags.dir_with(&file, &around);
    let founded = dir.is_some_and(|dir| wiring::holds_volcano(&dir));
    let flags = flags.complete(file, &around, founded);
    flags.into_config(around.key_variable)
}

fn warn_exposed(what: &str, path: &Path) {
    output::error(
        "magmad",
        format_args!(
            "warning: others than its owner may read {what} ({}): chmod 600 it",
            path.display()
        ),
    );
}
