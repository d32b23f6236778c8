//! Guests called through the real engine and the real compiling child.

#[path = "support/component.rs"]
mod component;
#[path = "support/guests.rs"]
mod guests;
#[path = "support/workshop.rs"]
mod workshop;

use bytes::Bytes;
use component::{ABANDON, BEGIN, FINISH, PIECE, PIECE_BYTES, component};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_wasm::{
    Allocation, AnswerBody, BindError, Body, BodyError, Call, CallError, CompileError, Engine,
    Function, Kind, LoadError, Protocol,
};
use workshop::{Lines, PATIENCE, Workshop, answer, call, failure, full, read, request, setup};

#[tokio::test]
async fn body_comes_back_from_an_echo() {
    let workshop = Workshop::new();
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    assert_eq!(answer(&echo, "").await.expect("an answer"), "");
    assert_eq!(answer(&echo, "hello").await.expect("an answer"), "hello");
    let long: Bytes = (0..1_000_000u32).map(|n| n as u8).collect();
    assert_eq!(answer(&echo, long.clone()).await.expect("an answer"), long);
}

#[tokio::test]
async fn short_answer_is_whole_and_long_one_streams() {
    let workshop = Workshop::new();
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    let short = echo.call(call("hello", PATIENCE)).await.expect("an answer");
    assert!(matches!(short.body(), AnswerBody::Whole(_)));
    let long = echo.call(call(vec![b'x'; 200_000], PATIENCE)).await;
    let long = long.expect("an answer").into_body();
    assert!(matches!(long, AnswerBody::Stream(_)));
    assert_eq!(read(long).await.expect("all of it").len(), 200_000);
}

#[tokio::test]
async fn every_call_has_a_fresh_sandbox() {
    let workshop = Workshop::new();
    // Fails if an earlier call left its mark in memory.
    let marks = workshop
        .function(
            r#"(module (memory (export "memory") 1) (func (export "_start")
                (if (i32.load (i32.const 0)) (then unreachable))
                (i32.store (i32.const 0) (i32.const 1))))"#,
            |_| {},
        )
        .await;
    for _ in 0..200 {
        answer(&marks, "").await.expect("an unmarked memory");
    }
}

#[tokio::test]
async fn body_is_read_as_it_comes() {
    let workshop = Workshop::new();
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let body = stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let answered = tokio::spawn(echo.call(Call {
        request: request(StreamBody::new(body).boxed_unsync()),
        until: Instant::now() + PATIENCE,
        log: Arc::new(Lines::default()),
    }));
    for piece in ["one ", "two ", "three"] {
        let frame = Frame::data(Bytes::from(piece));
        pieces.send(Ok(frame)).await.expect("the guest reads");
    }
    drop(pieces);
    let answer = answered.await.expect("no panic").expect("an answer");
    assert_eq!(
        read(answer.into_body()).await.expect("all of it"),
        "one two three"
    );
}

#[tokio::test]
async fn broken_body_ends_the_call() {
    let workshop = Workshop::new();
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    let frames = stream::iter([
        Ok(Frame::data(Bytes::from("half"))),
        Err(BodyError::from("the client went away")),
    ]);
    let error = echo
        .call(Call {
            request: request(StreamBody::new(frames).boxed_unsync()),
            until: Instant::now() + PATIENCE,
            log: Arc::new(Lines::default()),
        })
        .await
        .expect_err("half a body");
    assert!(matches!(error, CallError::Body(_)), "{error:?}");
}

#[tokio::test]
async fn request_is_told_in_variables() {
    let workshop = Workshop::new();
    let dump = workshop
        .function(guests::ENVIRONMENT, |setup| {
            setup.env = vec![
                ("COLOUR".to_owned(), "blue".to_owned()),
                ("HTTP_MINE".to_owned(), "mine".to_owned()),
            ];
        })
        .await;
    let mut asked = request(full(""));
    for (name, value) in [
        ("proxy", "http://evil"),
        ("mine", "theirs"),
        ("x_call_id", "forged"),
    ] {
        asked
            .headers_mut()
            .append(name, value.parse().expect("a value"));
    }
    let answer = dump
        .call(Call {
            request: asked,
            until: Instant::now() + PATIENCE,
            log: Arc::new(Lines::default()),
        })
        .await
        .expect("an answer");
    let body = read(answer.into_body()).await.expect("all of it");
    let text = String::from_utf8(body.to_vec()).expect("text");
    let mut variables: Vec<&str> = text.split_terminator('\0').collect();
    variables.sort_unstable();
    assert_eq!(
        variables,
        [
            "COLOUR=blue",
            "CONTENT_TYPE=text/plain",
            "GATEWAY_INTERFACE=CGI/1.1",
            "HTTP_HOST=weir.example",
            "HTTP_MINE=mine",
            "HTTP_X_CALL_ID=call-7",
            "PATH_INFO=/there and/back",
            "QUERY_STRING=q=1",
            "REQUEST_METHOD=POST",
            "SERVER_PROTOCOL=HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn secrets_can_be_read_and_not_written() {
    let workshop = Workshop::new();
    let folder = workshop.folder.path().join("secrets");
    std::fs::create_dir(&folder).expect("room");
    std::fs::write(folder.join("key"), "swordfish").expect("room");
    let reader = workshop
        .function(guests::SECRET, |setup| setup.secrets = Some(folder))
        .await;
    assert_eq!(answer(&reader, "").await.expect("an answer"), "swordfish");
    let stranger = workshop.function(guests::SECRET, |_| {}).await;
    assert!(failure(&stranger).await.contains("exited with code"));
}

#[tokio::test]
async fn exit_code_tells_success_from_failure() {
    let workshop = Workshop::new();
    let well = guests::say(1, "done", "(call $exit (i32.const 0))");
    let well = workshop.function(&well, |_| {}).await;
    assert_eq!(answer(&well, "").await.expect("an answer"), "done");
    let badly = guests::say(1, "done", "(call $exit (i32.const 3))");
    let badly = workshop.function(&badly, |_| {}).await;
    assert_eq!(failure(&badly).await, "the function exited with code 3");
}

#[tokio::test]
async fn trap_is_named_and_its_backtrace_logged() {
    let workshop = Workshop::new();
    let trapping = guests::say(2, "about to fail\n", "unreachable");
    let trapping = workshop.function(&trapping, |_| {}).await;
    let log = Arc::new(Lines::default());
    let call = Call {
        log: log.clone(),
        ..call("", PATIENCE)
    };
    let error = trapping.call(call).await.expect_err("a trap").to_string();
    assert!(error.contains("unreachable"), "{error}");
    let log = log.text();
    assert!(log.starts_with("about to fail\n"), "{log}");
    assert!(log.contains("backtrace"), "{log}");
}

#[tokio::test]
async fn runaway_guest_is_stopped_in_time() {
    let workshop = Workshop::new();
    let runaway = workshop.function(guests::LOOP, |_| {}).await;
    let start = Instant::now();
    let error = runaway.call(call("", Duration::from_millis(100))).await;
    assert!(matches!(error, Err(CallError::TimedOut)), "{error:?}");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn guest_that_waits_is_stopped_in_time() {
    let workshop = Workshop::new();
    let sleeper = guests::say(2, "", guests::SLEEP);
    let sleeper = workshop.function(&sleeper, |_| {}).await;
    let error = sleeper.call(call("", Duration::from_millis(50))).await;
    assert!(matches!(error, Err(CallError::TimedOut)), "{error:?}");
}

#[tokio::test]
async fn busy_guest_leaves_its_callers_thread() {
    let workshop = Workshop::new();
    let runaway = workshop.function(guests::LOOP, |_| {}).await;
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    // This runtime has one thread: if the loop kept it, nothing else here
    // would ever run.
    let busy = tokio::spawn(runaway.call(call("", PATIENCE)));
    for _ in 0..50 {
        assert_eq!(answer(&echo, "quick").await.expect("an answer"), "quick");
        tokio::task::yield_now().await;
    }
    assert!(!busy.is_finished());
    busy.abort();
}

/// A log that is dropped with the last of the guest.
struct Held(
    #[expect(dead_code, reason = "dropping it is the message")] tokio::sync::mpsc::Sender<()>,
);

impl weir_wasm::LogSink for Held {
    fn write(&self, _bytes: &[u8]) {}
}

/// Calls `function`, drops the call once it has begun, and waits until its
/// sandbox is gone.
async fn dropped_call_ends(function: &Function, body: Body) {
    let (held, mut gone) = tokio::sync::mpsc::channel(1);
    let mut called = function.call(Call {
        request: request(body),
        until: Instant::now() + Duration::from_secs(3600),
        log: Arc::new(Held(held)),
    });
    let waited = tokio::time::timeout(Duration::from_millis(30), &mut called).await;
    assert!(waited.is_err(), "it ends only when dropped");
    drop(called);
    let ended = tokio::time::timeout(PATIENCE, gone.recv()).await;
    assert_eq!(ended, Ok(None));
}

#[tokio::test]
async fn dropped_call_stops_a_busy_guest() {
    let workshop = Workshop::new();
    let runaway = workshop.function(guests::LOOP, |_| {}).await;
    dropped_call_ends(&runaway, full("")).await;
}

#[tokio::test]
async fn dropped_call_stops_a_waiting_guest() {
    let workshop = Workshop::new();
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, BodyError>>());
    dropped_call_ends(&echo, never.boxed_unsync()).await;
}

#[tokio::test]
async fn dropped_answer_stops_its_guest() {
    let workshop = Workshop::new();
    let flood = workshop.function(&guests::output_flood(), |_| {}).await;
    let (held, mut gone) = tokio::sync::mpsc::channel(1);
    let response = flood
        .call(Call {
            log: Arc::new(Held(held)),
            ..call("", PATIENCE)
        })
        .await
        .expect("an answer");
    let AnswerBody::Stream(mut body) = response.into_body() else {
        panic!("a flood is never whole");
    };
    assert!(body.frame().await.is_some());
    drop(body);
    assert_eq!(tokio::time::timeout(PATIENCE, gone.recv()).await, Ok(None));
}

#[tokio::test]
async fn memory_limit_is_named() {
    let workshop = Workshop::new();
    let bomb = workshop.function(guests::MEMORY_BOMB, |_| {}).await;
    let error = failure(&bomb).await;
    assert!(
        error.starts_with("the function exceeded its memory limit of 64 MiB"),
        "{error}"
    );
}

#[tokio::test]
async fn function_that_starts_above_its_limit_is_not_bound() {
    let workshop = Workshop::new();
    let (digest, path) = workshop.artifact(guests::LARGE);
    workshop
        .engine
        .compile(&digest, &path)
        .await
        .expect("it compiles");
    let loaded = workshop.engine.load(&digest, Kind::Module).await;
    let error = loaded.expect("it loads").bind(setup()).err();
    assert_eq!(
        error,
        Some(BindError::Memory {
            needs: 100 << 20,
            limit: 64 << 20
        })
    );
}

#[tokio::test]
async fn module_does_not_speak_http() {
    let workshop = Workshop::new();
    let (digest, path) = workshop.artifact(guests::ECHO);
    workshop
        .engine
        .compile(&digest, &path)
        .await
        .expect("it compiles");
    let loaded = workshop
        .engine
        .load(&digest, Kind::Module)
        .await
        .expect("it loads");
    let mut http = setup();
    http.protocol = Protocol::Http;
    assert_eq!(loaded.bind(http).err(), Some(BindError::Protocol));
}

#[tokio::test]
async fn output_limit_is_named() {
    let workshop = Workshop::new();
    let flood = workshop
        .function(&guests::output_flood(), |setup| setup.output_bytes = 10_000)
        .await;
    assert_eq!(
        failure(&flood).await,
        "the function wrote more than its output limit of 10000 bytes"
    );
}

#[tokio::test]
async fn stream_that_fails_breaks_off() {
    let workshop = Workshop::new();
    let flood = workshop
        .function(&guests::output_flood(), |setup| {
            setup.output_bytes = 1 << 20
        })
        .await;
    let response = flood.call(call("", PATIENCE)).await.expect("it begins");
    let error = read(response.into_body()).await.expect_err("it is cut");
    assert!(
        error.to_string().contains("output limit of 1 MiB"),
        "{error}"
    );
}

#[tokio::test]
async fn stream_ends_with_its_time() {
    let workshop = Workshop::new();
    let sleeper = guests::say(1, "Content-Type: text/plain\n\nfirst", guests::SLEEP);
    let sleeper = workshop
        .function(&sleeper, |setup| setup.protocol = Protocol::Cgi)
        .await;
    let response = sleeper.call(call("", Duration::from_millis(200))).await;
    let AnswerBody::Stream(mut body) = response.expect("it begins").into_body() else {
        panic!("the guest has not ended");
    };
    // What is written is there at once, not when the guest ends.
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data"), "first");
    let error = body
        .frame()
        .await
        .expect("a frame")
        .expect_err("its time is over");
    assert_eq!(error.to_string(), CallError::TimedOut.to_string());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn log_flood_ends_with_its_time() {
    let workshop = Workshop::new();
    let flood = workshop.function(&guests::log_flood(), |_| {}).await;
    let error = flood.call(call("", Duration::from_millis(50))).await;
    assert!(matches!(error, Err(CallError::TimedOut)), "{error:?}");
}

#[tokio::test]
async fn cgi_answer_has_its_own_status_and_headers() {
    let workshop = Workshop::new();
    let teapot = "Status: 418 I'm a teapot\r\nX-Leaves: green\r\n\r\nshort and stout";
    let teapot = workshop
        .function(&guests::say(1, teapot, ""), |setup| {
            setup.protocol = Protocol::Cgi;
        })
        .await;
    let response = teapot.call(call("", PATIENCE)).await.expect("an answer");
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-leaves"], "green");
    let body = read(response.into_body()).await.expect("all of it");
    assert_eq!(body, "short and stout");
}

#[tokio::test]
async fn cgi_answer_without_a_header_block_is_a_failure() {
    let workshop = Workshop::new();
    for nonsense in ["", "no headers here", "neither here\n\n"] {
        let nonsense = workshop
            .function(&guests::say(1, nonsense, ""), |setup| {
                setup.protocol = Protocol::Cgi;
            })
            .await;
        assert!(failure(&nonsense).await.contains("header block"));
    }
    let endless = workshop
        .function(&guests::output_flood(), |setup| {
            setup.protocol = Protocol::Cgi;
        })
        .await;
    assert!(failure(&endless).await.contains("no end within 32 KiB"));
}

#[tokio::test]
async fn short_answer_of_a_component_is_whole() {
    let workshop = Workshop::new();
    let code = component(&[BEGIN, PIECE, PIECE, FINISH].concat());
    let short = workshop.function(&code, |_| {}).await;
    let response = short.call(call("", PATIENCE)).await.expect("an answer");
    let AnswerBody::Whole(body) = response.into_body() else {
        panic!("the guest has ended");
    };
    assert_eq!(body.len(), 2 * PIECE_BYTES);
}

#[tokio::test]
async fn long_answer_of_a_component_streams() {
    let workshop = Workshop::new();
    let code = component(&[BEGIN, &PIECE.repeat(50), FINISH].concat());
    let long = workshop.function(&code, |_| {}).await;
    let response = long.call(call("", PATIENCE)).await.expect("an answer");
    assert!(matches!(response.body(), AnswerBody::Stream(_)));
    let body = read(response.into_body()).await.expect("all of it");
    assert_eq!(body.len(), 50 * PIECE_BYTES);
}

#[tokio::test]
async fn component_that_fails_early_has_no_answer() {
    let workshop = Workshop::new();
    for (steps, told) in [
        (String::new(), "ended without an answer"),
        ("unreachable".to_owned(), "unreachable"),
        ([BEGIN, PIECE, "unreachable"].concat(), "unreachable"),
        ([BEGIN, PIECE, ABANDON].concat(), "broke its answer off"),
    ] {
        let guest = workshop.function(&component(&steps), |_| {}).await;
        let error = failure(&guest).await;
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn component_that_fails_late_breaks_its_stream() {
    let workshop = Workshop::new();
    for (end, told) in [
        ("unreachable", "unreachable"),
        (ABANDON, "broke its answer off"),
    ] {
        let code = component(&[BEGIN, &PIECE.repeat(50), end].concat());
        let guest = workshop.function(&code, |_| {}).await;
        let response = guest.call(call("", PATIENCE)).await.expect("it begins");
        let error = read(response.into_body())
            .await
            .map(|bytes| bytes.len())
            .expect_err("it is cut");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn component_answers_while_it_is_busy() {
    let workshop = Workshop::new();
    let code = component(&[BEGIN, PIECE, "(loop $again (br $again))"].concat());
    let busy = workshop.function(&code, |_| {}).await;
    let response = busy.call(call("", Duration::from_millis(300))).await;
    let AnswerBody::Stream(mut body) = response.expect("it begins").into_body() else {
        panic!("the guest has not ended");
    };
    let first = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(first.into_data().expect("data").len(), PIECE_BYTES);
    let error = body
        .frame()
        .await
        .expect("a frame")
        .expect_err("time is over");
    assert_eq!(error.to_string(), CallError::TimedOut.to_string());
}

#[tokio::test]
async fn component_keeps_to_its_output_limit() {
    let workshop = Workshop::new();
    let code = component(&[BEGIN, &PIECE.repeat(4), FINISH].concat());
    let guest = workshop
        .function(&code, |setup| setup.output_bytes = 10_000)
        .await;
    assert!(
        failure(&guest)
            .await
            .contains("output limit of 10000 bytes")
    );
}

#[tokio::test]
async fn guest_above_its_share_is_paused() {
    let workshop = Workshop::new();
    // At least 200 million cycles: 30 ms on any processor of our days.
    let counter = r#"(module (memory (export "memory") 1) (func (export "_start") (local $n i32)
        (loop $more
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 200000000))))))"#;
    let held = workshop
        .function(counter, |setup| setup.cpu_millicores = Some(50))
        .await;
    let start = Instant::now();
    answer(&held, "").await.expect("an answer");
    // A twentieth of a processor makes 20 ms, less the burst, 400.
    assert!(start.elapsed() > Duration::from_millis(350));
}

#[tokio::test]
async fn calls_work_without_a_pool() {
    let workshop = Workshop::with(|config| config.allocation = Allocation::OnDemand);
    let description = workshop.engine.describe();
    assert_eq!(
        (description.allocation, description.slots),
        ("on-demand", None)
    );
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    assert_eq!(answer(&echo, "hello").await.expect("an answer"), "hello");
}

#[tokio::test]
async fn full_pool_refuses_and_recovers() {
    let workshop = Workshop::new();
    let slots = workshop.engine.describe().slots.expect("a pool");
    let echo = workshop.function(guests::ECHO, |_| {}).await;
    let waiting = || Call {
        request: request(
            StreamBody::new(stream::pending::<Result<Frame<Bytes>, BodyError>>()).boxed_unsync(),
        ),
        until: Instant::now() + Duration::from_secs(3600),
        log: Arc::new(Lines::default()),
    };
    let mut calls: Vec<_> = (0..slots).map(|_| echo.call(waiting())).collect();
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    let error = echo.call(call("", PATIENCE)).await;
    assert!(matches!(error, Err(CallError::NotStarted(_))), "{error:?}");
    drop(calls);
    assert_eq!(answer(&echo, "again").await.expect("room"), "again");
}

#[tokio::test]
async fn code_that_does_not_compile_is_at_fault() {
    let workshop = Workshop::new();
    let (digest, path) = workshop.artifact("(module (func (unreachable) (bogus)))");
    let error = workshop.engine.compile(&digest, &path).await;
    assert!(matches!(error, Err(CompileError::Code(_))), "{error:?}");
    assert!(!workshop.engine.is_compiled(&digest));
    let loaded = workshop.engine.load(&digest, Kind::Module).await;
    assert!(matches!(loaded, Err(LoadError::NotCompiled)));
}

#[tokio::test]
async fn node_that_cannot_compile_is_at_fault() {
    let workshop = Workshop::new();
    let absent = workshop.folder.path().join("absent");
    let error = workshop.engine.compile("00", &absent).await;
    assert!(matches!(error, Err(CompileError::Node(_))), "{error:?}");
    let error = workshop.engine.compile("../00", &absent).await;
    assert!(matches!(error, Err(CompileError::Node(_))), "{error:?}");
}

#[tokio::test]
async fn compiler_is_stopped_in_time() {
    let workshop = Workshop::with(|config| {
        // A compiler that never ends; the shell takes the other arguments.
        config.compiler.program = "/bin/sh".into();
        config.compiler.arguments = vec!["-c".into(), "exec sleep 600".into()];
        config.compiler.time = Duration::from_millis(50);
    });
    let (digest, path) = workshop.artifact(guests::ECHO);
    let error = workshop.engine.compile(&digest, &path).await;
    assert!(
        matches!(&error, Err(CompileError::Code(why)) if why.contains("longer than")),
        "{error:?}"
    );
}

#[tokio::test]
async fn compiler_keeps_to_its_memory() {
    let workshop = Workshop::with(|config| config.compiler.memory_bytes = 12 << 20);
    // Enough code that compiling it takes more than that.
    let body = "(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(200);
    let functions: String = (0..2_000).map(|n| format!("(func $f{n} {body})")).collect();
    let code =
        format!(r#"(module (memory (export "memory") 1) {functions} (func (export "_start")))"#);
    let (digest, path) = workshop.artifact(code);
    let error = workshop.engine.compile(&digest, &path).await;
    assert!(error.is_err());
    assert!(!workshop.engine.is_compiled(&digest));
}

#[tokio::test]
async fn engines_share_a_cache() {
    let workshop = Workshop::new();
    let other = Engine::new(workshop::config(workshop.folder.path())).expect("an engine");
    let (digest, path) = workshop.artifact(guests::ECHO);
    let (first, second) = tokio::join!(
        workshop.engine.compile(&digest, &path),
        other.compile(&digest, &path)
    );
    first.expect("it compiles");
    second.expect("it compiles");
    assert!(other.cached_bytes() > 0);
    let echo = other.load(&digest, Kind::Module).await.expect("it loads");
    let echo = echo.bind(setup()).expect("it binds");
    // What is loaded stays, whatever becomes of the file.
    workshop.engine.forget(&digest);
    assert!(!other.is_compiled(&digest));
    assert_eq!(answer(&echo, "hello").await.expect("an answer"), "hello");
}

#[tokio::test]
async fn corrupt_code_is_compiled_again() {
    let workshop = Workshop::new();
    let (digest, path) = workshop.artifact(guests::ECHO);
    workshop
        .engine
        .compile(&digest, &path)
        .await
        .expect("it compiles");
    let folder = workshop.folder.path().join("compiled");
    let folder = folder.join(workshop.engine.describe().fingerprint);
    std::fs::write(folder.join(format!("{digest}.code")), "rotten").expect("it is ours");
    let loaded = workshop.engine.load(&digest, Kind::Module).await;
    assert!(matches!(loaded, Err(LoadError::NotCompiled)));
    workshop
        .engine
        .compile(&digest, &path)
        .await
        .expect("it compiles");
    assert!(workshop.engine.load(&digest, Kind::Module).await.is_ok());
}

#[test]
fn engine_may_be_dropped_anywhere() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { drop(Workshop::new()) });
}
