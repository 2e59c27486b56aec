//! The console over real TCP, with a volcano in memory behind it.

mod fake;
mod hostile;
mod peer;

use std::rc::Rc;

use magma_core::flare::Kind;
use magma_core::key::Key;

use fake::Fake;
use peer::{Peer, start};

/// A tree with something of each kind.
fn furnished() -> Rc<Fake> {
    let fake = Fake::new();
    fake.put(b"/etc", Kind::Directory, b"");
    fake.put(b"/etc/hostname", Kind::File, b"wallace\n");
    fake.put(b"/etc/two words", Kind::File, b"x\x1b[31mred\xff");
    fake.put(b"/etc/link", Kind::Symlink, b"../etc/./hostname");
    fake.put(b"/outside", Kind::Symlink, b"/usr/lib");
    fake.put(b"/loop", Kind::Symlink, b"loop");
    fake.put(b"/fifo", Kind::Fifo, b"");
    fake.put(b"/disk", Kind::BlockDevice, b"");
    fake
}

#[actix::test]
async fn the_transcript_of_the_original() {
    let fake = furnished();
    let (address, _console) = start(&fake);
    let mut peer = Peer::silent(address).await;
    let greeting = peer.until_prompt().await;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        greeting,
        format!(
            "\r\nWelcome to MAGMA version {version}\r\n\
             This is server wallace (192.168.1.20)\r\n\
             Type help [ENTER] for available commands.\r\n\
             \r\n\
             MAGMA [wallace]:/> "
        )
    );
    peer.send(b"shutdown\r\n").await;
    assert_eq!(peer.rest().await, "Shutting down magma... ");
    let shutdowns = fake.shutdowns.borrow();
    assert_eq!(shutdowns.len(), 1);
    assert!(shutdowns[0].0 && shutdowns[0].1.ends_with("on the console of wallace"));
}

#[actix::test]
async fn shutdown_of_one_node_and_refusal() {
    let fake = furnished();
    fake.refuse_shutdown.set(true);
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    assert_eq!(
        peer.ask("shutdown node").await,
        "Shutting down magma... refused\nshutdown: gromit is joining: wait until it has\n"
    );
    fake.refuse_shutdown.set(false);
    peer.send(b"shutdown node\r\n").await;
    assert_eq!(peer.rest().await, "Shutting down magma... ");
    assert!(!fake.shutdowns.borrow()[0].0);
}

#[actix::test]
async fn the_scrub_and_what_is_lost() {
    let fake = furnished();
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    let said = peer.ask("scrub").await;
    assert!(
        said.contains("scrub: the next begins 1970-01-01 00:00 UTC"),
        "{said}"
    );
    assert!(said.contains("lost blocks: 1\n  /"), "{said}");
    assert!(said.contains(" at byte 4096\n"), "{said}");
    let said = peer.ask("scrub now").await;
    let line = "scrub: 50 % since 1970-01-02 00:00 UTC: 0 files, 5 MByte, 1 block was damaged";
    assert!(said.contains(line), "{said}");
    assert_eq!(peer.ask("scrub stop").await, "scrub: given up\n");
    assert_eq!(peer.ask("scrub stop").await, "scrub: none is under way\n");
    assert!(
        peer.ask("scrub soon")
            .await
            .contains("usage: scrub [now|stop]")
    );
}

#[actix::test]
async fn what_changes_the_members_is_said_and_asked_first() {
    let fake = furnished();
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    for answer in ["", "no", "y", "evict gromit"] {
        peer.send(b"evict gromit\r\n").await;
        let said = peer.ask(answer).await;
        assert!(said.contains("Nobody will wait for gromit."), "{said}");
        assert!(said.contains("Type yes to go on: "), "{said}");
        assert!(said.contains("nothing was done"), "{said}");
    }
    assert!(fake.interventions.borrow().is_empty());
    // What cannot be done is not asked about: the next line is a command again.
    let said = peer.ask("evict penguin").await;
    assert!(
        said.contains("cannot be done") && !said.contains("Type yes"),
        "{said}"
    );
    peer.send(b"evict gromit\r\n").await;
    let said = peer.ask(" yes ").await;
    assert!(said.ends_with("Done, in epoch 8.\n"), "{said}");
    assert_eq!(fake.interventions.borrow().len(), 1);
    assert_eq!(peer.ask("pwd").await, "/\n");
    // What was confirmed is not what it would do by now: it is said and asked anew.
    peer.send(b"evict gromit\r\n").await;
    let asks = |text: &str| text.ends_with("Type yes to go on: ");
    peer.until(asks).await;
    fake.eviction
        .set("Nobody will wait for gromit and penguin.");
    peer.send(b"yes\r\n").await;
    let said = peer.until(asks).await;
    assert!(
        said.contains("has changed") && said.contains("gromit and penguin"),
        "{said}"
    );
    assert_eq!(fake.interventions.borrow().len(), 1);
    // Ctrl-C is no answer, and the next line is a command.
    peer.send(b"\x03").await;
    peer.until_prompt().await;
    assert_eq!(peer.ask("pwd").await, "/\n");
    assert_eq!(fake.interventions.borrow().len(), 1);
}

#[actix::test]
async fn the_network() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    let lava = peer.ask("lava").await;
    assert!(
        lava.starts_with(
            "node: wallace (wallace.intranet)\nalive: yes\n\
             start: 0000000000000000000000000000000000000000\n\
             stop: 7fffffffffffffffffffffffffffffffffffffff\n\
             keys: 10\nbwidth: 1024 Kbit/s\nstorage: 700 / 1000 MByte\n\nnode: gromit"
        ),
        "{lava}"
    );
    assert!(lava.ends_with("MByte\n\n"));
    assert_eq!(
        peer.ask("status").await,
        "phase: ready\n\
         network: 00000000000000000000000000000000\n\
         generation: 0\n\
         epoch: 7\n\
         coordinator: gromit\n\
         leader: wallace\n\
         sessions: 0\n\
         awaited: penguin\n\
         slice 1 of wallace: copy on gromit in sync\n\
         slice 2 of gromit: copy on penguin being filled\n"
    );
    assert_eq!(
        peer.ask("print acl").await,
        "everybody who has the secret key: everything\n"
    );
}

#[actix::test]
async fn directories() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.ask("pwd").await, "/\n");
    assert_eq!(
        peer.ask("ls").await,
        "brw-r--r-- 1 0 100 8, 1 2015-02-13 17:00 disk\n\
         drwxr-xr-x 1 0 100    0 2015-02-13 17:00 etc\n\
         prw-r--r-- 1 0 100    0 2015-02-13 17:00 fifo\n\
         lrw-r--r-- 1 0 100    4 2015-02-13 17:00 loop -> loop\n\
         lrw-r--r-- 1 0 100    8 2015-02-13 17:00 outside -> /usr/lib\n"
    );
    peer.send(b"cd etc\r\n").await;
    assert_eq!(peer.until_prompt().await, "MAGMA [wallace]:/etc> ");
    assert_eq!(
        peer.ask("ls ../etc/hostname").await,
        "-rw-r--r-- 1 0 100 8 2015-02-13 17:00 ../etc/hostname\n"
    );
    assert!(peer.ask("ls").await.ends_with(" two words\n"));
    assert_eq!(
        peer.ask("cd hostname").await,
        "cd: /etc/hostname: it is a file, not a directory: `cat` shows files\n"
    );
    assert_eq!(
        peer.ask("ls nowhere/below").await,
        "ls: /etc/nowhere: no such file or directory: `ls` shows what is there\n"
    );
    assert_eq!(
        peer.ask("ls hostname/below").await,
        "ls: /etc/hostname/below: not a directory: `inspect` shows what it is\n"
    );
    assert_eq!(peer.ask("cd ../..").await, "");
    assert_eq!(peer.ask("pwd").await, "/\n");
    assert_eq!(
        peer.ask("ls /loop").await,
        "ls: /loop: more than 40 symbolic links on the way\n"
    );
    assert_eq!(
        peer.ask("cd outside/x").await,
        "cd: /outside: it is a symbolic link to /usr/lib, which only means something on a\n\
         mount\n"
    );
    assert_eq!(
        peer.ask(&format!("ls /{}", "a/".repeat(2100)))
            .await
            .lines()
            .last(),
        Some("the path is longer than 4095 bytes")
    );
}

#[actix::test]
async fn a_big_directory_comes_in_pages() {
    let fake = Fake::new();
    fake.put(b"/big", Kind::Directory, b"");
    for n in 0..2000 {
        fake.put(format!("/big/{n:04}").as_bytes(), Kind::File, b"");
    }
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    let listing = peer.ask("ls big").await;
    assert_eq!(listing.lines().count(), 2000);
    let names = listing.lines().map(|line| &line[line.len() - 4..]);
    assert!(names.eq((0..2000).map(|n| format!("{n:04}"))));
    // Four pages, each with a batch or two for either owner, and the walk.
    assert!(fake.requests.get() < 30, "{}", fake.requests.get());
}

#[actix::test]
async fn files() {
    let fake = furnished();
    fake.put(b"/long", Kind::File, &vec![b'a'; 1024 * 1024 + 5]);
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.ask("cat /etc/hostname").await, "wallace\n");
    assert_eq!(peer.ask("cat etc/link").await, "wallace\n");
    let red = "x\\x1b[31mred\\xff\n";
    assert_eq!(peer.ask("cat \"/etc/two words\"").await, red);
    assert_eq!(peer.ask(r"cat /etc/two\ words").await, red);
    assert_eq!(
        peer.ask("cat /etc").await,
        "cat: /etc: it is a directory: `ls` lists it\n"
    );
    assert_eq!(
        peer.ask("cat fifo").await,
        "cat: /fifo: a named pipe has no content to show\n"
    );
    let long = peer.ask("cat long").await;
    let shown = long.bytes().take_while(|byte| *byte == b'a').count();
    assert_eq!(shown, 1024 * 1024);
    assert!(
        long.ends_with(
            "\ncat: /long: these were the first 1048576 of 1048581 bytes: read the rest on a\nmount\n"
        ),
        "{}",
        &long[1024 * 1024..]
    );

    assert_eq!(
        peer.ask("erase /etc").await,
        "erase: /etc: it is a directory: remove it with rmdir on a mount\n"
    );
    assert_eq!(peer.ask("erase etc/link").await, "erased /etc/link\n");
    assert!(!fake.has(b"/etc/link") && fake.has(b"/etc/hostname"));
    assert!(peer.ask("erase etc/link").await.contains("no such file"));
    assert!(peer.ask("erase /").await.contains("is a directory"));
}

#[actix::test]
async fn inspection() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    let known = "key: d9c5f609a163521eb09b8bce743db9459da8aa83\n\
         inode: 15692218997865140766\n\
         slice: 2\n\
         owner: gromit\n\
         copy: penguin (being filled)\n\
         incarnation: 1-1-3\n\
         version: 1-1-3\n\
         type: file\n\
         mode: -rw-r--r-- (0644)\n\
         uid, gid: 0, 100\n\
         size: 8\n\
         link count: 1\n\
         read: 2015-02-13 17:00:00.000000005 UTC\n\
         written: 2015-02-13 17:00:00.000000005 UTC\n\
         changed: 2015-02-13 17:00:00.000000005 UTC\n\
         born: 2015-02-13 17:00:00.000000005 UTC\n\
         name: hostname in c0bc6f00fb44f015c1ed113e5bb202fd0597bec2\n\
         xattr: user.colour\n\
         content: in the row: row of store.sql\n\
         answered by: wallace\n";
    assert_eq!(
        peer.ask("inspect /etc/hostname").await,
        format!("path: /etc/hostname\n{known}")
    );
    let key = Key::of_path(b"/etc/hostname");
    assert_eq!(peer.ask(&format!("inspect {key}")).await, known);
    let key = Key::of_path(b"/nothing");
    assert_eq!(
        peer.ask(&format!("inspect {key}")).await,
        format!("inspect: {key}: no such file or directory:\n`ls` shows what is there\n")
    );
    // The link, not what it leads to.
    assert!(
        peer.ask("inspect /loop")
            .await
            .contains("type: symbolic link\n")
    );
}

#[actix::test]
async fn the_internal_directory() {
    let fake = furnished();
    fake.loading.set(true);
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    let listing = peer.ask("ls /.dht").await;
    let names: Vec<_> = listing
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    assert_eq!(names, ["wallace", "gromit", "penguin"]);
    assert_eq!(peer.ask("cd /.dht").await, "");
    let details = peer.ask("cat gromit").await;
    assert!(
        details.starts_with("node: gromit (gromit.intranet)\n"),
        "{details}"
    );
    assert!(details.contains("\ncoordinator: yes\n"), "{details}");
    assert!(details.contains("\nflare protocol: 192.168.1.21:12000 UDP\n"));
    assert_eq!(
        peer.ask("cat ../.dht/wallace/../penguin").await,
        peer.ask("cat penguin").await
    );
    assert!(peer.ask("inspect .").await.contains("owner: gromit"));
    assert_eq!(
        peer.ask("cat feathers").await,
        "cat: /.dht/feathers: no such file or directory: `ls` shows what is there\n"
    );
    assert_eq!(
        peer.ask("erase wallace").await,
        "erase: /.dht/wallace: it is read-only: the lava alone decides what is in it\n"
    );
}

#[actix::test]
async fn while_it_loads() {
    let fake = furnished();
    fake.loading.set(true);
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    for command in ["ls", "cat etc/hostname", "erase x"] {
        let said = peer.ask(command).await;
        assert!(
            said.replace('\n', " ").contains(
                "this volcano is loading, waits for penguin: try again when `status` says ready"
            ),
            "{said}"
        );
    }
    assert!(peer.ask("lava").await.contains("node: penguin"));
    assert!(
        peer.ask("status")
            .await
            .starts_with("phase: loading, waits for penguin\n")
    );
    assert_eq!(fake.requests.get(), 0);
}

#[actix::test]
async fn a_busy_owner_is_asked_again() {
    let fake = furnished();
    fake.busy.set(2);
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.ask("cat /etc/hostname").await, "wallace\n");
    fake.busy.set(u32::MAX);
    assert_eq!(
        peer.ask("cat /etc/hostname").await,
        "cat: /etc: the volcano is busy: try again in a moment\n"
    );
}

#[actix::test]
async fn memory_and_debugging() {
    let fake = furnished();
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.ask("cache load").await, "flares in memory: 9\n");
    let cache = peer.ask("print cache").await;
    assert!(
        cache.starts_with("d /\n  b disk\n  d etc\n    - hostname\n"),
        "{cache}"
    );
    assert!(cache.contains("\n    - \"two words\"\n"), "{cache}");

    assert_eq!(peer.ask("debug on sf").await, "debug channels open: fs\n");
    let channels = peer.ask("print debug").await;
    assert_eq!(channels.lines().count(), 16);
    assert!(channels.contains("* f  flare operations\n"), "{channels}");
    assert!(channels.contains("  F  flare protocol"), "{channels}");
    assert_eq!(peer.ask("debug off f").await, "debug channels open: s\n");
    assert_eq!(peer.ask("debug off s").await, "debug channels open: none\n");

    assert_eq!(peer.ask("fault flare").await, "fault sent to flare\n");
    assert_eq!(
        peer.ask("fault tree").await,
        "fault: tree: there is no such actor\n"
    );
    assert_eq!(fake.faults.borrow().len(), 1);
}

#[actix::test]
async fn help_and_goodbye() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    let help = peer.ask("help").await;
    for command in [
        "lava",
        "status",
        "ls",
        "cd",
        "pwd",
        "cat",
        "inspect",
        "erase",
        "cache load",
        "print cache",
        "print debug",
        "print acl",
        "debug on",
        "debug off",
        "shutdown node",
        "quit, exit",
        "help",
    ] {
        assert!(
            help.contains(&format!("\n  {command}")),
            "{command} in {help}"
        );
    }
    assert!(!help.contains("fault"));
    assert!(peer.ask("help print").await.contains("print acl"));
    assert!(peer.ask("help lava").await.contains("1048576"));
    assert!(
        peer.ask("help dance")
            .await
            .contains("there is no such command")
    );
    for everything in [&help, &peer.ask("help shutdown").await] {
        assert!(everything.lines().all(|line| line.chars().count() <= 80));
    }
    assert_eq!(
        peer.ask("frobnicate").await,
        "there is no command frobnicate: `help` lists them all\n"
    );
    assert_eq!(peer.ask("").await, "");
    peer.send(b"quit\r\n").await;
    assert_eq!(peer.rest().await, "");

    let mut peer = Peer::connect(address).await;
    peer.send(b"\x04").await;
    assert_eq!(peer.rest().await, "\r\n");
}
