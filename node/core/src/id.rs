//! Names and ids, parsed once at the door and trusted inside.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::function::FunctionSpec;

/// The namespace that a name without one belongs to, as OpenFaaS calls it.
pub const DEFAULT_NAMESPACE: &str = "openfaas-fn";

/// Longest function, namespace or secret name, in bytes: what a DNS label,
/// a directory entry and an OpenFaaS client all accept.
pub const NAME_BYTES: usize = 63;

/// A text that is not the id or name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, too long, or with a character outside the allowed set.
    #[error(
        "{what} {text:?} is not a valid name: use 1 to {NAME_BYTES} letters, digits, '-', '_' or \
         '.', starting and ending with a letter or digit"
    )]
    Name {
        /// What was being named: `function`, `namespace`, `secret`.
        what: &'static str,
        /// The text as given, cut to a printable length.
        text: String,
    },
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a digest: write sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
    /// Not a reference that a container engine would understand.
    #[error(
        "{0:?} is not an image: write REPOSITORY[:TAG] or REPOSITORY@DIGEST, in lower case, or \
         sha256:HEX for an artifact"
    )]
    Image(String),
    /// Not 32 lower-case hexadecimal digits, with what may follow them.
    #[error(
        "{0:?} is not the id of a call: write what follows the last slash of Location in the 202 \
         answer, 32 hexadecimal digits and in a federation the nodes that keep the call, as \
         0123abcd, after hyphens"
    )]
    Call(String),
}

/// Checks one name; dots are allowed only where `dots` says so.
fn check_name(what: &'static str, text: &str, dots: bool) -> Result<(), IdError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (dots && c == '.');
    let fine = text.len() <= NAME_BYTES
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(inside)
        && !text.contains("..");
    if fine {
        return Ok(());
    }
    Err(IdError::Name {
        what,
        text: text.chars().take(80).collect(),
    })
}

/// Longest reference of a container image, in bytes.
const IMAGE_BYTES: usize = 255;

/// A reference to a container image, as `docker pull` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(Arc<str>);

impl ImageName {
    /// The reference as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = IdError;
    /// Checks the characters; the engine knows the rest.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let inside = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
        let start = text.chars().next();
        let fine = text.len() <= IMAGE_BYTES
            && start.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(inside)
            && !text.contains("..")
            && !text.contains("//");
        match fine {
            true => Ok(ImageName(text.into())),
            false => Err(IdError::Image(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A namespace: the tenant that a function and its secrets belong to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace(DEFAULT_NAMESPACE.into())
    }
}

impl FromStr for Namespace {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        // A dot separates function and namespace, so a namespace holds none.
        check_name("namespace", text, false)?;
        Ok(Namespace(text.into()))
    }
}

impl TryFrom<String> for Namespace {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Namespace> for String {
    fn from(namespace: Namespace) -> String {
        namespace.0.as_ref().to_owned()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A function's full name; written `name.namespace`, or `name` in the default
/// namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FunctionName {
    /// The tenant.
    pub namespace: Namespace,
    name: Arc<str>,
}

impl FunctionName {
    /// Checks `name` (without a namespace; no dots) and joins the two.
    pub fn new(name: &str, namespace: Namespace) -> Result<Self, IdError> {
        check_name("function", name, false)?;
        Ok(FunctionName {
            namespace,
            name: name.into(),
        })
    }

    /// The name without its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `name.namespace` even in the default namespace, as metrics label it.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

impl FromStr for FunctionName {
    type Err = IdError;
    /// Splits at the last dot: `name.namespace`, or `name` alone.
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.rsplit_once('.') {
            Some((name, namespace)) => FunctionName::new(name, namespace.parse()?),
            None => FunctionName::new(text, Namespace::default()),
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.as_str() == DEFAULT_NAMESPACE {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.name, self.namespace)
        }
    }
}

/// The name of a secret inside its namespace; also the name of its file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        check_name("secret", text, true)?;
        Ok(SecretName(text.into()))
    }
}

impl TryFrom<String> for SecretName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of an artifact; written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes that a SHA-256 gave.
    pub fn new(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits alone, as paths and file names hold them.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Parses the 64 lower-case hexadecimal digits alone.
    pub fn from_hex(text: &str) -> Result<Self, IdError> {
        unhex(text)
            .map(Digest)
            .ok_or_else(|| IdError::Digest(text.chars().take(80).collect()))
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("sha256:").and_then(unhex);
        digits
            .map(Digest)
            .ok_or_else(|| IdError::Digest(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id that this node gave a call: 128 random bits, so that knowing it is
/// the right to read the call's result. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallId([u8; 16]);

impl CallId {
    /// Wraps 16 random bytes. The caller draws them; see [`crate::id`].
    pub fn new(random: [u8; 16]) -> Self {
        CallId(random)
    }

    /// The id as a number, whose 32 hexadecimal digits are its text.
    pub fn as_u128(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// The 16 bytes, as keys in the store hold them.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl FromStr for CallId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        unhex(text)
            .map(CallId)
            .ok_or_else(|| IdError::Call(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for CallId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<CallId> for String {
    fn from(id: CallId) -> String {
        id.to_string()
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node in short: the first 32 bits of the SHA-256 of its id. Several may
/// share one, so it says where to ask and never who answers. Written as 8
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeMark([u8; 4]);

impl NodeMark {
    /// That of a node.
    pub fn of(id: &PeerId) -> NodeMark {
        let [a, b, c, d, ..] = *Digest::of(&id.to_bytes()).as_bytes();
        NodeMark([a, b, c, d])
    }
}

impl fmt::Display for NodeMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for NodeMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What whoever hands in an asynchronous call gets for it: the call's id and,
/// in a federation, the nodes that keep it. Written as the id, then a hyphen
/// and a [`NodeMark`] for each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The call.
    pub call: CallId,
    /// The node that accepted it, then those with a copy; at most
    /// [`Receipt::MOST_NODES`].
    pub nodes: Vec<NodeMark>,
}

impl Receipt {
    /// Nodes that one can name.
    pub const MOST_NODES: usize = 1 + FunctionSpec::MOST_DURABLE as usize;
}

impl FromStr for Receipt {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Call(text.chars().take(80).collect());
        let mut parts = text.split('-');
        let call = parts.next().and_then(unhex).ok_or_else(wrong)?;
        let nodes: Option<Vec<NodeMark>> = parts.map(|part| unhex(part).map(NodeMark)).collect();
        let nodes = nodes.filter(|nodes| nodes.len() <= Receipt::MOST_NODES);
        Ok(Receipt {
            call: CallId(call),
            nodes: nodes.ok_or_else(wrong)?,
        })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)?;
        self.nodes.iter().try_for_each(|node| write!(f, "-{node}"))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: &u8| HEX.iter().position(|h| h == c).map(|at| at as u8);
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(&pair[0])? << 4 | digit(&pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_splits_at_its_last_dot() {
        let name: FunctionName = "hello.shop".parse().expect("valid");
        assert_eq!((name.name(), name.namespace.as_str()), ("hello", "shop"));
        assert_eq!(name.to_string(), "hello.shop");
    }

    #[test]
    fn default_namespace_is_an_alias_of_none() {
        let plain: FunctionName = "hello".parse().expect("valid");
        assert_eq!(plain, "hello.openfaas-fn".parse().expect("valid"));
        assert_eq!(plain.to_string(), "hello");
        assert_eq!(plain.qualified(), "hello.openfaas-fn");
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "a-",
            "a\0b",
            "a b",
            "ä",
            &"x".repeat(64),
            "a.",
            ".a",
        ] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?}");
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digest_survives_its_text() {
        let digest = Digest::of(b"weir");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
        assert!("sha256:AB".parse::<Digest>().is_err());
        assert!(digest.hex().to_uppercase().parse::<Digest>().is_err());
    }

    #[test]
    fn call_id_survives_its_text() {
        let id = CallId::new([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn receipt_is_read_as_it_was_written_and_names_few_nodes() {
        let call = CallId::new([7; 16]);
        for count in 0..=Receipt::MOST_NODES {
            let nodes = (0..count)
                .map(|at| NodeMark([at as u8, 1, 2, 255]))
                .collect();
            let receipt = Receipt { call, nodes };
            assert_eq!(receipt.to_string().parse(), Ok(receipt));
        }
        let refused = |text: String| text.parse::<Receipt>().is_err();
        assert!(refused(format!(
            "{call}-00000000-00000000-00000000-00000000"
        )));
        assert!(refused(format!("{call}-0000000")) && refused(format!("{call}-")));
        assert!(refused(format!("-{call}")) && refused(String::new()));
    }
}
