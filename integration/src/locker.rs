//! A process that opens, locks, reads and writes what a test tells it to.
//!
//! It is one of its own because the locks of fcntl(2) belong to processes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What is granted at once must come within this time, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(1);
/// What must not come is waited for this long.
pub const A_WHILE: Duration = Duration::from_millis(300);
/// No answer takes longer.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A process that locks what it is told to: one line for a command, one for its outcome.
const LOCKER: &str = r#"
import fcntl, os, signal, struct, sys
files = {}
kinds = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
types = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK}
layout = "hhqqi4x"
def interrupted(number, frame):
    raise InterruptedError(4, "interrupted")
signal.signal(signal.SIGALRM, interrupted)
def do(verb, *words):
    if verb == "open":
        files[words[0]] = os.open(words[1], os.O_RDWR | os.O_CREAT)
    elif verb == "close":
        os.close(files.pop(words[0]))
    elif verb in ("lock", "try"):
        nowait = fcntl.LOCK_NB if verb == "try" and words[1] != "u" else 0
        kind = kinds[words[1]] | nowait
        fcntl.lockf(files[words[0]], kind, int(words[3]), int(words[2]))
    elif verb in ("flock", "tryflock"):
        kind = kinds[words[1]] | (fcntl.LOCK_NB if verb == "tryflock" else 0)
        fcntl.flock(files[words[0]], kind)
    elif verb == "alarm":
        signal.setitimer(signal.ITIMER_REAL, float(words[0]))
    elif verb == "get":
        wanted = struct.pack(layout, types[words[1]], 0, int(words[2]), int(words[3]), 0)
        held = struct.unpack(layout, fcntl.fcntl(files[words[0]], fcntl.F_GETLK, wanted))
        kind = {fcntl.F_RDLCK: "r", fcntl.F_WRLCK: "w", fcntl.F_UNLCK: "u"}[held[0]]
        return f"{kind} {held[2]} {held[3]}" if kind != "u" else kind
    elif verb == "read":
        return os.pread(files[words[0]], 1000, 0).decode()
    elif verb == "write":
        os.pwrite(files[words[0]], words[1].encode(), 0)
    return "ok"
for line in sys.stdin:
    try:
        print(do(*line.split()), flush=True)
    except OSError as error:
        print(os.strerror(error.errno), flush=True)
"#;

/// Such a process. Dropped, it is killed.
#[derive(Debug)]
pub struct Locker {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Locker {
    /// A process with one file open, as `f`.
    pub fn new(file: &Path) -> Locker {
        let mut child = Command::new("python3")
            .args(["-u", "-c", LOCKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the locker works");
        let (stdin, stdout) = (
            child.stdin.take().expect("the locker works"),
            child.stdout.take().expect("the locker works"),
        );
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut locker = Locker {
            child,
            stdin,
            lines,
        };
        locker.ok(&format!("open f {}", file.display()));
        locker
    }

    /// Tells it to do something.
    pub fn say(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("the locker works");
    }

    /// What it says next, if it says something in time.
    pub fn hear(&mut self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Its answer to a command.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.say(command);
        let heard = self.hear(LIMIT);
        heard.unwrap_or_else(|| panic!("no answer to {command}"))
    }

    /// Tells it to do something that works.
    #[track_caller]
    pub fn ok(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// Asks for a lock that it does not get now.
    #[track_caller]
    pub fn waits(&mut self, command: &str) {
        self.say(command);
        assert_eq!(self.hear(A_WHILE), None, "{command}");
    }

    /// Gets what it has waited for.
    #[track_caller]
    pub fn gets(&mut self) {
        assert_eq!(self.hear(SOON).as_deref(), Some("ok"));
    }

    /// Kills it; how long it took to die.
    pub fn kill(mut self) -> Duration {
        let begin = Instant::now();
        self.child.kill().expect("the locker works");
        self.child.wait().expect("the locker works");
        begin.elapsed()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
