//! Errors of an operation, and the one table that maps them to errno.

use serde::{Deserialize, Serialize};

/// Why an operation on a flare did not happen. It crosses the wire as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpError {
    /// There is no such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is there already.
    #[error("it exists already")]
    Exists,
    /// A component is not a directory.
    #[error("not a directory")]
    NotDirectory,
    /// A directory, where none is allowed.
    #[error("it is a directory")]
    IsDirectory,
    /// A directory that still has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The permission bits forbid it.
    #[error("permission denied")]
    Access,
    /// Only the owner of the flare, or root, may do this.
    #[error("operation not permitted")]
    NotPermitted,
    /// An argument makes no sense for this object.
    #[error("invalid argument")]
    Invalid,
    /// A name of more than 255 bytes, or a path of more than 4095.
    #[error("the name is too long")]
    NameTooLong,
    /// The flare has as many links as it may have.
    #[error("too many links")]
    TooManyLinks,
    /// Larger than the storage beneath allows.
    #[error("the file is too large")]
    TooBig,
    /// The storage of a volcano that must hold this is full.
    #[error("no space left on the volcano")]
    NoSpace,
    /// The flare of this key and incarnation is gone.
    #[error("the object is gone")]
    Stale,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The buffer or value does not fit.
    #[error("the value does not fit")]
    Range,
    /// Nothing but a hole, or the end, from this offset on.
    #[error("no data from this offset on")]
    NoData,
    /// More than an attribute, list or message may hold.
    #[error("the argument is too big")]
    ArgumentTooBig,
    /// Magma cannot do this (yet).
    #[error("operation not supported")]
    Unsupported,
    /// A rename would make a directory its own ancestor, or the like.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// Read-only: `/.dht`.
    #[error("it is read-only")]
    ReadOnly,
    /// Too many requests wait already; the client tries again by itself.
    #[error("the volcano is busy")]
    Busy,
    /// Another transaction is in the way; whoever drives this one tries again.
    #[error("another transaction is in the way")]
    Conflict,
    /// The birth key of the path is taken: the client tries the next candidate.
    #[error("the key is taken")]
    KeyTaken,
    /// The volcano cannot serve this key now (loading, moving, restarting): try again.
    #[error("not ready, try again")]
    TryAgain,
    /// The session has ended: its handles are dead.
    #[error("the session has ended")]
    SessionEnded,
    /// A request with a lower sequence than its slot has seen.
    #[error("the request was overtaken")]
    Overtaken,
    /// Passed on too often: the topology is in motion or in a loop.
    #[error("the request was passed on too often")]
    TooManyHops,
    /// No volcano that could answer was reached in time.
    #[error("no volcano answered in time")]
    Unreachable,
    /// A disk failed.
    #[error("input/output error")]
    Io,
    /// A lock of another process is in the way.
    #[error("it is locked")]
    WouldBlock,
    /// Waiting for this lock would wait for ever.
    #[error("a deadlock")]
    Deadlock,
    /// More locks, or waits for locks, than there may be.
    #[error("too many locks")]
    NoLocks,
    /// A signal has ended the wait.
    #[error("interrupted")]
    Interrupted,
}

impl OpError {
    /// The errno of a failed system call. The only such table in Magma.
    pub fn errno(&self) -> i32 {
        match self {
            OpError::NotFound => libc::ENOENT,
            OpError::Exists => libc::EEXIST,
            OpError::NotDirectory => libc::ENOTDIR,
            OpError::IsDirectory => libc::EISDIR,
            OpError::NotEmpty => libc::ENOTEMPTY,
            OpError::Access => libc::EACCES,
            OpError::NotPermitted => libc::EPERM,
            OpError::Invalid => libc::EINVAL,
            OpError::NameTooLong => libc::ENAMETOOLONG,
            OpError::TooManyLinks => libc::EMLINK,
            OpError::TooBig => libc::EFBIG,
            OpError::NoSpace => libc::ENOSPC,
            OpError::Stale => libc::ESTALE,
            OpError::NoAttribute => libc::ENODATA,
            OpError::Range => libc::ERANGE,
            // lseek(2): SEEK_DATA and SEEK_HOLE past the end.
            OpError::NoData => libc::ENXIO,
            OpError::ArgumentTooBig => libc::E2BIG,
            OpError::Unsupported => libc::EOPNOTSUPP,
            OpError::IntoItself => libc::EINVAL,
            OpError::ReadOnly => libc::EROFS,
            // The client retries these by itself; what is left after its patience is an
            // I/O error to the program, which cannot do anything better with them.
            OpError::Busy
            | OpError::Conflict
            | OpError::KeyTaken
            | OpError::TryAgain
            | OpError::Overtaken
            | OpError::TooManyHops
            | OpError::SessionEnded
            | OpError::Io => libc::EIO,
            // As NFS with the soft option: the program learns that it was time, not data.
            OpError::Unreachable => libc::ETIMEDOUT,
            OpError::WouldBlock => libc::EAGAIN,
            OpError::Deadlock => libc::EDEADLK,
            OpError::NoLocks => libc::ENOLCK,
            OpError::Interrupted => libc::EINTR,
        }
    }

    /// Whether the client asks again by itself instead of telling the program.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            OpError::Busy | OpError::Conflict | OpError::TryAgain | OpError::TooManyHops
        )
    }
}

/// What an operation returns.
pub type OpResult<T> = Result<T, OpError>;
