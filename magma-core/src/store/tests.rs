//! Tests of the stores: what both must do, the two against each other, and the disk.

mod conformance;
mod disk;
mod random;
mod redo;
mod samples;
