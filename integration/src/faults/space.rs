//! A network namespace with one tun device, and a thread in it.
//!
//! It has no name: it ends with the last thread or process in it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use nix::sched::{CloneFlags, unshare};

/// Name of the device in every namespace.
const DEVICE: &str = "wire";
/// `TUNSETIFF` of <linux/if_tun.h>.
const SET_DEVICE: libc::c_ulong = 0x4004_54ca;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own. What it starts is in there, too.
#[derive(Debug)]
pub struct Space {
    /// Its address.
    pub addr: Ipv4Addr,
    jobs: Sender<Job>,
}

impl Space {
    /// Makes one with this address in a network of 24 bits. Returns the other end of its device:
    /// each read gives a packet that was sent in there, each write is one that arrives.
    pub fn new(addr: Ipv4Addr) -> Result<(Space, File), String> {
        let (jobs, inbox) = channel::<Job>();
        let (made, waits) = channel();
        // Children end with the thread that has started them, so it lives as long as the space.
        let thread = move || {
            let _ = made.send(set_up(addr));
            while let Ok(job) = inbox.recv() {
                job();
            }
        };
        std::thread::Builder::new()
            .name("space".into())
            .spawn(thread)
            .map_err(|error| format!("a thread: {error}"))?;
        let device = waits.recv().map_err(|error| error.to_string())??;
        Ok((Space { addr, jobs }, device))
    }

    /// Does something in there.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, waits) = channel();
        let job: Job = Box::new(move || drop(done.send(work())));
        let gone = || "the thread of a namespace has ended".to_owned();
        self.jobs.send(job).map_err(|_| gone())?;
        waits.recv().map_err(|_| gone())
    }
}

fn set_up(addr: Ipv4Addr) -> Result<File, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("a network namespace: {error}"))?;
    let device = open_device().map_err(|error| format!("/dev/net/tun: {error}"))?;
    for words in [
        "link set lo up".to_owned(),
        format!("addr add {addr}/24 dev {DEVICE}"),
        format!("link set {DEVICE} up"),
    ] {
        let ran = Command::new("ip").args(words.split(' ')).output();
        let ran = ran.map_err(|error| format!("ip {words}: {error}"))?;
        if !ran.status.success() {
            let said = String::from_utf8_lossy(&ran.stderr);
            return Err(format!("ip {words}: {said}"));
        }
    }
    Ok(device)
}

fn open_device() -> std::io::Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and the request outlives the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), SET_DEVICE, &request) } {
        0 => Ok(device),
        _ => Err(std::io::Error::last_os_error()),
    }
}
