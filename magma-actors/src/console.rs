//! The TCP console: lines in, text out, by `telnet` or `nc`.
//!
//! | file | what |
//! |---|---|
//! | [`telnet`] | bytes to lines |
//! | [`parser`] | a line to a command |
//! | [`commands`] | what the commands do, one family a file |
//! | [`walk`], [`ask`] | from a path to a flare; one question to the owner of a key |
//! | [`render`] | what is shown, as text |
//! | [`output`] | text to bytes, at the pace of the peer |
//! | [`session`] | one connection |
//! | [`backend`] | what the console asks of the volcano |
//!
//! All of these know nothing of actix; the [`ConsoleActor`] owns the listener and the sessions.

pub mod ask;
pub mod backend;
pub mod commands;
pub mod output;
pub mod parser;
pub mod render;
pub mod session;
pub mod telnet;
pub mod walk;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, ActorContext, Context, StreamHandler};
use futures::stream;
use magma_core::limits::{CONSOLE_SESSIONS, CONSOLE_YIELD_MS};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

pub use backend::{Answers, Backend, CachedFlare, Intervention};
use session::LastLine;

/// After an accept that failed (no descriptors left, mostly) another would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A peer whose host is gone is noticed after about this and a few probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Owns the console's port. One task a connection: a panic ends that connection alone.
pub struct ConsoleActor {
    listener: std::net::TcpListener,
    backend: Rc<dyn Backend>,
    tasks: JoinSet<()>,
    seats: Vec<Seat>,
}

/// A session that occupies one of the [`CONSOLE_SESSIONS`] places.
struct Seat {
    task: AbortHandle,
    last_line: LastLine,
    peer: SocketAddr,
}

type Accepted = io::Result<(TcpStream, SocketAddr)>;

impl ConsoleActor {
    /// A console on a port that is bound already, so that a port in use is known at once.
    pub fn new(listener: std::net::TcpListener, backend: Rc<dyn Backend>) -> ConsoleActor {
        ConsoleActor {
            listener,
            backend,
            tasks: JoinSet::new(),
            seats: Vec::new(),
        }
    }

    /// A copy of the listener, so that an actor which is started again finds it.
    fn listen(&self) -> io::Result<TcpListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    fn serve(&mut self, stream: TcpStream, peer: SocketAddr) {
        while self.tasks.try_join_next().is_some() {}
        self.seats.retain(|seat| !seat.task.is_finished());
        if self.seats.len() >= CONSOLE_SESSIONS && !self.free_a_seat() {
            tracing::warn!(%peer, "console connection refused: all sessions are taken");
            // A new connection takes this much at once, or is not worth waiting for.
            let refusal = format!(
                "All {CONSOLE_SESSIONS} console sessions are in use: quit one, or try again in a minute.\r\n"
            );
            let _ = stream.try_write(refusal.as_bytes());
            return;
        }
        let socket = SockRef::from(&stream);
        let tuned = socket
            .set_tcp_nodelay(true)
            .and_then(|()| socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE)));
        if let Err(error) = tuned {
            tracing::debug!(target: "magma::c", %peer, %error, "socket options were not set");
        }
        tracing::debug!(target: "magma::c", %peer, "session begins");
        let last_line: LastLine = Rc::new(Cell::new(Instant::now()));
        let (reader, writer) = stream.into_split();
        let backend = self.backend.clone();
        let session = session::serve(reader, writer, peer.to_string(), backend, last_line.clone());
        let task = self.tasks.spawn_local(async {
            session.await;
        });
        self.seats.push(Seat {
            task,
            last_line,
            peer,
        });
    }

    /// Closes the session that has said nothing for the longest, if that is long enough:
    /// forgotten terminals must not keep everybody else out.
    fn free_a_seat(&mut self) -> bool {
        let oldest = self
            .seats
            .iter()
            .enumerate()
            .min_by_key(|(_, seat)| seat.last_line.get());
        let Some((at, seat)) = oldest else {
            return true;
        };
        if seat.last_line.get().elapsed() < Duration::from_millis(CONSOLE_YIELD_MS) {
            return false;
        }
        let seat = self.seats.swap_remove(at);
        tracing::info!(peer = %seat.peer, "idle console session closed: its place is needed");
        seat.task.abort();
        true
    }
}

impl Actor for ConsoleActor {
    type Context = Context<ConsoleActor>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.listen() {
            Ok(listener) => {
                Self::add_stream(stream::unfold(listener, accept), ctx);
            }
            Err(error) => {
                tracing::error!(%error, "the console cannot listen");
                ctx.stop();
            }
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.tasks.abort_all();
    }
}

async fn accept(listener: TcpListener) -> Option<(Accepted, TcpListener)> {
    let accepted = listener.accept().await;
    if accepted.is_err() {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    Some((accepted, listener))
}

impl StreamHandler<Accepted> for ConsoleActor {
    fn handle(&mut self, accepted: Accepted, _: &mut Self::Context) {
        match accepted {
            Ok((stream, peer)) => self.serve(stream, peer),
            Err(error) => tracing::warn!(%error, "a console connection was not accepted"),
        }
    }
}
