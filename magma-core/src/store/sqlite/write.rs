//! [`Store`] over the tables: effects, the journal, and what happens to slices.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use super::rows::{NO_NAME, Part, content_id, identity, link_name, ordered, tx};
use super::{META_CLOCK, SqliteStore};
use crate::effect::{ContentWrite, Effect, Record};
use crate::flare::{EntryRow, FlareRow, Layout, LinkRow, OutboxRow, ReplyRow};
use crate::ids::{Epoch, FlareRef, Seq, SliceId};
use crate::key::Key;
use crate::op::Space;
use crate::store::content::{ContentFiles, io_error};
use crate::store::redo::{self, Change};
use crate::store::{Durability, Store, StoreResult, View, rules};

/// Forgets all rows of a range of keys, replies apart.
const CLEAR_RANGE: [&str; 5] = [
    "DELETE FROM entries WHERE key BETWEEN ?1 AND ?2",
    "DELETE FROM outbox WHERE key BETWEEN ?1 AND ?2",
    "DELETE FROM decisions WHERE key BETWEEN ?1 AND ?2",
    "DELETE FROM holders WHERE key BETWEEN ?1 AND ?2",
    "DELETE FROM flares WHERE key BETWEEN ?1 AND ?2",
];

impl SqliteStore {
    pub(super) fn apply_effects(&mut self, slice: SliceId, effects: &[Effect]) -> StoreResult<()> {
        // Nearly every write follows the row of its flare, which need not be read again.
        let mut seen: Option<(FlareRef, Layout)> = None;
        self.in_rows.clear();
        for effect in effects {
            match effect {
                Effect::PutFlare(row) => {
                    seen = Some((row.flare_ref(), row.layout));
                    self.put_flare(row)?;
                }
                Effect::DropFlare(flare) => {
                    seen = None;
                    self.drop_flare(*flare)?;
                }
                Effect::PutEntry(dir, row) => self.put_entry(*dir, row)?,
                Effect::DropEntry(dir, name) => self.execute(
                    "DELETE FROM entries WHERE key = ?1 AND name = ?2",
                    (dir.0, name.as_bytes()),
                )?,
                Effect::PutLink(key, row) => self.put_link(*key, row)?,
                Effect::DropLink(key, parent, name) => {
                    self.drop_part(*key, Part::Link, &link_name(*parent, name))?;
                }
                Effect::PutXattr(key, name, value) => {
                    self.put_part(*key, Part::Xattr, name, false, value)?;
                }
                Effect::DropXattr(key, name) => self.drop_part(*key, Part::Xattr, name)?,
                Effect::Write(write) => {
                    let layout = self.layout(seen, write.flare)?;
                    self.in_rows.push(layout == Some(Layout::Inline));
                    if let Some(layout) = layout {
                        self.write_content(write, layout)?;
                    }
                }
                Effect::Truncate(flare, size) => {
                    if let Some(layout) = self.layout(seen, *flare)? {
                        self.truncate(*flare, *size, layout)?;
                    }
                }
                Effect::Punch(flare, offset, len) => {
                    if let Some(layout) = self.layout(seen, *flare)? {
                        self.punch(*flare, *offset, *len, layout)?;
                    }
                }
                Effect::Reserve(flare, offset, len, past_end) => {
                    if !self.redoing && self.layout(seen, *flare)? == Some(Layout::Segments) {
                        self.touched.insert(*flare);
                        self.content.reserve(*flare, 0, *offset, *len, *past_end)?;
                    }
                }
                Effect::Damage(flare, offset, len) => {
                    if !self.redoing && self.layout(seen, *flare)? == Some(Layout::Segments) {
                        self.touched.insert(*flare);
                        self.content.mark_bad(*flare, 0, *offset, *len)?;
                    }
                }
                Effect::Spill(flare) => {
                    if self.layout(seen, *flare)?.is_some() {
                        self.spill(*flare)?;
                    }
                }
                Effect::PutReply(row) => self.put_reply(slice, row)?,
                Effect::DropReply(_, session, slot) => {
                    if let Some(keys) = self.reply_keys.get_mut() {
                        keys.remove((slice, *session, *slot));
                    }
                    self.execute(
                        "DELETE FROM replies WHERE slice = ?1 AND session = ?2 AND slot = ?3",
                        (identity(slice.0), identity(session.0), slot.0),
                    )?;
                }
                Effect::PutOutbox(row) => self.put_outbox(row)?,
                Effect::DropOutbox(key, id, to) => self.execute(
                    "DELETE FROM outbox WHERE key = ?1 AND tx = ?2 AND dest = ?3",
                    (key.0, tx(*id), to.0),
                )?,
                Effect::PutDecision(key, id, decision) => self.execute(
                    "INSERT INTO decisions (key, tx, decision) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key, tx) DO UPDATE SET decision = excluded.decision",
                    (key.0, tx(*id), self.encoded("decisions", decision)?),
                )?,
                Effect::DropDecision(key, id) => self.execute(
                    "DELETE FROM decisions WHERE key = ?1 AND tx = ?2",
                    (key.0, tx(*id)),
                )?,
                Effect::PutHolder(key, session) => self.execute(
                    "INSERT INTO holders (key, session) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    (key.0, identity(session.0)),
                )?,
                Effect::DropHolder(key, session) => self.execute(
                    "DELETE FROM holders WHERE key = ?1 AND session = ?2",
                    (key.0, identity(session.0)),
                )?,
                Effect::Cut {
                    to,
                    start,
                    end,
                    epoch,
                } => self.cut_rows(slice, *to, *start, *end, (*epoch, Seq(0)))?,
            }
        }
        Ok(())
    }

    fn put_flare(&mut self, row: &FlareRow) -> StoreResult<()> {
        // Dropped and put again in one transaction (a copy that is filled anew): the old file
        // goes now, or the commit would take the new content with it. Should the transaction
        // be undone, the row comes back without its content; whoever fills a copy anew has
        // given that up before.
        if self.doomed.remove(&row.flare_ref()) && !self.redoing {
            self.content.remove(row.flare_ref())?;
        }
        self.put_part(
            row.key,
            Part::Row,
            NO_NAME,
            rules::flare_unsettled(row),
            &self.encoded("flares", row)?,
        )
    }

    fn put_part(
        &self,
        key: Key,
        part: Part,
        name: &[u8],
        unsettled: bool,
        row: &[u8],
    ) -> StoreResult<()> {
        self.execute(
            "INSERT INTO flares (key, part, name, unsettled, row) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (key, part, name) DO UPDATE SET
                 unsettled = excluded.unsettled, row = excluded.row",
            (key.0, part as i64, name, unsettled, row),
        )
    }

    fn drop_part(&self, key: Key, part: Part, name: &[u8]) -> StoreResult<()> {
        self.execute(
            "DELETE FROM flares WHERE key = ?1 AND part = ?2 AND name = ?3",
            (key.0, part as i64, name),
        )
    }

    fn drop_flare(&mut self, flare: FlareRef) -> StoreResult<()> {
        let key = flare.key();
        // The key may have been used again: then this life of it is already gone.
        let row = match self.flare(key)? {
            Some(row) if row.inc == flare.inc() => row,
            Some(_) | None => return Ok(()),
        };
        if row.layout == Layout::Segments {
            self.doomed.insert(flare);
        }
        self.put_inline(key, &[])?;
        self.execute("DELETE FROM flares WHERE key = ?1", [key.0])
    }

    fn put_entry(&self, dir: Key, row: &EntryRow) -> StoreResult<()> {
        self.execute(
            "INSERT INTO entries (key, name, cookie, unsettled, row) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (key, name) DO UPDATE SET
                 cookie = excluded.cookie, unsettled = excluded.unsettled, row = excluded.row",
            (
                dir.0,
                row.name.as_bytes(),
                ordered(row.cookie),
                rules::entry_unsettled(row),
                self.encoded("entries", row)?,
            ),
        )
    }

    fn put_link(&self, key: Key, row: &LinkRow) -> StoreResult<()> {
        self.put_part(
            key,
            Part::Link,
            &link_name(row.parent, &row.name),
            rules::link_unsettled(row),
            &self.encoded("flares", row)?,
        )
    }

    fn put_reply(&mut self, slice: SliceId, row: &ReplyRow) -> StoreResult<()> {
        if let Some(keys) = self.reply_keys.get_mut() {
            keys.put((slice, row.session, row.slot), row.key);
        }
        self.execute(
            "INSERT INTO replies (slice, session, slot, key, row) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (slice, session, slot) DO UPDATE SET
                 key = excluded.key, row = excluded.row",
            (
                identity(slice.0),
                identity(row.session.0),
                row.slot.0,
                row.key.0,
                self.encoded("replies", row)?,
            ),
        )
    }

    fn put_outbox(&self, row: &OutboxRow) -> StoreResult<()> {
        self.execute(
            "INSERT INTO outbox (key, tx, dest, row) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key, tx, dest) DO UPDATE SET row = excluded.row",
            (
                row.key.0,
                tx(row.tx),
                row.to.0,
                self.encoded("outbox", row)?,
            ),
        )
    }

    /// Where the content of a flare lies; nowhere when this life of it has ended.
    fn layout(
        &self,
        seen: Option<(FlareRef, Layout)>,
        flare: FlareRef,
    ) -> StoreResult<Option<Layout>> {
        match seen {
            Some((of, layout)) if of == flare => Ok(Some(layout)),
            Some(_) | None => Ok(self
                .flare(flare.key())?
                .filter(|row| row.inc == flare.inc())
                .map(|row| row.layout)),
        }
    }

    /// Empty content has no row.
    fn put_inline(&self, key: Key, data: &[u8]) -> StoreResult<()> {
        let id = content_id(key);
        if data.is_empty() {
            return self.execute(
                "DELETE FROM contents WHERE id = ?1 AND key = ?2",
                (id, key.0),
            );
        }
        let kept = self
            .connection
            .prepare_cached(
                "INSERT INTO contents (id, key, data) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET data = excluded.data WHERE key = excluded.key",
            )
            .and_then(|mut statement| statement.execute((id, key.0, data)))
            .map_err(|source| self.failed(source))?;
        match kept {
            0 => Err(self.damaged("contents", format!("another key has the place of {key}"))),
            _ => Ok(()),
        }
    }

    fn write_content(&mut self, write: &ContentWrite, layout: Layout) -> StoreResult<()> {
        let key = write.flare.key();
        match layout {
            Layout::Inline => {
                let mut data = self.inline(key)?.unwrap_or_default();
                rules::write_inline(&mut data, write.offset, &write.data)
                    .map_err(|error| self.damaged("inline", error))?;
                self.put_inline(key, &data)
            }
            Layout::Segments if self.redoing => Ok(()),
            Layout::Segments => {
                self.touched.insert(write.flare);
                self.content
                    .write_at(write.flare, write.segment, write.offset, &write.data)
            }
        }
    }

    fn truncate(&mut self, flare: FlareRef, size: u64, layout: Layout) -> StoreResult<()> {
        match layout {
            Layout::Inline => match self.inline(flare.key())? {
                Some(data) if data.len() as u64 > size => {
                    self.put_inline(flare.key(), rules::cut_out(&data, 0, size as usize))
                }
                Some(_) | None => Ok(()),
            },
            Layout::Segments if self.redoing => Ok(()),
            Layout::Segments => {
                self.touched.insert(flare);
                self.content.truncate(flare, 0, size)
            }
        }
    }

    fn punch(&mut self, flare: FlareRef, offset: u64, len: u64, layout: Layout) -> StoreResult<()> {
        match layout {
            Layout::Inline => match self.inline(flare.key())? {
                Some(mut data) => {
                    rules::punch_inline(&mut data, offset, len);
                    self.put_inline(flare.key(), &data)
                }
                None => Ok(()),
            },
            Layout::Segments if self.redoing => Ok(()),
            Layout::Segments => self.content.punch(flare, 0, offset, len),
        }
    }

    /// Without an inline row there is nothing to move: the content was empty, or has been
    /// moved already and the file may hold more by now.
    ///
    /// The file is not synced here. Bytes that were durable inside the row are in danger from
    /// a loss of power until the flare's next sync.
    fn spill(&mut self, flare: FlareRef) -> StoreResult<()> {
        let Some(data) = self.inline(flare.key())? else {
            return Ok(());
        };
        if !self.redoing {
            self.touched.insert(flare);
            self.content.write_at(flare, 0, 0, &data)?;
        }
        self.put_inline(flare.key(), &[])
    }

    pub(super) fn write_positions(&mut self) -> StoreResult<()> {
        for (slice, (epoch, seq)) in std::mem::take(&mut self.positions) {
            self.execute(
                "INSERT INTO positions (slice, epoch, seq) VALUES (?1, ?2, ?3)
                 ON CONFLICT (slice) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq",
                (identity(slice.0), identity(epoch.0), identity(seq.0)),
            )?;
        }
        Ok(())
    }

    /// Effects, journal row and position of an operation.
    pub(super) fn apply_record(&mut self, record: &Record, encoded: &[u8]) -> StoreResult<()> {
        self.apply_effects(record.slice, &record.effects)?;
        self.execute(
            "INSERT INTO journal (slice, seq, epoch, record) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (slice, seq) DO UPDATE SET
                 epoch = excluded.epoch, record = excluded.record",
            (
                identity(record.slice.0),
                ordered(record.seq.0),
                identity(record.epoch.0),
                encoded,
            ),
        )?;
        self.positions
            .insert(record.slice, (record.epoch, record.seq));
        self.unsettled.operations += 1;
        Ok(())
    }

    pub(super) fn put_position(&mut self, slice: SliceId, at: (Epoch, Seq)) -> StoreResult<()> {
        if rules::breaks_journal(self.position(slice)?, at) {
            self.execute("DELETE FROM journal WHERE slice = ?1", [identity(slice.0)])?;
        }
        // What the operation did is not known here, only which one it was.
        self.execute(
            "INSERT INTO journal (slice, seq, epoch, record) VALUES (?1, ?2, ?3, x'')
             ON CONFLICT (slice, seq) DO NOTHING",
            (identity(slice.0), ordered(at.1.0), identity(at.0.0)),
        )?;
        self.positions.insert(slice, at);
        Ok(())
    }

    pub(super) fn cut_rows(
        &mut self,
        from: SliceId,
        to: SliceId,
        start: Key,
        end: Key,
        at: (Epoch, Seq),
    ) -> StoreResult<()> {
        self.reply_keys.replace(None);
        self.execute(
            "UPDATE OR REPLACE replies SET slice = ?2
             WHERE slice = ?1 AND key BETWEEN ?3 AND ?4",
            (identity(from.0), identity(to.0), start.0, end.0),
        )?;
        self.execute("DELETE FROM journal WHERE slice = ?1", [identity(to.0)])?;
        self.positions.insert(to, at);
        Ok(())
    }

    pub(super) fn clear_rows(&mut self, start: Key, end: Key, limit: usize) -> StoreResult<bool> {
        let mut flares = self.first_flares(start, end, limit.saturating_add(1))?;
        let more = flares.len() > limit;
        flares.truncate(limit);
        let upto = match (more, flares.last()) {
            (true, Some(last)) => last.key,
            // Asked to forget nothing.
            (true, None) => return Ok(true),
            (false, _) => end,
        };
        self.unsettled.operations += flares.len() as u64;
        for row in &flares {
            if row.layout == Layout::Segments {
                self.doomed.insert(row.flare_ref());
            }
        }
        for sql in CLEAR_RANGE {
            self.execute(sql, (start.0, upto.0))?;
        }
        self.execute(
            "DELETE FROM contents WHERE id BETWEEN ?1 AND ?2 AND key BETWEEN ?3 AND ?4",
            (content_id(start), content_id(upto), start.0, upto.0),
        )?;
        if !more {
            // Replies are not sorted by key: they go together, at the end.
            self.reply_keys.replace(None);
            self.execute(
                "DELETE FROM replies WHERE key BETWEEN ?1 AND ?2",
                (start.0, end.0),
            )?;
        }
        Ok(more)
    }

    pub(super) fn drop_slice(&mut self, slice: SliceId) -> StoreResult<()> {
        self.positions.remove(&slice);
        for sql in [
            "DELETE FROM journal WHERE slice = ?1",
            "DELETE FROM positions WHERE slice = ?1",
        ] {
            self.execute(sql, [identity(slice.0)])?;
        }
        Ok(())
    }

    pub(super) fn drop_journal(&mut self, slice: SliceId, upto: Seq) -> StoreResult<()> {
        self.execute(
            "DELETE FROM journal WHERE slice = ?1 AND seq <= ?2",
            (identity(slice.0), ordered(upto.0)),
        )
    }
}

impl Store for SqliteStore {
    fn begin(&mut self) -> StoreResult<()> {
        self.in_batch.set(true);
        Ok(())
    }

    fn apply(&mut self, record: &Record) -> StoreResult<()> {
        self.writing(|store| {
            let encoded = store.encoded("journal", record)?;
            store.apply_record(record, &encoded)?;
            let kept = redo::contents(&record.effects, &store.in_rows);
            store.note(&Change::Apply(serde_bytes::Bytes::new(&encoded), kept))
        })
    }

    fn apply_rows(&mut self, slice: SliceId, effects: &[Effect]) -> StoreResult<()> {
        self.writing(|store| {
            store.apply_effects(slice, effects)?;
            store.unsettled.operations += effects.len() as u64;
            let encoded = store.encoded("redo", &effects)?;
            let kept = redo::contents(effects, &store.in_rows);
            store.note(&Change::Rows(
                slice,
                serde_bytes::Bytes::new(&encoded),
                kept,
            ))
        })
    }

    fn set_position(&mut self, slice: SliceId, at: (Epoch, Seq)) -> StoreResult<()> {
        self.writing(|store| {
            store.put_position(slice, at)?;
            store.note(&Change::Position(slice, at.0, at.1))
        })
    }

    fn cut_slice(
        &mut self,
        from: SliceId,
        to: SliceId,
        start: Key,
        end: Key,
        at: (Epoch, Seq),
    ) -> StoreResult<()> {
        self.writing(|store| {
            store.cut_rows(from, to, start, end, at)?;
            store.note(&Change::Cut(from, to, start, end, at.0, at.1))
        })
    }

    fn clear_range(&mut self, start: Key, end: Key, limit: usize) -> StoreResult<bool> {
        self.writing(|store| {
            let more = store.clear_rows(start, end, limit)?;
            store.note(&Change::Clear(start, end, limit as u64))?;
            Ok(more)
        })
    }

    fn forget_slice(&mut self, slice: SliceId) -> StoreResult<()> {
        self.writing(|store| {
            store.drop_slice(slice)?;
            store.note(&Change::Forget(slice))
        })
    }

    fn trim_journal(&mut self, slice: SliceId, upto: Seq) -> StoreResult<()> {
        self.writing(|store| {
            store.drop_journal(slice, upto)?;
            store.note(&Change::Trim(slice, upto))
        })
    }

    fn set_clock_ceiling(&mut self, nanos: u64) -> StoreResult<()> {
        let ceiling = nanos.max(self.clock_ceiling()?);
        self.set_meta(META_CLOCK, &ceiling.to_be_bytes())
    }

    fn commit(&mut self, durability: Durability) -> StoreResult<()> {
        self.keep(durability)
    }

    fn rollback(&mut self) -> StoreResult<()> {
        self.give_up();
        Ok(())
    }

    fn content(&self) -> Option<ContentFiles> {
        Some(self.content.clone())
    }

    fn largest_file(&self) -> u64 {
        self.content.largest_file()
    }

    fn space(&self) -> StoreResult<Space> {
        let directory = self.content.directory();
        let failed = |source| io_error("statvfs", directory, source);
        let path =
            CString::new(directory.as_os_str().as_bytes()).map_err(|nul| failed(nul.into()))?;
        let mut found = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends with NUL, and `found` has room for what the call writes.
        if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        // SAFETY: the call succeeded, so it has filled `found`.
        let found = unsafe { found.assume_init() };
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_favail,
            flares: 0,
        })
    }

    fn sync_content(&self, flare: FlareRef) -> StoreResult<()> {
        self.content.sync(flare)
    }
}
