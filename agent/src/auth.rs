//! Who may manage a node, and from which pages.

use base64::Engine as _;
use http::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};
use subtle::ConstantTimeEq as _;

use crate::door::problem::Problem;

/// What a caller may prove to be let in.
#[derive(Clone)]
pub struct Credentials {
    /// The bearer token.
    pub token: String,
    /// User and password of basic authentication, if there are any.
    pub basic: Option<(String, String)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The user that clients of OpenFaaS log in as when they are told no other.
const USUAL_USER: &str = "admin";

/// What a request's `Authorization` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// There was none.
    Missing,
    /// It is not ours.
    Wrong,
    /// It is ours.
    Valid,
}

impl Credentials {
    /// Checks a request's credentials. The time that it takes tells nothing of
    /// how much of them was right.
    pub fn check(&self, headers: &HeaderMap) -> Proof {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Proof::Missing;
        };
        if self.accepts(value).unwrap_or(false) {
            Proof::Valid
        } else {
            Proof::Wrong
        }
    }

    fn accepts(&self, value: &HeaderValue) -> Option<bool> {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(same(rest, &self.token));
        }
        // Clients of OpenFaaS know nothing but a user and a password. Where there
        // is no such pair, the token is the password of their usual user.
        let (user, password) = match &self.basic {
            Some((user, password)) => (user.as_str(), password.as_str()),
            None => (USUAL_USER, self.token.as_str()),
        };
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = base64::engine::general_purpose::STANDARD
            .decode(rest)
            .ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (given_user, given_password) = pair.split_once(':')?;
        Some(same(given_user, user) & same(given_password, password))
    }

    /// Lets a request pass that carries valid credentials.
    pub fn require(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let message = match self.check(headers) {
            Proof::Valid => return Ok(()),
            Proof::Missing => {
                "credentials are needed here: send the node's token (Authorization: Bearer ...), or \
                 user and password"
            }
            Proof::Wrong => {
                "these credentials are not the node's: its token is in the file `token` of its \
                 data directory"
            }
        };
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            message,
        ))
    }
}

/// An empty secret equals nothing: clients that never logged in send one.
fn same(given: &str, wanted: &str) -> bool {
    !wanted.is_empty() && bool::from(given.as_bytes().ct_eq(wanted.as_bytes()))
}

/// Refuses management requests that a page of somebody else may have sent:
/// ones that name this node by a foreign host (DNS rebinding), and ones that
/// come from a foreign page (request forgery).
pub fn check_source(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> Result<(), Problem> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers
            .get(HOST)
            .map(|host| host.to_str().unwrap_or_default()),
    };
    if let Some(host) = host
        && !is_ours(host, allowed)
    {
        let message = format!(
            "this request names the node {host:?}, a host that it does not know as its own: use \
             its address, or add the host to http.allowed-hosts"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-host", message));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let page = origin
        .split_once("://")
        .map_or("", |(_, authority)| authority);
    let same_page = !page.is_empty() && host.is_some_and(|host| host.eq_ignore_ascii_case(page));
    if same_page || allowed.iter().any(|allowed| names(page, allowed)) {
        return Ok(());
    }
    let message = format!(
        "this request comes from a page of {origin:?}, which may not manage the node: add its \
         host to http.allowed-hosts if it may"
    );
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-origin",
        message,
    ))
}

/// Whether `host` is an address, localhost, or allowed. An address cannot be
/// rebound: only names can be made to point here by somebody else.
fn is_ours(host: &str, allowed: &[String]) -> bool {
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || bare.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|allowed| names(host, allowed))
}

/// Whether `host` is `allowed`, with or without its port.
fn names(host: &str, allowed: &str) -> bool {
    !host.is_empty()
        && (host.eq_ignore_ascii_case(allowed) || without_port(host).eq_ignore_ascii_case(allowed))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            token: "secret".to_owned(),
            basic: Some(("admin".to_owned(), "pass:word".to_owned())),
        }
    }

    fn check(authorization: &str, expected: Proof) {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().expect("a header"));
        assert_eq!(credentials().check(&headers), expected, "{authorization:?}");
    }

    #[test]
    fn token_and_password_let_in_and_nothing_else_does() {
        let basic = |pair: &str| {
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(pair)
            )
        };
        check("Bearer secret", Proof::Valid);
        check("bearer secret", Proof::Valid);
        check(&basic("admin:pass:word"), Proof::Valid);
        for wrong in [
            "Bearer ",
            "Bearer",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
            "Basic !!!",
            "secret",
            &basic("admin:"),
            &basic("admin:pass"),
            &basic("root:pass:word"),
            &basic(""),
        ] {
            check(wrong, Proof::Wrong);
        }
        assert_eq!(credentials().check(&HeaderMap::new()), Proof::Missing);
    }

    #[test]
    fn the_token_is_the_password_of_admin_where_there_is_no_user() {
        let check = |basic, pair: &str, expected| {
            let credentials = Credentials {
                token: "secret".to_owned(),
                basic,
            };
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            let mut headers = HeaderMap::new();
            let value = format!("Basic {encoded}").parse().expect("a header");
            headers.insert(AUTHORIZATION, value);
            assert_eq!(credentials.check(&headers), expected, "{pair}");
        };
        let pair = || Some(("admin".to_owned(), "pass".to_owned()));
        check(None, "admin:secret", Proof::Valid);
        check(None, "admin:", Proof::Wrong);
        check(None, "root:secret", Proof::Wrong);
        check(pair(), "admin:secret", Proof::Wrong);
        check(pair(), "admin:pass", Proof::Valid);
    }

    #[test]
    fn empty_token_never_lets_in() {
        let empty = Credentials {
            token: String::new(),
            basic: None,
        };
        let mut headers = HeaderMap::new();
        // The second is `admin:`.
        for value in ["Bearer ", "Basic YWRtaW46"] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(empty.check(&headers), Proof::Wrong);
        }
    }

    fn source(host: &str, origin: Option<&str>) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect("a header"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().expect("a header"));
        }
        let allowed = ["weir.example".to_owned(), "other.example:9".to_owned()];
        let uri = Uri::from_static("/system/functions");
        check_source(&headers, &uri, &allowed)
            .err()
            .map(|problem| problem.word)
    }

    #[test]
    fn foreign_host_is_refused() {
        for fine in [
            "127.0.0.1:8080",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8080",
            "[::1]",
            "10.0.0.7:80",
            "weir.example",
            "weir.example:8080",
            "other.example:9",
        ] {
            assert_eq!(source(fine, None), None, "{fine}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "other.example:10",
            "",
            "1.2.3.4.evil",
        ] {
            assert_eq!(source(foreign, None), Some("foreign-host"), "{foreign}");
        }
    }

    #[test]
    fn foreign_page_is_refused() {
        let host = "127.0.0.1:8080";
        assert_eq!(source(host, Some("http://127.0.0.1:8080")), None);
        assert_eq!(source(host, Some("https://weir.example")), None);
        for foreign in ["http://evil.example", "null", "http://127.0.0.1:9090", ""] {
            assert_eq!(
                source(host, Some(foreign)),
                Some("foreign-origin"),
                "{foreign}"
            );
        }
    }
}
