//! The node protocol as a client speaks it: sessions and the lava.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

use magma_actors::transport::{Frame, SharedService, TransportError};
use magma_core::ids::SessionId;
use magma_core::lava::Lava;
use magma_core::limits::{BACKOFF_MAX_MS, CLIENT_ATTEMPT_MS, CLIENT_DIAL_MS};
use magma_core::wire::PROTOCOL_VERSION;
use magma_core::wire::codec::{self, CodecError};
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall, NodeHello, VolcanoStatus};

use super::ClientError;
use super::peers::Peers;
use super::retry::{Backoff, Patience};

/// How long nobody at all may answer before the first connect is given up.
const SILENCE: Duration = Duration::from_secs(6);
/// Volcanos that are told of the session at most, one after another.
const RENEW_ASKED_MAX: usize = 3;
/// Volcanos that are asked for the lava at most, one after another.
const LAVA_ASKED_MAX: usize = 8;
/// The next is asked when one has not answered within this.
const LAVA_HEDGE: Duration = Duration::from_millis(100);

/// The node ports of the volcanos.
pub(crate) struct NodePort {
    peers: Peers,
    service: SharedService,
    hello: Bytes,
    label: String,
    hosts: Vec<SocketAddr>,
}

/// Why a question of the node protocol has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// It did not get there, or the answer did not come back.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer makes no sense.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl NodePort {
    /// `hosts` are flare addresses, as a user gives them; their node ports are one above.
    pub(crate) fn new(
        peers: Peers,
        service: SharedService,
        label: &str,
        hosts: &[SocketAddr],
    ) -> Result<NodePort, ClientError> {
        let hello = codec::encode(&NodeHello::Client {
            version: PROTOCOL_VERSION,
            label: label.to_owned(),
        })?;
        Ok(NodePort {
            peers,
            service,
            hello: hello.into(),
            label: label.to_owned(),
            hosts: hosts.iter().filter_map(node_addr).collect(),
        })
    }

    async fn call(
        &self,
        addr: SocketAddr,
        question: &NodeCall,
        limit: Duration,
    ) -> Result<NodeAnswer, NodeError> {
        let peer = self
            .peers
            .get(addr, self.hello.clone(), self.service.clone())
            .await?;
        let frame = Frame {
            header: codec::encode(question)?.into(),
            payload: Bytes::new(),
        };
        let answer = peer.connection.call(frame, limit).await?;
        Ok(codec::decode(&answer.header)?)
    }

    /// The lava of the first host that answers, without a session: also a network that is not
    /// ready, or has lost its coordinator, can be asked so.
    pub(crate) async fn first_lava(&self, patience: Duration) -> Result<Lava, ClientError> {
        let patience = Patience::of(patience);
        let mut backoff = Backoff::new();
        loop {
            let mut silent = Vec::new();
            for &host in &self.hosts {
                let limit = Duration::from_millis(CLIENT_ATTEMPT_MS).min(patience.left());
                match self.call(host, &NodeCall::GetLava, limit).await {
                    Ok(NodeAnswer::Lava(lava)) => return Ok(*lava),
                    Ok(_) => silent.push((host, "an answer to another question".to_owned())),
                    Err(NodeError::Transport(TransportError::WrongKey { .. })) => {
                        return Err(ClientError::WrongKey { host });
                    }
                    Err(error) => silent.push((host, error.to_string())),
                }
            }
            if patience.is_over() {
                return Err(ClientError::no_host(silent));
            }
            let pause = backoff.pause().min(patience.left());
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }

    /// Asks a volcano what it says of itself.
    pub(crate) async fn status(
        &self,
        addr: SocketAddr,
        limit: Duration,
    ) -> Result<VolcanoStatus, String> {
        match timeout(limit, self.call(addr, &NodeCall::GetStatus, limit)).await {
            Ok(Ok(NodeAnswer::Status(status))) => Ok(*status),
            Ok(Ok(_)) => Err("an answer to another question".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {} s", limit.as_secs())),
        }
    }

    /// Opens a session at the first host that will have it. A volcano that asks for time
    /// gets all the patience; when nobody answers at all, a person wants to know soon.
    pub(crate) async fn open_session(
        &self,
        more_hosts: &[SocketAddr],
        patience: Duration,
    ) -> Result<(SessionId, Lava), ClientError> {
        let patience = Patience::of(patience);
        let silence = Patience::of(SILENCE);
        let mut backoff = Backoff::new();
        let question = NodeCall::OpenSession {
            label: self.label.clone(),
        };
        let mut hosts = self.hosts.clone();
        hosts.extend(
            more_hosts
                .iter()
                .copied()
                .filter(|a| !self.hosts.contains(a)),
        );
        loop {
            let mut not_now = None;
            let mut silent = Vec::new();
            let mut refused = None;
            for &host in &hosts {
                let limit = Duration::from_millis(CLIENT_ATTEMPT_MS).min(patience.left());
                match self.call(host, &question, limit).await {
                    Ok(NodeAnswer::Session(id, lava)) if lava.covers() => return Ok((id, *lava)),
                    Ok(NodeAnswer::Session(..)) => {
                        not_now = Some((host, "its topology is not whole yet".to_owned()));
                    }
                    Ok(NodeAnswer::NotNow(reason)) => not_now = Some((host, reason)),
                    Ok(NodeAnswer::Failed(reason)) => {
                        refused = Some(ClientError::Refused { host, reason });
                    }
                    Ok(_) => {
                        let reason = "an answer to another question".to_owned();
                        refused = Some(ClientError::Refused { host, reason });
                    }
                    Err(NodeError::Transport(TransportError::WrongKey { .. })) => {
                        refused = Some(ClientError::WrongKey { host });
                    }
                    Err(NodeError::Transport(TransportError::Refused { reason, .. })) => {
                        refused = Some(ClientError::Refused { host, reason });
                    }
                    Err(error) => silent.push((host, error.to_string())),
                }
                if patience.is_over() {
                    break;
                }
            }
            // Whoever asks for time may still say yes; a refusal only counts without.
            match (not_now, refused) {
                (Some((host, reason)), _) if patience.is_over() => {
                    return Err(ClientError::NotReady { host, reason });
                }
                (Some(_), _) => {}
                (None, Some(refused)) => return Err(refused),
                (None, None) if patience.is_over() || silence.is_over() => {
                    return Err(ClientError::no_host(silent));
                }
                (None, None) => {}
            }
            let pause = backoff.pause().min(patience.left());
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }

    /// Says that the session is there: to the coordinator, or to another volcano, which tells it.
    /// False when the session has ended.
    pub(crate) async fn renew_session(&self, known: &Lava, session: SessionId) -> bool {
        let coordinator = known.coordinator().and_then(|id| known.volcano(id));
        let coordinator = coordinator.map(|volcano| volcano.info.node_addr());
        let mut addrs = super::routing::node_addrs(known);
        addrs.sort_by_key(|addr| (Some(*addr) != coordinator, self.peers.open(*addr).is_none()));
        let limit = Duration::from_millis(CLIENT_DIAL_MS);
        let question = NodeCall::RenewSession {
            session,
            epoch: known.epoch,
        };
        for addr in addrs.into_iter().take(RENEW_ASKED_MAX) {
            match timeout(limit, self.call(addr, &question, limit)).await {
                Ok(Ok(NodeAnswer::Done)) => return true,
                Ok(Ok(NodeAnswer::SessionEnded)) => return false,
                Ok(answer) => tracing::debug!(%addr, ?answer, "the session was not renewed there"),
                Err(_) => tracing::debug!(%addr, "no answer to the session's renewal"),
            }
        }
        true
    }

    /// Asks one volcano after another for its lava: those with an open connection first.
    pub(crate) async fn lava(&self, known: &Lava) -> Option<Lava> {
        let mut addrs = super::routing::node_addrs(known);
        addrs.extend(self.hosts.iter().copied());
        addrs.dedup();
        addrs.sort_by_key(|addr| self.peers.open(*addr).is_none());
        let limit = Duration::from_millis(CLIENT_DIAL_MS);
        // Whoever is asked first may be dead without anybody knowing it yet.
        let ask = async |number: usize, addr: SocketAddr| {
            tokio::time::sleep(LAVA_HEDGE * number as u32).await;
            match self.call(addr, &NodeCall::GetLava, limit).await {
                Ok(NodeAnswer::Lava(lava)) => return Some(*lava),
                Ok(answer) => tracing::debug!(%addr, ?answer, "no lava there"),
                Err(error) => tracing::debug!(%addr, %error, "no lava there"),
            }
            None
        };
        let addrs = addrs.into_iter().take(LAVA_ASKED_MAX).enumerate();
        let mut asked: FuturesUnordered<_> = addrs.map(|(n, addr)| ask(n, addr)).collect();
        while let Some(answer) = asked.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Closes the connection to an address, if there is one.
    pub(crate) fn hang_up_on(&self, addr: SocketAddr, reason: &str) {
        self.peers.hang_up_on(addr, reason);
    }

    /// Ends a session: best effort, the network ends it by itself later.
    pub(crate) async fn end_session(&self, known: &Lava, session: SessionId) {
        let limit = Duration::from_millis(CLIENT_DIAL_MS);
        let mut addrs = super::routing::node_addrs(known);
        addrs.sort_by_key(|addr| self.peers.open(*addr).is_none());
        let mut backoff = Backoff::new();
        for addr in addrs.into_iter().take(3) {
            let question = NodeCall::EndSession(session);
            match timeout(limit, self.call(addr, &question, limit)).await {
                Ok(Ok(NodeAnswer::Done)) => return,
                Ok(answer) => tracing::debug!(%addr, ?answer, "the session was not ended there"),
                Err(_) => tracing::debug!(%addr, "no answer to the end of the session"),
            }
            tokio::time::sleep(backoff.pause().min(Duration::from_millis(BACKOFF_MAX_MS))).await;
        }
    }

    /// Forgets who is not a member any more.
    pub(crate) fn keep_members(&self, lava: &Lava) {
        let members = super::routing::node_addrs(lava);
        self.peers
            .keep(|addr| members.contains(&addr) || self.hosts.contains(&addr));
    }

    /// Closes all connections.
    pub(crate) async fn close(&self, reason: &str) {
        self.peers.close(reason).await;
    }
}

/// The node port that belongs to a flare port.
fn node_addr(flare: &SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(flare.ip(), flare.port().checked_add(1)?))
}
