//! The flare protocol between volcanos: replication, copying and transaction steps.
//!
//! These have no transport-level answer: an engine sends one, and the other's engine sends
//! one back. What must not get lost is sent again by the machine that waits for the answer.

use serde::{Deserialize, Serialize};

use crate::effect::Record;
use crate::error::OpError;
use crate::flare::{Attr, Decision, Kind, Name};
use crate::ids::{Epoch, FlareRef, Seq, SliceId, TxId};
use crate::key::Key;

/// A message from one volcano's engine to another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Owner to copy: the next operations of a slice, in order. Content is the payload.
    Ship {
        /// The slice.
        slice: SliceId,
        /// The owner's epoch: a copy refuses an older one.
        epoch: Epoch,
        /// The operations.
        records: Vec<Record>,
    },
    /// Copy to owner: applied up to here.
    ShipAck {
        /// The slice.
        slice: SliceId,
        /// The epoch of what was applied.
        epoch: Epoch,
        /// The last operation applied.
        seq: Seq,
    },
    /// Copy to owner: I hold the slice up to here, go on from there.
    ShipFrom {
        /// The slice.
        slice: SliceId,
        /// The last operation applied; none when nothing is held.
        have: Option<(Epoch, Seq)>,
    },
    /// Owner to copy: say what you hold ([`PeerMessage::ShipFrom`]).
    Attach {
        /// The slice.
        slice: SliceId,
    },
    /// Owner to copy that is being filled: throw away what you hold, rows follow.
    CopyBegin {
        /// The slice.
        slice: SliceId,
        /// The owner's epoch.
        epoch: Epoch,
        /// Numbers the owner's fillings: one that begins anew has another number.
        fill: u64,
    },
    /// Owner to copy that is being filled: rows of the next keys, as of operation `seq`.
    CopyRows {
        /// The slice.
        slice: SliceId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The filling that they belong to.
        fill: u64,
        /// The rows, as a record whose sequence is that of the last operation they include.
        rows: Record,
        /// All keys up to this one have been sent: live operations count for them from now.
        cursor: Key,
        /// These were the last.
        done: bool,
        /// More rows of the same keys follow at once: only the last part is acknowledged.
        #[serde(default)]
        more: bool,
    },
    /// Copy to owner: the rows up to this key are here (flow control).
    CopyAck {
        /// The slice.
        slice: SliceId,
        /// The filling that the rows belonged to: a copy that was emptied again since is not
        /// taken to hold them.
        fill: u64,
        /// The cursor of the rows.
        cursor: Key,
        /// The last ones were among them: the copy is whole up to this operation.
        done: Option<Seq>,
    },
    /// Owner to copy: everything up to `seq` on the disk, content of `flare` first.
    SyncTo {
        /// The slice.
        slice: SliceId,
        /// The flare to be synced.
        flare: FlareRef,
        /// The operation up to which it must hold.
        seq: Seq,
        /// For the answer.
        token: u64,
    },
    /// Copy to owner: it is.
    Synced {
        /// The slice.
        slice: SliceId,
        /// From the question.
        token: u64,
        /// Whether the disk took it.
        ok: bool,
    },
    /// To another holder of the slice: content that does not have its checksum here.
    ContentAsk {
        /// For the answer.
        token: u64,
        /// The flare.
        flare: FlareRef,
        /// The first byte, of a block.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// The answer: the content is the payload, which is empty where it is not right there either.
    ContentTold {
        /// From the question.
        token: u64,
        /// The version of the flare's row that it belongs to; none if it changed meanwhile.
        version: Option<crate::ids::Stamp>,
    },
    /// A step of a transaction, to the owner of `key`.
    Step(Step),
    /// The answer to a step.
    StepDone(StepDone),
}

impl PeerMessage {
    /// Whether it belongs to the history of a slice. Those keep their order on a lane of their
    /// own; the others need not wait for them.
    pub fn is_history(&self) -> bool {
        match self {
            PeerMessage::Ship { .. }
            | PeerMessage::CopyBegin { .. }
            | PeerMessage::CopyRows { .. }
            | PeerMessage::SyncTo { .. } => true,
            PeerMessage::ShipAck { .. }
            | PeerMessage::ShipFrom { .. }
            | PeerMessage::Attach { .. }
            | PeerMessage::CopyAck { .. }
            | PeerMessage::Synced { .. }
            | PeerMessage::ContentAsk { .. }
            | PeerMessage::ContentTold { .. }
            | PeerMessage::Step(_)
            | PeerMessage::StepDone(_) => false,
        }
    }
}

/// A step of a transaction that another key's owner must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The transaction.
    pub tx: TxId,
    /// The key at whose owner the transaction is driven: the answer goes there.
    pub driver: Key,
    /// The key at whose owner this step is done.
    pub key: Key,
    /// The epoch by which the sender owns the driving key: one who was replaced since, and does not
    /// know it yet, or whose message was long on its way, is not heard. 0 of one who does not say.
    #[serde(default)]
    pub epoch: Epoch,
    /// The sender's hybrid clock.
    pub clock: u64,
    /// The step.
    pub body: StepBody,
}

/// The answer to a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// The transaction.
    pub tx: TxId,
    /// Where it is driven.
    pub driver: Key,
    /// Where the step was done.
    pub key: Key,
    /// Which kind of step this answers.
    pub step: StepName,
    /// The sender's hybrid clock.
    pub clock: u64,
    /// The outcome.
    pub result: Result<StepAnswer, OpError>,
}

/// The kinds of steps: with the transaction and the key they name one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepName {
    /// [`StepBody::Insert`].
    Insert,
    /// [`StepBody::Remove`].
    Remove,
    /// [`StepBody::PrepareEntry`].
    PrepareEntry,
    /// [`StepBody::PrepareMove`].
    PrepareMove,
    /// [`StepBody::PrepareVictim`].
    PrepareVictim,
    /// [`StepBody::Finish`].
    Finish,
    /// [`StepBody::Ask`].
    Ask,
    /// [`StepBody::LockRename`].
    LockRename,
    /// [`StepBody::UnlockRename`].
    UnlockRename,
    /// [`StepBody::GetParent`].
    GetParent,
}

/// What a participant is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepBody {
    /// At the parent: insert the entry. The commit point of create, mkdir, link.
    Insert {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The child's attributes, as its owner made them.
        attr: Box<Attr>,
        /// Who asks: permission is checked here. Nobody where a crash has left the change behind and
        /// its client has not asked again: only an entry that is in already counts then.
        cred: Option<crate::op::Credentials>,
        /// A new flare takes group, setgid and lists from the directory, for this mode, before the umask;
        /// another link does not.
        inherit: Option<u32>,
    },
    /// At the parent: remove the entry. The commit point of unlink and rmdir.
    Remove {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// What it must stand for.
        child: FlareRef,
        /// The child's type.
        kind: Kind,
        /// The child's owner (sticky directories).
        child_uid: u32,
        /// Who asks.
        cred: crate::op::Credentials,
    },
    /// Rename, at the source directory: the entry must stand for `child`; hold it.
    PrepareEntry {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// What it must stand for.
        child: FlareRef,
        /// What it becomes when the transaction commits (exchange); `None` removes it.
        becomes: Option<(FlareRef, Kind)>,
        /// Who asks.
        cred: crate::op::Credentials,
    },
    /// Rename, at a flare that moves: hold the old link.
    PrepareMove {
        /// The flare.
        flare: FlareRef,
        /// The link that goes.
        from: (FlareRef, Name),
        /// The link that comes.
        to: (FlareRef, Name),
        /// It is the other side of an exchange, which the request did not name: the session
        /// that asked may hold a lease on it and not think of it.
        unnamed: bool,
        /// Who asks.
        cred: crate::op::Credentials,
    },
    /// Rename, at the flare that is replaced: hold its link; a directory must be empty.
    PrepareVictim {
        /// The flare.
        flare: FlareRef,
        /// Its link.
        link: (FlareRef, Name),
        /// The flare that replaces it is a directory.
        by_dir: bool,
    },
    /// Rename, at every participant: the decision.
    Finish(Decision),
    /// At the decider: what was decided? Decides `Aborted` when nothing was.
    Ask,
    /// At the root: take the network-wide lock for moving a directory between parents.
    LockRename,
    /// At the root: the transaction has ended.
    UnlockRename,
    /// At a directory: which is your parent? For the walk that keeps cycles out.
    GetParent(FlareRef),
}

impl StepBody {
    /// Whether it is the first of its transaction to change what clients see of its key.
    pub fn begins_change(&self) -> bool {
        match self {
            StepBody::Insert { .. }
            | StepBody::Remove { .. }
            | StepBody::PrepareEntry { .. }
            | StepBody::PrepareMove { .. }
            | StepBody::PrepareVictim { .. } => true,
            StepBody::Finish(_)
            | StepBody::Ask
            | StepBody::LockRename
            | StepBody::UnlockRename
            | StepBody::GetParent(_) => false,
        }
    }

    /// Its kind.
    pub fn name(&self) -> StepName {
        match self {
            StepBody::Insert { .. } => StepName::Insert,
            StepBody::Remove { .. } => StepName::Remove,
            StepBody::PrepareEntry { .. } => StepName::PrepareEntry,
            StepBody::PrepareMove { .. } => StepName::PrepareMove,
            StepBody::PrepareVictim { .. } => StepName::PrepareVictim,
            StepBody::Finish(_) => StepName::Finish,
            StepBody::Ask => StepName::Ask,
            StepBody::LockRename => StepName::LockRename,
            StepBody::UnlockRename => StepName::UnlockRename,
            StepBody::GetParent(_) => StepName::GetParent,
        }
    }
}

/// What a participant answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepAnswer {
    /// Done.
    Done,
    /// The entry is in.
    Inserted {
        /// The child's attributes that count (group, setgid and default ACL inherited).
        attr: Box<Attr>,
        /// The directory's own, after the change.
        dir: Option<Box<Attr>>,
    },
    /// The entry is gone; the directory's attributes after that, where it is still there.
    Removed(Option<Box<Attr>>),
    /// A flare is held for a rename; its row's facts that the driver checks.
    Held {
        /// The flare's type.
        kind: Kind,
        /// Its owner.
        uid: u32,
    },
    /// An entry is held for a rename.
    HeldEntry {
        /// The directory is sticky: only the owner of the flare may take its name away.
        only_owner: bool,
    },
    /// The decision.
    Decided(Decision),
    /// The parent directory; none for the root.
    Parent(Option<FlareRef>),
}
