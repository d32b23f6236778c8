//! etcd as the registry of members and functions, with real servers.

use serde_json::{Value, json};
use weir_tests::etcd::Cluster;
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::node::{Function, Setup, text};

/// A member whose registry this is.
fn registered(registry: &str, endpoints: &str) -> Setup {
    member()
        .variable("WEIR_FEDERATION_REGISTRY", registry)
        .variable("WEIR_FEDERATION_ETCD_ENDPOINTS", endpoints)
}

async fn federation(cluster: &Cluster, count: usize) -> Vec<Member> {
    let endpoints = cluster.endpoints();
    let mut members = vec![Member::start(registered("etcd", &endpoints)).await];
    for _ in 1..count {
        members.push(members[0].invite(registered("etcd", &endpoints)).await);
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    for member in &members {
        reaches(member, true).await;
    }
    members
}

/// Waits until a member reaches etcd, or knows that it does not.
async fn reaches(member: &Member, whether: bool) {
    let fact = format!("it reaches etcd: {whether}\n{}", member.node.log());
    eventually(&fact, async || {
        let status = member.node.status().await;
        (status["federation"]["etcd_reached"] == whether).then_some(())
    })
    .await;
}

async fn version(member: &Member, name: &str) -> Option<Value> {
    let listed = member.node.manage("GET", "/weir/v1/catalogue").send().await;
    let listed = listed.expect_status(200).json();
    let mut functions = listed.as_array().expect("a list").iter();
    let found = functions.find(|function| function["name"] == name)?;
    Some(found["version"].clone())
}

/// Waits until a function is known in this version; `null` for not at all.
async fn knows(member: &Member, name: &str, wanted: Value) {
    let fact = format!("{} knows {name} {wanted}\n{}", member.id, member.node.log());
    eventually(&fact, async || {
        let known = version(member, name).await.unwrap_or(Value::Null);
        (known == wanted).then_some(())
    })
    .await;
}

async fn remove(member: &Member, name: &str) {
    let output = member.node.weir(["remove", name]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn functions_and_members_are_known_by_etcd() {
    let cluster = Cluster::start(1).await;
    let members = federation(&cluster, 3).await;
    members[0].node.deploy(Function::new("ours", "echo")).await;
    for member in &members {
        knows(member, "ours", json!(1)).await;
        let reply = member.node.call("ours", "hello").await;
        assert_eq!(reply.expect_status(200).text(), "hello");
    }
    // Who changes it, and who removes it, is all the same.
    members[1]
        .node
        .deploy(Function::new("ours", "echo").label("edition", "second"))
        .await;
    for member in &members {
        knows(member, "ours", json!(2)).await;
    }
    eventually("all is in etcd", async || {
        let keys = cluster.keys("/weir/");
        let has = |end: &str| keys.iter().any(|key| key.ends_with(end));
        let mut members = members.iter();
        let all = members.all(|member| has(&format!("/members/{}", member.id)));
        (all && has("/functions/ours.openfaas-fn")).then_some(())
    })
    .await;
    remove(&members[2], "ours").await;
    for member in &members {
        knows(member, "ours", Value::Null).await;
    }
    // It took that way and no other.
    for member in &members {
        // Counted when the answer of etcd is there, after the others know it.
        eventually("its writes are counted", async || {
            let writes = member.node.metric("weir_registry_writes_total", &[]);
            (writes.await >= 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_member_finds_the_others_by_etcd_alone() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    // Where the token leads, nobody is.
    let nowhere = "/ip4/127.0.0.1/tcp/1";
    let hidden = registered("etcd", &endpoints).variable("WEIR_FEDERATION_ADVERTISE", nowhere);
    let mut first = Member::start(hidden).await;
    let token = first.token(&[]).await;
    // From now on it says where it is.
    first.node.kill().await;
    let shown = first
        .node
        .into_setup()
        .variable("WEIR_FEDERATION_ADVERTISE", "");
    let first = Member::start(shown).await;
    let second = registered("etcd", &endpoints).variable("WEIR_FEDERATION_JOIN", &token);
    let second = Member::start(second).await;
    all_meet(&[&first, &second]).await;
}

#[tokio::test]
async fn without_etcd_all_goes_on_and_nothing_is_forgotten() {
    let mut cluster = Cluster::start(3).await;
    let mut members = federation(&cluster, 3).await;
    members[0]
        .node
        .deploy(Function::new("before", "echo"))
        .await;
    for member in &members {
        knows(member, "before", json!(1)).await;
    }
    // One of three: nothing shows.
    cluster.kill(0);
    members[1]
        .node
        .deploy(Function::new("between", "echo"))
        .await;
    for member in &members {
        knows(member, "between", json!(1)).await;
    }
    cluster.kill(1);
    cluster.kill(2);
    for member in &members {
        reaches(member, false).await;
    }
    for member in &members {
        let reply = member.node.call("before", "hello").await;
        assert_eq!(reply.expect_status(200).text(), "hello");
    }
    // What is deployed and removed meanwhile holds here, and is told later.
    members[0]
        .node
        .deploy(Function::new("during", "echo"))
        .await;
    remove(&members[1], "between").await;
    let last = members.pop().expect("three");
    let last = last.restart().await;
    knows(&last, "before", json!(1)).await;
    members.push(last);
    for number in 0..3 {
        cluster.begin(number);
    }
    cluster.is_up().await;
    for member in &members {
        reaches(member, true).await;
        knows(member, "during", json!(1)).await;
        knows(member, "between", Value::Null).await;
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    eventually("all are registered again", async || {
        let keys = cluster.keys("/weir/");
        let there = |m: &Member| keys.iter().any(|key| key.ends_with(&m.id));
        members.iter().all(there).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_is_taken_anew() {
    let cluster = Cluster::start(1).await;
    let members = federation(&cluster, 1).await;
    let registered = || {
        cluster
            .keys("/weir/")
            .iter()
            .any(|key| key.ends_with(&members[0].id))
    };
    assert!(registered());
    let leases = cluster.control(&["lease", "list"]);
    let lease = leases.lines().last().expect("there is one").trim();
    cluster.control(&["lease", "revoke", lease]);
    assert!(!registered());
    eventually("it is registered again", async || {
        registered().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_compacted_meanwhile_is_read_anew() {
    let cluster = Cluster::start(1).await;
    let mut members = federation(&cluster, 2).await;
    members[0].node.deploy(Function::new("ours", "echo")).await;
    knows(&members[1], "ours", json!(1)).await;
    members[1].node.kill().await;
    members[0]
        .node
        .deploy(Function::new("ours", "echo").label("edition", "second"))
        .await;
    members[0].node.deploy(Function::new("more", "echo")).await;
    knows(&members[0], "more", json!(1)).await;
    let written = async || {
        cluster
            .keys("/weir/")
            .iter()
            .any(|key| key.contains("/more."))
    };
    eventually("it is written", async || written().await.then_some(())).await;
    let status = cluster.control(&["endpoint", "status", "-w", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    cluster.control(&["compact", &revision]);
    let back = members.pop().expect("two").restart().await;
    knows(&back, "ours", json!(2)).await;
    knows(&back, "more", json!(1)).await;
}

#[tokio::test]
async fn what_nobody_signed_is_not_believed_and_what_is_gone_comes_back() {
    let cluster = Cluster::start(1).await;
    let members = federation(&cluster, 2).await;
    members[0].node.deploy(Function::new("ours", "echo")).await;
    knows(&members[1], "ours", json!(1)).await;
    let key = || {
        let keys = cluster.keys("/weir/");
        keys.into_iter()
            .find(|key| key.ends_with("/ours.openfaas-fn"))
    };
    let ours = key().expect("it is there");
    cluster.control(&["put", &ours, "nothing of ours"]);
    eventually("it is counted", async || {
        let name = "weir_rejected_messages_total";
        (members[1].node.metric(name, &[]).await >= 1.0).then_some(())
    })
    .await;
    knows(&members[1], "ours", json!(1)).await;
    cluster.control(&["del", &ours]);
    eventually("it is written again", async || key().map(|_| ())).await;
    let reply = members[1].node.call("ours", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
}

#[tokio::test]
async fn a_federation_moves_from_gossip_to_etcd_by_way_of_both() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    let gossip = Member::found().await;
    let both = gossip.invite(registered("both", &endpoints)).await;
    let etcd = gossip.invite(registered("etcd", &endpoints)).await;
    let members = [&gossip, &both, &etcd];
    all_meet(&members).await;
    reaches(&both, true).await;
    reaches(&etcd, true).await;
    for (number, member) in members.iter().enumerate() {
        let name = format!("f{number}");
        member.node.deploy(Function::new(&name, "echo")).await;
        for other in members {
            knows(other, &name, json!(1)).await;
        }
    }
}

#[tokio::test]
async fn etcd_is_spoken_to_with_certificates_and_passwords() {
    let cluster = Cluster::secure().await;
    for command in [
        vec!["user", "add", "root:secret"],
        vec!["user", "grant-role", "root", "root"],
        vec!["user", "add", "weir:word"],
        vec!["role", "add", "weir"],
        vec![
            "role",
            "grant-permission",
            "weir",
            "--prefix=true",
            "readwrite",
            "/weir/",
        ],
        vec!["user", "grant-role", "weir", "weir"],
        vec!["auth", "enable"],
    ] {
        cluster.control(&command);
    }
    let password = cluster.file("password");
    std::fs::write(&password, "word\n").expect("it can be written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&password, private).expect("it is ours");
    let path = |name: &str| cluster.file(name).display().to_string();
    let setup = || {
        registered("etcd", &cluster.endpoints())
            .variable("WEIR_FEDERATION_ETCD_CA", &path("ca.crt"))
            .variable("WEIR_FEDERATION_ETCD_CERTIFICATE", &path("client.crt"))
            .variable("WEIR_FEDERATION_ETCD_KEY", &path("client.key"))
    };
    let known = || {
        let password = path("password");
        setup()
            .variable("WEIR_FEDERATION_ETCD_USER", "weir")
            .variable("WEIR_FEDERATION_ETCD_PASSWORD_FILE", &password)
    };
    let first = Member::start(known()).await;
    let second = first.invite(known()).await;
    reaches(&first, true).await;
    reaches(&second, true).await;
    first.node.deploy(Function::new("ours", "echo")).await;
    knows(&second, "ours", json!(1)).await;
    // Without the password nothing is had, and said so.
    let stranger = first.invite(setup()).await;
    reaches(&stranger, false).await;
    eventually("it says why", async || {
        let log = stranger.node.log();
        log.contains("etcd is lost").then_some(())
    })
    .await;
}
