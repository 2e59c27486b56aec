//! What makes a lava valid, whoever sends it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::agreement::ChangeRefused;
use crate::ids::VolcanoId;
use crate::limits::{
    COPIES_MAX, HOST_NAME_MAX, NICK_MAX, REDUNDANCY_MAX, SESSION_LABEL_MAX, SESSIONS_MAX,
    SLICES_MAX, VOLCANOS_MAX,
};

use super::{Lava, VolcanoInfo};

/// Ports of a volcano: flare, node and console, one after the other.
const PORTS: u16 = 3;

impl Lava {
    /// Whether this is a lava that a chain of legal changes can have led to. To be asked of
    /// every lava that comes from outside before anything relies on it.
    pub fn check(&self) -> Result<(), ChangeRefused> {
        self.check_counters()?;
        self.check_volcanos()?;
        self.check_slices()?;
        self.check_sessions()
    }

    /// Whether a volcano of this description may be a member beside those that are;
    /// `itself` is left out of the comparison.
    pub(super) fn check_free(
        &self,
        info: &VolcanoInfo,
        itself: Option<VolcanoId>,
    ) -> Result<(), ChangeRefused> {
        for other in &self.volcanos {
            if Some(other.id) == itself {
                continue;
            }
            if other.info.nick == info.nick {
                return Err(ChangeRefused::NickTaken(info.nick.clone()));
            }
            let same_host = canonical(other.info.addr) == canonical(info.addr);
            if same_host && other.info.port.abs_diff(info.port) < PORTS {
                return Err(ChangeRefused::AddressTaken(
                    info.flare_addr().to_string(),
                    other.info.nick.clone(),
                ));
            }
        }
        Ok(())
    }

    fn check_counters(&self) -> Result<(), ChangeRefused> {
        let most = i64::MAX as u64;
        let counters = [
            self.epoch.0,
            self.next_volcano,
            self.next_slice,
            self.next_session,
        ];
        if counters.iter().any(|&counter| counter > most) {
            return Err(impossible("a counter of the lava is out of range"));
        }
        if self.redundancy > REDUNDANCY_MAX {
            return Err(impossible(format!(
                "a redundancy of {} is more than {REDUNDANCY_MAX}",
                self.redundancy
            )));
        }
        Ok(())
    }

    fn check_volcanos(&self) -> Result<(), ChangeRefused> {
        if self.volcanos.len() > VOLCANOS_MAX {
            return Err(ChangeRefused::Full("volcanos".into()));
        }
        let mut ids = BTreeSet::new();
        let mut nicks = BTreeSet::new();
        for volcano in &self.volcanos {
            check_info(&volcano.info)?;
            if volcano.id.0 >= self.next_volcano {
                return Err(impossible(format!(
                    "volcano {} has a number that was never given",
                    volcano.id
                )));
            }
            if !ids.insert(volcano.id) {
                return Err(impossible(format!("volcano {} is there twice", volcano.id)));
            }
            if !nicks.insert(volcano.info.nick.as_str()) {
                return Err(ChangeRefused::NickTaken(volcano.info.nick.clone()));
            }
        }
        // Sorted by address and port, only neighbours can be too close to each other.
        let mut places: Vec<_> = self
            .volcanos
            .iter()
            .map(|v| (canonical(v.info.addr), v.info.port, &v.info))
            .collect();
        places.sort_unstable_by_key(|&(addr, port, _)| (addr, port));
        for pair in places.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            if one.0 == other.0 && other.1 - one.1 < PORTS {
                return Err(ChangeRefused::AddressTaken(
                    other.2.flare_addr().to_string(),
                    one.2.nick.clone(),
                ));
            }
        }
        Ok(())
    }

    fn check_slices(&self) -> Result<(), ChangeRefused> {
        if self.slices.len() > SLICES_MAX {
            return Err(ChangeRefused::Full("slices".into()));
        }
        if !self.covers() {
            return Err(impossible(
                "the slices of the lava do not cover the key space exactly once",
            ));
        }
        let members: BTreeSet<VolcanoId> = self.volcanos.iter().map(|v| v.id).collect();
        let mut ids = BTreeSet::new();
        for slice in &self.slices {
            if slice.id.0 >= self.next_slice {
                return Err(impossible(format!(
                    "slice {} has a number that was never given",
                    slice.id
                )));
            }
            if !ids.insert(slice.id) {
                return Err(impossible(format!("slice {} is there twice", slice.id)));
            }
            if slice.copies.len() > COPIES_MAX {
                return Err(ChangeRefused::Full(format!("copies of slice {}", slice.id)));
            }
            // The owner is put in first, so that it counts as a holder met twice when it is
            // also among the copies.
            let mut holders = BTreeSet::new();
            let copies = slice.copies.iter().map(|copy| copy.volcano);
            if slice.since > self.epoch {
                return Err(impossible(format!(
                    "slice {} has its owner since epoch {}, which is yet to come",
                    slice.id, slice.since
                )));
            }
            if !members.contains(&slice.home) {
                return Err(impossible(format!(
                    "slice {} belongs to volcano {}, which is not a member",
                    slice.id, slice.home
                )));
            }
            for holder in std::iter::once(slice.owner).chain(copies) {
                if !members.contains(&holder) {
                    return Err(impossible(format!(
                        "slice {} is on volcano {holder}, which is not a member",
                        slice.id
                    )));
                }
                if self.is_arbiter(holder) {
                    return Err(impossible(format!(
                        "slice {} is on volcano {holder}, which is an arbiter",
                        slice.id
                    )));
                }
                if !holders.insert(holder) {
                    return Err(impossible(format!(
                        "slice {} is twice on volcano {holder}",
                        slice.id
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), ChangeRefused> {
        if self.sessions.len() > SESSIONS_MAX {
            return Err(ChangeRefused::Full("sessions".into()));
        }
        if !self.sessions.is_sorted_by(|one, next| one.id < next.id) {
            return Err(impossible("the sessions of the lava are out of order"));
        }
        for session in &self.sessions {
            if session.id.0 >= self.next_session {
                return Err(impossible(format!(
                    "session {} has a number that was never given",
                    session.id
                )));
            }
            if session.label.len() > SESSION_LABEL_MAX
                || session.label.chars().any(char::is_control)
            {
                return Err(malformed(
                    format!("the label of session {}", session.id),
                    format!("over {SESSION_LABEL_MAX} bytes, or with control characters"),
                ));
            }
        }
        Ok(())
    }
}

/// Whether what a volcano says of itself can stand in a lava.
pub fn check_info(info: &VolcanoInfo) -> Result<(), ChangeRefused> {
    if let Some(reason) = bad_nick(&info.nick) {
        return Err(malformed("the nickname (-n)", reason));
    }
    // Shown to people only, so it may be missing.
    if info.fqdn.len() > HOST_NAME_MAX || info.fqdn.chars().any(is_blank) {
        return Err(malformed(
            "the host name (-s)",
            format!("it has over {HOST_NAME_MAX} bytes, spaces or control characters"),
        ));
    }
    if info.addr.is_unspecified() || info.addr.is_multicast() {
        return Err(malformed(
            "the address (-i)",
            format!("other volcanos cannot send to {}", info.addr),
        ));
    }
    if info.port == 0 || info.port.checked_add(PORTS - 1).is_none() {
        return Err(malformed(
            "the port (-p)",
            format!("{} is not 1 to {}", info.port, u16::MAX - (PORTS - 1)),
        ));
    }
    Ok(())
}

/// What is wrong with a nickname. It is also the name of a file in `/.dht`.
fn bad_nick(nick: &str) -> Option<String> {
    if nick.is_empty() {
        Some("it is empty".into())
    } else if nick.len() > NICK_MAX {
        Some(format!("it has {} bytes, over {NICK_MAX}", nick.len()))
    } else if nick.chars().any(is_blank) {
        Some("it has spaces or control characters".into())
    } else if nick.contains('/') || nick == "." || nick == ".." {
        Some(format!("{nick} cannot be the name of a file"))
    } else {
        None
    }
}

fn is_blank(c: char) -> bool {
    c.is_control() || c.is_whitespace()
}

/// `::ffff:10.0.0.1` and `10.0.0.1` are one host.
fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

fn impossible(reason: impl Into<String>) -> ChangeRefused {
    ChangeRefused::Impossible(reason.into())
}

fn malformed(what: impl Into<String>, reason: impl Into<String>) -> ChangeRefused {
    ChangeRefused::Malformed(what.into(), reason.into())
}
