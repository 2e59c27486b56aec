//! What the console asks of its volcano. Whoever implements it decides nothing about text.

use bytes::Bytes;
use futures::future::BoxFuture;
use magma_core::engine::Damage;
use magma_core::error::OpError;
use magma_core::flare::{FlareRow, LinkRow};
use magma_core::ids::VolcanoId;
use magma_core::key::Key;
use magma_core::lava::{Lava, VolcanoInfo};
use magma_core::op::{Answer, Op};
use magma_core::wire::node_protocol::VolcanoStatus;

use crate::debug::{self, Switch};
use crate::scrub::ScrubState;

/// A flare that is in memory, with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFlare {
    /// The row.
    pub row: FlareRow,
    /// Its names, as far as they are in memory too.
    pub links: Vec<LinkRow>,
}

/// What only a person decides: who belongs to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intervention {
    /// Nobody counts on the return of this dead volcano.
    Evict(String),
    /// This evicted volcano is no member any more.
    Forget(String),
    /// A network that is loading goes on without those who are not there.
    Proceed,
    /// Those who are there go on without a majority, as a new generation of the network.
    TakeOver,
}

/// Answers in the order of the operations, and the content that was read.
pub type Answers = (Vec<Result<Answer, OpError>>, Bytes);

/// What the console asks of the volcano.
///
/// A future may be dropped before it is ready, when the peer interrupts the command. Whatever
/// it has set going by then goes on.
pub trait Backend {
    /// This volcano.
    fn me(&self) -> VolcanoInfo;
    /// The lava as this volcano knows it.
    fn lava(&self) -> Lava;
    /// Every volcano's last heartbeat and whether it is alive (own one included).
    fn statuses(&self) -> Vec<(VolcanoStatus, bool)>;
    /// "ready", or what the volcano does instead: "loading, waits for penguin".
    fn phase(&self) -> String;
    /// Who leads the agreement, as far as this volcano knows.
    fn leader(&self) -> Option<VolcanoId>;
    /// Whether requests can be served.
    fn is_ready(&self) -> bool;
    /// Sends operations to the owner of a key as root; answers and payload.
    fn request(&self, key: Key, ops: Vec<Op>) -> BoxFuture<'static, Result<Answers, OpError>>;
    /// Flares in memory here.
    fn cached(&self) -> BoxFuture<'static, Vec<CachedFlare>>;
    /// Ends the whole network in order, or only this volcano. Returns once it is under way.
    fn shutdown(&self, whole_network: bool, by: String) -> BoxFuture<'static, Result<(), String>>;
    /// What an intervention would do, in sentences; or why it cannot be done.
    fn explain(&self, what: &Intervention) -> Result<Vec<String>, String>;
    /// Does it; what has come of it, in a sentence.
    fn intervene(
        &self,
        what: Intervention,
        by: String,
    ) -> BoxFuture<'static, Result<String, String>>;
    /// How far the scrub is, and what became of damaged content.
    fn scrubbed(&self) -> BoxFuture<'static, (ScrubState, Damage)>;
    /// Begins the scrub at once, or makes it hurry.
    fn scrub_now(&self);
    /// Gives the scrub up; whether one was under way.
    fn scrub_stop(&self) -> bool;
    /// Access rules in force, one a line.
    fn acl(&self) -> Vec<String>;
    /// Makes an actor panic, or the process end at a point, in a volcano started for tests; otherwise says why not.
    fn fault(&self, actor: &str) -> Result<(), String>;
    /// The debug channels.
    fn debug_switch(&self) -> &'static Switch {
        debug::switch()
    }
}
