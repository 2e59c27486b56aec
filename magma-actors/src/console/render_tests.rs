use super::*;
use crate::console::parser;
use magma_core::ids::{Epoch, SliceId};
use magma_core::key::Key;
use magma_core::lava::{CopyState, Slice, VolcanoInfo};
use proptest::prelude::{any, prop, proptest};

fn member(id: u64, nick: &str, last: u8) -> Volcano {
    Volcano {
        id: VolcanoId(id),
        info: VolcanoInfo {
            nick: nick.to_owned(),
            fqdn: format!("{nick}.intranet"),
            addr: [192, 168, 1, last].into(),
            port: 12000,
            bandwidth_kbit: 1024,
            storage_bytes: 0,
            arbiter: false,
        },
        down: false,
        evicted: false,
    }
}

fn slice(id: u64, start: Key, end: Key, owner: u64, copy: u64, in_sync: bool) -> Slice {
    Slice {
        id: SliceId(id),
        start,
        end,
        owner: VolcanoId(owner),
        home: VolcanoId(owner),
        since: Epoch(1),
        seized: false,
        copies: vec![CopyState {
            volcano: VolcanoId(copy),
            in_sync,
        }],
    }
}

/// wallace holds two slices; penguin has not been heard of yet.
fn three() -> (Lava, Vec<(VolcanoStatus, bool)>) {
    let a = Key::from_prefix(1 << 62);
    let b = Key::from_prefix(1 << 63);
    let c = Key::from_prefix(3 << 62);
    let before = |key: Key| key.prev().expect("not the first");
    let mut penguin = member(3, "penguin", 22);
    penguin.info.storage_bytes = 500 << 20;
    let lava = Lava {
        epoch: Epoch(9),
        redundancy: 1,
        volcanos: vec![member(1, "wallace", 20), member(2, "gromit", 21), penguin],
        slices: vec![
            slice(1, Key::MIN, before(a), 1, 2, true),
            slice(2, a, before(b), 2, 3, false),
            slice(3, b, before(c), 3, 1, true),
            slice(4, c, Key::MAX, 1, 2, true),
        ],
        ..Lava::default()
    };
    assert!(lava.covers());
    let status = |id, keys, alive| {
        let status = VolcanoStatus {
            volcano: VolcanoId(id),
            keys,
            copy_keys: 4,
            operations: 77,
            free_bytes: 700 << 20,
            total_bytes: 1000 << 20,
            ..VolcanoStatus::default()
        };
        (status, alive)
    };
    (lava, vec![status(1, 12, true), status(2, 0, false)])
}

#[test]
fn lava_of_three_volcanos() {
    let (lava, statuses) = three();
    let mut shown = String::new();
    for member in &lava.volcanos {
        let status = statuses.iter().find(|(s, _)| s.volcano == member.id);
        shown += &volcano(&lava, member, status).join("\n");
        shown += "\n\n";
    }
    assert_eq!(
        shown,
        "\
node: wallace (wallace.intranet)
alive: yes
start: 0000000000000000000000000000000000000000
stop: 3fffffffffffffffffffffffffffffffffffffff
start: c000000000000000000000000000000000000000
stop: ffffffffffffffffffffffffffffffffffffffff
keys: 12
bwidth: 1024 Kbit/s
storage: 700 / 1000 MByte

node: gromit (gromit.intranet)
alive: no
start: 4000000000000000000000000000000000000000
stop: 7fffffffffffffffffffffffffffffffffffffff
keys: 0
bwidth: 1024 Kbit/s
storage: 700 / 1000 MByte

node: penguin (penguin.intranet)
alive: no
start: 8000000000000000000000000000000000000000
stop: bfffffffffffffffffffffffffffffffffffffff
keys: unknown
bwidth: 1024 Kbit/s
storage: unknown / 500 MByte

"
    );
}

#[test]
fn details_of_a_volcano() {
    let (lava, statuses) = three();
    let shown = volcano_details(&lava, &lava.volcanos[1], statuses.get(1)).join("\n");
    assert!(
        shown.ends_with(
            "\
id: 2
coordinator: no
flare protocol: 192.168.1.21:12000 UDP
node protocol: 192.168.1.21:12001 UDP
console: 192.168.1.21:12002 TCP
copy of slice 1 of wallace: in sync
copy of slice 4 of wallace: in sync
copied keys: 4
content: 0 MByte
operations: 77
epoch: 0
start number: 0"
        ),
        "{shown}"
    );
}

#[test]
fn modes_and_devices() {
    assert_eq!(mode(Kind::File, 0o644), "-rw-r--r--");
    assert_eq!(mode(Kind::Directory, 0o1777), "drwxrwxrwt");
    assert_eq!(mode(Kind::File, 0o6711), "-rws--s--x");
    assert_eq!(mode(Kind::Fifo, 0o7000), "p--S--S--T");
    assert_eq!(device(0x0801), "8, 1");
    assert_eq!(device(0x1030_0501), "5, 66305");
}

#[test]
fn lines_are_wrapped() {
    let text = "word ".repeat(40);
    let lines = wrapped(text.trim_end(), "  ");
    assert!(lines.iter().all(|line| line.len() <= WIDTH), "{lines:?}");
    assert!(lines[1].starts_with("  word"));
    assert_eq!(lines.concat().matches("word").count(), 40);
    let long = "x".repeat(200);
    assert_eq!(wrapped(&format!("a {long} b"), ""), ["a", &long, "b"]);
    assert_eq!(wrapped("", ""), [""]);
}

fn content(pieces: &[&[u8]]) -> String {
    let mut text = ContentText::default();
    let mut shown: String = pieces.iter().map(|piece| text.piece(piece)).collect();
    shown += &text.end();
    shown
}

#[test]
fn content_cannot_take_over_the_terminal() {
    assert_eq!(content(&[b"a\tb\nc"]), "a\tb\r\nc\r\n");
    assert_eq!(content(&[b"ends\n"]), "ends\r\n");
    assert_eq!(content(&[b""]), "");
    assert_eq!(
        content(&[b"\x1b[2J\r\n\x00\xff\xf4\xc2\x9b"]),
        "\\x1b[2J\\r\r\n\\x00\\xff\\xf4\\u{9b}\r\n"
    );
    assert_eq!(content(&[b"\xe2\x82", b"\xac"]), "€\r\n");
    assert_eq!(content(&[b"\xf0\x9f", b"\x8c", b"\x8b"]), "🌋\r\n");
    assert_eq!(content(&[b"\xe2\x82"]), "\\xe2\\x82\r\n");
}

proptest! {
    #[test]
    fn what_is_shown_can_be_typed(name in prop::collection::vec(1_u8.., 0..40)) {
        let words = parser::split(quoted(&name).as_bytes()).expect("well formed");
        assert_eq!(words, [name]);
    }

    #[test]
    fn content_is_the_same_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        text in ".{0,20}",
        cut in 0_usize..80,
    ) {
        let mut bytes = bytes;
        bytes.extend_from_slice(text.as_bytes());
        let cut = cut.min(bytes.len());
        let shown = content(&[&bytes[..cut], &bytes[cut..]]);
        assert_eq!(shown, content(&[&bytes]));
        let obeyed = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
        assert!(!shown.contains(obeyed), "{shown:?}");
    }
}
