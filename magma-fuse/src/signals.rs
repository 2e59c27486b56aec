//! Whether a process that waits for us has a signal. fuser does not pass interruptions on, so
//! that is read from `/proc`.

use std::io::ErrorKind;

/// The bit of `SIGKILL`, which nobody blocks or ignores.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// A thread that waits for an answer.
#[derive(Debug)]
pub struct WaitingThread {
    /// Zero: not of our PID namespace, and out of sight.
    tid: u32,
    /// The process had a signal at the last look, which another thread might have taken.
    shared: bool,
}

impl WaitingThread {
    /// A thread, by the number that the kernel gives with a request.
    pub fn new(tid: u32) -> WaitingThread {
        WaitingThread { tid, shared: false }
    }

    /// Whether it has a signal to take care of, or is gone.
    pub fn is_interrupted(&mut self) -> bool {
        if self.tid == 0 {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/status", self.tid)) {
            Ok(status) => self.is_signalled(&status),
            // ESRCH: it ended between opening and reading.
            Err(error) => {
                error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
            }
        }
    }

    fn is_signalled(&mut self, status: &str) -> bool {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()
        };
        let mask = |name: &str| {
            let text = field(name).unwrap_or_default();
            u64::from_str_radix(text, 16).unwrap_or_default()
        };
        if matches!(field("State"), Some("Z" | "X")) {
            return true;
        }
        let heard = !(mask("SigBlk") | mask("SigIgn"));
        let own = mask("SigPnd");
        if own & (heard | KILL) != 0 {
            return true;
        }
        if mask("ShdPnd") & (heard | KILL) == 0 {
            self.shared = false;
            return false;
        }
        // Of several threads any may take it. One that is still there at the next look is ours: to
        // answer EINTR without a signal would show the program an errno that does not exist.
        let alone = field("Threads") == Some("1");
        alone || std::mem::replace(&mut self.shared, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(threads: u32, own: u64, shared: u64, blocked: u64, ignored: u64) -> String {
        format!(
            "Name:\tx\nState:\tD (disk sleep)\nThreads:\t{threads}\nSigQ:\t1/7\n\
             SigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{ignored:016x}\nSigCgt:\t0000000000000000\n"
        )
    }

    #[test]
    fn signals_that_are_heard() {
        let term = 1 << (libc::SIGTERM - 1);
        let see = |status: String| WaitingThread::new(1).is_signalled(&status);
        assert!(!see(status(1, 0, 0, 0, 0)));
        assert!(see(status(1, term, 0, 0, 0)));
        assert!(see(status(1, 0, term, 0, 0)));
        assert!(!see(status(1, 0, term, term, 0)));
        assert!(!see(status(1, term, 0, 0, term)));
        assert!(see(status(1, KILL, 0, KILL, KILL)));
        assert!(see("State:\tZ (zombie)\n".to_owned()));
        assert!(!see(String::new()));
    }

    #[test]
    fn one_of_several_threads_takes_a_signal_that_stays() {
        let term = 1 << (libc::SIGTERM - 1);
        let mut thread = WaitingThread::new(1);
        assert!(!thread.is_signalled(&status(2, 0, term, 0, 0)));
        assert!(!thread.is_signalled(&status(2, 0, 0, 0, 0)));
        assert!(!thread.is_signalled(&status(2, 0, term, 0, 0)));
        assert!(thread.is_signalled(&status(2, 0, term, 0, 0)));
    }

    #[test]
    fn this_very_thread_is_there_and_another_is_not() {
        assert!(!WaitingThread::new(std::process::id()).is_interrupted());
        assert!(!WaitingThread::new(0).is_interrupted());
        assert!(WaitingThread::new(u32::MAX >> 1).is_interrupted());
    }
}
