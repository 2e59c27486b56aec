//! Locks: what this client holds for its processes, and what they wait for.
//!
//! The owner of a flare decides and forgets when it is restarted, so what is held is written down
//! here and said again to whoever asks ([`FromClient::LocksHeld`]). What is released is crossed out
//! before the owner hears of it: at no time may something be claimed that is not held.
//!
//! Where the outcome of a request is not known (no volcano has answered, or a process was killed
//! before the answer came), the owner is brought to what stands here, in the background.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::Notify;

use magma_actors::transport::Connection;
use magma_core::error::{OpError, OpResult};
use magma_core::ids::{FlareRef, SessionId};
use magma_core::limits::{
    LOCK_ASK_AGAIN_MS, LOCK_CANCEL_MS, LOCK_CLAIM_BATCH, LOCK_SIGNAL_POLL_MS, SETTLE_PAUSE_MS,
    STALE_TRIES,
};
use magma_core::locks::table::LockOutcome;
use magma_core::locks::{Lock, LockKind, LockOwner, Range, Ranges};
use magma_core::op::{Answer, Credentials, LockSpec, Op};
use magma_core::wire::flare_protocol::{ClaimedLock, FromClient, Probe};

use super::lease::tell;
use super::request::{Ask, unexpected};
use super::{Client, Shared, locked, routing};

/// What this client knows of its locks.
#[derive(Default)]
pub(crate) struct LockBook {
    book: Mutex<Book>,
    /// What a lock owner asks about a flare goes one after the other.
    turns: Mutex<HashMap<(FlareRef, u64), Turn>>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
struct Book {
    /// The number of the last question.
    number: u64,
    /// By flare; the sessions in it are all [`ours`].
    held: HashMap<FlareRef, Ranges>,
    /// Whose locks ended with the session, until they close the file.
    lost: BTreeSet<(FlareRef, u64)>,
    waits: HashMap<u64, Waiting>,
}

struct Waiting {
    wanted: Wanted,
    state: WaitState,
    wake: Arc<Notify>,
}

/// A lock that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The file.
    pub flare: FlareRef,
    /// Where, and for whom.
    pub lock: LockSpec,
    /// How.
    pub kind: LockKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitState {
    Waits,
    /// It is held, and written down.
    Granted,
    /// It would last for ever.
    Deadlock,
    /// The process has a signal.
    Interrupted,
    /// The process was told so already: if the lock comes it must go back.
    Abandoned,
}

/// In a client's own book the session does not matter.
fn ours(owner: u64) -> LockOwner {
    LockOwner(SessionId(0), owner)
}

impl LockBook {
    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    fn next(&self) -> u64 {
        self.book().next()
    }

    /// Whether that lock owner holds anything of that flare.
    pub(crate) fn holds(&self, flare: FlareRef, owner: u64) -> bool {
        let book = self.book();
        let held = book.held.get(&flare);
        held.is_some_and(|held| !held.of(ours(owner)).is_empty())
    }

    fn set(&self, flare: FlareRef, lock: LockSpec, kind: Option<LockKind>) {
        self.book().set(flare, lock, kind);
    }

    fn pieces(&self, flare: FlareRef, lock: LockSpec) -> Vec<(Range, Option<LockKind>)> {
        match self.book().held.get(&flare) {
            Some(held) => held.pieces(ours(lock.owner), lock.range),
            None => vec![(lock.range, None)],
        }
    }

    /// Everything is gone with the session. How many locks that were.
    pub(crate) fn clear(&self) -> usize {
        let mut book = self.book();
        let held = std::mem::take(&mut book.held);
        for (flare, ranges) in &held {
            let owners = ranges.iter().map(|lock| (*flare, lock.owner.1));
            book.lost.extend(owners);
        }
        held.values().map(Ranges::len).sum()
    }

    /// Whether a lock of that owner ended with the session.
    pub(crate) fn has_lost(&self, flare: FlareRef, owner: u64) -> bool {
        self.book().lost.contains(&(flare, owner))
    }

    /// The owner has closed the file: it holds nothing of it any more.
    pub(crate) fn closed(&self, flare: FlareRef, owner: u64) {
        self.book().lost.remove(&(flare, owner));
    }

    /// A lock is somebody else's now.
    pub(crate) fn lost(&self, flare: FlareRef, owner: u64, range: Range) {
        let lock = LockSpec {
            owner,
            pid: 0,
            range,
        };
        self.set(flare, lock, None);
    }

    fn begin_wait(&self, wanted: Wanted) -> (u64, Arc<Notify>) {
        let mut book = self.book();
        let (wait, wake) = (book.next(), Arc::new(Notify::new()));
        let waiting = Waiting {
            wanted,
            state: WaitState::Waits,
            wake: wake.clone(),
        };
        book.waits.insert(wait, waiting);
        (wait, wake)
    }

    fn wait_state(&self, wait: u64) -> Option<WaitState> {
        self.book().waits.get(&wait).map(|waiting| waiting.state)
    }

    /// The owner has granted what was waited for.
    pub(crate) fn granted(&self, wait: u64) {
        let mut book = self.book();
        let Some(waiting) = book.waits.get_mut(&wait) else {
            return;
        };
        if matches!(waiting.state, WaitState::Granted | WaitState::Abandoned) {
            return;
        }
        waiting.state = WaitState::Granted;
        waiting.wake.notify_one();
        let Wanted { flare, lock, kind } = waiting.wanted;
        book.set(flare, lock, Some(kind));
    }

    /// A wait would last for ever.
    pub(crate) fn deadlocked(&self, wait: u64) {
        self.change_wait(wait, WaitState::Deadlock);
    }

    /// Whether the wait has another state now, and not been granted.
    fn change_wait(&self, wait: u64, state: WaitState) -> bool {
        let mut book = self.book();
        match book.waits.get_mut(&wait) {
            Some(waiting) if waiting.state != WaitState::Granted => {
                waiting.state = state;
                waiting.wake.notify_one();
                true
            }
            _ => false,
        }
    }

    fn end_wait(&self, wait: u64) -> Option<WaitState> {
        self.book().waits.remove(&wait).map(|waiting| waiting.state)
    }

    fn waits_of(&self, owner: u64) -> Vec<(u64, FlareRef)> {
        let book = self.book();
        let waits = book.waits.iter();
        waits
            .filter(|(_, waiting)| waiting.wanted.lock.owner == owner)
            .map(|(wait, waiting)| (*wait, waiting.wanted.flare))
            .collect()
    }

    /// How long until the process is looked at again: the more of them wait, the longer.
    fn poll_pause(&self) -> Duration {
        let waits = self.book().waits.len() as u64;
        Duration::from_millis(LOCK_SIGNAL_POLL_MS + waits / 8)
    }

    /// The flares of which something is held.
    fn flares(&self) -> Vec<FlareRef> {
        self.book().held.keys().copied().collect()
    }

    /// Hands out what is held. Nothing changes meanwhile.
    fn claim(&self, mut send: impl FnMut(FromClient)) {
        let mut book = self.book();
        let number = book.next();
        let mut locks = Vec::new();
        for (flare, held) in &book.held {
            for lock in held.iter() {
                if locks.len() >= LOCK_CLAIM_BATCH {
                    send(FromClient::LocksHeld {
                        number,
                        locks: std::mem::take(&mut locks),
                        done: false,
                    });
                }
                locks.push(ClaimedLock {
                    flare: *flare,
                    lock: LockSpec {
                        owner: lock.owner.1,
                        pid: lock.pid,
                        range: lock.range,
                    },
                    kind: lock.kind,
                });
            }
        }
        let done = true;
        send(FromClient::LocksHeld {
            number,
            locks,
            done,
        });
    }

    async fn turn(&self, flare: FlareRef, owner: u64) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = locked(&self.turns);
            // Whoever holds or awaits a turn has a share of it.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry((flare, owner)).or_default().clone()
        };
        turn.lock_owned().await
    }
}

impl Book {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn set(&mut self, flare: FlareRef, lock: LockSpec, kind: Option<LockKind>) {
        let held = self.held.entry(flare).or_default();
        held.set(ours(lock.owner), lock.pid, lock.range, kind);
        if held.is_empty() {
            self.held.remove(&flare);
        }
    }
}

/// Whether an error leaves open what the owner has done.
fn is_doubtful(error: &OpError) -> bool {
    !matches!(
        error,
        OpError::WouldBlock
            | OpError::Deadlock
            | OpError::NoLocks
            | OpError::Stale
            | OpError::Invalid
            | OpError::IsDirectory
    )
}

impl Client {
    /// A lock that keeps this one from being set, if there is one. Its process number means
    /// something only if it is one of this client's.
    pub async fn get_lock(&self, wanted: Wanted, cred: &Credentials) -> OpResult<Option<Lock>> {
        let Wanted { flare, lock, kind } = wanted;
        let op = Op::GetLock { flare, lock, kind };
        let told = self.shared.ask(Ask::new(flare.key(), cred, op)).await?;
        match told.answer {
            Answer::Lock(None) => Ok(None),
            Answer::Lock(Some(mut lock)) => {
                if lock.owner.0 != self.session() {
                    lock.pid = 0;
                }
                Ok(Some(lock))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a lock, or releases it; fails with `WouldBlock` where it would have to wait.
    pub async fn set_lock(
        &self,
        flare: FlareRef,
        lock: LockSpec,
        kind: Option<LockKind>,
        cred: &Credentials,
    ) -> OpResult<()> {
        self.shared.set_lock(flare, lock, kind, cred).await
    }

    /// Sets a lock, waiting for it until it is held or `interrupted` says that nobody wants it
    /// any more.
    pub async fn wait_lock(
        &self,
        wanted: Wanted,
        cred: &Credentials,
        mut interrupted: impl FnMut() -> bool,
    ) -> OpResult<()> {
        let shared = &self.shared;
        let (wait, wake) = shared.locks.begin_wait(wanted);
        let (client, cred) = (shared.clone(), cred.clone());
        let mut waits = self.spawn(async move { client.wait(wanted, wait, &wake, &cred).await });
        loop {
            let pause = tokio::time::sleep(shared.locks.poll_pause());
            tokio::select! {
                ended = &mut waits => return ended.unwrap_or(Err(OpError::Io)),
                () = pause => if interrupted() { break },
            }
        }
        shared.locks.change_wait(wait, WaitState::Interrupted);
        let limit = Duration::from_millis(LOCK_CANCEL_MS);
        match tokio::time::timeout(limit, &mut waits).await {
            Ok(ended) => ended.unwrap_or(Err(OpError::Io)),
            // The owner hears of it when it can.
            Err(_) if shared.locks.change_wait(wait, WaitState::Abandoned) => {
                Err(OpError::Interrupted)
            }
            // Just now.
            Err(_) => waits.await.unwrap_or(Err(OpError::Io)),
        }
    }

    /// Whether that lock owner holds anything of that flare.
    pub fn holds_locks(&self, flare: FlareRef, owner: u64) -> bool {
        self.shared.locks.holds(flare, owner)
    }

    /// Whether a lock of that owner on that flare ended with a session, and it has not closed the
    /// file since.
    pub fn has_lost_locks(&self, flare: FlareRef, owner: u64) -> bool {
        self.shared.locks.has_lost(flare, owner)
    }

    /// A lock owner has closed a file.
    pub fn locker_closed(&self, flare: FlareRef, owner: u64) {
        self.shared.locks.closed(flare, owner);
    }
}

impl Shared {
    /// Asks something that has a number.
    async fn ask_numbered(
        self: &Arc<Self>,
        flare: FlareRef,
        cred: &Credentials,
        op: impl Fn(u64) -> Op,
    ) -> OpResult<Answer> {
        for _ in 0..STALE_TRIES {
            let ask = Ask::new(flare.key(), cred, op(self.locks.next()));
            match self.ask(ask).await {
                // Something with a higher number came before it.
                Err(OpError::Overtaken) => {}
                other => return other.map(|told| told.answer),
            }
        }
        Err(OpError::Busy)
    }

    async fn set_lock(
        self: &Arc<Self>,
        flare: FlareRef,
        lock: LockSpec,
        kind: Option<LockKind>,
        cred: &Credentials,
    ) -> OpResult<()> {
        let _turn = self.locks.turn(flare, lock.owner).await;
        let before = match kind {
            None => self.locks.pieces(flare, lock),
            Some(_) => Vec::new(),
        };
        if kind.is_none() {
            self.locks.set(flare, lock, None);
        }
        let answer = self.ask_numbered(flare, cred, |number| Op::SetLock {
            flare,
            lock,
            kind,
            number,
            wait: None,
        });
        match answer.await {
            Ok(Answer::LockSet(LockOutcome::Granted)) => {
                self.locks.set(flare, lock, kind);
                Ok(())
            }
            Ok(other) => Err(unexpected(&other)),
            Err(error) => {
                if is_doubtful(&error) {
                    self.reconcile(flare, lock, None, cred);
                } else {
                    // It was not released.
                    for (range, kind) in before {
                        self.locks.set(flare, LockSpec { range, ..lock }, kind);
                    }
                }
                Err(error)
            }
        }
    }

    /// Waits for a lock, to the end.
    async fn wait(
        self: &Arc<Self>,
        wanted: Wanted,
        wait: u64,
        wake: &Notify,
        cred: &Credentials,
    ) -> OpResult<()> {
        let ended = self.keep_asking(wanted, wait, wake, cred).await;
        let state = self.locks.end_wait(wait);
        match (ended, state) {
            (_, Some(WaitState::Granted)) => Ok(()),
            (Ok(()), _) => {
                self.reconcile(wanted.flare, wanted.lock, Some((wait, wanted.kind)), cred);
                Err(OpError::Interrupted)
            }
            (Err(error), _) => {
                if is_doubtful(&error) {
                    self.reconcile(wanted.flare, wanted.lock, Some((wait, wanted.kind)), cred);
                }
                match state {
                    Some(WaitState::Interrupted | WaitState::Abandoned) => {
                        Err(OpError::Interrupted)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    async fn keep_asking(
        self: &Arc<Self>,
        wanted: Wanted,
        wait: u64,
        wake: &Notify,
        cred: &Credentials,
    ) -> OpResult<()> {
        let Wanted { flare, lock, kind } = wanted;
        loop {
            match self.locks.wait_state(wait) {
                Some(WaitState::Waits) => {}
                Some(WaitState::Granted) => return Ok(()),
                Some(WaitState::Deadlock) => {
                    self.cancel(wanted, wait, cred).await?;
                    return Err(OpError::Deadlock);
                }
                Some(WaitState::Interrupted | WaitState::Abandoned) | None => {
                    self.cancel(wanted, wait, cred).await?;
                    return Err(OpError::WouldBlock);
                }
            }
            if self.is_closing() {
                return Err(OpError::Unreachable);
            }
            let turn = self.locks.turn(flare, lock.owner).await;
            let answer = self.ask_numbered(flare, cred, |number| Op::SetLock {
                flare,
                lock,
                kind: Some(kind),
                number,
                wait: Some(wait),
            });
            match answer.await? {
                Answer::LockSet(LockOutcome::Granted) => {
                    self.locks.granted(wait);
                    return Ok(());
                }
                Answer::LockSet(LockOutcome::Waits) => {}
                other => return Err(unexpected(&other)),
            }
            drop(turn);
            let again = Duration::from_millis(LOCK_ASK_AGAIN_MS);
            // Both are a reason to look again.
            let _ = tokio::time::timeout(again, wake.notified()).await;
        }
    }

    /// Ends a wait. The lock may have been granted meanwhile, and is held then.
    async fn cancel(
        self: &Arc<Self>,
        wanted: Wanted,
        wait: u64,
        cred: &Credentials,
    ) -> OpResult<()> {
        let Wanted { flare, lock, kind } = wanted;
        let _turn = self.locks.turn(flare, lock.owner).await;
        let answer = self.ask_numbered(flare, cred, |number| Op::CancelLock {
            flare,
            lock,
            kind,
            number,
            wait,
        });
        match answer.await? {
            Answer::Done => Ok(()),
            Answer::LockSet(LockOutcome::Granted) => {
                self.locks.granted(wait);
                match self.locks.wait_state(wait) {
                    Some(WaitState::Granted) => Ok(()),
                    // Nobody wants it any more: it goes back.
                    _ => Err(OpError::Interrupted),
                }
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Brings the owner to what stands in the book, in the background.
    fn reconcile(
        self: &Arc<Self>,
        flare: FlareRef,
        lock: LockSpec,
        wait: Option<(u64, LockKind)>,
        cred: &Credentials,
    ) {
        let (client, cred, session) = (Arc::downgrade(self), cred.clone(), self.session().id());
        self.runtime
            .spawn(reconcile(client, session, flare, lock, wait, cred));
    }

    /// Tells an owner what is held, of whichever flares: which of them are its own it knows better,
    /// as its lava may be newer. Never waits.
    pub(crate) fn claim_locks(&self, connection: &Connection) {
        self.locks.claim(|claim| tell(connection, &claim));
    }

    /// An owner that starts again waits only so long for this client to say what it holds, so
    /// there is always a connection to where something is held.
    pub(crate) fn keep_lock_connections(self: &Arc<Self>) {
        let lava = self.routing.lava();
        let owners = self.locks.flares().into_iter();
        let owners = owners.filter_map(|flare| routing::owner(&lava, flare.key()));
        self.keep_connections(owners.map(|owner| owner.addr).collect());
    }

    /// Makes those connections that there are not.
    pub(super) fn keep_connections(self: &Arc<Self>, owners: BTreeSet<SocketAddr>) {
        for addr in owners {
            if self.flare.open(addr).is_none() {
                let client = self.clone();
                self.runtime.spawn(async move {
                    if let Err(error) = client.flare_connection(addr).await {
                        tracing::debug!(%addr, %error, "an owner of what is held cannot be reached");
                    }
                });
            }
        }
    }

    /// Somebody waits for a lock owner of this client: where that one waits itself is asked on.
    pub(crate) fn lock_probe(&self, probe: Probe, owner: u64) {
        let lava = self.routing.lava();
        for (wait, flare) in self.locks.waits_of(owner) {
            let target = routing::owner(&lava, flare.key());
            if let Some(connection) = target.and_then(|target| self.flare.open(target.addr)) {
                tell(&connection, &FromClient::LockProbe { probe, flare, wait });
            }
        }
    }
}

async fn reconcile(
    client: Weak<Shared>,
    session: SessionId,
    flare: FlareRef,
    lock: LockSpec,
    wait: Option<(u64, LockKind)>,
    cred: Credentials,
) {
    loop {
        let Some(client) = client.upgrade() else {
            return;
        };
        // What a session held ends with it.
        if client.is_closing() || client.session().id() != session {
            return;
        }
        match client.bring_to_book(flare, lock, wait, &cred).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%flare, %error, "a lock is still not settled"),
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(SETTLE_PAUSE_MS)).await;
    }
}

impl Shared {
    async fn bring_to_book(
        self: &Arc<Self>,
        flare: FlareRef,
        lock: LockSpec,
        wait: Option<(u64, LockKind)>,
        cred: &Credentials,
    ) -> OpResult<()> {
        let _turn = self.locks.turn(flare, lock.owner).await;
        if let Some((wait, kind)) = wait {
            let cancelled = self.ask_numbered(flare, cred, |number| Op::CancelLock {
                flare,
                lock,
                kind,
                number,
                wait,
            });
            settled(cancelled.await)?;
        }
        for (range, kind) in self.locks.pieces(flare, lock) {
            let lock = LockSpec { range, ..lock };
            let set = self.ask_numbered(flare, cred, |number| Op::SetLock {
                flare,
                lock,
                kind,
                number,
                wait: None,
            });
            settled(set.await)?;
        }
        Ok(())
    }
}

fn settled(answer: OpResult<Answer>) -> OpResult<()> {
    match answer {
        Err(error) if is_doubtful(&error) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// If it cannot be sent the connection is as good as dead, and the next one says all again.
#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(start: u64, end: u64, kind: LockKind) -> Wanted {
        Wanted {
            flare: FlareRef::default(),
            lock: LockSpec {
                owner: 3,
                pid: 4,
                range: Range { start, end },
            },
            kind,
        }
    }

    fn claimed(book: &LockBook) -> Vec<(Range, LockKind)> {
        let mut claimed = Vec::new();
        book.claim(|message| match message {
            FromClient::LocksHeld { locks, .. } => {
                claimed.extend(locks.iter().map(|claim| (claim.lock.range, claim.kind)));
            }
            other => panic!("{other:?}"),
        });
        claimed
    }

    #[test]
    fn what_is_granted_is_claimed_until_it_is_released() {
        let book = LockBook::default();
        let want = wanted(0, 9, LockKind::Write);
        let (wait, _) = book.begin_wait(want);
        assert_eq!(claimed(&book), []);
        book.granted(wait);
        book.granted(wait);
        assert_eq!(claimed(&book), [(want.lock.range, LockKind::Write)]);
        assert!(book.holds(want.flare, 3) && !book.holds(want.flare, 4));
        assert!(!book.change_wait(wait, WaitState::Abandoned));
        let middle = wanted(3, 5, LockKind::Read).lock;
        book.set(want.flare, middle, None);
        let left = [(0, 2), (6, 9)].map(|(start, end)| (Range { start, end }, LockKind::Write));
        assert_eq!(claimed(&book), left);
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_written_down() {
        let book = LockBook::default();
        let (wait, _) = book.begin_wait(wanted(0, 9, LockKind::Write));
        assert!(book.change_wait(wait, WaitState::Abandoned));
        book.granted(wait);
        assert_eq!(claimed(&book), []);
        assert_eq!(book.end_wait(wait), Some(WaitState::Abandoned));
    }
}
