//! Lavas for the tests of this module.

use super::{Lava, VolcanoInfo};
use crate::agreement::Change;
use crate::ids::{NetworkId, SliceId, VolcanoId};

/// A volcano of this nickname on 10.0.0.`host`, default port.
pub(crate) fn info(nick: &str, host: u8) -> VolcanoInfo {
    VolcanoInfo {
        nick: nick.into(),
        fqdn: format!("{nick}.intranet"),
        addr: [10, 0, 0, host].into(),
        port: 12000,
        bandwidth_kbit: 0,
        storage_bytes: 0,
        arbiter: false,
    }
}

/// A network of one volcano.
pub(crate) fn founded(nick: &str, redundancy: u8) -> Lava {
    apply(
        &Lava::default(),
        &[Change::Bootstrap {
            network: NetworkId(7),
            volcano: Box::new(info(nick, 1)),
            redundancy,
        }],
    )
}

/// The join of a newcomer after a member, at an address that is free in `lava`.
pub(crate) fn after(lava: &Lava, nick: &str, member: u64) -> Change {
    Change::Join {
        volcano: Box::new(info(nick, lava.next_volcano as u8)),
        after: VolcanoId(member),
    }
}

/// Applies changes that must be legal.
pub(crate) fn apply(lava: &Lava, changes: &[Change]) -> Lava {
    changes.iter().fold(lava.clone(), |lava, change| {
        let next = lava.apply(change).expect("a legal change");
        assert_eq!(next.epoch, lava.epoch.next());
        assert_eq!(next.check(), Ok(()));
        next
    })
}

/// wallace, gromit, penguin, of the numbers 1 to 3; wallace owns everything, gromit has a copy.
pub(crate) fn three() -> Lava {
    let lava = founded("wallace", 1);
    let lava = apply(&lava, &[after(&lava, "gromit", 1)]);
    let lava = apply(&lava, &[after(&lava, "penguin", 2)]);
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    apply(
        &lava,
        &[
            Change::AddCopy { slice, volcano },
            Change::CopyInSync { slice, volcano },
        ],
    )
}
