//! Actors that survive their own panics, and the one who hears of those that do not.
//!
//! Actix does not restart an actor whose handler panics: the actor is dropped and its address
//! is dead. So a stateful actor is a shell, [`Guarded`], that owns the mailbox and runs each
//! handler of its inner state under `catch_unwind`. After a panic it builds the inner state
//! anew (from the store) and goes on with the next message, under the same address. Too many
//! restarts ([`RestartBudget`]) and any other end of an actor ([`DropSentinel`]) are reported
//! to a [`Watch`], whose listener, the VolcanoActor, then ends the process in order.
//!
//! | file | what |
//! |---|---|
//! | [`guarded`] | the shell |
//! | [`budget`] | how many restarts are too many |
//! | [`watch`] | who tells whom that an actor is lost |
//! | [`fault_point`] | ends or stops the process at a step of an operation, for tests |
//! | [`fault`] | panics: how they are logged, and how a test causes one |

pub mod budget;
pub mod fault;
pub mod fault_point;
pub mod guarded;
pub mod watch;

pub use budget::RestartBudget;
pub use fault::{Panic, install_panic_hook};
pub use guarded::{Guarded, GuardedContext, Handle, Inner};
pub use watch::{DropSentinel, Failure, Watch};
