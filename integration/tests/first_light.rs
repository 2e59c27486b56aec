//! Three volcanos form a network, real work runs on it, and it survives an orderly shutdown
//! and a restart.

use std::fs;

use integration::Cluster;
use integration::mounted::can_mount;

#[test]
fn three_volcanos_hold_files_over_a_restart() {
    if !can_mount() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let one = cluster.mount(0);
    let two = cluster.mount(2);
    fs::create_dir(one.join("dir")).unwrap();
    for file in 0..50 {
        let text = format!("content of {file}");
        fs::write(one.join(format!("dir/file-{file}")), &text).unwrap();
        let seen = fs::read_to_string(two.join(format!("dir/file-{file}"))).unwrap();
        assert_eq!(seen, text);
    }
    fs::rename(two.join("dir"), two.join("moved")).unwrap();
    assert_eq!(fs::read_dir(one.join("moved")).unwrap().count(), 50);
    one.end();
    two.end();
    let said = cluster.shutdown();
    assert!(said.contains("Shutting down magma..."), "{said}");
    cluster.restart();
    let again = cluster.mount(1);
    for file in 0..50 {
        let seen = fs::read_to_string(again.join(format!("moved/file-{file}"))).unwrap();
        assert_eq!(seen, format!("content of {file}"));
    }
}

#[test]
fn the_console_greets_as_the_original() {
    let mut cluster = Cluster::start(1);
    let addr = cluster.volcano(0).console_addr();
    let (_, greeting) = integration::console_client::ConsoleClient::connect(addr).unwrap();
    assert!(greeting.contains("Welcome to MAGMA version"), "{greeting}");
    let server = format!("This is server wallace ({})", addr.ip());
    assert!(greeting.contains(&server), "{greeting}");
    assert!(greeting.ends_with("MAGMA [wallace]:/> "), "{greeting}");
}

#[test]
fn clusters_do_not_disturb_each_other() {
    let mut one = Cluster::start(1);
    let mut two = Cluster::start(1);
    assert_ne!(one.volcano(0).console_addr(), two.volcano(0).console_addr());
    one.shutdown();
    assert!(two.volcano(0).is_running());
}
