//! [`Store`] over the tables in memory.

use std::path::PathBuf;

use super::MemoryStore;
use super::read::META_CLOCK;
use crate::effect::{ContentWrite, Effect, Record};
use crate::flare::{FlareRow, Layout};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;
use crate::limits::FILE_SIZE_MAX;
use crate::op::Space;
use crate::store::content::ContentFiles;
use crate::store::{Durability, Store, StoreError, StoreResult, View, rules};

/// What the endless disk says of itself, in bytes and in inodes.
const ENDLESS: u64 = 1 << 50;

impl MemoryStore {
    fn refuse_after_failure(&self) -> StoreResult<()> {
        if !self.failed {
            return Ok(());
        }
        Err(StoreError::Io {
            action: "commit to",
            path: PathBuf::from("memory"),
            source: std::io::Error::other("an earlier write of this transaction failed"),
        })
    }

    fn apply_effects(&mut self, slice: SliceId, effects: &[Effect]) -> StoreResult<()> {
        self.refuse_after_failure()?;
        for effect in effects {
            let result = self.apply_effect(slice, effect);
            if result.is_err() {
                self.failed = true;
                self.undo();
                return result;
            }
        }
        Ok(())
    }

    fn apply_effect(&mut self, slice: SliceId, effect: &Effect) -> StoreResult<()> {
        match effect {
            Effect::PutFlare(row) => self.put_flare(row),
            Effect::DropFlare(flare) => self.drop_flare(*flare),
            Effect::PutEntry(dir, row) => self
                .entries
                .put((*dir, row.name.as_bytes().to_vec()), (**row).clone()),
            Effect::DropEntry(dir, name) => {
                self.entries.remove(&(*dir, name.as_bytes().to_vec()));
            }
            Effect::PutLink(key, row) => self.links.put(
                (*key, row.parent, row.name.as_bytes().to_vec()),
                (**row).clone(),
            ),
            Effect::DropLink(key, parent, name) => {
                self.links
                    .remove(&(*key, *parent, name.as_bytes().to_vec()));
            }
            Effect::PutXattr(key, name, value) => {
                self.xattrs.put((*key, name.clone()), value.clone());
            }
            Effect::DropXattr(key, name) => self.xattrs.remove(&(*key, name.clone())),
            Effect::Write(write) => return self.write_content(write),
            Effect::Truncate(flare, size) => self.truncate(*flare, *size),
            Effect::Punch(flare, offset, len) => self.punch(*flare, *offset, *len),
            // Memory has no space to reserve.
            Effect::Reserve(..) => {}
            // And nothing in it goes bad.
            Effect::Damage(..) => {}
            Effect::Spill(flare) => self.spill(*flare),
            Effect::PutReply(row) => self
                .replies
                .put((slice, row.session, row.slot), (**row).clone()),
            Effect::DropReply(_, session, slot) => self.replies.remove(&(slice, *session, *slot)),
            Effect::PutOutbox(row) => self.outbox.put((row.key, row.tx, row.to), (**row).clone()),
            Effect::DropOutbox(key, tx, to) => self.outbox.remove(&(*key, *tx, *to)),
            Effect::PutDecision(key, tx, decision) => self.decisions.put((*key, *tx), *decision),
            Effect::DropDecision(key, tx) => self.decisions.remove(&(*key, *tx)),
            Effect::PutHolder(key, session) => self.holders.put((*key, *session), ()),
            Effect::DropHolder(key, session) => self.holders.remove(&(*key, *session)),
            Effect::Cut {
                to,
                start,
                end,
                epoch,
            } => return self.cut_slice(slice, *to, *start, *end, (*epoch, Seq(0))),
        }
        Ok(())
    }

    fn put_flare(&mut self, row: &FlareRow) {
        if self.doomed.remove(&row.flare_ref()) {
            self.remove_content(row.flare_ref());
        }
        self.flares.put(row.key, row.clone());
    }

    fn layout(&self, flare: FlareRef) -> Option<Layout> {
        self.flares
            .get(&flare.key())
            .filter(|row| row.inc == flare.inc())
            .map(|row| row.layout)
    }

    fn drop_flare(&mut self, flare: FlareRef) {
        let key = flare.key();
        match self.layout(flare) {
            None => return,
            Some(Layout::Inline) => self.inline.remove(&key),
            Some(Layout::Segments) => {
                self.doomed.insert(flare);
            }
        }
        self.clear_links_and_xattrs(key, key);
        self.flares.remove(&key);
    }

    fn clear_links_and_xattrs(&mut self, start: Key, end: Key) {
        self.links.remove_where(
            (start, FlareRef::default(), Vec::new())..,
            |(key, _, _), _| *key <= end,
        );
        self.xattrs
            .remove_where((start, Vec::new()).., |(key, _), _| *key <= end);
    }

    fn write_content(&mut self, write: &ContentWrite) -> StoreResult<()> {
        let flare = write.flare;
        match self.layout(flare) {
            None => {}
            Some(Layout::Inline) => {
                let mut data = self.inline.get(&flare.key()).cloned().unwrap_or_default();
                rules::write_inline(&mut data, write.offset, &write.data).map_err(|error| {
                    StoreError::Damaged {
                        path: PathBuf::from("memory"),
                        table: "inline",
                        reason: error.to_string(),
                    }
                })?;
                self.put_inline(flare.key(), data);
            }
            Some(Layout::Segments) => {
                self.touched.insert(flare);
                self.write_segment(flare, write.segment, write.offset, &write.data);
            }
        }
        Ok(())
    }

    fn put_inline(&mut self, key: Key, data: Vec<u8>) {
        if data.is_empty() {
            self.inline.remove(&key);
        } else {
            self.inline.put(key, data);
        }
    }

    fn write_segment(&mut self, flare: FlareRef, segment: u32, offset: u64, data: &[u8]) {
        let content = self.content.get_mut();
        let mut file = content.get(&(flare, segment)).cloned().unwrap_or_default();
        file.write(offset, data);
        content.put((flare, segment), file);
    }

    fn truncate(&mut self, flare: FlareRef, size: u64) {
        match self.layout(flare) {
            None => {}
            Some(Layout::Inline) => {
                if let Some(data) = self.inline.get(&flare.key())
                    && data.len() as u64 > size
                {
                    let data = rules::cut_out(data, 0, size as usize).to_vec();
                    self.put_inline(flare.key(), data);
                }
            }
            Some(Layout::Segments) => {
                self.touched.insert(flare);
                self.cut_content(flare, size);
            }
        }
    }

    fn punch(&mut self, flare: FlareRef, offset: u64, len: u64) {
        match self.layout(flare) {
            None => {}
            Some(Layout::Inline) => {
                if let Some(mut data) = self.inline.get(&flare.key()).cloned() {
                    rules::punch_inline(&mut data, offset, len);
                    self.put_inline(flare.key(), data);
                }
            }
            Some(Layout::Segments) => {
                let content = self.content.get_mut();
                if let Some(mut file) = content.get(&(flare, 0)).cloned() {
                    file.punch(offset, len);
                    content.put((flare, 0), file);
                }
            }
        }
    }

    fn spill(&mut self, flare: FlareRef) {
        if self.layout(flare).is_none() {
            return;
        }
        if let Some(data) = self.inline.get(&flare.key()).cloned() {
            self.touched.insert(flare);
            self.write_segment(flare, 0, 0, &data);
            self.inline.remove(&flare.key());
        }
    }

    fn clear_journal(&mut self, slice: SliceId, upto: Seq) {
        self.journal
            .remove_where((slice, Seq(0))..=(slice, upto), |_, _| true);
    }

    fn clear_rows(&mut self, start: Key, end: Key) {
        self.entries
            .remove_where((start, Vec::new()).., |(key, _), _| *key <= end);
        self.clear_links_and_xattrs(start, end);
        self.inline.remove_where(start..=end, |_, _| true);
        self.outbox
            .remove_where((start, TxId::default(), Key::MIN).., |(key, _, _), _| {
                *key <= end
            });
        self.decisions
            .remove_where((start, TxId::default()).., |(key, _), _| *key <= end);
        self.holders
            .remove_where((start, SessionId::default()).., |(key, _), _| *key <= end);
        self.flares.remove_where(start..=end, |_, _| true);
    }
}

/// The replies of one slice.
fn replies_of(slice: SliceId) -> std::ops::RangeInclusive<(SliceId, SessionId, Slot)> {
    (slice, SessionId(0), Slot(0))..=(slice, SessionId(u64::MAX), Slot(u16::MAX))
}

impl Store for MemoryStore {
    fn begin(&mut self) -> StoreResult<()> {
        Ok(())
    }

    fn apply(&mut self, record: &Record) -> StoreResult<()> {
        self.apply_effects(record.slice, &record.effects)?;
        let mut kept = record.clone();
        for effect in &mut kept.effects {
            if let Effect::Write(write) = effect {
                write.data = Default::default();
            }
        }
        self.journal.put((record.slice, record.seq), kept);
        self.positions.put(record.slice, (record.epoch, record.seq));
        Ok(())
    }

    fn apply_rows(&mut self, slice: SliceId, effects: &[Effect]) -> StoreResult<()> {
        self.apply_effects(slice, effects)
    }

    fn set_position(&mut self, slice: SliceId, at: (Epoch, Seq)) -> StoreResult<()> {
        self.refuse_after_failure()?;
        if rules::breaks_journal(self.position(slice)?, at) {
            self.clear_journal(slice, Seq(u64::MAX));
        }
        if self.journal.get(&(slice, at.1)).is_none() {
            self.bases.put(slice, at);
        }
        self.positions.put(slice, at);
        Ok(())
    }

    fn cut_slice(
        &mut self,
        from: SliceId,
        to: SliceId,
        start: Key,
        end: Key,
        at: (Epoch, Seq),
    ) -> StoreResult<()> {
        self.refuse_after_failure()?;
        let moved: Vec<_> = self
            .replies
            .range(replies_of(from))
            .filter(|(_, row)| start <= row.key && row.key <= end)
            .map(|(place, row)| (*place, row.clone()))
            .collect();
        for (place, row) in moved {
            self.replies.remove(&place);
            self.replies.put((to, row.session, row.slot), row);
        }
        self.clear_journal(to, Seq(u64::MAX));
        self.bases.remove(&to);
        self.positions.put(to, at);
        Ok(())
    }

    fn clear_range(&mut self, start: Key, end: Key, limit: usize) -> StoreResult<bool> {
        self.refuse_after_failure()?;
        let mut flares: Vec<(FlareRef, Layout)> = self
            .flares_of(start, end)
            .take(limit.saturating_add(1))
            .map(|row| (row.flare_ref(), row.layout))
            .collect();
        let more = flares.len() > limit;
        flares.truncate(limit);
        let upto = match (more, flares.last()) {
            (true, Some((last, _))) => last.key(),
            (true, None) => return Ok(true),
            (false, _) => end,
        };
        self.doomed.extend(
            flares
                .iter()
                .filter(|(_, layout)| *layout == Layout::Segments)
                .map(|(flare, _)| *flare),
        );
        self.clear_rows(start, upto);
        if !more {
            let first = (SliceId(0), SessionId(0), Slot(0));
            self.replies
                .remove_where(first.., |_, row| start <= row.key && row.key <= end);
        }
        Ok(more)
    }

    fn forget_slice(&mut self, slice: SliceId) -> StoreResult<()> {
        self.refuse_after_failure()?;
        self.clear_journal(slice, Seq(u64::MAX));
        self.bases.remove(&slice);
        self.positions.remove(&slice);
        Ok(())
    }

    fn trim_journal(&mut self, slice: SliceId, upto: Seq) -> StoreResult<()> {
        self.refuse_after_failure()?;
        self.clear_journal(slice, upto);
        Ok(())
    }

    fn set_clock_ceiling(&mut self, nanos: u64) -> StoreResult<()> {
        self.refuse_after_failure()?;
        let ceiling = nanos.max(self.clock_ceiling()?);
        self.set_meta(META_CLOCK, &ceiling.to_be_bytes());
        Ok(())
    }

    fn commit(&mut self, durability: Durability) -> StoreResult<()> {
        if let Err(error) = self.refuse_after_failure() {
            self.crash();
            return Err(error);
        }
        self.keep_rows();
        match durability {
            Durability::Process => {}
            Durability::Disk => self.sync_rows(),
        }
        Ok(())
    }

    fn rollback(&mut self) -> StoreResult<()> {
        self.crash();
        Ok(())
    }

    fn content(&self) -> Option<ContentFiles> {
        None
    }

    fn largest_file(&self) -> u64 {
        FILE_SIZE_MAX
    }

    fn space(&self) -> StoreResult<Space> {
        Ok(Space {
            total: ENDLESS,
            free: ENDLESS,
            inodes: ENDLESS,
            inodes_free: ENDLESS,
            flares: 0,
        })
    }

    fn sync_content(&self, flare: FlareRef) -> StoreResult<()> {
        self.content
            .borrow_mut()
            .sync_range((flare, 0)..=(flare, u32::MAX));
        Ok(())
    }
}
