//! What is to be mounted, as `/etc/fstab` has it: `h1,h2:/dir`, `h1:13000:/`, `[::1]:/`.

use magma_actors::config::{ConfigError, HostPort};
use magma_core::flare::path::{BadPath, FlarePath};

/// Most hosts that a mount may be told; one is enough, the others are for when it is away.
pub const HOSTS_MAX: usize = 64;

/// Hosts to contact, and the directory of the lava network to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// At least one.
    pub hosts: Vec<HostPort>,
    /// Usually the root.
    pub dir: FlarePath,
}

/// Why a text is no spec.
#[derive(Debug, thiserror::Error)]
pub enum BadSpec {
    /// No `:/` in it.
    #[error("{0:?} is not HOST:/DIR")]
    Shape(String),
    /// A host that is none.
    #[error(transparent)]
    Host(#[from] ConfigError),
    /// Too many hosts.
    #[error("more than {HOSTS_MAX} hosts")]
    TooMany,
    /// A directory that is none.
    #[error("the directory {0:?}: {1}")]
    Dir(String, BadPath),
}

/// Whether an operand looks like a spec rather than like a mount point.
pub fn looks_like_one(operand: &str) -> bool {
    operand.contains(":/")
}

impl Spec {
    /// Reads a spec.
    pub fn parse(text: &str, default_port: u16) -> Result<Spec, BadSpec> {
        let (hosts, dir) = text
            .split_once(":/")
            .ok_or_else(|| BadSpec::Shape(text.to_owned()))?;
        let dir = format!("/{dir}");
        Ok(Spec {
            hosts: parse_hosts(hosts, default_port)?,
            dir: FlarePath::parse(dir.as_bytes()).map_err(|bad| BadSpec::Dir(dir, bad))?,
        })
    }
}

/// Reads `h1,h2:PORT,[::1]`.
pub fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<HostPort>, BadSpec> {
    let hosts: Vec<HostPort> = text
        .split(',')
        .map(|host| HostPort::parse(host, default_port))
        .collect::<Result<_, _>>()?;
    if hosts.len() > HOSTS_MAX {
        return Err(BadSpec::TooMany);
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let hosts = |text: &str| {
            let spec = Spec::parse(text, 12_000).unwrap();
            let hosts: Vec<String> = spec.hosts.iter().map(HostPort::to_string).collect();
            hosts.join(" ")
        };
        assert_eq!(hosts("127.0.0.1:/"), "127.0.0.1:12000");
        assert_eq!(hosts("h1,h2:13000:/a/b"), "h1:12000 h2:13000");
        assert_eq!(hosts("[fe80::1]:7:/"), "[fe80::1]:7");
        assert_eq!(hosts("::1:/"), "[::1]:12000");
        let spec = Spec::parse("h:/a//b/", 12_000).unwrap();
        assert_eq!(spec.dir, FlarePath::parse(b"/a/b").unwrap());
        for text in ["h", "h:", ":/", ",:/", "h,:/", "h:x:/"] {
            assert!(Spec::parse(text, 12_000).is_err(), "{text}");
        }
    }
}
