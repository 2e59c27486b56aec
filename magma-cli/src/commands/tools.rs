//! `magma`: the tools.

use std::ffi::OsString;

/// Runs the program; `arguments` begins with its name.
pub fn main(_arguments: Vec<OsString>) -> u8 {
    0
}
