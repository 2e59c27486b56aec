//! `lava` and `status`.

use magma_core::ids::VolcanoId;
use magma_core::lava::{Lava, Slice};
use magma_core::wire::node_protocol::ResyncProgress;

use super::{CommandError, Shell};
use crate::console::render;

/// `lava`: the volcanos in ring order, a blank line after each.
pub async fn lava(shell: &mut Shell) -> Result<(), CommandError> {
    let lava = shell.backend.lava();
    let statuses = shell.backend.statuses();
    for volcano in &lava.volcanos {
        let status = statuses.iter().find(|(s, _)| s.volcano == volcano.id);
        for line in render::volcano(&lava, volcano, status) {
            shell.output.line(line).await?;
        }
        shell.output.line("").await?;
    }
    Ok(())
}

/// `status`.
pub async fn status(shell: &mut Shell) -> Result<(), CommandError> {
    let lava = shell.backend.lava();
    let statuses = shell.backend.statuses();
    let awaited: Vec<String> = lava
        .volcanos
        .iter()
        .filter(|volcano| !volcano.evicted)
        .filter(|volcano| {
            !statuses
                .iter()
                .any(|(s, alive)| *alive && s.volcano == volcano.id)
        })
        .map(|volcano| render::text(&volcano.info.nick))
        .collect();
    let awaited = match &awaited[..] {
        [] => "nobody".to_owned(),
        nicks => nicks.join(", "),
    };
    let name = |id: Option<VolcanoId>| id.map_or("nobody".to_owned(), |id| render::nick(&lava, id));
    for line in [
        format!("phase: {}", shell.backend.phase()),
        format!("network: {}", lava.network),
        format!("generation: {}", lava.generation),
        format!("epoch: {}", lava.epoch),
        format!("coordinator: {}", name(lava.coordinator())),
        format!("leader: {}", name(shell.backend.leader())),
        format!("sessions: {}", lava.sessions.len()),
        format!("awaited: {awaited}"),
    ] {
        for line in render::wrapped(&line, "  ") {
            shell.output.line(line).await?;
        }
    }
    for slice in &lava.slices {
        for line in render::wrapped(&slice_line(&lava, slice), "  ") {
            shell.output.line(line).await?;
        }
    }
    for (status, _) in statuses.iter().filter(|(_, alive)| *alive) {
        for resync in &status.resyncs {
            for line in render::wrapped(&resync_line(&lava, resync), "  ") {
                shell.output.line(line).await?;
            }
        }
    }
    Ok(())
}

fn resync_line(lava: &Lava, resync: &ResyncProgress) -> String {
    let what = match resync.fills {
        true => "gets everything".to_owned(),
        false => format!("gets what it missed: {} operations", resync.operations),
    };
    let left = match resync.left_ms() {
        Some(ms) if ms < 1000 => String::new(),
        Some(ms) => format!(", about {} left", span(ms / 1000)),
        None => ", nobody knows for how long yet".to_owned(),
    };
    format!(
        "copy of slice {} on {} {what}, {}.{} %, {} KByte sent{left}",
        resync.slice,
        render::nick(lava, resync.to),
        resync.permille / 10,
        resync.permille % 10,
        resync.bytes >> 10
    )
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}

fn slice_line(lava: &Lava, slice: &Slice) -> String {
    let copies: Vec<String> = slice
        .copies
        .iter()
        .map(|copy| {
            let nick = render::nick(lava, copy.volcano);
            format!("copy on {nick} {}", render::copy_state(lava, *copy))
        })
        .collect();
    let copies = match &copies[..] {
        [] => "no copy".to_owned(),
        copies => copies.join(", "),
    };
    let owner = render::nick(lava, slice.owner);
    let instead = match slice.owner == slice.home {
        true => String::new(),
        false => format!(", who stands in for {}", render::nick(lava, slice.home)),
    };
    format!("slice {} of {owner}{instead}: {copies}", slice.id)
}
