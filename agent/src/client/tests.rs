use std::io::Write as _;

use super::*;

fn url(text: &str) -> Url {
    node_address(text).expect("valid")
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[test]
fn node_is_an_http_address() {
    for fine in [
        "http://127.0.0.1:8080",
        "https://weir.example/base/",
        "http://[::1]:1",
        "127.0.0.1:8080",
        "localhost:8080",
        "[::1]:8080",
        ":8080",
        "8080",
    ] {
        assert!(node_address(fine).is_ok(), "{fine}");
    }
    for bad in [
        "",
        "localhost",
        "99999",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x?y",
    ] {
        assert!(node_address(bad).is_err(), "{bad}");
    }
}

#[test]
fn flags_come_before_the_environment_before_the_local_token() {
    let (token, password, local) = (file("flag\n"), file("secret\n"), file("local"));
    let mut sources = CredentialSources {
        user: Some(("admin".to_owned(), password.path().to_owned())),
        token_file: Some(token.path().to_owned()),
        token: Some("environment".to_owned()),
        local_token_file: Some(local.path().to_owned()),
    };
    let node = url("http://127.0.0.1:8080");
    let resolve = |sources: &CredentialSources| match Credentials::resolve(sources, &node)
        .expect("readable")
    {
        Credentials::Anonymous => "anonymous".to_owned(),
        Credentials::Token(token) => token,
        Credentials::Basic { user, password } => format!("{user}:{password}"),
    };
    assert_eq!(resolve(&sources), "admin:secret");
    sources.user = None;
    assert_eq!(resolve(&sources), "flag");
    sources.token_file = None;
    assert_eq!(resolve(&sources), "environment");
    sources.token = Some(String::new());
    assert_eq!(resolve(&sources), "local");
    sources.local_token_file = Some("/nonexistent/token".into());
    assert_eq!(resolve(&sources), "anonymous");
}

#[test]
fn local_token_never_leaves_the_machine() {
    let local = file("local");
    let sources = CredentialSources {
        local_token_file: Some(local.path().to_owned()),
        ..CredentialSources::default()
    };
    let check = |node: &str, sent: bool| {
        let credentials = Credentials::resolve(&sources, &url(node)).expect("fine");
        assert_eq!(credentials != Credentials::Anonymous, sent, "{node}");
    };
    check("http://localhost:8080", true);
    check("http://[::1]:8080", true);
    check("http://192.0.2.1:8080", false);
    check("http://localhost.example:8080", false);
}

#[test]
fn missing_token_file_is_an_error_when_asked_for() {
    let sources = CredentialSources {
        token_file: Some("/nonexistent/token".into()),
        ..CredentialSources::default()
    };
    assert!(Credentials::resolve(&sources, &url("http://127.0.0.1")).is_err());
}

#[test]
fn call_id_is_the_end_of_the_location() {
    let mut headers = HeaderMap::new();
    headers.insert("x-call-id", HeaderValue::from_static("theirs"));
    assert_eq!(call_id(&headers).as_deref(), Some("theirs"));
    headers.insert("location", HeaderValue::from_static("/weir/v1/calls/ours"));
    assert_eq!(call_id(&headers).as_deref(), Some("ours"));
}

#[tokio::test]
async fn refused_connection_is_told_in_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let node = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let client = Client::new(&url(&node), &Credentials::Anonymous, None).expect("a client");
    let error = client
        .send(client.request(Method::GET, "/"))
        .await
        .expect_err("nobody listens");
    let expected =
        format!("cannot reach the node at {node}: connection refused; is `weir run` running?");
    assert_eq!(error.to_string(), expected);
}
