//! Where a join cuts a slice.
//!
//! The volcano that a newcomer contacts gives it the unused tail of a slice: from the key
//! after its last used key to the slice's end. No key moves then. Where the tail is under
//! 1/[`TAIL_PART`] of the slice the newcomer would get next to nothing, so the slice is cut in
//! the middle of its range instead, and the keys above move. Keys are SHA-1 sums, so half of
//! the range is half of the keys up to chance.

use crate::ids::{SliceId, VolcanoId};
use crate::key::{self, Key};

use super::{Lava, Slice};

/// The next volcano of the ring, if no slice is its own while we own one: it gets a part of ours. One
/// that was dead gets back what it had.
pub fn newcomer_after(lava: &Lava, me: VolcanoId) -> Option<VolcanoId> {
    lava.owned_by(me).next()?;
    let holds_keys = |id: &VolcanoId| !lava.is_evicted(*id) && !lava.is_arbiter(*id);
    let next = lava.followers(me).find(holds_keys)?;
    let has_one = lava
        .slices
        .iter()
        .any(|slice| slice.owner == next || slice.home == next);
    (!has_one && !lava.is_down(next)).then_some(next)
}

/// A slice that we can give to a newcomer as it is: one of several, left over from a newcomer that
/// went away before it got it. Without it every try of a newcomer would cut another one.
pub fn spare_slice(lava: &Lava, me: VolcanoId) -> Option<SliceId> {
    let ours = lava.owned_by(me).filter(|slice| slice.home == me);
    let ids: Vec<SliceId> = ours.map(|slice| slice.id).collect();
    ids.iter().max().copied().filter(|_| ids.len() > 1)
}

/// A slice that was cut off for a newcomer, as long as it is ours to give and the newcomer is there.
pub fn cut_off(lava: &Lava, me: VolcanoId, slice: SliceId, newcomer: VolcanoId) -> Option<&Slice> {
    let slice = lava.slice(slice)?;
    let ours = slice.owner == me && slice.home == me;
    (ours && lava.volcano(newcomer).is_some() && !lava.is_down(newcomer)).then_some(slice)
}

/// The unused tail is given away only if it is at least this part of the slice.
pub const TAIL_PART: u64 = 16;

/// Why a slice is cut where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutRule {
    /// After the last used key: nothing moves.
    Tail,
    /// In the middle of the range: the keys above move.
    Middle,
}

/// A cut that makes room for a newcomer: it gets what is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The slice to cut.
    pub slice: SliceId,
    /// The first key of the upper part.
    pub at: Key,
    /// Which rule found it.
    pub rule: CutRule,
}

/// Where to cut a slice whose last used key is `last_used` (none if it holds no key). None
/// when it cannot be cut: the slice lies inside one 64-bit prefix and has no large tail.
///
/// The root counts as used, whether or not its row has been written yet: it is the one flare
/// that every network has.
pub fn cut_for_join(slice: &Slice, last_used: Option<Key>) -> Option<Cut> {
    let tail_at = used_up_to(slice, last_used)
        .filter(|&last| has_large_tail(slice, last))
        .and_then(Key::next);
    let (at, rule) = match tail_at {
        Some(at) => (at, CutRule::Tail),
        None => (middle(slice)?, CutRule::Middle),
    };
    Some(Cut {
        slice: slice.id,
        at,
        rule,
    })
}

/// Which of its slices the joined volcano cuts, and where; each comes with its last used key.
///
/// The one with the largest unused tail; a slice without any key is all tail, and is cut in
/// the middle all the same. When no slice has a large enough tail, the largest slice. Of equals
/// the first one counts.
pub fn choose_cut<'a>(slices: impl IntoIterator<Item = (&'a Slice, Option<Key>)>) -> Option<Cut> {
    let mut best: Option<((bool, Width), Cut)> = None;
    for (slice, last_used) in slices {
        let Some(cut) = cut_for_join(slice, last_used) else {
            continue;
        };
        let free = match used_up_to(slice, last_used) {
            None => Some(Width::of(slice)),
            Some(last) if cut.rule == CutRule::Tail => Some(Width::above(last, slice.end)),
            Some(_) => None,
        };
        let rank = (free.is_some(), free.unwrap_or_else(|| Width::of(slice)));
        if best.as_ref().is_none_or(|(most, _)| rank > *most) {
            best = Some((rank, cut));
        }
    }
    best.map(|(_, cut)| cut)
}

impl Slice {
    /// The 64-bit prefix that is split between this slice and the one below, if its start
    /// does not lie on a prefix (the cut of a join may fall anywhere). Keys of this prefix
    /// count as taken here: so an inode number is given by one owner only.
    pub fn split_prefix(&self) -> Option<u64> {
        let prefix = self.start.ino();
        (self.start != Key::from_prefix(prefix)).then_some(prefix)
    }
}

fn used_up_to(slice: &Slice, last_used: Option<Key>) -> Option<Key> {
    let root = slice.contains(key::ROOT).then_some(key::ROOT);
    last_used.filter(|&key| slice.contains(key)).max(root)
}

fn has_large_tail(slice: &Slice, last: Key) -> bool {
    Width::above(last, slice.end).times_tail_part() >= Width::of(slice)
}

/// The prefix boundary in the middle of a slice; none if no boundary lies inside it.
fn middle(slice: &Slice) -> Option<Key> {
    let (first, last) = (slice.start.ino(), slice.end.ino());
    // Rounded up, so that it lies above the start; a difference of 0 has no boundary between.
    let step = last.saturating_sub(first).div_ceil(2);
    (step > 0).then(|| Key::from_prefix(first + step))
}

/// A count of keys: up to 2^160, and sixteen times that, exactly. Big-endian limbs, so that
/// the derived order is that of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Width([u64; 3]);

impl Width {
    /// The keys of a slice.
    fn of(slice: &Slice) -> Width {
        let Width(mut limbs) = Width::above(slice.start, slice.end);
        for limb in limbs.iter_mut().rev() {
            let (sum, carry) = limb.overflowing_add(1);
            *limb = sum;
            if !carry {
                break;
            }
        }
        Width(limbs)
    }

    /// The keys above `low`, up to and with `high`, which is not below it.
    fn above(low: Key, high: Key) -> Width {
        let (low, mut limbs) = (limbs_of(low), limbs_of(high));
        let mut borrow = false;
        for (limb, less) in limbs.iter_mut().zip(low).rev() {
            let (difference, under) = limb.overflowing_sub(less);
            let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = under || under_again;
        }
        Width(limbs)
    }

    /// This count times [`TAIL_PART`]: 164 bits at most, so nothing is lost.
    fn times_tail_part(self) -> Width {
        let mut product = [0; 3];
        let mut carry = 0;
        for (limb, out) in self.0.iter().zip(&mut product).rev() {
            let wide = u128::from(*limb) * u128::from(TAIL_PART) + carry;
            *out = wide as u64;
            carry = wide >> 64;
        }
        Width(product)
    }
}

fn limbs_of(key: Key) -> [u64; 3] {
    let bytes = key.0;
    let limb = |range: &[u8]| {
        range
            .iter()
            .fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
    };
    [limb(&bytes[..4]), limb(&bytes[4..12]), limb(&bytes[12..])]
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
