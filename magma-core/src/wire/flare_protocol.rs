//! The flare protocol as clients speak it: a request is a short list of operations on one key.

use serde::{Deserialize, Serialize};

use crate::error::OpError;
use crate::ids::{Epoch, FlareRef, SessionId, Slot, SlotSeq};
use crate::key::Key;
use crate::locks::{LockKind, LockOwner, Range};
use crate::op::{Answer, Credentials, LockSpec, Op};

/// A request to the owner of `key`. Bytes to write are the frame's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks, network-wide.
    pub session: SessionId,
    /// The session's slot that this request occupies.
    pub slot: Slot,
    /// Counts the requests of that slot; a repeated one gets the answer of the first.
    pub seq: SlotSeq,
    /// The sender's hybrid clock.
    pub clock: u64,
    /// The lava epoch that the client routed by.
    pub epoch: Epoch,
    /// The key that routes the request.
    pub key: Key,
    /// How often it was passed on.
    #[serde(default)]
    pub hops: u8,
    /// On whose behalf.
    pub cred: Credentials,
    /// What to do, in order; the first failure ends the list.
    pub ops: Vec<Op>,
}

/// The reply to a [`Request`]. Bytes read are the frame's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The sender's hybrid clock.
    pub clock: u64,
    /// The lava epoch of the volcano that answers.
    pub epoch: Epoch,
    /// The request was proxied: the client's lava is old ("topology changed").
    #[serde(default)]
    pub topology_changed: bool,
    /// One per operation done; shorter than the list when one failed, which is the last.
    pub results: Vec<Result<Answer, OpError>>,
    /// What the sender may cache, when it has asked the owner itself.
    #[serde(default)]
    pub lease: Option<Grant>,
}

/// What comes with the reply of an owner: how long its leases to this session stay valid, and
/// whether what the reply shows is under a lease too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Counts the grants of this owner to this session; a recall names the highest revoked.
    pub number: u64,
    /// Validity of all leases of this owner in milliseconds, counted by the client from
    /// *sending* the request.
    pub valid_ms: u32,
    /// Grants up to this one are void: they had run out before the request came.
    pub void: u64,
    /// What the reply shows of flares of this owner may be cached under a lease.
    pub shown: bool,
}

/// What an owner tells a client unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// Give back the leases on these flares; grants up to `upto` are void.
    Recall {
        /// The keys of the flares.
        keys: Vec<Key>,
        /// The highest grant that is revoked.
        upto: u64,
    },
    /// The lava has a new epoch: ask for it.
    LavaChanged(Epoch),
    /// A lock that the session has waited for is held.
    LockGranted {
        /// The file.
        flare: FlareRef,
        /// The number of the wait.
        wait: u64,
    },
    /// Say which locks the session holds, and what it has open: this owner does not know (any
    /// more).
    Claim,
    /// A lock that the session has claimed is somebody else's, at least in part.
    LockLost {
        /// The file.
        flare: FlareRef,
        /// The kernel's number of its owner.
        owner: u64,
        /// Where.
        range: Range,
    },
    /// Somebody waits for a lock owner of this session: ask on where that one waits itself.
    LockProbe {
        /// The search.
        probe: Probe,
        /// The kernel's number of the lock owner.
        owner: u64,
    },
    /// That wait would last for ever.
    LockDeadlock {
        /// The number of the wait.
        wait: u64,
    },
}

/// A search for a ring of waits through several owners. It begins at a wait and follows, from
/// owner to client to owner, whom that one waits for; a ring is found when it comes back. Only
/// the greatest lock owner of a ring finds it: others are not asked about greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Who began it.
    pub by: LockOwner,
    /// The number of its wait.
    pub wait: u64,
    /// Owners that it has gone through.
    pub hops: u8,
}

/// A lock that a session says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedLock {
    /// The file.
    pub flare: FlareRef,
    /// The lock.
    pub lock: LockSpec,
    /// How it is held.
    pub kind: LockKind,
}

/// What a client tells an owner unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromClient {
    /// The leases on these flares are given back, up to that grant.
    Recalled {
        /// The keys of the flares.
        keys: Vec<Key>,
        /// The highest grant that was revoked.
        upto: u64,
        /// What the session has opened of them under the leases.
        #[serde(default)]
        opens: Vec<(FlareRef, u64)>,
    },
    /// What the session has opened under leases, with the numbers of the opens.
    Opened(Vec<(FlareRef, u64)>),
    /// What the session has closed for good, each up to that number.
    Closed(Vec<(FlareRef, u64)>),
    /// Everything that the session has open, of whichever owner's flares: after each hello, and when
    /// asked. None at all is said too.
    OpensHeld {
        /// What was opened before this number, and is not named, is closed.
        number: u64,
        /// At most [`OPENS_CLAIM_BATCH`](crate::limits::OPENS_CLAIM_BATCH).
        opens: Vec<(FlareRef, u64)>,
        /// These were the last.
        done: bool,
    },
    /// The session's locks, of whichever owner's flares: after each hello, and when asked. None at
    /// all is said too.
    LocksHeld {
        /// As in [`Op::SetLock`].
        number: u64,
        /// The locks.
        locks: Vec<ClaimedLock>,
        /// These were the last.
        done: bool,
    },
    /// The session works by this lava, or a newer one: nothing is shown any more under a lease of
    /// whoever owned a slice before it. Said of each lava in which slices have other owners.
    LavaSeen(Epoch),
    /// A search goes on: the lock owner that was asked about waits here.
    LockProbe {
        /// The search.
        probe: Probe,
        /// The file.
        flare: FlareRef,
        /// The number of the wait.
        wait: u64,
    },
}

/// The first message on every flare connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlareHello {
    /// A mount or a tool.
    Client {
        /// [`super::PROTOCOL_VERSION`].
        version: u32,
        /// Its session.
        session: SessionId,
    },
    /// Another volcano.
    Volcano(super::node_protocol::Identity),
}

/// The answer to a [`FlareHello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlareWelcome {
    /// Who answers.
    pub identity: super::node_protocol::Identity,
    /// Its clock.
    pub clock: u64,
}
