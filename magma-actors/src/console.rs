//! The TCP console.

pub mod telnet;
