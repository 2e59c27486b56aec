//! What this client has open, and what the owners have been told of it.
//!
//! An owner need only know *that* a file is open here, so that it keeps it past an unlink: the first
//! open is told, or found out under a lease and told later, and the last close is told together with
//! others. The order of opens and closes is that of their numbers (`magma-core/src/engine/opens.rs`).
//!
//! What is opened under a lease asks nobody. The owner hears of it
//!
//! * with the answer to a recall, before the change that it was recalled for,
//! * before this client itself removes, replaces or changes the file ([`Shared::opens_before`]),
//! * and within a second in any case, long before a lease runs out by itself.
//!
//! Each new connection is told everything, which repairs whatever was lost with an old one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use magma_actors::transport::Connection;
use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Attr, Kind};
use magma_core::ids::{FlareRef, Stamp};
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::limits::{CLOSE_BATCH_MS, OPENS_CLAIM_BATCH};
use magma_core::op::permission::{Access, may};
use magma_core::op::{Credentials, Op};
use magma_core::wire::flare_protocol::FromClient;

use super::objects::OpenFor;
use super::request::Ask;
use super::{Client, Shared, lease, locked, routing};

/// What is open.
#[derive(Debug, Default)]
pub(crate) struct OpenBook {
    book: Mutex<Book>,
    /// Somebody will tell of what was closed.
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Book {
    /// The number of the last open or close.
    number: u64,
    /// Opens that owners are being asked for.
    asked: BTreeSet<u64>,
    open: BTreeMap<FlareRef, Held>,
    /// Closed for good, and not told yet.
    closed: Vec<(FlareRef, u64)>,
    /// How many of `open` have not been told.
    untold: usize,
}

#[derive(Debug)]
struct Held {
    count: usize,
    number: u64,
    told: bool,
    /// The owner is being told and has not answered: its end waits for that.
    telling: bool,
}

/// An open that an owner is asked for: until its answer is known, nothing that is said of what is
/// open speaks of this time.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    book: &'a OpenBook,
    number: u64,
}

impl Book {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn open(&mut self, flare: FlareRef, number: u64, told: bool) {
        let held = self.open.entry(flare).or_insert(Held {
            count: 0,
            number,
            told: false,
            telling: false,
        });
        if held.count == 0 && !held.telling {
            self.untold += 1;
        }
        held.count += 1;
        held.number = held.number.max(number);
        if told && !held.told && !held.telling {
            held.told = true;
            self.untold -= 1;
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.book.book().asked.remove(&self.number);
    }
}

impl Opening<'_> {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The owner has opened it; surely told, if it was asked only once.
    pub(crate) fn done(self, flare: FlareRef, told: bool) {
        self.book.book().open(flare, self.number, told);
    }
}

impl OpenBook {
    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// An owner is about to be asked.
    pub(crate) fn opening(&self) -> Opening<'_> {
        let mut book = self.book();
        let number = book.next();
        book.asked.insert(number);
        Opening { book: self, number }
    }

    /// Opened without asking. Whoever does that must look afterwards whether the lease still stands.
    fn open_untold(&self, flare: FlareRef) {
        let mut book = self.book();
        let number = book.next();
        book.open(flare, number, false);
    }

    /// Ends one open. True when there is something to tell.
    fn close(&self, flare: FlareRef) -> bool {
        let mut book = self.book();
        let number = book.next();
        let Some(held) = book.open.get_mut(&flare) else {
            return false;
        };
        held.count = held.count.saturating_sub(1);
        if held.count > 0 || held.telling {
            return false;
        }
        let told = held.told;
        book.open.remove(&flare);
        match told {
            true => book.closed.push((flare, number)),
            false => book.untold -= 1,
        }
        told
    }

    /// What an owner has not been told, and is told now.
    fn take_untold(&self, which: impl Fn(FlareRef) -> bool) -> Vec<(FlareRef, u64)> {
        let mut book = self.book();
        if book.untold == 0 {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for (flare, held) in &mut book.open {
            if !held.told && !held.telling && which(*flare) {
                held.told = true;
                taken.push((*flare, held.number));
            }
        }
        book.untold -= taken.len();
        taken
    }

    /// What is open of these, which their owner is told now.
    pub(crate) fn of(&self, keys: &[Key]) -> Vec<(FlareRef, u64)> {
        let mut book = self.book();
        if book.untold == 0 {
            return Vec::new();
        }
        let (mut opens, mut untold) = (Vec::new(), 0);
        for key in keys {
            let lives = FlareRef(*key, Stamp::default())..;
            let lives = book.open.range_mut(lives);
            for (flare, held) in lives.take_while(|(flare, _)| flare.key() == *key) {
                opens.push((*flare, held.number));
                if !held.told && !held.telling {
                    untold += 1;
                    held.told = true;
                }
            }
        }
        book.untold -= untold;
        opens
    }

    fn begin_telling(&self, flare: FlareRef) -> Option<u64> {
        let mut book = self.book();
        let held = book.open.get_mut(&flare)?;
        if held.told || held.telling {
            return None;
        }
        held.telling = true;
        let number = held.number;
        book.untold -= 1;
        Some(number)
    }

    /// The owner was told, or not. True when there is something to tell.
    fn end_telling(&self, flare: FlareRef, told: bool) -> bool {
        let mut book = self.book();
        let number = book.next();
        let Some(held) = book.open.get_mut(&flare) else {
            return false;
        };
        held.telling = false;
        held.told = told;
        if held.count > 0 {
            book.untold += usize::from(!told);
            return false;
        }
        // Closed meanwhile. Where the answer is not known, it may have been told all the same.
        book.open.remove(&flare);
        book.closed.push((flare, number));
        true
    }

    fn take_closed(&self) -> Vec<(FlareRef, u64)> {
        std::mem::take(&mut self.book().closed)
    }

    fn is_closing(&self, flare: FlareRef) -> bool {
        let book = self.book();
        book.closed.iter().any(|(closed, _)| *closed == flare)
    }

    fn is_quiet(&self) -> bool {
        let book = self.book();
        book.untold == 0 && book.closed.is_empty()
    }

    /// Owners of these know nothing (any more).
    fn forget_told(&self, which: impl Fn(FlareRef) -> bool) {
        let mut book = self.book();
        let mut forgotten = 0;
        for (flare, held) in &mut book.open {
            if held.told && !held.telling && which(*flare) {
                held.told = false;
                forgotten += 1;
            }
        }
        book.untold += forgotten;
    }

    /// Names everything, in parts. What is `theirs` counts as told.
    fn claim(&self, theirs: impl Fn(FlareRef) -> bool, mut send: impl FnMut(FromClient)) {
        let mut book = self.book();
        let now = book.next();
        // An open that is being asked for may have been done, and is not in the list yet.
        let number = book.asked.first().map_or(now, |asked| asked - 1);
        let (mut opens, mut told) = (Vec::new(), 0);
        for (flare, held) in &mut book.open {
            if opens.len() >= OPENS_CLAIM_BATCH {
                send(FromClient::OpensHeld {
                    number,
                    opens: std::mem::take(&mut opens),
                    done: false,
                });
            }
            opens.push((*flare, held.number));
            if !held.told && !held.telling && theirs(*flare) {
                held.told = true;
                told += 1;
            }
        }
        book.untold -= told;
        let done = true;
        send(FromClient::OpensHeld {
            number,
            opens,
            done,
        });
    }

    fn flares(&self) -> Vec<FlareRef> {
        self.book().open.keys().copied().collect()
    }
}

impl Client {
    /// Opens a regular file under its lease, if nobody need be asked. The attributes are those that
    /// permission was checked with.
    pub fn open_known(&self, flare: FlareRef, how: OpenFor, cred: &Credentials) -> Option<Attr> {
        let allowed = |attr: &Attr| {
            let want = Access {
                read: how.read,
                write: how.write,
                exec: false,
            };
            attr.kind == Kind::File && !how.truncate && may(attr, cred, want).is_ok()
        };
        self.attr_known(flare).filter(allowed)?;
        // In the book before the lease is looked at (again): a recall takes the lease away first,
        // and then looks into the book.
        self.shared.opens.open_untold(flare);
        let attr = self.attr_known(flare).filter(allowed);
        if attr.is_none() {
            self.close_file(flare);
        }
        attr
    }

    /// Ends one open. The owner hears of the last one soon.
    pub fn close_file(&self, flare: FlareRef) {
        if self.shared.opens.close(flare) {
            self.shared.tell_closes_soon();
        }
    }
}

impl Shared {
    /// What an operation does to a file that is open here must not meet an owner that does not
    /// know it.
    pub(super) async fn opens_before(self: &Arc<Self>, op: &Op) -> OpResult<()> {
        if self.opens.is_quiet() {
            return Ok(());
        }
        match op {
            Op::Unlink { flare, .. } | Op::SetAttr(flare, _) => {
                if self.opens.is_closing(*flare) {
                    self.tell_closes();
                }
                self.tell_open(*flare).await
            }
            // What it replaces is not known here.
            Op::Rename { .. } => {
                self.tell_closes();
                for flare in self.opens.flares() {
                    self.tell_open(flare).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn tell_open(self: &Arc<Self>, flare: FlareRef) -> OpResult<()> {
        let Some(number) = self.opens.begin_telling(flare) else {
            return Ok(());
        };
        let telling = Telling {
            client: self.clone(),
            flare,
            told: false,
        };
        let ask = Ask::new(flare.key(), &Credentials::root(), Op::Hold(flare, number));
        let told = Box::pin(self.ask(ask)).await;
        telling.ended(told.is_ok());
        match told {
            // It is gone: so it cannot be kept.
            Ok(_) | Err(OpError::Stale | OpError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells the owners what was opened under leases, whether or not they ask.
    pub(super) fn tell_opens(self: &Arc<Self>) {
        let lava = self.routing.lava();
        let mut away = BTreeSet::new();
        let reachable = |flare: FlareRef| match routing::owner(&lava, flare.key()) {
            Some(owner) => self.flare.open(owner.addr).is_some(),
            None => false,
        };
        for (addr, opens) in by_owner(&lava, self.opens.take_untold(reachable)) {
            match self.flare.open(addr) {
                Some(connection) => {
                    for part in opens.chunks(OPENS_CLAIM_BATCH) {
                        lease::tell(&connection, &FromClient::Opened(part.to_vec()));
                    }
                }
                None => drop(away.insert(addr)),
            }
        }
        // Whoever has no connection hears everything with a new one.
        let all = self.opens.flares();
        let owners = all
            .iter()
            .filter_map(|flare| routing::owner(&lava, flare.key()));
        away.extend(owners.map(|owner| owner.addr));
        self.keep_connections(away);
    }

    fn tell_closes_soon(self: &Arc<Self>) {
        if self.opens.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(CLOSE_BATCH_MS)).await;
            client.opens.closing.store(false, Ordering::Release);
            client.tell_closes();
        });
    }

    /// Whoever cannot be told now hears with the next connection what is open, and so what is not.
    fn tell_closes(&self) {
        let lava = self.routing.lava();
        for (addr, closed) in by_owner(&lava, self.opens.take_closed()) {
            if let Some(connection) = self.flare.open(addr) {
                for part in closed.chunks(OPENS_CLAIM_BATCH) {
                    lease::tell(&connection, &FromClient::Closed(part.to_vec()));
                }
            }
        }
    }

    /// Tells an owner all that is open.
    pub(super) fn claim_opens(&self, connection: &Connection) {
        let lava = self.routing.lava();
        let peer = connection.peer();
        let theirs = |flare: FlareRef| {
            routing::owner(&lava, flare.key()).is_some_and(|owner| owner.addr == peer)
        };
        self.opens
            .claim(theirs, |claim| lease::tell(connection, &claim));
    }

    /// Some keys have another owner now.
    pub(super) fn opens_follow(&self, before: &Lava, lava: &Lava) {
        let moved = |flare: FlareRef| before.owner_of(flare.key()) != lava.owner_of(flare.key());
        self.opens.forget_told(moved);
    }

    /// No owner has anything open for the session that there is now.
    pub(super) fn opens_of_new_session(&self) {
        self.opens.forget_told(|_| true);
    }
}

/// Keeps the book right should whoever tells be gone before the answer.
struct Telling {
    client: Arc<Shared>,
    flare: FlareRef,
    told: bool,
}

impl Telling {
    fn ended(mut self, told: bool) {
        self.told = told;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if self.client.opens.end_telling(self.flare, self.told) {
            self.client.tell_closes_soon();
        }
    }
}

fn by_owner(
    lava: &Lava,
    opens: Vec<(FlareRef, u64)>,
) -> BTreeMap<SocketAddr, Vec<(FlareRef, u64)>> {
    let mut owners: BTreeMap<SocketAddr, Vec<(FlareRef, u64)>> = BTreeMap::new();
    for (flare, number) in opens {
        if let Some(owner) = routing::owner(lava, flare.key()) {
            owners.entry(owner.addr).or_default().push((flare, number));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::{Epoch, Seq, SliceId};

    fn flare(path: &str) -> FlareRef {
        let key = Key::of_path(path.as_bytes());
        FlareRef(key, Stamp(SliceId(1), Epoch(1), Seq(1)))
    }

    fn claimed(book: &OpenBook) -> (u64, Vec<(FlareRef, u64)>) {
        let mut all = Vec::new();
        let mut upto = 0;
        book.claim(
            |_| true,
            |claim| match claim {
                FromClient::OpensHeld { number, opens, .. } => {
                    upto = number;
                    all.extend(opens);
                }
                other => panic!("{other:?}"),
            },
        );
        (upto, all)
    }

    #[test]
    fn the_first_open_and_the_last_close_are_told() {
        let (book, file) = (OpenBook::default(), flare("/a"));
        book.opening().done(file, true);
        book.open_untold(file);
        assert!(book.is_quiet(), "the owner knows it already");
        assert!(!book.close(file));
        assert!(book.close(file));
        let closed = book.take_closed();
        assert!(matches!(closed.as_slice(), [(f, number)] if *f == file && *number > 2));
        assert!(book.is_quiet());
    }

    #[test]
    fn what_is_opened_and_closed_under_a_lease_is_nobody_elses_business() {
        let (book, file) = (OpenBook::default(), flare("/a"));
        book.open_untold(file);
        assert!(!book.is_quiet());
        assert!(!book.close(file));
        assert!(book.is_quiet());
        assert!(!book.close(file), "closed once too often");
    }

    #[test]
    fn what_is_told_counts_once() {
        let (book, file) = (OpenBook::default(), flare("/a"));
        book.open_untold(file);
        book.open_untold(file);
        assert_eq!(book.take_untold(|_| true).len(), 1);
        assert!(book.take_untold(|_| true).is_empty() && book.is_quiet());
        assert!(!book.close(file));
        assert!(book.close(file));
        // The answer to a recall tells, too.
        book.take_closed();
        book.open_untold(file);
        book.open_untold(flare("/b"));
        assert_eq!(book.of(&[file.key()]).len(), 1);
        assert_eq!(book.take_untold(|_| true).len(), 1);
        assert!(book.is_quiet());
    }

    #[test]
    fn a_close_waits_for_what_is_being_told() {
        let (book, file) = (OpenBook::default(), flare("/a"));
        for told in [true, false] {
            book.open_untold(file);
            let number = book.begin_telling(file).expect("to be told");
            assert_eq!(book.begin_telling(file), None);
            assert!(!book.close(file));
            assert!(book.end_telling(file, told));
            let closed = book.take_closed();
            assert!(matches!(closed.as_slice(), [(f, upto)] if *f == file && *upto > number));
            assert!(book.is_quiet());
        }
        book.open_untold(file);
        book.begin_telling(file);
        assert!(!book.end_telling(file, false));
        assert_eq!(book.take_untold(|_| true).len(), 1, "to be told again");
    }

    #[test]
    fn opened_again_while_the_end_waits() {
        let (book, file) = (OpenBook::default(), flare("/a"));
        book.open_untold(file);
        book.begin_telling(file);
        book.close(file);
        book.open_untold(file);
        assert!(!book.end_telling(file, true));
        assert!(book.is_quiet());
        assert!(book.close(file));
    }

    #[test]
    fn a_claim_says_nothing_of_what_is_being_asked_for() {
        let book = OpenBook::default();
        book.opening().done(flare("/a"), true);
        let asked = book.opening();
        book.open_untold(flare("/b"));
        let (upto, all) = claimed(&book);
        assert_eq!(all.len(), 2);
        assert!(upto < asked.number());
        assert!(book.is_quiet(), "it was told with that");
        asked.done(flare("/c"), true);
        let (upto, all) = claimed(&book);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|(_, number)| *number <= upto));
        // A new owner knows nothing.
        book.forget_told(|known| known == flare("/c"));
        assert_eq!(book.take_untold(|_| true), [(flare("/c"), 2)]);
    }
}
