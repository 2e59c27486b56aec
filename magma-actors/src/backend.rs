//! What the console sees of the volcano.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use magma_core::engine::Damage;
use magma_core::error::OpError;
use magma_core::ids::{SessionId, Slot, SlotSeq, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::{Lava, VolcanoInfo};
use magma_core::op::{Answer, Credentials, Op};
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::Request;
use magma_core::wire::node_protocol::{NodeCall, VolcanoStatus};

use crate::console::{Backend, CachedFlare, Intervention};
use crate::flare::{ClientRequest, ReplyTo};
use crate::generation::Afterwards;
use crate::intervention;
use crate::node::{Node, post};
use crate::readiness;
use crate::scrub::ScrubState;
use crate::supervision::Panic;
use crate::supervision::fault::{FaultsOff, faults_allowed};
use crate::supervision::fault_point::{self, FaultPoint};
use crate::transport::Frame;

/// Patience for an answer on the console.
const PATIENCE: Duration = Duration::from_secs(10);

/// The console's view of a volcano.
pub struct ConsoleBackend {
    node: Arc<Node>,
}

impl ConsoleBackend {
    /// The view.
    pub fn new(node: Arc<Node>) -> ConsoleBackend {
        ConsoleBackend { node }
    }
}

impl Backend for ConsoleBackend {
    fn me(&self) -> VolcanoInfo {
        self.node.info.clone()
    }

    fn lava(&self) -> Lava {
        (*self.node.lava()).clone()
    }

    fn statuses(&self) -> Vec<(VolcanoStatus, bool)> {
        self.node.statuses()
    }

    fn leader(&self) -> Option<VolcanoId> {
        self.node.leader()
    }

    fn phase(&self) -> String {
        readiness::phase(&self.node)
    }

    fn is_ready(&self) -> bool {
        self.node.is_ready() && !self.node.is_stopping()
    }

    fn request(
        &self,
        key: Key,
        ops: Vec<Op>,
    ) -> BoxFuture<'static, Result<(Vec<Result<Answer, OpError>>, Bytes), OpError>> {
        let node = self.node.clone();
        async move {
            let (here, answered) = tokio::sync::oneshot::channel();
            let request = Request {
                session: SessionId(0),
                slot: Slot(0),
                seq: SlotSeq(node.internal_seq.fetch_add(1, Ordering::Relaxed)),
                clock: crate::engine::now().wall_nanos,
                epoch: node.lava().epoch,
                key,
                hops: 0,
                cred: Credentials::root(),
                ops,
            };
            let message = ClientRequest {
                request: Box::new(request),
                payload: Bytes::new(),
                proxied: false,
                reply_to: ReplyTo::Here(here),
            };
            if !post(&node.actors.flare, message) {
                return Err(OpError::Busy);
            }
            match tokio::time::timeout(PATIENCE, answered).await {
                Ok(Ok((reply, payload))) => Ok((reply.results, payload)),
                Ok(Err(_)) => Err(OpError::TryAgain),
                Err(_) => Err(OpError::Unreachable),
            }
        }
        .boxed()
    }

    fn cached(&self) -> BoxFuture<'static, Vec<CachedFlare>> {
        let node = self.node.clone();
        async move {
            let cached = node
                .engine
                .ask(|engine| engine.cached())
                .await
                .unwrap_or_default();
            cached
                .into_iter()
                .map(|flare| CachedFlare {
                    row: flare.row,
                    links: flare.links,
                })
                .collect()
        }
        .boxed()
    }

    fn shutdown(&self, whole_network: bool, by: String) -> BoxFuture<'static, Result<(), String>> {
        let node = self.node.clone();
        async move {
            tracing::info!(by, whole_network, "shutdown was asked on the console");
            if whole_network {
                let call = codec::encode(&NodeCall::Shutdown { by }).map_err(|e| e.to_string())?;
                let frame = Frame {
                    header: call.into(),
                    payload: Bytes::new(),
                };
                let told = node.node_links.all().into_iter().map(|(id, connection)| {
                    let (frame, name) = (frame.clone(), node.lava().nick(id));
                    async move {
                        let told = connection.call(frame, Duration::from_secs(2)).await;
                        if let Err(error) = told {
                            tracing::warn!(
                                volcano = name,
                                "could not be told to shut down: {error}"
                            );
                        }
                    }
                });
                futures::future::join_all(told).await;
            }
            node.end(Afterwards::Nothing);
            Ok(())
        }
        .boxed()
    }

    fn explain(&self, what: &Intervention) -> Result<Vec<String>, String> {
        intervention::plan(&self.node, what).map(|plan| plan.says)
    }

    fn intervene(
        &self,
        what: Intervention,
        by: String,
    ) -> BoxFuture<'static, Result<String, String>> {
        intervention::carry_out(self.node.clone(), what, by).boxed()
    }

    fn scrubbed(&self) -> BoxFuture<'static, (ScrubState, Damage)> {
        let node = self.node.clone();
        async move {
            let damage = node.engine.ask(|engine| engine.damage()).await;
            (node.scrub.state(), damage.unwrap_or_default())
        }
        .boxed()
    }

    fn scrub_now(&self) {
        self.node.scrub.now();
    }

    fn scrub_stop(&self) -> bool {
        self.node.scrub.give_up()
    }

    fn acl(&self) -> Vec<String> {
        // Whoever has the secret key may do what the permission bits allow.
        vec!["0.0.0.0/0 / w".into(), "::/0 / w".into()]
    }

    fn fault(&self, actor: &str) -> Result<(), String> {
        // Here and not only in the actors: the engine has no way to refuse.
        if !faults_allowed() {
            return Err(FaultsOff.to_string());
        }
        if let Some(seconds) = actor.strip_prefix("clock:") {
            let by: i64 = seconds
                .parse()
                .map_err(|_| "a clock jumps by seconds: clock:-60".to_owned())?;
            crate::engine::set_clock(by);
            return Ok(());
        }
        if actor == "off" || actor.contains(':') {
            let point = (actor != "off").then(|| actor.parse::<FaultPoint>());
            fault_point::arm(point.transpose().map_err(|error| error.to_string())?);
            return Ok(());
        }
        let actors = &self.node.actors;
        let hit = match actor {
            "keyspace" => post(&actors.keyspace, Panic),
            "flare" => post(&actors.flare, Panic),
            "node" => post(&actors.node_proto, Panic),
            "replica" => post(&actors.replica, Panic),
            "balancer" => post(&actors.balancer, Panic),
            "engine" => {
                self.node.engine.fault();
                true
            }
            _ => {
                return Err(
                    "the actors are keyspace, flare, node, replica, balancer, engine".into(),
                );
            }
        };
        if hit {
            Ok(())
        } else {
            Err(format!("{actor} has too much to do"))
        }
    }
}
