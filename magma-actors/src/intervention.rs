//! What a person decides on the console about who belongs to the network: what it would do, and
//! doing it.

use std::sync::Arc;
use std::time::Duration;

use magma_core::agreement::Change;
use magma_core::ids::VolcanoId;
use magma_core::lava::{Lava, Volcano};

use crate::agreement::Undecided;
use crate::console::Intervention;
use crate::generation;
use crate::keyspace::{Decided, ProposeChange};
use crate::node::{Node, post};

/// How long a decision may take.
const DECISION: Duration = Duration::from_secs(10);

/// An intervention that can be done.
pub struct Plan {
    /// What it would do, in sentences.
    pub says: Vec<String>,
    does: Does,
}

enum Does {
    /// Changes of the lava, one after the other.
    Propose(Vec<Change>),
    /// The first lava of another generation.
    Begin(Box<Lava>),
}

/// What an intervention would do now; or why it cannot be done.
pub fn plan(node: &Node, what: &Intervention) -> Result<Plan, String> {
    let lava = node.lava();
    match what {
        Intervention::Evict(nick) => {
            let id = member(&lava, nick)?.id;
            let change = Change::Evict(id);
            lava.apply(&change).map_err(|why| why.to_string())?;
            let says = vec![
                format!(
                    "Nobody will wait for {nick}: the copies that it held are made anew on others."
                ),
                "If it comes back it is filled, and gets its slices back.".into(),
            ];
            Ok(Plan {
                says,
                does: Does::Propose(vec![change]),
            })
        }
        Intervention::Forget(nick) => {
            let id = member(&lava, nick)?.id;
            let change = Change::Forget(id);
            lava.apply(&change).map_err(|why| why.to_string())?;
            let says = vec![
                format!("{nick} will be no member any more: who holds its slices keeps them."),
                "Its directory becomes useless: it can only join again as an empty volcano.".into(),
            ];
            Ok(Plan {
                says,
                does: Does::Propose(vec![change]),
            })
        }
        Intervention::TakeOver => take_over(node, &lava),
        Intervention::Proceed => {
            if node.network_serves() {
                return Err("the network serves: who is dead is found out without you".into());
            }
            let missing = missing(node, &lava);
            if missing.is_empty() {
                return Err("everybody is there: `status` says what is waited for".into());
            }
            let next = lava.without(&missing).map_err(|why| why.to_string())?;
            let mut says = vec![format!(
                "The network starts without {}. Nothing acknowledged is lost.",
                nicks(&lava, &missing)
            )];
            for slice in &next.slices {
                if missing.contains(&slice.home) {
                    says.push(format!(
                        "{} stands in for {} as the owner of slice {}.",
                        lava.nick(slice.owner),
                        lava.nick(slice.home),
                        slice.id
                    ));
                }
            }
            Ok(Plan {
                says,
                does: Does::Propose(missing.into_iter().map(Change::Down).collect()),
            })
        }
    }
}

/// What a takeover would do now.
fn take_over(node: &Node, lava: &Lava) -> Result<Plan, String> {
    let next = generation::planned(node)?;
    let ids = |lava: &Lava| lava.volcanos.iter().map(|v| v.id).collect::<Vec<_>>();
    let gone: Vec<VolcanoId> = ids(lava)
        .into_iter()
        .filter(|id| next.volcano(*id).is_none())
        .collect();
    let mut says = vec![format!(
        "{} will go on as generation {} of lava network {}, without {}.",
        nicks(lava, &ids(&next)),
        next.generation,
        next.network,
        nicks(lava, &gone)
    )];
    for id in &gone {
        let coordinates = match lava.coordinator() == Some(*id) {
            true => ", which coordinated,",
            false => "",
        };
        says.push(match node.last_heard(*id) {
            Some(ago) => format!(
                "{}{coordinates} was last heard of {} ago.",
                lava.nick(*id),
                span(ago)
            ),
            None => format!(
                "{}{coordinates} was not heard of since this volcano was started, {} ago.",
                lava.nick(*id),
                span(node.age())
            ),
        });
    }
    says.push("Everything that was written since may be lost.".into());
    says.push(format!(
        "Make sure that {} does not run anywhere: a mount that reaches it alone would see another \
         truth. Its directory is refused from now on; with --rejoin it comes back as empty.",
        nicks(lava, &gone)
    ));
    Ok(Plan {
        says,
        does: Does::Begin(Box::new(next)),
    })
}

/// A span of time, for a person: rounded, so that it is the same a moment later.
fn span(time: Duration) -> String {
    let (count, unit) = match time.as_secs() {
        secs @ 0..120 => {
            return match secs {
                0..60 => "less than a minute".into(),
                _ => "a minute".into(),
            };
        }
        secs @ 120..7200 => (secs / 60, "minutes"),
        secs @ 7200..172_800 => (secs / 3600, "hours"),
        secs => (secs / 86_400, "days"),
    };
    format!("{count} {unit}")
}

/// Does what can be done; what has come of it.
pub async fn carry_out(node: Arc<Node>, what: Intervention, by: String) -> Result<String, String> {
    // The network may have changed since it was explained.
    let plan = plan(&node, &what)?;
    tracing::warn!(target: "magma::n", by, ?what, "asked for on the console");
    let changes = match plan.does {
        Does::Propose(changes) => changes,
        Does::Begin(next) => {
            let begun = generation::begin(&node, &next, true).await;
            begun.map_err(|why| why.to_string())?;
            return Ok(format!(
                "Done: this volcano starts anew, in generation {}.",
                next.generation
            ));
        }
    };
    let mut epoch = node.lava().epoch;
    for change in changes {
        let lava = propose(&node, change)
            .await
            .map_err(|why| why.to_string())?;
        epoch = lava.epoch;
    }
    Ok(format!(
        "Done, in epoch {epoch}. `status` shows what goes on."
    ))
}

async fn propose(node: &Node, change: Change) -> Result<Arc<Lava>, Undecided> {
    let (told, hears) = tokio::sync::oneshot::channel();
    let decided: Decided = Box::new(move |result| {
        let _ = told.send(result);
    });
    let message = ProposeChange {
        epoch: None,
        change,
        decided,
    };
    if !post(&node.actors.keyspace, message) {
        return Err(Undecided::NotNow("this volcano has too much to do".into()));
    }
    match tokio::time::timeout(DECISION, hears).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(Undecided::Unknown(
            "nothing was heard of the decision: `status` shows whether it was made".into(),
        )),
    }
}

fn member<'a>(lava: &'a Lava, nick: &str) -> Result<&'a Volcano, String> {
    lava.volcano_called(nick).ok_or_else(|| {
        format!("there is no volcano {nick} in this lava network: `lava` lists them")
    })
}

/// Members of whom nothing is heard, and who are not known to be dead yet.
fn missing(node: &Node, lava: &Lava) -> Vec<VolcanoId> {
    let ids = lava.volcanos.iter().map(|volcano| volcano.id);
    ids.filter(|id| !lava.is_down(*id) && node.alive(*id).is_none())
        .collect()
}

fn nicks(lava: &Lava, ids: &[VolcanoId]) -> String {
    let nicks: Vec<String> = ids.iter().map(|id| lava.nick(*id)).collect();
    match nicks.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "nobody".into(),
    }
}
