//! What whoever leads the group looks after: that the right volcanos vote, and that it leads for
//! sure. And that an election ends which two who survived would repeat for ever.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use magma_core::agreement::Proposal;
use magma_core::engine::Event;
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::limits::{ELECTION_MS, HEARTBEAT_MS, LEADER_SURE_MS};
use magma_core::time::Moment;
use openraft::{ChangeMembers, EmptyNode, Raft};
use rand::Rng;

use super::{Agreed, Group, NodeLink};

/// Between two looks at who votes.
const MEMBERS: Duration = Duration::from_millis(500);
/// How long a change of the members may take before it is looked at again.
const MEMBERS_LIMIT: Duration = Duration::from_secs(5);

/// Runs until the group is gone.
pub(super) async fn run(group: Weak<Group>, link: NodeLink, first: Lava) {
    tokio::spawn(members(group.clone()));
    let mut leaderless: Option<(Instant, Duration)> = None;
    let mut known = None;
    loop {
        tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
        let Some(group) = group
            .upgrade()
            .filter(|g| !g.closing.load(Ordering::Acquire))
        else {
            return;
        };
        let ended = group.raft.metrics().borrow().running_state.clone().err();
        if let Some(fatal) = ended {
            tracing::error!(
                "the agreement has ended here: this volcano does not vote before it is started again: {fatal}"
            );
            return;
        }
        let (leader, votes, alone) = {
            let metrics = group.raft.metrics();
            let metrics = metrics.borrow();
            let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
            let votes = voters.contains(&group.me);
            (metrics.current_leader, votes, votes && voters.len() == 1)
        };
        if leader.is_some() && leader != known {
            known = leader;
            let name = known.map(|id| group.lavas.borrow().nick(VolcanoId(id)));
            tracing::info!(target: "magma::n", volcano = name, "leads the agreement");
        }
        match leader {
            Some(leader) if leader == group.me => {
                leaderless = None;
                // Counted from before the question: a majority followed us then, or later.
                let asked = crate::engine::now().moment.0;
                let limit = Duration::from_millis(LEADER_SURE_MS);
                let sure = tokio::time::timeout(limit, group.raft.ensure_linearizable()).await;
                if matches!(sure, Ok(Ok(_))) {
                    let until = asked + LEADER_SURE_MS;
                    group.sure_until.fetch_max(until, Ordering::AcqRel);
                    lease_to_itself(&link, until);
                    if !group.founded.load(Ordering::Acquire) {
                        // The log of a new network begins with its lava.
                        let found = Proposal::Found(Box::new(first.clone()));
                        let _ = group.raft.client_write(found).await;
                    }
                }
            }
            Some(_) => leaderless = None,
            None if !votes => leaderless = None,
            None => {
                let patience = || {
                    let most = if alone { 1 } else { 3 * ELECTION_MS };
                    let drawn = rand::rng().random_range(0..most);
                    let least = if alone { 0 } else { 2 * ELECTION_MS };
                    Duration::from_millis(least + drawn)
                };
                let (since, wait) = *leaderless.get_or_insert_with(|| (Instant::now(), patience()));
                if since.elapsed() >= wait {
                    leaderless = None;
                    let _ = group.raft.trigger().elect().await;
                }
            }
        }
    }
}

/// Who leads needs nobody's lease. Its own ends when it is not sure any more, so that who leads after it
/// needs not wait for that.
fn lease_to_itself(link: &NodeLink, until: u64) {
    let node = link.get().and_then(Weak::upgrade);
    if let Some(node) = node.filter(|node| node.is_ready() && !node.is_stopping()) {
        let epoch = node.lava().epoch;
        let until = Moment(until);
        node.engine
            .post_surely(Event::VolcanoLease { epoch, until });
    }
}

/// The members follow the lava: everybody learns, a few vote.
async fn members(group: Weak<Group>) {
    loop {
        tokio::time::sleep(MEMBERS).await;
        let Some(group) = group
            .upgrade()
            .filter(|g| !g.closing.load(Ordering::Acquire))
        else {
            return;
        };
        if !group.leads_for_sure() {
            continue;
        }
        let raft = group.raft.clone();
        let lava = group.lavas.borrow().clone();
        let work = follow(&raft, group.me, &lava);
        drop(tokio::time::timeout(MEMBERS_LIMIT, work).await);
    }
}

async fn follow(raft: &Raft<Agreed>, me: u64, lava: &Lava) {
    let (known, voters) = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let config = &metrics.membership_config;
        let known: BTreeSet<u64> = config.nodes().map(|(id, _)| *id).collect();
        let voters: BTreeSet<u64> = config.voter_ids().collect();
        (known, voters)
    };
    let wanted: BTreeSet<u64> = lava.volcanos.iter().map(|volcano| volcano.id.0).collect();
    for id in wanted.difference(&known) {
        tracing::info!(target: "magma::n", volcano = %lava.nick(VolcanoId(*id)), "the agreement takes in a volcano");
        let _ = raft.add_learner(*id, EmptyNode {}, false).await;
    }
    let votes: BTreeSet<u64> = lava.voters().into_iter().map(|id| id.0).collect();
    if !votes.is_empty() && votes != voters && votes.is_subset(&known) {
        tracing::info!(target: "magma::n", ?votes, "other volcanos vote from now on");
        if let Err(error) = raft.change_membership(votes, true).await {
            tracing::info!(target: "magma::n", "who votes is tried again: {error}");
        }
    }
    let gone: BTreeSet<u64> = known.difference(&wanted).copied().collect();
    if !gone.is_empty() && !gone.contains(&me) && gone.is_disjoint(&voters) {
        let _ = raft
            .change_membership(ChangeMembers::RemoveNodes(gone), true)
            .await;
    }
}
