//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a task, as docker writes them.

use std::net::IpAddr;

use protocol::spec::EtcFile;

/// The host's name servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The mode of the files.
const MODE: u32 = 0o644;

/// What docker's `/etc/hosts` starts with.
const HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// What the files say of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// More names for `/etc/hosts`, with their addresses.
    pub hosts: Vec<(String, IpAddr)>,
    /// Name servers instead of the host's.
    pub name_servers: Vec<IpAddr>,
    /// The host's own `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// The files of a task with this hostname.
#[must_use]
pub fn files(hostname: &str, network: &Network) -> Vec<EtcFile> {
    let file = |path: &str, content: String| EtcFile { path: path.into(), content: content.into_bytes(), mode: MODE };
    vec![
        file("/etc/hosts", hosts(hostname, network)),
        file("/etc/hostname", format!("{hostname}\n")),
        file("/etc/resolv.conf", resolv_conf(network)),
    ]
}

/// A task can always look itself up; where it has no network it has the loopback address.
fn hosts(hostname: &str, network: &Network) -> String {
    let added = network.hosts.iter().map(|(name, address)| format!("{address}\t{name}\n"));
    let own = format!("127.0.0.1\t{hostname}\n");
    std::iter::once(HOSTS.to_owned()).chain(added).chain([own]).collect()
}

/// The host's file without the name servers that only the host can reach; with the caller's in their place if it gave any.
fn resolv_conf(network: &Network) -> String {
    let given: String = network.name_servers.iter().map(|address| format!("nameserver {address}\n")).collect();
    let inherited = network.resolv_conf.lines().filter(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["nameserver", address, ..] => given.is_empty() && is_reachable(address),
        ["search" | "domain" | "options", ..] => true,
        _ => false,
    });
    let inherited: String = inherited.map(|line| format!("{line}\n")).collect();
    given + &inherited
}

/// Whether a name server is not on the host's own loopback interface.
fn is_reachable(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(network: &Network, path: &str) -> String {
        let file = files("web", network).into_iter().find(|file| file.path == path.as_bytes()).unwrap();
        String::from_utf8(file.content).unwrap()
    }

    #[test]
    fn a_task_knows_itself_and_what_its_caller_adds() {
        let network = Network { hosts: vec![("db".into(), "10.0.0.7".parse().unwrap())], ..Network::default() };
        let hosts = content(&network, "/etc/hosts");
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"), "{hosts}");
        assert!(hosts.ends_with("10.0.0.7\tdb\n127.0.0.1\tweb\n"), "{hosts}");
        assert_eq!(content(&network, "/etc/hostname"), "web\n");
    }

    #[test]
    fn name_servers_on_the_hosts_loopback_are_left_out() {
        let resolv_conf = "# made by hand\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch example\noptions edns0\n";
        let mut network = Network { resolv_conf: resolv_conf.into(), ..Network::default() };
        assert_eq!(content(&network, "/etc/resolv.conf"), "nameserver 10.1.1.1\nsearch example\noptions edns0\n");
        network.name_servers = vec!["9.9.9.9".parse().unwrap()];
        assert_eq!(content(&network, "/etc/resolv.conf"), "nameserver 9.9.9.9\nsearch example\noptions edns0\n");
    }
}
