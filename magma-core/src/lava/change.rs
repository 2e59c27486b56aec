//! Legal transitions of the lava.
//!
//! [`Lava::apply`] is the only way from one epoch to the next. It is a pure function of the
//! lava and the entry, so that every volcano that applies the same log holds the same lava.

use crate::agreement::{Change, ChangeRefused};
use crate::ids::{Epoch, Generation, NetworkId, SessionId, SliceId, VolcanoId};
use crate::key::Key;
use crate::limits::{
    COPIES_MAX, REDUNDANCY_MAX, SESSION_LABEL_MAX, SESSIONS_MAX, SLICES_MAX, VOLCANOS_MAX,
};

use super::check::check_info;
use super::{CopyState, Lava, Session, Slice, Volcano, VolcanoInfo};

impl Change {
    /// Whether the change means something only in the epoch in which it was proposed: what it
    /// says of a slice may be wrong as soon as the lava has moved. Members and sessions come
    /// and go whatever the slices do.
    pub fn binds_epoch(&self) -> bool {
        match self {
            Change::Cut { .. }
            | Change::AddCopy { .. }
            | Change::CopyInSync { .. }
            | Change::RemoveCopy { .. }
            | Change::MoveOwner { .. }
            | Change::Yield { .. } => true,
            Change::Bootstrap { .. }
            | Change::Join { .. }
            | Change::Update(..)
            | Change::Down(_)
            | Change::Up(_)
            | Change::Evict(_)
            | Change::Forget(_)
            | Change::OpenSession { .. }
            | Change::EndSession(_) => false,
        }
    }
}

impl Lava {
    /// Whether this is the lava of a network: one that was never bootstrapped, nor learned
    /// from a member, has no volcanos.
    pub fn is_founded(&self) -> bool {
        !self.volcanos.is_empty()
    }

    /// The lava after a change, one epoch on; or why the change is not legal here.
    pub fn apply(&self, change: &Change) -> Result<Lava, ChangeRefused> {
        if !self.is_founded() && !matches!(change, Change::Bootstrap { .. }) {
            return Err(ChangeRefused::Impossible(
                "there is no network yet: bootstrap one (-b) or join one (-r)".into(),
            ));
        }
        let mut next = self.clone();
        next.epoch = Epoch(counter(self.epoch.0, "epochs")?.1);
        match change {
            Change::Bootstrap {
                network,
                volcano,
                redundancy,
            } => next.bootstrap(*network, volcano, *redundancy)?,
            Change::Join { volcano, after } => next.join(volcano, *after)?,
            Change::Update(id, info) => next.update(*id, info)?,
            Change::Down(id) => next.down(*id)?,
            Change::Up(id) => next.up(*id)?,
            Change::Evict(id) => next.evict(*id)?,
            Change::Forget(id) => next.forget(*id)?,
            Change::Cut { slice, at } => next.cut(*slice, *at)?,
            Change::AddCopy { slice, volcano } => next.add_copy(*slice, *volcano)?,
            Change::CopyInSync { slice, volcano } => next.copy_in_sync(*slice, *volcano)?,
            Change::RemoveCopy { slice, volcano } => next.remove_copy(*slice, *volcano)?,
            Change::MoveOwner { slice, to } => next.move_owner(*slice, *to)?,
            Change::Yield { slice, to } => next.yield_slice(*slice, *to)?,
            Change::OpenSession { label } => next.open_session(label)?,
            Change::EndSession(id) => next.end_session(*id)?,
        }
        Ok(next)
    }

    fn bootstrap(
        &mut self,
        network: NetworkId,
        info: &VolcanoInfo,
        redundancy: u8,
    ) -> Result<(), ChangeRefused> {
        if self.is_founded() {
            return Err(ChangeRefused::Impossible(format!(
                "the network {} is there already: start without -b",
                self.network
            )));
        }
        if redundancy > REDUNDANCY_MAX {
            return Err(ChangeRefused::Malformed(
                "the redundancy".into(),
                format!("{redundancy} copies are more than {REDUNDANCY_MAX}"),
            ));
        }
        check_info(info)?;
        if info.arbiter {
            return Err(ChangeRefused::Impossible(
                "an arbiter holds no keys: it cannot begin a network".into(),
            ));
        }
        // Numbers begin at 1, so that 0 never names anything: a default that slips into a
        // message is then an unknown volcano, slice or session, not the first one.
        let (first, second) = (1, 2);
        self.network = network;
        self.generation = Generation(1);
        self.redundancy = redundancy;
        self.next_volcano = second;
        self.next_slice = second;
        self.next_session = first;
        self.volcanos = vec![Volcano {
            id: VolcanoId(first),
            info: info.clone(),
            down: false,
            evicted: false,
        }];
        self.slices = vec![Slice {
            id: SliceId(first),
            start: Key::MIN,
            end: Key::MAX,
            owner: VolcanoId(first),
            home: VolcanoId(first),
            since: self.epoch,
            seized: false,
            copies: Vec::new(),
        }];
        self.sessions = Vec::new();
        Ok(())
    }

    fn join(&mut self, info: &VolcanoInfo, after: VolcanoId) -> Result<(), ChangeRefused> {
        check_info(info)?;
        // Who is evicted and joins anew, empty, takes its own place.
        let earlier = self.volcano_called(&info.nick).filter(|old| old.evicted);
        if let Some(earlier) = earlier.map(|old| old.id).filter(|id| *id != after) {
            self.forget(earlier)?;
        }
        self.check_free(info, None)?;
        if self.volcanos.len() >= VOLCANOS_MAX {
            return Err(ChangeRefused::Full("volcanos".into()));
        }
        let at = self.position_of(after)?;
        let (id, next) = counter(self.next_volcano, "volcano numbers")?;
        self.next_volcano = next;
        self.volcanos.insert(
            at + 1,
            Volcano {
                id: VolcanoId(id),
                info: info.clone(),
                down: false,
                evicted: false,
            },
        );
        Ok(())
    }

    fn update(&mut self, id: VolcanoId, info: &VolcanoInfo) -> Result<(), ChangeRefused> {
        check_info(info)?;
        self.check_free(info, Some(id))?;
        let at = self.position_of(id)?;
        if self.volcanos[at].info.arbiter != info.arbiter {
            return Err(ChangeRefused::Impossible(format!(
                "whether {} is an arbiter was decided when it joined",
                info.nick
            )));
        }
        self.volcanos[at].info = info.clone();
        Ok(())
    }

    fn cut(&mut self, id: SliceId, at: Key) -> Result<(), ChangeRefused> {
        if self.slices.len() >= SLICES_MAX {
            return Err(ChangeRefused::Full("slices".into()));
        }
        let (upper_id, next) = counter(self.next_slice, "slice numbers")?;
        let place = self.slice_place(id)?;
        let lower = &mut self.slices[place];
        let below = at.prev().filter(|_| lower.start < at && at <= lower.end);
        let Some(below) = below else {
            return Err(ChangeRefused::Impossible(format!(
                "slice {id} from {} to {} cannot be cut at {at}: no key would be left on one side",
                lower.start, lower.end
            )));
        };
        let upper = Slice {
            id: SliceId(upper_id),
            start: at,
            ..lower.clone()
        };
        lower.end = below;
        self.slices.insert(place + 1, upper);
        self.next_slice = next;
        Ok(())
    }

    fn add_copy(&mut self, id: SliceId, volcano: VolcanoId) -> Result<(), ChangeRefused> {
        self.position_of(volcano)?;
        self.refuse_down(volcano)?;
        if self.is_arbiter(volcano) {
            return Err(ChangeRefused::Impossible(format!(
                "{} is an arbiter: it holds no keys",
                self.nick(volcano)
            )));
        }
        let slice = self.slice_mut(id)?;
        if slice.owner == volcano {
            return Err(ChangeRefused::Impossible(format!(
                "volcano {volcano} owns slice {id}: it cannot be its own redundancy"
            )));
        }
        if slice.copy_on(volcano).is_some() {
            return Err(ChangeRefused::Impossible(format!(
                "volcano {volcano} is a copy of slice {id} already"
            )));
        }
        if slice.copies.len() >= COPIES_MAX {
            return Err(ChangeRefused::Full(format!("copies of slice {id}")));
        }
        slice.copies.push(CopyState {
            volcano,
            in_sync: false,
        });
        Ok(())
    }

    fn copy_in_sync(&mut self, id: SliceId, volcano: VolcanoId) -> Result<(), ChangeRefused> {
        self.refuse_down(volcano)?;
        let copy = self.copy_mut(id, volcano)?;
        if copy.in_sync {
            return Err(ChangeRefused::Impossible(format!(
                "the copy of slice {id} on volcano {volcano} is in sync already"
            )));
        }
        copy.in_sync = true;
        Ok(())
    }

    fn remove_copy(&mut self, id: SliceId, volcano: VolcanoId) -> Result<(), ChangeRefused> {
        self.copy_mut(id, volcano)?;
        self.slice_mut(id)?
            .copies
            .retain(|copy| copy.volcano != volcano);
        Ok(())
    }

    fn move_owner(&mut self, id: SliceId, to: VolcanoId) -> Result<(), ChangeRefused> {
        let owner = self.slice_mut(id)?.owner;
        if owner == to {
            return Err(ChangeRefused::Impossible(format!(
                "volcano {to} owns slice {id} already"
            )));
        }
        let copy = self.copy_mut(id, to)?;
        if !copy.in_sync {
            return Err(ChangeRefused::Impossible(format!(
                "the copy of slice {id} on volcano {to} is not in sync: \
                 it would lose acknowledged operations"
            )));
        }
        // The old owner holds everything that was ever acknowledged, so it is in sync.
        copy.volcano = owner;
        let epoch = self.epoch;
        let slice = self.slice_mut(id)?;
        (slice.owner, slice.home) = (to, to);
        (slice.since, slice.seized) = (epoch, false);
        Ok(())
    }

    fn yield_slice(&mut self, id: SliceId, to: VolcanoId) -> Result<(), ChangeRefused> {
        self.refuse_down(to)?;
        let copy = self.copy_mut(id, to)?;
        if !copy.in_sync {
            return Err(ChangeRefused::Impossible(format!(
                "the copy of slice {id} on volcano {to} is not in sync"
            )));
        }
        let epoch = self.epoch;
        let slice = self.slice_mut(id)?;
        let old = std::mem::replace(&mut slice.owner, to);
        (slice.since, slice.seized) = (epoch, true);
        slice.copies.retain(|copy| copy.volcano != to);
        slice.copies.push(CopyState {
            volcano: old,
            in_sync: false,
        });
        Ok(())
    }

    fn open_session(&mut self, label: &str) -> Result<(), ChangeRefused> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(ChangeRefused::Full("sessions".into()));
        }
        let (id, next) = counter(self.next_session, "session numbers")?;
        self.next_session = next;
        self.sessions.push(Session {
            id: SessionId(id),
            label: presentable(label),
        });
        Ok(())
    }

    fn end_session(&mut self, id: SessionId) -> Result<(), ChangeRefused> {
        let at = self
            .sessions
            .binary_search_by_key(&id, |session| session.id)
            .map_err(|_| ChangeRefused::Unknown(format!("session {id}")))?;
        self.sessions.remove(at);
        Ok(())
    }

    pub(super) fn position_of(&self, id: VolcanoId) -> Result<usize, ChangeRefused> {
        self.volcanos
            .iter()
            .position(|volcano| volcano.id == id)
            .ok_or_else(|| ChangeRefused::Unknown(format!("volcano {id}")))
    }

    fn slice_place(&self, id: SliceId) -> Result<usize, ChangeRefused> {
        self.slices
            .iter()
            .position(|slice| slice.id == id)
            .ok_or_else(|| ChangeRefused::Unknown(format!("slice {id}")))
    }

    fn slice_mut(&mut self, id: SliceId) -> Result<&mut Slice, ChangeRefused> {
        let place = self.slice_place(id)?;
        Ok(&mut self.slices[place])
    }

    fn copy_mut(
        &mut self,
        id: SliceId,
        volcano: VolcanoId,
    ) -> Result<&mut CopyState, ChangeRefused> {
        self.slice_mut(id)?
            .copies
            .iter_mut()
            .find(|copy| copy.volcano == volcano)
            .ok_or_else(|| {
                ChangeRefused::Unknown(format!("copy of slice {id} on volcano {volcano}"))
            })
    }
}

/// A number and the one after it. The database stores them signed, hence the bound.
fn counter(number: u64, what: &str) -> Result<(u64, u64), ChangeRefused> {
    let next = number.saturating_add(1);
    if next > i64::MAX as u64 {
        return Err(ChangeRefused::Full(what.into()));
    }
    Ok((number, next))
}

/// A session's label as it is kept. It is only ever shown, and made of a host name and a mount
/// point, which may hold any byte: a mount is not refused for it, what does not fit is cut.
fn presentable(label: &str) -> String {
    let mut kept = String::new();
    for c in label.chars() {
        let c = if c.is_control() { '?' } else { c };
        if kept.len() + c.len_utf8() > SESSION_LABEL_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
