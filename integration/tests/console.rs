//! The console as a person meets it: a real telnet, whose transcripts are those of the original,
//! and every command on a real network.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use integration::Cluster;
use integration::mounted::can_mount;

/// How long telnet may take to show something.
const LIMIT: Duration = Duration::from_secs(20);

/// A telnet that a test types into.
struct Telnet {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Telnet {
    fn connect(addr: IpAddr) -> Telnet {
        let mut child = Command::new("telnet")
            .args([addr.to_string(), "12002".to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run telnet: {error}; install Debian's package inetutils-telnet")
            });
        let (tell, screen) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut output in outputs {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = output.read(&mut buffer) {
                    if tell.send(buffer[..len].to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        Telnet {
            keyboard: child.stdin.take().unwrap(),
            child,
            screen,
            shown: String::new(),
        }
    }

    /// Takes what is shown up to a text, which comes with it.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown += &String::from_utf8_lossy(&bytes).replace('\r', ""),
                Err(error) => panic!("{error}: no {text:?} in {:?}", self.shown),
            }
        }
    }

    #[track_caller]
    fn types(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").unwrap();
    }

    /// Types a command and takes its answer, without the prompt after it.
    #[track_caller]
    fn asks(&mut self, line: &str, prompt: &str) -> String {
        self.types(line);
        let shown = self.until(prompt);
        shown.strip_suffix(prompt).unwrap().to_owned()
    }

    /// Takes all that is shown until telnet ends.
    #[track_caller]
    fn until_the_end(mut self) -> String {
        loop {
            match self.screen.recv_timeout(LIMIT) {
                Ok(bytes) => self.shown += &String::from_utf8_lossy(&bytes).replace('\r', ""),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("telnet does not end: {:?}", self.shown),
            }
        }
        self.child.wait().unwrap();
        std::mem::take(&mut self.shown)
    }
}

impl Drop for Telnet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROMPT: &str = "MAGMA [wallace]:/> ";

#[test]
fn the_transcript_of_the_original_page() {
    let mut cluster = Cluster::start(2);
    let addr = IpAddr::from(cluster.volcano(0).site().addr);
    let mut telnet = Telnet::connect(addr);
    let greeting = telnet.until(PROMPT);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        greeting,
        format!(
            "Trying {addr}...\nConnected to {addr}.\nEscape character is '^]'.\n\n\
             Welcome to MAGMA version {version}\nThis is server wallace ({addr})\n\
             Type help [ENTER] for available commands.\n\n{PROMPT}"
        )
    );
    telnet.types("shutdown");
    let end = telnet.until("Shutting down magma... ");
    assert_eq!(end, "Shutting down magma... ");
    let end = telnet.until_the_end();
    assert_eq!(end.trim_end(), "Connection closed by foreign host.");
    for at in 0..2 {
        cluster.volcano(at).wait_end().unwrap();
    }
}

#[test]
fn lava_has_the_lines_of_the_original() {
    let mut cluster = Cluster::start(2);
    let mut telnet = Telnet::connect(cluster.volcano(0).site().addr.into());
    telnet.until(PROMPT);
    // The storage of the other comes with its next heartbeat.
    let shown = Cluster::eventually("both have told their keys", || {
        let shown = telnet.asks("lava", PROMPT);
        (!shown.contains("unknown")).then_some(shown)
    });
    let lines: Vec<&str> = shown.split('\n').collect();
    let number = |text: &str| text.parse::<u64>().is_ok();
    for (nick, lines) in ["wallace", "gromit"].iter().zip(lines.chunks(8)) {
        assert_eq!(lines[0], format!("node: {nick} ({nick})"));
        assert_eq!(lines[1], "alive: yes");
        for (line, what) in [(lines[2], "start: "), (lines[3], "stop: ")] {
            assert_eq!(line.strip_prefix(what).unwrap().len(), 40, "{line}");
        }
        assert!(number(lines[4].strip_prefix("keys: ").unwrap()), "{shown}");
        assert_eq!(lines[5], "bwidth: 1000000 Kbit/s");
        let storage = lines[6].strip_prefix("storage: ").unwrap();
        let (free, total) = storage.split_once(" / ").unwrap();
        assert!(number(free), "{storage}");
        assert!(number(total.strip_suffix(" MByte").unwrap()), "{storage}");
        assert_eq!(lines[7], "");
    }
    assert!(shown.contains("\nstart: 0000000000000000000000000000000000000000\n"));
    assert!(shown.contains("\nstop: ffffffffffffffffffffffffffffffffffffffff\n"));
}

#[test]
fn every_command_on_a_real_network() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let mount = cluster.mount(1);
    fs::create_dir(mount.join("sub")).unwrap();
    fs::write(mount.join("sub/hello"), "hi there\n").unwrap();
    let mut telnet = Telnet::connect(cluster.volcano(0).site().addr.into());
    telnet.until(PROMPT);
    let below = "MAGMA [wallace]:/sub> ";

    assert!(telnet.asks("help", PROMPT).contains("shutdown node"));
    assert!(telnet.asks("status", PROMPT).contains("phase: ready\n"));
    assert!(telnet.asks("ls", PROMPT).contains(" sub\n"));
    assert_eq!(telnet.asks("pwd", PROMPT), "/\n");
    assert_eq!(telnet.asks("cd sub", below), "");
    assert_eq!(telnet.asks("pwd", below), "/sub\n");
    assert_eq!(telnet.asks("cat hello", below), "hi there\n");
    let inspected = telnet.asks("inspect hello", below);
    for line in [
        "path: /sub/hello\n",
        "key: ",
        "incarnation: ",
        "owner: ",
        "copy: ",
        "size: 9\n",
        "link count: 1\n",
        "name: hello in ",
        "content: in the row",
    ] {
        assert!(inspected.contains(line), "{line}: {inspected}");
    }
    assert_eq!(telnet.asks("erase hello", below), "erased /sub/hello\n");
    assert!(!mount.join("sub/hello").exists());
    let gone = telnet.asks("cat hello", below);
    assert!(gone.contains("/sub/hello: no such file"), "{gone}");
    assert!(gone.contains("`ls` shows what is there"), "{gone}");
    assert_eq!(telnet.asks("cd", PROMPT), "");
    let refused = telnet.asks("erase sub", PROMPT);
    assert!(
        refused.contains("remove it with rmdir on a mount"),
        "{refused}"
    );

    let load = telnet.asks("cache load", PROMPT);
    assert!(load.starts_with("flares in memory: "), "{load}");
    assert!(
        telnet
            .asks("print cache", PROMPT)
            .contains("flares in memory: ")
    );
    telnet.asks("debug on fs", PROMPT);
    let channels = telnet.asks("print debug", PROMPT);
    assert!(
        channels.contains("* f  ") && channels.contains("* s  "),
        "{channels}"
    );
    telnet.asks("debug off fs", PROMPT);
    assert!(!telnet.asks("print debug", PROMPT).contains('*'));
    assert!(telnet.asks("print acl", PROMPT).contains("0.0.0.0/0"));
    let unknown = telnet.asks("frob", PROMPT);
    assert!(unknown.contains("`help` lists them all"), "{unknown}");

    for word in ["quit", "exit"] {
        let mut other = Telnet::connect(cluster.volcano(1).site().addr.into());
        other.until("MAGMA [gromit]:/> ");
        other.types(word);
        let end = other.until_the_end();
        assert!(end.contains("Connection closed by foreign host."), "{end}");
    }
    mount.end();
}

#[test]
fn shutdown_node_ends_one_and_its_start_brings_the_network_back() {
    let mut cluster = Cluster::start(3);
    let mut telnet = Telnet::connect(cluster.volcano(1).site().addr.into());
    telnet.until("MAGMA [gromit]:/> ");
    telnet.types("shutdown node");
    let end = telnet.until_the_end();
    assert!(end.contains("Shutting down magma... "), "{end}");
    assert!(end.contains("Connection closed by foreign host."), "{end}");
    cluster.volcano(1).wait_end().unwrap();
    let alive = |cluster: &mut Cluster| cluster.ask(0, "lava").matches("alive: yes").count();
    Cluster::eventually("the others see that it is gone", || {
        (alive(&mut cluster) == 2).then_some(())
    });
    assert!(cluster.volcano(0).is_running() && cluster.volcano(2).is_running());
    assert!(cluster.ask(0, "status").contains("awaited: gromit\n"));
    cluster.start_again(1);
    Cluster::eventually("all are alive", || (alive(&mut cluster) == 3).then_some(()));
    Cluster::eventually("files are served again", || {
        cluster
            .ask(0, "inspect /")
            .contains("type: directory")
            .then_some(())
    });
}

#[test]
fn a_restarted_network_says_whom_it_waits_for_and_serves_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.shutdown();
    cluster.start_without_waiting(0);
    cluster.start_without_waiting(2);
    // Nothing is ready: the console is there before.
    Cluster::eventually("only gromit is awaited", || {
        let console = cluster.volcano(0).console().ok();
        let status = console.and_then(|mut console| console.command("status").ok())?;
        let awaits = status.contains("awaited: gromit\n");
        (awaits && status.contains("phase: loading, waits for gromit\n")).then_some(())
    });
    Cluster::eventually("files are refused with the reason", || {
        // Lines are broken at 80 columns.
        let refused = cluster.ask(0, "ls /").replace('\n', " ");
        let reason = "loading, waits for gromit: try again when `status` says ready";
        refused.contains(reason).then_some(())
    });
    cluster.start_again(1);
    for at in [0, 2] {
        cluster.volcano(at).wait_ready().unwrap();
    }
    assert!(cluster.ask(0, "status").contains("phase: ready\n"));
}
