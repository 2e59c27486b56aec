//! [`View`] over the tables in memory.

use bytes::Bytes;

use super::MemoryStore;
use crate::effect::{ContentWrite, Effect, Record};
use crate::flare::{Decision, EntryRow, FlareRow, Layout, LinkRow, Name, OutboxRow, ReplyRow};
use crate::ids::{Epoch, FlareRef, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;
use crate::limits::JOURNAL_READ_BYTES;
use crate::store::{StoreResult, View, rules};

/// The name of the row with the hybrid clock's ceiling.
pub(super) const META_CLOCK: &str = "clock";

impl MemoryStore {
    fn next_key(&self, start: Key, upto: Key) -> Option<Key> {
        let no_name = Vec::new;
        let none = FlareRef::default();
        [
            self.flares.range(start..).next().map(|(key, _)| *key),
            self.entries
                .range((start, no_name())..)
                .next()
                .map(|((key, _), _)| *key),
            self.links
                .range((start, none, no_name())..)
                .next()
                .map(|((key, _, _), _)| *key),
            self.xattrs
                .range((start, no_name())..)
                .next()
                .map(|((key, _), _)| *key),
            self.replies
                .iter()
                .map(|(_, row)| row.key)
                .filter(|key| *key >= start)
                .min(),
            self.outbox
                .range((start, TxId::default(), Key::MIN)..)
                .next()
                .map(|((key, _, _), _)| *key),
            self.decisions
                .range((start, TxId::default())..)
                .next()
                .map(|((key, _), _)| *key),
            self.holders
                .range((start, SessionId::default())..)
                .next()
                .map(|((key, _), _)| *key),
        ]
        .into_iter()
        .flatten()
        .min()
        .filter(|key| *key <= upto)
    }

    fn links_of(&self, key: Key) -> impl Iterator<Item = &LinkRow> {
        self.links
            .range((key, FlareRef::default(), Vec::new())..)
            .take_while(move |((of, _, _), _)| *of == key)
            .map(|(_, row)| row)
    }

    fn xattrs_of(&self, key: Key) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.xattrs
            .range((key, Vec::new())..)
            .take_while(move |((of, _), _)| *of == key)
            .map(|((_, name), value)| (name, value))
    }

    fn entries_of(&self, dir: Key) -> impl Iterator<Item = &EntryRow> {
        self.entries
            .range((dir, Vec::new())..)
            .take_while(move |((of, _), _)| *of == dir)
            .map(|(_, row)| row)
    }

    fn rows_of(&self, key: Key) -> StoreResult<Vec<Effect>> {
        let mut effects = Vec::new();
        effects.extend(self.flare(key)?.map(|row| Effect::PutFlare(Box::new(row))));
        effects.extend(
            self.entries_of(key)
                .map(|row| Effect::PutEntry(key, Box::new(row.clone()))),
        );
        effects.extend(
            self.links_of(key)
                .map(|row| Effect::PutLink(key, Box::new(row.clone()))),
        );
        effects.extend(
            self.xattrs_of(key)
                .map(|(name, value)| Effect::PutXattr(key, name.clone(), value.clone())),
        );
        effects.extend(
            self.replies
                .iter()
                .filter(|(_, row)| row.key == key)
                .map(|(_, row)| Effect::PutReply(Box::new(row.clone()))),
        );
        effects.extend(
            self.outbox(key, key, usize::MAX)?
                .into_iter()
                .map(|row| Effect::PutOutbox(Box::new(row))),
        );
        effects.extend(
            self.decisions
                .range((key, TxId::default())..)
                .take_while(|((of, _), _)| *of == key)
                .map(|((_, tx), decision)| Effect::PutDecision(key, *tx, *decision)),
        );
        effects.extend(
            self.holders(key, key)?
                .into_iter()
                .map(|session| Effect::PutHolder(key, session)),
        );
        Ok(effects)
    }

    fn segment(&self, flare: FlareRef, segment: u32, offset: u64, len: usize) -> Bytes {
        self.content
            .borrow()
            .get(&(flare, segment))
            .map(|file| file.read(offset, len).into())
            .unwrap_or_default()
    }

    fn content_now(&self, write: &ContentWrite) -> StoreResult<Bytes> {
        let len = write.len as usize;
        let bytes = match self.flares.get(&write.flare.key()) {
            Some(row) if row.inc == write.flare.inc() => match row.layout {
                Layout::Inline => self.read(row, write.offset, len)?,
                Layout::Segments => self.segment(write.flare, write.segment, write.offset, len),
            },
            Some(_) | None => Bytes::new(),
        };
        Ok(rules::padded(bytes, len))
    }

    pub(super) fn flares_of(&self, start: Key, end: Key) -> impl Iterator<Item = &FlareRow> {
        self.flares
            .range(start..)
            .map(|(_, row)| row)
            .take_while(move |row| row.key <= end)
    }
}

impl View for MemoryStore {
    fn flare(&self, key: Key) -> StoreResult<Option<FlareRow>> {
        Ok(self.flares.get(&key).cloned())
    }

    fn rows_of_next_key(
        &self,
        after: Option<Key>,
        upto: Key,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        after
            .map_or(Some(Key::MIN), Key::next)
            .and_then(|start| self.next_key(start, upto))
            .map(|key| Ok((key, self.rows_of(key)?)))
            .transpose()
    }

    fn entry(&self, dir: Key, name: &Name) -> StoreResult<Option<EntryRow>> {
        Ok(self.entries.get(&(dir, name.as_bytes().to_vec())).cloned())
    }

    fn entries(&self, dir: Key, after: u64, limit: usize) -> StoreResult<Vec<EntryRow>> {
        let mut rows: Vec<EntryRow> = self
            .entries_of(dir)
            .filter(|row| row.cookie > after)
            .cloned()
            .collect();
        rows.sort_by_key(|row| row.cookie);
        rows.truncate(limit);
        Ok(rows)
    }

    fn prepared_entries(&self, dir: Key, limit: usize) -> StoreResult<Vec<EntryRow>> {
        let prepared = self.entries_of(dir).filter(|row| row.prepared.is_some());
        Ok(prepared.take(limit).cloned().collect())
    }

    fn links(&self, key: Key) -> StoreResult<Vec<LinkRow>> {
        Ok(self.links_of(key).cloned().collect())
    }

    fn xattr(&self, key: Key, name: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.xattrs.get(&(key, name.to_vec())).cloned())
    }

    fn xattr_names(&self, key: Key) -> StoreResult<Vec<Vec<u8>>> {
        Ok(self.xattrs_of(key).map(|(name, _)| name.clone()).collect())
    }

    fn reply(
        &self,
        slice: SliceId,
        session: SessionId,
        slot: Slot,
    ) -> StoreResult<Option<ReplyRow>> {
        Ok(self.replies.get(&(slice, session, slot)).cloned())
    }

    fn next_reply_session(
        &self,
        slice: SliceId,
        after: Option<SessionId>,
    ) -> StoreResult<Option<SessionId>> {
        let from = (slice, after.unwrap_or_default(), Slot::default());
        let sessions = self.replies.range(from..).map(|(place, _)| *place);
        Ok(sessions
            .take_while(|(of, _, _)| *of == slice)
            .map(|(_, session, _)| session)
            .find(|session| Some(*session) != after))
    }

    fn reply_slots(
        &self,
        slice: SliceId,
        session: SessionId,
        limit: usize,
    ) -> StoreResult<Vec<(Key, Slot)>> {
        Ok(self
            .replies
            .range((slice, session, Slot::default())..)
            .take_while(|((of, by, _), _)| (*of, *by) == (slice, session))
            .take(limit)
            .map(|((_, _, slot), row)| (row.key, *slot))
            .collect())
    }

    fn outbox(&self, start: Key, end: Key, limit: usize) -> StoreResult<Vec<OutboxRow>> {
        Ok(self
            .outbox
            .range((start, TxId::default(), Key::MIN)..)
            .take_while(|((key, _, _), _)| *key <= end)
            .take(limit)
            .map(|(_, row)| row.clone())
            .collect())
    }

    fn decision(&self, key: Key, tx: TxId) -> StoreResult<Option<Decision>> {
        Ok(self.decisions.get(&(key, tx)).copied())
    }

    fn holders(&self, start: Key, end: Key) -> StoreResult<Vec<SessionId>> {
        let mut sessions: Vec<SessionId> = self
            .holders
            .range((start, SessionId::default())..)
            .take_while(|((key, _), _)| *key <= end)
            .map(|((_, session), _)| *session)
            .collect();
        sessions.sort_unstable();
        sessions.dedup();
        Ok(sessions)
    }

    fn unsettled(&self, start: Key, end: Key, limit: usize) -> StoreResult<Vec<Key>> {
        let mut keys: Vec<Key> = self
            .flares_of(start, end)
            .filter(|row| rules::flare_unsettled(row))
            .map(|row| row.key)
            .collect();
        keys.extend(
            self.links
                .range((start, FlareRef::default(), Vec::new())..)
                .take_while(|((key, _, _), _)| *key <= end)
                .filter(|(_, row)| rules::link_unsettled(row))
                .map(|((key, _, _), _)| *key),
        );
        keys.extend(
            self.entries
                .range((start, Vec::new())..)
                .take_while(|((key, _), _)| *key <= end)
                .filter(|(_, row)| rules::entry_unsettled(row))
                .map(|((key, _), _)| *key),
        );
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(limit);
        Ok(keys)
    }

    fn read(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes> {
        Ok(match row.layout {
            Layout::Inline => self
                .inline
                .get(&row.key)
                .map(|data| Bytes::copy_from_slice(rules::cut_out(data, offset, len)))
                .unwrap_or_default(),
            Layout::Segments => self.segment(row.flare_ref(), 0, offset, len),
        })
    }

    fn seek(&self, row: &FlareRow, offset: u64, data: bool) -> StoreResult<Option<u64>> {
        Ok(match row.layout {
            Layout::Inline => rules::seek_whole(row.size, offset, data),
            Layout::Segments => match self.content.borrow().get(&(row.flare_ref(), 0)) {
                Some(file) => file.seek(offset, data),
                None => (!data).then_some(offset),
            },
        })
    }

    fn blocks(&self, row: &FlareRow) -> StoreResult<u64> {
        Ok(match row.layout {
            Layout::Inline => rules::inline_blocks(row),
            Layout::Segments => self
                .content
                .borrow()
                .get(&(row.flare_ref(), 0))
                .map_or(0, |file| file.blocks()),
        })
    }

    fn content_place(&self, _row: &FlareRow) -> String {
        "in memory".to_owned()
    }

    fn position(&self, slice: SliceId) -> StoreResult<Option<(Epoch, Seq)>> {
        Ok(self.positions.get(&slice).copied())
    }

    fn journal_after(
        &self,
        slice: SliceId,
        seq: Seq,
        limit: usize,
    ) -> StoreResult<Option<Vec<Record>>> {
        match self.position(slice)? {
            Some((_, last)) if seq < last => {}
            Some(_) | None => return Ok(Some(Vec::new())),
        }
        let mut records = Vec::new();
        let mut expected = seq.next();
        let mut bytes = 0;
        while records.len() < limit && bytes < JOURNAL_READ_BYTES {
            let Some(record) = self.journal.get(&(slice, expected)) else {
                break;
            };
            let mut record = record.clone();
            for effect in &mut record.effects {
                if let Effect::Write(write) = effect {
                    write.data = self.content_now(write)?;
                    bytes += write.data.len();
                }
            }
            records.push(record);
            expected = expected.next();
        }
        Ok((!records.is_empty() || limit == 0).then_some(records))
    }

    fn journal_epoch(&self, slice: SliceId, seq: Seq) -> StoreResult<Option<Epoch>> {
        let record = self.journal.get(&(slice, seq));
        let base = self.bases.get(&slice).filter(|(_, at)| *at == seq);
        Ok(record
            .map(|record| record.epoch)
            .or(base.map(|(epoch, _)| *epoch)))
    }

    fn count_flares(&self, start: Key, end: Key) -> StoreResult<u64> {
        Ok(self.flares_of(start, end).count() as u64)
    }

    fn last_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>> {
        Ok(self.flares_of(start, end).last().map(|row| row.key))
    }

    fn median_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>> {
        let half = self.flares_of(start, end).count() / 2;
        Ok(self.flares_of(start, end).nth(half).map(|row| row.key))
    }

    fn prefix_taken(&self, prefix: u64) -> StoreResult<bool> {
        Ok(self
            .flares_of(Key::from_prefix(prefix), Key::prefix_end(prefix))
            .next()
            .is_some())
    }

    fn clock_ceiling(&self) -> StoreResult<u64> {
        Ok(self
            .meta(META_CLOCK)
            .and_then(|value| value.as_slice().try_into().ok())
            .map_or(0, u64::from_be_bytes))
    }
}
