//! `magma verify DIR...`: reads the stores of volcanos that do not run and compares the copies.
//!
//! Every key must be at its owner and at each in-sync copy of its slice, and nowhere else; the
//! rows must be equal, and so must be the content, byte by byte.

mod compare;

use std::path::PathBuf;

use clap::Args;
use magma_core::ids::VolcanoId;
use magma_core::lava::Lava;
use magma_core::store::lock::DirLock;

use crate::output;
use crate::wiring::{self, OpenError};
pub use compare::Copy;
use compare::{Finding, Findings};

const PROGRAM: &str = "magma verify";

/// Options of the comparison.
#[derive(Args, Debug)]
pub struct VerifyFlags {
    /// The directories of the volcanos, as magmad -d has them
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Compare rows only, not the content of files
    #[arg(long)]
    rows_only: bool,
}

/// A store that was opened to be looked at.
pub struct OpenStore {
    /// Whose it is.
    pub volcano: VolcanoId,
    /// The lava as it knows it.
    pub lava: Lava,
    /// Its rows and content.
    pub copy: Box<dyn Copy>,
    /// Keeps its volcano from starting meanwhile.
    pub lock: DirLock,
}

/// Why the stores cannot be compared at all.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] magma_core::store::StoreError),
    #[error("{} belongs to network {found}, the others to {expected}", dir.display())]
    OtherNetwork {
        dir: PathBuf,
        found: String,
        expected: String,
    },
    #[error("{} and another directory are both of {nick}", dir.display())]
    Twice { dir: PathBuf, nick: String },
    #[error("the lava of epoch {0} does not cover the key space")]
    Holes(u64),
}

/// Compares the stores in these directories, for a program: the error is for a person.
pub fn check(dirs: Vec<PathBuf>) -> Result<(), String> {
    let (_, findings) = verify(&dirs, true).map_err(|error| error.to_string())?;
    match findings.shown.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{} problems, the first: {} {}",
            findings.problems, first.key, first.what
        )),
    }
}

/// Compares; 0 when all is well, 1 when something differs or cannot be read.
pub fn run(flags: &VerifyFlags) -> u8 {
    match verify(&flags.dirs, !flags.rows_only) {
        Ok((lava, findings)) => {
            show(&lava, &findings);
            if findings.is_clean() {
                0
            } else {
                output::FAILED
            }
        }
        Err(error) => {
            output::error(PROGRAM, error);
            output::FAILED
        }
    }
}

fn verify(dirs: &[PathBuf], content: bool) -> Result<(Lava, Findings), VerifyError> {
    let mut stores: Vec<OpenStore> = Vec::new();
    for dir in dirs {
        let store = wiring::open_store(dir)?;
        if let Some(first) = stores.first()
            && (first.lava.network, first.lava.generation)
                != (store.lava.network, store.lava.generation)
        {
            let name = |lava: &Lava| format!("{} generation {}", lava.network, lava.generation);
            return Err(VerifyError::OtherNetwork {
                dir: dir.clone(),
                found: name(&store.lava),
                expected: name(&first.lava),
            });
        }
        if stores.iter().any(|other| other.volcano == store.volcano) {
            return Err(VerifyError::Twice {
                dir: dir.clone(),
                nick: store.lava.nick(store.volcano),
            });
        }
        stores.push(store);
    }
    // The newest lava counts: the others have not heard of the last change.
    let newest = stores.iter().max_by_key(|store| store.lava.epoch);
    let lava = newest.map(|store| store.lava.clone()).unwrap_or_default();
    if !lava.covers() {
        return Err(VerifyError::Holes(lava.epoch.0));
    }
    let copies: Vec<(VolcanoId, &dyn Copy)> = stores
        .iter()
        .map(|store| (store.volcano, store.copy.as_ref()))
        .collect();
    let findings = compare::compare(&lava, &copies, content)?;
    Ok((lava, findings))
}

fn show(lava: &Lava, findings: &Findings) {
    let mut rows = vec![
        [
            "volcano",
            "keys owned",
            "keys copied",
            "bytes compared",
            "problems",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (volcano, count) in &findings.counts {
        rows.push(vec![
            lava.nick(*volcano),
            count.owned.to_string(),
            count.copied.to_string(),
            count.bytes.to_string(),
            count.problems.to_string(),
        ]);
    }
    output::result(output::table(&rows));
    for volcano in &findings.absent {
        output::result(format_args!(
            "{} is a member whose directory was not given: its copies were not compared",
            lava.nick(*volcano)
        ));
    }
    for Finding { key, volcano, what } in &findings.shown {
        output::result(format_args!("{key} on {}: {what}", lava.nick(*volcano)));
    }
    if findings.problems > findings.shown.len() as u64 {
        let more = findings.problems - findings.shown.len() as u64;
        output::result(format_args!("and {more} more"));
    }
    output::result(if findings.is_clean() {
        "All copies are equal."
    } else {
        "The copies are not what they should be."
    });
}
