//! Names that were looked up a moment ago.
//!
//! Unlink, rmdir and rename name the flare that they mean, so that nobody removes what
//! another has just put there. The kernel has looked the name up right before, but passes
//! only the name on; this table spares the second lookup. It is never an answer to anyone: the
//! owner refuses a flare that is not there any more, and the client looks again.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use magma_core::flare::{Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::limits::NAME_HINTS;

use super::locked;

type Place = (FlareRef, Name);

/// A bounded table of the last lookups; the oldest go first.
#[derive(Debug, Default)]
pub(crate) struct NameHints {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    found: HashMap<Place, (FlareRef, Kind)>,
    /// In order of arrival. A place that was taken out may still be listed here, and once
    /// more when it came back; so the list is bounded by itself.
    order: VecDeque<Place>,
}

impl NameHints {
    /// The name stood for this flare.
    pub(crate) fn note(&self, dir: FlareRef, name: &Name, child: FlareRef, kind: Kind) {
        let place = (dir, name.clone());
        let mut inner = locked(&self.inner);
        if inner.found.insert(place.clone(), (child, kind)).is_none() {
            inner.order.push_back(place);
            if inner.order.len() > NAME_HINTS
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.found.remove(&oldest);
            }
        }
    }

    /// What the name stood for, once: whoever uses the hint uses it up.
    pub(crate) fn take(&self, dir: FlareRef, name: &Name) -> Option<(FlareRef, Kind)> {
        locked(&self.inner).found.remove(&(dir, name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::Stamp;
    use magma_core::key::Key;

    fn flare(n: u64) -> FlareRef {
        FlareRef(Key::from_prefix(n), Stamp::default())
    }

    #[test]
    fn used_once() {
        let hints = NameHints::default();
        let name = Name::new(b"x").expect("a name");
        hints.note(flare(9), &name, flare(1), Kind::File);
        hints.note(flare(9), &name, flare(2), Kind::File);
        assert_eq!(hints.take(flare(9), &name), Some((flare(2), Kind::File)));
        assert_eq!(hints.take(flare(9), &name), None);
    }

    #[test]
    fn bounded() {
        let hints = NameHints::default();
        for n in 0..(NAME_HINTS as u64 * 3) {
            let name = Name::new(n.to_string().as_bytes()).expect("a name");
            hints.note(flare(9), &name, flare(n), Kind::File);
            if n % 2 == 0 {
                hints.take(flare(9), &name);
            }
        }
        let inner = locked(&hints.inner);
        assert!(inner.order.len() <= NAME_HINTS);
        assert!(inner.found.len() <= NAME_HINTS);
    }
}
