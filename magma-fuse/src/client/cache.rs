//! What this client remembers under leases, and when it must forget.
//!
//! Everything here is the word of an owner that has promised to ask before it lets anybody
//! else change it. Nothing is remembered that this client itself is changing: while a request
//! that changes a flare is under way, or its outcome is not known, replies about that flare
//! are used once and not kept. What the request did is put in when its answer comes, so a
//! directory in which we create and remove names stays known all the while.
//!
//! * A lease belongs to the connection by which it came: a new one says hello, which gives up
//!   everything from before ([`Cache::connected`]).
//! * Validity is the owner's, counted from sending ([`Cache::heard`]).
//! * A reply is kept only if nothing of ours has touched its flares since the request was sent
//!   ([`Ticket`]).
//!
//! `learn` says what each answer teaches.

mod learn;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::{FlareRef, Stamp, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::limits::{ATTR_BATCH_MAX, CLIENT_CACHE_FLARES, CLIENT_CACHE_NAMES};
use magma_core::time::Timestamp;
use magma_core::wire::flare_protocol::Grant;

use super::locked;
pub(crate) use learn::Lesson;

/// Our own changes that are remembered one by one; beyond that a reply that was under way at
/// any of them is not kept.
const CHANGES_KEPT: usize = 4096;

/// Directories whose missed lookups are counted.
const MISSED_KEPT: usize = 4096;
/// Keys listed for eviction beyond twice those that there are, before the list is made anew.
const ORDER_SLACK: usize = 1024;
/// Lookups in a directory that have to ask before it is listed.
const LIST_AFTER: usize = 3;
/// Attributes fetched in passing, at first and at most.
const AHEAD_MIN: usize = 16;
const AHEAD_MAX: usize = 255;

const _: () = assert!(AHEAD_MAX < ATTR_BATCH_MAX);

/// All that is remembered. Shared by whoever asks and whoever answers recalls.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    owners: BTreeMap<VolcanoId, Owner>,
    /// Who owns what: nothing is remembered of anybody else. None before it has ever changed.
    lava: Option<Arc<Lava>>,
    flares: HashMap<Key, Known>,
    /// Keys in the order in which they came, for eviction. One may be listed that is gone.
    order: VecDeque<Key>,
    /// Names in all directories.
    names: usize,
    /// Counts what happens: records that are begun, changes of ours that end.
    clock: u64,
    /// Records that made room for others; their leases are to be given back.
    evicted: Vec<Evicted>,
    /// Keys that we are changing, and how often.
    busy: HashMap<Key, u32>,
    /// When the last change of ours to a key ended.
    changed: HashMap<Key, u64>,
    /// All changes that ended up to here count as changes of any key.
    floor: u64,
    /// Directories in which lookups had to ask.
    missed: HashMap<Key, Missed>,
}

/// An owner, as far as its leases to us go.
#[derive(Debug)]
struct Owner {
    connection: u64,
    valid_until: Instant,
    /// Grants up to this one are void.
    void: u64,
}

/// What is known of a flare under a lease.
#[derive(Debug)]
struct Known {
    owner: VolcanoId,
    /// The last grant that covers it.
    number: u64,
    flare: FlareRef,
    /// When this was begun: what was asked before does not show what it was like then.
    since: u64,
    attr: Option<Attr>,
    target: Option<Vec<u8>>,
    names: Names,
    /// Names in it were known once, and the kernel may have been told.
    told_names: bool,
}

/// Lookups in a directory that had to ask.
#[derive(Debug, Default)]
struct Missed {
    count: usize,
    /// A listing is under way, or was refused.
    listing: bool,
}

/// A record that made room.
#[derive(Debug)]
struct Evicted {
    key: Key,
    owner: VolcanoId,
    number: u64,
    forgotten: Forgotten,
}

/// The names of a directory.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<Name, Option<(FlareRef, Kind)>>,
    /// The cookie up to which the listing is in `known` without a gap.
    listed: u64,
    /// Everything is in `known`: what is not there does not exist.
    complete: bool,
    /// Children in the order of the listing, for those who look at one after the other.
    listing: Vec<FlareRef>,
    /// Where in `listing` the last batch of attributes ended, and how many it had.
    next: usize,
    ahead: usize,
}

/// The moment at which a request was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u64);

/// From whom a reply came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) volcano: VolcanoId,
    pub(crate) connection: u64,
}

/// What a name stands for, as far as it is known.
#[derive(Debug, PartialEq)]
pub(crate) enum NameKnown {
    /// This flare. The name and the attributes may be shown that much longer.
    Here(Box<Attr>, Duration),
    /// This flare, whose attributes must be asked for.
    Child(FlareRef),
    /// There is no such name.
    Absent(Duration),
    /// Nothing is known.
    Unknown,
}

/// What the kernel must forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The inode number.
    pub ino: u64,
    /// Names in it may have been shown.
    pub is_dir: bool,
}

/// Keys that a request of ours changes, until its outcome is known.
#[derive(Debug)]
pub(crate) struct Changing {
    cache: Arc<Cache>,
    keys: Vec<Key>,
}

impl Cache {
    /// A request is about to be sent.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(locked(&self.inner).clock)
    }

    /// A request that changes these flares is about to be sent.
    pub(crate) fn changing(self: &Arc<Cache>, keys: impl Iterator<Item = Key>) -> Option<Changing> {
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() {
            return None;
        }
        let mut inner = locked(&self.inner);
        for key in &keys {
            *inner.busy.entry(*key).or_default() += 1;
            if let Some(known) = inner.flares.get_mut(key) {
                known.attr = None;
                known.target = None;
            }
        }
        drop(inner);
        Some(Changing {
            cache: self.clone(),
            keys,
        })
    }

    /// A connection to an owner is about to be made: leases from an older one are void, and
    /// what the kernel was told under them must be forgotten before the owner hears of us.
    pub(crate) fn connecting(&self, volcano: VolcanoId) -> Vec<Forgotten> {
        let mut inner = locked(&self.inner);
        // What still comes by an older connection is heard by nobody.
        inner.owners.remove(&volcano);
        let evicted = inner.evicted.extract_if(.., |gone| gone.owner == volcano);
        let mut all: Vec<Forgotten> = evicted.map(|gone| gone.forgotten).collect();
        all.extend(inner.forget_where(|known| known.owner == volcano));
        all
    }

    /// A connection is used.
    pub(crate) fn connected(&self, source: Source) {
        let mut inner = locked(&self.inner);
        if inner.owner_mut(source).is_some() {
            return;
        }
        let owner = Owner {
            connection: source.connection,
            valid_until: Instant::now(),
            void: 0,
        };
        inner.owners.insert(source.volcano, owner);
    }

    /// Slices have other owners: what the owners before have granted there is not shown any more,
    /// and nothing that still comes from them is remembered. What the kernel must forget before the
    /// new owners are told so.
    pub(crate) fn follow(&self, lava: Arc<Lava>) -> Vec<Forgotten> {
        let mut inner = locked(&self.inner);
        let moved = |key: Key, owner: VolcanoId| lava.owner_of(key) != Some(owner);
        let evicted = inner
            .evicted
            .extract_if(.., |gone| moved(gone.key, gone.owner));
        let mut all: Vec<Forgotten> = evicted.map(|gone| gone.forgotten).collect();
        all.extend(inner.forget_where(|known| moved(known.flare.key(), known.owner)));
        inner.lava = Some(lava);
        all
    }

    /// Everything goes: the session has ended.
    pub(crate) fn clear(&self) -> Vec<Forgotten> {
        let mut inner = locked(&self.inner);
        inner.owners.clear();
        let evicted = std::mem::take(&mut inner.evicted).into_iter();
        let mut all: Vec<Forgotten> = evicted.map(|gone| gone.forgotten).collect();
        all.extend(inner.forget_where(|_| true));
        all
    }

    /// An owner has answered a request that was sent at that time.
    pub(crate) fn heard(&self, source: Source, sent_at: Instant, grant: &Grant) {
        let mut inner = locked(&self.inner);
        let Some(owner) = inner.owner_mut(source) else {
            return;
        };
        let valid = Duration::from_millis(u64::from(grant.valid_ms));
        owner.valid_until = owner.valid_until.max(sent_at + valid);
        if grant.void > owner.void {
            owner.void = grant.void;
            // The kernel was told of these for no longer than they were valid.
            inner.forget_where(|known| known.owner == source.volcano && known.number <= grant.void);
        }
    }

    /// An owner takes leases back. None when they were not of this connection.
    pub(crate) fn recalled(
        &self,
        connection: u64,
        keys: &[Key],
        upto: u64,
    ) -> Option<Vec<Forgotten>> {
        let mut inner = locked(&self.inner);
        let owner = inner
            .owners
            .values_mut()
            .find(|owner| owner.connection == connection)?;
        owner.void = owner.void.max(upto);
        let unknown = |key: &Key| Forgotten {
            ino: key.ino(),
            is_dir: true,
        };
        Some(
            keys.iter()
                // The kernel may know longer than we do.
                .map(|key| inner.forget(*key).unwrap_or(unknown(key)))
                .collect(),
        )
    }

    /// Records that made room, with the leases of one connection to be given back once the
    /// kernel has forgotten them: the keys, and the highest grant that is given back.
    pub(crate) fn take_evicted(&self) -> Vec<(VolcanoId, Vec<Forgotten>, Vec<Key>, u64)> {
        let mut inner = locked(&self.inner);
        let mut all: BTreeMap<VolcanoId, (Vec<Forgotten>, Vec<Key>, u64)> = BTreeMap::new();
        for gone in std::mem::take(&mut inner.evicted) {
            // One that has come back since keeps its lease.
            if inner.flares.contains_key(&gone.key) {
                continue;
            }
            let (forgotten, keys, upto) = all.entry(gone.owner).or_default();
            forgotten.push(gone.forgotten);
            keys.push(gone.key);
            *upto = (*upto).max(gone.number);
        }
        for (owner, (.., upto)) in &all {
            if let Some(owner) = inner.owners.get_mut(owner) {
                // What is still on its way up to there would be taken for given back.
                owner.void = owner.void.max(*upto);
            }
        }
        all.into_iter()
            .map(|(owner, (forgotten, keys, upto))| (owner, forgotten, keys, upto))
            .collect()
    }

    /// Attributes, and how long they may be shown.
    pub(crate) fn attr(&self, flare: FlareRef) -> Option<(Attr, Duration)> {
        let inner = locked(&self.inner);
        let known = inner.flares.get(&flare.key())?;
        let left = inner.left(known.owner)?;
        let attr = known.attr.as_ref().filter(|attr| attr.flare == flare)?;
        Some((attr.clone(), left))
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self, flare: FlareRef) -> Option<Vec<u8>> {
        let inner = locked(&self.inner);
        let known = inner.flares.get(&flare.key())?;
        inner.left(known.owner)?;
        known.target.clone().filter(|_| known.flare == flare)
    }

    /// What a name stands for.
    pub(crate) fn name(&self, dir: FlareRef, name: &Name) -> NameKnown {
        let inner = locked(&self.inner);
        let Some(parent) = inner.flares.get(&dir.key()).filter(|k| k.flare == dir) else {
            return NameKnown::Unknown;
        };
        let Some(left) = inner.left(parent.owner) else {
            return NameKnown::Unknown;
        };
        let child = match parent.names.known.get(name) {
            Some(Some((child, _))) => *child,
            Some(None) => return NameKnown::Absent(left),
            None if parent.names.complete => return NameKnown::Absent(left),
            None => return NameKnown::Unknown,
        };
        let known = inner.flares.get(&child.key());
        let Some((known, attr)) = known.and_then(|known| Some((known, known.attr.as_ref()?)))
        else {
            return NameKnown::Child(child);
        };
        match inner.left(known.owner) {
            Some(also) if attr.flare == child => {
                NameKnown::Here(Box::new(attr.clone()), left.min(also))
            }
            _ => NameKnown::Child(child),
        }
    }

    /// How long a name may be shown with these attributes: nothing when only its flare is under
    /// a lease, or when there are newer ones.
    pub(crate) fn name_left(&self, dir: FlareRef, name: &Name, shown: &Attr) -> Duration {
        match self.name(dir, name) {
            NameKnown::Here(attr, left) if attr.is_as(shown) => left,
            _ => Duration::ZERO,
        }
    }

    /// A lookup in a directory had to ask. Tells after which cookie to list it, if that is
    /// worth while now; [`Cache::listed`] must follow.
    pub(crate) fn worth_listing(&self, dir: FlareRef) -> Option<u64> {
        let mut inner = locked(&self.inner);
        if inner.missed.len() > MISSED_KEPT {
            inner.missed.clear();
        }
        let names = inner.flares.get(&dir.key()).map(|known| &known.names);
        let (known, after) = names.map_or((0, 0), |names| (names.known.len(), names.listed));
        let missed = inner.missed.entry(dir.key()).or_default();
        missed.count += 1;
        if missed.listing || missed.count < LIST_AFTER.max(known / 8) {
            return None;
        }
        missed.listing = true;
        missed.count = 0;
        Some(after)
    }

    /// A listing that was worth while has come, or has failed: then no more are tried for long.
    pub(crate) fn listed(&self, dir: FlareRef, done: bool) {
        let mut inner = locked(&self.inner);
        if let Some(missed) = inner.missed.get_mut(&dir.key()) {
            missed.listing = !done;
        }
    }

    /// Children of a directory that come after this one in its listing and whose attributes are
    /// not known, when they are likely to be asked for.
    pub(crate) fn next_children(&self, dir: FlareRef, child: FlareRef) -> Vec<FlareRef> {
        let mut inner = locked(&self.inner);
        let Some(names) = inner.flares.get_mut(&dir.key()).map(|k| &mut k.names) else {
            return Vec::new();
        };
        let goes_on = names.listing.get(names.next) == Some(&child);
        let at = match goes_on {
            true => names.next,
            false => match names.listing.iter().position(|flare| *flare == child) {
                Some(at) => at,
                None => return Vec::new(),
            },
        };
        names.ahead = match goes_on {
            true => (names.ahead * 2).clamp(AHEAD_MIN, AHEAD_MAX),
            false => AHEAD_MIN,
        };
        let end = (at + 1 + names.ahead).min(names.listing.len());
        names.next = end;
        let next: Vec<FlareRef> = names.listing[at + 1..end].to_vec();
        next.into_iter()
            .filter(|flare| {
                let known = inner.flares.get(&flare.key());
                known.is_none_or(|known| known.attr.is_none())
            })
            .collect()
    }

    /// A read has ended: by the rule of relatime it may have moved the time of last read. That changes
    /// no version, and takes no lease of ours away.
    pub(crate) fn was_read(&self, flare: FlareRef, version: Stamp, atime: Timestamp) {
        let mut inner = locked(&self.inner);
        if let Some(known) = inner.flares.get_mut(&flare.key())
            && let Some(attr) = &mut known.attr
            && (attr.flare, attr.version) == (flare, version)
        {
            attr.atime = attr.atime.max(atime);
        }
    }

    /// Owners whose leases we use and that will run out within a time.
    pub(crate) fn due(&self, within: Duration) -> Vec<VolcanoId> {
        let inner = locked(&self.inner);
        let soon = Instant::now() + within;
        inner
            .owners
            .iter()
            .filter(|(_, owner)| owner.valid_until < soon)
            .map(|(id, _)| *id)
            .filter(|id| inner.flares.values().any(|known| known.owner == *id))
            .collect()
    }
}

impl Inner {
    fn owner_mut(&mut self, source: Source) -> Option<&mut Owner> {
        self.owners
            .get_mut(&source.volcano)
            .filter(|owner| owner.connection == source.connection)
    }

    /// How much longer the leases of an owner are valid.
    fn left(&self, owner: VolcanoId) -> Option<Duration> {
        let until = self.owners.get(&owner)?.valid_until;
        until.checked_duration_since(Instant::now())
    }

    /// Whether a reply to a request of that time may be kept for a flare: nothing of ours has
    /// touched it since.
    fn is_untouched(&self, key: Key, ticket: Ticket) -> bool {
        let ended = self.changed.get(&key).copied().unwrap_or_default();
        !self.busy.contains_key(&key) && ended.max(self.floor) <= ticket.0
    }

    /// What is known of a flare under this grant, made if it is new. None when a reply to a
    /// request of that time must not be kept.
    fn known(&mut self, lesson: &Lesson, flare: FlareRef) -> Option<&mut Known> {
        let (source, ticket) = (lesson.source, lesson.ticket);
        let number = lesson.grant?.number;
        let owns = |lava: &Arc<Lava>| lava.owner_of(flare.key()) == Some(source.volcano);
        if !self.lava.as_ref().is_none_or(owns) {
            return None;
        }
        let owner = self.owner_mut(source)?;
        if number <= owner.void || !self.is_untouched(flare.key(), ticket) {
            return None;
        }
        let key = flare.key();
        let old = self.flares.get(&key);
        if old.is_some_and(|old| old.flare != flare || old.owner != source.volcano) {
            self.forget(key);
        }
        if !self.flares.contains_key(&key) {
            self.make_room();
            self.order.push_back(key);
            if self.order.len() > 2 * self.flares.len() + ORDER_SLACK {
                // Keys that went by another way, some of them more than once.
                let mut seen = HashSet::new();
                let flares = &self.flares;
                self.order
                    .retain(|key| flares.contains_key(key) && seen.insert(*key));
                self.order.push_back(key);
            }
        }
        self.clock += u64::from(!self.flares.contains_key(&key));
        let since = self.clock;
        let known = self.flares.entry(key).or_insert_with(|| Known {
            owner: source.volcano,
            number,
            flare,
            since,
            attr: None,
            target: None,
            names: Names::default(),
            told_names: false,
        });
        known.number = known.number.max(number);
        Some(known)
    }

    /// The oldest go first.
    fn make_room(&mut self) {
        while self.flares.len() >= CLIENT_CACHE_FLARES || self.names >= CLIENT_CACHE_NAMES {
            let Some(key) = self.order.pop_front() else {
                return;
            };
            let Some(known) = self.flares.get(&key) else {
                continue;
            };
            let (owner, number) = (known.owner, known.number);
            if let Some(forgotten) = self.forget(key) {
                self.evicted.push(Evicted {
                    key,
                    owner,
                    number,
                    forgotten,
                });
            }
        }
    }

    /// Whether nobody else of ours is changing these, or has since that time.
    fn is_alone(&self, keys: &[Key], ticket: Ticket) -> bool {
        keys.iter().all(|key| {
            let ended = self.changed.get(key).copied().unwrap_or_default();
            self.busy.get(key) == Some(&1) && ended.max(self.floor) <= ticket.0
        })
    }

    /// Our change of these flares is over.
    fn end_change(&mut self, keys: &[Key]) {
        self.clock += 1;
        let now = self.clock;
        if self.changed.len() > CHANGES_KEPT {
            self.changed.clear();
            self.floor = now;
        }
        for key in keys {
            if let Some(count) = self.busy.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.busy.remove(key);
                }
            }
            self.changed.insert(*key, now);
        }
    }

    fn forget(&mut self, key: Key) -> Option<Forgotten> {
        let known = self.flares.remove(&key)?;
        self.names -= known.names.known.len();
        Some(Forgotten {
            ino: key.ino(),
            is_dir: known.told_names,
        })
    }

    fn forget_where(&mut self, which: impl Fn(&Known) -> bool) -> Vec<Forgotten> {
        let keys: Vec<Key> = self
            .flares
            .iter()
            .filter(|(_, known)| which(known))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.forget(key))
            .collect()
    }

    fn forget_names(&mut self, key: Key) {
        if let Some(known) = self.flares.get_mut(&key) {
            self.names -= known.names.known.len();
            known.names = Names::default();
        }
    }

    /// Takes note of a name in a directory that is known already.
    fn note_name(&mut self, dir: Key, name: &Name, child: Option<(FlareRef, Kind)>) {
        let Some(parent) = self.flares.get_mut(&dir) else {
            return;
        };
        if self.names >= CLIENT_CACHE_NAMES && !parent.names.known.contains_key(name) {
            // No room for one more, and what is there must not be wrong about it.
            self.forget_names(dir);
            return;
        }
        parent.told_names = true;
        if parent.names.known.insert(name.clone(), child).is_none() {
            self.names += 1;
        }
    }
}

impl Drop for Changing {
    /// The change ended without an answer, or with one that says nothing for sure.
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut inner = locked(&self.cache.inner);
        inner.end_change(&self.keys);
        for key in &self.keys {
            inner.forget_names(*key);
            if let Some(known) = inner.flares.get_mut(key) {
                known.attr = None;
                known.target = None;
            }
        }
    }
}
