//! How long clients stall when a volcano dies, and how long an election takes.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::field::Field;

const WHOLE: Duration = Duration::from_secs(90);

/// Times that were measured.
#[derive(Clone, Debug, Default)]
pub struct Times(pub Vec<Duration>);

impl Times {
    /// The middle one.
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The longest.
    pub fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

/// What a volcano is to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It owns it.
    Owner,
    /// It has the copy.
    Redundancy,
    /// It coordinates.
    Coordinator,
}

/// Kills the volcano of a role again and again while a client writes one file, and measures how long
/// that stands still.
pub fn stalls(
    field: &mut Field,
    role: Role,
    kills: usize,
    say: &dyn Fn(&str),
) -> Result<Times, String> {
    let path = field.mount(0).join(format!("stall-{role:?}"));
    fs::write(&path, "begin").map_err(|error| format!("{}: {error}", path.display()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let longest = Arc::new(AtomicU64::new(0));
    let writer = {
        let (path, stop, longest) = (path.clone(), stop.clone(), longest.clone());
        std::thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                number += 1;
                let wrote = OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.write_all_at(&number.to_be_bytes(), 0));
                wrote.map_err(|error| format!("{}: {error}", path.display()))?;
                let took = began.elapsed().as_micros() as u64;
                longest.fetch_max(took, Ordering::Relaxed);
            }
            Ok::<u64, String>(number)
        })
    };
    let mut times = Times::default();
    for _ in 0..kills {
        let at = who(field, role, &format!("/stall-{role:?}"))?;
        longest.store(0, Ordering::Relaxed);
        field.kill(at);
        // Longer than anybody may stall.
        std::thread::sleep(Duration::from_secs(6));
        let stalled = Duration::from_micros(longest.load(Ordering::Relaxed));
        say(&format!(
            "{role:?} v{at} killed: the writer stood still for {stalled:.2?}"
        ));
        times.0.push(stalled);
        field.start_again(at)?;
        field.becomes_whole(WHOLE)?;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(times)
}

fn who(field: &Field, role: Role, path: &str) -> Result<usize, String> {
    let (line, said) = match role {
        Role::Owner => ("owner: ", field.ask(0, &format!("inspect {path}"))?),
        Role::Redundancy => ("copy: ", field.ask(0, &format!("inspect {path}"))?),
        Role::Coordinator => ("coordinator: ", field.ask(0, "status")?),
    };
    named(&said, line).ok_or(said)
}

/// The number of the volcano that a line names.
fn named(said: &str, line: &str) -> Option<usize> {
    let rest = said.lines().find_map(|said| said.strip_prefix(line))?;
    rest.strip_prefix('v')?.split(' ').next()?.parse().ok()
}

/// Kills whoever leads the agreement, again and again, and measures until another one leads.
pub fn elections(field: &mut Field, count: usize, say: &dyn Fn(&str)) -> Result<Times, String> {
    let mut times = Times::default();
    for round in 1..=count {
        let leader = leader(field, 0).ok_or("nobody leads")?;
        let other = (leader + 1) % field.volcanos();
        field.kill(leader);
        let began = Instant::now();
        let next = loop {
            match self::leader(field, other) {
                Some(next) if next != leader => break next,
                _ if began.elapsed() > WHOLE => return Err("nobody leads any more".into()),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let took = began.elapsed();
        say(&format!(
            "election {round}: v{next} leads {took:.2?} after v{leader} was killed"
        ));
        times.0.push(took);
        field.start_again(leader)?;
        field.becomes_whole(WHOLE)?;
    }
    Ok(times)
}

fn leader(field: &Field, at: usize) -> Option<usize> {
    named(&field.ask(at, "status").ok()?, "leader: ")
}
