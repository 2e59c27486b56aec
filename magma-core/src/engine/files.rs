//! Content: open, read, write.

use bytes::Bytes;

use super::Engine;
use super::event::{Action, Io, IoDone, IoJob, Outcome, PeerStorage};
use super::repair::BadRead;
use super::request::{RequestState, Step};
use crate::effect::{ContentWrite, Effect};
use crate::error::{OpError, OpResult};
use crate::flare::{Attr, FlareRow, Kind, Layout};
use crate::ids::FlareRef;
use crate::op::permission::{Access, may};
use crate::op::setattr::{atime_due, set_attr, write_end};
use crate::op::{Answer, SetAttr};
use crate::store::{Store, StoreResult};
use crate::time::Timestamp;

/// Reads up to this size are tried on the engine's thread when the pages are in memory.
const READ_AT_ONCE: usize = 128 * 1024;

impl<S: Store> Engine<S> {
    pub(super) fn open(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        read: bool,
        write: bool,
        truncate: bool,
        number: u64,
    ) -> StoreResult<OpResult<Outcome>> {
        let row = match self.live_file(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let want = Access {
            read,
            write: write || truncate,
            exec: false,
        };
        if let Err(error) = may(&row, &state.request.cred, want) {
            // A program that may be executed but not read is opened by the kernel to run it.
            let exec = Access {
                read: false,
                write: false,
                exec: true,
            };
            if want.write || may(&row, &state.request.cred, exec).is_err() {
                return Ok(Err(error));
            }
        }
        let answer = if truncate {
            let now = self.tick();
            let cut = SetAttr {
                size: Some(0),
                by_handle: true,
                ..SetAttr::default()
            };
            let mut row = match set_attr(&row, &state.request.cred, &cut, now) {
                Ok(row) => row,
                Err(error) => return Ok(Err(error)),
            };
            row.version = self.stamp(state.slice);
            let attr = Attr::of(&row, 0);
            let effects = vec![Effect::PutFlare(Box::new(row)), Effect::Truncate(flare, 0)];
            let answer = Answer::Attr(Box::new(attr));
            self.commit_answer(state, effects, &answer)?;
            answer
        } else {
            Answer::Attr(Box::new(Attr::of(&row, self.store.blocks(&row)?)))
        };
        self.add_open(flare.key(), state.request.session, number);
        state.shown.push(flare.key());
        Ok(Ok(Outcome::done(answer)))
    }

    pub(super) fn read(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        offset: u64,
        len: u32,
    ) -> StoreResult<Step<S>> {
        let row = match self.live_file(flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        let access = Access {
            read: true,
            write: false,
            exec: false,
        };
        if let Err(error) = self.may_handle(&row, state, access) {
            return Step::err(error);
        }
        let atime = self.touch_atime(&row, state)?;
        let len = row.size.saturating_sub(offset).min(u64::from(len)) as usize;
        let eof = offset.saturating_add(len as u64) >= row.size;
        let answer = Answer::Data {
            len: len as u32,
            eof,
            version: row.version,
            atime,
        };
        if len == 0 {
            return Step::ok(answer);
        }
        let at_once = match row.layout {
            Layout::Inline => Some(self.store.read(&row, offset, len)?),
            Layout::Segments => match self.store.content() {
                None => Some(self.store.read(&row, offset, len)?),
                Some(content) if len <= READ_AT_ONCE => {
                    content.try_read_cached(flare, 0, offset, len)?
                }
                Some(_) => None,
            },
        };
        if let Some(data) = at_once {
            state.out.push(padded(data, len));
            return Step::ok(answer);
        }
        Step::waits(move |engine, state| {
            let job = engine.token();
            engine.io.insert(job, Io::Read(state, flare, offset, len));
            engine.act(Action::Io {
                job,
                io: IoJob::Read { flare, offset, len },
            });
            Ok(())
        })
    }

    pub(super) fn io_done(&mut self, job: u64, done: IoDone) -> StoreResult<()> {
        match self.io.remove(&job) {
            Some(Io::Read(mut state, flare, offset, len)) => {
                if let IoDone::Bad {
                    offset: at,
                    len: bad,
                } = done
                {
                    let read = BadRead { state, offset, len };
                    return self.bad_content(flare, (at, bad), Some(read));
                }
                let answer = match done {
                    IoDone::Read(data) => {
                        // What was read may be of an operation that came after the request:
                        // the reply waits for the last one on this key.
                        state.gate = state.gate.max(self.gate(state.slice, state.request.key));
                        let row = self.cache.flare(&self.store, state.request.key)?;
                        let (version, atime) =
                            row.map(|row| (row.version, row.atime)).unwrap_or_default();
                        let len = data.len() as u32;
                        state.out.push(data);
                        Ok(Answer::Data {
                            len,
                            eof: false,
                            version,
                            atime,
                        })
                    }
                    IoDone::Failed(error) => Err(error),
                    IoDone::Bad { .. } | IoDone::Synced | IoDone::Started => Err(OpError::Io),
                };
                self.finish_op(state, answer)
            }
            Some(Io::ForPeer(to, token, flare, version)) => {
                self.read_for_peer((to, token), flare, version, done)
            }
            Some(Io::Fetch(state)) => self.fetched(state, done),
            Some(Io::Digest(state, flare, version)) => {
                self.fsck_digested(state, flare, version, done)
            }
            Some(Io::Sync(token)) => {
                self.content_synced(token, matches!(done, IoDone::Synced));
                Ok(())
            }
            Some(Io::Nothing) | None => Ok(()),
        }
    }

    pub(super) fn write(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        offset: u64,
        len: u32,
        append: bool,
        sync: bool,
    ) -> StoreResult<Step<S>> {
        let row = match self.live_file(flare)? {
            Ok(row) => row,
            Err(error) => return Step::err(error),
        };
        let access = Access {
            read: false,
            write: true,
            exec: false,
        };
        if let Err(error) = self.may_handle(&row, state, access) {
            return Step::err(error);
        }
        let data = state
            .payload
            .split_to((len as usize).min(state.payload.len()));
        let offset = if append { row.size } else { offset };
        let end = write_end(offset, u64::from(len));
        if let Err(error) = end.and_then(|end| self.check_length(state, end)) {
            return Step::err(error);
        }
        if len == 0 {
            return Step::ok(Answer::Written {
                offset,
                size: row.size,
            });
        }
        self.watch_space_after(u64::from(len))?;
        if self.full || self.a_copy_is_full(state) {
            return Step::err(OpError::NoSpace);
        }
        let answer = self.commit_write(state, &row, offset, data, |size| Answer::Written {
            offset,
            size,
        })?;
        if sync {
            return self.fsync_with(state, flare, Some(answer));
        }
        Step::ok(answer)
    }

    /// Makes content the next operation, with the row that goes with it. The answer is made from
    /// the size afterwards.
    pub(super) fn commit_write(
        &mut self,
        state: &mut RequestState,
        row: &FlareRow,
        offset: u64,
        data: Bytes,
        answer: impl FnOnce(u64) -> Answer,
    ) -> StoreResult<Answer> {
        let end = offset.saturating_add(data.len() as u64);
        let (new, mut effects) = self.grown(state, row, end, false);
        let answer = answer(new.size);
        effects.insert(0, Effect::PutFlare(Box::new(new)));
        effects.push(Effect::Write(ContentWrite {
            flare: row.flare_ref(),
            segment: 0,
            offset,
            len: data.len() as u32,
            data,
        }));
        self.commit_answer(state, effects, &answer)?;
        self.start_writeback();
        Ok(answer)
    }

    /// Content that was written a while ago starts its way to the disk, so that no fsync
    /// meets a backlog.
    pub(super) fn start_writeback(&mut self) {
        let Some(content) = self.store.content() else {
            return;
        };
        for range in content.due_writeback() {
            let job = self.token();
            self.io.insert(job, Io::Nothing);
            let io = IoJob::WriteBack {
                flare: range.flare,
                offset: range.offset,
                len: range.len,
            };
            self.act(Action::Io { job, io });
        }
    }

    /// A read shows in the access time by the rule of relatime; nobody waits for it, and many are kept
    /// together. Where other sessions remember the attributes it does not: a read must not wait for a
    /// recall, because a recall may wait for a read (a mount drops its pages, and one that is being
    /// read is locked). The access time as it is then, which the reader is told.
    fn touch_atime(&mut self, row: &FlareRow, state: &RequestState) -> StoreResult<Timestamp> {
        let now = self.tick();
        if !atime_due(row.atime, row.mtime, row.ctime, now) || self.full {
            return Ok(row.atime);
        }
        if self
            .leases
            .is_held_by_others(row.key, state.request.session, self.now.moment)
        {
            return Ok(row.atime);
        }
        let mut row = row.clone();
        row.atime = now;
        self.commit_lazily(state.slice, vec![Effect::PutFlare(Box::new(row))])?;
        Ok(now)
    }

    /// Whether the session may do I/O: it has the file open (permission was checked then),
    /// or the permission bits allow it, or it is the owner's (as NFS servers have it, for a
    /// file that was opened before this volcano restarted).
    pub(super) fn may_handle(
        &self,
        row: &FlareRow,
        state: &RequestState,
        want: Access,
    ) -> OpResult<()> {
        let cred = &state.request.cred;
        let opened = self.opens.is_open_for(row.key, state.request.session);
        if opened || cred.uid == row.uid {
            return Ok(());
        }
        may(row, cred, want)
    }

    pub(super) fn a_copy_is_full(&self, state: &RequestState) -> bool {
        self.storage_of_copies(state).any(|storage| storage.full)
    }

    fn storage_of_copies(&self, state: &RequestState) -> impl Iterator<Item = &PeerStorage> {
        let copies = self.owned.get(&state.slice).map(|owned| &owned.copies);
        let counting = copies.into_iter().flatten().filter(|(_, copy)| copy.counts);
        counting.filter_map(|(id, _)| self.peer_storage.get(id))
    }

    /// A length that a file is to have: EFBIG if a disk that must hold it says no.
    pub(super) fn check_length(&self, state: &RequestState, length: u64) -> OpResult<()> {
        let copies = self
            .storage_of_copies(state)
            .map(|storage| storage.largest_file);
        let most = copies.fold(self.store.largest_file(), u64::min);
        if length > most {
            return Err(OpError::TooBig);
        }
        Ok(())
    }

    /// A regular file that is there in this incarnation.
    pub(super) fn live_file(&mut self, flare: FlareRef) -> StoreResult<OpResult<FlareRow>> {
        Ok(match self.live(flare)? {
            Ok(row) => match row.kind {
                Kind::File => Ok(row),
                Kind::Directory => Err(OpError::IsDirectory),
                _ => Err(OpError::Invalid),
            },
            Err(error) => Err(error),
        })
    }
}

/// Content that is shorter on the disk than the file is a hole at its end.
fn padded(data: Bytes, len: usize) -> Bytes {
    if data.len() >= len {
        return data.slice(..len);
    }
    let mut all = data.to_vec();
    all.resize(len, 0);
    all.into()
}
