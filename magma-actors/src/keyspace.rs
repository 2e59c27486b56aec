//! KeyspaceActor: holds the lava and the agreement, and routes keys to UDP peers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Message;
use bytes::Bytes;
use magma_core::agreement::lava_log::LavaLog;
use magma_core::agreement::sessions::SessionWatch;
use magma_core::agreement::volcanos::VolcanoWatch;
use magma_core::agreement::{Change, Proposal};
use magma_core::engine::Event;
use magma_core::error::OpError;
use magma_core::ids::{Epoch, SessionId, SliceId, VolcanoId};
use magma_core::lava::Lava;
use magma_core::limits::ENGINE_QUEUE;
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::{Reply, Request};
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall, NodePush};

use crate::agreement::Undecided;
use crate::flare::ReplyTo;
use crate::handover::HandOver;
use crate::node::{Node, lock, post};
use crate::node_proto::PeersChanged;
use crate::replica::FollowLava;
use crate::supervision::{Guarded, GuardedContext, Handle, Inner};
use crate::transport::{Frame, Lane};

/// Patience for an answer of another volcano to a proposal or a forwarded request.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Lavas that may wait for the disk.
const LAVAS_MAX: usize = 64;

/// Who hears what became of a proposal: the lava that it led to, or why not.
pub type Decided = Box<dyn FnOnce(Result<Arc<Lava>, Undecided>) + Send>;

/// Propose a change of the lava: here if this volcano leads, else at the one that does.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ProposeChange {
    /// The lava by which it was found right; none where any will do.
    pub epoch: Option<Epoch>,
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

/// The actor's state: lavas that wait for the disk.
pub struct Keyspace {
    node: Arc<Node>,
    log: Arc<Mutex<LavaLog>>,
    queue: VecDeque<Box<Lava>>,
    busy: bool,
    /// What was proposed of sessions and volcanos is not decided yet.
    proposing: Arc<AtomicUsize>,
    sessions: SessionWatch,
    volcanos: VolcanoWatch,
    /// Who led the agreement last, before this volcano.
    led: Option<VolcanoId>,
    pub(crate) hand_over: HandOver,
}

impl Keyspace {
    /// The actor's state, over the log of the agreement.
    pub fn new(node: Arc<Node>, log: Arc<Mutex<LavaLog>>) -> Keyspace {
        let hand_over = HandOver::new(node.clone());
        let evict_after = node.evict_after.map(|after| after.as_millis() as u64);
        Keyspace {
            node,
            log,
            queue: VecDeque::new(),
            busy: false,
            proposing: Arc::default(),
            sessions: SessionWatch::default(),
            volcanos: VolcanoWatch::evicting(evict_after),
            led: None,
            hand_over,
        }
    }

    /// Keeps a lava before anybody works by it: one at a time, off the arbiter, as a commit waits
    /// for the disk.
    fn learn(&mut self, lava: Box<Lava>, ctx: &mut GuardedContext<Self>) {
        if self.queue.len() >= LAVAS_MAX {
            // A heartbeat names the epoch that we lack.
            return;
        }
        self.queue.push_back(lava);
        self.next(ctx);
    }

    fn next(&mut self, ctx: &mut GuardedContext<Self>) {
        if self.busy {
            return;
        }
        let known = self.node.lava().epoch;
        self.queue.retain(|lava| lava.epoch > known);
        let Some(lava) = self.queue.pop_front() else {
            return;
        };
        self.busy = true;
        let log = self.log.clone();
        let work = tokio::task::spawn_blocking(move || {
            let learned = lock(&log).learn(&lava);
            learned.map(|new| new.then_some(lava))
        });
        Guarded::spawn(ctx, work, |keyspace, learned, ctx| {
            keyspace.busy = false;
            match learned {
                Ok(Ok(Some(lava))) => keyspace.publish(Arc::from(lava), ctx),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::error!(target: "magma::n", "a lava was not taken over: {error}");
                }
                Err(error) => tracing::error!(target: "magma::n", "the log of lavas: {error}"),
            }
            keyspace.next(ctx);
        });
    }

    /// A lava that is durable here goes to everyone who works by it.
    fn publish(&mut self, lava: Arc<Lava>, ctx: &mut GuardedContext<Self>) {
        let before = self.node.lava();
        if !self.node.publish(lava.clone()) {
            return;
        }
        self.leave_the_dead(&before, &lava);
        tracing::info!(target: "magma::n", epoch = %lava.epoch, volcanos = lava.volcanos.len(), slices = lava.slices.len(), "the lava has changed");
        self.node
            .engine
            .post_surely(Event::Lava(Box::new((*lava).clone())));
        post(&self.node.actors.replica, FollowLava);
        post(&self.node.actors.node_proto, PeersChanged);
        if self.node.group.leads_for_sure()
            && let Ok(header) = codec::encode(&NodePush::Lava(Box::new((*lava).clone())))
        {
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

    /// Whoever waits for a volcano that was just found dead hears so now, and not when its
    /// connection has run out: requests that were passed on to it above all. It is dialled again.
    fn leave_the_dead(&self, before: &Lava, lava: &Lava) {
        let new = |id: &VolcanoId| lava.is_down(*id) && !before.is_down(*id);
        for id in lava.volcanos.iter().map(|volcano| volcano.id).filter(new) {
            if let Some(link) = self.node.flare_links.get(id) {
                link.close("it was found dead");
            }
        }
    }

    /// Proposes at the volcano that leads.
    fn propose_remotely(
        &self,
        leader: VolcanoId,
        (epoch, change): (Epoch, Change),
        decided: Decided,
        ctx: &mut GuardedContext<Self>,
    ) {
        let call = NodeCall::Propose {
            epoch,
            change: Box::new(change),
        };
        let link = self.node.node_links.get(leader);
        let (Some(connection), Ok(header)) = (link, codec::encode(&call)) else {
            let name = self.node.lava().nick(leader);
            let why = format!("{name}, which leads the agreement, cannot be reached");
            return decided(Err(Undecided::NotNow(why)));
        };
        let frame = Frame {
            header: header.into(),
            payload: Bytes::new(),
        };
        let call = async move { connection.call(frame, CALL_LIMIT).await };
        Guarded::spawn(ctx, call, move |keyspace, answer, ctx| {
            let unknown = |error: String| Undecided::Unknown(error);
            let answer = answer
                .map_err(|error| unknown(error.to_string()))
                .and_then(|frame| codec::decode(&frame.header).map_err(|e| unknown(e.to_string())));
            match answer {
                Ok(NodeAnswer::Lava(lava)) => keyspace.decided(lava, decided, ctx),
                Ok(NodeAnswer::Refused(why)) => decided(Err(Undecided::Refused(why))),
                Ok(NodeAnswer::NotNow(why)) => decided(Err(Undecided::NotNow(why))),
                Ok(NodeAnswer::Failed(why)) => decided(Err(unknown(why))),
                Ok(other) => decided(Err(unknown(format!("an unexpected answer: {other:?}")))),
                Err(error) => decided(Err(error)),
            }
        });
    }

    /// A proposal is in the lava: whoever made it hears of it when it is durable here.
    fn decided(&mut self, lava: Box<Lava>, decided: Decided, ctx: &mut GuardedContext<Self>) {
        let ours = (*lava).clone();
        self.learn(lava, ctx);
        self.when_learned(ours, decided, ctx);
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

    /// Proposes a change that is right in the lava as it is known here.
    pub(crate) fn propose(
        &mut self,
        change: Change,
        decided: Decided,
        ctx: &mut GuardedContext<Self>,
    ) {
        self.propose_in(self.node.lava().epoch, change, decided, ctx);
    }

    fn propose_in(
        &mut self,
        epoch: Epoch,
        change: Change,
        decided: Decided,
        ctx: &mut GuardedContext<Self>,
    ) {
        let group = self.node.group.clone();
        match group.leader() {
            Some(leader) if leader == self.node.id => {
                let change = Box::new(change);
                let proposal = Proposal::Change { epoch, change };
                let propose = async move { group.propose(proposal).await };
                Guarded::spawn(ctx, propose, move |keyspace, result, ctx| match result {
                    Ok(lava) => keyspace.decided(lava, decided, ctx),
                    Err(why) => decided(Err(why)),
                });
            }
            Some(leader) => self.propose_remotely(leader, (epoch, change), decided, ctx),
            None => {
                let why = "nobody leads the agreement at the moment";
                decided(Err(Undecided::NotNow(why.into())));
            }
        }
    }
}

/// A proposal that nobody has decided yet.
struct Proposing(Arc<AtomicUsize>);

impl Proposing {
    fn begin(count: &Arc<AtomicUsize>) -> Proposing {
        count.fetch_add(1, Ordering::AcqRel);
        Proposing(count.clone())
    }
}

impl Drop for Proposing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
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
                keyspace.learn(lava, ctx);
            }
        });
    }
}

impl Keyspace {
    /// Whoever coordinates ends the sessions of mounts that nothing is heard of any more.
    fn end_silent_sessions(&mut self, ctx: &mut GuardedContext<Self>) {
        let lava = self.node.lava();
        let leads = self.node.group.leads_for_sure();
        if !leads || !self.node.is_ready() || self.node.is_stopping() {
            return self.sessions.rest();
        }
        let overdue = self.sessions.overdue(&lava, crate::engine::now().moment);
        // What was proposed last time is in the lava before anyone is proposed again.
        if self.is_proposing() {
            return;
        }
        for id in overdue {
            let label = lava.sessions.iter().find(|session| session.id == id);
            let label = label.map(|session| session.label.clone());
            tracing::warn!(target: "magma::n", session = %id, label, "nothing is heard of this mount: its session ends, with its locks and open files");
            let proposing = Proposing::begin(&self.proposing);
            let decided: Decided = Box::new(move |result| {
                drop(proposing);
                if let Err(why) = result {
                    tracing::warn!(target: "magma::n", session = %id, %why, "the session does not end yet");
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
        let leads = self.node.group.leads_for_sure();
        // A network that is starting waits for all; one that serves does not wait for the dead, and
        // neither may a volcano that comes back to it.
        if !leads || !self.node.network_serves() || self.node.is_stopping() {
            self.led = self.node.group.leader().or(self.led);
            return self.volcanos.rest();
        }
        let now = crate::engine::now().moment;
        let led = self.led.filter(|led| *led != self.node.id);
        let verdicts = self.volcanos.verdicts(&lava, self.node.id, led, now);
        if self.is_proposing() {
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
                Change::Evict(id) => {
                    tracing::warn!(target: "magma::n", volcano = %lava.nick(*id), "dead for too long: its copies are made anew on others");
                    None
                }
                _ => None,
            };
            let node = self.node.clone();
            let proposing = Proposing::begin(&self.proposing);
            let decided: Decided = Box::new(move |result| {
                drop(proposing);
                if let Err(why) = &result {
                    tracing::warn!(target: "magma::n", %why, "the change of the lava is not decided yet");
                }
                // Of one whose outcome is not known the worst is assumed.
                if let (Err(Undecided::Refused(_)), Some(id)) = (&result, spared) {
                    post(&node.actors.keyspace, Spared(id));
                }
            });
            self.propose(change, decided, ctx);
        }
    }

    fn is_proposing(&self) -> bool {
        self.busy || !self.queue.is_empty() || self.proposing.load(Ordering::Acquire) > 0
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
        let lease = self.volcanos.heard(&lava, message.from, now);
        // A death that is decided must be known here before anyone gets a lease.
        let group = &self.node.group;
        let may = group.leads_for_sure() && lava.epoch >= group.epoch();
        if let Some(valid_ms) = lease.filter(|_| may) {
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
        let epoch = message.epoch.unwrap_or_else(|| self.node.lava().epoch);
        self.propose_in(epoch, message.change, message.decided, ctx);
    }
}

impl Handle<ProposeHere> for Keyspace {
    fn handle(&mut self, message: ProposeHere, ctx: &mut GuardedContext<Self>) {
        let ProposeHere {
            epoch,
            change,
            answer,
        } = message;
        if matches!(change, Change::Down(_)) && self.node.network_serves() {
            // Somebody wants to start without it. Here leases may have been given.
            let why = "the network serves: who is dead is found out by who leads";
            return answer(NodeAnswer::NotNow(why.into()));
        }
        let change = Box::new(change);
        let group = self.node.group.clone();
        let propose = async move { group.propose(Proposal::Change { epoch, change }).await };
        Guarded::spawn(ctx, propose, move |_, result, _| {
            answer(match result {
                Ok(lava) => NodeAnswer::Lava(lava),
                Err(Undecided::NotNow(why)) => NodeAnswer::NotNow(why),
                Err(Undecided::Refused(why)) => NodeAnswer::Refused(why),
                Err(Undecided::Unknown(why)) => NodeAnswer::Failed(why),
            });
        });
    }
}

impl Handle<LearnLava> for Keyspace {
    fn handle(&mut self, message: LearnLava, ctx: &mut GuardedContext<Self>) {
        self.learn(message.0, ctx);
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
