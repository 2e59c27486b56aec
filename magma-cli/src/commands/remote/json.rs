//! The results as JSON: keys in lower case with underscores, times as seconds and nanoseconds
//! since 1970, keys of flares in hexadecimal. Names that are no UTF-8 are escaped as the
//! console shows them.

use magma_actors::console::render;
use magma_core::flare::path::FlarePath;
use magma_core::flare::{Attr, LinkRow};
use magma_core::key::Key;
use magma_core::lava::{Lava, Slice};
use magma_core::limits::IO_MAX;
use magma_core::op::Inspection;
use magma_core::time::Timestamp;
use serde_json::{Value, json};

use super::RemoteError;
use super::files::Listed;
use super::network::{Heard, coordinator};
use crate::output;

/// Content that a JSON document may hold: it is in memory as a whole.
const CONTENT_MAX: usize = 16 * IO_MAX;

/// Prints one document.
pub(super) fn print(document: &Value) -> Result<(), RemoteError> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    Ok(output::raw(&text)?)
}

/// `lava`: the volcanos in ring order.
pub(super) fn lava(lava: &Lava, heard: &[Heard]) -> Value {
    json!({
        "network": lava.network.to_string(),
        "generation": lava.generation.0,
        "epoch": lava.epoch.0,
        "redundancy": lava.redundancy,
        "coordinator": coordinator(lava),
        "volcanos": heard.iter().map(|one| volcano(lava, one)).collect::<Vec<_>>(),
    })
}

fn volcano(lava: &Lava, (volcano, status): &Heard) -> Value {
    let info = &volcano.info;
    let owned = lava.owned_by(volcano.id).map(|slice| {
        json!({
            "slice": slice.id.0,
            "start": slice.start.to_string(),
            "stop": slice.end.to_string(),
            "copies": copies(lava, slice),
        })
    });
    json!({
        "node": info.nick,
        "fqdn": info.fqdn,
        "address": info.addr.to_string(),
        "port": info.port,
        "alive": status.is_ok(),
        "slices": owned.collect::<Vec<_>>(),
        "bandwidth_kbit": info.bandwidth_kbit,
        // Absent when it did not answer: 0 would be a lie.
        "status": status.as_ref().ok().map(|status| json!({
            "ready": status.ready,
            "full": status.full,
            "keys": status.keys,
            "copied_keys": status.copy_keys,
            "operations": status.operations,
            "free_bytes": status.free_bytes,
            "total_bytes": status.total_bytes,
            "epoch": status.epoch.0,
            "start_number": status.start_number,
        })),
        "error": status.as_ref().err(),
    })
}

fn copies(lava: &Lava, slice: &Slice) -> Vec<Value> {
    let copies = slice.copies.iter();
    copies
        .map(|copy| json!({"node": lava.nick(copy.volcano), "in_sync": copy.in_sync}))
        .collect()
}

/// `status`: the same, with a verdict.
pub(super) fn status(of: &Lava, heard: &[Heard], problems: &[String]) -> Value {
    let mut document = lava(of, heard);
    document["sessions"] = json!(of.sessions.len());
    document["well"] = json!(problems.is_empty());
    document["problems"] = json!(problems);
    document
}

/// `ls`.
pub(super) fn listing(listed: &[Listed]) -> Value {
    let entries = listed.iter().map(|Listed { name, attr }| {
        let mut entry = attributes(attr);
        entry["name"] = json!(render::escaped(name));
        entry
    });
    Value::Array(entries.collect())
}

/// `stat`.
pub(super) fn stat(path: &FlarePath, attr: &Attr, target: Option<&[u8]>) -> Value {
    let mut document = attributes(attr);
    document["path"] = json!(render::escaped(path.as_bytes()));
    if let Some(target) = target {
        document["target"] = json!(render::escaped(target));
    }
    document
}

/// The times of a flare with their names.
pub(super) fn times(attr: &Attr) -> [(&'static str, Timestamp); 4] {
    [
        ("read", attr.atime),
        ("written", attr.mtime),
        ("changed", attr.ctime),
        ("born", attr.crtime),
    ]
}

fn attributes(attr: &Attr) -> Value {
    let mut document = json!({
        "key": attr.flare.key().to_string(),
        "incarnation": attr.flare.1.to_string(),
        "version": attr.version.to_string(),
        "inode": attr.ino(),
        "type": render::kind(attr.kind),
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "size": attr.size,
        "blocks": attr.blocks,
        "links": attr.nlink,
        "device": render::device(attr.rdev),
    });
    for (what, time) in times(attr) {
        document[what] = json!([time.secs(), time.nanos()]);
    }
    document
}

/// `inspect`.
pub(super) fn inspection(path: &FlarePath, lava: &Lava, inspection: &Inspection) -> Value {
    let row = &inspection.row;
    // What its content occupies is not part of it.
    let mut document = attributes(&Attr::of(row, 0));
    if let Some(document) = document.as_object_mut() {
        document.remove("blocks");
    }
    document["path"] = json!(render::escaped(path.as_bytes()));
    document["entries"] = json!(row.is_dir().then_some(row.entries));
    document["names"] = inspection.links.iter().map(link).collect();
    let xattrs = inspection.xattrs.iter();
    document["xattrs"] = xattrs.map(|name| render::escaped(name)).collect();
    document["content"] = json!(inspection.content);
    document["answered_by"] = json!(inspection.volcano);
    place(lava, row.key, &mut document);
    document
}

fn link(link: &LinkRow) -> Value {
    json!({
        "name": render::escaped(link.name.as_bytes()),
        "parent": link.parent.key().to_string(),
    })
}

fn place(lava: &Lava, key: Key, document: &mut Value) {
    if let Some(slice) = lava.slice_of(key) {
        document["slice"] = json!(slice.id.0);
        document["owner"] = json!(lava.nick(slice.owner));
        document["copies"] = json!(copies(lava, slice));
    }
}

/// Content of a file on its way into a document.
#[derive(Default)]
pub(super) struct Content(Vec<u8>);

impl Content {
    /// Adds a part.
    pub(super) fn add(&mut self, path: &FlarePath, part: &[u8]) -> Result<(), RemoteError> {
        if self.0.len() + part.len() > CONTENT_MAX {
            let path = path.clone();
            let reason = "it is too long for a JSON document: leave --json out";
            return Err(RemoteError::Unfit { path, reason });
        }
        self.0.extend_from_slice(part);
        Ok(())
    }

    /// The document: the content as text where it is UTF-8, else as hexadecimal digits.
    pub(super) fn document(self, path: &FlarePath, size: u64) -> Value {
        let path = render::escaped(path.as_bytes());
        match String::from_utf8(self.0) {
            Ok(text) => json!({"path": path, "size": size, "text": text}),
            Err(error) => {
                let bytes = error.as_bytes();
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"path": path, "size": size, "hex": digits})
            }
        }
    }
}
