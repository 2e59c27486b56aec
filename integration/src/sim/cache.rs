//! What a simulated client remembers under leases, as a mount does.

use std::collections::BTreeMap;

use magma_core::flare::Attr;
use magma_core::ids::{Stamp, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::op::{Answer, Op};
use magma_core::wire::flare_protocol::Grant;

/// Attributes that one owner lets the client show without asking.
#[derive(Debug, Default)]
struct FromOwner {
    /// The life of the owner that the connection is to.
    life: u64,
    valid_until: u64,
    /// Grants up to this one are void.
    void: u64,
    shown: BTreeMap<Key, (Stamp, u64)>,
}

/// All leases of a client.
#[derive(Debug, Default)]
pub struct Cache {
    owners: BTreeMap<VolcanoId, FromOwner>,
}

impl Cache {
    /// A request goes to a volcano in that life. True when that takes a new connection, with
    /// which everything from before is dropped.
    pub fn connect(&mut self, to: VolcanoId, life: u64) -> bool {
        let owner = self.owners.entry(to).or_default();
        if owner.life == life {
            return false;
        }
        *owner = FromOwner {
            life,
            ..FromOwner::default()
        };
        true
    }

    /// The client is about to change something, or has just done so.
    pub fn changes(&mut self, op: &Op) {
        for key in op.changes().into_iter().flatten() {
            self.owners.values_mut().for_each(|owner| {
                owner.shown.remove(&key);
            });
        }
    }

    /// A reply with what it grants.
    pub fn told(
        &mut self,
        lava: &Lava,
        (from, life): (VolcanoId, u64),
        sent: u64,
        grant: Grant,
        answer: &Answer,
    ) {
        let owner = self.owners.entry(from).or_default();
        if owner.life != life {
            return;
        }
        owner.valid_until = owner.valid_until.max(sent + u64::from(grant.valid_ms));
        owner.void = owner.void.max(grant.void);
        owner.shown.retain(|_, (_, number)| *number > grant.void);
        if !grant.shown || grant.number <= owner.void {
            return;
        }
        let mut show = |attr: &Attr| {
            if lava.owner_of(attr.flare.key()) != Some(from) {
                return;
            }
            owner
                .shown
                .insert(attr.flare.key(), (attr.version, grant.number));
        };
        match answer {
            Answer::Attr(attr) | Answer::Linked { attr, .. } => show(attr),
            Answer::Entry {
                attr: Some(attr), ..
            } => show(attr),
            _ => {}
        }
    }

    /// An owner takes leases back. False when it is not the owner that granted them.
    pub fn recall(&mut self, from: VolcanoId, life: u64, keys: &[Key], upto: u64) -> bool {
        let owner = self.owners.entry(from).or_default();
        if owner.life != life {
            return false;
        }
        owner.void = owner.void.max(upto);
        for key in keys {
            owner.shown.remove(key);
        }
        true
    }

    /// Slices have other owners: what another has granted is not shown any more.
    pub fn follow(&mut self, lava: &Lava) {
        for (id, owner) in &mut self.owners {
            owner
                .shown
                .retain(|key, _| lava.owner_of(*key) == Some(*id));
        }
    }

    /// Everything that may be shown at a time: the flare, its version, and whose word it is.
    pub fn valid(&self, time: u64) -> impl Iterator<Item = (Key, Stamp, VolcanoId)> {
        self.owners
            .iter()
            .filter(move |(_, owner)| time < owner.valid_until)
            .flat_map(|(id, owner)| {
                owner
                    .shown
                    .iter()
                    .map(|(key, (stamp, _))| (*key, *stamp, *id))
            })
    }
}
