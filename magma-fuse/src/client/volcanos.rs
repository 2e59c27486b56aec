//! What each volcano of the ring says of itself, for tools.

use std::time::Duration;

use futures::future::join_all;
use magma_core::lava::Lava;
use magma_core::wire::node_protocol::VolcanoStatus;

use super::Client;

/// How long a volcano may take to say how it is. One that needs longer is not well.
const LIMIT: Duration = Duration::from_secs(2);

impl Client {
    /// Asks all volcanos of a lava at once; the answers are in ring order, with the reason
    /// where one does not answer.
    pub async fn statuses(&self, lava: &Lava) -> Vec<Result<VolcanoStatus, String>> {
        let asked = lava
            .volcanos
            .iter()
            .map(|volcano| self.shared.node.status(volcano.info.node_addr(), LIMIT));
        join_all(asked).await
    }
}
