//! POSIX access control lists: obeyed by the kernel and by the owners, inherited, and the same on all
//! mounts.

use integration::Cluster;
use integration::tools::{command, finish, have};

/// Works as root in two mounts, and for each question as somebody else in a child.
const SCRIPT: &str = r#"
import errno, os, stat, struct, sys
one, two = (os.open(path, os.O_DIRECTORY) for path in sys.argv[1:3])
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": (1, 2), "g": (4, 8), "m": (16, None), "o": (32, None)}
os.umask(0o022)

def acl(text):
    value = struct.pack("<I", 2)
    for entry in text.split(","):
        who, name, rights = entry.split(":")
        tag = TAGS[who][1 if name else 0]
        bits = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in rights)
        value += struct.pack("<HHI", tag, bits, int(name) if name else 0xffffffff)
    return value

def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)

def has(path, name):
    try:
        return os.getxattr(path, name)
    except OSError as error:
        assert error.errno == errno.ENODATA, error
        return None

def outcome(what):
    try:
        what()
        return 0
    except OSError as error:
        return error.errno

def as_user(uid, groups, what, mount=None):
    """The errno of something that a user does, in a mount."""
    child = os.fork()
    if child == 0:
        # The directories above may be closed to this user.
        os.fchdir(mount if mount is not None else one)
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
        os._exit(outcome(what))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def reads(path):
    return lambda: open(path).read()

def writes(path):
    return lambda: open(path, "a").write("x")

# A list grants, within its mask, and on every mount.
os.fchdir(one)
os.mkdir("d")
open("d/file", "w").write("text")
os.chmod("d/file", 0o600)
for mount in (one, two):
    assert as_user(1000, [], reads("d/file"), mount) == errno.EACCES
os.setxattr("d/file", ACCESS, acl("u::rw,u:1000:rw,g::,g:50:r,m::rw,o::"))
assert mode("d/file") == 0o660
for mount in (one, two):
    os.fchdir(mount)
    assert mode("d/file") == 0o660
    assert has("d/file", ACCESS) == acl("u::rw,u:1000:rw,g::,g:50:r,m::rw,o::")
    assert ACCESS in os.listxattr("d/file")
    assert as_user(1000, [], reads("d/file"), mount) == 0
    assert as_user(1000, [], writes("d/file"), mount) == 0
    assert as_user(1001, [50], reads("d/file"), mount) == 0
    assert as_user(1001, [50], writes("d/file"), mount) == errno.EACCES
    assert as_user(1001, [], reads("d/file"), mount) == errno.EACCES
# chmod is the mask, and shows at once elsewhere.
os.fchdir(two)
os.chmod("d/file", 0o640)
for mount in (one, two):
    os.fchdir(mount)
    assert as_user(1000, [], reads("d/file"), mount) == 0
    assert as_user(1000, [], writes("d/file"), mount) == errno.EACCES
    assert has("d/file", ACCESS) == acl("u::rw,u:1000:rw,g::,g:50:r,m::r,o::")
# Taken away on one mount, gone on the other.
os.fchdir(one)
os.removexattr("d/file", ACCESS)
for mount in (two, one):
    os.fchdir(mount)
    assert has("d/file", ACCESS) is None
    assert mode("d/file") == 0o640
    assert as_user(1000, [], reads("d/file"), mount) == errno.EACCES
# Who may change lists, and which make sense.
os.chown("d/file", 1000, 1000)
assert as_user(1001, [], lambda: os.setxattr("d/file", ACCESS, acl("u::r,g::r,o::r"))) == errno.EPERM
assert as_user(1000, [], lambda: os.setxattr("d/file", ACCESS, acl("u::r,g::r,o::r"))) == 0
assert mode("d/file") == 0o444 and has("d/file", ACCESS) is None
assert outcome(lambda: os.setxattr("d/file", ACCESS, acl("u::r,u:1:r,g::r,o::r"))) == errno.EINVAL
assert outcome(lambda: os.setxattr("d/file", DEFAULT, acl("u::r,g::r,o::r"))) == errno.EACCES
# A default list takes the place of the umask, and goes on downwards.
default = acl("u::rwx,u:1000:rwx,g::rx,m::rwx,o::")
os.fchdir(two)
os.setxattr("d", DEFAULT, default)
for number, mount in enumerate((one, two)):
    os.fchdir(mount)
    file, sub, plain = f"d/new{number}", f"d/sub{number}", f"plain{number}"
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(sub, 0o777)
    os.close(os.open(plain, os.O_CREAT | os.O_WRONLY, 0o666))
    for other in (two, one):
        os.fchdir(other)
        assert mode(file) == 0o660, oct(mode(file))
        assert has(file, ACCESS) == acl("u::rw,u:1000:rwx,g::rx,m::rw,o::")
        assert has(file, DEFAULT) is None
        assert mode(sub) == 0o770 and has(sub, DEFAULT) == default
        assert mode(plain) == 0o644 and has(plain, ACCESS) is None
        assert as_user(1000, [], writes(file), other) == 0
        assert as_user(1000, [], lambda: os.mkdir(f"{sub}/by{other}"), other) == 0
        assert as_user(1001, [], lambda: os.mkdir(f"{sub}/not{other}"), other) == errno.EACCES
os.symlink("file", "d/link")
assert has("d", DEFAULT) == default
# Many entries, and too many.
many = ",".join(["u::rwx"] + [f"u:{uid}:r" for uid in range(2000, 2490)] + ["g::r,m::rwx,o::"])
os.setxattr("d/file", ACCESS, acl(many))
assert has("d/file", ACCESS) == acl(many)
"#;

#[test]
fn lists_are_obeyed_and_inherited_on_all_mounts() {
    let Some((mut cluster, one, two)) = Cluster::with_two_mounts() else {
        return;
    };
    if !have(&["python3"]) {
        return;
    }
    let mut script = command("python3");
    script.arg("-c").arg(SCRIPT).args([one.path(), two.path()]);
    finish(script);
    // They outlive a restart.
    one.end();
    two.end();
    cluster.shutdown();
    cluster.restart();
    let again = cluster.mount(1);
    let mut script = command("python3");
    script.args([
        "-c",
        "import os, sys\nassert os.getxattr(sys.argv[1] + '/d', 'system.posix_acl_default')",
    ]);
    script.arg(again.path());
    finish(script);
}
