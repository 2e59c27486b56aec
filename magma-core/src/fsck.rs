//! What makes a tree whole: the rules of `magma fsck`, as a plain value.
//!
//! [`Checker`] takes the rows of all keys, in any order, and says what does not fit. Rows that
//! were read while work went on do not fit everywhere, so each [`Finding`] is only a suspicion
//! until the rows it is about were looked at again.
//!
//! Memory: about 150 bytes a flare, and about 300 for each name of which only one side (entry or
//! link) has been seen: as keys are hashes, that is at most half of all names at a time. Together
//! some 300 MB for a million flares.

use std::collections::{BTreeMap, BTreeSet};

use sha1::{Digest, Sha1};

use crate::flare::{Kind, Name};
use crate::ids::{FlareRef, SliceId, Stamp, VolcanoId};
use crate::key::{Key, ROOT};
use crate::limits::FSCK_LINKS_MAX;
use crate::op::fsck::FsckKey;

/// The digest of rows and content: the first 128 bits of SHA-1. It finds damage, not forgery.
pub fn digest(bytes: &[u8]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha1::digest(bytes)[..16]);
    u128::from_be_bytes(first)
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// An entry names a flare that is gone.
    EntryWithoutFlare {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The flare.
        child: FlareRef,
    },
    /// An entry names a flare that does not know this name.
    EntryWithoutLink {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The flare.
        child: FlareRef,
    },
    /// An entry has another type than its flare.
    WrongType {
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The flare.
        child: FlareRef,
        /// Its type.
        kind: Kind,
    },
    /// A flare has a settled link, and the directory has no such entry.
    LinkWithoutEntry {
        /// The flare.
        flare: FlareRef,
        /// Its type.
        kind: Kind,
        /// The directory.
        dir: FlareRef,
        /// The name.
        name: Name,
        /// The flare has other names.
        others: bool,
    },
    /// The count of links is wrong.
    WrongLinks {
        /// The flare.
        flare: FlareRef,
        /// What its row says.
        has: u64,
        /// What there is.
        wanted: u64,
    },
    /// The count of entries is wrong.
    WrongEntries {
        /// The directory.
        flare: FlareRef,
        /// What its row says.
        has: u64,
        /// What there is.
        wanted: u64,
    },
    /// A directory has several names.
    ManyNames {
        /// The directory.
        flare: FlareRef,
        /// How many.
        names: u64,
    },
    /// A flare has no name, and nobody has it open.
    Orphan {
        /// The flare.
        flare: FlareRef,
        /// Its type.
        kind: Kind,
        /// Entries below it.
        entries: u64,
    },
    /// Links, attributes or entries lie under a key without a flare.
    Leftovers {
        /// The key.
        key: Key,
    },
    /// A transaction does not end.
    Unfinished {
        /// The key.
        key: Key,
        /// Which, as [`FsckKey::unfinished`] has it.
        what: u128,
    },
    /// The root is not there.
    NoRoot,
    /// A directory cannot be reached from the root: it lies below itself.
    Unreachable {
        /// The lowest directory of the cycle.
        flare: FlareRef,
    },
    /// The rows of a copy are not those of the owner.
    CopyDiffers {
        /// The key.
        key: Key,
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
        /// The copy has a flare there that the owner lacks: filling it anew would lose that.
        has_more: bool,
    },
    /// The content of a copy is not that of the owner.
    ContentDiffers {
        /// The file.
        flare: FlareRef,
        /// The slice.
        slice: SliceId,
        /// On whom.
        volcano: VolcanoId,
        /// In the piece that begins here, in bytes.
        offset: u64,
    },
    /// A volcano has rows of a key that it neither owns nor copies.
    Stray {
        /// The key.
        key: Key,
        /// The volcano.
        volcano: VolcanoId,
    },
}

impl Finding {
    /// The key that it is about.
    pub fn key(&self) -> Key {
        match self {
            Finding::EntryWithoutFlare { dir, .. }
            | Finding::EntryWithoutLink { dir, .. }
            | Finding::WrongType { dir, .. } => dir.key(),
            Finding::LinkWithoutEntry { flare, .. }
            | Finding::WrongLinks { flare, .. }
            | Finding::WrongEntries { flare, .. }
            | Finding::ManyNames { flare, .. }
            | Finding::Orphan { flare, .. }
            | Finding::Unreachable { flare }
            | Finding::ContentDiffers { flare, .. } => flare.key(),
            Finding::Leftovers { key }
            | Finding::Unfinished { key, .. }
            | Finding::CopyDiffers { key, .. }
            | Finding::Stray { key, .. } => *key,
            Finding::NoRoot => ROOT,
        }
    }
}

/// What is kept of a flare.
#[derive(Clone, Debug)]
struct Facts {
    inc: Stamp,
    kind: Kind,
    links_cut: bool,
    orphan: Option<u64>,
}

/// One side of a name.
#[derive(Clone, Copy, Debug)]
enum Half {
    Entry(Kind),
    Link { kind: Kind, others: bool },
}

/// (flare, directory, name).
type Named = (FlareRef, FlareRef, Name);

/// A key whose parts are being added up.
#[derive(Debug, Default)]
struct Sum {
    entries: u64,
    subdirectories: u64,
    unfinished: u128,
    links: u64,
    open: bool,
    version: Option<Stamp>,
    moved: bool,
}

/// Takes rows, finds what does not fit.
#[derive(Debug, Default)]
pub struct Checker {
    flares: BTreeMap<Key, Facts>,
    halves: BTreeMap<Named, Half>,
    /// The directory that each directory lies in, by entry and link.
    parents: BTreeMap<Key, Key>,
    sums: BTreeMap<Key, Sum>,
    findings: BTreeSet<Finding>,
    counted: u64,
}

impl Checker {
    /// How many keys have been looked at.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Takes a key, or a part of it: the parts of one key come in order.
    pub fn add(&mut self, part: &FsckKey) {
        let mut sum = self.sums.remove(&part.key).unwrap_or_default();
        let version = part.flare.map(|flare| flare.version);
        sum.moved |= sum.version.is_some() && sum.version != version;
        sum.version = version;
        sum.entries += part.entry_count;
        sum.subdirectories += part.subdirectories;
        sum.unfinished = sum.unfinished.wrapping_add(part.unfinished);
        sum.links += u64::from(part.link_count);
        sum.open |= part.open;
        self.add_names(part);
        if part.more.is_some() {
            self.sums.insert(part.key, sum);
            return;
        }
        self.counted += 1;
        if sum.unfinished != 0 {
            self.findings.insert(Finding::Unfinished {
                key: part.key,
                what: sum.unfinished,
            });
        }
        let Some(facts) = &part.flare else {
            if sum.links > 0 || sum.entries > 0 {
                self.findings.insert(Finding::Leftovers { key: part.key });
            }
            return;
        };
        let flare = facts.flare;
        let is_dir = facts.kind == Kind::Directory;
        let nameless = sum.links == 0 && part.key != ROOT;
        let orphan = nameless && !sum.open && sum.unfinished == 0;
        self.flares.insert(
            part.key,
            Facts {
                inc: flare.inc(),
                kind: facts.kind,
                // More links than a page names: the entries of the others have no other half.
                links_cut: sum.links > FSCK_LINKS_MAX as u64,
                orphan: orphan.then_some(sum.entries),
            },
        );
        // Several pages of a directory that has changed between them do not add up.
        if sum.moved || sum.unfinished != 0 || nameless {
            return;
        }
        let wanted = match is_dir {
            true => 2 + sum.subdirectories,
            false => sum.links,
        };
        if u64::from(facts.nlink) != wanted {
            self.findings.insert(Finding::WrongLinks {
                flare,
                has: facts.nlink.into(),
                wanted,
            });
        }
        if facts.entries != sum.entries {
            self.findings.insert(Finding::WrongEntries {
                flare,
                has: facts.entries,
                wanted: sum.entries,
            });
        }
        if is_dir && sum.links > 1 {
            self.findings.insert(Finding::ManyNames {
                flare,
                names: sum.links,
            });
        }
    }

    fn add_names(&mut self, part: &FsckKey) {
        let Some(facts) = &part.flare else {
            return;
        };
        for entry in &part.entries {
            let named = (entry.child, facts.flare, entry.name.clone());
            self.half(named, Half::Entry(entry.kind));
        }
        let others = part.link_count > 1;
        for link in part.links.iter().filter(|link| link.settled) {
            let named = (facts.flare, link.parent, link.name.clone());
            let kind = facts.kind;
            self.half(named, Half::Link { kind, others });
        }
    }

    /// The second half of a name takes the first away.
    fn half(&mut self, named: Named, half: Half) {
        let (entry, kind) = match (self.halves.remove(&named), half) {
            (Some(Half::Entry(entry)), Half::Link { kind, .. })
            | (Some(Half::Link { kind, .. }), Half::Entry(entry)) => (entry, kind),
            (Some(same), _) => {
                self.halves.insert(named, same);
                return;
            }
            (None, half) => {
                self.halves.insert(named, half);
                return;
            }
        };
        let (child, dir, name) = named;
        if entry != kind {
            self.findings.insert(Finding::WrongType {
                dir,
                name,
                child,
                kind,
            });
        }
        if kind == Kind::Directory {
            self.parents.insert(child.key(), dir.key());
        }
    }

    /// All that does not fit.
    pub fn finish(mut self) -> BTreeSet<Finding> {
        let root = self.flares.get(&ROOT);
        if root.is_none_or(|root| root.kind != Kind::Directory) {
            self.findings.insert(Finding::NoRoot);
        }
        for ((child, dir, name), half) in std::mem::take(&mut self.halves) {
            let finding = match half {
                Half::Entry(_) => {
                    let facts = self.flares.get_mut(&child.key());
                    match facts.filter(|facts| facts.inc == child.inc()) {
                        Some(facts) if facts.links_cut => continue,
                        Some(facts) => {
                            // It has a name after all.
                            facts.orphan = None;
                            Finding::EntryWithoutLink { dir, name, child }
                        }
                        None => Finding::EntryWithoutFlare { dir, name, child },
                    }
                }
                Half::Link { kind, others } => Finding::LinkWithoutEntry {
                    flare: child,
                    kind,
                    dir,
                    name,
                    others,
                },
            };
            self.findings.insert(finding);
        }
        for (key, facts) in &self.flares {
            if let Some(entries) = facts.orphan {
                self.findings.insert(Finding::Orphan {
                    flare: FlareRef(*key, facts.inc),
                    kind: facts.kind,
                    entries,
                });
            }
        }
        self.find_cycles();
        self.findings
    }

    /// Follows every directory upwards, each once: a way that meets itself is a cycle.
    fn find_cycles(&mut self) {
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        for start in self.parents.keys() {
            let mut way: Vec<Key> = Vec::new();
            let mut on_way: BTreeSet<Key> = BTreeSet::new();
            let mut at = Some(*start);
            while let Some(key) = at {
                if on_way.contains(&key) {
                    let from = way.iter().position(|k| *k == key).unwrap_or(0);
                    if let Some(lowest) = way[from..].iter().min()
                        && let Some(facts) = self.flares.get(lowest)
                    {
                        let flare = FlareRef(*lowest, facts.inc);
                        self.findings.insert(Finding::Unreachable { flare });
                    }
                    break;
                }
                if !seen.insert(key) {
                    break;
                }
                way.push(key);
                on_way.insert(key);
                at = self.parents.get(&key).copied();
            }
        }
    }
}

#[cfg(test)]
mod tests;
