//! The mount: a FUSE adapter over Magma's client library.

pub mod helper;
pub mod mount;
