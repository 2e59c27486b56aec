//! Replays a simulated network from its seed.

use clap::Parser;
use integration::sim::{Plan, run};

/// Simulated lava networks: engines, network, crashes and clients in one process.
#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Operations of each client.
    #[arg(long, default_value_t = 150)]
    steps: u32,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Clients mostly move things about.
    #[arg(long)]
    churn: bool,
}

// A program for a terminal: what it finds goes to standard error.
#[allow(clippy::print_stderr)]
fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let mut failed = 0;
    for seed in args.seed..args.seed.saturating_add(args.count) {
        let plan = match args.churn {
            true => Plan::churning(seed, args.steps),
            false => Plan::of(seed, args.steps),
        };
        if let Err(what) = run(plan) {
            eprintln!("{what}\n");
            failed += 1;
        }
    }
    eprintln!("{} of {} seeds failed", failed, args.count);
    std::process::ExitCode::from(u8::from(failed > 0))
}
