//! Recalls: an owner takes leases back, and must not be answered before everything that was
//! shown under them is forgotten, here and in the kernel.

use magma_actors::transport::{Connection, Frame, Lane};
use magma_core::key::Key;
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::FromClient;

use super::Shared;
use super::cache::Forgotten;

/// What is called when nothing is shown any more.
pub type Done = Box<dyn FnOnce() + Send>;

/// Whoever else remembers what this client has told it: the kernel of a mount.
pub trait CacheSink: Send + Sync {
    /// Forgets flares, then calls `done`, now or later and from any thread. Runs on the client's
    /// runtime: never blocks.
    fn forget(&self, what: Vec<Forgotten>, done: Done);
}

/// Nobody else remembers anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyElse;

impl CacheSink for NobodyElse {
    fn forget(&self, _what: Vec<Forgotten>, done: Done) {
        done();
    }
}

/// Tells an owner that leases are given back, and what was opened under them. Never waits.
pub(crate) fn give_back(client: &Shared, connection: &Connection, keys: Vec<Key>, upto: u64) {
    let opens = client.opens.of(&keys);
    tell(connection, &FromClient::Recalled { keys, upto, opens });
}

/// Tells an owner something. Never waits.
pub(crate) fn tell(connection: &Connection, message: &FromClient) {
    // If it cannot be sent the connection is as good as dead: the next one says everything anew, and
    // leases that were not given back run out.
    match codec::encode(message) {
        Ok(header) => {
            let frame = Frame {
                header: header.into(),
                payload: Default::default(),
            };
            if let Err(error) = connection.push(Lane::Control, frame) {
                tracing::debug!(%error, "an owner could not be told");
            }
        }
        Err(error) => tracing::warn!(%error, "an owner could not be told"),
    }
}
