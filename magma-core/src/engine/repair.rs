//! Content that does not have its checksum, and who has it right.
//!
//! Whoever holds the slice of a flare may be asked for a range of its content: the owner by its
//! copies, the copies by the owner. What comes back counts where it has the sum that the block
//! here should have: then it is the very block. Where that sum is lost too (a part of the block
//! was written since), it counts if both rows have the same version: then no change of the
//! content lies between them. Otherwise it is asked for again.
//!
//! A read that has met a bad block waits for this, and fails with EIO when nobody has the block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;

use super::Engine;
use super::event::{Action, Io, IoDone, IoJob};
use super::request::RequestState;
use crate::error::OpError;
use crate::flare::{FlareRow, Layout};
use crate::ids::{FlareRef, Stamp, VolcanoId};
use crate::limits::{BAD_BLOCKS_KEPT, IO_MAX, REPAIR_ASK_MS, REPAIR_TRIES, REPAIRS_UNDER_WAY};
use crate::store::content::BLOCK;
use crate::store::{Store, StoreResult};
use crate::time::Moment;
use crate::wire::peer::PeerMessage;

/// A range of content, in whole blocks.
type Place = (FlareRef, u64);

/// A read that waits for a block.
#[derive(Debug)]
pub(super) struct BadRead {
    pub(super) state: Box<RequestState>,
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// A range that is being asked for.
#[derive(Debug)]
struct Repair {
    len: usize,
    /// Who was not asked yet.
    left: VecDeque<VolcanoId>,
    /// The question that is under way, and when to give up on it.
    token: u64,
    until: Moment,
    tries: u32,
    waiting: Vec<BadRead>,
}

/// All of them, and what came of those that are done.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    under_way: BTreeMap<Place, Repair>,
    repaired: u64,
    /// Blocks that nobody has right.
    lost: BTreeSet<Place>,
    /// The one that was last looked at.
    looked: Option<Place>,
}

/// What came of content that did not have its checksum, since the engine was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Ranges that came from another volcano.
    pub repaired: u64,
    /// Ranges that others are being asked for.
    pub under_way: u64,
    /// Blocks that no volcano has right: flares, and offsets in bytes. At most
    /// [`BAD_BLOCKS_KEPT`] are remembered.
    pub lost: Vec<(FlareRef, u64)>,
}

impl<S: Store> Engine<S> {
    /// A range of content was read and is not what was written. `read` waits for it to be.
    pub(super) fn bad_content(
        &mut self,
        flare: FlareRef,
        (offset, len): (u64, usize),
        read: Option<BadRead>,
    ) -> StoreResult<()> {
        let start = offset - offset % BLOCK;
        let len = (len + (offset - start) as usize).min(IO_MAX);
        let place = (flare, start);
        if let Some(repair) = self.repairs.under_way.get_mut(&place) {
            repair.waiting.extend(read);
            return Ok(());
        }
        let left = self.holders_of(flare);
        if self.repairs.under_way.len() >= REPAIRS_UNDER_WAY {
            return match read {
                Some(read) => self.finish_op(read.state, Err(OpError::Busy)),
                None => Ok(()),
            };
        }
        if left.is_empty() {
            self.lost_content(place, len)?;
            return match read {
                Some(read) => self.finish_op(read.state, Err(OpError::Io)),
                None => Ok(()),
            };
        }
        let path = self.store.flare(flare.key())?;
        let path = path.map(|row| self.store.content_place(&row));
        tracing::warn!(target: "magma::r", %flare, offset = start, file = path.as_deref().unwrap_or("-"),
            "a block does not have its checksum: another volcano is asked for it");
        let repair = Repair {
            len,
            left,
            token: 0,
            until: Moment(0),
            tries: 0,
            waiting: read.into_iter().collect(),
        };
        self.repairs.under_way.insert(place, repair);
        self.ask_next(place)
    }

    /// The other volcanos that hold the slice of a flare.
    fn holders_of(&self, flare: FlareRef) -> VecDeque<VolcanoId> {
        let slice = self.lava.slice_of(flare.key());
        let all = slice.into_iter().flat_map(|slice| {
            let copies = slice.copies.iter().filter(|copy| copy.in_sync);
            std::iter::once(slice.owner).chain(copies.map(|copy| copy.volcano))
        });
        all.filter(|volcano| *volcano != self.me).collect()
    }

    fn ask_next(&mut self, place: Place) -> StoreResult<()> {
        let token = self.token();
        let now = self.now.moment;
        let Some(repair) = self.repairs.under_way.get_mut(&place) else {
            return Ok(());
        };
        let Some(to) = repair.left.pop_front() else {
            return self.no_good_copy(place);
        };
        repair.token = token;
        repair.until = Moment(now.0 + REPAIR_ASK_MS);
        let message = PeerMessage::ContentAsk {
            token,
            flare: place.0,
            offset: place.1,
            len: repair.len as u32,
        };
        self.send(to, message);
        Ok(())
    }

    fn no_good_copy(&mut self, place: Place) -> StoreResult<()> {
        let Some(repair) = self.repairs.under_way.remove(&place) else {
            return Ok(());
        };
        self.lost_content(place, repair.len)?;
        for read in repair.waiting {
            self.finish_op(read.state, Err(OpError::Io))?;
        }
        Ok(())
    }

    /// Remembers which blocks of a range are still bad.
    fn lost_content(&mut self, (flare, offset): Place, len: usize) -> StoreResult<()> {
        for offset in self.bad_blocks((flare, offset), len)? {
            if self.repairs.lost.len() < BAD_BLOCKS_KEPT
                && self.repairs.lost.insert((flare, offset))
            {
                tracing::error!(target: "magma::r", %flare, offset,
                    "a block does not have its checksum, and no volcano that could be asked has it right");
            }
        }
        Ok(())
    }

    /// The offsets of blocks in a range that do not have their sum; none when the flare is gone.
    fn bad_blocks(&self, (flare, offset): Place, len: usize) -> StoreResult<Vec<u64>> {
        let (Some(content), Some(row)) = (self.store.content(), self.content_row(flare)?) else {
            return Ok(Vec::new());
        };
        let bad = content.read_checked(flare, 0, offset, len)?.bad;
        let bad = bad.into_iter().map(|block| block.saturating_mul(BLOCK));
        Ok(bad.filter(|offset| *offset < row.size).collect())
    }

    /// What became of damaged content.
    pub fn damage(&self) -> Damage {
        Damage {
            repaired: self.repairs.repaired,
            under_way: self.repairs.under_way.len() as u64,
            lost: self.repairs.lost.iter().copied().collect(),
        }
    }

    /// Another volcano wants a range of content that it has lost.
    pub(super) fn content_asked(
        &mut self,
        from: VolcanoId,
        token: u64,
        flare: FlareRef,
        (offset, len): (u64, u32),
    ) -> StoreResult<()> {
        let row = self.content_row(flare)?;
        let Some(row) = row.filter(|_| len as usize <= IO_MAX) else {
            self.tell_content(from, token, None, Bytes::new());
            return Ok(());
        };
        if self.store.content().is_none() {
            let data = self.store.read(&row, offset, len as usize)?;
            self.tell_content(from, token, Some(row.version), data);
            return Ok(());
        }
        let job = self.token();
        let io = Io::ForPeer(from, token, flare, row.version);
        self.io.insert(job, io);
        let len = len as usize;
        self.act(Action::Io {
            job,
            io: IoJob::Read { flare, offset, len },
        });
        Ok(())
    }

    fn content_row(&self, flare: FlareRef) -> StoreResult<Option<FlareRow>> {
        let row = self.store.flare(flare.key())?;
        Ok(row.filter(|row| row.inc == flare.inc() && row.layout == Layout::Segments))
    }

    fn tell_content(&mut self, to: VolcanoId, token: u64, version: Option<Stamp>, data: Bytes) {
        self.act(Action::Send {
            to,
            message: Box::new(PeerMessage::ContentTold { token, version }),
            payload: vec![data],
        });
    }

    /// What another volcano has asked for was read.
    pub(super) fn read_for_peer(
        &mut self,
        (to, token): (VolcanoId, u64),
        flare: FlareRef,
        version: Stamp,
        done: IoDone,
    ) -> StoreResult<()> {
        match done {
            IoDone::Read(data) => {
                // Changed since: no version is said, and only the sum can tell.
                let now = self.content_row(flare)?.map(|row| row.version);
                let version = (now == Some(version)).then_some(version);
                self.tell_content(to, token, version, data);
                Ok(())
            }
            IoDone::Bad { offset, len } => {
                self.tell_content(to, token, None, Bytes::new());
                self.bad_content(flare, (offset, len), None)
            }
            IoDone::Failed(_) | IoDone::Synced | IoDone::Started => {
                self.tell_content(to, token, None, Bytes::new());
                Ok(())
            }
        }
    }

    /// Another volcano has told a range of content.
    pub(super) fn content_told(
        &mut self,
        from: VolcanoId,
        token: u64,
        version: Option<Stamp>,
        data: &Bytes,
    ) -> StoreResult<()> {
        let now = self.now.moment;
        let mut all = self.repairs.under_way.iter_mut();
        let Some((&place, repair)) = all.find(|(_, repair)| repair.token == token) else {
            return Ok(());
        };
        let (flare, offset) = place;
        if data.is_empty() {
            return self.ask_next(place);
        }
        repair.tries += 1;
        let again = repair.tries < REPAIR_TRIES;
        let row = self.content_row(flare)?;
        let surely = row.as_ref().is_some_and(|row| version == Some(row.version));
        let good = match (row, self.store.content()) {
            (Some(row), Some(content)) => {
                // Behind the size there is nothing.
                let size = usize::try_from(row.size.saturating_sub(offset)).unwrap_or(usize::MAX);
                let data = &data[..data.len().min(size)];
                content.mend(flare, 0, offset, data, surely)?
            }
            // It was removed.
            _ => true,
        };
        if !good {
            // It was being changed: it is asked again in a moment, when the two agree.
            if let Some(repair) = self.repairs.under_way.get_mut(&place)
                && again
            {
                repair.left.push_front(from);
                repair.token = 0;
                repair.until = Moment(now.0 + REPAIR_ASK_MS / 10);
                return Ok(());
            }
            return self.ask_next(place);
        }
        tracing::warn!(target: "magma::r", %flare, offset, from = %self.lava.nick(from),
            "a block that did not have its checksum was repaired from another volcano");
        self.repairs.repaired += 1;
        let waiting = self.repairs.under_way.remove(&place);
        for read in waiting.into_iter().flat_map(|repair| repair.waiting) {
            self.read_again(flare, read);
        }
        Ok(())
    }

    fn read_again(&mut self, flare: FlareRef, read: BadRead) {
        let BadRead { state, offset, len } = read;
        let job = self.token();
        self.io.insert(job, Io::Read(state, flare, offset, len));
        self.act(Action::Io {
            job,
            io: IoJob::Read { flare, offset, len },
        });
    }

    /// Asks on where nobody answers, and for what the writer has come upon.
    pub(super) fn watch_repairs(&mut self) -> StoreResult<()> {
        let now = self.now.moment;
        let late = self.repairs.under_way.iter();
        let late: Vec<Place> = late
            .filter(|(_, repair)| repair.until <= now)
            .map(|(place, _)| *place)
            .collect();
        for place in late {
            self.ask_next(place)?;
        }
        self.look_at_lost()?;
        let Some(content) = self.store.content() else {
            return Ok(());
        };
        // What finds no room waits where it is, and whoever looks for more waits with it.
        let room = REPAIRS_UNDER_WAY.saturating_sub(self.repairs.under_way.len());
        let mut ranges: Vec<(Place, usize)> = Vec::new();
        for (flare, offset) in content.take_bad(room) {
            match ranges.last_mut() {
                Some(((last, start), len))
                    if *last == flare && *start + *len as u64 == offset && *len < IO_MAX =>
                {
                    *len += BLOCK as usize;
                }
                _ => ranges.push(((flare, offset), BLOCK as usize)),
            }
        }
        for (place, len) in ranges {
            // Of what is being filled the owner has newer content, and sends it.
            if self.holds_all_of(place.0) && !self.bad_blocks(place, len)?.is_empty() {
                self.bad_content(place.0, (place.1, len), None)?;
            }
        }
        Ok(())
    }

    fn holds_all_of(&self, flare: FlareRef) -> bool {
        let slice = self.lava.slice_of(flare.key());
        slice.is_some_and(|slice| {
            slice.owner == self.me || slice.in_sync().any(|copy| copy == self.me)
        })
    }

    /// Looks at one of the lost blocks: it may have been written anew, or removed.
    fn look_at_lost(&mut self) -> StoreResult<()> {
        let lost = &self.repairs.lost;
        let next = match self.repairs.looked {
            Some(place) => lost.range((Excluded(place), Unbounded)).next(),
            None => lost.first(),
        };
        let next = next.copied();
        self.repairs.looked = next;
        if let Some(place) = next
            && self.bad_blocks(place, BLOCK as usize)?.is_empty()
        {
            self.repairs.lost.remove(&place);
        }
        Ok(())
    }
}
