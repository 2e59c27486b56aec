//! statfs: the space of all volcanos together.

use futures::future::join_all;
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::lava::Lava;
use magma_core::op::{Answer, Credentials, Op, Space};

use super::Client;
use super::request::{Ask, unexpected};

/// A volcano that does not answer within this time is left out of the sum.
const LIMIT: Duration = Duration::from_secs(3);

impl Client {
    /// The space that can really be written: the sum over all volcanos, divided by the copies
    /// that each byte takes.
    pub async fn statfs(&self) -> OpResult<Space> {
        let lava = self.lava();
        // A volcano is asked through a key that it owns; one without slices holds nothing.
        let asked = lava.volcanos.iter().filter_map(|volcano| {
            let key = lava.owned_by(volcano.id).next()?.start;
            let ask = Ask::new(key, &Credentials::root(), Op::StatFs);
            Some(self.shared.ask_within(ask, LIMIT))
        });
        let mut sum: Option<Space> = None;
        let mut failed = OpError::Unreachable;
        for told in join_all(asked).await {
            match told.map(|told| told.answer) {
                Ok(Answer::Space(space)) => sum = Some(add(sum.unwrap_or_default(), space)),
                Ok(other) => failed = unexpected(&other),
                Err(error) => failed = error,
            }
        }
        let sum = sum.ok_or(failed)?;
        Ok(usable(sum, copies(&lava)))
    }
}

/// How often each byte is stored: once at the owner, and on each copy. A small ring has
/// fewer volcanos than the network wants copies.
fn copies(lava: &Lava) -> u64 {
    let others = lava.volcanos.len().saturating_sub(1) as u64;
    1 + u64::from(lava.redundancy).min(others)
}

fn add(sum: Space, one: Space) -> Space {
    Space {
        total: sum.total.saturating_add(one.total),
        free: sum.free.saturating_add(one.free),
        inodes: sum.inodes.saturating_add(one.inodes),
        inodes_free: sum.inodes_free.saturating_add(one.inodes_free),
        flares: sum.flares.saturating_add(one.flares),
    }
}

/// Flares are counted at their owners only, so they are not divided.
fn usable(sum: Space, copies: u64) -> Space {
    Space {
        total: sum.total / copies,
        free: sum.free / copies,
        inodes: sum.inodes / copies,
        inodes_free: sum.inodes_free / copies,
        flares: sum.flares,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::routing::tests::two;

    #[test]
    fn what_can_be_written() {
        let lava = two();
        assert_eq!(copies(&lava), 2);
        let alone = Lava {
            volcanos: lava.volcanos[..1].to_vec(),
            ..lava
        };
        assert_eq!(copies(&alone), 1);
        let one = Space {
            total: 1000,
            free: 600,
            inodes: 50,
            inodes_free: 40,
            flares: 3,
        };
        let both = usable(add(one, one), 2);
        assert_eq!((both.total, both.free, both.flares), (1000, 600, 6));
    }
}
