//! What volcanos tell this client unasked.

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use magma_actors::transport::{Connection, Frame, Lane, Replier, Service};
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::ToClient;
use magma_core::wire::node_protocol::NodePush;

use super::{Shared, lease};

/// The client behind a service: empty until the session is open.
pub(crate) type ClientLink = Arc<OnceLock<Weak<Shared>>>;

fn client_of(link: &ClientLink) -> Option<Arc<Shared>> {
    link.get()?.upgrade()
}

/// The client's side of flare connections.
pub(crate) struct FlareService(pub(crate) ClientLink);

impl Service for FlareService {
    fn hello(&self, _from: SocketAddr, _hello: Bytes) -> Result<Bytes, String> {
        Err("this is a client".to_owned())
    }

    fn connected(&self, connection: &Connection, _hello: Bytes) {
        tracing::debug!(peer = %connection.peer(), "flare connection is up");
    }

    fn call(&self, connection: &Connection, _frame: Frame, _replier: Replier) {
        tracing::debug!(peer = %connection.peer(), "a question to a client was ignored");
    }

    fn push(&self, connection: &Connection, _lane: Lane, frame: Frame) {
        let Some(client) = client_of(&self.0) else {
            return;
        };
        match codec::decode(&frame.header) {
            Ok(ToClient::Recall { keys, upto }) => {
                let forgotten = client.cache.recalled(connection.id(), &keys, upto);
                let (connection, to_tell) = (connection.clone(), client.clone());
                let done = move || lease::give_back(&to_tell, &connection, keys, upto);
                // Of another connection: nothing is shown under it any more.
                let forgotten = forgotten.unwrap_or_default();
                client.cache_sink().forget(forgotten, Box::new(done));
            }
            Ok(ToClient::LavaChanged(epoch)) => client.lava_is_at(epoch),
            Ok(ToClient::LockGranted { wait, .. }) => client.locks.granted(wait),
            Ok(ToClient::LockDeadlock { wait }) => client.locks.deadlocked(wait),
            Ok(ToClient::LockProbe { probe, owner }) => client.lock_probe(probe, owner),
            Ok(ToClient::Claim) => {
                client.claim_locks(connection);
                client.claim_opens(connection);
            }
            Ok(ToClient::LockLost {
                flare,
                owner,
                range,
            }) => {
                tracing::error!(%flare, ?range, "a lock was lost: its owner was away for too long");
                client.locks.lost(flare, owner, range);
            }
            Err(error) => {
                tracing::warn!(peer = %connection.peer(), %error, "a message was not understood");
            }
        }
    }

    fn closed(&self, connection: &Connection, reason: &str) {
        tracing::debug!(peer = %connection.peer(), reason, "flare connection has ended");
        if let Some(client) = client_of(&self.0) {
            client.lost(connection);
        }
    }
}

/// The client's side of node connections.
pub(crate) struct NodeService(pub(crate) ClientLink);

impl Service for NodeService {
    fn hello(&self, _from: SocketAddr, _hello: Bytes) -> Result<Bytes, String> {
        Err("this is a client".to_owned())
    }

    fn connected(&self, connection: &Connection, _hello: Bytes) {
        tracing::debug!(peer = %connection.peer(), "node connection is up");
    }

    fn call(&self, connection: &Connection, _frame: Frame, _replier: Replier) {
        tracing::debug!(peer = %connection.peer(), "a question to a client was ignored");
    }

    fn push(&self, connection: &Connection, _lane: Lane, frame: Frame) {
        let Some(client) = client_of(&self.0) else {
            return;
        };
        match codec::decode(&frame.header) {
            Ok(NodePush::Lava(lava)) => client.take_lava(*lava),
            Ok(
                NodePush::Heartbeat(_) | NodePush::VolcanoLease { .. } | NodePush::SessionHeard(_),
            ) => {}
            Err(error) => {
                tracing::warn!(peer = %connection.peer(), %error, "a message was not understood");
            }
        }
    }

    fn closed(&self, connection: &Connection, reason: &str) {
        tracing::debug!(peer = %connection.peer(), reason, "node connection has ended");
    }
}
