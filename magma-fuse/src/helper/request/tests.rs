use super::*;

fn invocation(line: &str) -> Result<Invocation, UsageError> {
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    parse(&arguments)
}

fn request(line: &str) -> MountRequest {
    match invocation(line) {
        Ok(Invocation::Mount(parsed)) => parsed.resolve(None).unwrap(),
        other => panic!("{line}: {other:?}"),
    }
}

fn hosts(request: &MountRequest) -> String {
    let hosts: Vec<String> = request.hosts.iter().map(HostPort::to_string).collect();
    hosts.join(" ")
}

#[test]
fn the_form_of_the_original() {
    let request = request("--host=192.168.1.20 -s --key=m4gm4s3cr3t /tmp");
    assert_eq!(hosts(&request), "192.168.1.20:12000");
    assert_eq!(request.secret.reveal(), "m4gm4s3cr3t");
    assert_eq!(request.mount.source, "192.168.1.20:/");
    assert_eq!(request.mount.threads, 1);
    assert!(!request.foreground);
    assert_eq!(request.log, LogTarget::Syslog);
}

#[test]
fn the_form_of_a_person_in_full() {
    let request = request(
        "--ip a --host=b:7 -p 13000 --keyphrase k --debug fs -f --patience=5 --log l -o ro,noatime /tmp/",
    );
    assert_eq!(hosts(&request), "a:13000 b:7");
    assert_eq!(request.mount.source, "a,b:7:/");
    assert_eq!(request.debug.letters(), "fs");
    assert_eq!(request.patience, Duration::from_secs(5));
    assert_eq!(request.mount.target, PathBuf::from("/tmp"));
    assert!(
        request
            .mount
            .flags
            .contains(MsFlags::MS_RDONLY | MsFlags::MS_NOATIME)
    );
    assert!(matches!(request.log, LogTarget::File(file) if file.is_absolute()));
    assert!(request.foreground);
}

#[test]
fn a_remount_takes_flags_and_no_key() {
    // As mount(8) calls for a mount that is not in fstab.
    let line =
        "h:/ /tmp -o rw,relatime,user_id=0,group_id=0,allow_other,max_read=1048576,remount,ro";
    match invocation(line) {
        Ok(Invocation::Remount { target, flags }) => {
            assert_eq!(target, PathBuf::from("/tmp"));
            assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_RELATIME);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_form_of_mount8() {
    let line = "h1,h2:13000:/a/b /tmp -nv -o rw,_netdev,nofail,user,noexec,nosuid,nodev,\
                x-systemd.automount,key=k,port=7,comment=c,defaults";
    let Invocation::Mount(parsed) = invocation(line).unwrap() else {
        panic!();
    };
    assert!(!parsed.fake);
    let request = parsed.resolve(None).unwrap();
    assert_eq!(hosts(&request), "h1:7 h2:13000");
    assert_eq!(request.mount.source, "h1,h2:13000:/a/b");
    assert_eq!(request.dir, FlarePath::parse(b"/a/b").unwrap());
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    assert_eq!(request.mount.flags, flags);
    assert!(request.mount.threads > 1);
}

#[test]
fn letters_mean_what_the_form_says() {
    let Invocation::Mount(parsed) = invocation("h:/ /tmp -sf -o key=k,frob").unwrap() else {
        panic!();
    };
    assert!(parsed.fake);
    let request = parsed.resolve(None).unwrap();
    assert!(request.mount.threads > 1 && !request.foreground);
}

#[test]
fn other_invocations() {
    assert!(
        matches!(invocation("-u /mnt"), Ok(Invocation::Unmount(dir)) if dir.as_os_str() == "/mnt")
    );
    assert!(matches!(invocation("-h"), Ok(Invocation::Help)));
    assert!(matches!(invocation("--version"), Ok(Invocation::Version)));
}

#[test]
fn one_line_about_each_mistake_and_the_code_of_its_form() {
    for (line, code, about) in [
        ("--key=k /tmp", 2, "--host"),
        ("--host=h --key=k", 2, "directory"),
        ("--host=h --key=k /tmp x", 2, "\"x\""),
        ("--host=h --frob /tmp", 2, "--frob"),
        ("--host=h --key=k -o frob /tmp", 2, "frob"),
        ("--host=h:x --key=k /tmp", 2, "port"),
        ("--host", 2, "--host"),
        ("--host=h --debug q /tmp", 2, "channel q"),
        ("h:/ /tmp -o key=k,frob", 1, "frob"),
        ("h:/ /tmp -o key=k,frob=1", 1, "frob="),
        ("h:/ /tmp -q", 1, "-q"),
        (",:/ /tmp -o key=k", 1, "host"),
    ] {
        let error = invocation(line).unwrap_err();
        assert_eq!(error.code, code, "{line}");
        assert!(error.line.contains(about), "{line}: {}", error.line);
        assert!(!error.line.contains('\n'));
    }
    let Invocation::Mount(parsed) = invocation("--host=h --key=k /no/such/dir").unwrap() else {
        panic!();
    };
    let error = parsed.resolve(None).unwrap_err();
    assert_eq!(error.code, 2);
    assert!(error.line.contains("/no/such/dir"));
    let Invocation::Mount(parsed) = invocation("h:/ /tmp").unwrap() else {
        panic!();
    };
    assert!(
        parsed
            .resolve(None)
            .unwrap_err()
            .line
            .contains("secret key")
    );
}
