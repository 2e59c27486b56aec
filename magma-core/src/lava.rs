//! The lava: who is in the ring, which slices each owns, which copies are in sync, as of an
//! epoch. A plain value.
//!
//! | module | what |
//! |---|---|
//! | `absence` | volcanos that are dead, back, evicted, forgotten |
//! | [`change`] | the legal transitions, one entry of the agreement each |
//! | [`check`] | what makes a lava valid that comes from outside |
//! | [`copies`] | where copies belong, and the next steps towards that |
//! | [`join`] | where a join cuts a slice |
//! | `takeover` | a new generation, of those who are left |

mod absence;
pub mod change;
pub mod check;
pub mod copies;
pub mod join;
#[cfg(test)]
pub(crate) mod samples;
mod takeover;

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

use crate::ids::{Epoch, Generation, NetworkId, SessionId, SliceId, VolcanoId};
use crate::key::{self, Key};
pub use copies::{CopyPlan, copy_plan, home_coming, may_follow};
pub use join::{Cut, choose_cut, cut_for_join, cut_off, newcomer_after, spare_slice};

/// The topology of a lava network as of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lava {
    /// Which network.
    pub network: NetworkId,
    /// Raised by a takeover.
    pub generation: Generation,
    /// Raised by every change.
    pub epoch: Epoch,
    /// Copies beside the owner that each slice should have (fewer while the ring is small).
    pub redundancy: u8,
    /// The number that the next volcano gets.
    pub next_volcano: u64,
    /// The number that the next slice gets.
    pub next_slice: u64,
    /// The number that the next session gets.
    pub next_session: u64,
    /// The members in ring order.
    pub volcanos: Vec<Volcano>,
    /// The slices in key order; together they cover the key space exactly.
    pub slices: Vec<Slice>,
    /// The open sessions in order of their numbers.
    pub sessions: Vec<Session>,
}

/// What a volcano says of itself when it joins or comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolcanoInfo {
    /// Nickname, unique in the network.
    pub nick: String,
    /// Fully qualified name.
    pub fqdn: String,
    /// Address of all its ports.
    pub addr: IpAddr,
    /// Flare port; node is one above, console two above.
    pub port: u16,
    /// Declared bandwidth in Kbit/s.
    pub bandwidth_kbit: u64,
    /// Declared storage in bytes; 0 when not declared.
    pub storage_bytes: u64,
    /// It votes, and holds no keys: the third of two volcanos.
    #[serde(default)]
    pub arbiter: bool,
}

impl VolcanoInfo {
    /// Where it serves the flare protocol.
    pub fn flare_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
    /// Where it serves the node protocol.
    pub fn node_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port + 1)
    }
    /// Where its console is.
    pub fn console_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port + 2)
    }
}

/// A member of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volcano {
    /// Its number.
    pub id: VolcanoId,
    /// What it says of itself.
    pub info: VolcanoInfo,
    /// It was found dead ([`crate::agreement::Change::Down`]): it owns nothing that another
    /// could take over, none of its copies counts, and nobody waits for it.
    #[serde(default)]
    pub down: bool,
    /// It is dead and nobody counts on its return ([`crate::agreement::Change::Evict`]).
    #[serde(default)]
    pub evicted: bool,
}

/// An inclusive range of keys with one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Its number.
    pub id: SliceId,
    /// Its first key.
    pub start: Key,
    /// Its last key.
    pub end: Key,
    /// Who orders its operations.
    pub owner: VolcanoId,
    /// To whom it belongs: the owner, or the one that the owner stands in for until it is back.
    pub home: VolcanoId,
    /// The epoch in which it became the owner: what an owner says of an older one is not heard.
    pub since: Epoch,
    /// It became the owner because the one before was found dead, and could hand nothing over.
    pub seized: bool,
    /// Its redundancy.
    pub copies: Vec<CopyState>,
}

/// One copy of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyState {
    /// On whom.
    pub volcano: VolcanoId,
    /// It holds everything, and every operation waits for it. Otherwise it is being filled.
    pub in_sync: bool,
}

/// An open session: a mount or a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// What it calls itself.
    pub label: String,
}

impl Slice {
    /// Whether a key is in it.
    pub fn contains(&self, key: Key) -> bool {
        self.start <= key && key <= self.end
    }
    /// The state of the copy on a volcano.
    pub fn copy_on(&self, volcano: VolcanoId) -> Option<CopyState> {
        self.copies
            .iter()
            .copied()
            .find(|copy| copy.volcano == volcano)
    }
    /// The volcanos whose copies count.
    pub fn in_sync(&self) -> impl Iterator<Item = VolcanoId> + '_ {
        self.copies
            .iter()
            .filter(|copy| copy.in_sync)
            .map(|copy| copy.volcano)
    }
}

impl Lava {
    /// The slice of a key. A lava that was never bootstrapped has none.
    pub fn slice_of(&self, key: Key) -> Option<&Slice> {
        let at = self.slices.partition_point(|slice| slice.end < key);
        self.slices.get(at).filter(|slice| slice.contains(key))
    }

    /// A slice by its number.
    pub fn slice(&self, id: SliceId) -> Option<&Slice> {
        self.slices.iter().find(|slice| slice.id == id)
    }

    /// Who owns a key.
    pub fn owner_of(&self, key: Key) -> Option<VolcanoId> {
        self.slice_of(key).map(|slice| slice.owner)
    }

    /// A member.
    pub fn volcano(&self, id: VolcanoId) -> Option<&Volcano> {
        self.volcanos.iter().find(|volcano| volcano.id == id)
    }

    /// A member by nickname.
    pub fn volcano_called(&self, nick: &str) -> Option<&Volcano> {
        self.volcanos
            .iter()
            .find(|volcano| volcano.info.nick == nick)
    }

    /// Whether a member only votes.
    pub fn is_arbiter(&self, id: VolcanoId) -> bool {
        self.volcano(id).is_some_and(|volcano| volcano.info.arbiter)
    }

    /// The nickname of a member, or its number for one that is gone.
    pub fn nick(&self, id: VolcanoId) -> String {
        self.volcano(id)
            .map_or_else(|| format!("volcano {id}"), |v| v.info.nick.clone())
    }

    /// The coordinator: the holder of the key of `/.dht`.
    pub fn coordinator(&self) -> Option<VolcanoId> {
        self.owner_of(key::DHT)
    }

    /// The volcanos after one in the ring, nearest first, itself left out.
    pub fn followers(&self, id: VolcanoId) -> impl Iterator<Item = VolcanoId> + '_ {
        let at = self.volcanos.iter().position(|v| v.id == id);
        let count = self.volcanos.len();
        (1..count).filter_map(move |step| Some(self.volcanos[(at? + step) % count].id))
    }

    /// Where the copies of a slice belong: on the next volcanos after the one to whom it belongs,
    /// and on that one while another stands in for it. A dead volcano keeps its place, as it comes
    /// back with what it has, until it is evicted.
    pub fn wanted_copies(&self, slice: &Slice) -> Vec<VolcanoId> {
        std::iter::once(slice.home)
            .chain(self.followers(slice.home))
            .filter(|id| *id != slice.owner && !self.is_evicted(*id) && !self.is_arbiter(*id))
            .take(usize::from(self.redundancy))
            .collect()
    }

    /// Whether somebody who knows no later epoch than this one cannot be the owner of a slice.
    pub fn is_outdated(&self, slice: SliceId, epoch: Epoch) -> bool {
        self.slice(slice).is_some_and(|slice| epoch < slice.since)
    }

    /// Who votes in the agreement: the coordinator and the volcanos after it, three in all, five
    /// from five volcanos on; the living before the dead, those that hold keys before the arbiters,
    /// the evicted not at all. Of two only the coordinator, as they could not outvote each other.
    pub fn voters(&self) -> std::collections::BTreeSet<VolcanoId> {
        let counts = |id: &VolcanoId| !self.is_evicted(*id);
        let count = match self.volcanos.iter().filter(|v| counts(&v.id)).count() {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let Some(coordinator) = self.coordinator() else {
            return Default::default();
        };
        let mut ring: Vec<VolcanoId> = std::iter::once(coordinator)
            .chain(self.followers(coordinator))
            .filter(counts)
            .collect();
        ring.sort_by_key(|id| (self.is_down(*id), self.is_arbiter(*id)));
        ring.into_iter().take(count).collect()
    }

    /// The slices that a volcano owns.
    pub fn owned_by(&self, id: VolcanoId) -> impl Iterator<Item = &Slice> {
        self.slices.iter().filter(move |slice| slice.owner == id)
    }

    /// The slices of which a volcano has, or is getting, a copy.
    pub fn copied_on(&self, id: VolcanoId) -> impl Iterator<Item = &Slice> {
        self.slices
            .iter()
            .filter(move |slice| slice.copy_on(id).is_some())
    }

    /// Whether a session is open.
    pub fn has_session(&self, id: SessionId) -> bool {
        self.sessions
            .binary_search_by_key(&id, |session| session.id)
            .is_ok()
    }

    /// Whether the slices cover the key space exactly, in order, once.
    pub fn covers(&self) -> bool {
        let mut next = Some(Key::MIN);
        for slice in &self.slices {
            if next != Some(slice.start) || slice.start > slice.end {
                return false;
            }
            next = slice.end.next();
        }
        !self.slices.is_empty() && next.is_none()
    }
}
