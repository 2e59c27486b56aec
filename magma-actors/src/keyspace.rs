//! KeyspaceActor: holds the lava and the agreement, and routes keys to UDP peers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Message;
use bytes::Bytes;
use magma_core::agreement::coordinator::CoordinatorLog;
use magma_core::agreement::sessions::SessionWatch;
use magma_core::agreement::volcanos::VolcanoWatch;
use magma_core::agreement::{Agreement, Change, ProposeError};
use magma_core::engine::Event;
use magma_core::error::OpError;
use magma_core::ids::{Epoch, SessionId, SliceId, VolcanoId};
use magma_core::lava::Lava;
use magma_core::limits::{ENGINE_QUEUE, VOLCANO_LEASE_MS};
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::{Reply, Request};
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall, NodePush};

use crate::flare::ReplyTo;
use crate::handover::HandOver;
use crate::node::{Node, lock, post};
use crate::node_proto::PeersChanged;
use crate::replica::FollowLava;
use crate::supervision::{Guarded, GuardedContext, Handle, Inner};
use crate::transport::{Frame, Lane};

/// Patience for an answer of another volcano to a proposal or a forwarded request.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Proposals that may wait for their turn.
const PROPOSALS_MAX: usize = 1024;

/// Who hears what became of a proposal: the lava that it led to, or why not.
pub type Decided = Box<dyn FnOnce(Result<Arc<Lava>, String>) + Send>;

/// Propose a change of the lava: here if this volcano leads, else at the coordinator.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ProposeChange {
    /// The change.
    pub change: Change,
    /// Who hears of it.
    pub decided: Decided,
}

/// A proposal that another volcano made, with the epoch in which it was made.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ProposeHere {
    /// The epoch.
    pub epoch: Epoch,
    /// The change.
    pub change: Change,
    /// Who hears of it.
    pub answer: Box<dyn FnOnce(NodeAnswer) + Send>,
}

/// A lava that somebody else committed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LearnLava(pub Box<Lava>);

/// A session has said that it is there.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SessionHeard(pub SessionId);

/// A member has sent a heartbeat.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HeartbeatHeard {
    /// Which.
    pub from: VolcanoId,
    /// When it was sent, by the member's own clock.
    pub sent_ms: u64,
}

/// The death of a volcano was proposed, and is not so.
#[derive(Message)]
#[rtype(result = "()")]
struct Spared(VolcanoId);

/// Pass a request on to the owner of its key.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RouteForward {
    /// The owner.
    pub to: VolcanoId,
    /// The request.
    pub request: Box<Request>,
    /// Content to write.
    pub payload: Bytes,
    /// Where the reply goes.
    pub reply_to: ReplyTo,
}

/// A slice that is handed over has nothing under way any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandOverDrained {
    /// The slice.
    pub slice: SliceId,
    /// The new owner.
    pub to: VolcanoId,
}

/// The actor's state: proposals that wait for the log.
pub struct Keyspace {
    node: Arc<Node>,
    log: Arc<Mutex<CoordinatorLog>>,
    queue: VecDeque<Job>,
    busy: bool,
    sessions: SessionWatch,
    volcanos: VolcanoWatch,
    pub(crate) hand_over: HandOver,
}

enum Job {
    Propose(Epoch, Change, Box<dyn FnOnce(NodeAnswer) + Send>),
    Learn(Box<Lava>),
}

/// What the log made of a job.
enum Logged {
    Committed(Lava, Box<dyn FnOnce(NodeAnswer) + Send>),
    Refused(NodeAnswer, Box<dyn FnOnce(NodeAnswer) + Send>),
    Learned(Lava),
    Nothing,
}

impl Keyspace {
    /// The actor's state, over the log of the agreement.
    pub fn new(node: Arc<Node>, log: Arc<Mutex<CoordinatorLog>>) -> Keyspace {
        let hand_over = HandOver::new(node.clone());
        Keyspace {
            node,
            log,
            queue: VecDeque::new(),
            busy: false,
            sessions: SessionWatch::default(),
            volcanos: VolcanoWatch::default(),
            hand_over,
        }
    }

    fn enqueue(&mut self, job: Job, ctx: &mut GuardedContext<Self>) {
        if self.queue.len() >= PROPOSALS_MAX {
            if let Job::Propose(_, _, answer) = job {
                answer(NodeAnswer::NotNow("too many changes wait".into()));
            }
            return;
        }
        self.queue.push_back(job);
        self.next(ctx);
    }

    /// Works on the log one job at a time, off the arbiter: a commit waits for the disk.
    fn next(&mut self, ctx: &mut GuardedContext<Self>) {
        if self.busy {
            return;
        }
        let Some(job) = self.queue.pop_front() else {
            return;
        };
        self.busy = true;
        let log = self.log.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut log = lock(&log);
            match job {
                Job::Propose(epoch, change, answer) => match log.propose(epoch, &change) {
                    Ok(lava) => Logged::Committed(lava, answer),
                    Err(ProposeError::Refused(why)) => {
                        Logged::Refused(NodeAnswer::Refused(why), answer)
                    }
                    Err(ProposeError::NotLeader) => {
                        let why = "this volcano is not the coordinator (any more)";
                        Logged::Refused(NodeAnswer::NotNow(why.into()), answer)
                    }
                    Err(error) => Logged::Refused(NodeAnswer::Failed(error.to_string()), answer),
                },
                Job::Learn(lava) => match log.learn(&lava) {
                    Ok(true) => Logged::Learned(*lava),
                    Ok(false) => Logged::Nothing,
                    Err(error) => {
                        tracing::error!(target: "magma::n", "a lava was not taken over: {error}");
                        Logged::Nothing
                    }
                },
            }
        });
        Guarded::spawn(ctx, work, |keyspace, logged, ctx| {
            keyspace.busy = false;
            match logged {
                Ok(Logged::Committed(lava, answer)) => {
                    let lava = Arc::new(lava);
                    keyspace.publish(lava.clone(), true, ctx);
                    answer(NodeAnswer::Lava(Box::new((*lava).clone())));
                }
                Ok(Logged::Refused(why, answer)) => answer(why),
                Ok(Logged::Learned(lava)) => keyspace.publish(Arc::new(lava), false, ctx),
                Ok(Logged::Nothing) => {}
                Err(error) => tracing::error!(target: "magma::n", "the agreement's log: {error}"),
            }
            keyspace.next(ctx);
        });
    }

    /// A lava that is durable here goes to everyone who works by it.
    fn publish(&mut self, lava: Arc<Lava>, ours: bool, ctx: &mut GuardedContext<Self>) {
        if !self.node.publish(lava.clone()) {
            return;
        }
        tracing::info!(target: "magma::n", epoch = %lava.epoch, volcanos = lava.volcanos.len(), slices = lava.slices.len(), "the lava has changed");
        self.node
            .engine
            .post_surely(Event::Lava(Box::new((*lava).clone())));
        post(&self.node.actors.replica, FollowLava);
        post(&self.node.actors.node_proto, PeersChanged);
        if ours && let Ok(header) = codec::encode(&NodePush::Lava(Box::new((*lava).clone()))) {
            let frame = Frame {
                header: header.into(),
                payload: Bytes::new(),
            };
            for (_, connection) in self.node.node_links.all() {
                // Whoever misses it sees the epoch in the next heartbeat and asks.
                let _ = connection.push(Lane::Control, frame.clone());
            }
        }
        self.step_hand_over(ctx);
    }

    /// Proposes at the coordinator, wherever that is.
    fn propose_remotely(&self, change: Change, decided: Decided, ctx: &mut GuardedContext<Self>) {
        let lava = self.node.lava();
        let leader = lava
            .coordinator()
            .and_then(|id| self.node.node_links.get(id));
        let call = NodeCall::Propose {
            epoch: lava.epoch,
            change: Box::new(change),
        };
        let (Some(connection), Ok(header)) = (leader, codec::encode(&call)) else {
            let name = lava
                .coordinator()
                .map(|id| lava.nick(id))
                .unwrap_or_default();
            decided(Err(format!("the coordinator {name} cannot be reached")));
            return;
        };
        let frame = Frame {
            header: header.into(),
            payload: Bytes::new(),
        };
        let call = async move { connection.call(frame, CALL_LIMIT).await };
        Guarded::spawn(ctx, call, move |keyspace, answer, ctx| {
            let answer = answer
                .map_err(|error| error.to_string())
                .and_then(|frame| codec::decode(&frame.header).map_err(|e| e.to_string()));
            match answer {
                Ok(NodeAnswer::Lava(lava)) => {
                    // Durable here before anyone is told.
                    let ours = (*lava).clone();
                    keyspace.enqueue(Job::Learn(lava), ctx);
                    keyspace.when_learned(ours, decided, ctx);
                }
                Ok(answer) => decided(Err(refusal(answer))),
                Err(error) => decided(Err(error)),
            }
        });
    }

    fn when_learned(&mut self, lava: Lava, decided: Decided, ctx: &mut GuardedContext<Self>) {
        let node = self.node.clone();
        let epoch = lava.epoch;
        let learned = async move {
            let deadline = tokio::time::Instant::now() + CALL_LIMIT;
            while node.lava().epoch < epoch && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        Guarded::spawn(ctx, learned, move |_, (), _| decided(Ok(Arc::new(lava))));
    }

    /// Goes on with handing slices to a newcomer.
    pub(crate) fn step_hand_over(&mut self, ctx: &mut GuardedContext<Self>) {
        HandOver::step(self, ctx);
    }

    pub(crate) fn propose(
        &mut self,
        change: Change,
        decided: Decided,
        ctx: &mut GuardedContext<Self>,
    ) {
        let lava = self.node.lava();
        if lava.coordinator() == Some(self.node.id) {
            let answer = Box::new(move |answer| {
                decided(match answer {
                    NodeAnswer::Lava(lava) => Ok(Arc::from(lava)),
                    other => Err(refusal(other)),
                });
            });
            self.enqueue(Job::Propose(lava.epoch, change, answer), ctx);
        } else {
            self.propose_remotely(change, decided, ctx);
        }
    }
}

/// What a person is told of a proposal that came to nothing.
fn refusal(answer: NodeAnswer) -> String {
    match answer {
        NodeAnswer::Refused(why) => why.to_string(),
        NodeAnswer::NotNow(why) | NodeAnswer::Failed(why) => why,
        other => format!("an unexpected answer: {other:?}"),
    }
}

impl Inner for Keyspace {
    const NAME: &'static str = "KeyspaceActor";

    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        ctx.set_mailbox_capacity(ENGINE_QUEUE);
        Guarded::every(ctx, Duration::from_millis(200), |keyspace, ctx| {
            keyspace.catch_up(ctx);
            keyspace.step_hand_over(ctx);
            keyspace.end_silent_sessions(ctx);
            keyspace.watch_volcanos(ctx);
        });
    }
}

impl Keyspace {
    /// A member's heartbeat names a newer epoch than ours: its lava was missed.
    fn catch_up(&mut self, ctx: &mut GuardedContext<Self>) {
        let known = self.node.lava().epoch;
        let newer = self
            .node
            .statuses()
            .into_iter()
            .find(|(status, alive)| *alive && status.epoch > known)
            .and_then(|(status, _)| self.node.node_links.get(status.volcano));
        let (Some(connection), Ok(header)) = (newer, codec::encode(&NodeCall::GetLava)) else {
            return;
        };
        let frame = Frame {
            header: header.into(),
            payload: Bytes::new(),
        };
        let ask = async move { connection.call(frame, CALL_LIMIT).await };
        Guarded::spawn(ctx, ask, |keyspace, answer, ctx| {
            if let Ok(frame) = answer
                && let Ok(NodeAnswer::Lava(lava)) = codec::decode(&frame.header)
            {
                keyspace.enqueue(Job::Learn(lava), ctx);
            }
        });
    }
}

impl Keyspace {
    /// Whoever coordinates ends the sessions of mounts that nothing is heard of any more.
    fn end_silent_sessions(&mut self, ctx: &mut GuardedContext<Self>) {
        let lava = self.node.lava();
        let coordinates = lava.coordinator() == Some(self.node.id);
        if !coordinates || !self.node.is_ready() || self.node.is_stopping() {
            return self.sessions.rest();
        }
        let overdue = self.sessions.overdue(&lava, crate::engine::now().moment);
        // What was proposed last time is in the lava before anyone is proposed again.
        if self.busy || !self.queue.is_empty() {
            return;
        }
        for id in overdue {
            let label = lava.sessions.iter().find(|session| session.id == id);
            let label = label.map(|session| session.label.clone());
            tracing::warn!(target: "magma::n", session = %id, label, "nothing is heard of this mount: its session ends, with its locks and open files");
            let decided: Decided = Box::new(move |result| {
                if let Err(why) = result {
                    tracing::warn!(target: "magma::n", session = %id, why, "the session does not end yet");
                }
            });
            self.propose(Change::EndSession(id), decided, ctx);
        }
    }
}

impl Keyspace {
    /// Whoever leads finds out who is dead, and who is back; itself it needs nobody's lease.
    fn watch_volcanos(&mut self, ctx: &mut GuardedContext<Self>) {
        let lava = self.node.lava();
        let leads = lava.coordinator() == Some(self.node.id);
        if !leads || !self.node.is_ready() || self.node.is_stopping() {
            return self.volcanos.rest();
        }
        let now = crate::engine::now().moment;
        self.node.engine.post_surely(Event::VolcanoLease {
            epoch: lava.epoch,
            until: now.plus_ms(VOLCANO_LEASE_MS),
        });
        let verdicts = self.volcanos.verdicts(&lava, self.node.id, now);
        if self.busy || !self.queue.is_empty() {
            return;
        }
        for change in verdicts {
            let spared = match &change {
                Change::Down(id) => {
                    tracing::warn!(target: "magma::n", volcano = %lava.nick(*id), "nothing is heard of this volcano: others take over what it owns");
                    Some(*id)
                }
                Change::Up(id) => {
                    tracing::info!(target: "magma::n", volcano = %lava.nick(*id), "the volcano is back");
                    None
                }
                _ => None,
            };
            let node = self.node.clone();
            let decided: Decided = Box::new(move |result| {
                if let Err(why) = result {
                    tracing::warn!(target: "magma::n", why, "the change of the lava is not decided yet");
                    spared.map(|id| post(&node.actors.keyspace, Spared(id)));
                }
            });
            self.propose(change, decided, ctx);
        }
    }

    fn lease(&self, to: VolcanoId, epoch: Epoch, sent_ms: u64, valid_ms: u64) {
        let lease = NodePush::VolcanoLease {
            epoch,
            sent_ms,
            valid_ms,
        };
        if let (Some(link), Ok(header)) = (self.node.node_links.get(to), codec::encode(&lease)) {
            let frame = Frame {
                header: header.into(),
                payload: Bytes::new(),
            };
            // One that is lost is followed by another.
            let _ = link.push(Lane::Control, frame);
        }
    }
}

impl Handle<HeartbeatHeard> for Keyspace {
    fn handle(&mut self, message: HeartbeatHeard, _: &mut GuardedContext<Self>) {
        let lava = self.node.lava();
        let now = crate::engine::now().moment;
        if let Some(valid_ms) = self.volcanos.heard(&lava, message.from, now) {
            self.lease(message.from, lava.epoch, message.sent_ms, valid_ms);
        }
    }
}

impl Handle<Spared> for Keyspace {
    fn handle(&mut self, message: Spared, _: &mut GuardedContext<Self>) {
        self.volcanos.spared(message.0);
    }
}

impl Handle<SessionHeard> for Keyspace {
    fn handle(&mut self, message: SessionHeard, _: &mut GuardedContext<Self>) {
        self.sessions.heard(message.0, crate::engine::now().moment);
    }
}

impl Handle<ProposeChange> for Keyspace {
    fn handle(&mut self, message: ProposeChange, ctx: &mut GuardedContext<Self>) {
        self.propose(message.change, message.decided, ctx);
    }
}

impl Handle<ProposeHere> for Keyspace {
    fn handle(&mut self, message: ProposeHere, ctx: &mut GuardedContext<Self>) {
        self.enqueue(
            Job::Propose(message.epoch, message.change, message.answer),
            ctx,
        );
    }
}

impl Handle<LearnLava> for Keyspace {
    fn handle(&mut self, message: LearnLava, ctx: &mut GuardedContext<Self>) {
        self.enqueue(Job::Learn(message.0), ctx);
    }
}

impl Handle<HandOverDrained> for Keyspace {
    fn handle(&mut self, message: HandOverDrained, ctx: &mut GuardedContext<Self>) {
        HandOver::drained(self, message.slice, message.to, ctx);
    }
}

impl Handle<RouteForward> for Keyspace {
    fn handle(&mut self, message: RouteForward, _: &mut GuardedContext<Self>) {
        let RouteForward {
            to,
            request,
            payload,
            reply_to,
        } = message;
        let Some(connection) = self.node.flare_links.get(to) else {
            return reply_to.fail(&self.node, OpError::TryAgain);
        };
        let header = match codec::encode(&request) {
            Ok(header) => header.into(),
            Err(_) => return reply_to.fail(&self.node, OpError::ArgumentTooBig),
        };
        let node = self.node.clone();
        let done = Box::new(move |answer: Result<Frame, _>| {
            let answer = answer.ok().and_then(|frame| {
                let reply: Reply = codec::decode(&frame.header).ok()?;
                Some((reply, frame.payload))
            });
            match answer {
                Some((mut reply, payload)) => {
                    reply.topology_changed = true;
                    // A lease binds the owner to whoever asked it directly.
                    reply.lease = None;
                    reply_to.send(reply, payload);
                }
                None => reply_to.fail(&node, OpError::TryAgain),
            }
        });
        connection.call_with(Frame { header, payload }, CALL_LIMIT, done);
    }
}
