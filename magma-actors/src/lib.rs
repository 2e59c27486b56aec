//! The volcano: a supervised actor tree around the machines of `magma-core`.

pub mod config;
