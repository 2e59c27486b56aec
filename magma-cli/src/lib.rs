//! The programs, as a library: `magmad`, `mount.magma` and `magma` are one line each, so that
//! `magma demo` and the tests can be any of the three by starting themselves again.
//!
//! | module | what it holds |
//! |---|---|
//! | [`flags`] | the options of `magmad`, exactly the original's, and what they become |
//! | [`program`] | which of the programs this process is |
//! | [`process_title`] | keeps the secret key out of `ps` |
//! | [`logging`] | `tracing` to stderr, a file or syslog, with the debug channels |
//! | [`commands`] | what each program does, one a file |
//! | [`output`] | how results and errors reach a person |
//! | [`launch`] | starts real volcanos and mounts: for the demo and the tests |
//! | [`wiring`] | where the programs meet the volcano and the client |

mod allocator;
pub mod commands;
pub mod flags;
pub mod launch;
pub mod logging;
pub mod output;
pub mod process_title;
pub mod program;
pub mod wiring;
