use http::Uri;
use http_body::Frame;
use http_body_util::BodyExt as _;
use weir_node::executor::BodyError;
use weir_node::id::CallId;
use weir_node::invocation::Start;

use super::caller::{LONGEST_DEADLINE, parse_deadline};
use super::*;
use crate::metrics::series::Series;

#[test]
fn path_and_query_reach_the_function_unchanged() {
    let check = |path: &str, expected: &str, name: &str| {
        let uri: Uri = path.parse().expect("a path");
        let target = Target::parse(uri.path(), "/function/").expect("a function");
        assert_eq!(target.spelled, name, "{path}");
        let seen = target.uri(uri.query()).expect("valid");
        assert_eq!(seen.to_string(), expected, "{path}");
    };
    check("/function/hello", "/", "hello");
    check("/function/hello/", "/", "hello");
    check("/function/hello?a=b", "/?a=b", "hello");
    check(
        "/function/hello.shop/a/b%20c?d=%2F&e",
        "/a/b%20c?d=%2F&e",
        "hello.shop",
    );
    check("/function/hello//x", "//x", "hello");
    check("/function/hello/?", "/?", "hello");
}

#[test]
fn empty_name_is_a_bad_request() {
    for path in ["/function/", "/function", "/function//x"] {
        let problem = Target::parse(path, "/function/").expect_err("no name");
        assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[test]
fn deadline_is_a_duration_or_milliseconds() {
    let check = |text, millis: Option<u64>| {
        assert_eq!(
            parse_deadline(text),
            millis.map(Duration::from_millis),
            "{text}"
        );
    };
    check("200ms", Some(200));
    check("1m30s", Some(90_000));
    check("250", Some(250));
    check("0", Some(0));
    check("", None);
    check("-5", None);
    check("soon", None);
    check("99999999999999999999", None);
    assert_eq!(parse_deadline("900000years"), Some(LONGEST_DEADLINE));
}

#[test]
fn timing_is_in_milliseconds() {
    let timing = Timing {
        fetched: Duration::ZERO,
        queued: Duration::ZERO,
        started: Duration::from_micros(1234),
        ran: Duration::from_micros(56),
    };
    let expected = "queue;dur=0.000, start;dur=1.234, run;dur=0.056";
    assert_eq!(server_timing(timing), expected);
}

fn watch(series: &Arc<Series>) -> Watch {
    Watch {
        name: "f".parse().expect("valid"),
        id: CallId::new([0; 16]),
        counts: Some(series.here()),
        arrived: Instant::now(),
        ended: Some(Ended {
            status: CLIENT_GONE,
            ran: None,
            took: Duration::ZERO,
        }),
    }
}

fn series() -> Arc<Series> {
    let board = crate::metrics::series::Board::new(false);
    board.series(&"f".parse().expect("valid"))
}

fn counted(series: &Series) -> Vec<(String, u64)> {
    series.codes().collect()
}

#[test]
fn call_that_is_dropped_counts_as_left_by_its_client() {
    let series = series();
    drop(watch(&series));
    assert_eq!(counted(&series), [("499".to_owned(), 1)]);
}

#[test]
fn call_that_ends_counts_once() {
    let series = series();
    watch(&series).end(StatusCode::OK, None);
    assert_eq!(counted(&series), [("200".to_owned(), 1)]);
}

fn answer(response: Response<AnswerBody>) -> Answer {
    Answer {
        response,
        ran_on: None,
        start: Start::Warm,
        timing: Timing::default(),
    }
}

fn whole(text: &'static str) -> Response<AnswerBody> {
    Response::new(AnswerBody::Whole(Bytes::from_static(text.as_bytes())))
}

#[test]
fn answer_of_a_function_keeps_its_status_and_headers() {
    let mut response = whole("hi");
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    response
        .headers_mut()
        .insert("x-mine", HeaderValue::from_static("1"));
    response
        .headers_mut()
        .insert("x-weir-start", HeaderValue::from_static("hot"));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("99"));
    let rendered = render(answer(response), watch(&series()), false);
    let headers = rendered.headers();
    assert_eq!(rendered.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(
        (&headers["x-mine"], &headers[START]),
        (
            &HeaderValue::from_static("1"),
            &HeaderValue::from_static("warm")
        )
    );
    assert!(!headers.contains_key(CONTENT_LENGTH));
}

#[test]
fn head_has_a_length_and_no_body() {
    let rendered = render(answer(whole("hello")), watch(&series()), true);
    assert_eq!(rendered.headers()[CONTENT_LENGTH], "5");
    assert!(matches!(rendered.body(), Reply::Whole(bytes) if bytes.is_empty()));
}

#[test]
fn informational_status_is_no_answer() {
    let mut response = whole("");
    *response.status_mut() = StatusCode::PROCESSING;
    let rendered = render(answer(response), watch(&series()), false);
    assert_eq!(rendered.status(), StatusCode::BAD_GATEWAY);
}

fn stream(parts: Vec<Result<&'static str, &'static str>>) -> Response<AnswerBody> {
    let parts = parts.into_iter().map(|part| {
        let frame = part.map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
        frame.map_err(BodyError::from)
    });
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(parts));
    Response::new(AnswerBody::Stream(Body::new(body)))
}

#[tokio::test]
async fn stream_is_counted_when_it_ends() {
    let series = series();
    let response = stream(vec![Ok("a"), Ok("b")]);
    let rendered = render(answer(response), watch(&series), false);
    assert!(counted(&series).is_empty());
    let Reply::Stream(body) = rendered.into_body() else {
        panic!("a stream")
    };
    assert_eq!(body.collect().await.expect("complete").to_bytes(), "ab");
    assert_eq!(counted(&series), [("200".to_owned(), 1)]);
}

#[tokio::test]
async fn stream_that_breaks_counts_as_failed() {
    let series = series();
    let response = stream(vec![Ok("a"), Err("trap")]);
    let rendered = render(answer(response), watch(&series), false);
    let Reply::Stream(body) = rendered.into_body() else {
        panic!("a stream")
    };
    assert!(body.collect().await.is_err());
    assert_eq!(counted(&series), [("502".to_owned(), 1)]);
}

#[test]
fn stream_that_nobody_reads_counts_as_left_by_its_client() {
    let series = series();
    drop(render(answer(stream(vec![Ok("a")])), watch(&series), false));
    assert_eq!(counted(&series), [("499".to_owned(), 1)]);
}
