//! What each program does.

pub mod demo;
pub mod generate;
pub mod keygen;
pub mod magmad;
pub mod mount;
pub mod remote;
pub mod tools;
pub mod verify;
