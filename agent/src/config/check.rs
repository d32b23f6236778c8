//! What must hold between settings, however they were set.

use super::Config;
use crate::telemetry;

/// Keys of values that cannot be, with what is wrong.
type Wrong = Vec<(&'static str, String)>;

/// Rules between values, and bounds that their types do not know.
pub(super) fn check(config: &Config) -> Wrong {
    let mut wrong = Vec::new();
    pairs(config, &mut wrong);
    if let Err(message) = telemetry::check(&config.log.level) {
        wrong.push(("log.level", message));
    }
    exposure(config, &mut wrong);
    bounds(config, &mut wrong);
    wrong
}

/// What is of use only together.
fn pairs(config: &Config, wrong: &mut Wrong) {
    let http = &config.http;
    if http.tls_certificate.is_some() != http.tls_key.is_some() {
        let path = if http.tls_key.is_some() {
            "http.tls-key"
        } else {
            "http.tls-certificate"
        };
        wrong.push((
            path,
            "certificate and key belong together: give both or none".to_owned(),
        ));
    }
    let auth = &config.auth;
    if auth.user.is_some() != auth.password_file.is_some() {
        let path = if auth.user.is_some() {
            "auth.user"
        } else {
            "auth.password-file"
        };
        wrong.push((
            path,
            "user and password-file belong together: give both or none".to_owned(),
        ));
    }
}

/// Refuses to be reachable from other machines unless somebody chose the
/// credentials of management requests, or said that it is meant. Calls of
/// functions are open there, as OpenFaaS has them, unless `auth.functions`.
fn exposure(config: &Config, wrong: &mut Wrong) {
    let (http, auth) = (&config.http, &config.auth);
    let credentials = auth.token_file.is_some() || auth.user.is_some();
    if !http.listen.ip().is_loopback() && !credentials && !http.insecure {
        let message = format!(
            "{} can be reached from other machines, and nobody chose credentials: give \
             auth.token-file, or auth.user and auth.password-file, or allow it with --insecure",
            http.listen
        );
        wrong.push(("http.listen", message));
    }
}

/// Values with which nothing would work.
fn bounds(config: &Config, wrong: &mut Wrong) {
    let http = &config.http;
    let counts = [
        ("http.max-connections", http.max_connections),
        ("http.header-count", http.header_count),
        ("resources.calls", config.node.max_calls),
        ("functions.max", config.node.max_functions),
        ("async.backlog", config.node.asynchronous.backlog),
        ("async.parallel", config.node.asynchronous.parallel),
    ];
    wrong.extend(
        counts
            .into_iter()
            .filter(|(_, count)| *count == 0)
            .map(|(path, _)| {
                (
                    path,
                    "0 would refuse everything: write 1 or more".to_owned(),
                )
            }),
    );
    let times = [
        ("http.header-timeout", http.header_timeout),
        ("http.idle-timeout", http.idle_timeout),
        ("http.body-timeout", http.body_timeout),
        ("functions.max-timeout", config.node.max_timeout),
        ("wasm.compile-time", config.node.wasm.compile_time),
    ];
    wrong.extend(
        times
            .into_iter()
            .filter(|(_, time)| time.is_zero())
            .map(|(path, _)| {
                (
                    path,
                    "0s would end everything at once: write a longer time".to_owned(),
                )
            }),
    );
    // hyper's own floor for the buffer that holds a request's head.
    if http.header_bytes < 8 << 10 {
        wrong.push(("http.header-bytes", "write 8KiB or more".to_owned()));
    }
}
