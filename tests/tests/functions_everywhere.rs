//! A function that is deployed anywhere is known everywhere, and its code comes
//! to whoever runs it.

use serde_json::{Value, json};
use weir_tests::client::Reply;
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, federation, member};
use weir_tests::guests::{Guest, guest};
use weir_tests::node::{Function, text};

fn ran_on(reply: &Reply) -> Option<&str> {
    reply.headers.get("x-weir-ran-on")?.to_str().ok()
}

/// What a member knows of a function.
async fn known(member: &Member, name: &str) -> Option<Value> {
    let listed = member.node.manage("GET", "/weir/v1/catalogue").send().await;
    let listed = listed.expect_status(200).json();
    let mut functions = listed.as_array().expect("a list").iter();
    functions.find(|function| function["name"] == name).cloned()
}

async fn knows(member: &Member, name: &str) -> Value {
    let fact = format!("{} knows of {name}", member.id);
    eventually(&fact, async || known(member, name).await).await
}

async fn forgets(member: &Member, name: &str) {
    let fact = format!("{} knows that {name} was removed", member.id);
    eventually(&fact, async || {
        let gone = known(member, name).await.is_none();
        let answer = member.node.call(name, "x").await.status;
        (gone && answer == 404).then_some(())
    })
    .await;
}

/// Has a member take no calls of others, so that they run them themselves.
async fn closed(member: &Member, of: &Member) {
    let output = member.node.weir(["drain"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("it is seen to drain", async || {
        (of.peer(&member.id).await?["draining"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_function_is_known_everywhere_and_its_code_comes_when_it_is_needed() {
    let members = federation(3).await;
    members[1]
        .node
        .deploy(Function::new("shared", "echo"))
        .await;
    for member in &members {
        let function = knows(member, "shared").await;
        assert_eq!(
            (&function["scope"], &function["writer"]),
            (&json!("federation"), &json!(members[1].id))
        );
        assert_eq!(function["here"], member.id == members[1].id);
    }
    let output = members[0].node.weir(["list", "--federation"]).await;
    assert!(
        text(&output.stdout).contains("shared"),
        "{}",
        text(&output.stdout)
    );
    // While its own node takes calls, they go there.
    members[0].sees_function(&members[1].id, "shared").await;
    let reply = members[0].node.call("shared", "x").await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(members[1].id.as_str()));
    // When it takes none, the code comes here, once for all who wait for it.
    closed(&members[1], &members[0]).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(tokio::spawn(
            members[0].node.post("/function/shared").body("y").send(),
        ));
    }
    let mut fetched = 0;
    for call in waiting {
        let reply = call
            .await
            .expect("a call does not panic")
            .expect_status(200);
        assert_eq!((reply.text().as_str(), ran_on(&reply)), ("y", None));
        fetched += usize::from(reply.header("server-timing").contains("fetch;dur="));
    }
    assert!(fetched >= 1, "nobody says that it waited for code");
    assert_eq!(members[0].node.log().matches("fetched code").count(), 1);
    assert_eq!(knows(&members[0], "shared").await["here"], true);
}

#[tokio::test]
async fn a_node_that_joins_later_knows_all_and_hears_of_updates_and_removals() {
    let first = Member::found().await;
    first.node.deploy(Function::new("early", "echo")).await;
    first.node.deploy(Function::new("brief", "echo")).await;
    let second = first.invite(member()).await;
    all_meet(&[&first, &second]).await;
    assert_eq!(knows(&second, "early").await["version"], 1);
    // Anybody changes it, be it that its code is elsewhere.
    let output = second.node.weir(["remove", "brief"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    for member in [&first, &second] {
        forgets(member, "brief").await;
    }
    let changed = Function::new("early", "variables").field("envVars", json!({ "OWN": "new" }));
    second.node.deploy(changed).await;
    eventually("the first node runs the new one", async || {
        let reply = first.node.call("early", "x").await;
        (reply.status == 200 && reply.text().contains("OWN=new")).then_some(())
    })
    .await;
    // What is deployed again after a removal goes on where that was.
    first.node.deploy(Function::new("brief", "echo")).await;
    let again = knows(&second, "brief").await;
    assert!(
        again["version"]
            .as_u64()
            .is_some_and(|version| version >= 3),
        "{again}"
    );
}

#[tokio::test]
async fn what_is_known_lasts_over_a_restart_and_a_removal_is_not_undone_by_one() {
    let mut members = federation(3).await;
    members[0].node.deploy(Function::new("kept", "echo")).await;
    members[0].node.deploy(Function::new("gone", "echo")).await;
    for member in &members {
        knows(member, "kept").await;
        knows(member, "gone").await;
    }
    // One is away while it is removed, and has it deployed.
    members[2].node.deploy(Function::new("gone", "echo")).await;
    for member in &members {
        let fact = format!("{} has heard of it", member.id);
        eventually(&fact, async || {
            (known(member, "gone").await?["version"] == 2).then_some(())
        })
        .await;
    }
    let mut away = members.pop().expect("there are three");
    away.node.kill().await;
    let output = members[1].node.weir(["remove", "gone"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    forgets(&members[0], "gone").await;
    let away = away.restart().await;
    forgets(&away, "gone").await;
    for member in &members {
        forgets(member, "gone").await;
    }
    // All of them stop; each still knows on its own.
    let mut alone = members.pop().expect("there are two");
    for member in &mut members {
        member.node.kill().await;
    }
    alone.node.kill().await;
    let alone = alone.restart().await;
    assert_eq!(knows(&alone, "kept").await["version"], 1);
}

#[tokio::test]
async fn a_scope_is_kept() {
    let first = Member::found().await;
    let near = first.invite(member()).await;
    let far = member().variable("WEIR_FEDERATION_ZONE", "far");
    let far = first.invite(far).await;
    all_meet(&[&first, &near, &far]).await;
    for scope in ["node", "zone", "federation"] {
        let function = Function::new(scope, "echo").setting("scope", scope);
        first.node.deploy(function).await;
    }
    for member in [&near, &far] {
        knows(member, "federation").await;
    }
    knows(&near, "zone").await;
    assert!(known(&near, "node").await.is_none());
    assert!(known(&far, "zone").await.is_none());
    far.node.call("zone", "x").await.expect_status(404);
    // Its code is not for them either; that of what they know is.
    closed(&first, &far).await;
    let reply = far.node.call("federation", "x").await.expect_status(200);
    assert_eq!(ran_on(&reply), None);
    let wrong = Function::new("wrong", "echo").setting("scope", "galaxy");
    let reply = first.node.create(&wrong).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.text().contains("node, zone or federation"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn a_function_that_is_called_often_comes_by_itself() {
    let members = federation(2).await;
    members[1].node.deploy(Function::new("often", "echo")).await;
    members[0].sees_function(&members[1].id, "often").await;
    eventually("it is run here", async || {
        let reply = members[0].node.call("often", "x").await.expect_status(200);
        ran_on(&reply).is_none().then_some(())
    })
    .await;
    assert_eq!(knows(&members[0], "often").await["here"], true);
}

/// Code of seven parts, of which the last is short.
fn large_code() -> Guest {
    let mut bytes = guest("echo").bytes.to_vec();
    let padding = vec![b'x'; (6 << 20) + 77];
    let name = b"padding";
    let mut content = vec![u8::try_from(name.len()).expect("short")];
    content.extend(name);
    content.extend(padding);
    bytes.push(0);
    let mut length = content.len();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend(content);
    Guest::from_bytes("large", bytes)
}

#[tokio::test]
async fn code_is_fetched_no_faster_than_it_may_be() {
    let first = Member::found().await;
    let slow = member().variable("WEIR_FEDERATION_FETCH_RATE", "4MiB");
    let second = first.invite(slow).await;
    all_meet(&[&first, &second]).await;
    let large = Function::of("large", large_code()).setting("replicas", "1");
    first.node.deploy(large).await;
    knows(&second, "large").await;
    closed(&first, &second).await;
    let began = std::time::Instant::now();
    let reply = second.node.call("large", "whole").await;
    assert_eq!(reply.expect_status(200).text(), "whole");
    // The seventh part may begin when six have had their quarter of a second.
    assert!(
        began.elapsed().as_millis() >= 1_400,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn large_code_comes_in_parts_from_several() {
    let members = federation(3).await;
    let large = Function::of("large", large_code());
    for holder in &members[1..] {
        holder.node.deploy(large.clone()).await;
        members[0].sees_function(&holder.id, "large").await;
    }
    knows(&members[0], "large").await;
    // They give code while they take no calls.
    for holder in &members[1..] {
        closed(holder, &members[0]).await;
    }
    let reply = members[0]
        .node
        .call("large", "whole")
        .await
        .expect_status(200);
    assert_eq!((reply.text().as_str(), ran_on(&reply)), ("whole", None));
}

#[tokio::test]
async fn what_a_deployment_is_granted_holds_on_its_own_node_alone() {
    let members = federation(2).await;
    let granted = Function::new("granted", "proxy").protocol("http");
    let granted = granted.setting("allow-outbound", "127.0.0.1:9");
    members[1].node.deploy(granted).await;
    knows(&members[0], "granted").await;
    members[0].sees_function(&members[1].id, "granted").await;
    for _ in 0..6 {
        let reply = members[0]
            .node
            .call("granted", "x")
            .await
            .expect_status(200);
        assert_eq!(ran_on(&reply), Some(members[1].id.as_str()));
    }
    closed(&members[1], &members[0]).await;
    let reply = members[0].node.call("granted", "x").await;
    assert_ne!(reply.status, 200, "{}", reply.text());
    assert_eq!(
        known(&members[0], "granted").await.expect("known")["here"],
        false
    );
}

#[tokio::test]
async fn an_accepted_call_of_what_is_elsewhere_is_run() {
    let members = federation(2).await;
    members[1].node.deploy(Function::new("later", "echo")).await;
    knows(&members[0], "later").await;
    let location = members[0].node.submit("later", "at last").await;
    let result = members[0].node.result(&location).await;
    assert_eq!(result.text(), "at last");
}

#[tokio::test]
async fn an_update_whose_code_nobody_could_give_comes_when_somebody_can() {
    let mut members = federation(2).await;
    for member in &members {
        member.node.deploy(Function::new("late", "echo")).await;
    }
    for member in &members {
        let fact = format!("{} has heard of both", member.id);
        eventually(&fact, async || {
            (known(member, "late").await?["version"] == 2).then_some(())
        })
        .await;
    }
    // The second changes it while the first is away, and is away when it comes.
    let mut first = members.remove(0);
    first.node.kill().await;
    let mut second = members.remove(0);
    let changed = Function::new("late", "variables").field("envVars", json!({ "OWN": "new" }));
    second.node.deploy(changed).await;
    second.node.kill().await;
    // As one who heard the word and not the code: its record lies on disk.
    let records = |member: &Member| member.node.data().join("federation/functions");
    for record in std::fs::read_dir(records(&second)).expect("a folder") {
        let record = record.expect("an entry").path();
        let name = record.file_name().expect("a name");
        std::fs::copy(&record, records(&first).join(name)).expect("it can be copied");
    }
    let first = first.restart().await;
    eventually("it says that the code does not come", async || {
        let log = first.node.log();
        log.contains("an update does not reach this node")
            .then_some(())
    })
    .await;
    first
        .node
        .call("late", "as before")
        .await
        .expect_status(200);
    let second = second.restart().await;
    first.sees(&second.id, "in").await;
    eventually("the first runs the new one", async || {
        let reply = first.node.call("late", "x").await;
        reply.text().contains("OWN=new").then_some(())
    })
    .await;
}

/// Deploys a function, and says how many members keep its code.
async fn deployed(member: &Member, function: Function) -> String {
    let reply = member.node.create(&function).await.expect_status(202);
    reply.header("x-weir-copies").to_owned()
}

/// Members that hold an artifact.
async fn holders<'a>(members: &'a [Member], code: &Guest) -> Vec<&'a Member> {
    let path = format!("/weir/v1/artifacts/{}", code.digest);
    let mut holders = Vec::new();
    for member in members {
        if member.node.manage("HEAD", &path).send().await.status == 200 {
            holders.push(member);
        }
    }
    holders
}

#[tokio::test]
async fn code_is_kept_twice_before_a_deployment_answers_and_taken_over_from_the_dead() {
    let mut members = federation(4).await;
    let code = guest("echo");
    let copies = deployed(&members[0], Function::of("kept", code.clone())).await;
    assert_eq!(copies, "2");
    let first = holders(&members, &code).await;
    assert_eq!(first.len(), 2);
    // Who deployed it dies, and who kept it; each time somebody takes over.
    for _ in 0..2 {
        let holders_now = holders(&members, &code).await;
        let victim = holders_now[0].id.clone();
        let at = members.iter().position(|m| m.id == victim);
        let mut dead = members.remove(at.expect("it is there"));
        dead.node.kill().await;
        for member in &members {
            member.sees(&dead.id, "dead").await;
        }
        eventually("somebody takes over", async || {
            (holders(&members, &code).await.len() >= 2).then_some(())
        })
        .await;
    }
    let reply = members[0].node.call("kept", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
}

#[tokio::test]
async fn as_many_keep_code_as_are_asked_to_and_no_more_than_there_are() {
    let members = federation(3).await;
    let alone = Function::new("alone", "echo").setting("replicas", "1");
    assert_eq!(deployed(&members[0], alone).await, "1");
    let all = Function::new("all", "sleep").setting("replicas", "9");
    assert_eq!(deployed(&members[0], all).await, "3");
    let wrong = Function::new("wrong", "echo").setting("replicas", "99");
    let refused = members[0].node.create(&wrong).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[tokio::test]
async fn a_function_that_is_to_be_there_before_it_is_called_is() {
    let members = federation(3).await;
    let eager = Function::new("eager", "echo").setting("prefetch", "true");
    members[0].node.deploy(eager).await;
    for member in &members {
        eventually("it is here", async || {
            let known = known(member, "eager").await?;
            (known["here"] == true).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn whoever_was_away_for_too_long_tells_nothing_until_it_is_told_to() {
    let mut members = federation(2).await;
    members[1].node.deploy(Function::new("old", "echo")).await;
    members[1].node.deploy(Function::new("dear", "echo")).await;
    for name in ["old", "dear"] {
        knows(&members[0], name).await;
    }
    let away = &mut members[1];
    eventually("it is written that others were heard", async || {
        away.node
            .data()
            .join("federation/contact")
            .exists()
            .then_some(())
    })
    .await;
    away.node.kill().await;
    // Removed meanwhile, and that is so long ago that nobody remembers.
    for name in ["old", "dear"] {
        let output = members[0].node.weir(["remove", name]).await;
        assert!(output.status.success());
        forgets(&members[0], name).await;
    }
    members[0].node.kill().await;
    let folder = |member: &Member| member.node.data().join("federation");
    std::fs::remove_dir_all(folder(&members[0]).join("functions")).expect("it is there");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3_600);
    let contact = std::fs::File::options()
        .append(true)
        .open(folder(&members[1]).join("contact"));
    contact
        .expect("a file")
        .set_modified(long_ago)
        .expect("it can be aged");
    let [first, away] = <[Member; 2]>::try_from(members).expect("two");
    let first = first.restart().await;
    let away = away.restart().await;
    all_meet(&[&first, &away]).await;
    for name in ["old", "dear"] {
        let shown = known(&away, name).await.expect("it is shown");
        assert_eq!(shown["announced"], false, "{shown}");
        // It is its own until somebody says what becomes of it.
        away.node.call(name, "0").await.expect_status(200);
    }
    let output = away.node.weir(["list", "--federation"]).await;
    assert!(
        text(&output.stdout).contains("weir announce"),
        "{}",
        text(&output.stdout)
    );
    let output = away.node.weir(["announce", "dear"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("announced dear"), "{said}");
    let output = away.node.weir(["remove", "old"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    knows(&first, "dear").await;
    assert_eq!(known(&first, "old").await, None);
    assert_eq!(known(&away, "old").await, None);
}

#[tokio::test]
async fn whoever_was_forgotten_tells_nothing_until_it_is_told_to() {
    let mut members = federation(3).await;
    members[2]
        .node
        .deploy(Function::new("shared", "echo"))
        .await;
    for member in &members {
        knows(member, "shared").await;
    }
    // One deploys while it is alone, and is gone when the others are back.
    let away = members.remove(2);
    for member in &mut members {
        member.node.kill().await;
        away.sees(&member.id, "dead").await;
    }
    away.node.deploy(Function::new("alone", "echo")).await;
    let mut away = away;
    away.node.kill().await;
    let [first, second] = <[Member; 2]>::try_from(members).expect("two");
    let (first, second) = (first.restart().await, second.restart().await);
    all_meet(&[&first, &second]).await;
    // Not before it has had time to find who is here.
    eventually("it is forgotten", async || {
        let output = first.node.weir(["forget", &away.id]).await;
        let said = text(&output.stdout);
        let error = text(&output.stderr);
        assert!(
            output.status.success() || error.contains("try again"),
            "{error}"
        );
        said.contains("is a newcomer when it is back").then_some(())
    })
    .await;
    let own = first.node.weir(["forget", &first.id]).await;
    assert!(
        text(&own.stderr).contains("weir leave"),
        "{}",
        text(&own.stderr)
    );

    let away = away.restart().await;
    all_meet(&[&first, &second, &away]).await;
    eventually("it shows what is its own", async || {
        let shown = known(&away, "alone").await?;
        (shown["announced"] == false).then_some(())
    })
    .await;
    away.node.call("alone", "x").await.expect_status(200);
    // What the others know as well is what it was.
    eventually("what all know is announced", async || {
        (known(&away, "shared").await?["announced"] != false).then_some(())
    })
    .await;
    // Its next words are heard, and what it puts aside is not told.
    away.node.deploy(Function::new("next", "echo")).await;
    for member in [&first, &second] {
        knows(member, "next").await;
        assert_eq!(known(member, "alone").await, None);
    }
    let output = away.node.weir(["announce", "alone"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    for member in [&first, &second] {
        knows(member, "alone").await;
    }
    // Once is enough.
    let told = "this node was forgotten";
    let mut away = away;
    assert_eq!(away.node.log().matches(told).count(), 1);
    away.node.kill().await;
    let away = away.restart().await;
    all_meet(&[&first, &second, &away]).await;
    assert!(!away.node.log().contains(told), "{}", away.node.log());
    assert_ne!(
        known(&away, "alone").await.expect("it is known")["announced"],
        false
    );
}

#[tokio::test]
async fn an_update_comes_from_who_has_it_and_not_from_the_many_who_run_the_last() {
    let members = federation(9).await;
    let setup = |code: &str| {
        let function = Function::new("everywhere", code).setting("prefetch", "true");
        function.setting("replicas", "1")
    };
    let all_run = async |body: &str| {
        for member in &members {
            let fact = format!("{} answers {body}", member.id);
            eventually(&fact, async || {
                let here = known(member, "everywhere").await?["here"] == true;
                let reply = member.node.call("everywhere", "x").await;
                let own = reply.status == 200 && ran_on(&reply).is_none();
                (here && own && reply.text().starts_with(body)).then_some(())
            })
            .await;
        }
    };
    members[0].node.deploy(setup("echo")).await;
    all_run("x").await;
    members[0].node.deploy(setup("hello.wat")).await;
    all_run("hello").await;
    for member in &members {
        let log = member.node.log();
        assert!(!log.contains("does not reach this node"), "{log}");
    }
}

#[tokio::test]
async fn whose_change_was_lost_is_told_so() {
    let members = federation(2).await;
    members[0].node.deploy(Function::new("ours", "echo")).await;
    knows(&members[1], "ours").await;
    let changed = Function::new("ours", "echo").label("edition", "second");
    members[1].node.deploy(changed).await;
    eventually("it is told", async || {
        let known = known(&members[0], "ours").await?;
        (known["lost_to"] == json!(members[1].id)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_node_lets_go_of_what_it_brought_and_was_not_called_for_longest() {
    let first = Member::found().await;
    let second = first
        .invite(member().variable("WEIR_FUNCTIONS_MAX", "10"))
        .await;
    all_meet(&[&first, &second]).await;
    second.node.deploy(Function::new("own", "echo")).await;
    for number in 0..20 {
        let function = Function::new(&format!("f{number}"), "echo");
        first.node.deploy(function.setting("replicas", "1")).await;
    }
    knows(&second, "f19").await;
    closed(&first, &second).await;
    let here = async || {
        let listed = second.node.manage("GET", "/system/functions").send().await;
        let listed = listed.expect_status(200).json();
        let functions = listed.as_array().expect("a list").iter();
        let names = functions.map(|f| f["name"].as_str().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    for number in 0..20 {
        let name = format!("f{number}");
        second.node.call(&name, "x").await.expect_status(200);
        // One is called all the while, and stays.
        second.node.call("f0", "x").await.expect_status(200);
        let here = here().await;
        assert!(here.len() <= 10, "{here:?}");
        for stays in ["own", "f0", &name] {
            assert!(here.iter().any(|name| name == stays), "{stays}: {here:?}");
        }
    }
    // What it let go of is the federation's still.
    second.node.call("f1", "x").await.expect_status(200);
    // And its own users find room.
    second.node.deploy(Function::new("more", "echo")).await;
}

#[tokio::test]
async fn a_node_that_is_still_joining_deploys_nothing_for_others_and_says_so() {
    let mut first = Member::found().await;
    let token = first.token(&[]).await;
    first.node.kill().await;
    let setup = member().variable("WEIR_FEDERATION_JOIN", &token);
    let joining = Member::start(setup).await;
    let refused = joining.node.create(&Function::new("early", "echo")).await;
    let refused = refused.expect_error(503);
    assert_eq!(refused.header("x-weir-error"), "not-yet");
    assert_eq!(refused.header("retry-after"), "1");
    assert!(
        refused.text().contains("--scope node"),
        "{}",
        refused.text()
    );
    // Nothing of it was kept, and what is its own alone is taken.
    joining.node.call("early", "x").await.expect_status(404);
    let own = Function::new("early", "echo").setting("scope", "node");
    joining.node.deploy(own).await;
    joining.node.call("early", "x").await.expect_status(200);
    // Once somebody lets it in, others hear of what it deploys.
    let first = first.restart().await;
    all_meet(&[&first, &joining]).await;
    joining.node.deploy(Function::new("early", "echo")).await;
    knows(&first, "early").await;
}
