//! Questions of other nodes for places here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use libp2p_identity::PeerId;
use weir_node::executor::{AnswerBody, Body};
use weir_node::id::FunctionName;
use weir_node::invocation::{InvokeError, Refusal};
use weir_node::time::Time;

use super::standing::Standing;
use super::{Called, SOON};
use crate::answers::Why;
use crate::dispatch::Inner;
use crate::turns::{TURN_WAIT_MAX, Wish};
use crate::wire::{self, LOOK, Look, Looked};

impl Inner {
    pub(super) async fn serve_look(
        self: &Arc<Self>,
        from: PeerId,
        mut request: Request<Body>,
    ) -> Response<AnswerBody> {
        let look: Option<Look> = wire::take_from(request.headers_mut(), LOOK);
        let mut response = Response::new(AnswerBody::Whole(Bytes::new()));
        if look.as_ref().is_some_and(|look| look.function.is_empty())
            && self.federated.admits(&from)
        {
            let told = self.told(&from, None, false);
            wire::put(
                response.headers_mut(),
                &Looked {
                    told,
                    ..Looked::default()
                },
            );
            return response;
        }
        let name = look.as_ref().and_then(|look| look.function.parse().ok());
        let (Some(look), Some(name)) = (look, name) else {
            self.count_guest("malformed");
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        };
        let looked = self.looked(from, &name, &look).await;
        wire::put(response.headers_mut(), &looked);
        response
    }

    async fn looked(self: &Arc<Self>, from: PeerId, name: &FunctionName, look: &Look) -> Looked {
        let asked = self.node.clock().now();
        let wait = Duration::from_millis(look.wait).min(TURN_WAIT_MAX);
        let cost = self.guest_cost(name, look.service);
        let called = Called {
            function: name.clone(),
            cost,
            class: None,
        };
        let refused = |why: Why, ready_in: Duration, text: String| {
            let mut told = self.told(&from, Some(&called), false);
            told.why = Some(why.as_str().to_owned());
            told.ready_in = u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX);
            Looked { told, text }
        };
        if !self.federated.admits(&from) {
            return refused(Why::Other, SOON, "not a member".to_owned());
        }
        if self.federated.is_draining() {
            return refused(Why::Other, SOON, "it drains".to_owned());
        }
        if let Err((why, ready_in, text)) = self.readied(name, look, (asked, wait)).await {
            return refused(why, ready_in, text);
        }
        let most = look.most.max(1);
        let promised = if self.guest_room(&from, name, cost) > 0 {
            let function = name.clone();
            let wish = Wish {
                function,
                cost,
                most,
            };
            self.promise(&from, &wish);
            true
        } else {
            let passed = self.node.clock().now().since(asked);
            let left = wait.saturating_sub(passed);
            self.wait_for_turn(from, (name, cost, most), left).await
        };
        let told = self.told(&from, Some(&called), false);
        match told.places {
            Some(1..) if promised => Looked {
                told,
                text: String::new(),
            },
            Some(_) | None => {
                let full = self.refusal(
                    InvokeError::Refused {
                        reason: Refusal::NoRoom,
                        retry_after: SOON,
                    },
                    name,
                    cost,
                );
                refused(full.why, Duration::ZERO, "it is full".to_owned())
            }
        }
    }

    /// Has a function ready here that somebody asked for, who waits so long for
    /// it; else why it is not, and after how long it may be.
    async fn readied(
        self: &Arc<Self>,
        name: &FunctionName,
        look: &Look,
        (asked, wait): (Time, Duration),
    ) -> Result<(), (Why, Duration, String)> {
        let bringing = |ready_in, text: &str| Err((Why::Bringing, ready_in, text.to_owned()));
        match self.standing(name, look.version).await {
            Standing::Runs => return Ok(()),
            Standing::Later => return bringing(SOON, "it has not heard of it yet"),
            Standing::Unable(reason) => return Err((Why::Unable, SOON, reason)),
            Standing::Absent if !look.bring => return bringing(SOON, "it has no code of it"),
            Standing::Absent => {}
        }
        let (expected, end) = self.bring(name);
        let Some(end) = end else {
            return bringing(expected, "it brings the code");
        };
        match tokio::time::timeout(wait, end).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err((Why::Unable, SOON, reason)),
            Ok(Err(_)) | Err(_) => {
                let passed = self.node.clock().now().since(asked);
                bringing(expected.saturating_sub(passed), "it brings the code")
            }
        }
    }
}
