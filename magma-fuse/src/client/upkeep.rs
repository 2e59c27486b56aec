//! What a client does unasked about its leases: keeps those valid that are in use, and gives
//! back what it has no room for.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use magma_actors::transport::Connection;
use magma_core::limits::{CLIENT_ATTEMPT_MS, CLIENT_CACHE_IDLE_MS, LEASE_MS, SESSION_RENEW_MS};
use magma_core::op::{Credentials, Op};

use super::request::Ask;
use super::retry::Patience;
use super::{Shared, lease, locked};

/// How often it is looked at.
const ROUND: Duration = Duration::from_millis(LEASE_MS / 5);

/// Pause between two attempts to reach a volcano again.
const REDIAL: Duration = Duration::from_millis(200);

/// Runs until the client is gone.
pub(crate) async fn run(client: Weak<Shared>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        if client.is_closing() {
            return;
        }
        client.give_back_evicted();
        client.keep_lock_connections();
        client.tell_opens();
        let idle = locked(&client.used).elapsed();
        if idle < Duration::from_millis(CLIENT_CACHE_IDLE_MS) {
            client.renew_leases();
        }
    }
}

/// Says that the session is there, until the client is gone. Where the network has ended it in the
/// meantime (the mount was cut off, or stopped) another is opened.
pub(crate) async fn keep_session(client: Weak<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_millis(SESSION_RENEW_MS)).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        if client.is_closing() {
            return;
        }
        let (session, lava) = (client.session().id(), client.routing.lava());
        if !client.node.renew_session(&lava, session).await {
            // One that is not opened now is opened by the next round, or the next request.
            let patience = Patience::of(Duration::from_millis(CLIENT_ATTEMPT_MS));
            let _ = client.renew_session(session, &patience).await;
        }
    }
}

impl Shared {
    /// A program has asked for something: what is remembered stays worth its renewal.
    pub(crate) fn touch(&self) {
        *locked(&self.used) = Instant::now();
    }

    /// Asks the owners whose leases run out soon for nothing, which extends them.
    fn renew_leases(self: &Arc<Self>) {
        let lava = self.routing.lava();
        for volcano in self.cache.due(ROUND * 3) {
            let Some(slice) = lava.owned_by(volcano).next() else {
                continue;
            };
            let ask = Ask::new(slice.start, &Credentials::root(), Op::Renew);
            let client = self.clone();
            self.runtime.spawn(async move {
                // An owner that does not answer lets its leases run out.
                let _ = client.ask_within(ask, ROUND).await;
            });
        }
    }

    /// A connection has ended. A volcano that starts again lets nobody change anything before
    /// all sessions have said that they hold no lease of it, or any lease has run out: so a
    /// new connection is made now, not when it is needed.
    pub(crate) fn lost(self: &Arc<Self>, connection: &Connection) {
        let addr = connection.peer();
        // One that was refused is not made again and again.
        let wanted = self.routing.volcano_at(addr).is_some() && self.flare.was_used(connection);
        if self.is_closing() || !wanted || !locked(&self.redialling).insert(addr) {
            return;
        }
        let client = Arc::downgrade(self);
        self.runtime.spawn(async move {
            Shared::redial(&client, addr).await;
            if let Some(client) = client.upgrade() {
                locked(&client.redialling).remove(&addr);
            }
        });
    }

    async fn redial(client: &Weak<Shared>, addr: SocketAddr) {
        for _ in 0..LEASE_MS / REDIAL.as_millis() as u64 {
            tokio::time::sleep(REDIAL).await;
            let Some(client) = client.upgrade() else {
                return;
            };
            if client.is_closing() || client.flare_connection(addr).await.is_ok() {
                return;
            }
        }
    }

    fn give_back_evicted(self: &Arc<Self>) {
        let lava = self.routing.lava();
        for (volcano, forgotten, keys, upto) in self.cache.take_evicted() {
            let addr = lava.volcano(volcano).map(|v| v.info.flare_addr());
            let connection = addr.and_then(|addr| self.flare.open(addr));
            let client = self.clone();
            let done = move || {
                if let Some(connection) = connection {
                    lease::give_back(&client, &connection, keys, upto);
                }
            };
            self.cache_sink().forget(forgotten, Box::new(done));
        }
    }
}
