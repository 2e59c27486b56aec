//! Going into the background: the parent waits until the mount answers or has failed, so that
//! `mount` returns when the file system can be used and says why when it cannot.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::MOUNT_FAILURE;

/// Longest reason that the child tells its parent, in bytes: what a pipe takes at once.
const REASON_MAX: usize = 4096;
/// The first byte when all is well; a reason is text and never begins with it.
const READY: u8 = 0;

/// Who we are after [`fork`].
pub enum Side {
    /// The process that was started: its exit code, and what to tell the person.
    Parent(u8, Option<String>),
    /// The process that mounts.
    Child(Herald),
}

/// Tells whoever waits that the mount is there, or why not.
pub struct Herald {
    program: String,
    pipe: Option<PipeWriter>,
}

impl Herald {
    /// For a mount in the foreground: nobody waits, failures go to stderr.
    pub fn foreground(program: &str) -> Herald {
        Herald {
            program: program.to_owned(),
            pipe: None,
        }
    }

    /// The mount answers: the parent may go. Standard streams are given up, as they belong to
    /// whoever started the parent. Fails when nobody waits any more.
    pub fn ready(self) -> io::Result<()> {
        let Some(mut pipe) = self.pipe else {
            return Ok(());
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(null.as_fd())?;
        nix::unistd::dup2_stdout(null.as_fd())?;
        nix::unistd::dup2_stderr(null.as_fd())?;
        pipe.write_all(&[READY])
    }

    /// The mount has failed, for this reason. Returns the exit code.
    pub fn failed(self, reason: &str) -> u8 {
        tracing::error!("{reason}");
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.pipe {
            Some(mut pipe) => {
                let end = reason.floor_char_boundary(REASON_MAX.min(reason.len()));
                // A parent that is gone cannot be told.
                let _ = pipe.write_all(&reason.as_bytes()[..end]);
            }
            None => {
                let _ = writeln!(io::stderr().lock(), "{}: {reason}", self.program);
            }
        }
        MOUNT_FAILURE
    }
}

/// Splits the process. The child leaves the terminal and the directory; the parent returns
/// when the child has said how it went.
///
/// Call it while the process has one thread.
pub fn fork(program: &str) -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: the process has one thread, so that no lock is held by one that the child does
    // not have.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Parent { child } => {
            drop(writer);
            let (code, line) = wait_for(reader, child);
            Ok(Side::Parent(code, line))
        }
        ForkResult::Child => {
            drop(reader);
            nix::unistd::setsid()?;
            std::env::set_current_dir("/")?;
            Ok(Side::Child(Herald {
                program: program.to_owned(),
                pipe: Some(writer),
            }))
        }
    }
}

fn wait_for(reader: PipeReader, child: Pid) -> (u8, Option<String>) {
    let mut message = Vec::new();
    let read = reader.take(REASON_MAX as u64).read_to_end(&mut message);
    match (read, message.first()) {
        (Ok(_), Some(&READY)) => (0, None),
        (Ok(_), Some(_)) => (
            MOUNT_FAILURE,
            Some(String::from_utf8_lossy(&message).into_owned()),
        ),
        // It ended without a word.
        (Ok(_), None) => {
            let how = match waitpid(child, None) {
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
                Ok(WaitStatus::Exited(_, code)) => format!("ended with code {code}"),
                Ok(_) | Err(_) => "ended".to_owned(),
            };
            (MOUNT_FAILURE, Some(format!("the mount process {how}")))
        }
        (Err(error), _) => (
            MOUNT_FAILURE,
            Some(format!("lost the mount process: {error}")),
        ),
    }
}
