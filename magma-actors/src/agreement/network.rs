//! The library's questions to other volcanos, and its answers, by the node protocol.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::wire::codec;
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, Raft, Snapshot, SnapshotMeta, Vote};
use serde::{Deserialize, Serialize};

use super::{Agreed, NodeLink};
use crate::transport::Frame;

/// Who cannot be reached is asked again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// A question of one part of the group to another.
#[derive(Serialize, Deserialize)]
enum Question {
    Append(AppendEntriesRequest<Agreed>),
    Vote(VoteRequest<u64>),
    Snapshot {
        vote: Vote<u64>,
        meta: SnapshotMeta<u64, EmptyNode>,
        lava: Box<Lava>,
    },
}

/// The answer to a [`Question`].
#[derive(Serialize, Deserialize)]
enum Told {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(SnapshotResponse<u64>),
}

/// Answers a question; not at all where the library cannot, or where it is too `young` to vote.
pub(super) async fn answer(raft: &Raft<Agreed>, question: &[u8], young: bool) -> Option<Vec<u8>> {
    let told = match codec::decode::<Question>(question) {
        Ok(Question::Append(request)) => raft.append_entries(request).await.ok().map(Told::Append),
        Ok(Question::Vote(_)) if young => None,
        Ok(Question::Vote(request)) => raft.vote(request).await.ok().map(Told::Vote),
        Ok(Question::Snapshot { vote, meta, lava }) => {
            if let Err(why) = lava.check() {
                tracing::warn!(target: "magma::n", "a lava of the agreement was refused: {why}");
                return None;
            }
            let snapshot = lava;
            let installed = raft.install_full_snapshot(vote, Snapshot { meta, snapshot });
            installed.await.ok().map(Told::Snapshot)
        }
        Err(error) => {
            tracing::warn!(target: "magma::n", "a question of the agreement makes no sense: {error}");
            None
        }
    };
    codec::encode(&told?).ok()
}

/// Makes a way to each volcano.
pub struct Network {
    link: NodeLink,
}

impl Network {
    /// By way of the node's connections.
    pub fn new(link: NodeLink) -> Network {
        Network { link }
    }
}

impl RaftNetworkFactory<Agreed> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Way {
        Way {
            link: self.link.clone(),
            to: VolcanoId(target),
        }
    }
}

/// The way to one volcano.
pub struct Way {
    link: NodeLink,
    to: VolcanoId,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("there is no connection to volcano {0}")]
    Down(VolcanoId),
    #[error("volcano {0} has not answered: {1}")]
    Silent(VolcanoId, String),
}

impl Way {
    async fn ask(&self, question: &Question, limit: Duration) -> Result<Told, Lost> {
        let silent = |why: String| Lost::Silent(self.to, why);
        let node = self.link.get().and_then(std::sync::Weak::upgrade);
        let connection = node
            .and_then(|node| node.node_links.get(self.to))
            .ok_or(Lost::Down(self.to))?;
        let question = codec::encode(question).map_err(|e| silent(e.to_string()))?;
        let call = codec::encode(&NodeCall::Agreement(question));
        let frame = Frame {
            header: call.map_err(|e| silent(e.to_string()))?.into(),
            payload: Bytes::new(),
        };
        let answer = connection.call(frame, limit).await;
        let answer = answer.map_err(|e| silent(e.to_string()))?;
        match codec::decode(&answer.header) {
            Ok(NodeAnswer::Agreement(told)) => {
                codec::decode(&told).map_err(|e| silent(e.to_string()))
            }
            Ok(other) => Err(silent(format!("{other:?}"))),
            Err(error) => Err(silent(error.to_string())),
        }
    }
}

fn rpc_error<E: std::error::Error>(lost: &Lost) -> RPCError<u64, EmptyNode, E> {
    match lost {
        Lost::Down(_) => Unreachable::new(lost).into(),
        Lost::Silent(..) => NetworkError::new(lost).into(),
    }
}

fn strange(to: VolcanoId) -> Lost {
    Lost::Silent(to, "an answer to another question".into())
}

impl RaftNetwork<Agreed> for Way {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Agreed>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        match self.ask(&Question::Append(rpc), option.hard_ttl()).await {
            Ok(Told::Append(told)) => Ok(told),
            Ok(_) => Err(rpc_error(&strange(self.to))),
            Err(lost) => Err(rpc_error(&lost)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        match self.ask(&Question::Vote(rpc), option.hard_ttl()).await {
            Ok(Told::Vote(told)) => Ok(told),
            Ok(_) => Err(rpc_error(&strange(self.to))),
            Err(lost) => Err(rpc_error(&lost)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Agreed>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Agreed, Fatal<u64>>> {
        let question = Question::Snapshot {
            vote,
            meta: snapshot.meta,
            lava: snapshot.snapshot,
        };
        let told = tokio::select! {
            told = self.ask(&question, option.hard_ttl()) => told,
            closed = cancel => return Err(closed.into()),
        };
        match told {
            Ok(Told::Snapshot(told)) => Ok(told),
            Ok(_) => Err(NetworkError::new(&strange(self.to)).into()),
            Err(lost @ Lost::Down(_)) => Err(Unreachable::new(&lost).into()),
            Err(lost) => Err(NetworkError::new(&lost).into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(AGAIN))
    }
}
