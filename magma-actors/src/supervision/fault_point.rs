//! Ends or stops this process at a step of an operation, to show that the operation is done once and
//! as a whole all the same. Only in a process started with `MAGMA_FAULTS=1`.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use magma_core::engine::Event;
use magma_core::wire::peer::PeerMessage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A point in the work of the engine: `kill:after:StepInsert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPoint {
    signal: Signal,
    when: When,
    /// The name of an event, see [`names`].
    event: String,
}

/// On which side of the engine's work on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It has come, and nothing was done with it.
    Before,
    /// What it changes is committed, and nobody has heard of that.
    After,
}

/// What is no point, with what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a point is kill or stop, before or after, and an event: kill:after:StepInsert")]
pub struct NoPoint;

impl FromStr for FaultPoint {
    type Err = NoPoint;

    fn from_str(text: &str) -> Result<FaultPoint, NoPoint> {
        let mut words = text.split(':');
        let (signal, when, event) = (words.next(), words.next(), words.next());
        Ok(FaultPoint {
            signal: match signal {
                Some("kill") => Signal::SIGKILL,
                Some("stop") => Signal::SIGSTOP,
                _ => return Err(NoPoint),
            },
            when: match when {
                Some("before") => When::Before,
                Some("after") => When::After,
                _ => return Err(NoPoint),
            },
            event: match (event, words.next()) {
                (Some(event), None) if !event.is_empty() => event.to_owned(),
                _ => return Err(NoPoint),
            },
        })
    }
}

static ARMED: AtomicBool = AtomicBool::new(false);
static POINT: Mutex<Option<FaultPoint>> = Mutex::new(None);

/// Strikes once, when the point is reached; none takes it back.
pub fn arm(point: Option<FaultPoint>) {
    ARMED.store(point.is_some(), Ordering::Relaxed);
    *POINT.lock().unwrap_or_else(|broken| broken.into_inner()) = point;
}

/// What is armed, if one of these events is its.
pub fn due(events: &[Event]) -> Option<FaultPoint> {
    if !ARMED.load(Ordering::Relaxed) {
        return None;
    }
    let point = POINT.lock().unwrap_or_else(|broken| broken.into_inner());
    let is_it = |point: &&FaultPoint| events.iter().any(|event| names(event, &point.event));
    point.as_ref().filter(is_it).cloned()
}

impl FaultPoint {
    /// Strikes if this is its side. Does not return from `kill`, and from `stop` when somebody lets the
    /// process go on.
    pub fn reached(&self, when: When) {
        if self.when == when {
            arm(None);
            tracing::warn!(target: "magma::v", "a fault was injected: {} at {}", self.signal, self.event);
            let _ = kill(Pid::this(), self.signal);
        }
    }
}

/// Whether an event has a name: a request that of each of its operations (`Create`), a step and the answer
/// to it theirs (`StepInsert`, `DoneInsert`), other messages and events their own (`Ship`, `Tick`).
fn names(event: &Event, name: &str) -> bool {
    match event {
        Event::Request { request, .. } => request.ops.iter().any(|op| is_called(op, name)),
        Event::Peer { message, .. } => match &**message {
            PeerMessage::Step(step) => name
                .strip_prefix("Step")
                .is_some_and(|name| is_called(&step.body.name(), name)),
            PeerMessage::StepDone(done) => name
                .strip_prefix("Done")
                .is_some_and(|name| is_called(&done.step, name)),
            message => is_called(message, name),
        },
        event => is_called(event, name),
    }
}

/// Whether the variant of an enum has this name.
fn is_called(variant: &impl fmt::Debug, name: &str) -> bool {
    let text = format!("{variant:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    text[..end.unwrap_or(text.len())] == *name
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::VolcanoId;
    use magma_core::wire::peer::StepName;

    #[test]
    fn points_are_read() {
        let point: FaultPoint = "stop:before:StepInsert".parse().unwrap();
        assert_eq!(point.signal, Signal::SIGSTOP);
        assert_eq!(point.when, When::Before);
        assert_eq!(point.event, "StepInsert");
        for text in [
            "",
            "kill",
            "kill:after",
            "kill:after:",
            "kill:at:Ship",
            "end:after:Ship",
            "kill:after:Ship:1",
        ] {
            assert_eq!(text.parse::<FaultPoint>(), Err(NoPoint), "{text:?}");
        }
    }

    #[test]
    fn events_are_known_by_their_names() {
        assert!(is_called(&StepName::Insert, "Insert"));
        assert!(!is_called(&StepName::Insert, "Ins"));
        assert!(names(&Event::PeerUp(VolcanoId(1)), "PeerUp"));
        assert!(!names(&Event::Tick, "PeerUp"));
    }
}
