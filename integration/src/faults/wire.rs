//! The wire between the namespaces: every packet goes through this process.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::space::Space;

/// Longer packets than any device of ours sends.
const PACKET: usize = 4096;
/// Packets on their way at most; a longer queue loses them, as a switch would.
const QUEUE: usize = 20_000;

/// What the wire does to packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing goes from the one to the other.
    pub cut: BTreeSet<(usize, usize)>,
    /// Packets of a thousand that are lost.
    pub loses: u32,
    /// Packets of a thousand that come twice.
    pub repeats: u32,
    /// Each packet takes so many milliseconds, at random: unequal ones overtake each other.
    pub delays: Option<(u64, u64)>,
}

struct Packet {
    due: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Packet) -> bool {
        self.number == other.number
    }
}
impl Eq for Packet {}
impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Packet) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Packet {
    fn cmp(&self, other: &Packet) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

struct State {
    weather: Weather,
    random: StdRng,
    late: BinaryHeap<Reverse<Packet>>,
    number: u64,
}

struct Shared {
    addrs: Vec<Ipv4Addr>,
    devices: Vec<File>,
    state: Mutex<State>,
    came: Condvar,
}

/// The wire. Its threads end with the process.
#[derive(Clone)]
pub struct Wire {
    shared: Arc<Shared>,
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Makes namespaces that reach each other. The places in the list are those of [`Weather::cut`].
    pub fn between(count: usize, seed: u64) -> Result<(Wire, Vec<Space>), String> {
        let mut spaces = Vec::new();
        let mut devices = Vec::new();
        for at in 0..count {
            let (space, device) = Space::new(Ipv4Addr::new(10, 99, 0, 1 + at as u8))?;
            spaces.push(space);
            devices.push(device);
        }
        let shared = Arc::new(Shared {
            addrs: spaces.iter().map(|space| space.addr).collect(),
            devices,
            state: Mutex::new(State {
                weather: Weather::default(),
                random: StdRng::seed_from_u64(seed),
                late: BinaryHeap::new(),
                number: 0,
            }),
            came: Condvar::new(),
        });
        for at in 0..count {
            let shared = shared.clone();
            spawn(move || listen(&shared, at))?;
        }
        let late = shared.clone();
        spawn(move || deliver(&late))?;
        Ok((Wire { shared }, spaces))
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        lock(&self.shared).weather = weather;
    }

    /// The weather.
    pub fn weather(&self) -> Weather {
        lock(&self.shared).weather.clone()
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name("wire".into());
    thread
        .spawn(work)
        .map(drop)
        .map_err(|error| format!("a thread: {error}"))
}

/// Takes what one namespace sends.
fn listen(shared: &Shared, from: usize) {
    let mut buffer = [0; PACKET];
    loop {
        let mut device = &shared.devices[from];
        let Ok(len) = device.read(&mut buffer) else {
            return;
        };
        let bytes = &buffer[..len];
        // IPv4 only: the kernel's own chatter in IPv6 leads nowhere here.
        let Some(to) = destination(bytes)
            .and_then(|addr| shared.addrs.iter().position(|other| *other == addr))
        else {
            continue;
        };
        if take(shared, (from, to), bytes) {
            let _ = (&shared.devices[to]).write(bytes);
        }
    }
}

/// Whether a packet arrives at once.
fn take(shared: &Shared, (from, to): (usize, usize), bytes: &[u8]) -> bool {
    let mut state = lock(shared);
    let State {
        weather,
        random,
        late,
        number,
    } = &mut *state;
    if *weather == Weather::default() {
        return true;
    }
    if weather.cut.contains(&(from, to)) || random.random_range(0..1000) < weather.loses {
        return false;
    }
    let times = 1 + usize::from(random.random_range(0..1000) < weather.repeats);
    let Some((least, most)) = weather.delays else {
        if times > 1 {
            let _ = (&shared.devices[to]).write(bytes);
        }
        return true;
    };
    for _ in 0..times {
        if late.len() < QUEUE {
            *number += 1;
            let wait = random.random_range(least..=most);
            late.push(Reverse(Packet {
                due: Instant::now() + Duration::from_millis(wait),
                number: *number,
                to,
                bytes: bytes.to_vec(),
            }));
        }
    }
    drop(state);
    shared.came.notify_one();
    false
}

/// Delivers what was delayed.
fn deliver(shared: &Shared) {
    let mut state = lock(shared);
    loop {
        let now = Instant::now();
        let wait = match state.late.peek() {
            Some(Reverse(packet)) if packet.due <= now => {
                if let Some(Reverse(packet)) = state.late.pop() {
                    drop(state);
                    let _ = (&shared.devices[packet.to]).write(&packet.bytes);
                    state = lock(shared);
                }
                continue;
            }
            Some(Reverse(packet)) => packet.due - now,
            None => Duration::from_secs(1),
        };
        let waited = shared.came.wait_timeout(state, wait);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let version = packet.first()? >> 4;
    let addr: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| addr.into())
}
