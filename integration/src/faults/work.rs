//! What the clients do, and the history of it: each operation with when it began and ended, and
//! whether its outcome is known.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::field::Field;

/// The directory that all clients share.
const DIR: &str = "work";
/// Files that hold one value. The odd ones are large: their value fills [`LARGE`] bytes.
pub const REGISTERS: usize = 6;
/// Bytes of a large register: several blocks, and not in the row.
const LARGE: usize = 12 * 1024;
/// Bytes of a value, and of a line in a log.
const VALUE: usize = 16;
/// Each log is written for so long, then comes the next one: so they stay small.
const LOG: Duration = Duration::from_secs(10);
/// Files that are locked.
const LOCKS: usize = 2;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// Wrote a value that nobody else writes.
    Write(usize, u64),
    /// Read a value.
    Read(usize, u64),
    /// Appended a line that nobody else writes.
    Append(String, u64),
    /// Read a log.
    ReadLog(String, Vec<u64>),
    /// Made a file, of a name that nobody else uses.
    Create(String),
    /// Removed one that it had made.
    Remove(String),
    /// Gave one that it had made a name that nobody else uses.
    Rename(String, String),
    /// Tried to make a file of a name that others try as well; whether it has.
    Prize(String, bool),
    /// Had a lock, from when it began to when it ended.
    Hold(usize),
    /// Saw what cannot be.
    Wrong(String),
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which client.
    pub client: usize,
    /// When it began, since the work did.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// What it was, as far as known.
    pub did: Did,
    /// It has succeeded. Otherwise it may have been done, or be done yet, or never.
    pub known: bool,
}

/// The clients at work.
pub struct Work {
    stop: Arc<AtomicBool>,
    done: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<Vec<Event>>>,
}

impl Work {
    /// Begins on every mount of a field.
    pub fn start(field: &Field) -> Result<Work, String> {
        set_up(&field.mount(0).join(DIR))
            .map_err(|error| format!("the work directory: {error}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let mut work = Work {
            stop: stop.clone(),
            done: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..field.clients() {
            let done = Arc::new(AtomicUsize::new(0));
            let client = Client {
                number,
                dir: field.mount(number).join(DIR),
                began,
                random: StdRng::seed_from_u64(number as u64),
                count: 0,
                prizes: 0,
                own: Vec::new(),
                history: Vec::new(),
            };
            let (stop, counts) = (stop.clone(), done.clone());
            work.done.push(done);
            let thread = std::thread::spawn(move || client.work(&stop, &counts));
            work.threads.push(thread);
        }
        Ok(work)
    }

    /// Operations so far.
    pub fn count(&self) -> usize {
        self.done
            .iter()
            .map(|done| done.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits until each client has done something that began after this.
    pub fn goes_on(&self, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        for (client, done) in self.done.iter().enumerate() {
            let before = done.load(Ordering::Relaxed);
            while done.load(Ordering::Relaxed) < before + 2 {
                if began.elapsed() > limit {
                    return Err(format!("client {client} does nothing any more"));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Ends the work; all that was done, in the order of when it began.
    pub fn end(self) -> Result<Vec<Event>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| "a client panicked")?);
        }
        all.sort_by_key(|event| event.began);
        Ok(all)
    }
}

fn set_up(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    for part in ["names", "prizes", "logs"] {
        fs::create_dir(dir.join(part))?;
    }
    for register in 0..REGISTERS {
        fs::write(register_path(dir, register), value_bytes(register, 0))?;
    }
    for lock in 0..LOCKS {
        File::create(dir.join(format!("lock-{lock}")))?;
    }
    Ok(())
}

fn register_path(dir: &Path, register: usize) -> PathBuf {
    dir.join(format!("register-{register}"))
}

fn value_bytes(register: usize, value: u64) -> Vec<u8> {
    let line = format!("{value:015}\n").into_bytes();
    match register % 2 {
        0 => line,
        _ => line.repeat(LARGE / VALUE),
    }
}

fn values_of(bytes: &[u8]) -> Option<Vec<u64>> {
    let (lines, rest) = bytes.as_chunks::<VALUE>();
    if !rest.is_empty() {
        return None;
    }
    let value = |line: &[u8; VALUE]| std::str::from_utf8(line).ok()?.trim_end().parse().ok();
    lines.iter().map(value).collect()
}

/// The lines of a log.
pub fn read_log(path: &Path) -> io::Result<Option<Vec<u64>>> {
    fs::read(path).map(|bytes| values_of(&bytes))
}

/// Where logs and names are, below a mount.
pub fn part(mount: &Path, part: &str) -> PathBuf {
    mount.join(DIR).join(part)
}

/// What came of an operation: what was seen, or nothing that is known.
type Outcome = Result<Did, Did>;

struct Client {
    number: usize,
    dir: PathBuf,
    began: Instant,
    random: StdRng,
    count: u64,
    prizes: u64,
    /// Files that it has made, and of which it knows that they are there.
    own: Vec<String>,
    history: Vec<Event>,
}

impl Client {
    fn work(mut self, stop: &AtomicBool, done: &AtomicUsize) -> Vec<Event> {
        while !stop.load(Ordering::Relaxed) {
            let began = self.began.elapsed();
            let outcome = self.step();
            let ended = self.began.elapsed();
            if let Some(outcome) = outcome {
                self.keep(began, ended, outcome);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        self.history
    }

    fn keep(&mut self, began: Duration, ended: Duration, outcome: Outcome) {
        let known = outcome.is_ok();
        let (Ok(did) | Err(did)) = outcome;
        self.history.push(Event {
            client: self.number,
            began,
            ended,
            did,
            known,
        });
    }

    /// A number that nobody else has; never 0.
    fn unique(&mut self) -> u64 {
        self.count += 1;
        (self.number as u64 + 1) * 1_000_000_000 + self.count
    }

    fn step(&mut self) -> Option<Outcome> {
        let register = self.random.random_range(0..REGISTERS);
        match self.random.random_range(0..20) {
            0..4 => Some(self.write(register)),
            4..10 => self.read(register),
            10..12 => Some(self.append()),
            12 => self.read_log(),
            13..15 => Some(self.create()),
            15 => self.remove(),
            16 => self.rename(),
            17 => Some(self.prize()),
            _ => self.hold(),
        }
    }

    fn write(&mut self, register: usize) -> Outcome {
        let value = self.unique();
        let wrote = OpenOptions::new()
            .write(true)
            .open(register_path(&self.dir, register))
            .and_then(|file| file.write_at(&value_bytes(register, value), 0));
        match wrote {
            Ok(len) if len == value_bytes(register, value).len() => Ok(Did::Write(register, value)),
            Ok(len) => Ok(Did::Wrong(format!(
                "{len} bytes of register {register} were written"
            ))),
            Err(error) => self.failed(Did::Write(register, value), &error),
        }
    }

    fn read(&mut self, register: usize) -> Option<Outcome> {
        let mut bytes = vec![0; LARGE];
        let read = File::open(register_path(&self.dir, register))
            .and_then(|file| file.read_at(&mut bytes, 0));
        let len = match read {
            Ok(len) => len,
            Err(error) => return self.saw(&format!("register {register}"), &error),
        };
        let values = values_of(&bytes[..len]).unwrap_or_default();
        Some(Ok(match values.split_first() {
            Some((first, rest))
                if len == value_bytes(register, 0).len() && rest.iter().all(|v| v == first) =>
            {
                Did::Read(register, *first)
            }
            _ => Did::Wrong(format!("register {register} has {len} bytes: {values:?}")),
        }))
    }

    fn log(&self) -> String {
        let number = self.began.elapsed().as_secs() / LOG.as_secs();
        format!("log-{number}-{}", self.count % 2)
    }

    fn append(&mut self) -> Outcome {
        let line = self.unique();
        let log = self.log();
        let path = self.dir.join("logs").join(&log);
        let wrote = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write(&value_bytes(0, line)));
        match wrote {
            Ok(VALUE) => Ok(Did::Append(log, line)),
            Ok(len) => Ok(Did::Wrong(format!("{len} bytes of a line were appended"))),
            Err(error) => self.failed(Did::Append(log, line), &error),
        }
    }

    fn read_log(&mut self) -> Option<Outcome> {
        let log = self.log();
        match read_log(&self.dir.join("logs").join(&log)) {
            Ok(Some(lines)) => Some(Ok(Did::ReadLog(log, lines))),
            Ok(None) => Some(Ok(Did::Wrong(format!("{log} has a part of a line")))),
            Err(_) => None,
        }
    }

    fn create(&mut self) -> Outcome {
        let name = format!("file-{}", self.unique());
        let made = File::create_new(self.dir.join("names").join(&name))
            .and_then(|mut file| file.write_all(name.as_bytes()));
        match made {
            Ok(()) => {
                self.own.push(name.clone());
                Ok(Did::Create(name))
            }
            Err(error) => self.failed(Did::Create(name), &error),
        }
    }

    fn any_own(&mut self) -> Option<String> {
        let count = self.own.len();
        (count > 0).then(|| {
            let at = self.random.random_range(0..count);
            self.own.swap_remove(at)
        })
    }

    fn remove(&mut self) -> Option<Outcome> {
        let name = self.any_own()?;
        let removed = fs::remove_file(self.dir.join("names").join(&name));
        Some(match removed {
            Ok(()) => Ok(Did::Remove(name)),
            Err(error) => self.failed(Did::Remove(name), &error),
        })
    }

    fn rename(&mut self) -> Option<Outcome> {
        let old = self.any_own()?;
        let new = format!("moved-{}", self.unique());
        let names = self.dir.join("names");
        Some(match fs::rename(names.join(&old), names.join(&new)) {
            Ok(()) => {
                self.own.push(new.clone());
                Ok(Did::Rename(old, new))
            }
            Err(error) => self.failed(Did::Rename(old, new), &error),
        })
    }

    fn prize(&mut self) -> Outcome {
        // All clients come by the same names, in about the same order.
        self.prizes += 1;
        let name = format!("prize-{}", self.prizes);
        match File::create_new(self.dir.join("prizes").join(&name)) {
            Ok(_) => Ok(Did::Prize(name, true)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Did::Prize(name, false)),
            Err(_) => Err(Did::Prize(name, true)),
        }
    }

    /// Has a lock for a while; the time of the event is that for which it surely had it.
    fn hold(&mut self) -> Option<Outcome> {
        let number = self.random.random_range(0..LOCKS);
        let file = File::open(self.dir.join(format!("lock-{number}"))).ok()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
        }
        let began = self.began.elapsed();
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..20)));
        let ended = self.began.elapsed();
        // Whether this can be said to anybody does not matter: it is not used any more.
        let _ = file.unlock();
        self.keep(began, ended, Ok(Did::Hold(number)));
        None
    }

    /// What an error says: nothing, but for what cannot be.
    fn failed(&mut self, did: Did, error: &io::Error) -> Outcome {
        let never = [ErrorKind::AlreadyExists, ErrorKind::NotFound];
        match never.contains(&error.kind()) {
            true => Ok(Did::Wrong(format!("{did:?}: {error}"))),
            false => Err(did),
        }
    }

    fn saw(&mut self, what: &str, error: &io::Error) -> Option<Outcome> {
        let wrong = Did::Wrong(format!("{what}: {error}"));
        (error.kind() == ErrorKind::NotFound).then_some(Ok(wrong))
    }
}
