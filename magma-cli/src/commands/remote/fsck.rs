//! `magma fsck`: proves the tree and the copies of a running network, and repairs them.

mod confirm;
mod repair;
mod report;
mod scan;

use std::collections::BTreeSet;

use clap::Args;
use magma_core::error::OpResult;
use magma_core::fsck::Finding;
use magma_core::limits::FSCK_FINDINGS_MAX;
use magma_fuse::client::{Client, ClientError};

use super::{Health, NetworkFlags, RemoteError};
use scan::Counts;

/// Nothing is wrong.
const CLEAN: u8 = 0;
/// Something was wrong, and all of it is repaired.
const REPAIRED: u8 = 1;
/// Something is wrong and was left.
const LEFT: u8 = 4;
/// It could not be checked (what fsck(8) calls an operational error).
pub(super) const UNCHECKED: u8 = 8;
/// Times that the pass begins anew because slices or copies have moved.
const PASSES: u32 = 3;

/// What the exit codes mean, for `--help`.
const EXIT_CODES: &str = "\
Without --repair nothing is changed, and service goes on in any case. What is only under way is
looked at again and not reported.

Exit codes: 0 clean; 1 something was wrong and all of it is repaired; 4 something is wrong and was
left; 8 it could not be checked; 2 wrong usage.";

/// Options of the check.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub struct FsckFlags {
    #[command(flatten)]
    pub(super) network: NetworkFlags,
    /// Repair what can be repaired without deleting data that has a name
    #[arg(long)]
    repair: bool,
    /// Compare rows only, not the content of big files
    #[arg(long)]
    rows_only: bool,
}

/// All that came out.
struct Checked {
    counts: Counts,
    findings: BTreeSet<Finding>,
    /// More suspicions than were looked at again.
    cut: bool,
}

/// Checks, and repairs if asked to.
pub(super) async fn fsck(client: &Client, flags: &FsckFlags) -> Result<Health, RemoteError> {
    let checked = check(client, !flags.rows_only).await;
    let checked = checked.map_err(ClientError::from)?;
    let outcomes = if flags.repair && !checked.findings.is_empty() {
        let outcomes = repair::repair(client, &checked.findings).await;
        Some(outcomes.map_err(ClientError::from)?)
    } else {
        None
    };
    let all_repaired = outcomes
        .as_ref()
        .is_some_and(|outcomes| outcomes.values().all(Result::is_ok));
    let code = match checked.findings.is_empty() {
        true => CLEAN,
        false if all_repaired && !checked.cut => REPAIRED,
        false => LEFT,
    };
    let lines = report::lines(client, &checked.findings, outcomes.as_ref()).await;
    let lines = lines.map_err(ClientError::from)?;
    report::show(
        client,
        &checked.counts,
        &lines,
        (checked.cut, code),
        flags.network.common.json,
    )?;
    Ok(Health::Code(code))
}

async fn check(client: &Client, content: bool) -> OpResult<Checked> {
    for pass in 1.. {
        let mut counts = Counts::default();
        let lava = client.lava();
        let mut findings = scan::scan(client, &lava, content, &mut counts).await?;
        client.refresh().await;
        if client.lava().slices != lava.slices && pass < PASSES {
            continue;
        }
        let cut = findings.len() > FSCK_FINDINGS_MAX;
        while findings.len() > FSCK_FINDINGS_MAX {
            findings.pop_last();
        }
        let findings = confirm::confirm(client, findings).await?;
        return Ok(Checked {
            counts,
            cut: cut && !findings.is_empty(),
            findings,
        });
    }
    Err(magma_core::error::OpError::TryAgain)
}
