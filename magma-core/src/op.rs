//! What a client may ask of a flare: the operations and their answers, as they travel.
//!
//! A request is a short list of operations on one key. Each operation that needs more than a
//! row lookup has a file of its own below this one with the rule that decides it.

pub mod fsck;
pub mod mode;
pub mod permission;
#[cfg(test)]
pub(crate) mod samples;
pub mod setattr;
pub mod xattr;

use serde::{Deserialize, Serialize};

use crate::error::OpError;
use crate::flare::{Attr, Kind, Name};
use crate::ids::{FlareRef, SessionId, Stamp};
use crate::key::Key;
use crate::limits::GROUPS_MAX;
use crate::locks::table::LockOutcome;
use crate::locks::{Lock, LockKind, LockOwner, Range};
use crate::time::Timestamp;

/// Who asks: as the kernel saw the calling process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Effective (file system) user.
    pub uid: u32,
    /// Effective (file system) group.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Root: what volcanos and tools act as.
    pub fn root() -> Credentials {
        Credentials::default()
    }
    /// Whether the caller overrides permission bits.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// Whether the caller is in a group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
    /// Whether the list of groups is within bounds.
    pub fn is_bounded(&self) -> bool {
        self.groups.len() <= GROUPS_MAX
    }
}

/// A time to set: a given one, or the time of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// As given.
    At(Timestamp),
    /// The owner's clock.
    Now,
}

/// Changes of attributes: those that are there are made, all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetAttr {
    /// Permission bits (12).
    pub mode: Option<u32>,
    /// Owning user.
    pub uid: Option<u32>,
    /// Owning group.
    pub gid: Option<u32>,
    /// Length of the content.
    pub size: Option<u64>,
    /// The change of size comes through an open file: permission was checked at open.
    pub by_handle: bool,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
}

/// What a create makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFlare {
    /// The type.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// What the caller takes from them, where the directory has no default access control list.
    #[serde(default)]
    pub umask: u32,
    /// Device number.
    #[serde(default)]
    pub rdev: u32,
    /// Target of a symbolic link.
    #[serde(default, with = "serde_bytes")]
    pub target: Vec<u8>,
    /// Open it in the same step, as [`Op::Open`] with this number.
    #[serde(default)]
    pub open: Option<u64>,
}

/// How a rename treats what is at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it, as rename(2).
    #[default]
    Replace,
    /// Fails with EEXIST (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swaps the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// How an extended attribute is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Creates or replaces.
    #[default]
    Either,
    /// Fails with EEXIST when it is there (`XATTR_CREATE`).
    Create,
    /// Fails with ENODATA when it is not there (`XATTR_REPLACE`).
    Replace,
}

/// What becomes of a range of content without data from a client: fallocate(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocateHow {
    /// Its space is reserved, and the file reaches to its end at least.
    Extend,
    /// Its space is reserved, also past the end of the file (`FALLOC_FL_KEEP_SIZE`).
    KeepSize,
    /// It becomes a hole (`FALLOC_FL_PUNCH_HOLE`).
    Punch,
    /// It reads as zeros and its space stays; the file reaches to its end at least
    /// (`FALLOC_FL_ZERO_RANGE`).
    Zero,
    /// The same within the file (`FALLOC_FL_ZERO_RANGE` with `FALLOC_FL_KEEP_SIZE`).
    ZeroKeepSize,
}

/// One operation on the flare of the request's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// The guess: is the flare under this key (or one with the same birth path) linked as
    /// (parent, name)? Answered [`Answer::Attr`] or [`Answer::AskParent`].
    Guess {
        /// The directory.
        parent: FlareRef,
        /// The name.
        name: Name,
    },
    /// At the directory: what does this name stand for? [`Answer::Entry`] or `NotFound`.
    LookupEntry {
        /// The directory's incarnation.
        dir: FlareRef,
        /// The name.
        name: Name,
    },
    /// Attributes of a flare. [`Answer::Attr`].
    GetAttr(FlareRef),
    /// Attributes of the root, whose incarnation the client does not know yet. [`Answer::Attr`].
    GetRoot,
    /// Attributes of several flares that this volcano owns. [`Answer::Attrs`], in order.
    GetAttrs(Vec<FlareRef>),
    /// Changes attributes. [`Answer::Attr`].
    SetAttr(FlareRef, SetAttr),
    /// Creates a flare under the request's key and links it as (parent, name). [`Answer::Linked`].
    Create {
        /// The directory.
        parent: FlareRef,
        /// The name.
        name: Name,
        /// What to make.
        new: NewFlare,
    },
    /// Adds a link to an existing flare. [`Answer::Linked`].
    Link {
        /// The flare.
        flare: FlareRef,
        /// The directory of the new name.
        parent: FlareRef,
        /// The new name.
        name: Name,
    },
    /// Removes a link of a flare that is not a directory. [`Answer::Unlinked`].
    Unlink {
        /// The flare that the name stood for when the client looked; a mismatch is `Stale`.
        flare: FlareRef,
        /// The directory.
        parent: FlareRef,
        /// The name.
        name: Name,
    },
    /// Removes an empty directory. [`Answer::Unlinked`].
    Rmdir {
        /// The directory to remove.
        flare: FlareRef,
        /// Its parent.
        parent: FlareRef,
        /// Its name.
        name: Name,
    },
    /// Moves a name; sent to the destination directory. [`Answer::Done`].
    Rename {
        /// The source directory.
        from_dir: FlareRef,
        /// The source name.
        from_name: Name,
        /// The flare moved, as the client last saw it; a mismatch is `Stale`.
        moved: FlareRef,
        /// Its type.
        moved_kind: Kind,
        /// The destination directory (the request's key).
        to_dir: FlareRef,
        /// The destination name.
        to_name: Name,
        /// What to do with a flare that is there.
        mode: RenameMode,
    },
    /// Opens a regular file: checks permission, and keeps its content past an unlink until the
    /// client has closed it ([`FromClient::Closed`](crate::wire::flare_protocol::FromClient::Closed)). [`Answer::Attr`].
    Open {
        /// The file.
        flare: FlareRef,
        /// Will read.
        read: bool,
        /// Will write.
        write: bool,
        /// Cut to nothing.
        truncate: bool,
        /// Grows with each open and close of the session.
        number: u64,
    },
    /// The session has a file open that it has opened under a lease. [`Answer::Done`].
    Hold(FlareRef, u64),
    /// Reads content; the bytes are the reply's payload. [`Answer::Data`].
    Read {
        /// The file.
        flare: FlareRef,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes at most.
        len: u32,
    },
    /// Writes content; the bytes are the request's payload, `len` of them. [`Answer::Written`].
    Write {
        /// The file.
        flare: FlareRef,
        /// Where, in bytes; ignored when appending.
        offset: u64,
        /// How many bytes of the payload.
        len: u32,
        /// Write at the end, wherever that is now (O_APPEND).
        append: bool,
        /// On disk everywhere before the answer (O_SYNC, O_DSYNC).
        sync: bool,
    },
    /// Reserves, empties or zeroes a range of content. [`Answer::Done`].
    Allocate {
        /// The file.
        flare: FlareRef,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes; not 0.
        len: u64,
        /// What to do.
        how: AllocateHow,
    },
    /// Copies content of a file, which may have another owner, into this one: the owner fetches
    /// it. At most [`crate::limits::IO_MAX`] bytes at once. [`Answer::Copied`].
    CopyRange {
        /// The file to copy from.
        from: FlareRef,
        /// Where in it, in bytes.
        from_offset: u64,
        /// The file to copy into.
        flare: FlareRef,
        /// Where in it, in bytes.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// The next byte of data, or of a hole, from an offset on (`SEEK_DATA`, `SEEK_HOLE`).
    /// [`Answer::Offset`], or `NoData` past the last.
    Seek {
        /// The file.
        flare: FlareRef,
        /// From here, in bytes.
        offset: u64,
        /// Data is looked for; otherwise a hole. The end of the file is one.
        data: bool,
    },
    /// Puts everything about the flare on the disks of all in-sync copies. [`Answer::Done`].
    Fsync {
        /// The file or directory.
        flare: FlareRef,
        /// Content and size only (fdatasync).
        data_only: bool,
    },
    /// Lists a directory. [`Answer::Entries`].
    ReadDir {
        /// The directory.
        dir: FlareRef,
        /// Entries after this cookie; 0 from the start.
        after: u64,
        /// Most bytes of names and fixed parts in the answer.
        max_bytes: u32,
    },
    /// The target of a symbolic link. [`Answer::Target`].
    ReadLink(FlareRef),
    /// Value of an extended attribute. [`Answer::Value`].
    GetXattr(FlareRef, #[serde(with = "serde_bytes")] Vec<u8>),
    /// Sets an extended attribute. [`Answer::Done`].
    SetXattr(
        FlareRef,
        #[serde(with = "serde_bytes")] Vec<u8>,
        #[serde(with = "serde_bytes")] Vec<u8>,
        XattrMode,
    ),
    /// Names of the extended attributes, each ended by NUL. [`Answer::Value`].
    ListXattr(FlareRef),
    /// Removes an extended attribute. [`Answer::Done`].
    RemoveXattr(FlareRef, #[serde(with = "serde_bytes")] Vec<u8>),
    /// Space and counts of this volcano (the client adds up all). [`Answer::Space`].
    StatFs,
    /// Everything known of a flare, for `inspect`. [`Answer::Inspection`].
    Inspect(Key),
    /// Nothing: keeps the leases of the session valid. [`Answer::Done`].
    Renew,
    /// What the volcano asked holds, for `magma fsck`; alone in its request, root only.
    /// [`Answer::Fsck`].
    FsckAsk(fsck::FsckAsk),
    /// A repair of `magma fsck`, root only. [`Answer::Done`].
    FsckRepair(fsck::FsckRepair),
    /// Is there a lock that keeps this one from being set? [`Answer::Lock`].
    GetLock {
        /// The file.
        flare: FlareRef,
        /// The lock.
        lock: LockSpec,
        /// How it is wanted.
        kind: LockKind,
    },
    /// Sets or releases a lock. [`Answer::LockSet`], or `WouldBlock`, `Deadlock`, `NoLocks`.
    SetLock {
        /// The file.
        flare: FlareRef,
        /// The lock.
        lock: LockSpec,
        /// How; none releases.
        kind: Option<LockKind>,
        /// Counts what the session asks about locks: what comes late is `Overtaken`.
        number: u64,
        /// Wait for it, under this number of the session's.
        #[serde(default)]
        wait: Option<u64>,
    },
    /// Ends a wait for a lock. [`Answer::Done`], or [`Answer::LockSet`] when it was granted before.
    CancelLock {
        /// The file.
        flare: FlareRef,
        /// The lock.
        lock: LockSpec,
        /// How it was wanted.
        kind: LockKind,
        /// As in [`Op::SetLock`].
        number: u64,
        /// The number of the wait.
        wait: u64,
    },
}

/// A lock, as a session names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSpec {
    /// The kernel's number of the process, or the open file, that is to hold it.
    pub owner: u64,
    /// The process.
    pub pid: u32,
    /// Where.
    pub range: Range,
}

impl LockSpec {
    /// The lock of that session.
    pub fn of(self, session: SessionId, kind: LockKind) -> Lock {
        Lock {
            owner: LockOwner(session, self.owner),
            pid: self.pid,
            kind,
            range: self.range,
        }
    }
}

impl Op {
    /// The flares that it changes, as far as they are known beforehand: leases on them are
    /// recalled first. None when it changes nothing.
    pub fn changes(&self) -> [Option<Key>; 3] {
        match self {
            Op::SetAttr(flare, _)
            | Op::Write { flare, .. }
            | Op::Allocate { flare, .. }
            | Op::CopyRange { flare, .. }
            | Op::SetXattr(flare, ..)
            | Op::RemoveXattr(flare, _)
            | Op::Open {
                flare,
                truncate: true,
                ..
            } => [Some(flare.key()), None, None],
            Op::Create { parent, .. } => [Some(parent.key()), None, None],
            Op::Link { flare, parent, .. }
            | Op::Unlink { flare, parent, .. }
            | Op::Rmdir { flare, parent, .. } => [Some(flare.key()), Some(parent.key()), None],
            Op::Rename {
                from_dir,
                moved,
                to_dir,
                ..
            } => [Some(from_dir.key()), Some(moved.key()), Some(to_dir.key())],
            Op::FsckRepair(repair) => [repair.key(), None, None],
            Op::Open { .. }
            | Op::Guess { .. }
            | Op::LookupEntry { .. }
            | Op::GetAttr(_)
            | Op::GetRoot
            | Op::GetAttrs(_)
            | Op::Hold(..)
            | Op::Read { .. }
            | Op::Seek { .. }
            | Op::Fsync { .. }
            | Op::ReadDir { .. }
            | Op::ReadLink(_)
            | Op::GetXattr(..)
            | Op::ListXattr(_)
            | Op::StatFs
            | Op::Renew
            | Op::FsckAsk(_)
            | Op::GetLock { .. }
            | Op::SetLock { .. }
            | Op::CancelLock { .. }
            | Op::Inspect(_) => [None; 3],
        }
    }

    /// Whether it changes anything, and so needs exactly-once.
    pub fn is_mutation(&self) -> bool {
        self.changes().iter().any(Option::is_some)
    }
}

/// An entry as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedEntry {
    /// The name.
    pub name: Name,
    /// The flare.
    pub child: FlareRef,
    /// Its type.
    pub kind: Kind,
    /// The readdir offset to go on after this entry.
    pub cookie: u64,
}

/// Space of one volcano.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that the storage can hold in all.
    pub total: u64,
    /// Bytes free for anyone.
    pub free: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
    /// Flares that this volcano owns.
    pub flares: u64,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, nothing to tell.
    Done,
    /// Attributes (boxed: it is the largest).
    Attr(Box<Attr>),
    /// A flare has a name more.
    Linked {
        /// The flare's attributes.
        attr: Box<Attr>,
        /// Those of the directory after the change, where they are known.
        dir: Option<Box<Attr>>,
    },
    /// A flare has a name less.
    Unlinked {
        /// The directory's attributes after the change, where they are known.
        dir: Option<Box<Attr>>,
    },
    /// Attributes in the order asked.
    Attrs(Vec<Result<Attr, OpError>>),
    /// The guess is not known to be right: the parent's entry decides.
    AskParent,
    /// What a name stands for; attributes where this volcano owns the flare too.
    Entry {
        /// The flare.
        child: FlareRef,
        /// Its type.
        kind: Kind,
        /// Its attributes, if this volcano could answer for them.
        attr: Option<Box<Attr>>,
    },
    /// Content: the next `len` bytes of the payload; fewer than asked at the end of the file.
    Data {
        /// How many bytes of the payload.
        len: u32,
        /// The end of the file was reached.
        eof: bool,
        /// The flare's last change when the content was read.
        version: Stamp,
        /// The time of the last read, which this one may have moved. It changes no version.
        atime: Timestamp,
    },
    /// Content was written.
    Written {
        /// Where it went (append).
        offset: u64,
        /// The size afterwards.
        size: u64,
    },
    /// Content was copied.
    Copied {
        /// How many bytes: fewer than asked where the source ends.
        len: u32,
    },
    /// A place in the content.
    Offset(u64),
    /// Entries of a directory.
    Entries {
        /// In order of cookie.
        list: Vec<ListedEntry>,
        /// Nothing comes after these.
        end: bool,
    },
    /// Target of a symbolic link.
    Target(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Value of an extended attribute, or the list of names.
    Value(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Space.
    Space(Space),
    /// For `inspect`.
    Inspection(Box<Inspection>),
    /// For `fsck`.
    Fsck(Box<fsck::FsckTold>),
    /// The lock that is in the way, if there is one.
    Lock(Option<Lock>),
    /// What became of a lock.
    LockSet(LockOutcome),
}

/// Everything that a volcano knows of a flare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The row.
    pub row: crate::flare::FlareRow,
    /// Its names.
    pub links: Vec<crate::flare::LinkRow>,
    /// Names of its extended attributes.
    pub xattrs: Vec<serde_bytes::ByteBuf>,
    /// Where its content lies on the volcano that answers.
    pub content: String,
    /// The volcano that answers.
    pub volcano: String,
}
