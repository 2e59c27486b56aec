//! Where leases will live: what may be cached for how long, and what a recall does.
//!
//! Nothing is cached without a lease. Until the mount holds caches, a recall has nothing to
//! drop and is acknowledged at once.

use std::time::{Duration, Instant};

use magma_actors::transport::{Connection, Frame, Lane};
use magma_core::ids::FlareRef;
use magma_core::wire::codec;
use magma_core::wire::flare_protocol::{FromClient, Grant};

/// A lease as it came with a reply, and the moment from which its validity counts.
#[derive(Clone, Copy, Debug)]
pub struct HeldGrant {
    /// What the owner granted.
    pub grant: Grant,
    /// When the request was *sent*: the owner counts from receiving it, which is later.
    pub sent_at: Instant,
}

/// How long from now an answer may be shown again without asking. Nothing when no lease
/// came with it.
pub fn timeouts_for(grant: Option<&HeldGrant>, now: Instant) -> Duration {
    let Some(held) = grant else {
        return Duration::ZERO;
    };
    let valid = Duration::from_millis(u64::from(held.grant.valid_ms));
    valid.saturating_sub(now.saturating_duration_since(held.sent_at))
}

/// An owner takes leases back.
#[derive(Clone)]
pub struct Recall {
    /// The flares.
    pub flares: Vec<FlareRef>,
    /// Grants up to this one are void.
    pub upto: u64,
    connection: Connection,
}

impl Recall {
    pub(crate) fn new(flares: Vec<FlareRef>, upto: u64, connection: Connection) -> Recall {
        Recall {
            flares,
            upto,
            connection,
        }
    }

    /// Nothing that those leases covered is shown any more: tells the owner. Never waits.
    pub fn done(self) {
        let answer = FromClient::Recalled {
            flares: self.flares,
            upto: self.upto,
        };
        // If the answer cannot be sent the connection is as good as dead, and the owner
        // waits until the lease expires.
        match codec::encode(&answer) {
            Ok(header) => {
                let frame = Frame {
                    header: header.into(),
                    payload: Default::default(),
                };
                if let Err(error) = self.connection.push(Lane::Control, frame) {
                    tracing::debug!(%error, "a recall could not be acknowledged");
                }
            }
            Err(error) => tracing::warn!(%error, "a recall could not be acknowledged"),
        }
    }
}

/// What drops caches when leases are recalled.
pub trait RecallSink: Send + Sync {
    /// Drops what the recalled leases cover, then calls [`Recall::done`]: now, or later and
    /// from any thread. Runs on the client's runtime: never blocks.
    fn recall(&self, recall: Recall);
}

/// The sink of a client that caches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingCached;

impl RecallSink for NothingCached {
    fn recall(&self, recall: Recall) {
        recall.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_counts_from_sending() {
        let sent_at = Instant::now();
        assert_eq!(timeouts_for(None, sent_at), Duration::ZERO);
        let held = HeldGrant {
            grant: Grant {
                number: 1,
                valid_ms: 2_000,
            },
            sent_at,
        };
        let after = |ms| timeouts_for(Some(&held), sent_at + Duration::from_millis(ms));
        assert_eq!(after(0), Duration::from_millis(2_000));
        assert_eq!(after(1_500), Duration::from_millis(500));
        assert_eq!(after(3_000), Duration::ZERO);
    }
}
