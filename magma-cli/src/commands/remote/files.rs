//! `magma ls`, `cat`, `stat` and `inspect`.

use magma_actors::console::commands::inspect::{flare_lines, key_lines};
use magma_actors::console::render;
use magma_actors::utc;
use magma_core::error::OpError;
use magma_core::flare::path::FlarePath;
use magma_core::flare::{Attr, Kind};
use magma_core::limits::{IO_MAX, READDIR_BATCH};
use magma_core::op::Credentials;
use magma_fuse::client::{Client, ClientError};

use super::{Health, RemoteError, json};
use crate::output;

/// Entries whose attributes are asked for together.
const ATTRS_BATCH: usize = 256;

/// One line of a listing.
pub(super) struct Listed {
    /// The name, or the whole path of a single file.
    pub(super) name: Vec<u8>,
    pub(super) attr: Attr,
}

/// Lists a directory, or one file.
pub(super) async fn ls(
    client: &Client,
    path: &FlarePath,
    as_json: bool,
) -> Result<Health, RemoteError> {
    let cred = Credentials::root();
    let walked = client.walk(path, &cred).await?;
    if walked.attr.kind != Kind::Directory {
        let one = Listed {
            name: path.as_bytes().to_vec(),
            attr: walked.attr,
        };
        return show(&[one], as_json);
    }
    let dir = walked.attr.flare;
    let mut after = 0;
    let mut all = Vec::new();
    loop {
        let page = client.readdir(dir, after, READDIR_BATCH, &cred).await;
        let page = page.map_err(|error| at(path, error))?;
        for entries in page.entries.chunks(ATTRS_BATCH) {
            let flares: Vec<_> = entries.iter().map(|entry| entry.child).collect();
            let attrs = client.getattrs(&flares, &cred).await;
            for (entry, attr) in entries.iter().zip(attrs) {
                match attr {
                    Ok(attr) => all.push(Listed {
                        name: entry.name.as_bytes().to_vec(),
                        attr,
                    }),
                    // Removed since the page was made.
                    Err(OpError::NotFound | OpError::Stale) => {}
                    Err(error) => return Err(at(path, error).into()),
                }
            }
        }
        // Text goes out page by page; a JSON document is one.
        if !as_json {
            show(&all, false)?;
            all.clear();
        }
        match page.entries.last() {
            Some(last) if !page.end => after = last.cookie,
            _ => break,
        }
    }
    if as_json {
        show(&all, true)?;
    }
    Ok(Health::Well)
}

fn show(listed: &[Listed], as_json: bool) -> Result<Health, RemoteError> {
    if as_json {
        json::print(&json::listing(listed))?;
        return Ok(Health::Well);
    }
    for Listed { name, attr } in listed {
        output::raw(
            format!(
                "{} {:>3} {:>5} {:>5} {:>12} {} {}\n",
                render::mode(attr.kind, attr.mode),
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.size,
                utc::minutes(attr.mtime),
                render::escaped(name),
            )
            .as_bytes(),
        )?;
    }
    Ok(Health::Well)
}

/// Writes a file to the standard output as it comes.
pub(super) async fn cat(
    client: &Client,
    path: &FlarePath,
    as_json: bool,
) -> Result<Health, RemoteError> {
    let cred = Credentials::root();
    let attr = client.walk(path, &cred).await?.attr;
    if attr.kind != Kind::File {
        let reason = match attr.kind {
            Kind::Directory => "it is a directory: magma ls lists it",
            Kind::Symlink => "it is a symbolic link: magma stat shows where to",
            _ => "it has no content",
        };
        let path = path.clone();
        return Err(RemoteError::Unfit { path, reason });
    }
    let mut whole = json::Content::default();
    let mut offset = 0;
    loop {
        let part = client.read(attr.flare, offset, IO_MAX, &cred).await;
        let part = part.map_err(|error| at(path, error))?;
        if part.is_empty() {
            break;
        }
        offset += part.len() as u64;
        if as_json {
            whole.add(path, &part)?;
        } else {
            output::raw(&part)?;
        }
    }
    if as_json {
        json::print(&whole.document(path, attr.size))?;
    }
    Ok(Health::Well)
}

/// Shows attributes.
pub(super) async fn stat(
    client: &Client,
    path: &FlarePath,
    as_json: bool,
) -> Result<Health, RemoteError> {
    let cred = Credentials::root();
    let attr = client.walk(path, &cred).await?.attr;
    let target = if attr.kind == Kind::Symlink {
        let target = client.readlink(attr.flare, &cred).await;
        Some(target.map_err(|error| at(path, error))?)
    } else {
        None
    };
    if as_json {
        json::print(&json::stat(path, &attr, target.as_deref()))?;
        return Ok(Health::Well);
    }
    output::result(format_args!("path: {}", render::escaped(path.as_bytes())));
    output::result(format_args!("type: {}", render::kind(attr.kind)));
    if let Some(target) = target {
        output::result(format_args!("target: {}", render::escaped(&target)));
    }
    output::result(format_args!(
        "mode: {} ({:04o})",
        render::mode(attr.kind, attr.mode),
        attr.mode
    ));
    output::result(format_args!("uid, gid: {}, {}", attr.uid, attr.gid));
    output::result(format_args!("size: {}", attr.size));
    output::result(format_args!("blocks: {}", attr.blocks));
    output::result(format_args!("link count: {}", attr.nlink));
    output::result(format_args!("inode: {}", attr.ino()));
    for (what, time) in json::times(&attr) {
        output::result(format_args!("{what}: {} UTC", utc::nanoseconds(time)));
    }
    Ok(Health::Well)
}

/// Shows all that is known of a flare.
pub(super) async fn inspect(
    client: &Client,
    path: &FlarePath,
    as_json: bool,
) -> Result<Health, RemoteError> {
    let cred = Credentials::root();
    let key = client.walk(path, &cred).await?.attr.flare.key();
    let inspection = client.inspect(key, &cred).await;
    let inspection = inspection.map_err(|error| at(path, error))?;
    let lava = client.lava();
    if as_json {
        json::print(&json::inspection(path, &lava, &inspection))?;
        return Ok(Health::Well);
    }
    output::result(format_args!("path: {}", render::escaped(path.as_bytes())));
    for line in key_lines(&lava, key)
        .into_iter()
        .chain(flare_lines(&inspection))
    {
        output::result(line);
    }
    Ok(Health::Well)
}

fn at(path: &FlarePath, error: OpError) -> ClientError {
    let path = path.clone();
    ClientError::At { path, error }
}
