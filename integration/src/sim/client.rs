//! A client: one session, its slots, and requests that are repeated until they are answered.
//!
//! Its work is an `async` function, polled by the scheduler: a request or a pause suspends it,
//! the answer or the time goes on with it. Nothing else may be awaited in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use magma_core::error::OpError;
use magma_core::ids::{Epoch, SessionId, Slot, SlotSeq, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::op::{Answer, Credentials, Op};
use magma_core::wire::flare_protocol::{Reply, Request};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::cache::Cache;

/// Slots that a client uses, one after another.
const SLOTS: u16 = 3;

/// What a request is answered.
pub type Told = Result<(Answer, Bytes), OpError>;
/// The work of a client; an error is a failure of the run.
pub type Work = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// The side of a client that its work sees.
#[derive(Clone)]
pub struct Port(Rc<RefCell<Between>>);

/// Between a client's work and the scheduler.
struct Between {
    ask: Option<(Key, Op, Bytes)>,
    told: Option<Told>,
    pause: Option<u64>,
    rng: StdRng,
}

impl Port {
    fn new(seed: u64) -> Port {
        Port(Rc::new(RefCell::new(Between {
            ask: None,
            told: None,
            pause: None,
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    /// Does one operation, however often it must be asked for.
    pub async fn ask(&self, key: Key, op: Op) -> Result<Answer, OpError> {
        Ok(self.ask_with(key, op, Bytes::new()).await?.0)
    }

    /// The same with content to write; content that was read comes with the answer.
    pub async fn ask_with(&self, key: Key, op: Op, payload: Bytes) -> Told {
        self.0.borrow_mut().ask = Some((key, op, payload));
        poll_fn(|_| match self.0.borrow_mut().told.take() {
            Some(told) => Poll::Ready(told),
            None => Poll::Pending,
        })
        .await
    }

    /// Lets time pass.
    pub async fn pause(&self, ms: u64) {
        self.0.borrow_mut().pause = Some(ms);
        let mut asked = false;
        poll_fn(|_| match std::mem::replace(&mut asked, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await
    }

    /// Draws something.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.borrow_mut().rng)
    }
}

/// What a client wants after it was polled.
#[derive(Debug)]
pub enum Wants {
    /// A request is to be sent.
    Request,
    /// Time is to pass, in milliseconds.
    Pause(u64),
    /// Nothing any more.
    Ended,
}

/// A client as the scheduler sees it.
pub struct Client {
    /// The lava that it routes by.
    pub lava: Lava,
    session: SessionId,
    seqs: BTreeMap<Slot, SlotSeq>,
    slot: u16,
    /// What it remembers under leases.
    pub cache: Cache,
    /// When it last sent its request.
    sent: u64,
    /// The request that it waits for, and its payload.
    outstanding: Option<(Request, Bytes)>,
    /// Counts what it waited for: an alarm of an earlier wait means nothing.
    pub waits: u64,
    /// Counts its alarms: only the last one is heard.
    pub alarm: u64,
    port: Port,
    work: Option<Work>,
}

impl Client {
    /// A client whose work is made around its port.
    pub fn new(
        session: SessionId,
        seed: u64,
        lava: Lava,
        work: impl FnOnce(Port) -> Work,
    ) -> Client {
        let port = Port::new(seed);
        Client {
            lava,
            session,
            seqs: BTreeMap::new(),
            slot: 0,
            cache: Cache::default(),
            sent: 0,
            outstanding: None,
            waits: 0,
            alarm: 0,
            work: Some(work(port.clone())),
            port,
        }
    }

    /// Goes on with its work.
    pub fn poll(&mut self) -> Result<Wants, String> {
        let Some(work) = &mut self.work else {
            return Ok(Wants::Ended);
        };
        self.waits += 1;
        self.alarm += 1;
        let polled = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(result) = polled {
            self.work = None;
            return result.map(|()| Wants::Ended);
        }
        let mut between = self.port.0.borrow_mut();
        if let Some(ms) = between.pause.take() {
            return Ok(Wants::Pause(ms));
        }
        let Some((key, op, payload)) = between.ask.take() else {
            return Err("a client waits for nothing".into());
        };
        self.slot = (self.slot + 1) % SLOTS;
        let seq = self.seqs.entry(Slot(self.slot)).or_default();
        seq.0 += 1;
        let request = Request {
            session: self.session,
            slot: Slot(self.slot),
            seq: *seq,
            clock: 0,
            epoch: Epoch(0),
            key,
            hops: 0,
            cred: Credentials::root(),
            ops: vec![op],
        };
        self.outstanding = Some((request, payload));
        Ok(Wants::Request)
    }

    /// Takes a newer lava.
    pub fn learn(&mut self, lava: &Lava) {
        if lava.epoch > self.lava.epoch {
            self.lava = lava.clone();
            self.cache.follow(lava);
        }
    }

    /// Its session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The request to be sent (again).
    pub fn request(&mut self, time: u64) -> Option<(Request, Bytes)> {
        self.sent = time;
        let (mut request, payload) = self.outstanding.clone()?;
        request.ops.iter().for_each(|op| self.cache.changes(op));
        request.epoch = self.lava.epoch;
        Some((request, payload))
    }

    /// Whether it still waits for the answer to a request.
    pub fn awaits(&self, slot: Slot, seq: SlotSeq) -> bool {
        let waits = self.outstanding.as_ref();
        waits.is_some_and(|(request, _)| request.slot == slot && request.seq == seq)
    }

    /// Takes a reply of a volcano in one of its lives. Tells whether it was an answer;
    /// otherwise the request is sent again.
    pub fn take(&mut self, from: (VolcanoId, u64), mut reply: Reply, payload: Bytes) -> bool {
        let Some(result) = reply.results.pop() else {
            return false;
        };
        if result.as_ref().is_err_and(OpError::is_transient) {
            return false;
        }
        if let Some((request, _)) = self.outstanding.take() {
            request.ops.iter().for_each(|op| self.cache.changes(op));
        }
        if let (Some(grant), Ok(answer)) = (reply.lease, &result) {
            self.cache.told(&self.lava, from, self.sent, grant, answer);
        }
        self.port.0.borrow_mut().told = Some(result.map(|answer| (answer, payload)));
        true
    }

    /// What it is doing, for the report of a run that does not end.
    pub fn describe(&self) -> String {
        match (&self.work, &self.outstanding) {
            (None, _) => "has ended".into(),
            (Some(_), None) => "pauses".into(),
            (Some(_), Some((request, _))) => format!("waits for {request:?}"),
        }
    }
}
