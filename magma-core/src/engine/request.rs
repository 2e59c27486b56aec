//! A client's request: routing, exactly-once, and the list of operations in it.

use bytes::{Bytes, BytesMut};

use super::Engine;
use super::event::{Action, Origin, Outcome, Release, Work};
use super::parking::Wait;
use super::ranges::Source;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::ReplyRow;
use crate::ids::{Seq, SessionId, SliceId, TxId};
use crate::key::Key;
use crate::limits::{ATTR_BATCH_MAX, HOPS_MAX, IO_MAX, OPS_PER_REQUEST_MAX, SLOTS_PER_SESSION};
use crate::op::{Answer, Op};
use crate::store::{Store, StoreResult};
use crate::wire::codec;
use crate::wire::flare_protocol::{Grant, Reply, Request};

/// The session of the volcanos themselves (console, housekeeping): it changes nothing twice
/// because nobody repeats its requests.
pub(super) const INTERNAL: SessionId = SessionId(0);

/// A request on its way through its list of operations.
#[derive(Debug)]
pub(super) struct RequestState {
    pub(super) origin: Origin,
    pub(super) request: Request,
    /// Content to write that no operation has taken yet.
    pub(super) payload: Bytes,
    pub(super) results: Vec<Result<Answer, OpError>>,
    /// Content that was fetched from another owner, for a copy.
    pub(super) fetched: Option<Bytes>,
    /// Content that was read.
    pub(super) out: Vec<Bytes>,
    /// The slice that served it.
    pub(super) slice: SliceId,
    /// The operation that the reply waits for.
    pub(super) gate: Seq,
    /// It came from the session itself, whose leases it keeps valid.
    pub(super) heard: bool,
    /// Flares that the answers show as they are now: may be leased with the reply.
    pub(super) shown: Vec<Key>,
}

impl RequestState {
    /// The transaction of the operation that is being done.
    pub(super) fn tx(&self) -> TxId {
        let step = self.results.len().min(usize::from(u8::MAX)) as u8;
        TxId(
            self.request.session,
            self.request.slot,
            self.request.seq,
            step,
        )
    }

    fn op(&self) -> Option<&Op> {
        self.request.ops.get(self.results.len())
    }

    /// The key may be in a slice by now that was cut off the one that it was in. The first
    /// operation of such a slice follows all those of the old one.
    pub(super) fn follow_cut(&mut self, slice: SliceId) {
        if self.slice != slice {
            self.slice = slice;
            self.gate = self.gate.min(Seq(1));
        }
    }

    /// Takes over the results of what was done of this request before, and leaves out the
    /// content that went with it.
    fn skip_done(&mut self, results: Vec<OpResult<Answer>>) {
        if results.len() <= self.results.len() {
            return;
        }
        let done = self.results.len()..results.len().min(self.request.ops.len());
        for op in &self.request.ops[done] {
            if let Op::Write { len, .. } = op {
                let len = (*len as usize).min(self.payload.len());
                drop(self.payload.split_to(len));
            }
        }
        self.results = results;
    }

    fn mutates(&self) -> bool {
        self.request.ops.iter().any(Op::is_mutation)
    }

    /// The row that keeps the answer of a slot: what is done so far, with this answer.
    pub(super) fn reply_row(&self, answer: &Result<Answer, OpError>) -> Option<Effect> {
        let request = &self.request;
        if request.session == INTERNAL {
            return None;
        }
        let mut results = self.results.clone();
        results.push(answer.clone());
        let reply = codec::encode(&results).ok()?;
        Some(Effect::PutReply(Box::new(ReplyRow {
            key: request.key,
            session: request.session,
            slot: request.slot,
            seq: request.seq,
            step: 0,
            reply,
        })))
    }
}

impl<S: Store> Engine<S> {
    pub(super) fn client_request(
        &mut self,
        origin: Origin,
        request: Request,
        payload: Bytes,
    ) -> StoreResult<()> {
        self.clock.receive(request.clock, self.now.wall_nanos);
        let state = RequestState {
            origin,
            payload,
            results: Vec::new(),
            fetched: None,
            out: Vec::new(),
            slice: SliceId(0),
            gate: Seq(0),
            heard: !origin.proxied
                && self.lava.has_session(request.session)
                && self.session_heard(request.session),
            shown: Vec::new(),
            request,
        };
        if let Err(error) = check_bounds(&state) {
            self.refuse(state, error);
            return Ok(());
        }
        self.run_request(state)
    }

    /// Runs or resumes a request; called again whenever its reason to wait is gone.
    pub(super) fn run_request(&mut self, mut state: RequestState) -> StoreResult<()> {
        if !self.serving || self.is_fenced() {
            self.refuse(state, OpError::TryAgain);
            return Ok(());
        }
        let request = &state.request;
        if request.epoch > self.lava.epoch {
            let wait = Wait::Epoch(request.epoch);
            self.park(wait, Work::Request(Box::new(state)));
            return Ok(());
        }
        if request.session != INTERNAL && !self.lava.has_session(request.session) {
            self.refuse(state, OpError::SessionEnded);
            return Ok(());
        }
        if let [Op::FsckAsk(ask)] = request.ops.as_slice() {
            let ask = ask.clone();
            return self.fsck_ask(state, ask);
        }
        let Some(slice) = self.lava.slice_of(request.key) else {
            self.refuse(state, OpError::TryAgain);
            return Ok(());
        };
        if slice.owner != self.me {
            let to = slice.owner;
            self.forward(state, to);
            return Ok(());
        }
        state.follow_cut(slice.id);
        let Some(owned) = self.owned.get(&state.slice) else {
            self.refuse(state, OpError::TryAgain);
            return Ok(());
        };
        let crowded = owned.in_flight > crate::limits::SHIP_WINDOW_BYTES && state.mutates();
        if owned.handing.is_some() || crowded {
            let wait = Wait::Slice(state.slice);
            self.park(wait, Work::Request(Box::new(state)));
            return Ok(());
        }
        if state.mutates() && state.request.session != INTERNAL {
            // Looked up whenever it comes back, too: while it was parked, the same request
            // sent again may have been done.
            match self.known_reply(&mut state)? {
                Known::New => {}
                Known::Done => {
                    // Done here, and perhaps not by the copies yet: the row of the answer belongs to
                    // this key.
                    let gate = self.gate(state.slice, state.request.key);
                    state.gate = state.gate.max(gate);
                    return self.reply(state);
                }
                Known::UnderWay => return Ok(()),
                Known::Adopts(tx) => {
                    if let Some(pending) = self.pending.get_mut(&tx) {
                        pending.state = Some(Box::new(state));
                    }
                    return Ok(());
                }
                Known::Settling => {
                    self.refuse(state, OpError::TryAgain);
                    return Ok(());
                }
                Known::Overtaken => {
                    self.refuse(state, OpError::Overtaken);
                    return Ok(());
                }
            }
        }
        self.run_ops(state)
    }

    /// Whether the request was done before, or is being done.
    fn known_reply(&mut self, state: &mut RequestState) -> StoreResult<Known> {
        let request = &state.request;
        let (session, slot, seq) = (request.session, request.slot, request.seq);
        let steps = request.ops.len() as u8;
        if let Some(row) = self.store.reply(state.slice, session, slot)? {
            if row.seq > seq {
                return Ok(Known::Overtaken);
            }
            if row.seq == seq {
                let results = codec::decode(&row.reply).unwrap_or_default();
                state.skip_done(results);
                let failed = state.results.last().is_some_and(Result::is_err);
                if failed || state.results.len() >= usize::from(steps) {
                    let last = TxId(session, slot, seq, steps.saturating_sub(1));
                    return Ok(match self.pending.get_mut(&last) {
                        // Decided, but not to be seen everywhere yet: the answer waits for that.
                        Some(pending) if pending.is_unseen() => match &mut pending.state {
                            Some(waiting) => {
                                waiting.origin = state.origin;
                                waiting.heard = state.heard;
                                Known::UnderWay
                            }
                            None => Known::Settling,
                        },
                        _ => Known::Done,
                    });
                }
            }
        }
        for step in 0..steps {
            let tx = TxId(session, slot, seq, step);
            let Some(pending) = self.pending.get_mut(&tx) else {
                continue;
            };
            // Sent again while under way: the answer goes to whoever asked last.
            if let Some(waiting) = &mut pending.state {
                waiting.origin = state.origin;
                waiting.heard = state.heard;
                return Ok(Known::UnderWay);
            }
            // Nobody waits for it: it was resolved after a crash, or only its end is left.
            return Ok(
                match pending.adopts(state.request.ops.get(usize::from(step))) {
                    true if state.results.len() == usize::from(step) => Known::Adopts(tx),
                    _ => Known::Settling,
                },
            );
        }
        Ok(Known::New)
    }

    /// The row that keeps the answer of a request which nobody was waiting for when its
    /// transaction was driven to the end after a crash: the client will ask again.
    pub(super) fn reply_row_after(
        &self,
        slice: SliceId,
        key: Key,
        tx: TxId,
        answer: &OpResult<Answer>,
    ) -> StoreResult<Option<Effect>> {
        let TxId(session, slot, seq, step) = tx;
        let mut results: Vec<OpResult<Answer>> = match self.store.reply(slice, session, slot)? {
            Some(row) if row.seq > seq => return Ok(None),
            Some(row) if row.seq == seq => codec::decode(&row.reply).unwrap_or_default(),
            Some(_) | None => Vec::new(),
        };
        if results.len() != usize::from(step) {
            return Ok(None);
        }
        results.push(answer.clone());
        let Ok(reply) = codec::encode(&results) else {
            return Ok(None);
        };
        Ok(Some(Effect::PutReply(Box::new(ReplyRow {
            key,
            session,
            slot,
            seq,
            step: 0,
            reply,
        }))))
    }

    fn run_ops(&mut self, mut state: RequestState) -> StoreResult<()> {
        loop {
            let Some(op) = state.op().cloned() else {
                return self.reply(state);
            };
            if let Some(key) = self.lease_conflict(&op, state.request.session) {
                state.shown.clear();
                self.park(Wait::Lease(key), Work::Request(Box::new(state)));
                return Ok(());
            }
            self.statistics.operations += 1;
            state.gate = state.gate.max(self.gate(state.slice, state.request.key));
            match self.run_op(&mut state, op)? {
                Step::Answered(answer) => {
                    let failed = answer.is_err();
                    state.results.push(answer);
                    if failed {
                        return self.reply(state);
                    }
                }
                Step::Waits(register) => {
                    // What was shown so far may have changed when it goes on.
                    state.shown.clear();
                    return register(self, Box::new(state));
                }
            }
        }
    }

    fn run_op(&mut self, state: &mut RequestState, op: Op) -> StoreResult<Step<S>> {
        let outcome = match op {
            Op::Guess { parent, name } => self.guess(state, parent, &name)?,
            Op::LookupEntry { dir, name } => return self.lookup_entry(state, dir, name),
            Op::GetAttr(flare) => return self.get_attr(state, flare),
            Op::GetRoot => self.get_root(state)?,
            Op::GetAttrs(flares) => self.get_attrs(state, &flares)?,
            Op::SetAttr(flare, set) => self.set_attr(state, flare, &set)?,
            Op::Create { parent, name, new } => return self.create(state, parent, name, new),
            Op::Link {
                flare,
                parent,
                name,
            } => return self.link(state, flare, parent, name),
            Op::Unlink {
                flare,
                parent,
                name,
            } => {
                return self.unlink(state, flare, parent, name, false);
            }
            Op::Rmdir {
                flare,
                parent,
                name,
            } => {
                return self.unlink(state, flare, parent, name, true);
            }
            rename @ Op::Rename { .. } => return self.rename(state, rename),
            Op::Open {
                flare,
                read,
                write,
                truncate,
                number,
            } => self.open(state, flare, read, write, truncate, number)?,
            Op::Hold(flare, number) => self.hold(state, flare, number)?,
            Op::Read { flare, offset, len } => return self.read(state, flare, offset, len),
            Op::Write {
                flare,
                offset,
                len,
                append,
                sync,
            } => {
                return self.write(state, flare, offset, len, append, sync);
            }
            Op::Allocate {
                flare,
                offset,
                len,
                how,
            } => self.allocate(state, flare, offset, len, how)?,
            Op::CopyRange {
                from,
                from_offset,
                flare,
                offset,
                len,
            } => {
                let from = Source {
                    flare: from,
                    offset: from_offset,
                    len,
                };
                return self.copy_range(state, from, flare, offset);
            }
            Op::Seek {
                flare,
                offset,
                data,
            } => self.seek(flare, offset, data)?,
            Op::Fsync { flare, data_only } => return self.fsync(state, flare, data_only),
            Op::ReadDir {
                dir,
                after,
                max_bytes,
            } => {
                return self.read_dir(state, dir, after, max_bytes);
            }
            Op::ReadLink(flare) => self.read_link(state, flare)?,
            Op::GetXattr(flare, name) => self.get_xattr(state, flare, &name)?,
            Op::SetXattr(flare, name, value, mode) => {
                self.set_xattr(state, flare, name, value, mode)?
            }
            Op::ListXattr(flare) => self.list_xattr(state, flare)?,
            Op::RemoveXattr(flare, name) => self.remove_xattr(state, flare, name)?,
            Op::StatFs => self.statfs()?,
            Op::Inspect(key) => self.inspect(key)?,
            Op::Renew => Ok(Outcome::done(Answer::Done)),
            // Answered before, unless it is one of several.
            Op::FsckAsk(_) => Err(OpError::Invalid),
            Op::FsckRepair(repair) => self.fsck_repair(state, repair)?,
            lock @ (Op::GetLock { .. } | Op::SetLock { .. } | Op::CancelLock { .. }) => {
                return self.lock_op(state, lock);
            }
        };
        Ok(match outcome {
            Ok(Outcome(answer, payload)) => {
                if !payload.is_empty() {
                    state.out.push(payload);
                }
                Step::Answered(Ok(answer))
            }
            Err(error) => Step::Answered(Err(error)),
        })
    }

    /// Goes on with a request whose operation has ended.
    pub(super) fn finish_op(
        &mut self,
        mut state: Box<RequestState>,
        answer: Result<Answer, OpError>,
    ) -> StoreResult<()> {
        let failed = answer.is_err();
        state.results.push(answer);
        let slice = self.lava.slice_of(state.request.key).map(|slice| slice.id);
        if let Some(slice) = slice {
            state.follow_cut(slice);
        }
        if failed || state.op().is_none() {
            return self.reply(*state);
        }
        if !self.owned.contains_key(&state.slice) {
            // The slice has moved meanwhile; what is done is known at its new owner.
            self.refuse(*state, OpError::TryAgain);
            return Ok(());
        }
        self.run_ops(*state)
    }

    /// The reply leaves when every change that it saw is acknowledged.
    pub(super) fn reply(&mut self, state: RequestState) -> StoreResult<()> {
        let lease = self.lease_for(&state)?;
        self.answer(state, lease);
        Ok(())
    }

    fn answer(&mut self, state: RequestState, lease: Option<Grant>) {
        let gate = state.gate;
        let payload = match state.out.len() {
            0 => Bytes::new(),
            1 => state.out.into_iter().next().unwrap_or_default(),
            _ => {
                let mut all = BytesMut::new();
                state
                    .out
                    .iter()
                    .for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        };
        let reply = Reply {
            clock: 0,
            epoch: self.lava.epoch,
            topology_changed: state.origin.proxied,
            results: state.results,
            lease,
        };
        let token = state.origin.token;
        let release = Release::Reply {
            token,
            reply: Box::new(reply),
            payload,
        };
        self.release_at(state.slice, gate, release);
    }

    /// Answers with an error that ends the list.
    pub(super) fn refuse(&mut self, mut state: RequestState, error: OpError) {
        state.results.push(Err(error));
        state.out.clear();
        self.answer(state, None);
    }

    fn forward(&mut self, mut state: RequestState, to: crate::ids::VolcanoId) {
        if state.request.hops >= HOPS_MAX {
            self.refuse(state, OpError::TooManyHops);
            return;
        }
        self.statistics.forwarded += 1;
        state.request.hops += 1;
        self.act(Action::Forward {
            token: state.origin.token,
            to,
            request: Box::new(state.request),
            payload: state.payload,
        });
    }

    /// Parks work; what finds no room is told to try again.
    pub(super) fn park(&mut self, wait: Wait, work: Work) {
        if let Err(work) = self.parking.park(self.now.moment, wait, work) {
            self.turn_away(work, OpError::Busy);
        }
    }

    /// Tells whoever waits for work that it will not be done now.
    pub(super) fn turn_away(&mut self, work: Work, error: OpError) {
        match work {
            Work::Request(state) => self.refuse(*state, error),
            Work::Step { from, step } => self.step_failed(from, &step, error),
            Work::StepDone(_) => {}
        }
    }

    /// Brings back what waits for a key.
    pub(super) fn wake_key(&mut self, key: Key) {
        self.local.extend(self.parking.wake(Wait::Key(key)));
    }

    /// Commits an operation on the request's own slice together with the slot's reply.
    pub(super) fn commit_answer(
        &mut self,
        state: &mut RequestState,
        mut effects: Vec<Effect>,
        answer: &Answer,
    ) -> StoreResult<()> {
        effects.extend(state.reply_row(&Ok(answer.clone())));
        let seq = self.commit(state.slice, effects)?;
        state.gate = state.gate.max(seq);
        Ok(())
    }
}

/// How an operation of the list went on.
pub(super) enum Step<S: Store> {
    /// It has ended.
    Answered(Result<Answer, OpError>),
    /// It waits: this takes the request and keeps it where it waits.
    Waits(Register<S>),
}

type Register<S> = Box<dyn FnOnce(&mut Engine<S>, Box<RequestState>) -> StoreResult<()>>;

impl<S: Store> Step<S> {
    pub(super) fn err(error: OpError) -> StoreResult<Step<S>> {
        Ok(Step::Answered(Err(error)))
    }
    pub(super) fn ok(answer: Answer) -> StoreResult<Step<S>> {
        Ok(Step::Answered(Ok(answer)))
    }
    pub(super) fn waits(
        register: impl FnOnce(&mut Engine<S>, Box<RequestState>) -> StoreResult<()> + 'static,
    ) -> StoreResult<Step<S>> {
        Ok(Step::Waits(Box::new(register)))
    }
    /// Waits until something about a key has been resolved.
    pub(super) fn parks(key: Key) -> StoreResult<Step<S>> {
        Step::waits(move |engine, state| {
            engine.park(Wait::Key(key), Work::Request(state));
            Ok(())
        })
    }
}

/// What is known of a request's slot.
enum Known {
    New,
    Done,
    UnderWay,
    /// Its transaction is being driven, and the request may wait for it.
    Adopts(TxId),
    /// Its transaction has ended for the client, but not here: it has to come again.
    Settling,
    Overtaken,
}

fn check_bounds(state: &RequestState) -> OpResult<()> {
    let request = &state.request;
    if request.ops.is_empty() || request.ops.len() > OPS_PER_REQUEST_MAX {
        return Err(OpError::ArgumentTooBig);
    }
    if request.slot.0 >= SLOTS_PER_SESSION || !request.cred.is_bounded() {
        return Err(OpError::ArgumentTooBig);
    }
    let mut writes = 0usize;
    for op in &request.ops {
        match op {
            Op::Write { len, .. } => writes = writes.saturating_add(*len as usize),
            Op::Read { len, .. } | Op::CopyRange { len, .. } if *len as usize > IO_MAX => {
                return Err(OpError::ArgumentTooBig);
            }
            Op::GetAttrs(flares) if flares.len() > ATTR_BATCH_MAX => {
                return Err(OpError::ArgumentTooBig);
            }
            _ => {}
        }
    }
    if writes != state.payload.len() || writes > IO_MAX {
        return Err(OpError::Invalid);
    }
    Ok(())
}
