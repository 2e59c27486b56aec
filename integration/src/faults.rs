//! The fault bench: real volcanos in network namespaces, real mounts at work, random faults, and a
//! checker that decides from what the clients saw whether anything was lost.
//!
//! | module | what |
//! |---|---|
//! | [`space`] | a network namespace with one tun device |
//! | [`wire`] | what connects them: a switch in this process that cuts, loses, delays, repeats and reorders |
//! | [`field`] | the volcanos, each in a namespace and on a small disk of its own, and the mounts |
//! | [`fault`] | what goes wrong, drawn from a seed |
//! | [`work`] | what the clients do, and the history of it |
//! | [`check`] | whether that history could be |
//! | [`figures`] | how long clients stall when a volcano dies; how long an election takes |
//!
//! The wire is not made of veth, a bridge and packet filters: those cut and lose, but do not delay or reorder
//! without a module that few kernels have, and would need a relay for the rest. A tun device hands every packet to
//! this process, which can do all of it, from one seed, and needs nothing but `ip`.

pub mod check;
pub mod fault;
pub mod field;
pub mod figures;
pub mod space;
pub mod wire;
pub mod work;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use fault::Fault;
use field::Field;
use work::Work;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Draws the faults, when, and for how long.
    pub seed: u64,
    /// Volcanos.
    pub volcanos: usize,
    /// Mounts at work.
    pub clients: usize,
    /// Faults, one after the other.
    pub rounds: usize,
}

/// What a run has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Operations whose outcome is known.
    pub known: usize,
    /// Operations whose outcome is not: the mount said that it gave up.
    pub unknown: usize,
    /// The longest operation.
    pub longest: Duration,
}

/// How long the network may take to be whole again after a fault.
const WHOLE: Duration = Duration::from_secs(90);

/// Runs a plan; `say` hears what happens. The error says what is wrong.
pub fn run(plan: Plan, say: &dyn Fn(&str)) -> Result<Shown, String> {
    let mut field = Field::start(plan.volcanos, plan.clients, plan.seed)?;
    match faults(plan, &mut field, say) {
        Ok(shown) => field.end().map(|()| shown),
        Err(why) => Err(format!("{why}\nthe logs are in {}", field.keep().display())),
    }
}

fn faults(plan: Plan, field: &mut Field, say: &dyn Fn(&str)) -> Result<Shown, String> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let work = Work::start(field)?;
    let began = Instant::now();
    for round in 1..=plan.rounds {
        std::thread::sleep(Duration::from_millis(random.random_range(200..1000)));
        let fault = Fault::draw(&mut random, field);
        let lasts = Duration::from_millis(random.random_range(300..4000));
        let at = began.elapsed().as_secs();
        say(&format!("{at:>4} s, round {round}: {fault} for {lasts:?}"));
        fault.begin(field)?;
        std::thread::sleep(lasts);
        fault.end(field)?;
        let broken = Instant::now();
        field.becomes_whole(WHOLE).map_err(|why| {
            format!("round {round}, {WHOLE:?} after {fault} the network is not whole:\n{why}")
        })?;
        let whole = broken.elapsed();
        say(&format!(
            "        whole again after {whole:.1?}; {} operations",
            work.count()
        ));
        work.goes_on(Duration::from_secs(60))?;
    }
    let history = work.end()?;
    let shown = check::check(&history, field)?;
    field.fsck()?;
    Ok(shown)
}
