//! Connections to the other members: dialled, watched, dialled again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::wire::codec::{self, CodecError};
use magma_core::wire::flare_protocol::{FlareHello, FlareWelcome};
use magma_core::wire::node_protocol::{NodeHello, NodeWelcome};
use tokio::task::JoinHandle;

use crate::generation;
use crate::node::{Node, lock};
use crate::node_proto::check_member;
use crate::transport::{Connection, Endpoint, Protocol, SharedService, TransportError};

/// Waits between two attempts to reach a member: from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Keeps one connection of a protocol to every other member.
pub struct Dialler {
    node: Arc<Node>,
    protocol: Protocol,
    endpoint: Endpoint,
    service: SharedService,
    tasks: Mutex<HashMap<VolcanoId, JoinHandle<()>>>,
}

impl Dialler {
    /// A dialler that has nobody to reach yet.
    pub fn new(
        node: Arc<Node>,
        protocol: Protocol,
        endpoint: Endpoint,
        service: SharedService,
    ) -> Arc<Dialler> {
        Arc::new(Dialler {
            node,
            protocol,
            endpoint,
            service,
            tasks: Mutex::default(),
        })
    }

    /// Follows the lava: dials new members, leaves those that are gone.
    pub fn follow(self: &Arc<Self>, lava: &Lava) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|id, task| {
            let member = lava.volcano(*id).is_some();
            if !member {
                task.abort();
            }
            member
        });
        for volcano in &lava.volcanos {
            if volcano.id != self.node.id && !tasks.contains_key(&volcano.id) {
                let dialler = self.clone();
                let id = volcano.id;
                tasks.insert(id, tokio::spawn(async move { dialler.keep(id).await }));
            }
        }
    }

    /// Stops dialling.
    pub fn stop(&self) {
        for (_, task) in lock(&self.tasks).drain() {
            task.abort();
        }
    }

    async fn keep(&self, id: VolcanoId) {
        let mut wait = BACKOFF.0;
        let mut refused = None;
        loop {
            let addr = self
                .node
                .lava()
                .volcano(id)
                .map(|volcano| match self.protocol {
                    Protocol::Flare => volcano.info.flare_addr(),
                    Protocol::Node => volcano.info.node_addr(),
                });
            let (Some(addr), Some(hello)) = (addr, self.hello()) else {
                return;
            };
            match self
                .endpoint
                .connect(addr, hello, self.service.clone())
                .await
            {
                Ok((connection, welcome)) => {
                    if let Err(why) = self.check_answer(id, &welcome) {
                        connection.close(&why);
                        if refused.as_ref() != Some(&why) {
                            self.node.refused(addr, &why);
                            refused = Some(why);
                        }
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(BACKOFF.1);
                        continue;
                    }
                    wait = BACKOFF.0;
                    refused = None;
                    self.links().up(id, connection.clone());
                    self.tell(id, true);
                    connection.ended().await;
                    self.links().down(id, &connection);
                    self.tell(id, false);
                }
                Err(error) => {
                    let volcano = self.node.lava().nick(id);
                    // Whoever is not let in waits for ever: a person must know why. Said once.
                    let why = error.to_string();
                    let turned_away = matches!(error, TransportError::Refused { .. });
                    let new = turned_away && refused.as_ref() != Some(&why);
                    if new {
                        tracing::warn!(target: "magma::n", volcano, "{why}");
                        refused = Some(why);
                    } else {
                        tracing::debug!(target: "magma::n", volcano, "{why}");
                    }
                    if turned_away && self.protocol == Protocol::Node {
                        let (endpoint, service) = (&self.endpoint, self.service.clone());
                        generation::look(&self.node, endpoint, (addr, service), new).await;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Whether the one who answers is the member that was dialled.
    fn check_answer(&self, id: VolcanoId, welcome: &[u8]) -> Result<(), String> {
        let decoded = match self.protocol {
            Protocol::Flare => codec::decode(welcome).map(|welcome: FlareWelcome| welcome.identity),
            Protocol::Node => codec::decode(welcome).map(|welcome: NodeWelcome| welcome.identity),
        };
        let identity = decoded.map_err(|error: CodecError| error.to_string())?;
        match identity.volcano {
            Some(found) if found == id => check_member(&self.node, &identity),
            found => Err(format!(
                "{} answers where volcano {id} should be (it is {found:?})",
                identity.nick
            )),
        }
    }

    fn hello(&self) -> Option<Bytes> {
        let identity = self.node.identity();
        let hello = match self.protocol {
            Protocol::Flare => codec::encode(&FlareHello::Volcano(identity)),
            Protocol::Node => codec::encode(&NodeHello::Volcano(identity)),
        };
        hello.ok().map(Bytes::from)
    }

    fn links(&self) -> &crate::node::Links {
        match self.protocol {
            Protocol::Flare => &self.node.flare_links,
            Protocol::Node => &self.node.node_links,
        }
    }

    fn tell(&self, id: VolcanoId, up: bool) {
        tracing::info!(target: "magma::n", volcano = %self.node.lava().nick(id), protocol = ?self.protocol,
            "{}", if up { "connected" } else { "connection lost" });
        if self.protocol == Protocol::Flare {
            let event = if up {
                magma_core::engine::Event::PeerUp(id)
            } else {
                magma_core::engine::Event::PeerDown(id)
            };
            self.node.engine.post_surely(event);
        }
    }
}

/// Which connection a member's messages come from, for services.
pub type Roles<R> = Mutex<HashMap<u64, (R, Connection)>>;
