//! `magmad` as a service: what it tells systemd, and the options that it takes from a file.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::cluster::{END_LIMIT, KEY, READY_LIMIT};
use integration::volcano_process::{Process, programs};
use magma_cli::launch::block::LoopbackBlock;
use magma_cli::launch::wait_for;
use magma_cli::program::Program;
use nix::sys::signal::Signal;

/// A socket as systemd has it, and all that it was told.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    told: Vec<String>,
}

impl Manager {
    fn new(dir: &Path, name: &str) -> Manager {
        let path = dir.join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        let pause = Duration::from_millis(50);
        socket.set_read_timeout(Some(pause)).unwrap();
        Manager {
            socket,
            path,
            told: Vec::new(),
        }
    }

    /// Waits for a message with this line, and returns the place after it.
    #[track_caller]
    fn expect(&mut self, from: usize, line: impl Fn(&str) -> bool, what: &str) -> usize {
        let mut at = from;
        let found = wait_for(READY_LIMIT, || {
            self.receive();
            while at < self.told.len() {
                at += 1;
                if self.told[at - 1].lines().any(&line) {
                    return Some(at);
                }
            }
            None
        });
        found.unwrap_or_else(|| panic!("not told: {what}: {:#?}", &self.told[from..]))
    }

    fn receive(&mut self) {
        let mut message = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut message) {
            let text = String::from_utf8(message[..len].to_vec()).unwrap();
            self.told.push(text);
        }
    }

    fn pings(&mut self) -> usize {
        self.receive();
        let pings = self.told.iter();
        pings.filter(|text| text.contains("WATCHDOG=1")).count()
    }
}

fn magmad(config: &Path, manager: &Manager) -> Command {
    let mut command = programs().command(Program::Magmad);
    command.arg("--config").arg(config);
    command.env_remove("MAGMA_KEY");
    command.env("NOTIFY_SOCKET", &manager.path);
    command
}

fn start(name: &str, command: Command, dir: &Path) -> Process {
    Process::start(name.to_owned(), command, &dir.join(format!("{name}.log"))).unwrap()
}

#[track_caller]
fn end(process: &mut Process) {
    process.signal(Signal::SIGTERM);
    assert!(process.wait(END_LIMIT).unwrap().success());
}

#[test]
fn two_services_from_their_files_tell_how_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let block = LoopbackBlock::allocate(8).unwrap();
    let (one, two) = (block.addr(0), block.addr(1));
    let key = dir.join("key");
    fs::write(&key, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let wallace = dir.join("wallace.toml");
    let text = format!(
        "nick = \"wallace\"\naddress = \"{one}\"\nbootstrap = true\ndir = \"{}\"\nkey-file = \"{}\"\n",
        dir.join("wallace").display(),
        key.display(),
    );
    fs::write(&wallace, text).unwrap();
    // As systemd has it: the directory and the key come from the unit.
    let gromit = dir.join("gromit.toml");
    let text = format!("nick = \"gromit\"\naddress = \"{two}\"\njoin = \"{one}\"\n");
    fs::write(&gromit, text).unwrap();

    let mut hears_wallace = Manager::new(dir, "wallace");
    let mut hears_gromit = Manager::new(dir, "gromit");
    let start_wallace = |manager: &Manager| {
        let mut command = magmad(&wallace, manager);
        command.env("WATCHDOG_USEC", "900000");
        start("wallace", command, dir)
    };
    let start_gromit = |manager: &Manager| {
        let mut command = magmad(&gromit, manager);
        command.env("STATE_DIRECTORY", dir.join("gromit"));
        command.env("CREDENTIALS_DIRECTORY", dir);
        start("gromit", command, dir)
    };

    // The first start: one begins, one joins.
    let mut first = start_wallace(&hears_wallace);
    let at = hears_wallace.expect(0, |line| line == "READY=1", "READY");
    let message = &hears_wallace.told[at - 1];
    assert!(
        message.contains("STATUS=ready, 1 volcano, epoch ")
            || message.contains("STATUS=stands still"),
        "{message}"
    );
    let mut second = start_gromit(&hears_gromit);
    let joins = |line: &str| line.starts_with("STATUS=joins the network of ");
    hears_gromit.expect(0, joins, "that gromit joins");
    hears_gromit.expect(0, |line| line == "READY=1", "READY");
    let grown = |line: &str| line.starts_with("STATUS=ready, 2 volcanos, epoch ");
    hears_wallace.expect(at, grown, "the network of two");
    assert!(dir.join("gromit").join("store.sql").exists());

    // The watchdog of wallace is fed three times in 900 ms, that of gromit never: it has none.
    let pings = hears_wallace.pings();
    let more = wait_for(READY_LIMIT, || {
        (hears_wallace.pings() >= pings + 4).then_some(())
    });
    assert!(more.is_some(), "{:#?}", hears_wallace.told);
    assert_eq!(hears_gromit.pings(), 0);

    // Both end, and say so.
    end(&mut second);
    hears_gromit.expect(0, |line| line == "STOPPING=1", "STOPPING");
    end(&mut first);
    hears_wallace.expect(0, |line| line == "STOPPING=1", "STOPPING");

    // The same files serve the restart: one waits for the other.
    let (at_wallace, at_gromit) = (hears_wallace.told.len(), hears_gromit.told.len());
    let mut first = start_wallace(&hears_wallace);
    let waits = |line: &str| line == "STATUS=loading, waits for gromit";
    hears_wallace.expect(at_wallace, waits, "that wallace waits for gromit");
    let ready = |line: &str| line == "READY=1";
    assert!(
        !hears_wallace.told[at_wallace..]
            .iter()
            .any(|text| text.lines().any(ready))
    );
    // A volcano that waits lives.
    let pings = hears_wallace.pings();
    let more = wait_for(READY_LIMIT, || {
        (hears_wallace.pings() >= pings + 2).then_some(())
    });
    assert!(more.is_some(), "{:#?}", hears_wallace.told);
    let mut second = start_gromit(&hears_gromit);
    hears_wallace.expect(at_wallace, ready, "READY after the restart");
    hears_gromit.expect(at_gromit, ready, "READY after the restart");
    end(&mut second);
    end(&mut first);
}

#[test]
fn a_wrong_line_is_named_with_its_number() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("magmad.toml");
    for (text, place) in [
        ("nick = \"wallace\"\n\nport = 70000\n", "line 3: "),
        ("# options\nnik = \"wallace\"\n", "line 2: "),
        ("nick = \"wal/lace\"\n", "line 1: nick"),
        ("nick = \"wallace\n", "line 1: "),
    ] {
        fs::write(&config, text).unwrap();
        let mut command = programs().command(Program::Magmad);
        command.arg("--config").arg(&config);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        let place = format!("{}, {place}", config.display());
        assert!(said.contains(&place), "{said}");
    }
    // One that is named must be there.
    let mut command = programs().command(Program::Magmad);
    command.args(["--config", "/no/such/file", "-d", "/x", "-k", "k"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_start_that_fails_says_why_to_the_service_manager_too() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let mut manager = Manager::new(dir, "nobody");
    let config = dir.join("magmad.toml");
    fs::write(&config, format!("key = \"{KEY}\"\n")).unwrap();
    let mut command = magmad(&config, &manager);
    command.arg("-d").arg(dir.join("empty"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = |line: &str| line.starts_with("STATUS=") && line.contains("holds no volcano");
    manager.expect(0, why, "why it cannot start");
}
