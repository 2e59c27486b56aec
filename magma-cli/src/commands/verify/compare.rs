//! The comparison itself: a walk over all stores at once, key by key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use magma_core::effect::Effect;
use magma_core::flare::{FlareRow, Kind};
use magma_core::ids::VolcanoId;
use magma_core::key::Key;
use magma_core::lava::{Lava, Slice};
use magma_core::limits::IO_MAX;
use magma_core::store::{StoreResult, View};

/// Findings that are shown one by one.
const SHOWN_MAX: usize = 50;

/// What the comparison needs of a store.
pub trait Copy {
    /// The lowest key above `after` and up to `upto` that has rows, and all of them.
    fn next_key(&self, after: Option<Key>, upto: Key) -> StoreResult<Option<(Key, Vec<Effect>)>>;
    /// Content of a flare, at most `len` bytes; shorter at the end of what is stored.
    fn content(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes>;
}

impl<V: View> Copy for V {
    fn next_key(&self, after: Option<Key>, upto: Key) -> StoreResult<Option<(Key, Vec<Effect>)>> {
        self.rows_of_next_key(after, upto)
    }
    fn content(&self, row: &FlareRow, offset: u64, len: usize) -> StoreResult<Bytes> {
        // What the disk has changed is to be compared, too.
        Ok(self.read_to_copy(row, offset, len)?.0)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key.
    pub key: Key,
    /// In whose store.
    pub volcano: VolcanoId,
    /// What, for a person.
    pub what: String,
}

/// What was found in one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Keys that it owns.
    pub owned: u64,
    /// Keys that it holds as a copy.
    pub copied: u64,
    /// Bytes of content that were compared with the owner's.
    pub bytes: u64,
    /// What is wrong.
    pub problems: u64,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// By volcano.
    pub counts: BTreeMap<VolcanoId, Count>,
    /// Members whose store was not given.
    pub absent: BTreeSet<VolcanoId>,
    /// The first problems.
    pub shown: Vec<Finding>,
    /// How many problems there are.
    pub problems: u64,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems == 0
    }

    fn add(&mut self, key: Key, volcano: VolcanoId, what: impl Into<String>) {
        self.problems += 1;
        self.counts.entry(volcano).or_default().problems += 1;
        if self.shown.len() < SHOWN_MAX {
            let what = what.into();
            self.shown.push(Finding { key, volcano, what });
        }
    }
}

/// One store on its way through the keys.
struct Cursor<'a> {
    volcano: VolcanoId,
    copy: &'a dyn Copy,
    next: Option<(Key, Vec<Effect>)>,
}

impl Cursor<'_> {
    fn advance(&mut self) -> StoreResult<()> {
        let after = self.next.as_ref().map(|(key, _)| *key);
        self.next = self.copy.next_key(after, Key::MAX)?;
        Ok(())
    }
}

/// Compares the stores of a network.
pub fn compare(
    lava: &Lava,
    stores: &[(VolcanoId, &dyn Copy)],
    content: bool,
) -> StoreResult<Findings> {
    let mut findings = Findings::default();
    for volcano in &lava.volcanos {
        if stores.iter().all(|(given, _)| *given != volcano.id) {
            findings.absent.insert(volcano.id);
        }
    }
    let mut cursors = Vec::with_capacity(stores.len());
    for &(volcano, copy) in stores {
        findings.counts.insert(volcano, Count::default());
        cursors.push(Cursor {
            volcano,
            copy,
            next: copy.next_key(None, Key::MAX)?,
        });
    }
    while let Some(key) = cursors
        .iter()
        .filter_map(|c| Some(c.next.as_ref()?.0))
        .min()
    {
        // The lava was checked to cover the key space.
        if let Some(slice) = lava.slice_of(key) {
            compare_key(key, slice, &cursors, content, &mut findings)?;
        }
        for cursor in &mut cursors {
            if cursor.next.as_ref().is_some_and(|(at, _)| *at == key) {
                cursor.advance()?;
            }
        }
    }
    Ok(findings)
}

fn compare_key(
    key: Key,
    slice: &Slice,
    cursors: &[Cursor<'_>],
    content: bool,
    findings: &mut Findings,
) -> StoreResult<()> {
    let rows_of = |cursor: &Cursor<'_>| -> Option<Vec<Effect>> {
        let (at, rows) = cursor.next.as_ref()?;
        (*at == key).then(|| rows.clone())
    };
    let owner = cursors.iter().find(|cursor| cursor.volcano == slice.owner);
    let owned = owner.and_then(rows_of);
    if let Some(cursor) = owner {
        match &owned {
            Some(_) => findings.counts.entry(cursor.volcano).or_default().owned += 1,
            None => findings.add(key, cursor.volcano, "the owner does not have it"),
        }
    }
    // What copies are compared with: the owner, or, when its store was not given, the first
    // copy that has the key.
    let mut truth: Option<(&Cursor<'_>, Vec<Effect>)> = owner.zip(owned);
    for cursor in cursors
        .iter()
        .filter(|cursor| cursor.volcano != slice.owner)
    {
        let rows = rows_of(cursor);
        match (slice.copy_on(cursor.volcano), rows) {
            // While a copy is filled, it may have the key already or not.
            (Some(copy), _) if !copy.in_sync => {}
            (Some(_), None) => findings.add(key, cursor.volcano, "the copy does not have it"),
            (None, Some(_)) => findings.add(key, cursor.volcano, "it is neither owner nor copy"),
            (None, None) => {}
            (Some(_), Some(rows)) => {
                findings.counts.entry(cursor.volcano).or_default().copied += 1;
                match &truth {
                    None => truth = Some((cursor, rows)),
                    Some((first, expected)) => {
                        if let Some(what) = different_rows(expected, &rows) {
                            findings.add(key, cursor.volcano, what);
                        } else if content {
                            compare_content(key, first.copy, cursor, &rows, findings)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// What differs between the rows of two stores, for a person.
fn different_rows(expected: &[Effect], found: &[Effect]) -> Option<String> {
    if let Some(missing) = expected.iter().find(|row| !found.contains(row)) {
        return Some(format!("{} is missing or differs", name_of(missing)));
    }
    let more = found.iter().find(|row| !expected.contains(row))?;
    Some(format!("{} should not be there", name_of(more)))
}

fn name_of(row: &Effect) -> String {
    match row {
        Effect::PutFlare(_) => "the flare's row".to_owned(),
        Effect::PutEntry(_, entry) => format!("the entry {}", entry.name),
        Effect::PutLink(_, link) => format!("the link {}", link.name),
        Effect::PutXattr(_, name, _) => format!("the attribute {}", name.escape_ascii()),
        Effect::PutReply(reply) => {
            format!("the reply of session {} slot {}", reply.session, reply.slot)
        }
        Effect::PutOutbox(row) => format!("the outbox row of {}", row.tx),
        Effect::PutDecision(_, tx, _) => format!("the decision of {tx}"),
        Effect::PutHolder(_, session) => format!("the holder row of session {session}"),
        other => format!("{other:?}"),
    }
}

fn compare_content(
    key: Key,
    truth: &dyn Copy,
    cursor: &Cursor<'_>,
    rows: &[Effect],
    findings: &mut Findings,
) -> StoreResult<()> {
    let row = rows.iter().find_map(|row| match row {
        Effect::PutFlare(row) => Some(row),
        _ => None,
    });
    let Some(row) = row.filter(|row| matches!(row.kind, Kind::File | Kind::Symlink)) else {
        return Ok(());
    };
    let mut offset = 0;
    while offset < row.size {
        let len = (row.size - offset).min(IO_MAX as u64) as usize;
        let expected = truth.content(row, offset, len)?;
        let found = cursor.copy.content(row, offset, len)?;
        if let Some(at) = first_difference(&expected, &found) {
            let what = format!("the content differs at byte {}", offset + at as u64);
            findings.add(key, cursor.volcano, what);
            return Ok(());
        }
        findings.counts.entry(cursor.volcano).or_default().bytes += len as u64;
        offset += len as u64;
    }
    Ok(())
}

/// Where two pieces of content differ. What is not stored at the end is a hole, so zeros.
fn first_difference(one: &[u8], two: &[u8]) -> Option<usize> {
    if one == two {
        return None;
    }
    let at = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    (0..one.len().max(two.len())).find(|&i| at(one, i) != at(two, i))
}

#[cfg(test)]
mod tests;
