//! What management requests must prove.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use weir_node::private;

use crate::auth::Credentials;
use crate::config::Config;

/// Fewest characters of a token that somebody chose.
const TOKEN_CHARACTERS: usize = 16;

/// What management requests must prove: the token, made at the first start,
/// and user and password if there are any.
pub(super) fn credentials(config: &Config) -> anyhow::Result<Credentials> {
    let path = config.token_file();
    let token = match private::read_line(&path, TOKEN_CHARACTERS) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && config.auth.token_file.is_none() =>
        {
            create_token(&path)
        }
        read => read,
    };
    let token = token.with_context(|| format!("read the token at {}", path.display()))?;
    let basic = match (&config.auth.user, &config.auth.password_file) {
        (Some(user), Some(path)) => {
            let password = private::read_line(path, 1);
            let password =
                password.with_context(|| format!("read the password at {}", path.display()))?;
            Some((user.clone(), password))
        }
        // Both or none: checked.
        (None | Some(_), None) | (None, Some(_)) => None,
    };
    Ok(Credentials { token, basic })
}

/// Makes a token of 256 random bits that its owner alone can read.
fn create_token(path: &Path) -> io::Result<String> {
    let random: [u8; 32] = rand::random();
    let token = weir_node::id::Digest::new(random).hex();
    // Half a token would let nobody in.
    private::write(path, format!("{token}\n").as_bytes())?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use weir_node::resources::Resources;

    use super::*;

    fn config(dir: &Path) -> Config {
        Config::new(dir.to_owned(), Resources::ZERO)
    }

    #[test]
    fn token_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = credentials(&config(dir.path())).expect("made").token;
        assert_eq!(first.len(), 64);
        assert_eq!(credentials(&config(dir.path())).expect("read").token, first);
        let mode = dir
            .path()
            .join("token")
            .metadata()
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn token_file_that_somebody_chose_is_never_made() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(dir.path());
        config.auth.token_file = Some(dir.path().join("mine"));
        let error = format!("{:#}", credentials(&config).expect_err("not there"));
        assert!(error.contains("read the token at"), "{error}");
    }

    #[test]
    fn empty_secret_is_no_secret() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("token"), "\n").expect("written");
        assert!(credentials(&config(dir.path())).is_err());
    }

    #[test]
    fn open_address_needs_credentials_that_somebody_chose() {
        let mut config = config(Path::new("/nowhere"));
        assert!(config.check().is_ok());
        config.http.listen = "0.0.0.0:80".parse().expect("an address");
        assert!(config.check().is_err());
        config.auth.token_file = Some("/token".into());
        assert!(config.check().is_ok());
        config.auth.token_file = None;
        config.http.insecure = true;
        assert!(config.check().is_ok());
    }
}
