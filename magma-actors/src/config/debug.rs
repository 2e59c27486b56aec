//! The debug channels of the original, as sets of `tracing` targets.
//!
//! A channel that is on shows the DEBUG and TRACE events of its targets; INFO and above are
//! always shown. The mask that counts is a global of the process, so that the console can
//! switch channels while the volcano runs.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ConfigError;

/// One debug channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The letter of `-D`.
    pub letter: char,
    /// Its name.
    pub name: &'static str,
    /// Prefixes of the `tracing` targets that belong to it.
    pub targets: &'static [&'static str],
}

/// All channels. The last one takes every target of Magma that no other channel claims.
pub const CHANNELS: [Channel; 16] = [
    channel(
        'B',
        "boot",
        &[
            "magma_actors::volcano",
            "magma_actors::supervision",
            "magma_actors::shutdown",
        ],
    ),
    channel(
        'b',
        "balancer",
        &["magma_actors::balancer", "magma_core::balance"],
    ),
    channel(
        'c',
        "cache",
        &["magma_fuse::client::cache", "magma_core::session::lease"],
    ),
    channel(
        'd',
        "directories",
        &["magma_core::flare::directory", "magma_core::transaction"],
    ),
    channel(
        'F',
        "flare protocol",
        &["magma_actors::flare", "magma_core::wire::flare_protocol"],
    ),
    channel('f', "flares", &["magma_core::engine", "magma_core::op"]),
    channel('g', "garbage", &["magma_core::store::recovery"]),
    channel(
        'm',
        "mount",
        &["magma_fuse::filesystem", "magma_fuse::mount", "fuser"],
    ),
    channel(
        'n',
        "network",
        &["magma_actors::transport", "quinn", "quinn_proto"],
    ),
    channel(
        'r',
        "routing",
        &[
            "magma_actors::keyspace",
            "magma_core::lava",
            "magma_fuse::client::routing",
        ],
    ),
    channel(
        's',
        "store (SQL)",
        &["magma_core::store", "magma_actors::store"],
    ),
    channel('u', "utilities", &["magma_actors::metrics", "magma_cli"]),
    channel(
        'V',
        "node protocol",
        &[
            "magma_actors::node_proto",
            "magma_core::agreement",
            "magma_core::wire::node_protocol",
        ],
    ),
    channel(
        'v',
        "volcanos",
        &[
            "magma_actors::replica",
            "magma_core::replication",
            "magma_core::membership",
        ],
    ),
    channel('x', "locks", &["magma_core::session::lock"]),
    channel('z', "everything else", &["magma"]),
];

const fn channel(letter: char, name: &'static str, targets: &'static [&'static str]) -> Channel {
    Channel {
        letter,
        name,
        targets,
    }
}

/// A set of debug channels.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct DebugMask(u32);

/// The channels that are on in this process.
static CURRENT: AtomicU32 = AtomicU32::new(0);

impl DebugMask {
    /// No channel.
    pub const NONE: DebugMask = DebugMask(0);
    /// Every channel.
    pub const ALL: DebugMask = DebugMask((1 << CHANNELS.len()) - 1);

    /// Reads letters, as in `-Dfs`.
    pub fn parse(letters: &str) -> Result<DebugMask, ConfigError> {
        let mut mask = DebugMask::NONE;
        for letter in letters.chars() {
            let at = CHANNELS
                .iter()
                .position(|channel| channel.letter == letter)
                .ok_or_else(|| ConfigError::BadChannel {
                    letter,
                    known: DebugMask::ALL.to_string(),
                })?;
            mask.0 |= 1 << at;
        }
        Ok(mask)
    }

    /// The channels of both.
    pub fn union(self, other: DebugMask) -> DebugMask {
        DebugMask(self.0 | other.0)
    }

    /// Whether a channel is on.
    pub fn has(self, letter: char) -> bool {
        CHANNELS
            .iter()
            .enumerate()
            .any(|(at, channel)| channel.letter == letter && self.0 & (1 << at) != 0)
    }

    /// Makes these the channels of the process, from now on.
    pub fn switch_on(self) {
        CURRENT.store(self.0, Ordering::Relaxed);
    }

    /// The channels of the process.
    pub fn current() -> DebugMask {
        DebugMask(CURRENT.load(Ordering::Relaxed))
    }

    /// Whether the debug events of a target are to be shown: by the channel that claims it
    /// with the longest prefix.
    pub fn shows(self, target: &str) -> bool {
        if self == DebugMask::NONE {
            return false;
        }
        let claims = CHANNELS.iter().enumerate().filter_map(|(at, channel)| {
            let longest = channel
                .targets
                .iter()
                .filter(|prefix| target.starts_with(**prefix))
                .map(|prefix| prefix.len())
                .max()?;
            Some((longest, at))
        });
        claims
            .max_by_key(|(longest, _)| *longest)
            .is_some_and(|(_, at)| self.0 & (1 << at) != 0)
    }
}

impl fmt::Display for DebugMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, channel) in CHANNELS.iter().enumerate() {
            if self.0 & (1 << at) != 0 {
                write!(f, "{}", channel.letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DebugMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DebugMask({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_targets() {
        assert_eq!(DebugMask::ALL.to_string(), "BbcdFfgmnrsuVvxz");
        let mask = DebugMask::parse("fs").unwrap();
        assert!(mask.has('f') && mask.has('s') && !mask.has('F'));
        assert!(mask.shows("magma_core::engine"));
        assert!(mask.shows("magma_core::store::sqlite"));
        // Claimed by "garbage" with a longer prefix than "store" has.
        assert!(!mask.shows("magma_core::store::recovery"));
        assert!(!mask.shows("magma_actors::console"));
        assert!(
            DebugMask::parse("z")
                .unwrap()
                .shows("magma_actors::console")
        );
        assert!(!DebugMask::ALL.shows("hyper"));
        assert!(DebugMask::parse("fq").is_err());
        assert_eq!(
            DebugMask::parse(&DebugMask::ALL.to_string()).unwrap(),
            DebugMask::ALL
        );
    }
}
