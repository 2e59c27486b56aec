//! What answers teach: to read requests what they show, to changes what they did.

use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::op::{Answer, ListedEntry, Op, RenameMode};
use magma_core::wire::flare_protocol::Grant;

use super::{Cache, Changing, Inner, Source, Ticket};
use crate::client::locked;
use magma_core::limits::CLIENT_CACHE_NAMES;

/// A reply, as far as it can teach anything.
pub(crate) struct Lesson<'a> {
    pub(crate) source: Source,
    pub(crate) ticket: Ticket,
    pub(crate) grant: Option<Grant>,
    pub(crate) op: &'a Op,
    pub(crate) result: &'a OpResult<Answer>,
}

impl Cache {
    /// The final answer to a request that changes nothing.
    pub(crate) fn learn(&self, lesson: &Lesson) {
        if lesson.grant.is_some_and(|grant| grant.shown) {
            locked(&self.inner).learn(lesson);
        }
    }

    /// The final answer to a request that changes something. Its changes are over before what
    /// they did is put in, so that the reply counts as newer.
    pub(crate) fn changed(&self, mut changing: Changing, lesson: &Lesson) {
        let keys = std::mem::take(&mut changing.keys);
        let mut inner = locked(&self.inner);
        let alone = inner.is_alone(&keys, lesson.ticket);
        inner.end_change(&keys);
        if !alone {
            // Who came first at the owner is not known here.
            keys.iter().for_each(|key| inner.forget_names(*key));
        } else if lesson.result.is_ok() {
            inner.apply(lesson);
        }
        if lesson.grant.is_some_and(|grant| grant.shown) {
            let ticket = if alone {
                Ticket(inner.clock)
            } else {
                lesson.ticket
            };
            inner.learn(&Lesson { ticket, ..*lesson });
        }
    }
}

impl Inner {
    fn learn(&mut self, lesson: &Lesson) {
        match (lesson.op, lesson.result) {
            (Op::Guess { parent, name }, Ok(Answer::Attr(attr))) => {
                let known = self.learn_attr(lesson, attr);
                let child = known.then_some((attr.flare, attr.kind));
                self.learn_child(lesson, *parent, name, child);
            }
            (Op::LookupEntry { dir, name }, Ok(Answer::Entry { child, kind, attr })) => {
                self.learn_name(lesson, *dir, name, Some((*child, *kind)));
                if let Some(attr) = attr {
                    self.learn_attr(lesson, attr);
                }
            }
            (Op::LookupEntry { dir, name }, Err(OpError::NotFound)) => {
                self.learn_name(lesson, *dir, name, None);
            }
            (
                Op::GetAttr(_)
                | Op::GetRoot
                | Op::SetAttr(..)
                | Op::Open { .. }
                | Op::Create { .. }
                | Op::Link { .. },
                Ok(Answer::Attr(attr) | Answer::Linked { attr, .. }),
            ) => drop(self.learn_attr(lesson, attr)),
            (Op::GetAttrs(_), Ok(Answer::Attrs(attrs))) => {
                for attr in attrs.iter().flatten() {
                    self.learn_attr(lesson, attr);
                }
            }
            (Op::ReadDir { dir, after, .. }, Ok(Answer::Entries { list, end })) => {
                self.learn_listing(lesson, *dir, *after, list, *end);
            }
            (Op::ReadLink(flare), Ok(Answer::Target(target))) => {
                if let Some(known) = self.known(lesson, *flare) {
                    known.target = Some(target.clone());
                }
            }
            _ => {}
        }
    }

    fn learn_attr(&mut self, lesson: &Lesson, attr: &Attr) -> bool {
        let known = self.known(lesson, attr.flare);
        known.map(|known| known.attr = Some(attr.clone())).is_some()
    }

    /// The owner of a directory has told of one of its names.
    fn learn_name(
        &mut self,
        lesson: &Lesson,
        dir: FlareRef,
        name: &Name,
        child: Option<(FlareRef, Kind)>,
    ) {
        if self.known(lesson, dir).is_some() {
            self.note_name(dir.key(), name, child);
        }
    }

    /// The owner of a flare has told that a settled link of it leads to a directory. Where we
    /// hold the directory's lease since before the question, that is how it stands there.
    fn learn_child(
        &mut self,
        lesson: &Lesson,
        dir: FlareRef,
        name: &Name,
        child: Option<(FlareRef, Kind)>,
    ) {
        let held = self
            .flares
            .get(&dir.key())
            .is_some_and(|known| known.flare == dir && known.since <= lesson.ticket.0);
        if child.is_some() && held && self.is_untouched(dir.key(), lesson.ticket) {
            self.note_name(dir.key(), name, child);
        }
    }

    fn learn_listing(
        &mut self,
        lesson: &Lesson,
        dir: FlareRef,
        after: u64,
        list: &[ListedEntry],
        end: bool,
    ) {
        let room = CLIENT_CACHE_NAMES.saturating_sub(self.names);
        if list.len() > room {
            return;
        }
        let Some(known) = self.known(lesson, dir) else {
            return;
        };
        known.told_names = true;
        let names = &mut known.names;
        if after > names.listed {
            // There is a gap before it.
            return;
        }
        let before = names.known.len();
        for entry in list.iter().filter(|entry| entry.cookie > names.listed) {
            names
                .known
                .insert(entry.name.clone(), Some((entry.child, entry.kind)));
            names.listing.push(entry.child);
        }
        names.listed = list.last().map_or(after, |e| e.cookie).max(names.listed);
        names.complete |= end;
        self.names += known.names.known.len() - before;
    }

    /// What a change of ours did to what we know of the directories.
    fn apply(&mut self, lesson: &Lesson) {
        match (lesson.op, lesson.result) {
            (Op::Create { parent, name, .. } | Op::Link { parent, name, .. }, Ok(answer)) => {
                let Answer::Linked { attr, dir } = answer else {
                    return self.forget_names(parent.key());
                };
                self.note_change(*parent, name, Some((attr.flare, attr.kind)));
                self.note_dir(*parent, dir.as_deref());
            }
            (Op::Unlink { parent, name, .. } | Op::Rmdir { parent, name, .. }, Ok(answer)) => {
                let Answer::Unlinked { dir } = answer else {
                    return self.forget_names(parent.key());
                };
                self.note_change(*parent, name, None);
                self.note_dir(*parent, dir.as_deref());
            }
            (
                Op::Rename {
                    from_dir,
                    from_name,
                    moved,
                    moved_kind,
                    to_dir,
                    to_name,
                    mode,
                },
                Ok(_),
            ) => {
                if *mode == RenameMode::Exchange {
                    self.forget_names(from_dir.key());
                    self.forget_names(to_dir.key());
                    return;
                }
                self.note_change(*from_dir, from_name, None);
                self.note_change(*to_dir, to_name, Some((*moved, *moved_kind)));
            }
            _ => {}
        }
    }

    fn note_change(&mut self, dir: FlareRef, name: &Name, child: Option<(FlareRef, Kind)>) {
        if self.flares.get(&dir.key()).is_some_and(|k| k.flare == dir) {
            self.note_name(dir.key(), name, child);
        }
    }

    /// The attributes of a directory after a change of ours in it.
    fn note_dir(&mut self, dir: FlareRef, attr: Option<&Attr>) {
        if let Some(known) = self.flares.get_mut(&dir.key())
            && known.flare == dir
        {
            known.attr = attr.cloned();
        }
    }
}
