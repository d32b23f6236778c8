//! What a node does for members that ask about asynchronous calls.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use libp2p_identity::PeerId;
use serde::de::DeserializeOwned;
use weir_federation_core::copies::OWNERS_SHARE;
use weir_federation_core::copies::owning::Owned;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::FunctionSpec;
use weir_node::id::CallId;
use weir_node::node::SubmitError;
use weir_node::store::{BodyPart, CallStanding, CopyKept, StoreError};

use super::words::{Answered, Ended, Hand, IDS, Keep, Said, Want, frame, said as said_of, unframe};
use super::{AT_ONCE, Copies, TRANSFER, copy_note, note_of};

impl Copies {
    /// Whether a member asks about calls that are kept.
    pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
        Want::is_in(request.headers())
    }

    /// Does what a member asks.
    pub(crate) async fn serve(
        &self,
        member: PeerId,
        request: Request<Body>,
    ) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let served = match Want::of(&head.headers) {
            Some(Ok(Want::Keep)) => self.serve_keeping(member, body).await,
            Some(Ok(Want::Hand)) => self.serve_handing(member, body).await,
            Some(Ok(Want::Ended)) => self.serve_ending(member, body).await,
            Some(Ok(Want::Standing)) => self.serve_standing(member, body).await,
            Some(Ok(Want::Release)) => self.serve_release(member, body).await,
            Some(Ok(Want::Drop)) => self.serve_dropping(member, body).await,
            Some(Ok(Want::Result)) => self.serve_result(body).await,
            Some(Err(_)) | None => Err(StatusCode::NOT_IMPLEMENTED),
        };
        let (status, body) = match served {
            Ok(body) => (StatusCode::OK, body),
            Err(status) => (status, AnswerBody::Whole(Bytes::new())),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response
    }

    async fn serve_keeping(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let (keep, body): (Keep, Body) = words(body).await?;
        let note = note_of(keep.note);
        let most = FunctionSpec::MOST_DURABLE;
        if !(1..=most).contains(&note.turn) || note.copies.len() > usize::from(most) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let bound = self.node.config().asynchronous.backlog / OWNERS_SHARE;
        {
            let keeping = self.keeping();
            if !keeping.may_note(&member, &note) {
                return Err(StatusCode::FORBIDDEN);
            }
            if keeping.note(&note.id).is_none() && keeping.of(&member) >= bound.max(1) {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let store = self.node.store();
        let kept = match keep.told {
            None => store.renote_copy(&copy_note(note.clone())).await,
            Some(_) if self.federated.is_draining() => {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            Some(told) => {
                let call = told.call(Timestamp::now());
                if call.id != note.id {
                    return Err(StatusCode::BAD_REQUEST);
                }
                let limit = self.federated.settings().call_bytes;
                let body = store
                    .keep_body(call.id, BodyPart::Request, body, limit)
                    .await;
                let body = body.map_err(|error| refusal(&error.into()))?;
                let noted = copy_note(note.clone());
                store.keep_copy(&noted, call, body).await.map(Some)
            }
        };
        match kept.map_err(|error| refusal(&SubmitError::Store(error)))? {
            Some(CopyKept::Kept) => {
                let now = self.now();
                self.keeping().insert(note, now);
                Ok(empty())
            }
            Some(CopyKept::Ended) => Err(StatusCode::GONE),
            Some(CopyKept::Ours) => Err(StatusCode::CONFLICT),
            None => Err(StatusCode::NOT_FOUND),
        }
    }

    async fn serve_handing(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let (hand, body): (Hand, Body) = words(body).await?;
        if self.federated.is_draining() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let call = hand.told.call(Timestamp::now());
        let (id, wanted) = (call.id, call.durable);
        let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
        let standing = self
            .node
            .store()
            .standings(vec![id])
            .await
            .map_err(failed)?;
        // Copies that there are are made its own, and others, as if none were left.
        let own = Owned::stored(Vec::new(), wanted);
        match standing.first().copied() {
            Some(CallStanding::Pending | CallStanding::Done) => return Ok(empty()),
            Some(CallStanding::Copied) => {
                if !self.keeping().is_of(&member, &id) {
                    return Err(StatusCode::FORBIDDEN);
                }
                self.owning().insert(id, own);
                let taken = self.node.take_over(id).await;
                taken.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
                self.keeping().remove(&id);
            }
            Some(CallStanding::Unknown) | None => {
                if wanted > 0 {
                    self.owning().insert(id, own);
                }
                let limit = self.federated.settings().call_bytes;
                let taken = self.node.take_in(call, body, limit).await;
                if let Err(error) = taken {
                    self.owning().remove(&id);
                    return Err(refusal(&error));
                }
            }
        }
        Ok(empty())
    }

    async fn serve_ending(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let (ended, body): (Ended, Body) = words(body).await?;
        if !self.keeping().is_of(&member, &ended.id) {
            return Err(StatusCode::FORBIDDEN);
        }
        self.end(ended.id, ended.result, body).await?;
        Ok(empty())
    }

    async fn serve_standing(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let ids = ids(body).await?;
        let standings = self.node.store().standings(ids.clone()).await;
        let standings = standings.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let said: Vec<u8> = {
            let owning = self.owning();
            let said = ids.iter().zip(standings);
            let said = said.map(|(id, standing)| owning.says(id, &member, said_of(standing)));
            said.map(Said::number).collect()
        };
        let encoded = cbor4ii::serde::to_vec(Vec::new(), &said);
        let encoded = encoded.expect("numbers can be encoded");
        Ok(AnswerBody::Whole(encoded.into()))
    }

    async fn serve_release(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let ids = ids(body).await?;
        let made = ids.into_iter().map(|id| async move {
            let owned = self.owning().get(&id).cloned();
            let Some(owned) = owned.filter(|owned| owned.copies.contains(&member)) else {
                return true;
            };
            let mut left = owned.copies;
            left.retain(|peer| *peer != member);
            let Ok(Some(call)) = self.node.store().call(id).await else {
                return true;
            };
            let copies = self.make(&call, &left, usize::from(owned.wanted)).await;
            let enough = copies.len() >= usize::from(owned.wanted);
            if enough {
                self.owning().set_copies(&id, copies.clone());
                let _ = self.node.store().set_copies(id, copies).await;
            }
            enough
        });
        let made: Vec<bool> = stream::iter(made).buffer_unordered(AT_ONCE).collect().await;
        match made.iter().all(|enough| *enough) {
            true => Ok(empty()),
            false => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    async fn serve_dropping(&self, member: PeerId, body: Body) -> Result<AnswerBody, StatusCode> {
        let ids = ids(body).await?;
        let theirs: Vec<CallId> = {
            let keeping = self.keeping();
            let theirs = ids.into_iter().filter(|id| keeping.is_of(&member, id));
            theirs.collect()
        };
        self.forget(theirs).await;
        Ok(empty())
    }

    async fn serve_result(&self, body: Body) -> Result<AnswerBody, StatusCode> {
        let id = *ids(body).await?.first().ok_or(StatusCode::BAD_REQUEST)?;
        let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
        let standing = self.node.store().standings(vec![id]).await;
        let standing = standing.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        // In this order, or a call that is done between would be neither.
        if let Some((result, body)) = self.node.kept_result(id).await.map_err(failed)? {
            return Ok(AnswerBody::Stream(frame(&Answered::new(result), body)));
        }
        Err(match standing.first() {
            Some(CallStanding::Pending | CallStanding::Copied) => StatusCode::ACCEPTED,
            Some(CallStanding::Done) => StatusCode::GONE,
            Some(CallStanding::Unknown) | None => StatusCode::NOT_FOUND,
        })
    }
}

fn empty() -> AnswerBody {
    AnswerBody::Whole(Bytes::new())
}

async fn words<T: DeserializeOwned>(body: Body) -> Result<(T, Body), StatusCode> {
    let words = tokio::time::timeout(TRANSFER, unframe(body)).await;
    words.ok().flatten().ok_or(StatusCode::BAD_REQUEST)
}

async fn ids(body: Body) -> Result<Vec<CallId>, StatusCode> {
    let (ids, _): (Vec<CallId>, Body) = words(body).await?;
    match ids.len() <= IDS {
        true => Ok(ids),
        false => Err(StatusCode::PAYLOAD_TOO_LARGE),
    }
}

fn refusal(error: &SubmitError) -> StatusCode {
    match error {
        SubmitError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        SubmitError::Body(_) => StatusCode::BAD_REQUEST,
        SubmitError::Store(StoreError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
