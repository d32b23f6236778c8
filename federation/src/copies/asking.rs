//! Questions to members about calls, and what they give.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use libp2p_identity::PeerId;
use tracing::debug;
use weir_federation_core::copies::finding::Answer;
use weir_federation_core::copies::{QUESTIONS_AT_ONCE, Said};
use weir_node::executor::{Body, BodyError};
use weir_node::id::CallId;
use weir_node::store::{BodyPart, ResultRecord};
use weir_overlay::carriage::Using;

use super::words::{IDS, Want, frame, nothing, unframe};
use super::{Copies, Given, QUESTION, TRANSFER};
use crate::dispatch::Kept;

/// Longest answer to a question.
const ANSWER_BYTES: usize = 64 << 10;

impl Copies {
    /// Sends a request; the answer's body, where it is a success.
    pub(super) async fn say(
        &self,
        peer: PeerId,
        want: Want,
        body: Body,
        limit: Duration,
    ) -> Result<Bytes, String> {
        match self.answer(peer, want, body, limit).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(format!("it answered {status}")),
        }
    }

    pub(super) async fn answer(
        &self,
        peer: PeerId,
        want: Want,
        body: Body,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = want.request(body)?;
        let answered = async {
            let (response, _using) = self.federated.send(peer, request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
            let body = body.await.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// What a member knows of calls; at most [`IDS`] at once.
    pub(super) async fn ask(&self, peer: PeerId, ids: &[CallId]) -> Result<Vec<Said>, String> {
        let mut said = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS) {
            let body = frame(&ids, nothing());
            let answer = self.say(peer, Want::Standing, body, QUESTION).await?;
            let numbers: Vec<u8> =
                cbor4ii::serde::from_slice(&answer).map_err(|error| format!("{error:?}"))?;
            if numbers.len() != ids.len() {
                return Err("it answered for other calls".to_owned());
            }
            said.extend(numbers.into_iter().map(Said::from_number));
        }
        Ok(said)
    }

    pub(super) async fn fetch(&self, peer: PeerId, id: CallId) -> Result<Answer<Given>, String> {
        let request = Want::Result.request(frame(&vec![id], nothing()))?;
        let answered = async {
            let (response, using) = self.federated.send(peer, request).await?;
            match response.status() {
                StatusCode::ACCEPTED => Ok(Answer::Pending),
                StatusCode::GONE => Ok(Answer::Expired),
                StatusCode::NOT_FOUND => Ok(Answer::Unknown),
                StatusCode::OK => {
                    let body = held(response, using);
                    let (answered, body) = unframe(body).await.ok_or("it answered nonsense")?;
                    Ok(Answer::Result((Box::new(answered), body)))
                }
                status => Err(format!("it answered {status}")),
            }
        };
        match tokio::time::timeout(QUESTION, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {QUESTION:?}")),
        }
    }

    /// What members say of calls, each of those that it is asked about. Many are
    /// asked at once; who does not answer says nothing.
    pub(super) async fn ask_all(
        &self,
        asked: BTreeMap<PeerId, Vec<CallId>>,
    ) -> Vec<(PeerId, CallId, Said)> {
        let asked = asked.into_iter().map(|(peer, ids)| async move {
            let said = self.ask(peer, &ids).await.unwrap_or_default();
            let said = ids.into_iter().zip(said);
            said.map(|(id, said)| (peer, id, said)).collect::<Vec<_>>()
        });
        let said = stream::iter(asked).buffered(QUESTIONS_AT_ONCE);
        said.collect::<Vec<_>>().await.concat()
    }

    /// Brings the result of a call here from a member that has it, in the place
    /// of the call or its copy; whether it took that place.
    pub(super) async fn settle(&self, peer: PeerId, id: CallId) -> bool {
        let (result, body) = match self.fetch(peer, id).await {
            Ok(Answer::Result((answered, body))) => (Some(answered.result), body),
            Ok(Answer::Expired) => (None, nothing()),
            Ok(Answer::Pending | Answer::Unknown | Answer::Unreachable) => return false,
            Err(reason) => {
                debug!(call = %id, %peer, reason, "a result is not brought here yet");
                return false;
            }
        };
        let transferred = tokio::time::timeout(TRANSFER, self.end(id, result, body)).await;
        matches!(transferred, Ok(Ok(true)))
    }

    /// Puts a result in the place of a call or copy; false when there was
    /// neither.
    pub(super) async fn end(
        &self,
        id: CallId,
        result: Option<ResultRecord>,
        body: Body,
    ) -> Result<bool, StatusCode> {
        let now = Timestamp::now();
        let limit = self.node.config().asynchronous.result_bytes;
        let store = self.node.store();
        let result = match result {
            Some(result) => {
                let body = store.keep_body(id, BodyPart::Result, body, limit).await;
                let body = body.map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
                let result = ResultRecord {
                    ended_at: now,
                    ..result
                };
                Some((result, Arc::new(body)))
            }
            None => None,
        };
        let ended = store.end_copy(id, result, now).await;
        let ended = ended.map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
        self.keeping().remove(&id);
        self.owning().remove(&id);
        Ok(ended)
    }
}

/// An answer's body, which keeps what carries it until it has ended.
fn held(response: Response<hyper::body::Incoming>, using: Using) -> Body {
    let body = response.into_body().map_err(BodyError::from).boxed_unsync();
    Kept::new(body, using).boxed_unsync()
}
