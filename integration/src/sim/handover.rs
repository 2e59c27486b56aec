//! Cuts a slice for a newcomer and moves it, as `magma_actors::handover` does.

use magma_core::agreement::Change;
use magma_core::engine::Event;
use magma_core::ids::{SliceId, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::{
    Lava, choose_cut, cut_off, home_coming, may_follow, newcomer_after, spare_slice,
};
use magma_core::store::View;

use super::volcano::Volcano;

/// How far the hand-over of one volcano has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing to do, as far as it knows.
    #[default]
    Idle,
    /// A proposal is under way.
    Busy,
    /// The slice is cut off; its copy on the newcomer is being filled.
    Filling(SliceId, VolcanoId),
    /// The engine is finishing what is under way in the slice.
    Draining(SliceId, VolcanoId),
}

/// What a volcano does next about a hand-over.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Proposes a change.
    Propose(Change),
    /// Tells its engine.
    Post(Event),
}

/// One look at the lava that the volcano knows.
pub fn step(stage: &mut Stage, volcano: &Volcano) -> Next {
    let Some(engine) = volcano.engine() else {
        return Next::Wait;
    };
    let (lava, me) = (&volcano.lava, volcano.id);
    match *stage {
        Stage::Busy => Next::Wait,
        Stage::Draining(slice, to) => match may_follow(lava, me, slice, to) {
            true => Next::Wait,
            false => {
                *stage = Stage::Idle;
                Next::Post(Event::Resume { slice })
            }
        },
        Stage::Filling(slice, to) => {
            let Some(cut_off) = cut_off(lava, me, slice, to) else {
                *stage = Stage::Idle;
                return Next::Wait;
            };
            if !cut_off.in_sync().any(|copy| copy == to) {
                return Next::Wait;
            }
            *stage = Stage::Draining(slice, to);
            Next::Post(Event::HandOver { slice, to })
        }
        Stage::Idle => {
            if let Some((slice, to)) = home_coming(lava, me) {
                *stage = Stage::Draining(slice, to);
                return Next::Post(Event::HandOver { slice, to });
            }
            let Some(newcomer) = newcomer_after(lava, me) else {
                return Next::Wait;
            };
            if let Some(slice) = spare_slice(lava, me) {
                *stage = Stage::Filling(slice, newcomer);
                return Next::Wait;
            }
            let used = lava.owned_by(me).filter(|s| s.home == me).map(|slice| {
                let last = engine.store().last_key(slice.start, slice.end);
                (slice, last.unwrap_or(Some(Key::MAX)))
            });
            let Some(cut) = choose_cut(used) else {
                return Next::Wait;
            };
            *stage = Stage::Busy;
            Next::Propose(Change::Cut {
                slice: cut.slice,
                at: cut.at,
            })
        }
    }
}

/// What follows when a proposal of the hand-over was decided.
pub fn decided(stage: &mut Stage, volcano: &Volcano, change: &Change, lava: Option<&Lava>) -> Next {
    let me = volcano.id;
    match (change, lava) {
        (Change::Cut { at, .. }, Some(lava)) => {
            *stage = match (lava.slice_of(*at), newcomer_after(lava, me)) {
                (Some(slice), Some(newcomer)) => Stage::Filling(slice.id, newcomer),
                _ => Stage::Idle,
            };
            Next::Wait
        }
        (Change::MoveOwner { slice, to }, None) => {
            *stage = Stage::Filling(*slice, *to);
            Next::Post(Event::Resume { slice: *slice })
        }
        _ => {
            *stage = Stage::Idle;
            Next::Wait
        }
    }
}
