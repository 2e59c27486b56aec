//! Clusters of real processes for the tests.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cluster`] | a lava network with addresses and directories of its own |
//! | [`volcano_process`] | one `magmad` of it |
//! | [`mounted`] | one `mount.magma`, and whether this machine can mount at all |
//! | [`console_client`] | the console, as telnet sees it |
//! | [`faults`] | random faults below mounts at work, and whether the history could be |
//! | [`locker`] | a process that locks, reads and writes what it is told to |
//! | [`reference`] | random system calls, compared with a tmpfs one by one |
//! | [`sim`] | a whole network of engines in one process, replayed from a seed |
//! | [`invariants`] | what must hold whenever that has come to rest |
//! | [`source_tree`] | a tree of files with everything that is odd in one, the same each time |
//! | [`snapshot`] | what a tree looks like, down to inode numbers and times |
//! | [`suites`] | conformance suites that others wrote |
//! | [`tools`] | programs of others (git, rsync, …) that work on a mount |
//! | [`worker`] | a program at work, for tests that break something below it |
//! | [`stores`] | the stores of volcanos that do not run |
//!
//! Everything ends with the test, however that ends: processes are asked to, killed if they do
//! not, and get a signal from the kernel should the test process itself be killed; mounts are
//! removed. A failing test prints the ends of the logs and where they are kept.

pub mod cluster;
pub mod console_client;
pub mod faults;
pub mod invariants;
pub mod locker;
pub mod mounted;
pub mod reference;
pub mod sim;
pub mod snapshot;
pub mod source_tree;
pub mod stores;
pub mod suites;
pub mod tools;
pub mod volcano_process;
pub mod worker;

pub use cluster::Cluster;
pub use mounted::Mount;
