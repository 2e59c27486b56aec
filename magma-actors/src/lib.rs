//! The volcano: a supervised actor tree around the machines of magma-core.

pub mod config;
pub mod console;
pub mod debug;
pub mod supervision;
pub mod utc;
