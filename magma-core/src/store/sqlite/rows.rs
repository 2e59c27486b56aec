//! Rows and identifiers as columns.
//!
//! Identifiers become big-endian blobs, so that SQLite sorts them as we do.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SqliteStore;
use crate::flare::Name;
use crate::ids::{FlareRef, Stamp, TxId};
use crate::key::Key;
use crate::store::StoreResult;
use crate::wire::codec;

/// What a row of table `flares` holds. The numbers are on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The flare itself. Its name is empty.
    Row = 0,
    /// A link, named by [`link_name`].
    Link = 1,
    /// The value of an extended attribute.
    Xattr = 2,
}

/// The name of a part that there is one of.
pub(super) const NO_NAME: &[u8] = &[];

/// The name of a link's row: directory, incarnation and name.
pub(super) fn link_name(FlareRef(key, Stamp(slice, epoch, seq)): FlareRef, name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(44 + name.as_bytes().len());
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(&slice.0.to_be_bytes());
    bytes.extend_from_slice(&epoch.0.to_be_bytes());
    bytes.extend_from_slice(&seq.0.to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// A transaction.
pub(super) fn tx(TxId(session, slot, seq, part): TxId) -> [u8; 19] {
    let mut bytes = [0; 19];
    bytes[..8].copy_from_slice(&session.0.to_be_bytes());
    bytes[8..10].copy_from_slice(&slot.0.to_be_bytes());
    bytes[10..18].copy_from_slice(&seq.0.to_be_bytes());
    bytes[18] = part;
    bytes
}

/// A transaction, from its column.
pub(super) fn parse_tx(bytes: &[u8]) -> Option<TxId> {
    use crate::ids::{SessionId, Slot, SlotSeq};
    let bytes: &[u8; 19] = bytes.try_into().ok()?;
    let session = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    let slot = u16::from_be_bytes(bytes[8..10].try_into().ok()?);
    let seq = u64::from_be_bytes(bytes[10..18].try_into().ok()?);
    Some(TxId(
        SessionId(session),
        Slot(slot),
        SlotSeq(seq),
        bytes[18],
    ))
}

/// A number that only has to be itself: all 64 bits are kept, order is not.
pub(super) fn identity(number: u64) -> i64 {
    number as i64
}

/// A number that is compared: those past what SQLite counts to are all the highest.
pub(super) fn ordered(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The row number of a flare's inline content: the first 64 bits of the key, sorted as keys are.
pub(in crate::store) fn content_id(key: Key) -> i64 {
    (key.ino() ^ (1 << 63)) as i64
}

/// A limit of rows.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

impl SqliteStore {
    pub(super) fn encoded<T: Serialize>(
        &self,
        table: &'static str,
        row: &T,
    ) -> StoreResult<Vec<u8>> {
        codec::encode(row).map_err(|error| self.damaged(table, error))
    }

    pub(super) fn decoded<T: DeserializeOwned>(
        &self,
        table: &'static str,
        bytes: &[u8],
    ) -> StoreResult<T> {
        codec::decode(bytes).map_err(|error| self.damaged(table, error))
    }

    pub(super) fn key_of(&self, table: &'static str, bytes: &[u8]) -> StoreResult<Key> {
        bytes
            .try_into()
            .map(Key)
            .map_err(|_| self.damaged(table, format!("a key has {} bytes", bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SessionId, Slot, SlotSeq};

    #[test]
    fn transactions_sort_as_their_columns() {
        let ids = [
            TxId(SessionId(1), Slot(2), SlotSeq(3), 4),
            TxId(SessionId(1), Slot(2), SlotSeq(3), 5),
            TxId(SessionId(1), Slot(256), SlotSeq(0), 0),
            TxId(SessionId(u64::MAX), Slot(0), SlotSeq(0), 0),
        ];
        for pair in ids.windows(2) {
            assert!(pair[0] < pair[1] && tx(pair[0]) < tx(pair[1]));
        }
        for id in ids {
            assert_eq!(parse_tx(&tx(id)), Some(id));
        }
        assert_eq!(parse_tx(b"short"), None);
    }
}
