//! `mount.magma`: mounts a lava network, in both forms of the command.

use std::ffi::OsString;

use magma_fuse::helper::{self, Herald, Invocation, LogTarget, MountRequest, Parsed, Side};
use magma_fuse::helper::{daemon, help, request};

use crate::flags::{Refused, key_variable};
use crate::logging::{self, Target};
use crate::{output, process_title, wiring};

const PROGRAM: &str = "mount.magma";

/// Runs the program; `arguments` begins with its name.
pub fn main(arguments: Vec<OsString>) -> u8 {
    let invocation = request::parse(arguments.get(1..).unwrap_or_default());
    let variable = key_variable();
    process_title::scrub();
    match invocation {
        Ok(Invocation::Help) => {
            output::result(help::usage());
            0
        }
        Ok(Invocation::Version) => {
            output::result(format_args!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")));
            0
        }
        Ok(Invocation::Unmount(dir)) => match magma_fuse::mount::unmount(&dir) {
            Ok(()) => 0,
            Err(error) => {
                output::error(PROGRAM, error);
                output::FAILED
            }
        },
        Ok(Invocation::Remount { target, flags }) => {
            match magma_fuse::mount::remount(&target, flags) {
                Ok(()) => 0,
                Err(error) => {
                    output::error(PROGRAM, error);
                    helper::MOUNT_FAILURE
                }
            }
        }
        Ok(Invocation::Mount(parsed)) => match variable {
            Ok(variable) => mount(*parsed, variable),
            Err(Refused::Usage(line) | Refused::Show(line)) => {
                output::error(PROGRAM, line);
                output::USAGE
            }
        },
        Err(error) => {
            output::error(PROGRAM, &error);
            error.code
        }
    }
}

fn mount(parsed: Parsed, variable: Option<String>) -> u8 {
    let fake = parsed.fake;
    let request = match parsed.resolve(variable) {
        Ok(request) => request,
        Err(error) => {
            output::error(PROGRAM, &error);
            return error.code;
        }
    };
    if fake {
        return 0;
    }
    let herald = if request.foreground {
        Herald::foreground(PROGRAM)
    } else {
        // This process has one thread up to here.
        match daemon::fork(PROGRAM) {
            Ok(Side::Child(herald)) => herald,
            Ok(Side::Parent(code, line)) => {
                if let Some(line) = line {
                    output::error(PROGRAM, line);
                }
                return code;
            }
            Err(error) => {
                output::error(PROGRAM, format_args!("cannot fork: {error}"));
                return helper::MOUNT_FAILURE;
            }
        }
    };
    if let Err(error) = logging::init(log_target(&request), request.debug) {
        return herald.failed(&format!("cannot log: {error}"));
    }
    helper::serve(&request, herald, wiring::connect_and_build)
}

fn log_target(request: &MountRequest) -> Target {
    match &request.log {
        LogTarget::Stderr => Target::Stderr,
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Syslog => Target::Syslog(PROGRAM.to_owned()),
    }
}
