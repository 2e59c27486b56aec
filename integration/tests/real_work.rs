//! Real programs work on mounts of different volcanos, and what they made is there after a
//! shutdown and a restart, down to inode numbers and times.

#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use integration::mounted::can_mount;
use integration::snapshot::Snapshot;
use integration::stores::verify;
use integration::{Cluster, Mount, source_tree, tools};

/// Small files of the tree.
const FILES: usize = 1000;
const SEED: u64 = 20150213;
/// Transactions of the database.
const TRANSACTIONS: u32 = 1000;
/// The same with a write-ahead log, before it is handed over.
const WAL_TRANSACTIONS: u32 = 100;
/// Packages that are built, beside the program that needs them.
const PARTS: usize = 10;

#[test]
fn trees_are_copied_and_survive_a_restart() {
    if !can_mount() || !tools::have(&["cp", "diff", "rsync", "tar"]) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let one = cluster.mount(0);
    let two = cluster.mount(2);
    let source = cluster.dir().join("source");
    source_tree::generate(&source, FILES, SEED).unwrap();
    let original = Snapshot::of(&source);

    tools::run("cp", &[Path::new("-a"), &source, &one.join("cp")]);
    // With the slash: the content of the directory, with -H: hard links as such.
    let from = format!("{}/", source.display());
    tools::run(
        "rsync",
        &[Path::new("-aH"), Path::new(&from), &two.join("rsync")],
    );
    // The format that keeps fractions of seconds.
    let pack = "mkdir \"$2\" && tar -C \"$1\" --format=posix -cf - . | tar -C \"$2\" -xpf -";
    tools::run(
        "sh",
        &[
            Path::new("-c"),
            Path::new(pack),
            Path::new("sh"),
            &source,
            &one.join("tar"),
        ],
    );
    let before = Snapshot::of(one.path());
    for copy in ["cp", "rsync", "tar"] {
        original.assert_copy(&before.below(copy), copy);
    }
    before.assert_same(&Snapshot::of(two.path()), "the two mounts");
    // The same once more with the eyes of another program.
    tools::run(
        "diff",
        &[
            Path::new("-r"),
            Path::new("--no-dereference"),
            &source,
            &two.join("cp"),
        ],
    );

    one.end();
    two.end();
    cluster.shutdown();
    verify(&cluster.stores());
    cluster.restart();
    let again = cluster.mount(1);
    before.assert_same(&Snapshot::of(again.path()), "after the restart");
    fs::remove_dir_all(again.join("cp")).unwrap();
    assert!(!again.join("cp").exists());
    again.end();
    cluster.shutdown();
    verify(&cluster.stores());
}

#[test]
fn a_repository_lives_on_a_mount() {
    if !can_mount() || !tools::have(&["git"]) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let one = cluster.mount(0);
    let two = cluster.mount(1);
    let repository = one.join("repository");
    source_tree::generate(&repository, 300, SEED + 1).unwrap();
    git(&repository, &["init", "-q"]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-q", "-m", "first"]);
    fs::write(repository.join("large0"), "changed").unwrap();
    git(&repository, &["commit", "-q", "-a", "-m", "second"]);
    assert_eq!(git(&repository, &["status", "--porcelain"]), "");

    // Seen, checked and cloned through another volcano.
    let there = two.join("repository");
    git(&there, &["fsck", "--strict"]);
    assert_eq!(git(&there, &["status", "--porcelain"]), "");
    git(two.path(), &["clone", "-q", "repository", "clone"]);
    let clone = one.join("clone");
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    assert_eq!(git(&clone, &["log", "--format=%s"]), "second\nfirst\n");
    git(&clone, &["gc", "-q"]);
    git(&two.join("clone"), &["fsck", "--strict"]);

    // Several at a time, from and to both mounts, and each checked through the other one.
    let clones: Vec<_> = (0..4)
        .map(|at| {
            let (from, into) = match at % 2 {
                0 => (&one, two.path().to_owned()),
                _ => (&two, one.path().to_owned()),
            };
            let from = from.join("repository").display().to_string();
            std::thread::spawn(move || {
                let name = format!("parallel-{at}");
                // Over the protocol: a local clone would be a handful of hard links.
                git(&into, &["clone", "-q", "--no-local", &from, &name]);
            })
        })
        .collect();
    clones.into_iter().for_each(|clone| clone.join().unwrap());
    for at in 0..4 {
        let through = if at % 2 == 0 { &one } else { &two };
        let clone = through.join(format!("parallel-{at}"));
        git(&clone, &["fsck", "--strict"]);
        assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    }

    over_a_restart(&mut cluster, one, two, |mount| {
        assert_eq!(git(&mount.join("clone"), &["status", "--porcelain"]), "");
    });
}

#[test]
fn programs_are_built_on_a_mount() {
    if !can_mount() || !tools::have(&["cargo", "gcc", "make"]) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let one = cluster.mount(1);
    let two = cluster.mount(2);
    let hello = one.join("hello");
    fs::create_dir_all(hello.join("src")).unwrap();
    let package = |name: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n")
    };
    let mut manifest = package("hello") + "[workspace]\n[dependencies]\n";
    let mut words = Vec::new();
    // Enough that some are built at the same time.
    for part in 0..PARTS {
        let name = format!("part{part}");
        manifest += &format!("{name} = {{ path = \"{name}\" }}\n");
        words.push(format!("{name}::WORD"));
        fs::create_dir_all(hello.join(&name).join("src")).unwrap();
        fs::write(hello.join(&name).join("Cargo.toml"), package(&name)).unwrap();
        let letter = &"crust"[part % 5..][..1];
        let source = format!("pub const WORD: &str = \"{letter}\";\n");
        fs::write(hello.join(&name).join("src/lib.rs"), source).unwrap();
    }
    fs::write(hello.join("Cargo.toml"), manifest).unwrap();
    let main = format!(
        "fn main() {{ println!(\"{{}}\", [{}].concat()); }}\n",
        words.join(", ")
    );
    fs::write(hello.join("src/main.rs"), main).unwrap();
    let said = format!("{}\n", "crust".repeat(PARTS / 5));
    let mut build = tools::command("cargo");
    build
        .args(["build", "--offline", "--quiet", "-j4"])
        .current_dir(&hello);
    // Ours says where these tests are built.
    build.env_remove("CARGO_TARGET_DIR");
    tools::finish(build);
    let built = two.join("hello/target/debug/hello");
    assert_eq!(tools::run(built.to_str().unwrap(), &[""; 0]), said);

    let c = two.join("c");
    fs::create_dir(&c).unwrap();
    fs::write(
        c.join("Makefile"),
        "all: prog\nprog: a.o b.o\n\tgcc -o $@ a.o b.o\n%.o: %.c h.h\n\tgcc -c $<\n",
    )
    .unwrap();
    fs::write(c.join("h.h"), "int b(void);\n").unwrap();
    fs::write(
        c.join("a.c"),
        "#include \"h.h\"\nint main(void) { return b() - 42; }\n",
    )
    .unwrap();
    fs::write(
        c.join("b.c"),
        "#include \"h.h\"\nint b(void) { return 42; }\n",
    )
    .unwrap();
    tools::run_in(&c, "make", &["-s", "-j2"]);
    // Through another volcano everything is up to date: the times agree.
    let again = tools::run_in(&one.join("c"), "make", &["all"]);
    assert!(again.contains("Nothing to be done"), "{again}");
    tools::run(one.join("c/prog").to_str().unwrap(), &[""; 0]);
    // A change on one mount is newer than what was built on the other.
    fs::write(
        one.join("c/b.c"),
        "#include \"h.h\"\nint b(void) { return 6 * 7; }\n",
    )
    .unwrap();
    let again = tools::run_in(&c, "make", &["all"]);
    assert!(again.contains("gcc -c b.c"), "{again}");

    over_a_restart(&mut cluster, one, two, |mount| {
        let built = mount.join("hello/target/debug/hello");
        assert_eq!(tools::run(built.to_str().unwrap(), &[""; 0]), said);
    });
}

#[test]
fn a_database_lives_on_a_mount() {
    if !can_mount() || !tools::have(&["sqlite3"]) {
        return;
    }
    let mut cluster = Cluster::start(3);
    let one = cluster.mount(0);
    let two = cluster.mount(2);
    let database = one.join("database.sql");
    let script = one.join("script");
    let mut statements = String::from("CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT);\n");
    for n in 1..=TRANSACTIONS {
        statements += &format!("BEGIN; INSERT INTO t VALUES ({n}, hex(zeroblob(100))); COMMIT;\n");
    }
    fs::write(&script, statements).unwrap();
    let read = format!(".read {}", script.display());
    tools::run(
        "sqlite3",
        &[Path::new("-bail"), &database, Path::new(&read)],
    );
    let ask = |mount: &Mount| {
        let questions = "PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;";
        tools::run(
            "sqlite3",
            &[&mount.join("database.sql"), Path::new(questions)],
        )
    };
    let right = format!(
        "ok\n{TRANSACTIONS}|{}\n",
        TRANSACTIONS * (TRANSACTIONS + 1) / 2
    );
    assert_eq!(ask(&one), right);
    assert_eq!(ask(&two), right);
    // With a write-ahead log, which has its index in shared memory: on one mount at a time, and handed
    // over by closing it.
    let insert = |mount: &Mount, from: u32, rest: &str| {
        let mut statements =
            String::from("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;\n");
        for n in from..from + WAL_TRANSACTIONS {
            statements += &format!("INSERT INTO t VALUES ({n}, 'wal');\n");
        }
        tools::run(
            "sqlite3",
            &[&mount.join("database.sql"), Path::new(&(statements + rest))],
        )
    };
    let mut next = TRANSACTIONS + 1;
    for mount in [&one, &two, &one, &two] {
        let said = insert(mount, next, "SELECT count(*) FROM t;");
        next += WAL_TRANSACTIONS;
        assert_eq!(said, format!("wal\n{}\n", next - 1));
    }
    let right = format!("ok\n{}|{}\n", next - 1, next * (next - 1) / 2);
    assert_eq!(ask(&one), right);
    assert_eq!(ask(&two), right);
    over_a_restart(&mut cluster, one, two, |mount| {
        assert_eq!(ask(mount), right)
    });
}

/// Ends everything, starts it again, compares the whole tree and lets `look` have a look.
#[track_caller]
fn over_a_restart(cluster: &mut Cluster, one: Mount, two: Mount, look: impl Fn(&Mount)) {
    let before = Snapshot::of(one.path());
    before.assert_same(&Snapshot::of(two.path()), "the other mount");
    one.end();
    two.end();
    let said = cluster.shutdown();
    assert!(said.contains("Shutting down magma..."), "{said}");
    verify(&cluster.stores());
    cluster.restart();
    let again = cluster.mount(1);
    before.assert_same(&Snapshot::of(again.path()), "after the restart");
    look(&again);
}

/// git, with nobody's configuration but ours.
#[track_caller]
fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut git = tools::command("git");
    git.current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .args([
            "-c",
            "user.name=Wallace",
            "-c",
            "user.email=wallace@localhost",
        ])
        .args(["-c", "safe.directory=*"])
        .args(arguments);
    tools::finish(git)
}
