//! `scrub`, `scrub now`, `scrub stop`.

use magma_core::ids::FlareRef;
use magma_core::key;
use magma_core::time::Timestamp;

use super::{CommandError, Shell};
use crate::console::ask;
use crate::console::parser::ScrubOrder;
use crate::console::render;
use crate::scrub::{Round, ScrubState};
use crate::utc;

/// Lost blocks that are shown, of the flares that have most to tell.
const SHOWN: usize = 20;
/// Directories above a flare that are asked for their names.
const DEPTH: usize = 256;

/// Shows how far the scrub is and what is damaged; begins it, or gives it up.
pub async fn scrub(shell: &mut Shell, order: ScrubOrder) -> Result<(), CommandError> {
    match order {
        ScrubOrder::Show => {}
        ScrubOrder::Now => shell.backend.scrub_now(),
        ScrubOrder::Stop => {
            let said = match shell.backend.scrub_stop() {
                true => "given up",
                false => "none is under way",
            };
            shell.output.line(format!("scrub: {said}")).await?;
            return Ok(());
        }
    }
    let (state, damage) = shell.backend.scrubbed().await;
    for line in lines(&state) {
        for line in render::wrapped(&line, "  ") {
            shell.output.line(line).await?;
        }
    }
    for line in [
        format!("repaired: {}", damage.repaired),
        format!("under repair: {}", damage.under_way),
        format!("lost blocks: {}", damage.lost.len()),
    ] {
        shell.output.line(line).await?;
    }
    for (flare, offset) in damage.lost.iter().take(SHOWN) {
        let name = match path_of(shell, *flare).await {
            Some(path) => path,
            None => format!("the flare {}", flare.key()),
        };
        let line = format!("  {name} at byte {offset}");
        shell.output.line(line).await?;
    }
    if damage.lost.len() > SHOWN {
        let more = format!("  and {} more", damage.lost.len() - SHOWN);
        shell.output.line(more).await?;
    }
    if !damage.lost.is_empty() {
        let advice = "No volcano that could be asked has these blocks right: reading them fails \
                      with EIO. Bring back a volcano that has them, write them anew, or restore \
                      the file from a backup.";
        shell.output.sentence(advice).await?;
    }
    Ok(())
}

fn lines(state: &ScrubState) -> Vec<String> {
    let time = |seconds: u64| format!("{} UTC", utc::minutes(Timestamp(seconds as i64, 0)));
    let compared = |round: &Round| {
        let mbytes = round.bytes >> 20;
        let damaged = match round.damaged {
            1 => "1 block was damaged".to_owned(),
            count => format!("{count} blocks were damaged"),
        };
        format!("{} files, {mbytes} MByte, {damaged}", round.files)
    };
    let now = match (&state.now, &state.trouble) {
        (Some(round), trouble) => {
            let percent = u64::from(round.parts) * 100 / 256;
            let pace = if state.hurry { ", in a hurry" } else { "" };
            let trouble = trouble.as_deref().map(render::text);
            let trouble = trouble.map_or(String::new(), |why| format!("; it stands still: {why}"));
            format!(
                "scrub: {percent} % since {}{pace}: {}{trouble}",
                time(round.began),
                compared(round)
            )
        }
        (None, _) => format!("scrub: the next begins {}", time(state.next)),
    };
    let last = match &state.last {
        Some(round) => format!(
            "last: {} to {}: {}",
            time(round.began),
            time(round.ended.unwrap_or(round.began)),
            compared(round)
        ),
        None => "last: none".to_owned(),
    };
    vec![now, last]
}

/// A path of a flare, by the names that lead to it; none when it has none, or somebody on the way
/// cannot be asked.
async fn path_of(shell: &Shell, flare: FlareRef) -> Option<String> {
    let mut names = Vec::new();
    let mut at = flare.key();
    for _ in 0..DEPTH {
        if at == key::ROOT {
            let path = names.iter().rev().map(|name| format!("/{name}"));
            return Some(path.collect());
        }
        let inspection = ask::inspect(shell.backend.as_ref(), at).await.ok()?;
        let link = inspection.links.first()?;
        names.push(render::escaped(link.name.as_bytes()));
        at = link.parent.key();
    }
    None
}
