//! The shell around an actor's inner state.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, fut};
use futures::FutureExt;
use magma_core::time::Moment;

use super::budget::RestartBudget;
use super::fault::panic_text;
use super::watch::{DropSentinel, Failure, Watch};

/// The context of a guarded actor.
pub type GuardedContext<S> = Context<Guarded<S>>;

/// The inner state of a guarded actor: what a panic may leave in pieces, and what is then
/// thrown away.
pub trait Inner: Sized + Unpin + 'static {
    /// The actor's name, for the log and for reports.
    const NAME: &'static str;

    /// The actor has started. Called once: timers and futures set up here outlive a restart.
    fn started(&mut self, ctx: &mut GuardedContext<Self>) {
        let _ = ctx;
    }

    /// This state was built after a panic of the one before it.
    fn restarted(&mut self, ctx: &mut GuardedContext<Self>) {
        let _ = ctx;
    }

    /// The actor ends in order.
    fn stopped(&mut self, ctx: &mut GuardedContext<Self>) {
        let _ = ctx;
    }
}

/// How the inner state handles one kind of message.
pub trait Handle<M: Message>: Inner {
    /// Handles it. A panic in here costs the sender its answer (`MailboxError::Closed`) and
    /// the actor its state, nothing else.
    fn handle(&mut self, message: M, ctx: &mut GuardedContext<Self>) -> M::Result;
}

/// Builds an inner state.
pub type Factory<S> = Box<dyn FnMut() -> S>;

/// An actor whose address and mailbox survive the panics of its handlers.
pub struct Guarded<S: Inner> {
    /// None once the restarts are too many: then nobody is answered any longer.
    inner: Option<S>,
    factory: Factory<S>,
    budget: RestartBudget,
    watch: Watch,
    sentinel: DropSentinel,
}

impl<S: Inner> Guarded<S> {
    /// An actor with the first state that the factory builds. The factory should take what
    /// survives a panic (the store, connections) by handle, and read the rest again.
    pub fn new(watch: Watch, mut factory: impl FnMut() -> S + 'static) -> Guarded<S> {
        Guarded {
            inner: Some(factory()),
            factory: Box::new(factory),
            budget: RestartBudget::default(),
            sentinel: DropSentinel::new(watch.clone(), S::NAME),
            watch,
        }
    }

    /// Runs something of the inner state under guard; none when it panicked or is gone.
    pub fn guarded<T>(
        &mut self,
        ctx: &mut GuardedContext<S>,
        run: impl FnOnce(&mut S, &mut GuardedContext<S>) -> T,
    ) -> Option<T> {
        let inner = self.inner.as_mut()?;
        // Unwind safe: the state that the panic saw is dropped, the context is actix's own
        // and only queues what it is told.
        match catch_unwind(AssertUnwindSafe(|| run(inner, ctx))) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.rebuild(panic, ctx);
                None
            }
        }
    }

    fn rebuild(&mut self, mut panic: Box<dyn Any + Send>, ctx: &mut GuardedContext<S>) {
        loop {
            let text = panic_text(panic.as_ref()).to_owned();
            // A drop of a broken state may panic too; it counts no further.
            let broken = self.inner.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
            match self.budget.spend(now()) {
                Ok(count) => tracing::error!(
                    target: "magma::v", actor = S::NAME, count, "restarted after a panic: {text}"
                ),
                Err(exhausted) => {
                    self.watch.fail(Failure::TooManyRestarts {
                        actor: S::NAME,
                        reason: exhausted.to_string(),
                        panic: text,
                    });
                    return;
                }
            }
            let factory = &mut self.factory;
            let built = catch_unwind(AssertUnwindSafe(|| {
                let mut inner = factory();
                inner.restarted(ctx);
                inner
            }));
            match built {
                Ok(inner) => {
                    self.inner = Some(inner);
                    self.watch.restarted(S::NAME);
                    return;
                }
                Err(again) => panic = again,
            }
        }
    }

    /// Runs a future beside the mailbox, and then something of the inner state with what it
    /// returns. A panic of the future is a panic of the actor.
    pub fn spawn<T: 'static>(
        ctx: &mut GuardedContext<S>,
        future: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut S, T, &mut GuardedContext<S>) + 'static,
    ) {
        let future = AssertUnwindSafe(future).catch_unwind();
        ctx.spawn(fut::wrap_future::<_, Self>(future).map(
            move |outcome, shell, ctx| match outcome {
                Ok(value) => {
                    shell.guarded(ctx, move |inner, ctx| then(inner, value, ctx));
                }
                Err(panic) => shell.rebuild(panic, ctx),
            },
        ));
    }

    /// Runs something of the inner state again and again.
    pub fn every(
        ctx: &mut GuardedContext<S>,
        period: Duration,
        mut run: impl FnMut(&mut S, &mut GuardedContext<S>) + 'static,
    ) {
        ctx.run_interval(period, move |shell, ctx| {
            shell.guarded(ctx, &mut run);
        });
    }
}

impl<S: Inner> Actor for Guarded<S> {
    type Context = Context<Guarded<S>>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.guarded(ctx, Inner::started);
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        // Actix calls this also while it drops the actor for a panic outside the guard.
        if !std::thread::panicking() {
            self.guarded(ctx, Inner::stopped);
            self.sentinel.disarm();
        }
    }
}

impl<S, M> Handler<M> for Guarded<S>
where
    S: Handle<M>,
    M: Message + 'static,
    M::Result: 'static,
{
    type Result = Outcome<M::Result>;

    fn handle(&mut self, message: M, ctx: &mut Self::Context) -> Self::Result {
        Outcome(self.guarded(ctx, move |inner, ctx| inner.handle(message, ctx)))
    }
}

/// The answer of a guarded handler, or nothing where it panicked: the sender then learns that
/// no answer will come.
#[derive(Debug)]
pub struct Outcome<T>(Option<T>);

impl<S, M> MessageResponse<Guarded<S>, M> for Outcome<M::Result>
where
    S: Inner,
    M: Message,
    M::Result: 'static,
{
    fn handle(self, _: &mut GuardedContext<S>, sender: Option<OneshotSender<M::Result>>) {
        if let (Some(answer), Some(sender)) = (self.0, sender) {
            // A sender that waits no longer is no fault of the actor.
            let _ = sender.send(answer);
        }
    }
}

/// Only differences count, and a host that sleeps restarts no actors meanwhile.
#[allow(
    clippy::disallowed_methods,
    reason = "supervision is a shell: it hands the moment to the budget, which decides"
)]
fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Moment(start.elapsed().as_millis() as u64)
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
