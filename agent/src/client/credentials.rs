//! Who asks, and how that is proved.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use http::header::HeaderValue;
use reqwest::Url;

use super::{ClientError, is_loopback};

/// Largest token or password file that is read.
const SECRET_BYTES: u64 = 4096;

/// Proof of who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None.
    Anonymous,
    /// A bearer token.
    Token(String),
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
}

/// Which credentials the user asked for, before any file is read.
#[derive(Debug, Default, Clone)]
pub struct CredentialSources {
    /// `--user` and `--password-file`.
    pub user: Option<(String, PathBuf)>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `WEIR_TOKEN`.
    pub token: Option<String>,
    /// The token that a node of this machine made; used on loopback only, and
    /// passed over when it cannot be read.
    pub local_token_file: Option<PathBuf>,
}

impl Credentials {
    /// Picks the credentials for `node`: flags before `WEIR_TOKEN` before the
    /// token of a node on this machine.
    pub fn resolve(sources: &CredentialSources, node: &Url) -> Result<Self, ClientError> {
        if let Some((user, path)) = &sources.user {
            let password = read_secret("the password", path)?;
            return Ok(Credentials::Basic {
                user: user.clone(),
                password,
            });
        }
        if let Some(path) = &sources.token_file {
            return Ok(Credentials::Token(read_secret("the token", path)?));
        }
        if let Some(token) = sources.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Credentials::Token(token.clone()));
        }
        let local = sources
            .local_token_file
            .as_ref()
            .filter(|_| is_loopback(node));
        let token = local.and_then(|path| read_secret("the token", path).ok());
        Ok(token.map_or(Credentials::Anonymous, Credentials::Token))
    }

    pub(super) fn header(&self) -> Result<Option<HeaderValue>, ClientError> {
        let (what, text) = match self {
            Credentials::Anonymous => return Ok(None),
            Credentials::Token(token) => ("token", format!("Bearer {token}")),
            Credentials::Basic { user, password } => {
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                ("password", format!("Basic {pair}"))
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| ClientError::Credentials(what))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read_secret(what: &'static str, path: &Path) -> Result<String, ClientError> {
    use std::io::Read as _;
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(SECRET_BYTES)
            .read_to_string(&mut text)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file is empty",
            ));
        }
        Ok(text.to_owned())
    };
    read().map_err(|source| ClientError::Secret {
        what,
        path: path.to_owned(),
        source,
    })
}
