//! Agreement: who may change the lava, and the entries of that log.
//!
//! The lava changes only by entries of this log ([`Proposal`]), each raising the epoch. A group of
//! volcanos elected by Raft carries it (`magma_actors::agreement`); what is here are the rules: what
//! an entry does, which sessions and volcanos are to be proposed for ended and dead, and what a volcano
//! keeps of the lavas that it has learned.

pub mod lava_log;
pub mod sessions;
pub mod volcanos;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NetworkId, SessionId, SliceId, VolcanoId};
use crate::key::Key;
use crate::lava::{Lava, VolcanoInfo};

/// Counts the leaders of the agreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Term(pub u64);

/// One entry of the log: a change of the lava.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The first entry: one volcano with the whole key space.
    Bootstrap {
        /// The network's identity.
        network: NetworkId,
        /// Its first volcano.
        volcano: Box<VolcanoInfo>,
        /// Copies beside the owner.
        redundancy: u8,
    },
    /// A volcano joins the ring after another; it owns nothing yet.
    Join {
        /// The newcomer.
        volcano: Box<VolcanoInfo>,
        /// After whom.
        after: VolcanoId,
    },
    /// A member came back with another address, port, name or size.
    Update(VolcanoId, Box<VolcanoInfo>),
    /// A volcano is dead: its slices go to in-sync copies, its copies count no longer.
    Down(VolcanoId),
    /// A volcano that was dead is back.
    Up(VolcanoId),
    /// Nobody counts on the return of a dead volcano: its copies are made anew on others.
    Evict(VolcanoId),
    /// A volcano that is evicted is no member any more.
    Forget(VolcanoId),
    /// A slice is cut in two: the upper part, from `at`, becomes a slice of the same owner
    /// and copies.
    Cut {
        /// The slice.
        slice: SliceId,
        /// The first key of the upper part.
        at: Key,
    },
    /// A copy is to be filled.
    AddCopy {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
    /// A copy holds everything and counts from now on. Only the owner proposes it.
    CopyInSync {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
    /// A copy counts no longer.
    RemoveCopy {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
    /// A slice gets another owner, who must be an in-sync copy; the old one becomes a copy.
    MoveOwner {
        /// The slice.
        slice: SliceId,
        /// The new owner.
        to: VolcanoId,
    },
    /// An owner that has lost its last operations gives a slice to a copy that has them, as if it had
    /// been found dead: the slice stays its own, and comes back to it.
    Yield {
        /// The slice.
        slice: SliceId,
        /// The copy, which must be in sync.
        to: VolcanoId,
    },
    /// A session begins; its number is that of the lava's counter.
    OpenSession {
        /// For the console.
        label: String,
    },
    /// A session ends.
    EndSession(SessionId),
}

/// A change as it is proposed: an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposal {
    /// The lava that the log begins with.
    Found(Box<Lava>),
    /// A change of it.
    Change {
        /// The epoch in which it was made.
        epoch: Epoch,
        /// The change.
        change: Box<Change>,
    },
}

impl Proposal {
    /// The lava after this entry; or why nothing has changed.
    pub fn apply(&self, lava: &Lava) -> Result<Lava, ChangeRefused> {
        match self {
            Proposal::Found(first) if lava.is_founded() => Err(ChangeRefused::EpochMoved {
                proposed: first.epoch,
                current: lava.epoch,
            }),
            Proposal::Found(first) => {
                first.check()?;
                Ok((**first).clone())
            }
            Proposal::Change { epoch, change } => {
                if change.binds_epoch() && *epoch != lava.epoch {
                    return Err(ChangeRefused::EpochMoved {
                        proposed: *epoch,
                        current: lava.epoch,
                    });
                }
                lava.apply(change)
            }
        }
    }
}

/// Why a change was refused. For a person too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeRefused {
    /// It was made for another epoch, and what it changes has moved since.
    #[error("it was proposed at epoch {proposed}, the lava is at {current}")]
    EpochMoved {
        /// Where it was made.
        proposed: Epoch,
        /// Where the lava is.
        current: Epoch,
    },
    /// A volcano of this nickname is a member.
    #[error(
        "a volcano called {0} is a member already: choose another nickname (-n), or `evict` it on a console if it is dead and its directory lost"
    )]
    NickTaken(String),
    /// A volcano of this address is a member.
    #[error("{0} is the address of volcano {1} already: choose another (-i, -p)")]
    AddressTaken(String, String),
    /// A field is empty or too long.
    #[error("{0} is not valid: {1}")]
    Malformed(String, String),
    /// No such volcano, slice, copy or session.
    #[error("there is no {0}")]
    Unknown(String),
    /// The change makes no sense for the lava as it is.
    #[error("{0}")]
    Impossible(String),
    /// A bound of the lava is reached.
    #[error("the lava holds as many {0} as it can")]
    Full(String),
}

/// Why a lava was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// No chain of legal changes leads to it.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// The log could not be written: nothing has changed.
    #[error("the log of lavas: {0}")]
    Log(String),
    /// A lava of another network or generation.
    #[error("{0}")]
    Foreign(String),
}
