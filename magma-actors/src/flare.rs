//! FlareActor: serves the flare protocol, feeds the engine, carries out its actions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::Message;
use bytes::Bytes;
use magma_core::engine::{Action, Event, IoDone, IoJob, Origin};
use magma_core::error::OpError;
use magma_core::ids::{SessionId, VolcanoId};
use magma_core::limits::ENGINE_QUEUE;
use magma_core::op::Answer;
use magma_core::store::content::{BLOCK, Checked, ContentFiles, WritebackRange};
use magma_core::wire::flare_protocol::{FlareHello, FlareWelcome, Reply, Request, ToClient};
use magma_core::wire::{PROTOCOL_VERSION, codec};

use crate::engine::Output;
use crate::keyspace::{HandOverDrained, ProposeChange, RouteForward};
use crate::links::Roles;
use crate::node::{Links, Node, lock, post};
use crate::replica::{FromPeer, ToPeer};
use crate::supervision::{GuardedContext, Handle, Inner};
use crate::transport::{Connection, Frame, Lane, Replier, Service};

/// Where a reply goes.
pub enum ReplyTo {
    /// To a peer, over the connection that the request came by.
    Peer(Replier),
    /// To this volcano itself (console).
    Here(tokio::sync::oneshot::Sender<(Reply, Bytes)>),
}

impl ReplyTo {
    /// Sends a reply.
    pub fn send(self, reply: Reply, payload: Bytes) {
        match self {
            ReplyTo::Peer(replier) => match codec::encode(&reply) {
                Ok(header) => replier.send(Frame {
                    header: header.into(),
                    payload,
                }),
                Err(error) => {
                    tracing::error!(target: "magma::f", "a reply cannot be sent: {error}")
                }
            },
            ReplyTo::Here(here) => drop(here.send((reply, payload))),
        }
    }

    /// Answers with an error for the first operation.
    pub fn fail(self, node: &Node, error: OpError) {
        let reply = Reply {
            clock: 0,
            epoch: node.lava().epoch,
            topology_changed: false,
            results: vec![Err(error)],
            lease: None,
        };
        self.send(reply, Bytes::new());
    }
}

/// A request of a client, a proxied one, or one of this volcano itself.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ClientRequest {
    /// The request.
    pub request: Box<Request>,
    /// Content to write.
    pub payload: Bytes,
    /// It came through another volcano.
    pub proxied: bool,
    /// Where the reply goes.
    pub reply_to: ReplyTo,
}

/// What the engine wants done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromEngine(pub Output);

/// The actor's state: requests in the engine.
pub struct Flare {
    node: Arc<Node>,
    content: ContentFiles,
    replies: HashMap<u64, ReplyTo>,
    next_token: u64,
    stopped: Arc<tokio::sync::Notify>,
}

impl Flare {
    /// The actor's state. Tokens of an earlier state are never given out again: its number
    /// begins where the clock is.
    pub fn new(node: Arc<Node>, content: ContentFiles, stopped: Arc<tokio::sync::Notify>) -> Flare {
        let next_token = node.internal_seq.fetch_add(1 << 32, Ordering::Relaxed);
        Flare {
            node,
            content,
            replies: HashMap::new(),
            next_token,
            stopped,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Reply {
                token,
                reply,
                payload,
            } => {
                if let Some(reply_to) = self.replies.remove(&token) {
                    reply_to.send(*reply, payload);
                }
            }
            Action::Forward {
                token,
                to,
                request,
                payload,
            } => {
                let Some(reply_to) = self.replies.remove(&token) else {
                    return;
                };
                let forward = RouteForward {
                    to,
                    request,
                    payload,
                    reply_to,
                };
                if !post(&self.node.actors.keyspace, forward) {
                    tracing::warn!(target: "magma::f", "a request could not be passed on");
                }
            }
            Action::Send {
                to,
                message,
                payload,
            } => {
                // What finds no room is sent again by the engine that waits for an answer.
                post(
                    &self.node.actors.replica,
                    ToPeer {
                        to,
                        message,
                        payload,
                    },
                );
            }
            Action::Tell { session, message } => self.tell(session, &message),
            Action::Io { job, io } => self.do_io(job, io),
            Action::Fetch { job, to, request } => self.fetch(job, to, request),
            Action::Propose { epoch, change } => {
                let node = self.node.clone();
                let proposal = change.clone();
                let decided = Box::new(move |result: Result<_, _>| {
                    let accepted = result.is_ok();
                    node.engine
                        .post_surely(Event::Proposed { change, accepted });
                });
                let propose = ProposeChange {
                    epoch: Some(epoch),
                    change: *proposal,
                    decided,
                };
                post(&self.node.actors.keyspace, propose);
            }
            Action::Drained { slice, to } => {
                post(&self.node.actors.keyspace, HandOverDrained { slice, to });
            }
        }
    }

    fn tell(&self, session: SessionId, message: &ToClient) {
        let connection = lock(&self.node.sessions).get(&session).cloned();
        if let (Some(connection), Ok(header)) = (connection, codec::encode(message)) {
            let frame = Frame {
                header: header.into(),
                payload: Bytes::new(),
            };
            if let Err(error) = connection.push(Lane::Control, frame) {
                tracing::debug!(target: "magma::f", %session, "a session could not be told: {error}");
            }
        }
    }

    /// Reads for a copy: at another owner, or here as a request of our own.
    fn fetch(&mut self, job: u64, to: VolcanoId, request: Box<Request>) {
        let (here, answered) = tokio::sync::oneshot::channel();
        let (payload, reply_to) = (Bytes::new(), ReplyTo::Here(here));
        if to == self.node.id {
            self.admit(ClientRequest {
                request,
                payload,
                proxied: true,
                reply_to,
            });
        } else {
            let forward = RouteForward {
                to,
                request,
                payload,
                reply_to,
            };
            post(&self.node.actors.keyspace, forward);
        }
        let node = self.node.clone();
        actix_rt::spawn(async move {
            let done = match answered.await {
                Ok((mut reply, payload)) => match reply.results.pop() {
                    Some(Ok(Answer::Data { len, .. })) if payload.len() >= len as usize => {
                        IoDone::Read(payload.slice(..len as usize))
                    }
                    Some(Err(error)) => IoDone::Failed(error),
                    Some(Ok(_)) | None => IoDone::Failed(OpError::Io),
                },
                Err(_) => IoDone::Failed(OpError::TryAgain),
            };
            node.engine.post_surely(Event::IoDone { job, done });
        });
    }

    fn do_io(&self, job: u64, io: IoJob) {
        let (node, content) = (self.node.clone(), self.content.clone());
        tokio::task::spawn_blocking(move || {
            let done = match run_io(&content, io) {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!("a disk job failed: {error}");
                    IoDone::Failed(error.op_error())
                }
            };
            node.engine.post_blocking(Event::IoDone { job, done });
        });
    }
}

fn run_io(content: &ContentFiles, io: IoJob) -> Result<IoDone, magma_core::store::StoreError> {
    Ok(match io {
        IoJob::Read { flare, offset, len } => {
            // The next piece of a sequential read comes from the disk while this one travels.
            let ahead = offset.saturating_add(len as u64);
            content.readahead(flare, ahead, 4 * len as u64)?;
            let Checked { data, bad } = content.read_checked(flare, 0, offset, len)?;
            if let (Some(first), Some(last)) = (bad.first(), bad.last()) {
                IoDone::Bad {
                    offset: first.saturating_mul(BLOCK),
                    len: ((last - first + 1).saturating_mul(BLOCK)) as usize,
                }
            } else if data.len() >= len {
                IoDone::Read(data)
            } else {
                let mut all = data.to_vec();
                all.resize(len, 0);
                IoDone::Read(all.into())
            }
        }
        IoJob::Sync { flare } => {
            content.sync(flare)?;
            IoDone::Synced
        }
        IoJob::WriteBack { flare, offset, len } => {
            content.start_writeback(WritebackRange {
                flare,
                segment: 0,
                offset,
                len,
            })?;
            IoDone::Started
        }
    })
}

impl Inner for Flare {
    const NAME: &'static str = "FlareActor";

    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        ctx.set_mailbox_capacity(ENGINE_QUEUE);
    }
}

impl Handle<ClientRequest> for Flare {
    fn handle(&mut self, message: ClientRequest, _: &mut GuardedContext<Self>) {
        self.admit(message);
    }
}

impl Flare {
    /// Gives a request to the engine.
    fn admit(&mut self, message: ClientRequest) {
        self.next_token += 1;
        let token = self.next_token;
        tracing::trace!(target: "magma::f", token, key = %message.request.key, ops = ?message.request.ops, "request");
        let origin = Origin {
            token,
            proxied: message.proxied,
        };
        let event = Event::Request {
            origin,
            request: message.request,
            payload: message.payload,
        };
        match self.node.engine.post(event) {
            Ok(()) => drop(self.replies.insert(token, message.reply_to)),
            Err(_) => message.reply_to.fail(&self.node, OpError::Busy),
        }
    }
}

impl Handle<FromEngine> for Flare {
    fn handle(&mut self, message: FromEngine, _: &mut GuardedContext<Self>) {
        match message.0 {
            Output::Actions(actions) => {
                for action in actions {
                    self.act(action);
                }
            }
            Output::Restarted => {
                for (_, reply_to) in self.replies.drain() {
                    reply_to.fail(&self.node, OpError::TryAgain);
                }
                // What peers have sent to the old engine is lost, and so is what it knew of
                // them. New connections, in both directions, make both sides say again what
                // they hold, as after a restart of the whole process.
                let links = [&self.node.flare_links, &self.node.flare_guests];
                for (_, connection) in links.into_iter().flat_map(Links::all) {
                    connection.close("the engine was built anew");
                }
                // Leases are forgotten too: a new hello says that the session holds none.
                for (_, connection) in lock(&self.node.sessions).drain() {
                    connection.close("the engine was built anew");
                }
            }
            Output::Stopped => self.stopped.notify_one(),
        }
    }
}

/// Who is at the other end of a flare connection.
#[derive(Clone, Copy)]
enum Role {
    Client(SessionId),
    Volcano(VolcanoId),
}

/// What the flare endpoint does with what arrives.
pub struct FlareService {
    node: Arc<Node>,
    roles: Roles<Role>,
}

impl FlareService {
    /// The service of a volcano.
    pub fn new(node: Arc<Node>) -> FlareService {
        FlareService {
            node,
            roles: Roles::default(),
        }
    }

    fn role(&self, connection: &Connection) -> Option<Role> {
        lock(&self.roles)
            .get(&connection.id())
            .map(|(role, _)| *role)
    }

    fn malformed(&self, connection: &Connection, what: &str, error: &dyn std::fmt::Display) {
        self.node.refused(
            connection.peer(),
            &format!("{what} cannot be read: {error}"),
        );
    }
}

impl Service for FlareService {
    fn hello(&self, from: SocketAddr, hello: Bytes) -> Result<Bytes, String> {
        let refused = |reason: String| {
            self.node.refused(from, &reason);
            reason
        };
        match codec::decode::<FlareHello>(&hello).map_err(|e| refused(e.to_string()))? {
            FlareHello::Client { version, session } => {
                check_version(version).map_err(refused)?;
                if session == SessionId(0) {
                    return Err(refused("session 0 is the volcanos' own".into()));
                }
            }
            FlareHello::Volcano(identity) => {
                crate::node_proto::check_member(&self.node, &identity).map_err(refused)?;
            }
        }
        let welcome = FlareWelcome {
            identity: self.node.identity(),
            clock: crate::engine::now().wall_nanos,
        };
        codec::encode(&welcome)
            .map(Bytes::from)
            .map_err(|error| error.to_string())
    }

    fn connected(&self, connection: &Connection, hello: Bytes) {
        let role = match codec::decode::<FlareHello>(&hello) {
            Ok(FlareHello::Client { session, .. }) => {
                lock(&self.node.sessions).insert(session, connection.clone());
                // Before any request that comes by this connection.
                self.node.engine.post_surely(Event::SessionHello(session));
                Role::Client(session)
            }
            Ok(FlareHello::Volcano(identity)) => match identity.volcano {
                Some(id) => {
                    self.node.flare_guests.up(id, connection.clone());
                    Role::Volcano(id)
                }
                None => return,
            },
            // On the side that dialled the hello is our own, and the welcome was read already.
            Err(_) => return,
        };
        lock(&self.roles).insert(connection.id(), (role, connection.clone()));
    }

    fn call(&self, connection: &Connection, frame: Frame, replier: Replier) {
        let request: Request = match codec::decode(&frame.header) {
            Ok(request) => request,
            Err(error) => return self.malformed(connection, "a request", &error),
        };
        let proxied = match self.role(connection) {
            Some(Role::Client(session)) if request.session == session => false,
            Some(Role::Volcano(_)) => true,
            Some(Role::Client(_)) => {
                // Whatever comes next would be refused, too.
                connection.close("a request of another session");
                return self.malformed(connection, "a request", &"it is of another session");
            }
            None => return,
        };
        let request = ClientRequest {
            request: Box::new(request),
            payload: frame.payload,
            proxied,
            reply_to: ReplyTo::Peer(replier),
        };
        // When the actor has too much to do the replier is dropped, which tells the caller
        // at once; it tries again.
        post(&self.node.actors.flare, request);
    }

    fn push(&self, connection: &Connection, _: Lane, frame: Frame) {
        match self.role(connection) {
            Some(Role::Volcano(from)) => match codec::decode(&frame.header) {
                Ok(message) => {
                    let message = FromPeer {
                        from,
                        message,
                        payload: frame.payload,
                    };
                    post(&self.node.actors.replica, message);
                }
                Err(error) => self.malformed(connection, "a message of a volcano", &error),
            },
            Some(Role::Client(session)) => match codec::decode(&frame.header) {
                Ok(message) => {
                    let event = Event::FromClient { session, message };
                    self.node.engine.post_surely(event);
                }
                Err(error) => self.malformed(connection, "a message of a client", &error),
            },
            None => {}
        }
    }

    fn closed(&self, connection: &Connection, reason: &str) {
        let role = lock(&self.roles).remove(&connection.id());
        if let Some((Role::Volcano(id), _)) = role {
            self.node.flare_guests.down(id, connection);
        }
        if let Some((Role::Client(session), _)) = role {
            tracing::debug!(target: "magma::f", %session, reason, "a session's connection has ended");
            let mut sessions = lock(&self.node.sessions);
            if sessions
                .get(&session)
                .is_some_and(|known| known.id() == connection.id())
            {
                sessions.remove(&session);
            }
        }
    }
}

/// Neighbours one version apart work together.
pub fn check_version(version: u32) -> Result<(), String> {
    if version.abs_diff(PROTOCOL_VERSION) <= 1 {
        return Ok(());
    }
    Err(format!(
        "it speaks protocol version {version}, this volcano {PROTOCOL_VERSION}"
    ))
}
