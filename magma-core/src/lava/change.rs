//! Legal transitions of the lava.
