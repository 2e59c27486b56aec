//! The node protocol: hello, join, heartbeat, lava, agreement, sessions, shutdown.

use serde::{Deserialize, Serialize};

use crate::agreement::{Change, ChangeRefused};
use crate::ids::{Epoch, Generation, NetworkId, SessionId, SliceId, Stamp, VolcanoId};
use crate::lava::{Lava, VolcanoInfo};
use crate::store::agreement_log::starts::SeenStart;

/// Who a volcano is, exchanged before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`super::PROTOCOL_VERSION`].
    pub version: u32,
    /// The network.
    pub network: NetworkId,
    /// Its generation.
    pub generation: Generation,
    /// The volcano; none while it joins.
    pub volcano: Option<VolcanoId>,
    /// Its nickname.
    pub nick: String,
    /// Counts the starts of this volcano.
    pub start_number: u64,
    /// The latest starts over its directory, this one last: who does not know of the one that was
    /// seen last comes with an older copy of its disk. None from a volcano that does not say it.
    #[serde(default)]
    pub starts: Vec<SeenStart>,
    /// The lava epoch that it knows.
    pub epoch: Epoch,
}

/// The first message on every node connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeHello {
    /// A client: a mount or a tool.
    Client {
        /// [`super::PROTOCOL_VERSION`].
        version: u32,
        /// What it calls itself, for the console: host name and mount point.
        label: String,
    },
    /// A member of the ring.
    Volcano(Identity),
    /// Somebody who wants to become one.
    Joiner {
        /// [`super::PROTOCOL_VERSION`].
        version: u32,
        /// Its nickname.
        nick: String,
    },
}

/// The answer to a [`NodeHello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWelcome {
    /// Who answers.
    pub identity: Identity,
    /// Its clock.
    pub clock: u64,
}

/// Questions of the node protocol, each with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeCall {
    /// Anyone: the lava as you know it. [`NodeAnswer::Lava`].
    GetLava,
    /// A client: open a session under this label. [`NodeAnswer::Session`].
    OpenSession {
        /// For the console.
        label: String,
    },
    /// A client: end my session. [`NodeAnswer::Done`].
    EndSession(SessionId),
    /// A client, every [`SESSION_RENEW_MS`](crate::limits::SESSION_RENEW_MS): I am there.
    /// [`NodeAnswer::Done`], or [`NodeAnswer::SessionEnded`].
    RenewSession {
        /// The session.
        session: SessionId,
        /// A lava that the client has seen, and in which the session was open. Whoever knows only an
        /// older one cannot say that it has ended.
        epoch: Epoch,
    },
    /// A joiner, to the volcano after which it wants to sit. [`NodeAnswer::Joined`].
    Join(Box<VolcanoInfo>),
    /// A volcano to the one that leads the agreement: put this into the log. [`NodeAnswer::Lava`].
    Propose {
        /// The epoch in which it was made; it fails if that has moved and the change cares.
        epoch: Epoch,
        /// The change.
        change: Box<Change>,
    },
    /// A volcano to another: a question of the consensus library. [`NodeAnswer::Agreement`].
    Agreement(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A volcano to a restarted one or the reverse: what do you hold? [`NodeAnswer::Status`].
    GetStatus,
    /// The console of a volcano to each other one: end yourself in order. [`NodeAnswer::Done`].
    Shutdown {
        /// Who asked, for the log.
        by: String,
    },
}

/// Answers to [`NodeCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeAnswer {
    /// Nothing to tell.
    Done,
    /// The lava.
    Lava(Box<Lava>),
    /// A session was opened under this lava.
    Session(SessionId, Box<Lava>),
    /// The session has ended.
    SessionEnded,
    /// The joiner is a member now, with this identity and lava.
    Joined(VolcanoId, Box<Lava>),
    /// What a volcano says of itself.
    Status(Box<VolcanoStatus>),
    /// The consensus library's answer.
    Agreement(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The change was refused.
    Refused(ChangeRefused),
    /// It cannot be done now; ask again. With the reason for a person.
    NotNow(String),
    /// It cannot be done. With the reason for a person.
    Failed(String),
}

/// Messages of the node protocol that have no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePush {
    /// Sent to every other volcano every heartbeat.
    Heartbeat(Box<VolcanoStatus>),
    /// The answer of who leads the agreement: nobody takes over what you own for a while.
    VolcanoLease {
        /// The lava that this is said of: it counts when that, or a newer one, is known.
        epoch: Epoch,
        /// [`VolcanoStatus::sent_ms`] of the heartbeat.
        sent_ms: u64,
        /// For how long from then on, in milliseconds.
        valid_ms: u64,
    },
    /// The lava has changed; sent by who leads the agreement.
    Lava(Box<Lava>),
    /// To who leads the agreement: a session has said that it is there.
    SessionHeard(SessionId),
}

/// What a volcano says of itself with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolcanoStatus {
    /// Who.
    pub volcano: VolcanoId,
    /// Which start of it.
    pub start_number: u64,
    /// The lava epoch that it knows.
    pub epoch: Epoch,
    /// When this was sent, in milliseconds of the sender's [`Moment`](crate::time::Moment).
    pub sent_ms: u64,
    /// It serves.
    pub ready: bool,
    /// Its clock.
    pub clock: u64,
    /// Keys that it owns.
    pub keys: u64,
    /// Keys that it holds as copies.
    pub copy_keys: u64,
    /// Bytes of content that it holds.
    pub bytes: u64,
    /// Operations served since it started.
    pub operations: u64,
    /// Free bytes of its storage.
    pub free_bytes: u64,
    /// All bytes of its storage.
    pub total_bytes: u64,
    /// Its storage is full: nothing may be acknowledged that it must copy.
    pub full: bool,
    /// The most bytes that a file can have there.
    pub largest_file: u64,
    /// For each slice that it holds: the last operation.
    pub positions: Vec<(SliceId, Stamp)>,
    /// Copies that it brings up to date.
    #[serde(default)]
    pub resyncs: Vec<ResyncProgress>,
}

/// How far a copy has come, as its owner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncProgress {
    /// The slice.
    pub slice: SliceId,
    /// The copy.
    pub to: VolcanoId,
    /// It gets all rows, and not only what it missed.
    pub fills: bool,
    /// Of a thousand parts, so many are there.
    pub permille: u64,
    /// Operations that were sent from the journal.
    pub operations: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// For how long it has been going on, in milliseconds.
    pub since_ms: u64,
}

impl ResyncProgress {
    /// How much longer it will take, in milliseconds, if it goes on as it did; none while there is
    /// nothing to tell it from.
    pub fn left_ms(&self) -> Option<u64> {
        let rest = 1000_u64.saturating_sub(self.permille);
        (self.permille > 0).then(|| self.since_ms.saturating_mul(rest) / self.permille)
    }
}
