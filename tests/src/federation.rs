//! Nodes that belong together: founded, joined, looked at.

use std::net::SocketAddr;

use serde_json::Value;

use crate::eventually;
use crate::network::Host;
use crate::node::{Function, Node, Setup, free_address, text};

/// A member, and where others link to it.
#[derive(Debug)]
pub struct Member {
    /// The node.
    pub node: Node,
    /// Its id.
    pub id: String,
}

/// How a member is to be started: on ports that stay its own over restarts.
pub fn member() -> Setup {
    member_at(free_address(), free_address())
}

/// The same on these addresses for links and for calls.
pub fn member_at(links: SocketAddr, calls: SocketAddr) -> Setup {
    let listen = format!("/ip4/{}/tcp/{}", links.ip(), links.port());
    Setup::new()
        .variable("WEIR_FEDERATION_LISTEN", &listen)
        .variable("WEIR_FEDERATION_PEER_LISTEN", &calls.to_string())
        .variable("WEIR_RESOURCES_CPU", "1")
        .variable("WEIR_RESOURCES_MEMORY", "1GiB")
}

/// A member on a host of its own; it is managed from the hub.
pub fn member_on(host: &Host) -> Setup {
    let at = |port: u16| SocketAddr::new(host.address().parse().expect("an address"), port);
    member_at(at(4001), at(4002))
        .host(&host.name)
        .address(at(8080))
        .variable("WEIR_HTTP_INSECURE", "true")
        .variable("WEIR_HTTP_ALLOWED_HOSTS", &host.address())
}

impl Member {
    /// Starts a node; without a token it founds a federation.
    pub async fn start(setup: Setup) -> Member {
        let node = setup.start().await;
        let status = eventually("it knows where it listens", async || {
            let status = node.status().await;
            let addresses = status["federation"]["addresses"].as_array()?;
            (!addresses.is_empty()).then_some(status)
        })
        .await;
        let id = status["node"]
            .as_str()
            .expect("a node has an id")
            .to_owned();
        Member { node, id }
    }

    /// Founds a federation.
    pub async fn found() -> Member {
        Member::start(member()).await
    }

    /// Starts a node that joins this one's federation.
    pub async fn invite(&self, setup: Setup) -> Member {
        let token = self.token(&[]).await;
        Member::start(setup.variable("WEIR_FEDERATION_JOIN", &token)).await
    }

    /// A token by which one node may join.
    pub async fn token(&self, arguments: &[&str]) -> String {
        let command = [&["token"], arguments].concat();
        let output = self.node.weir(command).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// What it knows of its peers.
    pub async fn peers(&self) -> Vec<Value> {
        let peers = self.node.manage("GET", "/weir/v1/peers").send().await;
        let peers = peers.expect_status(200).json();
        peers.as_array().expect("a list").clone()
    }

    /// What it knows of one.
    pub async fn peer(&self, id: &str) -> Option<Value> {
        let path = format!("/weir/v1/peers/{id}");
        let reply = self.node.manage("GET", &path).send().await;
        match reply.status {
            404 => None,
            _ => Some(reply.expect_status(200).json()),
        }
    }

    /// Waits until a peer is in this state.
    pub async fn sees(&self, id: &str, state: &str) {
        let fact = format!("{} sees {id} as {state}\n{}", self.id, self.node.log());
        eventually(&fact, async || {
            let peer = self.peer(id).await?;
            (peer["state"] == state).then_some(())
        })
        .await;
    }

    /// Waits until a peer takes calls and a function is known, so that the peer
    /// is one that can run it.
    pub async fn sees_function(&self, id: &str, function: &str) {
        let fact = format!("{} may send calls to {id}", self.id);
        eventually(&fact, async || {
            (self.peer(id).await?["candidate"] == true).then_some(())
        })
        .await;
        let fact = format!("{} knows of {function}", self.id);
        eventually(&fact, async || {
            let listed = self.node.manage("GET", "/weir/v1/catalogue").send().await;
            let listed = listed.expect_status(200).json();
            let mut names = listed.as_array()?.iter().map(|known| &known["name"]);
            names.any(|name| name == function).then_some(())
        })
        .await;
    }

    /// Starts again after a crash, on the same data and ports.
    pub async fn restart(self) -> Member {
        Member::start(self.node.into_setup()).await
    }
}

/// Waits until all of them see each other.
pub async fn all_meet(members: &[&Member]) {
    for member in members {
        for other in members.iter().filter(|other| other.id != member.id) {
            member.sees(&other.id, "in").await;
        }
    }
}

/// Founds a federation of `count` nodes that see each other.
pub async fn federation(count: usize) -> Vec<Member> {
    let first = Member::found().await;
    let mut members = vec![first];
    for _ in 1..count {
        let joined = members[0].invite(member()).await;
        members.push(joined);
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    members
}

/// Deploys a function to all of them, and waits until each knows of each.
pub async fn deploy_everywhere(members: &[Member], function: &Function) {
    for member in members {
        member.node.deploy(function.clone()).await;
    }
    let name = function.body["service"].as_str().expect("it has a name");
    for member in members {
        for other in members.iter().filter(|other| other.id != member.id) {
            member.sees_function(&other.id, name).await;
        }
    }
}
