//! BalancerActor: measures what this volcano holds and does, for the heartbeat and the console.

use std::sync::Arc;
use std::time::Duration;

use magma_core::engine::Statistics;
use magma_core::ids::{SliceId, Stamp};
use magma_core::op::Space;
use magma_core::wire::node_protocol::ResyncProgress;

use crate::node::Node;
use crate::supervision::{Guarded, GuardedContext, Inner};

/// Load is measured this often.
const PERIOD: Duration = Duration::from_secs(1);

/// The actor's state.
pub struct Balancer {
    node: Arc<Node>,
}

/// One measurement.
struct Load {
    keys: u64,
    copy_keys: u64,
    space: Space,
    full: bool,
    largest_file: u64,
    statistics: Statistics,
    positions: Vec<(SliceId, Stamp)>,
    resyncs: Vec<ResyncProgress>,
}

impl Balancer {
    /// The actor's state.
    pub fn new(node: Arc<Node>) -> Balancer {
        Balancer { node }
    }

    fn measure(&mut self, ctx: &mut GuardedContext<Self>) {
        let node = self.node.clone();
        let load = async move {
            node.engine
                .ask(|engine| {
                    Some(Load {
                        keys: engine.count_owned().ok()?,
                        copy_keys: engine.count_copies().ok()?,
                        space: magma_core::store::Store::space(engine.store()).ok()?,
                        full: engine.is_full(),
                        largest_file: magma_core::store::Store::largest_file(engine.store()),
                        statistics: engine.statistics(),
                        positions: engine.positions(),
                        resyncs: engine.resyncs(),
                    })
                })
                .await
                .flatten()
        };
        Guarded::spawn(ctx, load, |balancer, load, _| {
            let Some(load) = load else { return };
            tracing::debug!(target: "magma::b", keys = load.keys, copies = load.copy_keys,
                free = load.space.free, operations = load.statistics.operations,
                parked = load.statistics.parked, transactions = load.statistics.transactions, "load");
            balancer.node.measured(|status| {
                status.keys = load.keys;
                status.copy_keys = load.copy_keys;
                status.bytes = load.space.total.saturating_sub(load.space.free);
                status.operations = load.statistics.operations;
                status.free_bytes = load.space.free;
                status.total_bytes = load.space.total;
                status.full = load.full;
                status.largest_file = load.largest_file;
                status.positions = load.positions;
                status.resyncs = load.resyncs;
            });
        });
    }
}

impl Inner for Balancer {
    const NAME: &'static str = "BalancerActor";

    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        self.measure(ctx);
        Guarded::every(ctx, PERIOD, |balancer, ctx| balancer.measure(ctx));
    }
}
