//! A child process whose log is a file, and who ends when this process does.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{LaunchError, LogTail, is_cancelled, wait_for};
use crate::program::Program;

/// Lines of a log that go with an error.
const TAIL_LINES: usize = 20;
/// Bytes of a log that are looked at for them.
const TAIL_BYTES: u64 = 16 * 1024;

/// Where the programs are.
#[derive(Clone, Debug)]
pub enum Programs {
    /// One program that is all three: `magma`, or a test's own binary.
    One(PathBuf),
    /// A directory with `magmad` and `mount-magma`.
    Dir(PathBuf),
}

impl Programs {
    /// The program that runs now, started again.
    pub fn myself() -> io::Result<Programs> {
        Ok(Programs::One(std::env::current_exe()?))
    }

    /// The beginning of a command line of a program.
    pub fn command(&self, program: Program) -> Command {
        match self {
            Programs::One(path) => {
                let mut command = Command::new(path);
                command.args(program.subcommand());
                command
            }
            Programs::Dir(dir) => Command::new(dir.join(match program {
                Program::Magmad => "magmad",
                Program::Mount => "mount-magma",
                Program::Tools => "magma",
            })),
        }
    }
}

/// A running child.
///
/// Dropped, it is asked to end, given a moment, and killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where the log of this run begins: the file is kept over restarts.
    log_begin: u64,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command. Its output goes to the end of a log file.
    pub fn start(name: String, mut command: Command, log: &Path) -> Result<Process, LaunchError> {
        let file_error = |source| LaunchError::File {
            action: "write",
            path: log.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(file_error)?;
        let log_begin = file.metadata().map_err(file_error)?.len();
        let again = file.try_clone().map_err(file_error)?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        // A Ctrl-C at the terminal is for us alone: we end the children in order.
        command.process_group(0);
        let child = spawn(command).map_err(|source| LaunchError::Spawn {
            name: name.clone(),
            source,
        })?;
        Ok(Process {
            name,
            child,
            log: log.to_owned(),
            log_begin,
            status: None,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is called in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits until a line with this text is in the log of this run.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<(), LaunchError> {
        let mut search = Search::new(self.log_begin, text);
        let found = wait_for(limit, || {
            // First whether it lives, then the log: its last line is read in any case.
            let ended = self.ended();
            if search.found_in(&self.log) {
                return Some(Ok(()));
            }
            if is_cancelled() {
                return Some(Err(LaunchError::Cancelled));
            }
            ended.map(|status| {
                Err(LaunchError::Ended {
                    name: self.name.clone(),
                    status: status.to_string(),
                    log: self.log_tail(),
                })
            })
        });
        found.unwrap_or_else(|| Err(self.late("ready", limit)))
    }

    /// Sends a signal. A process that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        // Reaped is reaped: the number may belong to another process by now.
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LaunchError> {
        wait_for(limit, || self.ended()).ok_or_else(|| self.late("at its end", limit))
    }

    /// Kills it at once, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        // SIGKILL cannot be refused; a process in the middle of a disk operation takes its time.
        let _ = self.wait(super::END_LIMIT);
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> LogTail {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let end = file.metadata().map_or(0, |meta| meta.len());
            let from = end.saturating_sub(TAIL_BYTES).max(self.log_begin);
            let mut bytes = Vec::new();
            if file.seek(SeekFrom::Start(from)).is_ok() {
                let _ = file.take(TAIL_BYTES).read_to_end(&mut bytes);
            }
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        LogTail(lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec())
    }

    fn late(&self, state: &'static str, limit: Duration) -> LaunchError {
        LaunchError::Late {
            name: self.name.clone(),
            state,
            limit,
            log: self.log_tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        if self.wait(Duration::from_secs(5)).is_err() {
            self.kill();
        }
    }
}

/// Looks for a text in a file that grows, without reading anything twice.
struct Search {
    offset: u64,
    text: Vec<u8>,
    carry: Vec<u8>,
}

impl Search {
    fn new(offset: u64, text: &str) -> Search {
        Search {
            offset,
            text: text.as_bytes().to_vec(),
            carry: Vec::new(),
        }
    }

    fn found_in(&mut self, path: &Path) -> bool {
        let Ok(mut file) = File::open(path) else {
            return false;
        };
        let mut new = std::mem::take(&mut self.carry);
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return false;
        }
        let Ok(read) = file.read_to_end(&mut new) else {
            return false;
        };
        self.offset += read as u64;
        let found = new.windows(self.text.len()).any(|part| part == self.text);
        let keep = new.len().saturating_sub(self.text.len() - 1);
        self.carry = new.split_off(keep);
        found
    }
}

/// Starts a command so that it gets SIGTERM when this process dies, however it dies.
///
/// The kernel sends that signal when the *thread* that forked ends, and tests come and go with
/// their threads: so one thread, that lives as long as the process, starts all children. Each is in
/// the network namespace of the thread that asks for it, all the same.
fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: std::sync::OnceLock<Option<SyncSender<Order>>> = std::sync::OnceLock::new();
    let parent = nix::unistd::getpid();
    let network = own_network()?;
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // The parent may have died before the call.
            if nix::unistd::getppid() != parent {
                return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
            }
            if let Some(network) = &network {
                nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            // Whoever runs us may have blocked signals; the child is to hear them.
            nix::sys::signal::SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::sync_channel::<Order>(0);
        let thread = std::thread::Builder::new().name("spawner".to_owned());
        let started = thread.spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        started.ok().map(|_| orders)
    });
    let lost = || io::Error::other("the thread that starts processes is gone");
    let (answer, answered) = mpsc::sync_channel(1);
    let orders = spawner.as_ref().ok_or_else(lost)?;
    orders.send((command, answer)).map_err(|_| lost())?;
    answered.recv().map_err(|_| lost())?
}

/// The network namespace of this thread, if it is another than that of the process.
fn own_network() -> io::Result<Option<File>> {
    let ours = File::open("/proc/thread-self/ns/net")?;
    let all = fs::metadata("/proc/self/ns/net")?;
    Ok((ours.metadata()?.ino() != all.ino()).then_some(ours))
}

/// Makes a directory and those above it.
pub(super) fn make_dir(path: &Path) -> Result<(), LaunchError> {
    fs::create_dir_all(path).map_err(|source| LaunchError::File {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

/// Sets the secret key of a child without showing it in its arguments.
pub(super) fn set_key(command: &mut Command, key: &(impl AsRef<OsStr> + ?Sized)) {
    command.env(magma_actors::config::secret::KEY_VARIABLE, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start("sh".to_owned(), command, &dir.join("log")).unwrap()
    }

    #[test]
    fn lines_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(20);
        let mut one = shell("echo begin; echo ready now; sleep 60", dir.path());
        one.wait_for_line("ready", limit).unwrap();
        assert!(one.ended().is_none());
        one.kill();
        // A second run does not see the line of the first.
        let mut two = shell("echo begin; exit 3", dir.path());
        let error = two.wait_for_line("ready", limit).unwrap_err();
        assert!(matches!(error, LaunchError::Ended { .. }));
        assert!(error.to_string().contains("begin"), "{error}");
        let mut three = shell("sleep 60", dir.path());
        let error = three.wait_for_line("ready", Duration::ZERO).unwrap_err();
        assert!(matches!(error, LaunchError::Late { .. }));
    }
}
