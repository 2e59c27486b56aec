//! The fault bench, for a person: see docs/HACKING.md.

use clap::Parser;
use integration::faults::field::Field;
use integration::faults::figures::{Role, Times, elections, stalls};
use integration::faults::{Plan, run};

/// Real volcanos in network namespaces, real mounts at work, and faults. Needs root.
#[derive(Parser)]
struct Args {
    /// Draws the faults: the same seed, the same schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults, one after the other
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Volcanos
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    volcanos: u8,
    /// Mounts at work
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=9))]
    clients: u8,
    /// Measure instead how long a writer stalls: so many kills each of owner, redundancy and coordinator
    #[arg(long, conflicts_with = "elections")]
    kills: Option<usize>,
    /// Measure instead how long an election takes, so many times
    #[arg(long)]
    elections: Option<usize>,
}

fn show(what: &str, times: &Times) -> String {
    format!(
        "{what}: median {:.2?}, worst {:.2?} of {}",
        times.median(),
        times.worst(),
        times.0.len()
    )
}

fn measured(args: &Args, say: &dyn Fn(&str)) -> Result<String, String> {
    let volcanos = usize::from(args.volcanos);
    if let Some(kills) = args.kills {
        let mut field = Field::start(volcanos, 1, args.seed)?;
        let mut lines = Vec::new();
        for role in [Role::Owner, Role::Redundancy, Role::Coordinator] {
            let times = stalls(&mut field, role, kills, say)?;
            lines.push(show(&format!("stall when the {role:?} is killed"), &times));
        }
        field.end()?;
        return Ok(lines.join("\n"));
    }
    if let Some(count) = args.elections {
        let mut field = Field::start(volcanos, 0, args.seed)?;
        let times = elections(&mut field, count, say)?;
        field.end()?;
        return Ok(show("election after a kill", &times));
    }
    let plan = Plan {
        seed: args.seed,
        volcanos,
        clients: usize::from(args.clients),
        rounds: args.rounds,
    };
    let shown = run(plan, say)?;
    Ok(format!(
        "{} rounds: {} operations acknowledged, none lost; {} of unknown outcome; the longest took {:.1?}",
        plan.rounds, shown.known, shown.unknown, shown.longest
    ))
}

// A program for a terminal.
#[allow(clippy::print_stderr, clippy::print_stdout)]
fn main() -> std::process::ExitCode {
    let args = Args::parse();
    match measured(&args, &|line| eprintln!("{line}")) {
        Ok(said) => {
            println!("{said}");
            std::process::ExitCode::SUCCESS
        }
        Err(why) => {
            println!("seed {}, {} volcanos: {why}", args.seed, args.volcanos);
            std::process::ExitCode::FAILURE
        }
    }
}
