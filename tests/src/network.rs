//! Hosts of a test's own: network namespaces with links that can be cut.
//!
//! A test runs in a namespace of its own, as the hub that all its hosts hang
//! on; nothing of it touches the machine's network.

use std::process::Command;

/// Says that a test is in its namespace.
const INSIDE: &str = "WEIR_TEST_INSIDE";

/// Runs the test of this name in a network namespace of its own.
///
/// # Panics
/// When that cannot be had (it takes root), or the test fails there.
pub fn inside(name: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().expect("a running program has a path");
        let status = Command::new("unshare")
            .arg("--net")
            .arg(program)
            .args(["--exact", name, "--nocapture", "--include-ignored"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare is installed (Debian: util-linux)");
        assert!(status.success(), "{name} failed in its namespace");
        return;
    }
    ip(&["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(body);
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("ip and iptables are installed (Debian: iproute2, iptables)");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Has the hub pass on what hosts send to each other.
///
/// # Panics
/// When it cannot be told to.
pub fn forward() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a namespace can be set up");
}

/// A host on a link to the hub. It goes when this is dropped.
#[derive(Debug)]
pub struct Host {
    /// The name of its namespace.
    pub name: String,
    number: u8,
    link: String,
}

impl Host {
    /// Makes host number `number`, with addresses of its own.
    pub fn new(number: u8) -> Host {
        let host = Host {
            name: format!("weir-{}-{number}", std::process::id()),
            number,
            link: format!("weir{number}"),
        };
        ip(&["netns", "add", &host.name]);
        let (link, name) = (host.link.as_str(), host.name.as_str());
        ip(&[
            "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name,
        ]);
        ip(&["address", "add", &format!("{}/24", host.hub()), "dev", link]);
        ip(&["link", "set", link, "up"]);
        let address = format!("{}/24", host.address());
        ip(&["-n", name, "address", "add", &address, "dev", "eth0"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        host
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("10.77.{}.2", self.number)
    }

    /// The hub's address on its link.
    pub fn hub(&self) -> String {
        format!("10.77.{}.1", self.number)
    }

    /// Has it refuse what nobody inside began, as a router at home does; only
    /// `open` is let in.
    pub fn shut(&self, open: u16) {
        let open = open.to_string();
        let rules: [&[&str]; 4] = [
            &["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"],
            &[
                "-A",
                "INPUT",
                "-m",
                "conntrack",
                "--ctstate",
                "ESTABLISHED,RELATED",
                "-j",
                "ACCEPT",
            ],
            &["-A", "INPUT", "-p", "tcp", "--dport", &open, "-j", "ACCEPT"],
            &["-P", "INPUT", "DROP"],
        ];
        for rule in rules {
            run(
                "ip",
                &[&["netns", "exec", &self.name, "iptables"], rule].concat(),
            );
        }
    }

    /// Has it send what is not for its own link over the hub.
    pub fn route_over_hub(&self) {
        ip(&[
            "-n",
            &self.name,
            "route",
            "add",
            "default",
            "via",
            &self.hub(),
        ]);
    }

    /// Lets no more than so much through to the hub, as `2mbit`.
    pub fn slow(&self, rate: &str) {
        // Packets as they are on a wire, and not many in one.
        ip(&["-n", &self.name, "link", "set", "eth0", "gso_max_segs", "1"]);
        let shape = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate];
        let bounds = ["burst", "16kb", "latency", "400ms"];
        let inside = ["netns", "exec", &self.name, "tc"];
        run("ip", &[&inside[..], &shape, &bounds].concat());
    }

    /// Cuts its link: what is sent is lost, and nobody is told.
    pub fn cut(&self) {
        ip(&["-n", &self.name, "link", "set", "eth0", "down"]);
    }

    /// Mends its link.
    pub fn mend(&self) {
        ip(&["-n", &self.name, "link", "set", "eth0", "up"]);
    }
}

/// Has the hub lose what two hosts send to each other; it still reaches both.
pub fn apart(one: &Host, other: &Host) {
    between(one, other, "-I");
}

/// Ends that.
pub fn together(one: &Host, other: &Host) {
    between(one, other, "-D");
}

/// Has the hub lose what one host sends to another, and nothing else.
pub fn unheard(from: &Host, by: &Host) {
    lose(from, by, "-I");
}

fn between(one: &Host, other: &Host, action: &str) {
    lose(one, other, action);
    lose(other, one, action);
}

fn lose(from: &Host, to: &Host, action: &str) {
    let (from, to) = (from.address(), to.address());
    let rule = [action, "FORWARD", "-s", &from, "-d", &to, "-j", "DROP"];
    run("iptables", &rule);
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}
