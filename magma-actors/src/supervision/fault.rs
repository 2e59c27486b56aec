//! Panics: how they are logged, and how a test causes one.

use std::any::Any;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use actix::Message;

use super::guarded::{GuardedContext, Handle, Inner};

/// Asks an actor to panic, to show that the volcano survives it. Refused unless the process
/// was started with `MAGMA_FAULTS=1`.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), FaultsOff>")]
pub struct Panic;

/// Faults may not be injected into this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("faults are injected only into a volcano started with MAGMA_FAULTS=1")]
pub struct FaultsOff;

/// Whether this process accepts [`Panic`]. Read once: nobody turns it on later.
pub fn faults_allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| std::env::var_os("MAGMA_FAULTS").is_some_and(|value| value == "1"))
}

impl<S: Inner> Handle<Panic> for S {
    fn handle(&mut self, _: Panic, _: &mut GuardedContext<S>) -> Result<(), FaultsOff> {
        if faults_allowed() {
            panic!("a fault was injected");
        }
        Err(FaultsOff)
    }
}

/// Makes each panic one line of the log instead of a dump on standard error.
pub fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Without a log the line would be lost, and with it the only trace of the bug.
        if tracing::dispatcher::has_been_set() {
            log_panic(info);
        } else {
            default(info);
        }
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string);
    tracing::error!(
        target: "magma::v",
        thread = thread.name().unwrap_or("without a name"),
        place = place.as_deref().unwrap_or("unknown"),
        "panic: {}",
        panic_text(info.payload()),
    );
}

/// The message of a panic.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    }
}
