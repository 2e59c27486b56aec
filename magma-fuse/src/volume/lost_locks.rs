//! Open files whose session has ended: a mount that was cut off or stopped for too long goes on with
//! another session.
//!
//! What was written has been acknowledged by the volcanos, and what is open is told to them anew, so
//! nothing of that is lost with a session. Locks are: others may have had them meanwhile, and a
//! program that believes to hold one must not go on as if it did. So whoever had locked a file gets
//! EIO from it until it is closed.

use fuser::FileHandle;
use magma_core::error::{OpError, OpResult};

use super::Volume;
use crate::client::locked;
use crate::handles::{Handle, OpenFile};

impl Volume {
    /// Sees to it that nobody works through a file who has lost a lock on it.
    ///
    /// # Errors
    ///
    /// `Io`, then.
    pub(crate) fn still_locked(&self, file: &OpenFile) -> OpResult<()> {
        let lockers = locked(&file.lockers);
        let lost = |owner: &u64| self.client.has_lost_locks(file.flare, *owner);
        match lockers.iter().any(lost) {
            true => Err(OpError::Io),
            false => Ok(()),
        }
    }

    /// The same for a handle that may be none, or no file.
    pub(crate) fn handle_still_locked(&self, fh: Option<FileHandle>) -> OpResult<()> {
        match fh.and_then(|fh| self.opened_as(fh)).as_deref() {
            Some(Handle::File(file)) => self.still_locked(file),
            _ => Ok(()),
        }
    }
}
