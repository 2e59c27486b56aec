//! Who asks. The kernel passes user, group and process; the supplementary groups are read
//! from `/proc` and remembered for a moment.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use magma_core::limits::{GROUPS_CACHE, GROUPS_CACHE_MS, GROUPS_MAX};
use magma_core::op::Credentials;

use crate::client::locked;

/// The credentials of the processes that use a mount.
#[derive(Debug, Default)]
pub struct Callers {
    /// By process, user and group, as they were when the groups were read.
    known: Mutex<HashMap<(u32, u32, u32), Known>>,
}

#[derive(Debug)]
struct Known {
    groups: Vec<u32>,
    at: Instant,
}

impl Callers {
    /// The credentials of a caller. `pid` is that of the thread; 0 where the kernel asks for
    /// itself, or for a process outside our PID namespace: then there are no groups to read.
    pub fn credentials(&self, pid: u32, uid: u32, gid: u32) -> Credentials {
        let bare = Credentials {
            uid,
            gid,
            groups: Vec::new(),
        };
        // Root overrides permission bits, so its groups decide nothing.
        if pid == 0 || uid == 0 {
            return bare;
        }
        let who = (pid, uid, gid);
        let now = Instant::now();
        if let Some(known) = locked(&self.known).get(&who)
            && is_fresh(known, now)
        {
            return Credentials {
                groups: known.groups.clone(),
                ..bare
            };
        }
        // Not under the lock: it reads a file.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|status| groups_in(&status, uid, gid))
            .unwrap_or_default();
        self.remember(who, &groups, now);
        Credentials { groups, ..bare }
    }

    fn remember(&self, who: (u32, u32, u32), groups: &[u32], now: Instant) {
        let mut known = locked(&self.known);
        if known.len() >= GROUPS_CACHE {
            known.retain(|_, known| is_fresh(known, now));
        }
        if known.len() >= GROUPS_CACHE {
            known.clear();
        }
        let groups = groups.to_vec();
        known.insert(who, Known { groups, at: now });
    }
}

fn is_fresh(known: &Known, now: Instant) -> bool {
    now.saturating_duration_since(known.at) < Duration::from_millis(GROUPS_CACHE_MS)
}

/// The groups in a `/proc/PID/status`, if that process is still the caller: the file system
/// user and group (the fourth numbers) must be those of the request.
fn groups_in(status: &str, uid: u32, gid: u32) -> Option<Vec<u32>> {
    let numbers = |label: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(label))?;
        line.split_ascii_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<Vec<u32>>>()
    };
    let same = numbers("Uid:")?.get(3) == Some(&uid) && numbers("Gid:")?.get(3) == Some(&gid);
    let mut groups = numbers("Groups:").filter(|_| same)?;
    groups.truncate(GROUPS_MAX);
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\n\
        FDSize:\t64\nGroups:\t10 20 1000 \nNStgid:\t5\n";

    #[test]
    fn reads_the_groups_of_the_caller_only() {
        assert_eq!(groups_in(STATUS, 1000, 100), Some(vec![10, 20, 1000]));
        assert_eq!(groups_in(STATUS, 1001, 100), None);
        assert_eq!(groups_in(STATUS, 1000, 101), None);
        assert_eq!(groups_in("Uid:\tx\n", 1000, 100), None);
        let none = STATUS.replace("10 20 1000 ", "");
        assert_eq!(groups_in(&none, 1000, 100), Some(vec![]));
    }

    #[test]
    fn bounded() {
        let callers = Callers::default();
        let now = Instant::now();
        for pid in 1..(GROUPS_CACHE as u32 * 2) {
            callers.remember((pid, 1, 1), &[], now);
        }
        assert!(locked(&callers.known).len() <= GROUPS_CACHE);
        assert_eq!(callers.credentials(0, 5, 6).groups, Vec::<u32>::new());
    }
}
