//! Open files whose session has ended: a mount that was cut off or stopped for too long goes on with
//! another session, for which the owners have nothing open.
//!
//! What was written has been acknowledged by the volcanos, so nothing of it is lost with a session.
//! Locks are: others may have had them meanwhile, and a program that believes to hold one must not go
//! on as if it did. So a file is opened again by itself at its next use, but one that was locked
//! gives EIO to whoever had the lock until it is closed.

use fuser::FileHandle;
use std::sync::atomic::Ordering;

use magma_core::error::{OpError, OpResult};
use magma_core::ids::SessionId;

use super::Volume;
use crate::client::objects::OpenFor;
use crate::client::{Client, locked};
use crate::handles::{Handle, OpenFile};

impl Volume {
    /// Sees to it that the owner has the file open for the session that there is now.
    ///
    /// # Errors
    ///
    /// `Io` where a lock was lost, `Stale` where the file is gone: it was removed, and nobody had it
    /// open any more.
    pub(crate) async fn still_open(&self, file: &OpenFile) -> OpResult<()> {
        if is_open(file, self.client.session()) {
            return Ok(());
        }
        let _reopening = file.reopening.lock().await;
        let session = self.client.session();
        if is_open(file, session) {
            return Ok(());
        }
        let lockers = locked(&file.lockers).clone();
        let lost = |owner: &u64| self.client.has_lost_locks(file.flare, *owner);
        if lockers.iter().any(lost) {
            return Err(OpError::Io);
        }
        let how = OpenFor {
            read: !file.write,
            write: file.write,
            ..OpenFor::default()
        };
        match self.client.open(file.flare, how, &file.opener).await {
            Ok(_) => {}
            // Its mode has changed, or never allowed it (a new file may be opened for more than
            // that). The owner of the flare decides with each request, as after its own restart.
            Err(OpError::Access | OpError::NotPermitted) => {}
            Err(error) => return Err(error),
        }
        file.session.store(session.0, Ordering::Release);
        Ok(())
    }

    /// The same for a handle that may be none, or no file.
    pub(crate) async fn handle_still_open(&self, fh: Option<FileHandle>) -> OpResult<()> {
        match fh.and_then(|fh| self.opened_as(fh)).as_deref() {
            Some(Handle::File(file)) => self.still_open(file).await,
            _ => Ok(()),
        }
    }

    /// Whether an owner has to be told that this is closed.
    pub(crate) fn is_open_for(client: &Client, handle: &Handle) -> bool {
        matches!(handle, Handle::File(file) if is_open(file, client.session()))
    }
}

fn is_open(file: &OpenFile, session: SessionId) -> bool {
    file.session.load(Ordering::Acquire) == session.0
}
