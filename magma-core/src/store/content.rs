//! Content files.

/// A handle to the content directory.
#[derive(Clone, Debug)]
pub struct ContentFiles {}
