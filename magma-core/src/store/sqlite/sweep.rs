//! Puts content files right after operations that were not committed.
//!
//! Content is written outside the transaction. When the transaction is undone, or the process
//! ends before it commits, a file may be there that no row knows of, or hold bytes past the
//! size in the row; those would show up later, when the file grows over them and a hole
//! should read as zeros.

use std::fs;
use std::path::Path;

use super::SqliteStore;
use crate::flare::Layout;
use crate::ids::FlareRef;
use crate::store::content::io_error;
use crate::store::content::name::FileId;
use crate::store::{StoreResult, View};

impl SqliteStore {
    /// Makes the content files of a flare agree with its row as it is committed.
    pub(super) fn fit_content(&self, flare: FlareRef) -> StoreResult<()> {
        match self.flare(flare.key())? {
            Some(row) if row.inc == flare.inc() && row.layout == Layout::Segments => {
                self.content.truncate(flare, 0, row.size)
            }
            Some(_) | None => self.content.remove(flare),
        }
    }

    /// Goes through all content files after a stop that was not orderly: one look at a
    /// directory entry, one at a row and one at a file for each.
    pub(super) fn sweep(&self) -> StoreResult<()> {
        let directory = self.content.directory();
        let failed = |path: &Path, source| io_error("read", path, source);
        for part in fs::read_dir(directory).map_err(|source| failed(directory, source))? {
            let part = part.map_err(|source| failed(directory, source))?.path();
            if !part.is_dir() {
                continue;
            }
            for file in fs::read_dir(&part).map_err(|source| failed(&part, source))? {
                let file = file.map_err(|source| failed(&part, source))?;
                match file.file_name().to_str().and_then(FileId::of_any) {
                    Some(FileId(flare, _)) => self.fit_content(flare)?,
                    // Not ours, so not ours to remove.
                    None => tracing::warn!(path = %file.path().display(), "an unknown file"),
                }
            }
        }
        Ok(())
    }
}
