//! What `magma fsck` asks: of one volcano by its number, and repairs of the owners of keys.

use std::time::Duration;

use bytes::Bytes;
use magma_actors::transport::Frame;
use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Kind, Name};
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::key::Key;
use magma_core::limits::CLIENT_ATTEMPT_MS;
use magma_core::op::fsck::{FsckAsk, FsckRepair, FsckTold};
use magma_core::op::{Answer, Credentials, Op};
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::{Reply, Request};

use super::Client;
use super::request::{Ask, unexpected};
use super::retry::{Backoff, Patience};

impl Client {
    /// Asks one volcano for what it holds, whoever owns it; repeated within the client's
    /// patience while it is not reached or not ready.
    pub async fn fsck_ask(&self, volcano: VolcanoId, ask: FsckAsk) -> OpResult<FsckTold> {
        let patience = Patience::of(self.shared.patience);
        let mut backoff = Backoff::new();
        loop {
            let error = match self.fsck_once(volcano, &ask, &patience).await {
                Err(error) if error.is_transient() || error == OpError::Unreachable => error,
                done => return done,
            };
            if self.shared.is_closing() || patience.is_over() {
                return Err(error);
            }
            let refreshed = self.shared.refresh_lava();
            // When it takes too long, the next look at the patience ends the loop.
            let _ = tokio::time::timeout(patience.left(), refreshed).await;
            tokio::time::sleep(patience.at_most(backoff.pause())).await;
        }
    }

    async fn fsck_once(
        &self,
        volcano: VolcanoId,
        ask: &FsckAsk,
        patience: &Patience,
    ) -> OpResult<FsckTold> {
        let shared = &self.shared;
        let lava = shared.routing.lava();
        let member = lava.volcanos.iter().find(|member| member.id == volcano);
        let addr = member.ok_or(OpError::Stale)?.info.flare_addr();
        let lost = |error: magma_actors::transport::TransportError| {
            tracing::debug!(%error, "fsck: no answer");
            OpError::Unreachable
        };
        let connection = shared.flare_connection(addr).await.map_err(lost)?;
        let lease = shared.take_slot(patience).await?;
        let request = Request {
            session: lease.session(),
            slot: lease.slot(),
            seq: lease.seq(),
            clock: shared.clock_tick(),
            epoch: shared.routing.epoch(),
            key: Key::MIN,
            hops: 0,
            cred: Credentials::root(),
            ops: vec![Op::FsckAsk(ask.clone())],
        };
        let frame = Frame {
            header: codec::encode(&request).map_err(|_| OpError::Io)?.into(),
            payload: Bytes::new(),
        };
        let limit = patience.at_most(Duration::from_millis(CLIENT_ATTEMPT_MS));
        let frame = connection.call(frame, limit).await.map_err(lost)?;
        let mut reply: Reply = codec::decode(&frame.header).map_err(|_| OpError::Io)?;
        shared.clock_receive(reply.clock);
        match reply.results.pop() {
            Some(Ok(Answer::Fsck(told))) => Ok(*told),
            Some(Ok(other)) => Err(unexpected(&other)),
            Some(Err(error)) => Err(error),
            None => Err(OpError::Io),
        }
    }

    /// Lets the owner of a key repair something, once.
    pub async fn fsck_repair(&self, key: Key, repair: FsckRepair) -> OpResult<()> {
        let ask = Ask::new(key, &Credentials::root(), Op::FsckRepair(repair));
        self.shared.ask(ask).await.map(|_| ())
    }

    /// What a name stands for by the entry itself; none when there is no such entry, or no
    /// such directory.
    pub async fn fsck_entry(
        &self,
        dir: FlareRef,
        name: &Name,
    ) -> OpResult<Option<(FlareRef, Kind)>> {
        let name = name.clone();
        let ask = Ask::new(
            dir.key(),
            &Credentials::root(),
            Op::LookupEntry { dir, name },
        );
        match self.shared.ask(ask).await {
            Ok(told) => match told.answer {
                Answer::Entry { child, kind, .. } => Ok(Some((child, kind))),
                other => Err(unexpected(&other)),
            },
            Err(OpError::NotFound | OpError::Stale | OpError::NotDirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a newer lava.
    pub async fn refresh(&self) {
        self.shared.refresh_lava().await;
    }
}
