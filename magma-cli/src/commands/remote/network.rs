//! `magma lava` and `magma status`.

use magma_actors::console::render;
use magma_core::lava::{Lava, Volcano};
use magma_core::wire::node_protocol::VolcanoStatus;
use magma_fuse::client::volcanos::Survey;

use super::{Health, RemoteError, json};
use crate::output;

/// A member, with what it says of itself or the reason why it says nothing.
pub(super) type Heard<'a> = (&'a Volcano, &'a Result<VolcanoStatus, String>);

/// The volcanos as the console's `lava` shows them, each asked by us.
pub(super) fn lava(survey: &Survey, as_json: bool) -> Result<Health, RemoteError> {
    let (lava, heard) = (&survey.lava, heard(survey));
    if as_json {
        json::print(&json::lava(lava, &heard))?;
        return Ok(Health::Well);
    }
    for (volcano, status) in heard {
        let status = status.as_ref().ok().map(|status| (status.clone(), true));
        for line in render::volcano(lava, volcano, status.as_ref()) {
            output::result(line);
        }
        output::result("");
    }
    Ok(Health::Well)
}

/// Whether all is well: one line a volcano, one line a slice, and a verdict.
pub(super) fn status(survey: &Survey, as_json: bool) -> Result<Health, RemoteError> {
    let (lava, heard) = (&survey.lava, heard(survey));
    let problems = problems(lava, &heard);
    let health = if problems.is_empty() {
        Health::Well
    } else {
        Health::Unwell
    };
    if as_json {
        json::print(&json::status(lava, &heard, &problems))?;
        return Ok(health);
    }
    output::result(format_args!(
        "network {} generation {} epoch {}, coordinator {}, {} sessions",
        lava.network,
        lava.generation,
        lava.epoch,
        coordinator(lava).unwrap_or_else(|| "nobody".to_owned()),
        lava.sessions.len(),
    ));
    for (volcano, status) in &heard {
        let nick = render::text(&volcano.info.nick);
        match status {
            Ok(status) => output::result(format_args!(
                "{nick}: {}, {} keys, {} copied, {} operations since its start {}",
                if status.ready { "ready" } else { "not ready" },
                status.keys,
                status.copy_keys,
                status.operations,
                status.start_number,
            )),
            Err(reason) => output::result(format_args!("{nick}: {}", render::text(reason))),
        }
    }
    for problem in &problems {
        output::result(format_args!("problem: {problem}"));
    }
    if problems.is_empty() {
        output::result("All is well.");
    }
    Ok(health)
}

fn heard(survey: &Survey) -> Vec<Heard<'_>> {
    let volcanos = survey.lava.volcanos.iter();
    volcanos.zip(&survey.statuses).collect()
}

/// The nickname of the volcano that coordinates.
pub(super) fn coordinator(lava: &Lava) -> Option<String> {
    lava.coordinator().map(|id| render::nick(lava, id))
}

/// What a person should look after.
fn problems(lava: &Lava, heard: &[Heard]) -> Vec<String> {
    let mut problems = Vec::new();
    for (volcano, status) in heard {
        let nick = render::text(&volcano.info.nick);
        match status {
            Ok(status) if !status.ready => problems.push(format!(
                "{nick} does not serve yet: `status` on its console says whom it waits for"
            )),
            Ok(status) if status.full => {
                problems.push(format!("{nick} is full: remove files, or add a volcano"));
            }
            Ok(_) => {}
            // Said below.
            Err(_) if volcano.down => {}
            Err(_) => problems.push(format!("{nick} does not answer: start it again")),
        }
    }
    for volcano in lava.volcanos.iter().filter(|volcano| volcano.down) {
        let nick = render::text(&volcano.info.nick);
        problems.push(match volcano.evicted {
            true => format!("{nick} is evicted: start it again, or `forget {nick}` on a console"),
            false => format!("{nick} is down: start it again"),
        });
    }
    for slice in lava.slices.iter().filter(|s| s.home != s.owner) {
        problems.push(format!(
            "{} stands in for {} as the owner of slice {}",
            render::nick(lava, slice.owner),
            render::nick(lava, slice.home),
            slice.id
        ));
    }
    let members = lava.volcanos.iter().filter(|v| !v.evicted).count();
    // As many as there can be while the ring is small.
    let wanted = usize::from(lava.redundancy).min(members.saturating_sub(1));
    for slice in &lava.slices {
        let in_sync = slice.copies.iter().filter(|copy| copy.in_sync).count();
        if in_sync < wanted {
            problems.push(format!(
                "slice {} of {} has {in_sync} of {wanted} copies in sync",
                slice.id,
                render::nick(lava, slice.owner)
            ));
        }
    }
    problems
}
