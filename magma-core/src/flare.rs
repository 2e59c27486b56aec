//! The stored object: what a volcano holds under a key.

pub mod acl;
pub mod name;
pub mod path;

use serde::{Deserialize, Serialize};

use crate::ids::{FlareRef, SessionId, Slot, SlotSeq, Stamp, TxId};
use crate::key::Key;
use crate::time::Timestamp;
use acl::Acls;
pub use name::Name;

/// What a flare is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The file type bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            Kind::File => libc::S_IFREG,
            Kind::Directory => libc::S_IFDIR,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDevice => libc::S_IFCHR,
            Kind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// From the file type bits of a mode; no bits mean a regular file, as mknod(2) has it.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG => Some(Kind::File),
            libc::S_IFDIR => Some(Kind::Directory),
            libc::S_IFLNK => Some(Kind::Symlink),
            libc::S_IFIFO => Some(Kind::Fifo),
            libc::S_IFSOCK => Some(Kind::Socket),
            libc::S_IFCHR => Some(Kind::CharDevice),
            libc::S_IFBLK => Some(Kind::BlockDevice),
            _ => None,
        }
    }

    /// The letter of `ls -l`.
    pub fn letter(self) -> char {
        match self {
            Kind::File => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
        }
    }
}

/// Where the content of a regular file lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// In the store's row, up to [`crate::limits::INLINE_MAX`] bytes. Targets of symbolic links too.
    #[default]
    Inline,
    /// In content files, one a segment (for now there is only segment 0).
    Segments,
}

/// Attributes as stat(2) shows them, and what else belongs to the flare as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlareRow {
    /// The key.
    pub key: Key,
    /// The birth: (slice, epoch, sequence).
    pub inc: Stamp,
    /// The last change of anything about this flare.
    pub version: Stamp,
    /// The type.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (12 bits).
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Size in bytes: content, or length of a symlink's target; for a directory a notional one.
    pub size: u64,
    /// Count of links: names, and for a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// Device number in the encoding of the kernel's `new_encode_dev` (devices only).
    pub rdev: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Birth.
    pub crtime: Timestamp,
    /// Where the content is.
    pub layout: Layout,
    /// Directory: how many entries.
    pub entries: u64,
    /// Directory: the cookie that the next entry gets (readdir offset; never used again).
    pub next_cookie: u64,
    /// The transaction under which the flare was born, until that is settled.
    pub nascent: Option<TxId>,
    /// Until then: the mode that was asked for, before the umask, which counts for nothing where the
    /// directory has a default access control list.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u32,
    /// Its access control lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acls: Option<Box<Acls>>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl FlareRow {
    /// Key and incarnation.
    pub fn flare_ref(&self) -> FlareRef {
        FlareRef(self.key, self.inc)
    }

    /// `st_mode`.
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// What a client is told of a flare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Key and incarnation.
    pub flare: FlareRef,
    /// The last change.
    pub version: Stamp,
    /// The type.
    pub kind: Kind,
    /// Permission bits (12).
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Count of links.
    pub nlink: u32,
    /// Device number (kernel's `new_encode_dev`).
    pub rdev: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Birth.
    pub crtime: Timestamp,
    /// Access control lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acls: Option<Box<Acls>>,
}

impl Attr {
    /// From a row and the blocks that its content occupies.
    pub fn of(row: &FlareRow, blocks: u64) -> Attr {
        Attr {
            flare: row.flare_ref(),
            version: row.version,
            kind: row.kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            size: row.size,
            blocks,
            nlink: row.nlink,
            rdev: row.rdev,
            atime: row.atime,
            mtime: row.mtime,
            ctime: row.ctime,
            crtime: row.crtime,
            acls: row.acls.clone(),
        }
    }

    /// Whether these are the attributes of the same flare as of the same change.
    pub fn is_as(&self, other: &Attr) -> bool {
        self.flare == other.flare && self.version == other.version && self.atime == other.atime
    }

    /// The inode number.
    pub fn ino(&self) -> u64 {
        self.flare.key().ino()
    }
}

/// An entry of a directory, stored with the directory's flare: the truth about names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRow {
    /// The name.
    pub name: Name,
    /// The flare that it names.
    pub child: FlareRef,
    /// The type of that flare.
    pub kind: Kind,
    /// The readdir offset, from the directory's `next_cookie`.
    pub cookie: u64,
    /// The change that put or touched the entry.
    pub version: Stamp,
    /// A rename that has prepared this entry and whose decision is not known here yet.
    pub prepared: Option<Prepared>,
}

/// A lock of a two-phase transaction on an entry or a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The transaction.
    pub tx: TxId,
    /// The key at whose owner the decision is recorded: the destination directory.
    pub decider: Key,
    /// What the entry becomes if the transaction commits; `None` removes it.
    pub becomes: Option<(FlareRef, Kind)>,
}

/// State of a link, as the flare's own owner knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// The parent's entry is there: a guess may be answered from it.
    Settled,
    /// An insert is under way at the parent's owner, driven from here.
    Nascent(TxId),
    /// A removal is under way at the parent's owner, driven from here.
    Going(TxId),
    /// A rename would take this link away; the key is the one where it is decided.
    HeldOld(TxId, Key),
    /// A rename would add this link; the key is the one where it is decided.
    HeldNew(TxId, Key),
}

/// A name of a flare, stored with the flare: where its entries are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The directory.
    pub parent: FlareRef,
    /// The name in it.
    pub name: Name,
    /// Whether the guess may trust it.
    pub state: LinkState,
}

/// The last reply of a slot, kept so that a repeated request gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyRow {
    /// The key that the request was about; the row moves with it.
    pub key: Key,
    /// The session.
    pub session: SessionId,
    /// The slot.
    pub slot: Slot,
    /// The sequence of the request.
    pub seq: SlotSeq,
    /// Which step of the transaction this answers: 0 is the client's own request.
    pub step: u8,
    /// The encoded answer.
    #[serde(with = "serde_bytes")]
    pub reply: Vec<u8>,
}

/// Something that another key's owner must still be told, until it has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// The key with which the row lives.
    pub key: Key,
    /// The transaction.
    pub tx: TxId,
    /// Whom to tell.
    pub to: Key,
    /// The message, encoded as [`crate::wire::peer::StepBody`].
    #[serde(with = "serde_bytes")]
    pub step: Vec<u8>,
}

/// The decision of a transaction, recorded at the owner of its commit point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// It happened.
    Committed,
    /// It did not, and never will: a later step of this transaction is refused.
    Aborted,
}
