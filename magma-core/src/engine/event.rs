//! What the engine is told, and what it wants done.

use bytes::Bytes;

use crate::agreement::Change;
use crate::flare::{FlareRow, LinkRow};
use crate::ids::{Epoch, FlareRef, SessionId, SliceId, VolcanoId};
use crate::lava::Lava;
use crate::op::Answer;
use crate::time::Moment;
use crate::wire::flare_protocol::{FromClient, Reply, Request, ToClient};
use crate::wire::peer::{PeerMessage, Step, StepDone};

/// Where a request came from, and where its reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The shell's number for the reply.
    pub token: u64,
    /// It came through another volcano: it gets no lease.
    pub proxied: bool,
}

/// What copies limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStorage {
    /// It is full: nothing may be acknowledged that it must copy.
    pub full: bool,
    /// The most bytes that a file can have there.
    pub largest_file: u64,
}

/// What the engine is told.
#[derive(Debug)]
pub enum Event {
    /// A client's request, or one that another volcano passed on.
    Request {
        /// Where the reply goes.
        origin: Origin,
        /// The request.
        request: Box<Request>,
        /// Content to write.
        payload: Bytes,
    },
    /// A message of another volcano's engine.
    Peer {
        /// Whose.
        from: VolcanoId,
        /// The message.
        message: Box<PeerMessage>,
        /// Content.
        payload: Bytes,
    },
    /// A session has a connection, anew perhaps: it holds no lease from before.
    SessionHello(SessionId),
    /// What a client says unasked.
    FromClient {
        /// Its session.
        session: SessionId,
        /// What.
        message: FromClient,
    },
    /// A connection to a member works (anew): what was under way is sent again.
    PeerUp(VolcanoId),
    /// The connection to a member is gone.
    PeerDown(VolcanoId),
    /// The lava has a new epoch.
    Lava(Box<Lava>),
    /// Nobody takes our slices over before `until`, as who knows the lava of `epoch` says: until
    /// then we are their owner for sure.
    VolcanoLease {
        /// What must be known of the lava for that.
        epoch: Epoch,
        /// By the clock of [`crate::time::Now`].
        until: Moment,
    },
    /// The network is whole: clients are served from now on.
    Serve,
    /// A job of [`Action::Io`] has ended.
    IoDone {
        /// Its number.
        job: u64,
        /// How.
        done: IoDone,
    },
    /// A proposal of [`Action::Propose`] was decided, or could not be made.
    Proposed {
        /// The change.
        change: Box<Change>,
        /// Whether it is in the lava now.
        accepted: bool,
    },
    /// A slice is to get another owner: stop ordering operations, tell when all are done
    /// ([`Action::Drained`]).
    HandOver {
        /// The slice.
        slice: SliceId,
        /// The new owner, an in-sync copy.
        to: VolcanoId,
    },
    /// The slice stays after all.
    Resume {
        /// The slice.
        slice: SliceId,
    },
    /// What is to be known of the storage of a member that copies.
    PeerStorage {
        /// Which.
        volcano: VolcanoId,
        /// How it is.
        storage: PeerStorage,
    },
    /// Time has passed.
    Tick,
}

/// What the engine wants done.
#[derive(Debug)]
pub enum Action {
    /// Answer a request.
    Reply {
        /// Which.
        token: u64,
        /// The reply.
        reply: Box<Reply>,
        /// Content that was read.
        payload: Bytes,
    },
    /// Pass a request on to the owner of its key.
    Forward {
        /// Which.
        token: u64,
        /// The owner.
        to: VolcanoId,
        /// The request, with one hop more.
        request: Box<Request>,
        /// Content to write.
        payload: Bytes,
    },
    /// Send a message to another volcano's engine.
    Send {
        /// To whom.
        to: VolcanoId,
        /// The message.
        message: Box<PeerMessage>,
        /// Content, in pieces.
        payload: Vec<Bytes>,
    },
    /// Tell a client something unasked.
    Tell {
        /// Whom.
        session: SessionId,
        /// What.
        message: ToClient,
    },
    /// Do something slow with the disk, off this thread.
    Io {
        /// The number for [`Event::IoDone`].
        job: u64,
        /// What.
        io: IoJob,
    },
    /// Ask another owner, or this one, to read for a copy; [`Event::IoDone`] follows.
    Fetch {
        /// The number for [`Event::IoDone`].
        job: u64,
        /// The owner.
        to: VolcanoId,
        /// A single read.
        request: Box<Request>,
    },
    /// Propose a change of the lava.
    Propose {
        /// The lava by which it was found right: in another it may not be.
        epoch: Epoch,
        /// The change.
        change: Box<Change>,
    },
    /// A slice that is handed over has nothing under way any more.
    Drained {
        /// The slice.
        slice: SliceId,
        /// The new owner.
        to: VolcanoId,
    },
}

/// Work for the I/O pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoJob {
    /// Read content from a content file.
    Read {
        /// The file.
        flare: FlareRef,
        /// Where.
        offset: u64,
        /// How many bytes; what is not there reads as zeros.
        len: usize,
    },
    /// Put content on the disk.
    Sync {
        /// The file.
        flare: FlareRef,
    },
    /// Start writing content back, without waiting.
    WriteBack {
        /// The file.
        flare: FlareRef,
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// How a job ended.
#[derive(Debug)]
pub enum IoDone {
    /// The content.
    Read(Bytes),
    /// A part of it does not have its checksum.
    Bad {
        /// Where the first bad block begins.
        offset: u64,
        /// Bytes up to the end of the last one.
        len: usize,
    },
    /// It is on the disk.
    Synced,
    /// Write-back was started.
    Started,
    /// The disk failed.
    Failed(crate::error::OpError),
}

/// What a job was for.
#[derive(Debug)]
pub(super) enum Io {
    /// A read, as the next operation of a request.
    Read(Box<super::request::RequestState>, FlareRef, u64, usize),
    /// A read for another volcano that has asked by this number, as of this version.
    ForPeer(VolcanoId, u64, FlareRef, crate::ids::Stamp),
    /// Content of another file, for a copy.
    Fetch(Box<super::request::RequestState>),
    /// A piece of content whose digest is asked for, as of this version of its flare.
    Digest(
        Box<super::request::RequestState>,
        FlareRef,
        crate::ids::Stamp,
    ),
    /// The local half of an fsync.
    Sync(u64),
    /// Nobody waits.
    Nothing,
}

/// Work inside a batch.
#[derive(Debug)]
pub(super) enum Work {
    /// Go on with a request.
    Request(Box<super::request::RequestState>),
    /// A step of a transaction, from another volcano or from this one.
    Step {
        /// Who asks.
        from: VolcanoId,
        /// The step.
        step: Box<Step>,
    },
    /// The answer to a step that was asked here.
    StepDone(Box<StepDone>),
}

/// A flare in memory, for the console.
#[derive(Clone, Debug)]
pub struct CachedFlare {
    /// Its row.
    pub row: FlareRow,
    /// Its names, as far as they were at hand.
    pub links: Vec<LinkRow>,
}

/// Counters of a volcano since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Operations of clients served.
    pub operations: u64,
    /// Requests passed on to another owner.
    pub forwarded: u64,
    /// Operations committed as owner.
    pub committed: u64,
    /// Operations applied as copy.
    pub applied: u64,
    /// Requests that wait in the engine.
    pub parked: u64,
    /// Transactions under way.
    pub transactions: u64,
    /// Leases that sessions hold.
    pub leases: u64,
}

/// What waits for an operation to be acknowledged by all in-sync copies.
#[derive(Debug)]
pub(super) enum Release {
    /// A reply to a client.
    Reply {
        token: u64,
        reply: Box<Reply>,
        payload: Bytes,
    },
    /// A step, on its way to the owner of its key.
    Step(Box<Step>),
    /// The answer to a step.
    StepDone { to: VolcanoId, done: Box<StepDone> },
}

/// The answer of one operation that is done at once, with content that was read.
#[derive(Debug)]
pub(super) struct Outcome(pub(super) Answer, pub(super) Bytes);

impl Outcome {
    pub(super) fn done(answer: Answer) -> Outcome {
        Outcome(answer, Bytes::new())
    }
}
