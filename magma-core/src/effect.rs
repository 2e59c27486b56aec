//! Effects: what an operation changes, row by row.
//!
//! The owner of a slice decides once and turns a request into effects; the same effects are
//! applied to its store, kept in the journal, shipped to the copies, and used to fill a new
//! copy. An effect is idempotent and belongs to exactly one key ([`Effect::key`]), so a copy
//! that is being filled can leave out what lies beyond its cursor. Times, keys and results
//! are in the effect: a copy decides nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::flare::{Decision, EntryRow, FlareRow, LinkRow, LinkState, Name, OutboxRow, ReplyRow};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;
use crate::limits::RECORDS_BYTES;

/// One change of one row, or of one range of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Writes a flare's row (birth or change).
    PutFlare(Box<FlareRow>),
    /// Removes a flare with its links, extended attributes and content. Entries are gone before.
    DropFlare(FlareRef),
    /// Writes an entry of the directory with this key.
    PutEntry(Key, Box<EntryRow>),
    /// Removes an entry of the directory with this key.
    DropEntry(Key, Name),
    /// Writes a link of the flare with this key.
    PutLink(Key, Box<LinkRow>),
    /// Removes the link (parent, name) of the flare with this key.
    DropLink(Key, FlareRef, Name),
    /// Sets an extended attribute.
    PutXattr(
        Key,
        #[serde(with = "serde_bytes")] Vec<u8>,
        #[serde(with = "serde_bytes")] Vec<u8>,
    ),
    /// Removes an extended attribute.
    DropXattr(Key, #[serde(with = "serde_bytes")] Vec<u8>),
    /// Writes content. The row's layout after the record says where it lies: the `PutFlare`
    /// of the same record always comes before it.
    Write(ContentWrite),
    /// Sets the length of the content: cuts it, or leaves a hole at the end.
    Truncate(FlareRef, u64),
    /// Makes a range of content a hole: offset and length in bytes.
    Punch(FlareRef, u64, u64),
    /// Reserves the space of a range of content in a content file, as far as there is any:
    /// offset and length in bytes, and whether the range may reach past the flare's size.
    Reserve(FlareRef, u64, u64, bool),
    /// A range of content is known to be bad where it comes from, and is marked so: offset and
    /// length in bytes. Only on the way to another volcano.
    Damage(FlareRef, u64, u64),
    /// Moves inline content into a content file.
    Spill(FlareRef),
    /// Keeps the last reply of a slot.
    PutReply(Box<ReplyRow>),
    /// Forgets the reply of a slot of the slice that holds this key.
    DropReply(Key, SessionId, Slot),
    /// Remembers that another owner must be told something.
    PutOutbox(Box<OutboxRow>),
    /// Forgets it, confirmed.
    DropOutbox(Key, TxId, Key),
    /// Records the decision of a transaction at this key.
    PutDecision(Key, TxId, Decision),
    /// Forgets the decision: the asker has resolved it.
    DropDecision(Key, TxId),
    /// Remembers that a session holds opens, locks or leases in the slice of this key.
    PutHolder(Key, SessionId),
    /// Forgets it.
    DropHolder(Key, SessionId),
    /// Cuts the slice of the record: its part from `start` to `end` is a slice of its own from
    /// here on, whose history begins at sequence 0 of the epoch. In the stream, so that every
    /// copy cuts at the same point of the slice's history.
    Cut {
        /// The new slice.
        to: SliceId,
        /// Its first key.
        start: Key,
        /// Its last key.
        end: Key,
        /// The epoch of the cut.
        epoch: Epoch,
    },
}

/// A range of content; its bytes ride in the payload of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentWrite {
    /// The flare.
    pub flare: FlareRef,
    /// The segment of the content; 0 until big contents are cut.
    pub segment: u32,
    /// Where in the content, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
    /// The bytes. Not in the encoded header: see [`Record::payload`].
    #[serde(skip)]
    pub data: Bytes,
}

impl Effect {
    /// Whether it leaves something about its key unfinished, as
    /// [`crate::store::View::unsettled`] would find it.
    pub fn unsettles(&self) -> bool {
        match self {
            Effect::PutFlare(row) => row.nascent.is_some() || row.nlink == 0,
            Effect::PutEntry(_, row) => row.prepared.is_some(),
            Effect::PutLink(_, row) => row.state != LinkState::Settled,
            _ => false,
        }
    }

    /// Bytes that it takes in the header of a message, at most and by estimate: what can be long in it,
    /// and more than all the rest.
    pub fn weight(&self) -> usize {
        const REST: usize = 512;
        let long = match self {
            Effect::PutFlare(row) => row.acls.as_ref().map_or(0, |acls| acls.weight()),
            Effect::PutEntry(_, row) => row.name.as_bytes().len(),
            Effect::PutXattr(_, name, value) => name.len() + value.len(),
            Effect::PutReply(row) => row.reply.len(),
            Effect::PutOutbox(row) => row.step.len(),
            _ => 0,
        };
        REST + long
    }

    /// The one key that this effect belongs to.
    pub fn key(&self) -> Key {
        match self {
            Effect::PutFlare(row) => row.key,
            Effect::DropFlare(flare)
            | Effect::Truncate(flare, _)
            | Effect::Punch(flare, ..)
            | Effect::Reserve(flare, ..)
            | Effect::Damage(flare, ..)
            | Effect::Spill(flare) => flare.key(),
            Effect::Write(write) => write.flare.key(),
            Effect::PutReply(row) => row.key,
            Effect::Cut { start, .. } => *start,
            Effect::PutOutbox(row) => row.key,
            Effect::PutEntry(key, _)
            | Effect::DropEntry(key, _)
            | Effect::PutLink(key, _)
            | Effect::DropLink(key, _, _)
            | Effect::PutXattr(key, _, _)
            | Effect::DropXattr(key, _)
            | Effect::DropReply(key, _, _)
            | Effect::DropOutbox(key, _, _)
            | Effect::PutDecision(key, _, _)
            | Effect::DropDecision(key, _)
            | Effect::PutHolder(key, _)
            | Effect::DropHolder(key, _) => *key,
        }
    }
}

/// One operation of a slice: what is journalled, shipped and applied as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The slice.
    pub slice: SliceId,
    /// The epoch under which its owner decided it.
    pub epoch: Epoch,
    /// Its place in the order of the slice.
    pub seq: Seq,
    /// The hybrid clock of the decision.
    pub clock: u64,
    /// The changes, in order.
    pub effects: Vec<Effect>,
}

impl Record {
    /// The bytes of all content writes in order: they follow the encoded record as raw bytes.
    pub fn payload(&self) -> impl Iterator<Item = &Bytes> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Write(write) => Some(&write.data),
            _ => None,
        })
    }

    /// See [`Effect::weight`].
    pub fn weight(&self) -> usize {
        self.effects.iter().map(Effect::weight).sum()
    }

    /// Gives the content writes of a decoded record their bytes, from the front of `payload`.
    pub fn take_payload(&mut self, payload: &mut Bytes) -> Result<(), ShortPayload> {
        for effect in &mut self.effects {
            if let Effect::Write(write) = effect {
                let len = write.len as usize;
                if payload.len() < len {
                    return Err(ShortPayload);
                }
                write.data = payload.split_to(len);
            }
        }
        Ok(())
    }
}

/// Cuts a list into parts that fit into the header of a message, each with at least one item.
pub fn in_parts<T>(items: Vec<T>, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut sum = usize::MAX;
    for item in items {
        let weighs = weight(&item);
        sum = sum.saturating_add(weighs);
        match parts.last_mut() {
            Some(part) if sum <= RECORDS_BYTES => part.push(item),
            _ => {
                parts.push(vec![item]);
                sum = weighs;
            }
        }
    }
    parts
}

/// A record names more content bytes than came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record names more content than its payload holds")]
pub struct ShortPayload;
