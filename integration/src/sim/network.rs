//! Connections and lanes between volcanos.
//!
//! Each volcano dials every other: a connection has a direction, and carries lanes that keep
//! their order. What is on its way when a connection breaks is lost.

use std::collections::BTreeMap;

use magma_core::ids::VolcanoId;
use magma_core::wire::peer::PeerMessage;

/// A connection, as dialled: from, to.
pub type Dialled = (VolcanoId, VolcanoId);

/// A lane of a connection (the rule of `magma_actors::replica`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The history of slices.
    Replication,
    /// Small messages.
    Control,
}

/// The lane of a message.
pub fn lane(message: &PeerMessage) -> Lane {
    if message.is_history() {
        Lane::Replication
    } else {
        Lane::Control
    }
}

/// All connections.
#[derive(Debug, Default)]
pub struct Network {
    /// Up connections with the number that messages on them carry.
    up: BTreeMap<Dialled, u64>,
    /// The last delivery on a lane: later messages come later.
    last: BTreeMap<(Dialled, Lane), u64>,
    next: u64,
}

impl Network {
    /// Whether a connection works.
    pub fn is_up(&self, dialled: Dialled) -> bool {
        self.up.contains_key(&dialled)
    }

    /// A connection is made.
    pub fn connect(&mut self, dialled: Dialled) {
        self.next += 1;
        self.up.insert(dialled, self.next);
    }

    /// A connection breaks; tells whether it worked.
    pub fn disconnect(&mut self, dialled: Dialled) -> bool {
        self.up.remove(&dialled).is_some()
    }

    /// When a message sent now arrives, and on which connection; none when it is lost.
    pub fn send(
        &mut self,
        dialled: Dialled,
        lane: Lane,
        now: u64,
        delay: u64,
    ) -> Option<(u64, u64)> {
        let number = *self.up.get(&dialled)?;
        let last = self.last.entry((dialled, lane)).or_default();
        *last = (*last).max(now + delay);
        Some((*last, number))
    }

    /// Whether a message of this connection still arrives.
    pub fn carries(&self, dialled: Dialled, number: u64) -> bool {
        self.up.get(&dialled) == Some(&number)
    }
}
