//! What each program does.

pub mod magmad;
pub mod mount;
pub mod tools;
