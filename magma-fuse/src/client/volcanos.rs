//! What the volcanos of a network say of themselves, for tools.
//!
//! No session is opened: that takes somebody who leads the agreement, and a network that is not well is the one
//! that a person asks about.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use magma_actors::runtime_thread::RuntimeThread;
use magma_actors::transport::Protocol;
use magma_core::lava::Lava;
use magma_core::wire::node_protocol::VolcanoStatus;

use super::node_port::NodePort;
use super::peers::Peers;
use super::service::{ClientLink, NodeService};
use super::{ClientConfig, ClientError, THREAD};

/// How long a volcano may take to say how it is. One that needs longer is not well.
const LIMIT: Duration = Duration::from_secs(2);

/// The lava as a volcano knows it, and what each member says of itself.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The lava of the first host that answered.
    pub lava: Lava,
    /// The answers in ring order, with the reason where one did not answer.
    pub statuses: Vec<Result<VolcanoStatus, String>>,
}

impl Survey {
    /// Asks the first host that answers for the lava, and then all members at once. For a
    /// caller that has no runtime.
    pub fn take_blocking(config: ClientConfig) -> Result<Survey, ClientError> {
        if config.hosts.is_empty() {
            return Err(ClientError::NoHostGiven);
        }
        let thread = RuntimeThread::start(THREAD)?;
        let runtime = thread.handle().clone();
        let survey = runtime.spawn(async move {
            let handle = tokio::runtime::Handle::current();
            let peers = Peers::new(Protocol::Node, config.secret.clone(), handle);
            // Nobody calls back a client that has no session.
            let service = Arc::new(NodeService(ClientLink::default()));
            let node = NodePort::new(peers, service, &config.label, &config.hosts)?;
            let survey = Survey::ask(&node, config.patience).await;
            node.close("the tool ends").await;
            survey
        });
        let ended = runtime.block_on(survey);
        ended.map_err(|error| ClientError::Thread(io::Error::other(error)))?
    }

    async fn ask(node: &NodePort, patience: Duration) -> Result<Survey, ClientError> {
        let lava = node.first_lava(patience).await?;
        let volcanos = lava.volcanos.iter();
        let asked = volcanos.map(|volcano| node.status(volcano.info.node_addr(), LIMIT));
        let statuses = join_all(asked).await;
        Ok(Survey { lava, statuses })
    }
}
