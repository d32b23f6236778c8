//! Probes: beside its heartbeats, a peer is asked how loaded it is. The question
//! is a number, so that the stream is negotiated; the answer is its length in two
//! bytes, and what the host of that peer says.

use std::io;
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest answer to a probe, in bytes.
pub const PROBE_BYTES_MAX: usize = 512;

/// How long each side waits for the other: what is told later is old.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The question; later versions may ask for more.
const QUESTION: u8 = 1;

/// Asks, and returns the answer.
pub(crate) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    within(async {
        stream.write_all(&[QUESTION]).await?;
        stream.flush().await?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > PROBE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    })
    .await
}

/// Answers a question by what `say` says; closes the stream where that is nothing.
pub(crate) async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    say: impl FnOnce() -> Option<Vec<u8>>,
) -> io::Result<()> {
    within(async {
        let mut question = [0];
        stream.read_exact(&mut question).await?;
        let said = say().filter(|said| said.len() <= PROBE_BYTES_MAX);
        if let Some(said) = said {
            let length = u16::try_from(said.len()).unwrap_or(0);
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&said).await?;
        }
        stream.close().await
    })
    .await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = tokio::time::timeout(PROBE_TIMEOUT, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    async fn asked(said: Option<Vec<u8>>) -> io::Result<Vec<u8>> {
        let (here, there) = tokio::io::duplex(1 << 10);
        let (answer, _) = tokio::join!(ask(here.compat()), answer(there.compat(), || said));
        answer
    }

    #[tokio::test]
    async fn what_is_said_is_what_is_heard() {
        assert_eq!(asked(Some(vec![1, 2])).await.expect("said"), [1, 2]);
        assert!(asked(Some(Vec::new())).await.expect("said").is_empty());
        assert!(asked(None).await.is_err());
        let long = vec![0; PROBE_BYTES_MAX + 1];
        assert!(asked(Some(long)).await.is_err(), "it is not said at all");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_read() {
        let (here, mut there) = tokio::io::duplex(1 << 10);
        let liar = async {
            use tokio::io::AsyncWriteExt as _;
            there.write_all(&[0xff; 64]).await
        };
        let (answer, lied) = tokio::join!(ask(here.compat()), liar);
        lied.expect("it is read");
        assert_eq!(
            answer.expect_err("a lie").kind(),
            io::ErrorKind::InvalidData
        );
    }
}
