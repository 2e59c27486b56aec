//! When a volcano may serve: the whole network is there, under the coordinator.
//!
//! After a restart nothing is served before every member is heard of and knows the same lava.
//! The coordinator decides that; the others follow its heartbeat, each once it reaches
//! everyone itself. Members that were found dead are not waited for; one of them that is back
//! serves, too: until it has its slices again it passes on what it is asked.

use magma_core::ids::VolcanoId;

use crate::node::Node;

/// What keeps a volcano from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// These members are not heard of, or not connected yet.
    For(Vec<String>),
    /// These know another lava than this volcano.
    ForLava(Vec<String>),
    /// The coordinator does not serve yet.
    ForCoordinator(String),
    /// Nobody leads the agreement.
    ForLeader,
    /// This volcano has just joined and owns no slice yet.
    ForSlice,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Waiting::For(names) => write!(f, "loading, waits for {}", names.join(", ")),
            Waiting::ForLava(names) => {
                write!(
                    f,
                    "loading, waits for {} to learn the lava",
                    names.join(", ")
                )
            }
            Waiting::ForCoordinator(name) => {
                write!(f, "loading, waits for the coordinator {name}")
            }
            Waiting::ForLeader => f.write_str("loading, waits for a leader of the agreement"),
            Waiting::ForSlice => f.write_str("joining, waits for its slice"),
        }
    }
}

/// Why a network that served does not at the moment: nobody leads it.
pub fn stands_still(node: &Node) -> String {
    let lava = node.lava();
    let voters = lava.voters().into_iter();
    let missing: Vec<String> = voters
        .filter(|id| node.alive(*id).is_none())
        .map(|id| lava.nick(id))
        .collect();
    match missing.as_slice() {
        [] => "stands still, waits for a leader of the agreement".into(),
        names => format!(
            "stands still, waits for {}, who voted (see `help takeover`)",
            names.join(", ")
        ),
    }
}

/// What this volcano is doing, in a few words: ending, ready, or what it waits for.
pub fn phase(node: &Node) -> String {
    if node.is_stopping() {
        return "ending".into();
    }
    if node.is_ready() {
        return match node.leader() {
            Some(_) => "ready".into(),
            None => stands_still(node),
        };
    }
    waiting(node).map_or_else(|| "ready".into(), |reason| reason.to_string())
}

/// The same with the size of the network and its epoch, where it serves: one line for whoever
/// watches over the process.
pub fn status_line(node: &Node) -> String {
    let phase = phase(node);
    if phase != "ready" {
        return phase;
    }
    let lava = node.lava();
    let volcanos = match lava.volcanos.len() {
        1 => "1 volcano".to_owned(),
        many => format!("{many} volcanos"),
    };
    format!("{phase}, {volcanos}, epoch {}", lava.epoch)
}

/// What this volcano waits for before it serves; none when it may.
pub fn waiting(node: &Node) -> Option<Waiting> {
    let lava = node.lava();
    let name = |id: VolcanoId| lava.nick(id);
    let others = || {
        lava.volcanos
            .iter()
            .map(|v| v.id)
            .filter(|id| *id != node.id && !lava.is_down(*id))
    };
    let missing: Vec<String> = others()
        .filter(|id| {
            node.alive(*id).is_none()
                || node.flare_links.get(*id).is_none()
                || node.node_links.get(*id).is_none()
        })
        .map(name)
        .collect();
    if !missing.is_empty() {
        return Some(Waiting::For(missing));
    }
    let behind: Vec<String> = others()
        .filter(|id| {
            node.alive(*id)
                .is_none_or(|status| status.epoch != lava.epoch)
        })
        .map(name)
        .collect();
    if !behind.is_empty() {
        return Some(Waiting::ForLava(behind));
    }
    if !node.group.is_led() {
        return Some(Waiting::ForLeader);
    }
    if let Some(coordinator) = lava.coordinator()
        && coordinator != node.id
        && node.alive(coordinator).is_none_or(|status| !status.ready)
    {
        return Some(Waiting::ForCoordinator(name(coordinator)));
    }
    let has_slice = |id| lava.slices.iter().any(|s| s.owner == id || s.home == id);
    if !has_slice(node.id) && !lava.is_arbiter(node.id) {
        return Some(Waiting::ForSlice);
    }
    None
}
