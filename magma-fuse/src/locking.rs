//! Locks in terms of the kernel's handles. The kernel names a lock owner: for fcntl(2) a process,
//! for flock(2) and open file description locks an open file.

use fuser::FileHandle;
use std::future::Future;
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::ids::FlareRef;
use magma_core::limits::{FILE_SIZE_MAX, LOCK_CLOSE_MS};
use magma_core::locks::{LockKind, Range};
use magma_core::op::{Credentials, LockSpec};

use crate::client::locked;
use crate::client::locks::Wanted;
use crate::handles::{Handle, OpenFile};
use crate::signals::WaitingThread;
use crate::volume::Volume;

/// A lock as the kernel asks for it.
#[derive(Clone, Copy, Debug)]
pub struct KernelLock {
    /// The lock owner.
    pub owner: u64,
    /// The process.
    pub pid: u32,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
}

impl KernelLock {
    /// What it stands for; no kind when it releases.
    fn unpack(self) -> OpResult<(LockSpec, Option<LockKind>)> {
        let kind = match self.kind {
            libc::F_RDLCK => Some(LockKind::Read),
            libc::F_WRLCK => Some(LockKind::Write),
            libc::F_UNLCK => None,
            _ => return Err(OpError::Invalid),
        };
        let lock = LockSpec {
            owner: self.owner,
            pid: self.pid,
            range: Range::new(self.start, self.end).ok_or(OpError::Invalid)?,
        };
        Ok((lock, kind))
    }
}

impl Volume {
    /// The lock that is in the way, or the same with `F_UNLCK`.
    pub async fn get_lock(
        &self,
        fh: FileHandle,
        lock: KernelLock,
        cred: &Credentials,
    ) -> OpResult<KernelLock> {
        let free = KernelLock {
            kind: libc::F_UNLCK,
            ..lock
        };
        let (spec, Some(kind)) = lock.unpack()? else {
            return Ok(free);
        };
        let flare = self.lockable(fh)?;
        let wanted = Wanted {
            flare,
            lock: spec,
            kind,
        };
        let Some(held) = self.client.get_lock(wanted, cred).await? else {
            return Ok(free);
        };
        Ok(KernelLock {
            owner: held.owner.1,
            pid: held.pid,
            start: held.range.start.min(FILE_SIZE_MAX),
            // The kernel takes no greater one.
            end: held.range.end.min(FILE_SIZE_MAX),
            kind: match held.kind {
                LockKind::Read => libc::F_RDLCK,
                LockKind::Write => libc::F_WRLCK,
            },
        })
    }

    /// Sets or releases a lock; waits for it if a thread is given, until that has a signal.
    pub async fn set_lock(
        &self,
        fh: FileHandle,
        lock: KernelLock,
        waits: Option<WaitingThread>,
        cred: &Credentials,
    ) -> OpResult<()> {
        let (spec, kind) = lock.unpack()?;
        let flare = self.lockable(fh)?;
        if kind.is_some()
            && let Some(Handle::File(file)) = self.opened_as(fh).as_deref()
        {
            self.still_locked(file)?;
            locked(&file.lockers).insert(spec.owner);
        }
        match (kind, waits) {
            (Some(kind), Some(mut thread)) => {
                let wanted = Wanted {
                    flare,
                    lock: spec,
                    kind,
                };
                let interrupted = move || thread.is_interrupted();
                self.client.wait_lock(wanted, cred, interrupted).await
            }
            _ => self.client.set_lock(flare, spec, kind, cred).await,
        }
    }

    fn lockable(&self, fh: FileHandle) -> OpResult<FlareRef> {
        match self.opened_as(fh).as_deref() {
            Some(Handle::File(file)) => Ok(file.flare),
            Some(_) => Err(OpError::NoLocks),
            None => Err(OpError::Stale),
        }
    }

    /// What a close(2) of a process has to wait for: the end of its locks on the file, whichever
    /// of its descriptors they were made through. None when it has none.
    pub fn close_locks(
        &self,
        fh: FileHandle,
        owner: u64,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let handle = self.opened_as(fh)?;
        let Handle::File(file) = handle.as_ref() else {
            return None;
        };
        locked(&file.lockers).remove(&owner);
        self.client.locker_closed(file.flare, owner);
        if !self.client.holds_locks(file.flare, owner) {
            return None;
        }
        let (client, flare, cred) = (self.client.clone(), file.flare, file.opener.clone());
        let released = self.client.spawn(async move {
            let released = client.set_lock(flare, everything(owner), None, &cred).await;
            report(flare, released);
        });
        // close(2) cannot be interrupted: it goes on by itself after a while.
        let limit = Duration::from_millis(LOCK_CLOSE_MS);
        Some(async move {
            let _ = tokio::time::timeout(limit, released).await;
        })
    }

    /// Ends what was locked through an open file that is let go of, by flock(2) and the like.
    pub(crate) async fn release_locks(
        client: &crate::client::Client,
        file: &OpenFile,
        owner: Option<u64>,
    ) {
        let mut owners = std::mem::take(&mut *locked(&file.lockers));
        owners.extend(owner);
        for owner in owners {
            client.locker_closed(file.flare, owner);
            if client.holds_locks(file.flare, owner) {
                let all = everything(owner);
                let released = client.set_lock(file.flare, all, None, &file.opener).await;
                report(file.flare, released);
            }
        }
    }
}

fn everything(owner: u64) -> LockSpec {
    LockSpec {
        owner,
        pid: 0,
        range: Range::ALL,
    }
}

fn report(flare: FlareRef, released: OpResult<()>) {
    if let Err(error) = released {
        tracing::debug!(%flare, %error, "locks are released later");
    }
}
