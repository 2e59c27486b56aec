//! The lava as this client knows it, and where it sends a key.

use rand::seq::SliceRandom;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use magma_core::ids::{Epoch, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::Lava;

/// The newest lava that this client has been told.
#[derive(Debug)]
pub(crate) struct Routing {
    lava: RwLock<Arc<Lava>>,
}

/// Where the owner of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The owner.
    pub(crate) volcano: VolcanoId,
    /// Its flare port.
    pub(crate) addr: SocketAddr,
}

impl Routing {
    pub(crate) fn new(lava: Lava) -> Routing {
        Routing {
            lava: RwLock::new(Arc::new(lava)),
        }
    }

    /// The lava.
    pub(crate) fn lava(&self) -> Arc<Lava> {
        self.lava
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.lava().epoch
    }

    /// The volcano whose flare port that is.
    pub(crate) fn volcano_at(&self, addr: SocketAddr) -> Option<VolcanoId> {
        let lava = self.lava();
        let mut volcanos = lava.volcanos.iter();
        let found = volcanos.find(|volcano| volcano.info.flare_addr() == addr);
        found.map(|volcano| volcano.id)
    }

    /// Takes a lava if it is newer: of this network, of a later generation or epoch, and
    /// whole. Whether it was taken.
    pub(crate) fn offer(&self, lava: Lava) -> bool {
        let mut held = self
            .lava
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let newer = (lava.generation, lava.epoch) > (held.generation, held.epoch);
        if lava.network != held.network || !newer || !lava.covers() {
            return false;
        }
        *held = Arc::new(lava);
        true
    }
}

/// Where the owner of a key is, by that lava.
pub(crate) fn owner(lava: &Lava, key: Key) -> Option<Target> {
    let volcano = lava.owner_of(key)?;
    let info = &lava.volcano(volcano)?.info;
    Some(Target {
        volcano,
        addr: info.flare_addr(),
    })
}

/// The flare ports of all volcanos but one, in random order, so that the clients of a
/// volcano that is cut off from them spread over the others.
pub(crate) fn others(lava: &Lava, without: Option<VolcanoId>) -> Vec<SocketAddr> {
    let mut addrs: Vec<_> = lava
        .volcanos
        .iter()
        .filter(|volcano| Some(volcano.id) != without)
        .map(|volcano| volcano.info.flare_addr())
        .collect();
    addrs.shuffle(&mut rand::rng());
    addrs
}

/// The node ports of all volcanos, in random order.
pub(crate) fn node_addrs(lava: &Lava) -> Vec<SocketAddr> {
    let mut addrs: Vec<_> = lava
        .volcanos
        .iter()
        .map(|volcano| volcano.info.node_addr())
        .collect();
    addrs.shuffle(&mut rand::rng());
    addrs
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use magma_core::ids::{NetworkId, SliceId};
    use magma_core::lava::{Slice, Volcano, VolcanoInfo};
    use std::net::{IpAddr, Ipv4Addr};

    /// A ring of two, which share the key space half and half.
    pub(crate) fn two() -> Lava {
        let half = Key::from_prefix(1 << 63);
        let volcano = |id: u64| Volcano {
            id: VolcanoId(id),
            info: VolcanoInfo {
                nick: format!("v{id}"),
                fqdn: format!("v{id}.example"),
                addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 12_000 + 10 * id as u16,
                bandwidth_kbit: 0,
                storage_bytes: 1 << 30,
                arbiter: false,
            },
            down: false,
            evicted: false,
        };
        let slice = |id: u64, start, end| Slice {
            id: SliceId(id),
            start,
            end,
            owner: VolcanoId(id),
            home: VolcanoId(id),
            since: Epoch(1),
            seized: false,
            copies: Vec::new(),
        };
        Lava {
            network: NetworkId(9),
            epoch: Epoch(5),
            redundancy: 1,
            volcanos: vec![volcano(1), volcano(2)],
            slices: vec![
                slice(1, Key::MIN, half.prev().expect("a key below")),
                slice(2, half, Key::MAX),
            ],
            ..Lava::default()
        }
    }

    #[test]
    fn only_a_newer_lava_of_this_network_is_taken() {
        let routing = Routing::new(two());
        assert!(!routing.offer(two()));
        let newer = Lava {
            epoch: Epoch(6),
            ..two()
        };
        let strange = Lava {
            network: NetworkId(8),
            ..newer.clone()
        };
        assert!(!routing.offer(strange));
        let torn = Lava {
            slices: newer.slices[..1].to_vec(),
            ..newer.clone()
        };
        assert!(!routing.offer(torn));
        assert!(routing.offer(newer));
        assert_eq!(routing.epoch(), Epoch(6));
    }

    #[test]
    fn routes_by_slice() {
        let lava = two();
        let port = |key| owner(&lava, key).map(|target| target.addr.port());
        assert_eq!(port(Key::MIN), Some(12_010));
        assert_eq!(port(Key::MAX), Some(12_020));
        assert_eq!(others(&lava, Some(VolcanoId(1))).len(), 1);
        assert_eq!(others(&lava, None).len(), 2);
        assert_eq!(owner(&Lava::default(), Key::MIN), None);
    }
}
