//! NodeProtoActor: the node protocol. Hello, join, heartbeats, lava, sessions, shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use bytes::Bytes;
use magma_core::agreement::Change;
use magma_core::engine::{Event, PeerStorage};
use magma_core::ids::{Epoch, SessionId, VolcanoId};
use magma_core::lava::Slice;
use magma_core::limits::{ENGINE_QUEUE, HEARTBEAT_MS, VOLCANO_LEASE_MS};
use magma_core::time::Moment;
use magma_core::wire::codec;
use magma_core::wire::node_protocol::{
    Identity, NodeAnswer, NodeCall, NodeHello, NodePush, NodeWelcome,
};

use crate::agreement::Undecided;
use crate::flare::check_version;
use crate::generation::Afterwards;
use crate::keyspace::{
    Decided, HeartbeatHeard, LearnLava, ProposeChange, ProposeHere, SessionHeard,
};
use crate::links::{Dialler, Roles};
use crate::node::{Node, lock, post};
use crate::supervision::{Guarded, GuardedContext, Handle, Inner};
use crate::transport::{Connection, Frame, Lane, Replier, Service};

/// The lava has changed: other members may be there.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PeersChanged;

/// The actor's state.
pub struct NodeProto {
    node: Arc<Node>,
    dialler: Arc<Dialler>,
}

impl NodeProto {
    /// The actor's state: connections are kept by the dialler and outlive it.
    pub fn new(node: Arc<Node>, dialler: Arc<Dialler>) -> NodeProto {
        NodeProto { node, dialler }
    }

    fn heartbeat(&self) {
        let status = self.node.status();
        let Ok(header) = codec::encode(&NodePush::Heartbeat(Box::new(status))) else {
            return;
        };
        let frame = Frame {
            header: header.into(),
            payload: Bytes::new(),
        };
        for (_, connection) in self.node.node_links.all() {
            // One that is lost is followed by another.
            let _ = connection.push(Lane::Control, frame.clone());
        }
    }
}

impl Inner for NodeProto {
    const NAME: &'static str = "NodeProtoActor";

    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        ctx.set_mailbox_capacity(ENGINE_QUEUE);
        self.dialler.follow(&self.node.lava());
        Guarded::every(ctx, Duration::from_millis(HEARTBEAT_MS), |node_proto, _| {
            node_proto.heartbeat();
        });
    }

    fn stopped(&mut self, _: &mut GuardedContext<Self>) {
        self.dialler.stop();
    }
}

impl Handle<PeersChanged> for NodeProto {
    fn handle(&mut self, _: PeersChanged, _: &mut GuardedContext<Self>) {
        self.dialler.follow(&self.node.lava());
        self.heartbeat();
    }
}

/// Who is at the other end of a node connection.
#[derive(Clone)]
enum Role {
    Client(String),
    Volcano(VolcanoId),
    Joiner,
}

/// What the node endpoint does with what arrives.
pub struct NodeService {
    node: Arc<Node>,
    roles: Roles<Role>,
}

impl NodeService {
    /// The service of a volcano.
    pub fn new(node: Arc<Node>) -> NodeService {
        NodeService {
            node,
            roles: Roles::default(),
        }
    }

    fn answer(replier: Replier, answer: &NodeAnswer) {
        match codec::encode(answer) {
            Ok(header) => replier.send(Frame {
                header: header.into(),
                payload: Bytes::new(),
            }),
            Err(error) => tracing::error!(target: "magma::n", "an answer cannot be sent: {error}"),
        }
    }

    /// A session is there: who leads the agreement hears of it, from here or by way of us.
    fn renew(&self, session: SessionId, epoch: Epoch) -> NodeAnswer {
        let lava = self.node.lava();
        if !lava.has_session(session) && lava.epoch >= epoch {
            return NodeAnswer::SessionEnded;
        }
        let told = match self.node.group.leader() {
            Some(id) if id == self.node.id => {
                post(&self.node.actors.keyspace, SessionHeard(session))
            }
            Some(id) => self.tell_of(session, id),
            None => false,
        };
        match told {
            true => NodeAnswer::Done,
            false => NodeAnswer::NotNow("nobody leads the agreement at the moment".to_owned()),
        }
    }

    fn tell_of(&self, session: SessionId, leader: VolcanoId) -> bool {
        let link = self.node.node_links.get(leader);
        let (Some(link), Ok(header)) = (link, codec::encode(&NodePush::SessionHeard(session)))
        else {
            return false;
        };
        let frame = Frame {
            header: header.into(),
            payload: Bytes::new(),
        };
        link.push(Lane::Control, frame).is_ok()
    }

    /// Proposes a change and answers with what `found` makes of the lava that it led to.
    fn propose(
        &self,
        change: Change,
        replier: Replier,
        found: impl FnOnce(&magma_core::lava::Lava) -> NodeAnswer + Send + 'static,
    ) {
        if !self.node.is_ready() || self.node.is_stopping() {
            let why = "the lava network is not whole yet".to_owned();
            return Self::answer(replier, &NodeAnswer::NotNow(why));
        }
        let decided: Decided = Box::new(move |result| {
            let answer = match result {
                Ok(lava) => found(&lava),
                Err(Undecided::NotNow(why)) => NodeAnswer::NotNow(why),
                Err(Undecided::Refused(why)) => NodeAnswer::Failed(why.to_string()),
                Err(Undecided::Unknown(why)) => NodeAnswer::Failed(why),
            };
            Self::answer(replier, &answer);
        });
        post(
            &self.node.actors.keyspace,
            ProposeChange {
                epoch: None,
                change,
                decided,
            },
        );
    }
}

impl Service for NodeService {
    fn hello(&self, from: SocketAddr, hello: Bytes) -> Result<Bytes, String> {
        let refused = |reason: String| {
            self.node.refused(from, &reason);
            reason
        };
        match codec::decode::<NodeHello>(&hello).map_err(|e| refused(e.to_string()))? {
            NodeHello::Client { version, .. } | NodeHello::Joiner { version, .. } => {
                check_version(version).map_err(refused)?;
            }
            NodeHello::Volcano(identity) => check_member(&self.node, &identity).map_err(refused)?,
        }
        let welcome = NodeWelcome {
            identity: self.node.identity(),
            clock: crate::engine::now().wall_nanos,
        };
        codec::encode(&welcome)
            .map(Bytes::from)
            .map_err(|error| error.to_string())
    }

    fn connected(&self, connection: &Connection, hello: Bytes) {
        let role = match codec::decode::<NodeHello>(&hello) {
            Ok(NodeHello::Client { label, .. }) => Role::Client(label),
            Ok(NodeHello::Joiner { .. }) => Role::Joiner,
            Ok(NodeHello::Volcano(identity)) => match identity.volcano {
                Some(id) => Role::Volcano(id),
                None => return,
            },
            Err(_) => return,
        };
        lock(&self.roles).insert(connection.id(), (role, connection.clone()));
    }

    fn call(&self, connection: &Connection, frame: Frame, replier: Replier) {
        let Some((role, _)) = lock(&self.roles).get(&connection.id()).cloned() else {
            return;
        };
        let call: NodeCall = match codec::decode(&frame.header) {
            Ok(call) => call,
            Err(error) => {
                let why = format!("a call cannot be read: {error}");
                return self.node.refused(connection.peer(), &why);
            }
        };
        let unexpected = || {
            let why = "this is not for you to ask".to_owned();
            NodeAnswer::Failed(why)
        };
        match (call, role) {
            (NodeCall::GetLava, _) => {
                let lava = (*self.node.lava()).clone();
                Self::answer(replier, &NodeAnswer::Lava(Box::new(lava)));
            }
            (NodeCall::GetStatus, _) => {
                Self::answer(replier, &NodeAnswer::Status(Box::new(self.node.status())));
            }
            (NodeCall::OpenSession { label }, Role::Client(_)) => {
                self.propose(Change::OpenSession { label }, replier, |lava| {
                    let id = SessionId(lava.next_session - 1);
                    NodeAnswer::Session(id, Box::new(lava.clone()))
                });
            }
            (NodeCall::EndSession(id), Role::Client(_)) => {
                self.propose(Change::EndSession(id), replier, |_| NodeAnswer::Done);
            }
            (NodeCall::RenewSession { session, epoch }, Role::Client(_)) => {
                Self::answer(replier, &self.renew(session, epoch));
            }
            (NodeCall::Join(info), Role::Joiner) => {
                tracing::info!(target: "magma::n", nick = %info.nick, from = %connection.peer(), "wants to join after this volcano");
                // Its first answer may have got lost: who is in already, and never owned
                // anything, is told so again. One that did is another who has lost its directory:
                // the agreement must not take it for the one that remembers. Of an arbiter nobody
                // can tell.
                let lava = self.node.lava();
                let again = lava.volcanos.iter().find(|volcano| {
                    let mut slices = lava.slices.iter();
                    let owns = |s: &Slice| s.owner == volcano.id || s.home == volcano.id;
                    let may = !volcano.down
                        && !volcano.info.arbiter
                        && !self.node.starts.has_seen(volcano.id);
                    may && volcano.info == *info && !slices.any(owns)
                });
                if let Some(volcano) = again {
                    let answer = NodeAnswer::Joined(volcano.id, Box::new((*lava).clone()));
                    return Self::answer(replier, &answer);
                }
                let change = Change::Join {
                    volcano: info,
                    after: self.node.id,
                };
                self.propose(change, replier, |lava| {
                    let id = VolcanoId(lava.next_volcano - 1);
                    NodeAnswer::Joined(id, Box::new(lava.clone()))
                });
            }
            (NodeCall::Propose { epoch, change }, Role::Volcano(_)) => {
                let answer = Box::new(move |answer| Self::answer(replier, &answer));
                let propose = ProposeHere {
                    epoch,
                    change: *change,
                    answer,
                };
                post(&self.node.actors.keyspace, propose);
            }
            (NodeCall::Agreement(question), Role::Volcano(_)) => {
                let answer = |told| Self::answer(replier, &NodeAnswer::Agreement(told));
                self.node.group.answer(&question, answer);
            }
            (NodeCall::Shutdown { by }, Role::Volcano(_)) => {
                tracing::info!(by, from = %connection.peer(), "told to shut down with the whole network");
                Self::answer(replier, &NodeAnswer::Done);
                self.node.end(Afterwards::Nothing);
            }
            (
                NodeCall::OpenSession { .. }
                | NodeCall::EndSession(_)
                | NodeCall::RenewSession { .. }
                | NodeCall::Join(_)
                | NodeCall::Propose { .. }
                | NodeCall::Agreement(_)
                | NodeCall::Shutdown { .. },
                _,
            ) => Self::answer(replier, &unexpected()),
        }
    }

    fn push(&self, connection: &Connection, _: Lane, frame: Frame) {
        let role = lock(&self.roles).get(&connection.id()).cloned();
        let Some((Role::Volcano(from), _)) = role else {
            return;
        };
        match codec::decode::<NodePush>(&frame.header) {
            Ok(NodePush::Heartbeat(status)) if status.volcano == from => {
                self.node.engine.post_surely(Event::PeerStorage {
                    volcano: from,
                    storage: PeerStorage {
                        full: status.total_bytes > 0 && status.full,
                        // Of one that does not say it nothing is known.
                        largest_file: match status.largest_file {
                            0 => u64::MAX,
                            bytes => bytes,
                        },
                    },
                });
                let heard = HeartbeatHeard {
                    from,
                    sent_ms: status.sent_ms,
                };
                post(&self.node.actors.keyspace, heard);
                self.node.heard(*status);
            }
            Ok(NodePush::VolcanoLease {
                epoch,
                sent_ms,
                valid_ms,
            }) => {
                let until = Moment(sent_ms.saturating_add(valid_ms.min(VOLCANO_LEASE_MS)));
                let lease = Event::VolcanoLease { epoch, until };
                self.node.engine.post_surely(lease);
            }
            Ok(NodePush::Lava(lava)) => {
                post(&self.node.actors.keyspace, LearnLava(lava));
            }
            Ok(NodePush::SessionHeard(session)) => {
                post(&self.node.actors.keyspace, SessionHeard(session));
            }
            Ok(NodePush::Heartbeat(_)) => {}
            Err(error) => {
                self.node.refused(
                    connection.peer(),
                    &format!("a push cannot be read: {error}"),
                );
            }
        }
    }

    fn closed(&self, connection: &Connection, reason: &str) {
        if let Some((Role::Client(label), _)) = lock(&self.roles).remove(&connection.id()) {
            tracing::debug!(target: "magma::n", label, reason, "a client's connection has ended");
        }
    }
}

/// Whether somebody who says to be a member is one: of this network, this generation, and
/// this life.
pub fn check_member(node: &Node, identity: &Identity) -> Result<(), String> {
    check_version(identity.version)?;
    let lava = node.lava();
    let nick = &identity.nick;
    if identity.network != lava.network {
        return Err(format!(
            "{nick} is of lava network {}, this one is {}",
            identity.network, lava.network
        ));
    }
    if identity.generation != lava.generation {
        return Err(format!(
            "{nick} is of generation {}, this network is of generation {}",
            identity.generation, lava.generation
        ));
    }
    match identity.volcano {
        // A member that we have not heard of yet comes with a newer lava than ours.
        Some(id) if lava.volcano(id).is_none() && identity.epoch <= lava.epoch => Err(format!(
            "{nick} (volcano {id}) is not a member of this lava network (any more): \
             it can join with an empty directory (-r)"
        )),
        Some(_) => node.starts.check(identity),
        None => Err(format!("{nick} does not say which volcano it is")),
    }
}
