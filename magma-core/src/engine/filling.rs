//! A new copy gets everything while work goes on.
//!
//! The owner sends the rows of all keys in order, a bounded batch at a time, and every live
//! operation besides, all on one ordered lane. The copy applies a live operation only to keys
//! at or before the cursor: what lies beyond comes with its rows later, as of a later
//! operation. A big content is sent in pieces after its rows; a live write to it applies at
//! once, and a piece that is sent later was read later, so the end is the same.

use bytes::Bytes;

use super::slices::{Fill, Stream};
use super::{Action, Engine};
use crate::agreement::Change;
use crate::effect::{ContentWrite, Effect, Record, in_parts};
use crate::flare::{FlareRow, Kind, Layout};
use crate::ids::{Epoch, Seq, SliceId, VolcanoId};
use crate::key::Key;
use crate::limits::{COPY_BATCH_BYTES, IO_MAX};
use crate::store::{Store, StoreResult};
use crate::wire::peer::PeerMessage;

impl<S: Store> Engine<S> {
    /// Owner: begins to fill a copy from nothing.
    pub(super) fn begin_fill(&mut self, to: VolcanoId, slice: SliceId) -> StoreResult<()> {
        if !self.up.contains(&to) {
            return Ok(());
        }
        // Operations of this batch so far are in the rows already.
        self.flush_ships();
        let number = self.token();
        let Some(copy) = self
            .owned
            .get_mut(&slice)
            .and_then(|owned| owned.copies.get_mut(&to))
        else {
            return Ok(());
        };
        copy.counts = false;
        copy.stream = Stream::Filling(Box::new(Fill {
            number,
            ..Fill::default()
        }));
        tracing::info!(target: "magma::r", %slice, volcano = %self.lava.nick(to), "filling a new copy");
        self.resync_begins(slice, to, true);
        self.send(
            to,
            PeerMessage::CopyBegin {
                slice,
                epoch: self.lava.epoch,
                fill: number,
            },
        );
        self.fill_more(to, slice)
    }

    /// Owner: sends the next batch of rows.
    pub(super) fn fill_more(&mut self, to: VolcanoId, slice: SliceId) -> StoreResult<()> {
        if !self.may_fill(slice, to) {
            return Ok(());
        }
        self.flush_ships();
        let Some(owned) = self.owned.get_mut(&slice) else {
            return Ok(());
        };
        let (end, start) = (owned.end, owned.start);
        let (last_epoch, last) = (owned.last_epoch, owned.last);
        let Some(Stream::Filling(fill)) = owned.copies.get_mut(&to).map(|copy| &mut copy.stream)
        else {
            return Ok(());
        };
        if fill.sent_all {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut **fill);
        let before = batch.cursor;
        let mut effects = Vec::new();
        let mut bytes = 0;
        while bytes < COPY_BATCH_BYTES {
            if let Some((row, offset)) = batch.content.take() {
                let (piece, bad, next) = self.content_piece(&row, offset)?;
                bytes += piece.as_ref().map_or(64, |write| write.data.len());
                effects.extend(piece.map(Effect::Write));
                effects.extend(bad);
                batch.content = next.map(|offset| (row, offset));
                continue;
            }
            let after = batch.cursor.or(start.prev());
            let Some((key, rows)) = self.store.rows_of_next_key(after, end)? else {
                batch.sent_all = true;
                break;
            };
            bytes += rows.iter().map(Effect::weight).sum::<usize>();
            for effect in rows {
                if let Effect::PutFlare(row) = &effect
                    && matches!(row.kind, Kind::File | Kind::Symlink)
                    && row.size > 0
                {
                    batch.content = Some(((**row).clone(), 0));
                }
                effects.push(effect);
            }
            if let Some((row, _)) = &batch.content {
                effects.push(Effect::Truncate(row.flare_ref(), row.size));
            }
            batch.cursor = Some(key);
        }
        let done = batch.sent_all;
        let cursor = if done {
            end
        } else {
            batch.cursor.unwrap_or(start)
        };
        let fill = batch.number;
        if let Some(copy) = self
            .owned
            .get_mut(&slice)
            .and_then(|owned| owned.copies.get_mut(&to))
        {
            copy.stream = Stream::Filling(Box::new(batch));
        }
        // The rows of one key may be too many for one message: a large directory, say. They follow
        // each other with nothing in between, and count from the last of them on.
        let parts = in_parts(effects, Effect::weight);
        let parts = match parts.is_empty() {
            true => vec![Vec::new()],
            false => parts,
        };
        let before = before.or(start.prev()).unwrap_or(Key::MIN);
        let count = parts.len();
        for (number, effects) in parts.into_iter().enumerate() {
            let is_last = number + 1 == count;
            let rows = Record {
                slice,
                epoch: last_epoch,
                seq: last,
                clock: self.clock.last(),
                effects,
            };
            let payload: Vec<Bytes> = rows.payload().cloned().collect();
            let message = PeerMessage::CopyRows {
                slice,
                epoch: self.lava.epoch,
                fill,
                rows,
                cursor: if is_last { cursor } else { before },
                done: done && is_last,
                more: !is_last,
            };
            let bytes = payload.iter().map(Bytes::len).sum();
            self.resync_sent((slice, to), 0, &message, bytes);
            self.act(Action::Send {
                to,
                message: Box::new(message),
                payload,
            });
        }
        Ok(())
    }

    /// The next piece of a content, and where to go on. Pieces of zeros are left out: the
    /// length is set beforehand, so they stay holes.
    fn content_piece(
        &self,
        row: &FlareRow,
        offset: u64,
    ) -> StoreResult<(Option<ContentWrite>, Vec<Effect>, Option<u64>)> {
        let len = (row.size - offset).min(IO_MAX as u64) as usize;
        let (data, bad) = self.store.read_to_copy(row, offset, len)?;
        let next = offset + len as u64;
        let next = (next < row.size && row.layout == Layout::Segments).then_some(next);
        if data.iter().all(|byte| *byte == 0) {
            return Ok((None, bad, next));
        }
        let write = ContentWrite {
            flare: row.flare_ref(),
            segment: 0,
            offset,
            len: data.len() as u32,
            data,
        };
        Ok((Some(write), bad, next))
    }

    /// Copy: throws away what it holds of a slice.
    pub(super) fn copy_begin(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        epoch: Epoch,
        fill: u64,
    ) -> StoreResult<()> {
        let Some((start, end)) = self.lava.slice(slice).map(|s| (s.start, s.end)) else {
            return Ok(());
        };
        let Some(held) = self.held.get_mut(&slice) else {
            return Ok(());
        };
        if held.owner != from || self.lava.is_outdated(slice, epoch) {
            return Ok(());
        }
        held.whole = false;
        held.filling = fill;
        held.attached = true;
        held.cursor = None;
        held.position = (epoch, Seq(0));
        while self.rows().clear_range(start, end, 1024)? {}
        self.rows().forget_slice(slice)?;
        self.cache.clear();
        Ok(())
    }

    /// Copy: rows have arrived.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn copy_rows(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        epoch: Epoch,
        fill: u64,
        mut rows: Record,
        (cursor, done, more): (Key, bool, bool),
        mut payload: Bytes,
    ) -> StoreResult<()> {
        let Some(held) = self.held.get_mut(&slice) else {
            return Ok(());
        };
        let outdated = self.lava.is_outdated(slice, epoch);
        if held.owner != from || held.whole || outdated || fill != held.filling {
            return Ok(());
        }
        if rows.take_payload(&mut payload).is_err() {
            tracing::warn!(target: "magma::r", %slice, from = %self.lava.nick(from), "rows came without their content");
            return Ok(());
        }
        held.cursor = Some(cursor);
        if done {
            held.whole = true;
            held.position = (rows.epoch, rows.seq);
        }
        self.clock.receive(rows.clock, self.now.wall_nanos);
        self.rows().apply_rows(slice, &rows.effects)?;
        for effect in &rows.effects {
            self.cache.applied(effect);
        }
        if done {
            self.rows().set_position(slice, (rows.epoch, rows.seq))?;
        }
        if more {
            // The last part is acknowledged for all.
            return Ok(());
        }
        let done = done.then_some(rows.seq);
        self.send(
            from,
            PeerMessage::CopyAck {
                slice,
                fill,
                cursor,
                done,
            },
        );
        Ok(())
    }

    /// Owner: the copy has taken a batch.
    pub(super) fn copy_ack(
        &mut self,
        from: VolcanoId,
        slice: SliceId,
        number: u64,
        done: Option<Seq>,
    ) -> StoreResult<()> {
        let Some(copy) = self
            .owned
            .get_mut(&slice)
            .and_then(|owned| owned.copies.get_mut(&from))
        else {
            return Ok(());
        };
        let Stream::Filling(fill) = &copy.stream else {
            return Ok(());
        };
        if fill.number != number {
            // The filling has begun anew since: the copy is empty again, or about to be.
            return Ok(());
        }
        match done {
            None => self.fill_more(from, slice),
            Some(seq) => {
                // It holds everything up to `seq` and has been sent everything since. From
                // here on every operation waits for it: before it is proposed, so that no
                // operation is acknowledged without it once the lava counts it.
                copy.acked = seq;
                copy.stream = Stream::Live;
                self.count_copy(slice, from);
                self.propose_in_sync(slice, from);
                Ok(())
            }
        }
    }

    /// Owner: proposes a copy that has caught up to be in sync.
    pub(super) fn propose_in_sync(&mut self, slice: SliceId, volcano: VolcanoId) {
        let known = self.lava.slice(slice).and_then(|s| s.copy_on(volcano));
        if known.is_none_or(|copy| copy.in_sync) {
            return;
        }
        let owned = self.owned.get(&slice).filter(|owned| owned.is_past_cut());
        let Some(copy) = owned.and_then(|owned| owned.copies.get(&volcano)) else {
            return;
        };
        if copy.counts && matches!(copy.stream, Stream::Live) && copy.acked >= copy.lacks {
            self.propose(Change::CopyInSync { slice, volcano });
        }
    }

    /// Copy: the owner has cut the slice; the upper part has a history of its own from here.
    pub(super) fn copy_cut(&mut self, from: VolcanoId, to: SliceId, epoch: Epoch) {
        self.held.entry(to).or_insert(super::slices::Held {
            owner: from,
            position: (epoch, Seq(0)),
            whole: true,
            filling: 0,
            cursor: None,
            attached: false,
        });
        self.attach(to);
    }
}
