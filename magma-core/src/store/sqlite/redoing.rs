//! What the redo log holds is applied again: after a crash, and after a batch that failed.

use super::{META_REDO, SqliteStore, Transaction};
use crate::effect::{Effect, Record};
use crate::store::redo::{self, Change, Contents, Mark};
use crate::store::{StoreError, StoreResult};

impl SqliteStore {
    /// Up to where SQLite has what the redo log holds. None in a store that never had one.
    fn mark(&self) -> StoreResult<Option<Mark>> {
        match self.meta(META_REDO)? {
            None => Ok(None),
            Some(bytes) => Mark::from_bytes(&bytes)
                .map(Some)
                .ok_or_else(|| self.damaged("meta", "the mark of the redo log is not 20 bytes")),
        }
    }

    /// At the start: what SQLite does not have is applied, and content files go whose flares the
    /// log has dropped. Nothing is appended before everything that SQLite says it has is on the disk.
    pub(super) fn redo_at_start(&mut self) -> StoreResult<()> {
        let Some(mark) = self.mark()? else {
            // Whatever lies in the file is another store's.
            return self.settle_under(Mark::of_generation(1));
        };
        let Some(log) = &mut self.redo else {
            return Ok(());
        };
        let frames = log.after(mark)?;
        let short = log.is_short(mark);
        if !frames.is_empty() {
            tracing::info!(
                batches = frames.len(),
                "the store was not closed in order: the redo log is applied"
            );
        }
        self.redo_all(&frames)?;
        self.bury();
        self.unsettled.bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        if frames.is_empty() && !short {
            return self.sync_wal();
        }
        // The log begins anew: a loss of power may have taken frames that SQLite has, and then what
        // came after them would not be found; or a sync of the file had failed, after which the system
        // takes what it could not write for written.
        match self.settle_and(true) {
            Err(StoreError::Full { .. }) if !short => self.sync_wal(),
            settled => settled,
        }
    }

    /// After SQLite went back to its last commit.
    pub(super) fn redo_again(&mut self) -> StoreResult<()> {
        let frames = match self.path.parent() {
            Some(directory) if self.redo.is_some() => self.unredone(directory)?,
            Some(_) | None => Vec::new(),
        };
        self.redo_all(&frames)?;
        // Their files went when the batches were kept.
        self.doomed.clear();
        Ok(())
    }

    /// The frames that SQLite does not have.
    pub(super) fn unredone(&self, directory: &std::path::Path) -> StoreResult<Vec<Vec<u8>>> {
        match self.mark()? {
            Some(mark) => redo::peek(directory, mark),
            None => Ok(Vec::new()),
        }
    }

    /// Applies frames in a transaction that stays open.
    pub(super) fn redo_all(&mut self, frames: &[Vec<u8>]) -> StoreResult<()> {
        self.unsettled.operations = 0;
        if frames.is_empty() {
            return Ok(());
        }
        if self.transaction.get() == Transaction::None {
            self.control("BEGIN IMMEDIATE")?;
        }
        self.transaction.set(Transaction::Write);
        self.redoing = true;
        let redone = frames
            .iter()
            .flat_map(|frame| redo::changes(frame))
            .try_for_each(|change| match change {
                Ok(change) => self.redo_change(change),
                Err(reason) => Err(self.damaged("redo", reason)),
            });
        self.redoing = false;
        redone
    }

    fn redo_change(&mut self, change: Change<'_>) -> StoreResult<()> {
        match change {
            Change::Apply(encoded, contents) => {
                let mut record: Record = self.decoded("redo", encoded)?;
                redo::fill_in(&mut record.effects, &contents);
                self.apply_record(&record, encoded)
            }
            Change::Rows(slice, encoded, contents) => {
                let effects = self.redone_effects(encoded, &contents)?;
                self.apply_effects(slice, &effects)
            }
            Change::Position(slice, epoch, seq) => self.put_position(slice, (epoch, seq)),
            Change::Cut(from, to, start, end, epoch, seq) => {
                self.cut_rows(from, to, start, end, (epoch, seq))
            }
            Change::Clear(start, end, limit) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                self.clear_rows(start, end, limit).map(|_| ())
            }
            Change::Forget(slice) => self.drop_slice(slice),
            Change::Trim(slice, upto) => self.drop_journal(slice, upto),
            Change::Meta(name, value) => self.put_meta(name, value),
        }
    }

    fn redone_effects(&self, encoded: &[u8], contents: &Contents<'_>) -> StoreResult<Vec<Effect>> {
        let mut effects: Vec<Effect> = self.decoded("redo", encoded)?;
        redo::fill_in(&mut effects, contents);
        Ok(effects)
    }
}
