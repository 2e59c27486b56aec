//! One question to the owner of a key, and its answer in the type that belongs to it.

use std::time::Duration;

use bytes::Bytes;
use magma_core::error::OpError;
use magma_core::flare::{Attr, Name};
use magma_core::ids::FlareRef;
use magma_core::key::{self, Key};
use magma_core::limits::{CONSOLE_PAGE_BYTES, CONSOLE_READ_BYTES, CONSOLE_TRIES};
use magma_core::op::{Answer, Inspection, ListedEntry, Op};

use super::backend::Backend;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The volcano is not up yet; with its phase.
    #[error("this volcano is {0}: try again when `status` says ready")]
    NotReady(String),
    /// The owner says no, or could not be asked.
    #[error("{0}{hint}", hint = hint(.0))]
    Op(#[from] OpError),
    /// An answer to another question: a bug, or a volcano of another version.
    #[error("the volcano gave an answer that does not fit: its log may say more")]
    Misfit,
}

/// What a person can do about it; begins with a colon.
fn hint(error: &OpError) -> &'static str {
    match error {
        OpError::NotFound => ": `ls` shows what is there",
        OpError::NotDirectory => ": `inspect` shows what it is",
        OpError::IsDirectory => ": `ls` lists it",
        OpError::Stale => ": somebody has removed it meanwhile",
        OpError::NoSpace => ": `lava` shows the free space of each",
        OpError::Unreachable => ": `lava` shows who is alive",
        OpError::Busy | OpError::Conflict | OpError::TryAgain | OpError::Overtaken => {
            ": try again in a moment"
        }
        OpError::TooManyHops => ": `status` shows whether the lava is in motion",
        OpError::Io => ": the log of its volcano says which disk (`inspect` shows the owner)",
        OpError::ReadOnly => ": the lava alone decides what is in it",
        OpError::NotEmpty
        | OpError::Exists
        | OpError::Access
        | OpError::NotPermitted
        | OpError::Invalid
        | OpError::NameTooLong
        | OpError::TooManyLinks
        | OpError::TooBig
        | OpError::NoAttribute
        | OpError::NoData
        | OpError::Range
        | OpError::ArgumentTooBig
        | OpError::Unsupported
        | OpError::IntoItself
        | OpError::KeyTaken
        | OpError::WouldBlock
        | OpError::Deadlock
        | OpError::NoLocks
        | OpError::Interrupted
        | OpError::SessionEnded => "",
    }
}

/// Sends one operation; repeats it a few times where that is all that it takes. Operations
/// that fail in that way have changed nothing.
async fn one(backend: &dyn Backend, key: Key, op: Op) -> Result<(Answer, Bytes), AskError> {
    let mut tries = 1;
    loop {
        if !backend.is_ready() {
            return Err(AskError::NotReady(backend.phase()));
        }
        let error = match backend.request(key, vec![op.clone()]).await {
            Ok((mut results, payload)) => match results.pop() {
                Some(Ok(answer)) => return Ok((answer, payload)),
                Some(Err(error)) => error,
                None => return Err(AskError::Misfit),
            },
            Err(error) => error,
        };
        if !error.is_transient() || tries >= CONSOLE_TRIES {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(50 << tries)).await;
        tries += 1;
    }
}

async fn attr(backend: &dyn Backend, key: Key, op: Op) -> Result<Attr, AskError> {
    match one(backend, key, op).await?.0 {
        Answer::Attr(attr) => Ok(*attr),
        _ => Err(AskError::Misfit),
    }
}

/// Attributes of the root.
pub async fn root(backend: &dyn Backend) -> Result<Attr, AskError> {
    attr(backend, key::ROOT, Op::GetRoot).await
}

/// Attributes of a flare.
pub async fn get_attr(backend: &dyn Backend, flare: FlareRef) -> Result<Attr, AskError> {
    attr(backend, flare.key(), Op::GetAttr(flare)).await
}

/// What a name stands for, with its attributes: those that the parent knows better than the
/// flare's owner, or else the owner's.
pub async fn lookup(backend: &dyn Backend, dir: FlareRef, name: &Name) -> Result<Attr, AskError> {
    let name = name.clone();
    match one(backend, dir.key(), Op::LookupEntry { dir, name })
        .await?
        .0
    {
        Answer::Entry {
            attr: Some(attr), ..
        } => Ok(*attr),
        Answer::Entry { child, .. } => get_attr(backend, child).await,
        _ => Err(AskError::Misfit),
    }
}

/// The entries of a directory after a cookie, and whether they are the last.
pub async fn read_dir(
    backend: &dyn Backend,
    dir: FlareRef,
    after: u64,
) -> Result<(Vec<ListedEntry>, bool), AskError> {
    let op = Op::ReadDir {
        dir,
        after,
        max_bytes: CONSOLE_PAGE_BYTES,
    };
    match one(backend, dir.key(), op).await?.0 {
        // A page that neither ends nor goes on would be asked for again and again.
        Answer::Entries { list, end: false } if list.last().is_none_or(|e| e.cookie <= after) => {
            Err(AskError::Misfit)
        }
        Answer::Entries { list, end } => Ok((list, end)),
        _ => Err(AskError::Misfit),
    }
}

/// Attributes of flares that one volcano owns, in order.
pub async fn attrs(
    backend: &dyn Backend,
    flares: Vec<FlareRef>,
) -> Result<Vec<Result<Attr, OpError>>, AskError> {
    let Some(key) = flares.first().map(|flare| flare.key()) else {
        return Ok(Vec::new());
    };
    let asked = flares.len();
    match one(backend, key, Op::GetAttrs(flares)).await?.0 {
        Answer::Attrs(attrs) if attrs.len() == asked => Ok(attrs),
        _ => Err(AskError::Misfit),
    }
}

/// Content from an offset, and whether its end was reached.
pub async fn read(
    backend: &dyn Backend,
    flare: FlareRef,
    offset: u64,
    at_most: u64,
) -> Result<(Bytes, bool), AskError> {
    let len = u64::from(CONSOLE_READ_BYTES).min(at_most) as u32;
    let op = Op::Read { flare, offset, len };
    match one(backend, flare.key(), op).await? {
        (Answer::Data { len: got, eof, .. }, payload) => {
            let got = usize::try_from(got).unwrap_or(usize::MAX);
            let fits = got == payload.len() && got <= len as usize;
            // Neither bytes nor the end would be asked for again and again.
            if !fits || (got == 0 && !eof) {
                return Err(AskError::Misfit);
            }
            Ok((payload, eof))
        }
        _ => Err(AskError::Misfit),
    }
}

/// The target of a symbolic link.
pub async fn read_link(backend: &dyn Backend, flare: FlareRef) -> Result<Vec<u8>, AskError> {
    match one(backend, flare.key(), Op::ReadLink(flare)).await?.0 {
        Answer::Target(target) => Ok(target),
        _ => Err(AskError::Misfit),
    }
}

/// Removes a name.
pub async fn unlink(
    backend: &dyn Backend,
    flare: FlareRef,
    parent: FlareRef,
    name: Name,
) -> Result<(), AskError> {
    let op = Op::Unlink {
        flare,
        parent,
        name,
    };
    match one(backend, flare.key(), op).await?.0 {
        Answer::Done | Answer::Unlinked { .. } => Ok(()),
        _ => Err(AskError::Misfit),
    }
}

/// All that the owner of a key knows of its flare.
pub async fn inspect(backend: &dyn Backend, key: Key) -> Result<Inspection, AskError> {
    match one(backend, key, Op::Inspect(key)).await?.0 {
        Answer::Inspection(inspection) => Ok(*inspection),
        _ => Err(AskError::Misfit),
    }
}
