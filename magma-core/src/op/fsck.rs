//! What `magma fsck` asks of a volcano, and the repairs that the owner of a key decides.
//!
//! An [`FsckAsk`] is answered by the volcano that gets it, from what it holds itself: as owner,
//! as copy, or by mistake. An [`FsckRepair`] goes to the owner of its key like any other
//! operation: it looks at its own rows again, and what it changes is replicated.

use serde::{Deserialize, Serialize};

use crate::flare::{Kind, Name};
use crate::ids::{FlareRef, SliceId, Stamp, VolcanoId};
use crate::key::Key;

/// A place in the rows of a volcano.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FsckAt {
    /// The key, or the next one that has rows.
    pub key: Key,
    /// Go on inside this directory, after the entry with this cookie.
    pub after: Option<u64>,
}

/// A question to one volcano, whoever owns the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsckAsk {
    /// The rows of the next keys, a bounded page. [`FsckTold::Page`].
    Rows {
        /// Where to begin.
        from: FsckAt,
        /// The last key.
        upto: Key,
        /// Digests and counts only, no names.
        brief: bool,
    },
    /// A digest of at most [`crate::limits::FSCK_CONTENT_BYTES`] of content.
    /// [`FsckTold::Content`].
    Content {
        /// The file.
        flare: FlareRef,
        /// Where, in bytes.
        offset: u64,
    },
    /// Throw away the rows of a key that this volcano neither owns nor copies.
    /// [`FsckTold::Cleared`], or `Invalid` when it does hold the key by right.
    ClearStray(Key),
}

/// A repair, decided by the owner of its key from its own rows. `Stale` when they are not (any
/// more) as they were found, `TryAgain` while something is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsckRepair {
    /// Count links, subdirectories and entries again.
    Counts(FlareRef),
    /// Remove an entry whose flare is gone.
    DropEntry {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// What it must stand for.
        child: FlareRef,
    },
    /// Write the entry that a link tells of; one that is there gets the right type.
    PutEntry {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The flare.
        child: FlareRef,
        /// Its type.
        kind: Kind,
    },
    /// Write the link that an entry tells of.
    PutLink {
        /// The flare.
        flare: FlareRef,
        /// The directory.
        dir: FlareRef,
        /// The name in it.
        name: Name,
    },
    /// Remove a link without entry from a flare that has others.
    DropLink {
        /// The flare.
        flare: FlareRef,
        /// The directory.
        dir: FlareRef,
        /// The name in it.
        name: Name,
    },
    /// Drop a flare without any name that nobody has open.
    DropOrphan(FlareRef),
    /// Drop links and extended attributes of a key without flare.
    DropLeftovers(Key),
    /// Fill a copy anew: it is taken out of the lava, and comes back empty.
    Refill {
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
    },
}

impl FsckRepair {
    /// The key whose owner decides it; none where the slice says so.
    pub fn key(&self) -> Option<Key> {
        match self {
            FsckRepair::Counts(flare)
            | FsckRepair::PutLink { flare, .. }
            | FsckRepair::DropLink { flare, .. }
            | FsckRepair::DropOrphan(flare) => Some(flare.key()),
            FsckRepair::DropEntry { dir, .. } | FsckRepair::PutEntry { dir, .. } => Some(dir.key()),
            FsckRepair::DropLeftovers(key) => Some(*key),
            FsckRepair::Refill { .. } => None,
        }
    }
}

/// What the row of a flare says, as far as it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFlare {
    /// Key and incarnation.
    pub flare: FlareRef,
    /// Its last change: pages of one key with the same version fit together.
    pub version: Stamp,
    /// The type.
    pub kind: Kind,
    /// Length of the content in bytes.
    pub size: u64,
    /// Whether the content lies in content files, which no digest of rows covers.
    pub segments: bool,
    /// Count of links.
    pub nlink: u32,
    /// Count of entries.
    pub entries: u64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckEntry {
    /// The name.
    pub name: Name,
    /// What it stands for.
    pub child: FlareRef,
    /// The type of that, as the entry has it.
    pub kind: Kind,
    /// Nothing is under way about it.
    pub settled: bool,
}

/// A link of a flare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckLink {
    /// The directory.
    pub parent: FlareRef,
    /// The name in it.
    pub name: Name,
    /// Nothing is under way about it.
    pub settled: bool,
}

/// What a volcano has under a key, or a part of it: a big directory takes several pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckKey {
    /// The key.
    pub key: Key,
    /// Sum of the digests of the rows of this part, and of content inside the row.
    pub digest: u128,
    /// The flare, in every part.
    pub flare: Option<FsckFlare>,
    /// Its links (first part).
    pub links: Vec<FsckLink>,
    /// How many there are: more than [`FsckKey::links`] holds when there are too many, or in a
    /// brief answer.
    pub link_count: u32,
    /// The entries of this part.
    pub entries: Vec<FsckEntry>,
    /// How many they are.
    pub entry_count: u64,
    /// How many of them are directories.
    pub subdirectories: u64,
    /// Somebody has it open (as its owner knows).
    pub open: bool,
    /// Names what is under way about this part; 0 for nothing.
    pub unfinished: u128,
    /// More entries come after this cookie.
    pub more: Option<u64>,
}

/// A page of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckPage {
    /// In order.
    pub keys: Vec<FsckKey>,
    /// Where the next page begins; none after the last.
    pub next: Option<FsckAt>,
    /// The last operation of the slice of the first key asked for that these rows show. None
    /// when the volcano is neither its owner nor a whole copy.
    pub position: Option<Stamp>,
    /// The volcano is throwing away what is no longer its own.
    pub clearing: bool,
}

/// The answer to an [`FsckAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsckTold {
    /// Rows.
    Page(FsckPage),
    /// A piece of content.
    Content {
        /// Of its bytes.
        digest: u128,
        /// How many bytes they are; 0 at the end.
        len: u64,
        /// The flare's version when they were read; none when it has changed meanwhile.
        version: Option<Stamp>,
    },
    /// The rows are gone.
    Cleared,
}
