//! Ranges of content without data from a client: reserved, emptied, searched, copied.

use bytes::Bytes;

use super::Engine;
use super::event::{Action, Io, IoDone, Outcome, Work};
use super::request::{RequestState, Step};
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{FlareRow, Layout};
use crate::ids::FlareRef;
use crate::limits::{INLINE_MAX, IO_MAX};
use crate::op::permission::Access;
use crate::op::setattr::{after_write, write_end};
use crate::op::{AllocateHow, Answer, Op};
use crate::store::{Store, StoreResult};
use crate::wire::flare_protocol::Request;

/// A range to copy from another file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) flare: FlareRef,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl<S: Store> Engine<S> {
    /// fallocate(2). Times and set-id bits change as with a write of the range.
    pub(super) fn allocate(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        offset: u64,
        len: u64,
        how: AllocateHow,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.writable(state, flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if len == 0 {
            return Ok(Err(OpError::Invalid));
        }
        let end = match write_end(offset, len) {
            Ok(end) => end,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.check_length(state, end) {
            return Ok(Err(error));
        }
        let reserves = how != AllocateHow::Punch;
        if reserves && !self.has_room_for(state, len)? {
            return Ok(Err(OpError::NoSpace));
        }
        let reaches = match how {
            AllocateHow::Extend | AllocateHow::Zero => end,
            AllocateHow::KeepSize | AllocateHow::Punch | AllocateHow::ZeroKeepSize => 0,
        };
        let (new, mut effects) = self.grown(state, &row, reaches, reserves && end > INLINE_MAX);
        if matches!(
            how,
            AllocateHow::Punch | AllocateHow::Zero | AllocateHow::ZeroKeepSize
        ) {
            effects.push(Effect::Punch(flare, offset, len));
        }
        // What fits into the row has its space with the row.
        if reserves && new.layout == Layout::Segments {
            effects.push(Effect::Reserve(flare, offset, len, end > new.size));
        }
        effects.insert(0, Effect::PutFlare(Box::new(new)));
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(Outcome::done(Answer::Done)))
    }

    /// The row after a change of content that reaches to `end`, and what moves its content into
    /// a file where it must go there.
    pub(super) fn grown(
        &mut self,
        state: &RequestState,
        row: &FlareRow,
        end: u64,
        to_file: bool,
    ) -> (FlareRow, Vec<Effect>) {
        let now = self.tick();
        let mut new = after_write(row, &state.request.cred, end, now);
        new.version = self.stamp(state.slice);
        let mut effects = Vec::new();
        if row.layout == Layout::Inline && (to_file || new.size > INLINE_MAX) {
            new.layout = Layout::Segments;
            if row.size > 0 {
                effects.push(Effect::Spill(row.flare_ref()));
            }
        }
        (new, effects)
    }

    /// Whether that much can be promised: beside the reserve, here and as far as is known of
    /// the copies.
    fn has_room_for(&mut self, state: &RequestState, bytes: u64) -> StoreResult<bool> {
        self.watch_space_after(bytes)?;
        if self.full || self.a_copy_is_full(state) {
            return Ok(false);
        }
        let space = self.store.space()?;
        Ok(space.total == 0 || space.free.saturating_sub(self.reserve) >= bytes)
    }

    fn writable(
        &mut self,
        state: &RequestState,
        flare: FlareRef,
    ) -> StoreResult<OpResult<FlareRow>> {
        let access = Access {
            read: false,
            write: true,
            exec: false,
        };
        Ok(match self.live_file(flare)? {
            Ok(row) => self.may_handle(&row, state, access).map(|()| row),
            Err(error) => Err(error),
        })
    }

    /// `SEEK_DATA` and `SEEK_HOLE`: lseek(2).
    pub(super) fn seek(
        &mut self,
        flare: FlareRef,
        offset: u64,
        data: bool,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live_file(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if offset >= row.size {
            return Ok(Err(OpError::NoData));
        }
        Ok(match self.store.seek(&row, offset, data)? {
            // What is stored may reach past the end: space that is kept.
            Some(found) if found < row.size || !data => {
                Ok(Outcome::done(Answer::Offset(found.min(row.size))))
            }
            Some(_) | None => Err(OpError::NoData),
        })
    }

    /// copy_file_range(2): the content is fetched from its owner, and then this is a write. It
    /// runs from the beginning when the content has come, because much may have changed while
    /// it was on its way: the leases, the owner, or that the request was done meanwhile.
    pub(super) fn copy_range(
        &mut self,
        state: &mut RequestState,
        from: Source,
        flare: FlareRef,
        offset: u64,
    ) -> StoreResult<Step<S>> {
        let row = match self.writable(state, flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        let Some(data) = state.fetched.take() else {
            return self.fetch(state, from);
        };
        if data.is_empty() {
            return Step::ok(Answer::Copied { len: 0 });
        }
        let len = data.len() as u32;
        let end = write_end(offset, u64::from(len));
        if let Err(error) = end.and_then(|end| self.check_length(state, end)) {
            return Step::err(error);
        }
        if !self.has_room_for(state, u64::from(len))? {
            return Step::err(OpError::NoSpace);
        }
        let copied = Answer::Copied { len };
        Step::ok(self.commit_write(state, &row, offset, data, |_| copied)?)
    }

    /// Asks the owner of the source, which may be this volcano, as the client would.
    fn fetch(&mut self, state: &RequestState, from: Source) -> StoreResult<Step<S>> {
        let Some(to) = self.lava.owner_of(from.flare.key()) else {
            return Step::err(OpError::TryAgain);
        };
        let request = Request {
            key: from.flare.key(),
            hops: 0,
            clock: self.clock.last(),
            epoch: self.lava.epoch,
            ops: vec![Op::Read {
                flare: from.flare,
                offset: from.offset,
                len: from.len.min(IO_MAX as u32),
            }],
            ..state.request.clone()
        };
        Step::waits(move |engine, state| {
            let job = engine.token();
            engine.io.insert(job, Io::Fetch(state));
            engine.act(Action::Fetch {
                job,
                to,
                request: Box::new(request),
            });
            Ok(())
        })
    }

    /// What was fetched for a copy has come.
    pub(super) fn fetched(
        &mut self,
        mut state: Box<RequestState>,
        done: IoDone,
    ) -> StoreResult<()> {
        let data: OpResult<Bytes> = match done {
            IoDone::Read(data) => Ok(data),
            IoDone::Failed(error) => Err(error),
            IoDone::Bad { .. } | IoDone::Synced | IoDone::Started => Err(OpError::Io),
        };
        match data {
            Ok(data) => {
                state.fetched = Some(data);
                self.local.push_back(Work::Request(state));
                Ok(())
            }
            Err(error) => self.finish_op(state, Err(error)),
        }
    }
}
