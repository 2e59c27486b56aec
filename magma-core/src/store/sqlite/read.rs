//! [`View`] over the tables.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Params};
use serde::de::DeserializeOwned;

use super::reply_keys::ReplyKeys;
use super::rows::{NO_NAME, Part, content_id, identity, limit, ordered, parse_tx, tx};
use super::{META_CLOCK, SqliteStore};
use crate::effect::{ContentWrite, Effect, Record};
use crate::flare::{Decision, EntryRow, FlareRow, Layout, LinkRow, Name, OutboxRow, ReplyRow};
use crate::ids::{Epoch, Seq, SessionId, SliceId, Slot, TxId};
use crate::key::Key;
use crate::limits::JOURNAL_READ_BYTES;
use crate::store::{StoreResult, View, rules};

/// The lowest key of a range in any table but `replies`.
const NEXT_KEY: &str = "
    SELECT min(lowest) FROM (
        SELECT min(key) AS lowest FROM flares WHERE key BETWEEN ?1 AND ?2
        UNION ALL SELECT min(key) FROM entries WHERE key BETWEEN ?1 AND ?2
        UNION ALL SELECT min(key) FROM outbox WHERE key BETWEEN ?1 AND ?2
        UNION ALL SELECT min(key) FROM decisions WHERE key BETWEEN ?1 AND ?2
        UNION ALL SELECT min(key) FROM holders WHERE key BETWEEN ?1 AND ?2
    )";

/// Each arm reads only its partial index, and stops at the limit.
const UNSETTLED: &str = "
    SELECT key FROM (SELECT DISTINCT key FROM flares INDEXED BY flares_unsettled
        WHERE unsettled = 1 AND key BETWEEN ?1 AND ?2 ORDER BY key LIMIT ?3)
    UNION SELECT key FROM (SELECT DISTINCT key FROM entries INDEXED BY entries_unsettled
        WHERE unsettled = 1 AND key BETWEEN ?1 AND ?2 ORDER BY key LIMIT ?3)
    ORDER BY key LIMIT ?3";

/// One row of what belongs to a flare.
const PART: &str = "SELECT row FROM flares WHERE key = ?1 AND part = ?2 AND name = ?3";

/// An entry's place in its directory.
const ENTRIES: &str = "
    SELECT row FROM entries INDEXED BY entries_by_cookie
    WHERE key = ?1 AND cookie > ?2 ORDER BY cookie LIMIT ?3";

/// The statements whose plan a test looks at: they must not walk through a table.
#[cfg(test)]
pub(in crate::store) const SEARCHES: [&str; 3] = [NEXT_KEY, UNSETTLED, ENTRIES];

impl SqliteStore {
    /// The one row that a query finds, decoded from its first column.
    fn one<T: DeserializeOwned>(
        &self,
        table: &'static str,
        sql: &str,
        parameters: impl Params,
    ) -> StoreResult<Option<T>> {
        self.reading(sql)?
            .query_row(parameters, |row| {
                Ok(self.decoded(table, row.get_ref(0)?.as_blob()?))
            })
            .optional()
            .map_err(|source| self.failed(source))?
            .transpose()
    }

    /// All rows that a query finds, each made from its columns.
    fn all<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        mut make: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<StoreResult<T>>,
    ) -> StoreResult<Vec<T>> {
        let mut statement = self.reading(sql)?;
        let mut found = statement
            .query(parameters)
            .map_err(|source| self.failed(source))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(|source| self.failed(source))? {
            rows.push(make(row).map_err(|source| self.failed(source))??);
        }
        Ok(rows)
    }

    fn rows<T: DeserializeOwned>(
        &self,
        table: &'static str,
        sql: &str,
        parameters: impl Params,
    ) -> StoreResult<Vec<T>> {
        self.all(sql, parameters, |row| {
            Ok(self.decoded(table, row.get_ref(0)?.as_blob()?))
        })
    }

    fn keys(
        &self,
        table: &'static str,
        sql: &str,
        parameters: impl Params,
    ) -> StoreResult<Vec<Key>> {
        self.all(sql, parameters, |row| {
            Ok(self.key_of(table, row.get_ref(0)?.as_blob()?))
        })
    }

    fn number(&self, sql: &str, parameters: impl Params) -> StoreResult<i64> {
        self.reading(sql)?
            .query_row(parameters, |row| row.get(0))
            .map_err(|source| self.failed(source))
    }

    /// Content inside the row.
    pub(super) fn inline(&self, key: Key) -> StoreResult<Option<Vec<u8>>> {
        self.reading("SELECT data FROM contents WHERE id = ?1 AND key = ?2")?
            .query_row((content_id(key), key.0), |row| row.get(0))
            .optional()
            .map_err(|source| self.failed(source))
    }

    /// The flares of a range that come first.
    pub(super) fn first_flares(
        &self,
        start: Key,
        end: Key,
        rows: usize,
    ) -> StoreResult<Vec<FlareRow>> {
        self.rows(
            "flares",
            "SELECT row FROM flares WHERE key BETWEEN ?1 AND ?2 AND part = 0
             ORDER BY key LIMIT ?3",
            (start.0, end.0, limit(rows)),
        )
    }

    fn every_reply_key(&self) -> StoreResult<ReplyKeys> {
        let places = self.all("SELECT slice, session, slot, key FROM replies", [], |row| {
            let place = (
                SliceId(row.get::<_, i64>(0)? as u64),
                SessionId(row.get::<_, i64>(1)? as u64),
                Slot(row.get(2)?),
            );
            let key = self.key_of("replies", row.get_ref(3)?.as_blob()?);
            Ok(key.map(|key| (place, key)))
        })?;
        let mut keys = ReplyKeys::default();
        for (place, key) in places {
            keys.put(place, key);
        }
        Ok(keys)
    }

    /// Everything but content that lives with a key.
    fn rows_of(
        &self,
        key: Key,
        replies: &ReplyKeys,
        with_entries: bool,
    ) -> StoreResult<Vec<Effect>> {
        let mut effects = Vec::new();
        if let Some(row) = self.flare(key)? {
            effects.push(Effect::PutFlare(Box::new(row)));
        }
        let entries: Vec<EntryRow> = if with_entries {
            self.rows(
                "entries",
                "SELECT row FROM entries WHERE key = ?1 ORDER BY name",
                [key.0],
            )?
        } else {
            Vec::new()
        };
        effects.extend(
            entries
                .into_iter()
                .map(|row| Effect::PutEntry(key, Box::new(row))),
        );
        effects.extend(
            self.links(key)?
                .into_iter()
                .map(|row| Effect::PutLink(key, Box::new(row))),
        );
        effects.extend(self.all(
            "SELECT name, row FROM flares WHERE key = ?1 AND part = 2 ORDER BY name",
            [key.0],
            |row| Ok(Ok(Effect::PutXattr(key, row.get(0)?, row.get(1)?))),
        )?);
        for (slice, session, slot) in replies.places(key) {
            if let Some(row) = self.reply(slice, session, slot)? {
                effects.push(Effect::PutReply(Box::new(row)));
            }
        }
        effects.extend(
            self.outbox(key, key, usize::MAX)?
                .into_iter()
                .map(|row| Effect::PutOutbox(Box::new(row))),
        );
        effects.extend(self.all(
            "SELECT tx, decision FROM decisions WHERE key = ?1 ORDER BY tx",
            [key.0],
            |row| {
                let tx = parse_tx(row.get_ref(0)?.as_blob()?)
                    .ok_or_else(|| self.damaged("decisions", "not a transaction"));
                let decision = self.decoded("decisions", row.get_ref(1)?.as_blob()?);
                Ok(tx.and_then(|tx| Ok(Effect::PutDecision(key, tx, decision?))))
            },
        )?);
        effects.extend(
            self.holders(key, key)?
                .into_iter()
                .map(|session| Effect::PutHolder(key, session)),
        );
        Ok(effects)
    }

    /// The next key with its rows.
    fn next_rows(
        &self,
        after: Option<Key>,
        upto: Key,
        with_entries: bool,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        let Some(start) = after.map_or(Some(Key::MIN), Key::next) else {
            return Ok(None);
        };
        let mut keys = self.reply_keys.borrow_mut();
        let replies = match &mut *keys {
            Some(replies) => replies,
            none => none.insert(self.every_reply_key()?),
        };
        let in_tables = self
            .reading(NEXT_KEY)?
            .query_row((start.0, upto.0), |row| {
                let key = row.get_ref(0)?.as_blob_or_null()?;
                Ok(key.map(|key| self.key_of("keys", key)).transpose())
            })
            .map_err(|source| self.failed(source))??;
        let in_replies = replies.next_key(start).filter(|key| *key <= upto);
        match in_tables.into_iter().chain(in_replies).min() {
            Some(key) => Ok(Some((key, self.rows_of(key, replies, with_entries)?))),
            None => {
                *keys = None;
                Ok(None)
            }
        }
    }

    /// The bytes of a journalled write as they are now. A later record of the journal makes
    /// up for whatever has changed since.
    fn content_now(&self, write: &ContentWrite) -> StoreResult<(Bytes, Vec<Effect>)> {
        let len = write.len as usize;
        let (bytes, bad) = match self.flare(write.flare.key())? {
            Some(row) if row.inc == write.flare.inc() => match row.layout {
                Layout::Inline => (self.read(&row, write.offset, len)?, Vec::new()),
                Layout::Segments => {
                    self.content
                        .read_to_copy(write.flare, write.segment, write.offset, len)?
                }
            },
            Some(_) | None => (Bytes::new(), Vec::new()),
        };
        Ok((rules::padded(bytes, len), bad))
    }
}

impl View for SqliteStore {
    fn flare(&self, key: Key) -> StoreResult<Option<FlareRow>> {
        self.one("flares", PART, (key.0, Part::Row as i64, NO_NAME))
    }

    fn rows_of_next_key(
        &self,
        after: Option<Key>,
        upto: Key,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        self.next_rows(after, upto, true)
    }

    fn rows_but_entries(
        &self,
        after: Option<Key>,
        upto: Key,
    ) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        self.next_rows(after, upto, false)
    }

    fn entry(&self, dir: Key, name: &Name) -> StoreResult<Option<EntryRow>> {
        self.one(
            "entries",
            "SELECT row FROM entries WHERE key = ?1 AND name = ?2",
            (dir.0, name.as_bytes()),
        )
    }

    fn entries(&self, dir: Key, after: u64, rows: usize) -> StoreResult<Vec<EntryRow>> {
        self.rows("entries", ENTRIES, (dir.0, ordered(after), limit(rows)))
    }

    fn prepared_entries(&self, dir: Key, rows: usize) -> StoreResult<Vec<EntryRow>> {
        self.rows(
            "entries",
            "SELECT row FROM entries INDEXED BY entries_unsettled
             WHERE key = ?1 AND unsettled = 1 ORDER BY name LIMIT ?2",
            (dir.0, limit(rows)),
        )
    }

    fn links(&self, key: Key) -> StoreResult<Vec<LinkRow>> {
        self.rows(
            "flares",
            "SELECT row FROM flares WHERE key = ?1 AND part = 1 ORDER BY name",
            [key.0],
        )
    }

    fn xattr(&self, key: Key, name: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        self.reading(PART)?
            .query_row((key.0, Part::Xattr as i64, name), |row| row.get(0))
            .optional()
            .map_err(|source| self.failed(source))
    }

    fn xattr_names(&self, key: Key) -> StoreResult<Vec<Vec<u8>>> {
        self.all(
            "SELECT name FROM flares WHERE key = ?1 AND part = 2 ORDER BY name",
            [key.0],
            |row| Ok(Ok(row.get(0)?)),
        )
    }

    fn reply(
        &self,
        slice: SliceId,
        session: SessionId,
        slot: Slot,
    ) -> StoreResult<Option<ReplyRow>> {
        self.one(
            "replies",
            "SELECT row FROM replies WHERE slice = ?1 AND session = ?2 AND slot = ?3",
            (identity(slice.0), identity(session.0), slot.0),
        )
    }

    fn next_reply_session(
        &self,
        slice: SliceId,
        after: Option<SessionId>,
    ) -> StoreResult<Option<SessionId>> {
        let found = self.all(
            "SELECT session FROM replies WHERE slice = ?1 AND session >= ?2 AND session IS NOT ?3
             ORDER BY session LIMIT 1",
            (
                identity(slice.0),
                after.map_or(i64::MIN, |after| identity(after.0)),
                after.map(|after| identity(after.0)),
            ),
            |row| Ok(Ok(SessionId(row.get::<_, i64>(0)? as u64))),
        )?;
        Ok(found.into_iter().next())
    }

    fn reply_slots(
        &self,
        slice: SliceId,
        session: SessionId,
        limit: usize,
    ) -> StoreResult<Vec<(Key, Slot)>> {
        self.all(
            "SELECT key, slot FROM replies WHERE slice = ?1 AND session = ?2
             ORDER BY slot LIMIT ?3",
            (identity(slice.0), identity(session.0), self::limit(limit)),
            |row| {
                let slot = Slot(row.get(1)?);
                let key = self.key_of("replies", row.get_ref(0)?.as_blob()?);
                Ok(key.map(|key| (key, slot)))
            },
        )
    }

    fn outbox(&self, start: Key, end: Key, rows: usize) -> StoreResult<Vec<OutboxRow>> {
        self.rows(
            "outbox",
            "SELECT row FROM outbox WHERE key BETWEEN ?1 AND ?2
             ORDER BY key, tx, dest LIMIT ?3",
            (start.0, end.0, limit(rows)),
        )
    }

    fn decision(&self, key: Key, id: TxId) -> StoreResult<Option<Decision>> {
        self.one(
            "decisions",
            "SELECT decision FROM decisions WHERE key = ?1 AND tx = ?2",
            (key.0, tx(id)),
        )
    }

    fn holders(&self, start: Key, end: Key) -> StoreResult<Vec<SessionId>> {
        let mut sessions = self.all(
            "SELECT DISTINCT session FROM holders WHERE key BETWEEN ?1 AND ?2",
            (start.0, end.0),
            |row| Ok(Ok(SessionId(row.get::<_, i64>(0)? as u64))),
        )?;
        sessions.sort_unstable();
        Ok(sessions)
    }

    fn unsettled(&self, start: Key, end: Key, rows: usize) -> StoreResult<Vec<Key>> {
        self.keys("flares", UNSETTLED, (start.0, end.0, limit(rows)))
    }

    fn read(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes> {
        match row.layout {
            Layout::Inline => {
                let data = self.inline(row.key)?.unwrap_or_default();
                Ok(Bytes::copy_from_slice(rules::cut_out(&data, offset, len)))
            }
            Layout::Segments => self.content.read_at(row.flare_ref(), 0, offset, len),
        }
    }

    fn read_to_copy(
        &self,
        row: &FlareRow,
        offset: u64,
        len: usize,
    ) -> StoreResult<(Bytes, Vec<Effect>)> {
        match row.layout {
            Layout::Inline => Ok((self.read(row, offset, len)?, Vec::new())),
            Layout::Segments => self.content.read_to_copy(row.flare_ref(), 0, offset, len),
        }
    }

    fn seek(&self, row: &FlareRow, offset: u64, data: bool) -> StoreResult<Option<u64>> {
        match row.layout {
            Layout::Inline => Ok(rules::seek_whole(row.size, offset, data)),
            Layout::Segments => self.content.seek(row.flare_ref(), 0, offset, data),
        }
    }

    fn blocks(&self, row: &FlareRow) -> StoreResult<u64> {
        match row.layout {
            Layout::Inline => Ok(rules::inline_blocks(row)),
            Layout::Segments => self.content.blocks(row.flare_ref()),
        }
    }

    fn content_place(&self, row: &FlareRow) -> String {
        match row.layout {
            Layout::Inline => format!("{}, table contents", self.path.display()),
            Layout::Segments => self.content.path(row.flare_ref(), 0).display().to_string(),
        }
    }

    fn position(&self, slice: SliceId) -> StoreResult<Option<(Epoch, Seq)>> {
        if let Some(at) = self.positions.get(&slice) {
            return Ok(Some(*at));
        }
        self.reading("SELECT epoch, seq FROM positions WHERE slice = ?1")?
            .query_row([identity(slice.0)], |row| {
                Ok((
                    Epoch(row.get::<_, i64>(0)? as u64),
                    Seq(row.get::<_, i64>(1)? as u64),
                ))
            })
            .optional()
            .map_err(|source| self.failed(source))
    }

    fn journal_after(
        &self,
        slice: SliceId,
        seq: Seq,
        rows: usize,
    ) -> StoreResult<Option<Vec<Record>>> {
        match self.position(slice)? {
            Some((_, last)) if seq < last => {}
            Some(_) | None => return Ok(Some(Vec::new())),
        }
        let mut statement = self.reading(
            "SELECT seq, record FROM journal WHERE slice = ?1 AND seq > ?2
             ORDER BY seq LIMIT ?3",
        )?;
        let mut found = statement
            .query((identity(slice.0), ordered(seq.0), limit(rows)))
            .map_err(|source| self.failed(source))?;
        let mut records = Vec::new();
        let mut expected = seq.next();
        let mut bytes = 0;
        while let Some(row) = found.next().map_err(|source| self.failed(source))? {
            let at: i64 = row.get(0).map_err(|source| self.failed(source))?;
            if at != ordered(expected.0) {
                break;
            }
            let encoded = row
                .get_ref(1)
                .and_then(|value| Ok(value.as_blob()?))
                .map_err(|source| self.failed(source))?;
            if encoded.is_empty() {
                break;
            }
            let mut record: Record = self.decoded("journal", encoded)?;
            // What was bad where it came from may be good here by now.
            record
                .effects
                .retain(|effect| !matches!(effect, Effect::Damage(..)));
            let mut damage = Vec::new();
            for effect in &mut record.effects {
                if let Effect::Write(write) = effect {
                    let bad;
                    (write.data, bad) = self.content_now(write)?;
                    bytes += write.data.len();
                    damage.extend(bad);
                }
            }
            record.effects.extend(damage);
            records.push(record);
            expected = expected.next();
            if bytes >= JOURNAL_READ_BYTES {
                break;
            }
        }
        Ok((!records.is_empty() || rows == 0).then_some(records))
    }

    fn journal_epoch(&self, slice: SliceId, seq: Seq) -> StoreResult<Option<Epoch>> {
        self.reading("SELECT epoch FROM journal WHERE slice = ?1 AND seq = ?2")?
            .query_row((identity(slice.0), ordered(seq.0)), |row| {
                Ok(Epoch(row.get::<_, i64>(0)? as u64))
            })
            .optional()
            .map_err(|source| self.failed(source))
    }

    fn count_flares(&self, start: Key, end: Key) -> StoreResult<u64> {
        let count = self.number(
            "SELECT count(*) FROM flares WHERE key BETWEEN ?1 AND ?2 AND part = 0",
            (start.0, end.0),
        )?;
        Ok(count as u64)
    }

    fn last_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>> {
        let last = self.keys(
            "flares",
            "SELECT key FROM flares WHERE key BETWEEN ?1 AND ?2 AND part = 0
             ORDER BY key DESC LIMIT 1",
            (start.0, end.0),
        )?;
        Ok(last.first().copied())
    }

    fn median_key(&self, start: Key, end: Key) -> StoreResult<Option<Key>> {
        let half = self.count_flares(start, end)? / 2;
        let middle = self.keys(
            "flares",
            "SELECT key FROM flares WHERE key BETWEEN ?1 AND ?2 AND part = 0
             ORDER BY key LIMIT 1 OFFSET ?3",
            (start.0, end.0, ordered(half)),
        )?;
        Ok(middle.first().copied())
    }

    fn prefix_taken(&self, prefix: u64) -> StoreResult<bool> {
        let taken = self.number(
            "SELECT EXISTS (SELECT 1 FROM flares WHERE key BETWEEN ?1 AND ?2 AND part = 0)",
            (Key::from_prefix(prefix).0, Key::prefix_end(prefix).0),
        )?;
        Ok(taken != 0)
    }

    fn clock_ceiling(&self) -> StoreResult<u64> {
        match self.meta(META_CLOCK)? {
            None => Ok(0),
            Some(value) => match value.as_slice().try_into() {
                Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
                Err(_) => Err(self.damaged("meta", "the clock is not 8 bytes")),
            },
        }
    }
}
