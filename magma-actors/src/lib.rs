//! The volcano: a supervised actor tree around the machines of `magma-core`.
//!
//! ```text
//!   VolcanoActor            starts, watches and ends the others; says when the volcano is ready
//!   ├─ KeyspaceActor        holds the lava and the agreement; routes a key to its owner
//!   ├─ FlareActor           serves the flare protocol; feeds the engine, which owns the store
//!   ├─ NodeProtoActor       the node protocol: hello, join, heartbeats, lava, sessions
//!   ├─ ReplicaActor         connections to the other engines: operations, copies, steps
//!   ├─ BalancerActor        measures load
//!   └─ ConsoleActor         the TCP console
//! ```
//!
//! All actors and both endpoints live on one arbiter; the engine has a thread of its own, and
//! slow disk work a pool. Who sends what to whom, for one write of a mount:
//!
//! 1. [`flare`] gets the request from [`transport`] and posts it to the [`engine`] thread;
//! 2. the engine decides, commits, and hands its actions back to the FlareActor;
//! 3. the FlareActor passes the operation to the ReplicaActor ([`replica`]), which sends it
//!    to the copy; there the ReplicaActor posts it to that engine, and the acknowledgement
//!    comes back the same way;
//! 4. the engine releases the reply, and the FlareActor answers the mount.

pub mod agreement;
pub mod backend;
pub mod balancer;
pub mod config;
pub mod console;
pub mod debug;
pub mod engine;
pub mod flare;
pub mod generation;
pub mod handover;
pub mod intervention;
pub mod keyspace;
pub mod links;
pub mod liveness;
pub mod node;
pub mod node_proto;
pub mod readiness;
pub mod replica;
pub mod runtime_thread;
pub mod scrub;
pub mod service_manager;
pub mod start;
pub mod starts;
pub mod supervision;
pub mod transport;
pub mod utc;
pub mod volcano;

pub use volcano::run;
