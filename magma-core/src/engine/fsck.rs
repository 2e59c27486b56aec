//! What `magma fsck` asks of this volcano, and the repairs that it decides as owner.
//!
//! An ask is answered from what the store holds, whoever owns it, in bounded pages. Such an
//! answer may show what a failover takes back: it is only ever a reason to look again. A repair
//! looks at the rows again, inside the transaction that changes them, and is an operation of the
//! slice like any other.

use super::Engine;
use super::event::{Action, Io, IoDone, IoJob, Outcome};
use super::request::RequestState;
use crate::agreement::Change;
use crate::effect::Effect;
use crate::error::{OpError, OpResult};
use crate::flare::{EntryRow, FlareRow, Kind, Layout, LinkRow, LinkState, Name};
use crate::fsck::digest;
use crate::ids::{FlareRef, SliceId, Stamp, VolcanoId};
use crate::key::{Key, ROOT};
use crate::limits::{
    FSCK_CONTENT_BYTES, FSCK_COUNT_MAX, FSCK_LINKS_MAX, FSCK_PAGE_ENTRIES, FSCK_PAGE_KEYS,
    FSCK_PAGE_LINKS,
};
use crate::op::Answer;
use crate::op::fsck::{
    FsckAsk, FsckAt, FsckEntry, FsckFlare, FsckKey, FsckLink, FsckPage, FsckRepair, FsckTold,
};
use crate::store::{Store, StoreResult};
use crate::wire::codec;

/// The target of log lines about what was repaired.
const TARGET: &str = "magma::fsck";

/// A digest of a row. One that cannot be encoded could not have been shipped either.
fn row_digest<T: serde::Serialize>(row: &T) -> u128 {
    codec::encode(row).map_or(0, |bytes| digest(&bytes))
}

impl<S: Store> Engine<S> {
    /// Answers from what is held here.
    pub(super) fn fsck_ask(&mut self, mut state: RequestState, ask: FsckAsk) -> StoreResult<()> {
        if !state.request.cred.is_root() {
            self.refuse(state, OpError::NotPermitted);
            return Ok(());
        }
        let told = match ask {
            FsckAsk::Rows { from, upto, brief } => {
                FsckTold::Page(self.fsck_page(from, upto, brief)?)
            }
            FsckAsk::Content { flare, offset } => {
                return self.fsck_content(state, flare, offset);
            }
            FsckAsk::ClearStray(key) => {
                let ours = self
                    .lava
                    .slice_of(key)
                    .is_none_or(|slice| slice.owner == self.me || slice.copy_on(self.me).is_some());
                if ours {
                    self.refuse(state, OpError::Invalid);
                    return Ok(());
                }
                tracing::warn!(target: TARGET, %key, "fsck: rows that do not belong here are thrown away");
                while self.rows().clear_range(key, key, 16)? {}
                self.cache.clear();
                FsckTold::Cleared
            }
        };
        state.results.push(Ok(Answer::Fsck(Box::new(told))));
        self.reply(state)
    }

    fn fsck_page(&self, from: FsckAt, upto: Key, brief: bool) -> StoreResult<FsckPage> {
        let mut keys: Vec<FsckKey> = Vec::new();
        let position = self.fsck_position(from.key);
        let clearing = !self.clearing.is_empty();
        let page = |keys, next| {
            Ok(FsckPage {
                keys,
                next,
                position,
                clearing,
            })
        };
        let mut at = from;
        let (mut entries, mut links) = (0, 0);
        while keys.len() < FSCK_PAGE_KEYS && entries < FSCK_PAGE_ENTRIES && links < FSCK_PAGE_LINKS
        {
            let part = match at.after {
                Some(after) => Some(self.fsck_more(at.key, after, brief)?),
                None => match self.store.rows_but_entries(at.key.prev(), upto)? {
                    Some((key, rows)) => Some(self.fsck_first(key, &rows, brief)?),
                    None => None,
                },
            };
            let Some(part) = part else {
                return page(keys, None);
            };
            entries += part.entry_count as usize;
            links += part.links.len();
            let next = match part.more {
                Some(cookie) => Some(FsckAt {
                    key: part.key,
                    after: Some(cookie),
                }),
                None => {
                    let key = part.key.next().filter(|key| *key <= upto);
                    key.map(|key| FsckAt { key, after: None })
                }
            };
            keys.push(part);
            match next {
                Some(next) => at = next,
                None => return page(keys, None),
            }
        }
        page(keys, Some(at))
    }

    /// The last operation that rows of this key show.
    fn fsck_position(&self, key: Key) -> Option<Stamp> {
        let slice = self.lava.slice_of(key)?.id;
        if let Some(owned) = self.owned.get(&slice) {
            return Some(Stamp(slice, self.lava.epoch, owned.last));
        }
        let held = self.held.get(&slice).filter(|held| held.whole)?;
        Some(Stamp(slice, held.position.0, held.position.1))
    }

    fn fsck_first(&self, key: Key, rows: &[Effect], brief: bool) -> StoreResult<FsckKey> {
        let mut part = FsckKey {
            key,
            open: self.opens.is_open(key),
            ..FsckKey::default()
        };
        for effect in rows {
            part.digest = part.digest.wrapping_add(row_digest(effect));
            match effect {
                Effect::PutFlare(row) => {
                    part.flare = Some(facts(row));
                    // It may be open: nobody had the time to say so since the start.
                    part.open |= row.nlink == 0 && self.may_be_open(key);
                    if let Some(tx) = &row.nascent {
                        part.unfinished = part.unfinished.wrapping_add(row_digest(tx));
                    }
                    if row.layout == Layout::Inline && !row.is_dir() && row.size > 0 {
                        let mut data = self.store.read(row, 0, row.size as usize)?.to_vec();
                        // What is not stored at the end is a hole.
                        let hole = data.iter().rev().take_while(|byte| **byte == 0).count();
                        data.truncate(data.len() - hole);
                        part.digest = part.digest.wrapping_add(digest(&data));
                    }
                }
                Effect::PutLink(_, link) => {
                    part.link_count += 1;
                    let settled = link.state == LinkState::Settled;
                    if !settled {
                        part.unfinished = part.unfinished.wrapping_add(row_digest(&link.state));
                    }
                    if !brief && part.links.len() < FSCK_LINKS_MAX {
                        part.links.push(FsckLink {
                            parent: link.parent,
                            name: link.name.clone(),
                            settled,
                        });
                    }
                }
                _ => {}
            }
        }
        self.fsck_entries(&mut part, 0, brief)?;
        Ok(part)
    }

    fn fsck_more(&self, key: Key, after: u64, brief: bool) -> StoreResult<FsckKey> {
        let mut part = FsckKey {
            key,
            flare: self.store.flare(key)?.as_ref().map(facts),
            ..FsckKey::default()
        };
        self.fsck_entries(&mut part, after, brief)?;
        Ok(part)
    }

    fn fsck_entries(&self, part: &mut FsckKey, after: u64, brief: bool) -> StoreResult<()> {
        let rows = self.store.entries(part.key, after, FSCK_PAGE_ENTRIES)?;
        if rows.len() == FSCK_PAGE_ENTRIES {
            part.more = rows.last().map(|row| row.cookie);
        }
        for row in rows {
            part.entry_count += 1;
            part.subdirectories += u64::from(row.kind == Kind::Directory);
            if let Some(prepared) = &row.prepared {
                part.unfinished = part.unfinished.wrapping_add(row_digest(&prepared.tx));
            }
            let settled = row.prepared.is_none();
            let row = Effect::PutEntry(part.key, Box::new(row));
            part.digest = part.digest.wrapping_add(row_digest(&row));
            if let (Effect::PutEntry(_, row), false) = (row, brief) {
                part.entries.push(FsckEntry {
                    name: row.name,
                    child: row.child,
                    kind: row.kind,
                    settled,
                });
            }
        }
        Ok(())
    }

    fn fsck_content(
        &mut self,
        mut state: RequestState,
        flare: FlareRef,
        offset: u64,
    ) -> StoreResult<()> {
        let row = self.store.flare(flare.key())?;
        let Some(row) = row.filter(|row| row.inc == flare.inc() && row.kind == Kind::File) else {
            self.refuse(state, OpError::Stale);
            return Ok(());
        };
        let len = row
            .size
            .saturating_sub(offset)
            .min(FSCK_CONTENT_BYTES as u64) as usize;
        if len == 0 || row.layout == Layout::Inline || self.store.content().is_none() {
            let mut data = self.store.read(&row, offset, len)?.to_vec();
            data.resize(len, 0);
            let told = FsckTold::Content {
                digest: digest(&data),
                len: len as u64,
                version: Some(row.version),
            };
            state.results.push(Ok(Answer::Fsck(Box::new(told))));
            return self.reply(state);
        }
        let job = self.token();
        self.io
            .insert(job, Io::Digest(Box::new(state), flare, row.version));
        self.act(Action::Io {
            job,
            io: IoJob::Read { flare, offset, len },
        });
        Ok(())
    }

    /// A piece of content was read: its digest counts if no write came between.
    pub(super) fn fsck_digested(
        &mut self,
        mut state: Box<RequestState>,
        flare: FlareRef,
        version: Stamp,
        done: IoDone,
    ) -> StoreResult<()> {
        let answer = match done {
            IoDone::Read(data) => {
                let now = self.store.flare(flare.key())?.map(|row| row.version);
                Ok(Answer::Fsck(Box::new(FsckTold::Content {
                    digest: digest(&data),
                    len: data.len() as u64,
                    version: (now == Some(version)).then_some(version),
                })))
            }
            IoDone::Failed(error) => Err(error),
            IoDone::Bad { offset, len } => {
                // As if it were changing: who asks looks again, when it is repaired.
                self.bad_content(flare, (offset, len), None)?;
                Ok(Answer::Fsck(Box::new(FsckTold::Content {
                    digest: 0,
                    len: len as u64,
                    version: None,
                })))
            }
            IoDone::Synced | IoDone::Started => Err(OpError::Io),
        };
        state.results.push(answer);
        self.reply(*state)
    }

    /// Owner: repairs what its own rows show to be wrong.
    pub(super) fn fsck_repair(
        &mut self,
        state: &mut RequestState,
        repair: FsckRepair,
    ) -> StoreResult<OpResult<Outcome>> {
        if !state.request.cred.is_root() {
            return Ok(Err(OpError::NotPermitted));
        }
        if repair.key().is_some_and(|key| key != state.request.key) {
            return Ok(Err(OpError::Invalid));
        }
        let result = match repair.clone() {
            FsckRepair::Counts(flare) => self.fsck_change(state, flare, Vec::new())?,
            FsckRepair::DropEntry { dir, name, child } => {
                self.fsck_drop_entry(state, dir, name, child)?
            }
            FsckRepair::PutEntry {
                dir,
                name,
                child,
                kind,
            } => self.fsck_put_entry(state, dir, name, (child, kind))?,
            FsckRepair::PutLink { flare, dir, name } => {
                self.fsck_put_link(state, flare, dir, name)?
            }
            FsckRepair::DropLink { flare, dir, name } => {
                let links = self.store.links(flare.key())?;
                let there = links
                    .iter()
                    .any(|link| link.parent == dir && link.name == name);
                match there && links.len() > 1 {
                    true => {
                        let effect = Effect::DropLink(flare.key(), dir, name);
                        self.fsck_change(state, flare, vec![effect])?
                    }
                    false => Err(OpError::Stale),
                }
            }
            FsckRepair::DropOrphan(flare) => self.fsck_drop_orphan(state, flare)?,
            FsckRepair::DropLeftovers(key) => self.fsck_drop_leftovers(state, key)?,
            FsckRepair::Refill { slice, volcano } => self.fsck_refill(state, slice, volcano),
        };
        match &result {
            Ok(()) => tracing::warn!(target: TARGET, ?repair, "fsck repairs"),
            Err(error) => tracing::warn!(target: TARGET, ?repair, %error, "fsck cannot repair"),
        }
        Ok(result.map(|()| Outcome::done(Answer::Done)))
    }

    /// The row of a flare about which nothing is under way.
    fn fsck_settled(&mut self, flare: FlareRef) -> StoreResult<OpResult<FlareRow>> {
        let row = match self.live(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let links = self.store.links(row.key)?;
        let under_way = row.nascent.is_some()
            || links.iter().any(|link| link.state != LinkState::Settled)
            || !self.store.prepared_entries(row.key, 1)?.is_empty()
            || self.pending.values().any(|tx| tx.key() == row.key);
        Ok(if under_way {
            Err(OpError::TryAgain)
        } else {
            Ok(row)
        })
    }

    /// Makes changes of the rows of a flare, and counts anew what is there after them.
    fn fsck_change(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        effects: Vec<Effect>,
    ) -> StoreResult<OpResult<()>> {
        let row = match self.fsck_settled(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if row.entries > FSCK_COUNT_MAX {
            return Ok(Err(OpError::TooBig));
        }
        let changes = !effects.is_empty();
        if changes {
            self.commit(state.slice, effects)?;
        }
        let links = self.store.links(row.key)?.len() as u64;
        let (mut entries, mut subdirectories, mut after) = (0, 0, 0);
        // One more than the repair may count ends it too: its row was wrong about that.
        while row.is_dir() && entries <= FSCK_COUNT_MAX {
            let page = self.store.entries(row.key, after, FSCK_PAGE_ENTRIES)?;
            let Some(last) = page.last() else { break };
            after = last.cookie;
            entries += page.len() as u64;
            let dirs = page.iter().filter(|entry| entry.kind == Kind::Directory);
            subdirectories += dirs.count() as u64;
        }
        if entries > FSCK_COUNT_MAX || (links == 0 && !row.is_dir()) {
            // Without a name it is an orphan: with a count of 0 it would be dropped.
            return Ok(Err(OpError::Invalid));
        }
        let Some(mut row) = self.store.flare(row.key)? else {
            return Ok(Err(OpError::Stale));
        };
        let nlink = if row.is_dir() {
            2 + subdirectories
        } else {
            links
        };
        row.nlink = u32::try_from(nlink).unwrap_or(u32::MAX);
        row.entries = entries;
        row.next_cookie = row.next_cookie.max(after + 1);
        row.ctime = self.tick();
        if changes && row.is_dir() {
            row.mtime = row.ctime;
        }
        row.version = self.stamp(state.slice);
        let effects = vec![Effect::PutFlare(Box::new(row))];
        self.commit_answer(state, effects, &Answer::Done)?;
        self.wake_key(flare.key());
        Ok(Ok(()))
    }

    fn fsck_drop_entry(
        &mut self,
        state: &mut RequestState,
        dir: FlareRef,
        name: Name,
        child: FlareRef,
    ) -> StoreResult<OpResult<()>> {
        match self.store.entry(dir.key(), &name)? {
            Some(entry) if entry.child == child => {
                self.fsck_change(state, dir, vec![Effect::DropEntry(dir.key(), name)])
            }
            Some(_) | None => Ok(Err(OpError::Stale)),
        }
    }

    fn fsck_put_entry(
        &mut self,
        state: &mut RequestState,
        dir: FlareRef,
        name: Name,
        (child, kind): (FlareRef, Kind),
    ) -> StoreResult<OpResult<()>> {
        let row = match self.fsck_settled(dir)? {
            Ok(row) if row.is_dir() => row,
            Ok(_) => return Ok(Err(OpError::NotDirectory)),
            Err(error) => return Ok(Err(error)),
        };
        let cookie = match self.store.entry(row.key, &name)? {
            Some(entry) if entry.child == child => entry.cookie,
            Some(_) => return Ok(Err(OpError::Exists)),
            None => row.next_cookie,
        };
        let entry = EntryRow {
            name,
            child,
            kind,
            cookie,
            version: self.stamp(state.slice),
            prepared: None,
        };
        let effects = vec![Effect::PutEntry(row.key, Box::new(entry))];
        self.fsck_change(state, dir, effects)
    }

    fn fsck_put_link(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
        dir: FlareRef,
        name: Name,
    ) -> StoreResult<OpResult<()>> {
        let row = match self.fsck_settled(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        if row.is_dir() && !self.store.links(row.key)?.is_empty() {
            // Which of the two names is right is for a person to say.
            return Ok(Err(OpError::Exists));
        }
        let link = LinkRow {
            parent: dir,
            name,
            state: LinkState::Settled,
        };
        let effects = vec![Effect::PutLink(row.key, Box::new(link))];
        self.fsck_change(state, flare, effects)
    }

    fn fsck_drop_orphan(
        &mut self,
        state: &mut RequestState,
        flare: FlareRef,
    ) -> StoreResult<OpResult<()>> {
        let key = flare.key();
        let row = match self.fsck_settled(flare)? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        // Opens are known again only when every mount had the time to tell of them.
        if self.may_be_open(key) {
            return Ok(Err(OpError::TryAgain));
        }
        if key == ROOT || !self.store.links(key)?.is_empty() {
            return Ok(Err(OpError::Stale));
        }
        if !self.store.entries(key, 0, 1)?.is_empty() {
            return Ok(Err(OpError::NotEmpty));
        }
        let effects = vec![Effect::DropFlare(row.flare_ref())];
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(()))
    }

    fn fsck_drop_leftovers(
        &mut self,
        state: &mut RequestState,
        key: Key,
    ) -> StoreResult<OpResult<()>> {
        if self.store.flare(key)?.is_some() {
            return Ok(Err(OpError::Stale));
        }
        if !self.store.entries(key, 0, 1)?.is_empty() {
            // They name flares that may have no other name.
            return Ok(Err(OpError::NotEmpty));
        }
        let links = self.store.links(key)?.into_iter();
        let mut effects: Vec<Effect> = links
            .map(|link| Effect::DropLink(key, link.parent, link.name))
            .collect();
        let names = self.store.xattr_names(key)?.into_iter();
        effects.extend(names.map(|name| Effect::DropXattr(key, name)));
        self.commit_answer(state, effects, &Answer::Done)?;
        Ok(Ok(()))
    }

    fn fsck_refill(
        &mut self,
        state: &RequestState,
        slice: SliceId,
        volcano: VolcanoId,
    ) -> OpResult<()> {
        if slice != state.slice {
            return Err(OpError::Stale);
        }
        let copy = self.lava.slice(slice).and_then(|s| s.copy_on(volcano));
        if copy.is_none_or(|copy| !copy.in_sync) {
            // It is being filled already.
            return Ok(());
        }
        if self.proposing.is_some() {
            return Err(OpError::TryAgain);
        }
        self.propose(Change::RemoveCopy { slice, volcano });
        Ok(())
    }
}

fn facts(row: &FlareRow) -> FsckFlare {
    FsckFlare {
        flare: row.flare_ref(),
        version: row.version,
        kind: row.kind,
        size: row.size,
        segments: row.kind == Kind::File && row.layout == Layout::Segments,
        nlink: row.nlink,
        entries: row.entries,
    }
}
