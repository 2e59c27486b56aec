//! A newtype for each identifier that crosses a module, the wire or the disk.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::key::Key;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A member of the ring. Given by the agreement at join, never used again.
    VolcanoId(u64)
);
number!(
    /// A slice of the key space. Given by the agreement at a cut, never used again.
    SliceId(u64)
);
number!(
    /// Counts the changes of the lava.
    Epoch(u64)
);
number!(
    /// Counts the operations of one slice.
    Seq(u64)
);
number!(
    /// A mount or a tool, as the agreement knows it.
    SessionId(u64)
);
number!(
    /// One of a session's places for an outstanding request (NFSv4.1 slots, RFC 8881 2.10.6).
    Slot(u16)
);
number!(
    /// Counts the requests of one slot.
    SlotSeq(u64)
);
number!(
    /// Counts the takeovers of a network: members of another generation are refused.
    Generation(u64)
);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl Seq {
    /// The sequence after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

/// Identity of a lava network, drawn at bootstrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct NetworkId(pub u128);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({self})")
    }
}

/// A point in the history of a slice: which operation, under which lava.
///
/// It serves twice: as the *incarnation* of a flare (its birth; keys are used again) and as
/// the *version* of a row (its last change). Stamps of different slices do not compare in
/// any meaningful way; equality is what matters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stamp(pub SliceId, pub Epoch, pub Seq);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.0, self.1, self.2)
    }
}

impl Stamp {
    /// FUSE's generation number: never equal for two incarnations of one key in practice.
    pub fn generation(self) -> u64 {
        (self.1.0 << 40) ^ (self.0.0 << 32) ^ self.2.0
    }
}

/// A flare in one of its lives: a key and the incarnation under it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct FlareRef(pub Key, pub Stamp);

impl FlareRef {
    /// The key half.
    pub fn key(self) -> Key {
        self.0
    }
    /// The incarnation half.
    pub fn inc(self) -> Stamp {
        self.1
    }
}

impl fmt::Display for FlareRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A transaction: the client's request (session, slot, sequence) and the operation in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TxId(pub SessionId, pub Slot, pub SlotSeq, pub u8);

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.0, self.1, self.2, self.3)
    }
}
