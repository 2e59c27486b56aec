//! The random work of clients, over a handful of names so that conflicts are common.

use bytes::Bytes;
use magma_core::error::OpError;
use magma_core::flare::{Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::key::Key;
use magma_core::limits::{BIRTH_TRIES, STALE_TRIES};
use magma_core::op::{Answer, NewFlare, Op, RenameMode, SetAttr};
use rand::Rng;
use rand::rngs::StdRng;

use super::client::Port;
use super::model::{Model, Path, Shown};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Content of a write is up to this long: past what is kept inline.
const WRITE_MAX: usize = 12_000;

type Result<T> = std::result::Result<T, OpError>;

/// One thing that a client does.
#[derive(Clone, Debug)]
enum Task {
    Create(Path, Kind),
    Remove(Path, bool),
    Link(Path, Path),
    Rename(Path, Path, RenameMode),
    Write(Path, Option<usize>, Vec<u8>),
    Truncate(Path, usize),
    Read(Path),
    Stat(Path),
    List(Path),
}

/// What it led to, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Done,
    Size(u64),
    Content(Vec<u8>),
    Shown(Shown),
    Names(Vec<String>),
}

/// Works alone, and sees what the model says, always.
pub async fn alone(port: Port, steps: u32) -> std::result::Result<(), String> {
    let mut model = Model::default();
    for step in 0..steps {
        let task = port.draw(draw_task);
        let expected = by_model(&mut model, &task);
        let seen = by_network(&port, &task).await;
        if seen != expected {
            let short =
                |what: &Result<Seen>| format!("{what:?}").chars().take(300).collect::<String>();
            return Err(format!(
                "step {step}: {task:.300?} gave {} instead of {}",
                short(&seen),
                short(&expected)
            ));
        }
    }
    Ok(())
}

/// Works with others on the same names. At the end a file of its own must be there, with
/// what it wrote, whatever the others did meanwhile.
pub async fn among_others(
    port: Port,
    number: u32,
    steps: u32,
    churn: bool,
) -> std::result::Result<(), String> {
    let own: Path = vec![["own0", "own1", "own2", "own3", "own4", "own5"][number as usize % 6]];
    let failed = |what: &str, error: OpError| format!("client {number}: {what}: {error:?}");
    create(&port, &own, Kind::File)
        .await
        .map_err(|error| failed("the creation of its own file", error))?;
    let mut written = Vec::new();
    for step in 0..steps {
        if step % 8 == 7 {
            let line = format!("{number}/{step};").into_bytes();
            write(&port, &own, None, &line)
                .await
                .map_err(|error| failed("an append to its own file", error))?;
            written.extend(line);
        }
        let task = port.draw(|rng| match churn {
            true => draw_churn(rng),
            false => draw_task(rng),
        });
        let failed = by_network(&port, &task).await.err();
        let never = matches!(
            failed,
            Some(OpError::Io | OpError::Overtaken | OpError::TooManyHops | OpError::SessionEnded)
        );
        if never {
            return Err(format!(
                "client {number}: {task:?} failed as nothing may: {failed:?}"
            ));
        }
    }
    match read(&port, &own).await {
        Ok(content) if content == written => Ok(()),
        other => Err(format!(
            "client {number}: its own file holds {other:?}, not {written:?}"
        )),
    }
}

fn draw_path(rng: &mut StdRng) -> Path {
    let depth = rng.random_range(1..=3);
    (0..depth)
        .map(|_| NAMES[rng.random_range(0..NAMES.len())])
        .collect()
}

fn draw_task(rng: &mut StdRng) -> Task {
    let path = draw_path(rng);
    match rng.random_range(0..20) {
        0..4 => Task::Create(path, Kind::Directory),
        4..7 => Task::Create(path, Kind::File),
        7..9 => Task::Remove(path, rng.random_bool(0.5)),
        9..11 => Task::Link(path, draw_path(rng)),
        11..15 => {
            let mode = match rng.random_range(0..5) {
                0 => RenameMode::NoReplace,
                1 => RenameMode::Exchange,
                _ => RenameMode::Replace,
            };
            let to = loop {
                let to = draw_path(rng);
                // Into itself is a matter of its own: what is refused first differs.
                if !to.starts_with(&path) && !path.starts_with(&to) {
                    break to;
                }
            };
            Task::Rename(path, to, mode)
        }
        15 | 16 => {
            let offset = rng.random_bool(0.5).then(|| rng.random_range(0..WRITE_MAX));
            let data = vec![rng.random_range(b'a'..=b'z'); rng.random_range(1..WRITE_MAX)];
            Task::Write(path, offset, data)
        }
        17 => match rng.random_bool(0.5) {
            true => Task::Truncate(path, rng.random_range(0..WRITE_MAX)),
            false => Task::Stat(path),
        },
        18 => Task::Read(path),
        _ => match rng.random_bool(0.5) {
            true => Task::List(path),
            false => Task::Stat(path),
        },
    }
}

/// What moves names about. Paths may lie in one another: no model is asked.
fn draw_churn(rng: &mut StdRng) -> Task {
    let path = draw_path(rng);
    match rng.random_range(0..20) {
        0..3 => Task::Create(path, Kind::Directory),
        3 | 4 => Task::Create(path, Kind::File),
        5..8 => Task::Remove(path, rng.random_bool(0.5)),
        8..10 => Task::Link(path, draw_path(rng)),
        10..18 => {
            let mode = match rng.random_range(0..4) {
                0 | 1 => RenameMode::Exchange,
                _ => RenameMode::Replace,
            };
            Task::Rename(path, draw_path(rng), mode)
        }
        _ => Task::Stat(path),
    }
}

fn by_model(model: &mut Model, task: &Task) -> Result<Seen> {
    match task {
        Task::Create(path, kind) => model.create(path, *kind).map(|()| Seen::Done),
        Task::Remove(path, directory) => model.remove(path, *directory).map(|()| Seen::Done),
        Task::Link(from, to) => model.link(from, to).map(|()| Seen::Done),
        Task::Rename(from, to, mode) => model.rename(from, to, *mode).map(|()| Seen::Done),
        Task::Write(path, offset, data) => model.write(path, *offset, data).map(Seen::Size),
        Task::Truncate(path, size) => model.truncate(path, *size).map(|()| Seen::Done),
        Task::Read(path) => model.read(path).map(Seen::Content),
        Task::Stat(path) => model.stat(path).map(Seen::Shown),
        Task::List(path) => model.list(path).map(Seen::Names),
    }
}

async fn by_network(port: &Port, task: &Task) -> Result<Seen> {
    match task {
        Task::Create(path, kind) => create(port, path, *kind).await.map(|()| Seen::Done),
        Task::Remove(path, directory) => remove(port, path, *directory).await,
        Task::Link(from, to) => link(port, from, to).await,
        Task::Rename(from, to, mode) => rename(port, from, to, *mode).await,
        Task::Write(path, offset, data) => write(port, path, *offset, data).await.map(Seen::Size),
        Task::Truncate(path, size) => truncate(port, path, *size).await,
        Task::Read(path) => read(port, path).await.map(Seen::Content),
        Task::Stat(path) => {
            let attr = walk(port, path).await?;
            let size = if attr.kind == Kind::Directory {
                0
            } else {
                attr.size
            };
            Ok(Seen::Shown(Shown {
                kind: attr.kind,
                size,
                nlink: attr.nlink,
            }))
        }
        Task::List(path) => list(port, path).await.map(Seen::Names),
    }
}

type Attr = magma_core::flare::Attr;

fn unexpected(answer: Answer) -> OpError {
    let _ = answer;
    OpError::Io
}

fn attr_of(answer: Answer) -> Result<Attr> {
    match answer {
        Answer::Attr(attr) | Answer::Linked { attr, .. } => Ok(*attr),
        other => Err(unexpected(other)),
    }
}

fn name_of(name: &str) -> Result<Name> {
    Name::new(name.as_bytes()).map_err(|_| OpError::Invalid)
}

fn birth_path(path: &[&str]) -> Vec<u8> {
    format!("/{}", path.join("/")).into_bytes()
}

async fn walk(port: &Port, path: &[&'static str]) -> Result<Attr> {
    let mut at = attr_of(port.ask(magma_core::key::ROOT, Op::GetRoot).await?)?;
    for depth in 0..path.len() {
        if at.kind != Kind::Directory {
            return Err(OpError::NotDirectory);
        }
        at = match lookup(port, at.flare, &path[..=depth]).await {
            // The directory was removed under the walk: so there is no such path.
            Err(OpError::Stale) => return Err(OpError::NotFound),
            other => other?,
        };
    }
    Ok(at)
}

async fn parent(port: &Port, path: &[&'static str]) -> Result<FlareRef> {
    let above = path.split_last().map_or(&[][..], |(_, above)| above);
    let attr = walk(port, above).await?;
    match attr.kind {
        Kind::Directory => Ok(attr.flare),
        _ => Err(OpError::NotDirectory),
    }
}

async fn lookup(port: &Port, dir: FlareRef, path: &[&'static str]) -> Result<Attr> {
    let name = name_of(path.last().copied().unwrap_or_default())?;
    for tries in 0..STALE_TRIES {
        let key = Key::of_path(&birth_path(path));
        let guess = Op::Guess {
            parent: dir,
            name: name.clone(),
        };
        match port.ask(key, guess).await {
            Ok(Answer::Attr(attr)) => return Ok(*attr),
            Ok(Answer::AskParent) | Err(OpError::NotFound | OpError::Stale) => {}
            Ok(other) => return Err(unexpected(other)),
            Err(error) => return Err(error),
        }
        let entry = Op::LookupEntry {
            dir,
            name: name.clone(),
        };
        let child = match port.ask(dir.key(), entry).await? {
            Answer::Entry {
                attr: Some(attr), ..
            } => return Ok(*attr),
            Answer::Entry { child, .. } => child,
            other => return Err(unexpected(other)),
        };
        match port.ask(child.key(), Op::GetAttr(child)).await {
            Err(OpError::Stale) => port.pause(5 << tries.min(5)).await,
            other => return attr_of(other?),
        }
    }
    Err(OpError::Stale)
}

async fn create(port: &Port, path: &Path, kind: Kind) -> Result<()> {
    let dir = parent(port, path).await?;
    let name = name_of(path.last().copied().unwrap_or_default())?;
    for n in 0..BIRTH_TRIES {
        let key = Key::of_path_nth(&birth_path(path), n);
        let op = Op::Create {
            parent: dir,
            name: name.clone(),
            new: NewFlare {
                kind,
                mode: 0o755,
                umask: 0,
                rdev: 0,
                target: Vec::new(),
                open: None,
            },
        };
        match port.ask(key, op).await {
            Err(OpError::KeyTaken) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Err(OpError::KeyTaken)
}

async fn remove(port: &Port, path: &Path, directory: bool) -> Result<Seen> {
    let dir = parent(port, path).await?;
    let name = name_of(path.last().copied().unwrap_or_default())?;
    for tries in 0..STALE_TRIES {
        let flare = lookup(port, dir, path).await?.flare;
        let name = name.clone();
        let op = match directory {
            true => Op::Rmdir {
                flare,
                parent: dir,
                name,
            },
            false => Op::Unlink {
                flare,
                parent: dir,
                name,
            },
        };
        match port.ask(flare.key(), op).await {
            Err(OpError::Stale) => port.pause(5 << tries.min(5)).await,
            other => return other.map(|_| Seen::Done),
        }
    }
    Err(OpError::Stale)
}

async fn link(port: &Port, from: &Path, to: &Path) -> Result<Seen> {
    let flare = walk(port, from).await?.flare;
    let dir = parent(port, to).await?;
    let op = Op::Link {
        flare,
        parent: dir,
        name: name_of(to.last().copied().unwrap_or_default())?,
    };
    port.ask(flare.key(), op).await.map(|_| Seen::Done)
}

async fn rename(port: &Port, from: &Path, to: &Path, mode: RenameMode) -> Result<Seen> {
    let from_dir = parent(port, from).await?;
    for tries in 0..STALE_TRIES {
        let moved = lookup(port, from_dir, from).await?;
        let to_dir = parent(port, to).await?;
        let op = Op::Rename {
            from_dir,
            from_name: name_of(from.last().copied().unwrap_or_default())?,
            moved: moved.flare,
            moved_kind: moved.kind,
            to_dir,
            to_name: name_of(to.last().copied().unwrap_or_default())?,
            mode,
        };
        match port.ask(to_dir.key(), op).await {
            Err(OpError::Stale) => port.pause(5 << tries.min(5)).await,
            other => return other.map(|_| Seen::Done),
        }
    }
    Err(OpError::Stale)
}

async fn write(port: &Port, path: &Path, offset: Option<usize>, data: &[u8]) -> Result<u64> {
    let flare = walk(port, path).await?.flare;
    let op = Op::Write {
        flare,
        offset: offset.unwrap_or_default() as u64,
        len: data.len() as u32,
        append: offset.is_none(),
        sync: false,
    };
    let payload = Bytes::copy_from_slice(data);
    match port.ask_with(flare.key(), op, payload).await?.0 {
        Answer::Written { size, .. } => Ok(size),
        other => Err(unexpected(other)),
    }
}

async fn truncate(port: &Port, path: &Path, size: usize) -> Result<Seen> {
    let flare = walk(port, path).await?.flare;
    let set = SetAttr {
        size: Some(size as u64),
        ..SetAttr::default()
    };
    let told = port.ask(flare.key(), Op::SetAttr(flare, set)).await;
    told.map(|_| Seen::Done)
}

async fn read(port: &Port, path: &Path) -> Result<Vec<u8>> {
    let flare = walk(port, path).await?.flare;
    let op = Op::Read {
        flare,
        offset: 0,
        len: magma_core::limits::IO_MAX as u32,
    };
    let told = port.ask_with(flare.key(), op, Bytes::new()).await?;
    Ok(told.1.to_vec())
}

async fn list(port: &Port, path: &Path) -> Result<Vec<String>> {
    let attr = walk(port, path).await?;
    let op = Op::ReadDir {
        dir: attr.flare,
        after: 0,
        max_bytes: 64 * 1024,
    };
    match port.ask(attr.flare.key(), op).await? {
        Answer::Entries { list, .. } => {
            let name = |entry: magma_core::op::ListedEntry| {
                String::from_utf8_lossy(entry.name.as_bytes()).into_owned()
            };
            let mut names: Vec<String> = list.into_iter().map(name).collect();
            names.sort();
            Ok(names)
        }
        other => Err(unexpected(other)),
    }
}
