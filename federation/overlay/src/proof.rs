//! The exchange that makes a connection a member's. It comes right after the
//! identities are proved, on every kind of connection, and before anything
//! else is said: the opener says hello, the other answers, and one refusal
//! ends it.

use std::io;

use futures_util::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;

use crate::host::{Host, Refusal};

/// Longest hello or answer in bytes.
pub const WORDS: usize = 16 << 10;

/// What the text of [`ProofError::Refused`] begins with.
pub(crate) const REFUSED: &str = "refused (";

/// Why the exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The connection broke, or what came was too long.
    #[error("the connection broke before membership was proved")]
    Broken(#[from] io::Error),
    /// One side refused the other.
    #[error("{REFUSED}{})", .0.reason)]
    Refused(#[source] Refusal),
}

/// The opener's side.
pub async fn offer<S>(stream: &mut S, host: &dyn Host, to: PeerId) -> Result<(), ProofError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write(stream, &host.hello(to)).await?;
    let answer = read(stream).await?;
    host.judge(to, &answer).map_err(ProofError::Refused)
}

/// The other side.
pub async fn check<S>(stream: &mut S, host: &dyn Host, from: PeerId) -> Result<(), ProofError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = read(stream).await?;
    let answer = host.answer(from, &hello).await;
    write(stream, &answer.bytes).await?;
    answer.verdict.map_err(ProofError::Refused)
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) -> io::Result<()> {
    let length = u16::try_from(words.len()).map_err(io::Error::other)?;
    // In one piece, and so in one packet.
    let framed = [&length.to_be_bytes(), words].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > WORDS {
        let error = format!("{length} bytes of proof are more than {WORDS}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let mut words = vec![0; length];
    stream.read_exact(&mut words).await?;
    Ok(words)
}
