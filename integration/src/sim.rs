//! A whole lava network in one process, replayed from a seed.
//!
//! Several engines over memory stores, a network that delays, loses and keeps the order that
//! the real lanes keep, connections that break, volcanos that crash, volcanos that join, and
//! clients that repeat their requests. Everything random comes from one generator, nothing
//! from a clock: the same seed makes the same history, to the byte.
//!
//! | file | what |
//! |---|---|
//! | [`world`] | the scheduler: what is due next, and what it does |
//! | [`volcano`] | one engine with its store, and its crash |
//! | [`network`] | connections and lanes between volcanos |
//! | [`agreement`] | a stand-in that applies changes and spreads lavas |
//! | [`handover`] | cuts a slice for a newcomer and moves it, as the actors do |
//! | [`client`] | sessions, slots and repetition, under tasks written as `async` functions |
//! | [`cache`] | what a client remembers under leases |
//! | [`tasks`] | the random work of clients |
//! | [`model`] | a file system in a map, for exact comparison with a client that is alone |

pub mod agreement;
pub mod cache;
pub mod client;
pub mod handover;
pub mod model;
pub mod network;
pub mod tasks;
pub mod volcano;
pub mod world;

pub use world::World;

/// What a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Everything random comes from it.
    pub seed: u64,
    /// Operations that each client does.
    pub steps: u32,
    /// Clients that work at the same time; one alone is compared with the model, exactly.
    pub clients: u32,
    /// Connections break and volcanos crash while the clients work.
    pub faults: bool,
    /// Volcanos that join while the clients work, after the first two.
    pub joins: u32,
    /// Copies beside the owner.
    pub redundancy: u8,
    /// Milliseconds after which a dead volcano is evicted, if ever.
    pub evict_after_ms: Option<u64>,
    /// Mostly renames, links and removals, also of a directory into itself, and more faults.
    pub churn: bool,
}

impl Plan {
    /// The plan of a seed: every kind of run comes up.
    pub fn of(seed: u64, steps: u32) -> Plan {
        Plan {
            seed,
            steps,
            clients: if seed.is_multiple_of(3) {
                1
            } else {
                2 + (seed % 4) as u32
            },
            faults: !seed.is_multiple_of(5),
            joins: (seed % 4) as u32,
            redundancy: if seed % 7 < 5 {
                1
            } else {
                2 + (seed % 2) as u8
            },
            evict_after_ms: (seed % 11 < 5).then_some(300),
            churn: false,
        }
    }

    /// The plan of a seed for clients that mostly move things about, together.
    pub fn churning(seed: u64, steps: u32) -> Plan {
        Plan {
            clients: 2 + (seed % 4) as u32,
            churn: true,
            ..Plan::of(seed, steps)
        }
    }
}

/// Runs a plan: work and faults, then quiet, then every invariant. The error says what is
/// wrong, and how to see it again.
pub fn run(plan: Plan) -> Result<(), String> {
    let replay = format!(
        "replay with: cargo run -p integration --bin sim -- --seed {} --steps {}{}",
        plan.seed,
        plan.steps,
        if plan.churn { " --churn" } else { "" }
    );
    let mut world = World::new(plan);
    let ran = world.run().and_then(|()| crate::invariants::check(&world));
    ran.map_err(|what| format!("seed {}: {what}\n{replay}", plan.seed))
}
