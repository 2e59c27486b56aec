//! Making room for a newcomer: cut a slice, fill the copy, hand the upper part over. And giving
//! back what was held for a volcano that was dead.
//!
//! The rule needs no memory: a volcano whose next one in the ring owns nothing gives it the
//! upper part of a slice. So a crash at any point just begins again, and a join is nothing
//! but a new member of the ring. The copy is filled by the owner's housekeeping, which puts a
//! copy of each of our slices on the next volcano anyway.

use std::sync::Arc;

use magma_core::agreement::Change;
use magma_core::engine::Event;
use magma_core::ids::{SliceId, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::{choose_cut, cut_off, home_coming, may_follow, newcomer_after, spare_slice};
use magma_core::store::View;

use crate::agreement::Undecided;
use crate::keyspace::Keyspace;
use crate::node::Node;
use crate::supervision::{Guarded, GuardedContext};

/// How far a hand-over has come.
pub(crate) struct HandOver {
    node: Arc<Node>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing to do, as far as we know.
    Idle,
    /// A question or a proposal is under way.
    Busy,
    /// The slice is cut off; its copy on the newcomer is being filled.
    Filling(SliceId, VolcanoId),
    /// The engine is finishing what is under way in the slice.
    Draining(SliceId, VolcanoId),
}

impl HandOver {
    pub(crate) fn new(node: Arc<Node>) -> HandOver {
        HandOver {
            node,
            stage: Stage::Idle,
        }
    }

    /// Does what can be done next.
    pub(crate) fn step(keyspace: &mut Keyspace, ctx: &mut GuardedContext<Keyspace>) {
        let node = keyspace.hand_over.node.clone();
        if !node.is_ready() || node.is_stopping() {
            return;
        }
        let lava = node.lava();
        match keyspace.hand_over.stage {
            Stage::Busy => {}
            Stage::Draining(slice, to) => {
                let arrived = lava.slice(slice).is_some_and(|s| s.owner == to);
                if !arrived && !may_follow(&lava, node.id, slice, to) {
                    tracing::info!(target: "magma::n", %slice, to = %lava.nick(to), "the slice cannot be handed over any more");
                    keyspace.hand_over.stage = Stage::Idle;
                    node.engine.post_surely(Event::Resume { slice });
                }
            }
            Stage::Filling(slice, to) => {
                let Some(cut_off) = cut_off(&lava, node.id, slice, to) else {
                    if home_coming(&lava, node.id) == Some((slice, to)) {
                        // What became of the last try is not known.
                        keyspace.hand_over.stage = Stage::Draining(slice, to);
                        node.engine.post_surely(Event::HandOver { slice, to });
                    } else {
                        keyspace.hand_over.stage = Stage::Idle;
                        node.engine.post_surely(Event::Resume { slice });
                    }
                    return;
                };
                if cut_off.in_sync().any(|copy| copy == to) {
                    keyspace.hand_over.stage = Stage::Draining(slice, to);
                    node.engine.post_surely(Event::HandOver { slice, to });
                }
            }
            Stage::Idle => {
                if let Some((slice, home)) = home_coming(&lava, node.id) {
                    tracing::info!(target: "magma::n", %slice, home = %lava.nick(home), "a slice goes back to the volcano that it belongs to");
                    keyspace.hand_over.stage = Stage::Draining(slice, home);
                    node.engine.post_surely(Event::HandOver { slice, to: home });
                } else if let Some(newcomer) = newcomer_after(&lava, node.id) {
                    if let Some(slice) = spare_slice(&lava, node.id) {
                        keyspace.hand_over.stage = Stage::Filling(slice, newcomer);
                        return;
                    }
                    keyspace.hand_over.stage = Stage::Busy;
                    Self::cut(keyspace, newcomer, ctx);
                }
            }
        }
    }

    fn cut(keyspace: &mut Keyspace, newcomer: VolcanoId, ctx: &mut GuardedContext<Keyspace>) {
        let node = keyspace.hand_over.node.clone();
        let me = node.id;
        let cut = async move {
            node.engine
                .ask(move |engine| {
                    let lava = engine.lava();
                    let ours = lava.owned_by(me).filter(|slice| slice.home == me);
                    let used = ours.map(|slice| {
                        let last = engine.store().last_key(slice.start, slice.end);
                        (slice, last.unwrap_or(Some(Key::MAX)))
                    });
                    choose_cut(used.collect::<Vec<_>>())
                })
                .await
                .flatten()
        };
        Guarded::spawn(ctx, cut, move |keyspace, cut, ctx| {
            let Some(cut) = cut else {
                keyspace.hand_over.stage = Stage::Idle;
                return;
            };
            let node = keyspace.hand_over.node.clone();
            tracing::info!(target: "magma::n", slice = %cut.slice, at = %cut.at, rule = ?cut.rule,
                newcomer = %node.lava().nick(newcomer), "cutting a slice for a newcomer");
            let (done, decided) = tokio::sync::oneshot::channel();
            let change = Change::Cut {
                slice: cut.slice,
                at: cut.at,
            };
            keyspace.propose(change, Box::new(move |result| drop(done.send(result))), ctx);
            Guarded::spawn(ctx, decided, move |keyspace, result, ctx| {
                let upper = match result {
                    Ok(Ok(lava)) => lava.slice_of(cut.at).map(|slice| slice.id),
                    Ok(Err(why)) => {
                        tracing::info!(target: "magma::n", "the cut is tried again: {why}");
                        None
                    }
                    Err(_) => None,
                };
                keyspace.hand_over.stage = match upper {
                    Some(slice) => Stage::Filling(slice, newcomer),
                    None => Stage::Idle,
                };
                HandOver::step(keyspace, ctx);
            });
        });
    }

    /// Nothing is under way in the slice any more: it gets its new owner.
    pub(crate) fn drained(
        keyspace: &mut Keyspace,
        slice: SliceId,
        to: VolcanoId,
        ctx: &mut GuardedContext<Keyspace>,
    ) {
        let node = keyspace.hand_over.node.clone();
        let expected = keyspace.hand_over.stage == Stage::Draining(slice, to);
        if !expected || !may_follow(&node.lava(), node.id, slice, to) {
            if expected {
                keyspace.hand_over.stage = Stage::Idle;
            }
            keyspace
                .hand_over
                .node
                .engine
                .post_surely(Event::Resume { slice });
            return;
        }
        let (done, decided) = tokio::sync::oneshot::channel();
        let change = Change::MoveOwner { slice, to };
        keyspace.propose(change, Box::new(move |result| drop(done.send(result))), ctx);
        Guarded::spawn(ctx, decided, move |keyspace, result, ctx| {
            let node = keyspace.hand_over.node.clone();
            match result {
                Ok(Ok(_)) => {
                    tracing::info!(target: "magma::n", %slice, newcomer = %node.lava().nick(to), "the newcomer owns a slice now");
                    keyspace.hand_over.stage = Stage::Idle;
                }
                // Only when it is known that the proposal failed does the slice serve again.
                Ok(Err(why)) => {
                    let moved = node.lava().slice(slice).is_none_or(|s| s.owner != node.id);
                    tracing::info!(target: "magma::n", %slice, moved, "the move is tried again: {why}");
                    let unknown = matches!(why, Undecided::Unknown(_));
                    if !moved && !unknown {
                        node.engine.post_surely(Event::Resume { slice });
                    }
                    keyspace.hand_over.stage = Stage::Filling(slice, to);
                }
                Err(_) => keyspace.hand_over.stage = Stage::Filling(slice, to),
            }
            HandOver::step(keyspace, ctx);
        });
    }
}
