//! Real etcd servers of a test's own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::eventually;
use crate::node::free_address;

/// A cluster; it stops when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    folder: TempDir,
    secure: bool,
}

#[derive(Debug)]
struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `count` servers, and waits until they have a leader.
    pub async fn start(count: usize) -> Cluster {
        Cluster::of(count, false).await
    }

    /// Starts one that is spoken to with certificates on both sides alone.
    pub async fn secure() -> Cluster {
        Cluster::of(1, true).await
    }

    async fn of(count: usize, secure: bool) -> Cluster {
        let member = |_| Member {
            client: free_address(),
            peer: free_address(),
            child: None,
        };
        let mut cluster = Cluster {
            members: (0..count).map(member).collect(),
            folder: tempfile::tempdir().expect("a folder"),
            secure,
        };
        if secure {
            cluster.certify();
        }
        for number in 0..count {
            cluster.begin(number);
        }
        cluster.is_up().await;
        cluster
    }

    /// Starts a server again, on what it had.
    ///
    /// # Panics
    /// When etcd is not installed (Debian: etcd-server).
    pub fn begin(&mut self, number: usize) {
        let url = |address: &SocketAddr| format!("http://{address}");
        let names = self.members.iter().enumerate();
        let all = names.map(|(number, m)| format!("m{number}={}", url(&m.peer)));
        let all = all.collect::<Vec<_>>().join(",");
        let data = self.folder.path().join(format!("m{number}"));
        let client = self.url(number);
        let member = &self.members[number];
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{number}")])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args(["--listen-peer-urls", &url(&member.peer)])
            .args(["--initial-advertise-peer-urls", &url(&member.peer)])
            .args(["--initial-cluster", &all, "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.secure {
            command
                .arg("--client-cert-auth")
                .arg("--cert-file")
                .arg(self.file("server.crt"))
                .arg("--key-file")
                .arg(self.file("server.key"))
                .arg("--trusted-ca-file")
                .arg(self.file("ca.crt"));
        }
        let child = command
            .spawn()
            .expect("etcd is installed (Debian: etcd-server)");
        self.members[number].child = Some(child);
    }

    /// Kills a server.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until it answers.
    pub async fn is_up(&self) {
        eventually("etcd answers", async || {
            let put = self.try_control(&["put", "/test", "x"]);
            put.map(|_| ())
        })
        .await;
    }

    /// Where it is spoken to, all members.
    pub fn endpoints(&self) -> String {
        let urls = (0..self.members.len()).map(|number| self.url(number));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The address of a member.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    fn url(&self, number: usize) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.members[number].client)
    }

    /// A file of the cluster's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `etcdctl` prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn control(&self, arguments: &[&str]) -> String {
        self.try_control(arguments)
            .unwrap_or_else(|| panic!("etcdctl {arguments:?} failed"))
    }

    fn try_control(&self, arguments: &[&str]) -> Option<String> {
        let up = self.members.iter().position(|m| m.child.is_some())?;
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &self.url(up),
            "--command-timeout",
            "2s",
        ]);
        if self.secure {
            command
                .arg("--cacert")
                .arg(self.file("ca.crt"))
                .arg("--cert")
                .arg(self.file("client.crt"))
                .arg("--key")
                .arg(self.file("client.key"));
        }
        let output = command.args(arguments).output();
        let output = output.expect("etcdctl is installed (Debian: etcd-client)");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(said)
    }

    /// Keys that begin so.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let listed = self.try_control(&["get", "--prefix", "--keys-only", prefix]);
        let listed = listed.unwrap_or_default();
        let lines = listed.lines().filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }

    /// An authority, and a certificate for each side.
    fn certify(&self) {
        let run = |arguments: &str| {
            let status = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(self.folder.path())
                .stderr(Stdio::null())
                .status();
            assert!(
                status.is_ok_and(|status| status.success()),
                "openssl {arguments}"
            );
        };
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(self.file("extensions"), extensions).expect("it can be written");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        run(&format!(
            "req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=ca -days 2"
        ));
        for side in ["server", "client"] {
            run(&format!(
                "req {key} -keyout {side}.key -out {side}.csr -subj /CN={side}"
            ));
            run(&format!(
                "x509 -req -in {side}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {side}.crt \
                 -days 2 -extfile extensions"
            ));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
