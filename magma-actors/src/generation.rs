//! Generations of a network, as one volcano sees them (decision 17): what is planned by a takeover
//! begins with the next start of this process's volcano; and when somebody of a later generation
//! turns this volcano away, it asks for that generation's lava, and follows it or ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::store::agreement_log::{AgreementLog, LogError};
use magma_core::wire::node_protocol::{NodeAnswer, NodeCall, NodeHello, NodeWelcome};
use magma_core::wire::{PROTOCOL_VERSION, codec};

use crate::node::Node;
use crate::transport::{Endpoint, Frame, SharedService};

/// Patience for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How a volcano's life goes on after it has ended in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// The process ends.
    Nothing,
    /// It starts anew, in the generation that was planned.
    NextGeneration,
    /// The process ends with a failure: the network has gone on without this volcano.
    Outlived(String),
}

/// Plans a generation, and ends this life of the volcano.
pub async fn begin(node: &Node, lava: &Lava, founder: bool) -> Result<(), LogError> {
    let (dir, planned): (PathBuf, Lava) = (node.dir.clone(), lava.clone());
    let kept = tokio::task::spawn_blocking(move || {
        AgreementLog::open(&dir)?.plan_generation(&planned, founder)
    });
    match kept.await {
        Ok(kept) => kept?,
        Err(error) => tracing::error!("the next generation could not be planned: {error}"),
    }
    tracing::warn!(target: "magma::n", generation = %lava.generation, epoch = %lava.epoch,
        "this volcano starts anew in the next generation of its network");
    node.end(Afterwards::NextGeneration);
    Ok(())
}

/// Somebody has refused this volcano: because the network has gone on without it? What is odd and
/// has no cure here is said if it is `new`.
pub async fn look(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    (addr, service): (SocketAddr, SharedService),
    new: bool,
) {
    let Some(lava) = ask(node, endpoint, addr, service).await else {
        return;
    };
    let ours = node.lava();
    let (theirs, known) = (lava.generation, ours.generation);
    let by = lava.volcanos.iter().find(|v| v.info.node_addr() == addr);
    let by = by.map_or_else(|| addr.to_string(), |volcano| volcano.info.nick.clone());
    if node.leader().is_some() {
        if new {
            tracing::warn!(target: "magma::n",
            "{by} is of generation {theirs} of this lava network, which goes on here as generation {known}: \
             there was a takeover while the others lived. End one of the two, and start it with --rejoin");
        }
        return;
    }
    let us = lava.volcano(node.id);
    if us.is_some_and(|us| us.info.nick == node.info.nick && !us.down) {
        if let Err(error) = begin(node, &lava, false).await {
            tracing::error!("generation {theirs} of the network cannot be followed: {error}");
        }
        return;
    }
    let why = format!(
        "{by} and the others have gone on without this volcano: lava network {} is of generation {theirs}, \
         {} of generation {known}. It can come back only as empty: start magmad with --rejoin, which keeps \
         what is in the directory aside",
        ours.network,
        node.dir.display()
    );
    node.end(Afterwards::Outlived(why));
}

/// The lava of a later generation of our network, if that is what is served there.
async fn ask(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    addr: SocketAddr,
    service: SharedService,
) -> Option<Lava> {
    let hello = NodeHello::Client {
        version: PROTOCOL_VERSION,
        label: format!("{}, of another generation", node.info.nick),
    };
    let hello = Bytes::from(codec::encode(&hello).ok()?);
    let (connection, welcome) = endpoint.connect(addr, hello, service).await.ok()?;
    let welcome: NodeWelcome = codec::decode(&welcome).ok()?;
    let ours = node.lava();
    let later =
        welcome.identity.network == ours.network && welcome.identity.generation > ours.generation;
    let lava = match (later, codec::encode(&NodeCall::GetLava)) {
        (true, Ok(header)) => {
            let frame = Frame {
                header: header.into(),
                payload: Bytes::new(),
            };
            connection.call(frame, ANSWER).await.ok()
        }
        _ => None,
    };
    connection.close("asked");
    let NodeAnswer::Lava(lava) = codec::decode(&lava?.header).ok()? else {
        return None;
    };
    let fits = lava.check().is_ok()
        && lava.network == ours.network
        && lava.generation > ours.generation
        && lava.epoch > ours.epoch;
    fits.then_some(*lava)
}

/// What a takeover by this volcano would lead to now, or why it cannot be done.
pub fn planned(node: &Node) -> Result<Lava, String> {
    let lava = node.lava();
    if let Some(leader) = node.leader() {
        return Err(format!(
            "{} leads the agreement: a takeover is for when nobody does. `proceed` starts without \
             those who are missing",
            lava.nick(leader)
        ));
    }
    let present: Vec<VolcanoId> = present(node, &lava);
    let voters = lava.voters();
    let there = voters.iter().filter(|id| present.contains(id)).count();
    if 2 * there > voters.len() {
        return Err(
            "a majority of those who vote is there: they choose a leader in a moment".into(),
        );
    }
    lava.taken_over(&present).map_err(|why| why.to_string())
}

/// Members that are heard of, and this one.
pub fn present(node: &Node, lava: &Lava) -> Vec<VolcanoId> {
    let ids = lava.volcanos.iter().map(|volcano| volcano.id);
    ids.filter(|id| node.alive(*id).is_some()).collect()
}
