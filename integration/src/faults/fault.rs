//! What goes wrong.

use std::fmt;

use nix::sys::signal::Signal;
use rand::Rng;
use rand::rngs::StdRng;

use super::field::Field;

/// One thing that goes wrong for a while.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// kill -9, and a start.
    Kill(usize),
    /// SIGSTOP, and SIGCONT: the slow volcano.
    Stop(usize),
    /// A volcano reaches nobody, and nobody it.
    Apart(usize),
    /// What a volcano sends does not arrive, but it hears everything.
    Mute(usize),
    /// A volcano hears nothing, but everybody hears it.
    Deaf(usize),
    /// Two volcanos do not hear each other.
    Between(usize, usize),
    /// A volcano and a client reach each other, and nobody else: each side of a split has clients.
    Island(usize, usize),
    /// A client reaches one volcano only.
    Client(usize, usize),
    /// So many packets of a thousand are lost.
    Loss(u32),
    /// Packets take so many milliseconds, at random, and overtake each other.
    Delay(u64, u64),
    /// Packets come twice, some of them late.
    Repeat,
    /// The clock of a volcano jumps by so many seconds.
    Clock(usize, i64),
    /// The disk of a volcano is full.
    Full(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(at) => write!(f, "v{at} is killed"),
            Fault::Stop(at) => write!(f, "v{at} is stopped"),
            Fault::Apart(at) => write!(f, "v{at} is cut off"),
            Fault::Mute(at) => write!(f, "v{at} is not heard"),
            Fault::Deaf(at) => write!(f, "v{at} hears nothing"),
            Fault::Between(one, other) => write!(f, "v{one} and v{other} are cut"),
            Fault::Island(at, client) => {
                write!(f, "v{at} and client {client} are cut off together")
            }
            Fault::Client(client, at) => write!(f, "client {client} reaches v{at} only"),
            Fault::Loss(share) => write!(f, "{share} of 1000 packets are lost"),
            Fault::Delay(least, most) => write!(f, "packets take {least} to {most} ms"),
            Fault::Repeat => f.write_str("packets come twice, some late"),
            Fault::Clock(at, by) => write!(f, "the clock of v{at} jumps by {by} s"),
            Fault::Full(at) => write!(f, "the disk of v{at} is full"),
        }
    }
}

impl Fault {
    /// Any of them.
    pub fn draw(random: &mut StdRng, field: &Field) -> Fault {
        let at = random.random_range(0..field.volcanos());
        let other = (at + random.random_range(1..field.volcanos())) % field.volcanos();
        match random.random_range(0..15) {
            0..3 => Fault::Kill(at),
            3 => Fault::Stop(at),
            4 => Fault::Apart(at),
            5 => Fault::Mute(at),
            6 => Fault::Deaf(at),
            7 => Fault::Between(at, other),
            8 => Fault::Client(random.random_range(0..field.clients()), at),
            9 => Fault::Loss(random.random_range(10..250)),
            10 => Fault::Delay(0, random.random_range(5..150)),
            11 => Fault::Repeat,
            12 => Fault::Island(at, random.random_range(0..field.clients())),
            13 => Fault::Clock(at, [-86_400, -60, 60, 86_400][random.random_range(0..4)]),
            _ => Fault::Full(at),
        }
    }

    /// It goes wrong.
    pub fn begin(self, field: &mut Field) -> Result<(), String> {
        let (volcanos, all) = (field.volcanos(), field.volcanos() + field.clients());
        let others = |at: usize| (0..all).filter(move |other| *other != at);
        match self {
            Fault::Kill(at) => field.kill(at),
            Fault::Stop(at) => field.signal(at, Signal::SIGSTOP),
            Fault::Apart(at) => field.weather(|weather| {
                let pairs = others(at).flat_map(|other| [(at, other), (other, at)]);
                weather.cut.extend(pairs);
            }),
            Fault::Mute(at) => {
                field.weather(|weather| weather.cut.extend(others(at).map(|other| (at, other))));
            }
            Fault::Deaf(at) => {
                field.weather(|weather| weather.cut.extend(others(at).map(|other| (other, at))));
            }
            Fault::Between(one, other) => {
                field.weather(|weather| weather.cut.extend([(one, other), (other, one)]));
            }
            Fault::Client(client, at) => field.weather(|weather| {
                let cut = (0..volcanos).filter(|other| *other != at);
                let client = volcanos + client;
                let pairs = cut.flat_map(|other| [(client, other), (other, client)]);
                weather.cut.extend(pairs);
            }),
            Fault::Island(at, client) => field.weather(|weather| {
                let island = [at, volcanos + client];
                let main = (0..all).filter(|other| !island.contains(other));
                let pairs = main.flat_map(|other| island.map(|one| (one, other)));
                let pairs: Vec<(usize, usize)> = pairs.collect();
                weather.cut.extend(pairs.iter().copied());
                weather
                    .cut
                    .extend(pairs.iter().map(|(one, other)| (*other, *one)));
            }),
            Fault::Loss(share) => field.weather(|weather| weather.loses = share),
            Fault::Delay(least, most) => {
                field.weather(|weather| weather.delays = Some((least, most)));
            }
            Fault::Repeat => field.weather(|weather| {
                weather.repeats = 300;
                weather.delays = Some((0, 20));
            }),
            Fault::Clock(at, by) => drop(field.ask(at, &format!("fault clock:{by}"))?),
            Fault::Full(at) => field.fill_disk(at)?,
        }
        Ok(())
    }

    /// It is over.
    pub fn end(self, field: &mut Field) -> Result<(), String> {
        match self {
            Fault::Kill(at) => field.start_again(at)?,
            Fault::Stop(at) => field.signal(at, Signal::SIGCONT),
            Fault::Full(at) => field.empty_disk(at),
            // It stays where it has jumped to, as a clock that was set.
            Fault::Clock(..) => {}
            Fault::Apart(_)
            | Fault::Mute(_)
            | Fault::Deaf(_)
            | Fault::Between(..)
            | Fault::Island(..)
            | Fault::Client(..)
            | Fault::Loss(_)
            | Fault::Delay(..)
            | Fault::Repeat => field.weather(|weather| *weather = Default::default()),
        }
        Ok(())
    }
}
