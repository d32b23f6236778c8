//! Running one `wasi:http` component.

use crate::call::{Context, classify};
use crate::limits::{FIRST_TICKS, MemoryLimit};
use crate::module::give_secrets;
use crate::outbound::Gate;
use crate::stdio::Log;
use crate::{BodyError, CallError};
use bytes::Bytes;
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Bytes of all headers that a guest may build at once.
const FIELD_BYTES: usize = 64 << 10;

/// What a sandbox of a component holds.
pub(crate) struct ComponentState {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    gate: Gate,
    memory: MemoryLimit,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.gate,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// Code of a component, ready to start.
pub(crate) struct ComponentCode {
    pub(crate) prepared: ProxyPre<ComponentState>,
}

/// Runs the component once, from a fresh sandbox to its end.
pub(crate) async fn run(
    code: &ComponentCode,
    context: &Context,
    mut request: http::Request<crate::Body>,
) -> Result<(), CallError> {
    // An HTTP/1.0 client need not say whom it wants; guests have to be told.
    if request.uri().authority().is_none() {
        request
            .headers_mut()
            .entry(header::HOST)
            .or_insert(HeaderValue::from_static("localhost"));
    }
    let exchange = context.exchange.clone();
    let request = request.map(|body| {
        body.map_err(move |error: BodyError| {
            let told = error.to_string();
            exchange.set_body_error(error);
            Error::InternalError(Some(told))
        })
        .boxed_unsync()
    });

    let mut builder = WasiCtxBuilder::new();
    builder
        .arg(&context.setup().name)
        .stdout(Log(context.log.clone()))
        .stderr(Log(context.log.clone()))
        .allow_tcp(false)
        .allow_udp(false)
        .envs(&context.setup().env);
    give_secrets(&mut builder, context)?;
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELD_BYTES);
    let mut store = Store::new(
        context.wasmtime(),
        ComponentState {
            table: ResourceTable::new(),
            wasi: builder.build(),
            http,
            gate: context.gate(),
            memory: MemoryLimit::new(context.setup().memory_bytes),
        },
    );
    store.limiter(|state| &mut state.memory);
    store.set_epoch_deadline(FIRST_TICKS);
    let meter = context.meter();
    store.epoch_deadline_callback(move |_| Ok(meter.tick()));

    let result = serve(code, context, &mut store, request).await;
    let result = classify(result, &store.data().memory, context);
    // Known before the sandbox goes: with it goes the answer's body, and
    // whoever reads that has to know whether it was all.
    context.exchange.set_end(result);
    Ok(())
}

async fn serve(
    code: &ComponentCode,
    context: &Context,
    store: &mut Store<ComponentState>,
    request: http::Request<http_body_util::combinators::UnsyncBoxBody<Bytes, Error>>,
) -> wasmtime::Result<()> {
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(Scheme::Http, request)?;
    let exchange = context.exchange.clone();
    let answer = store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(move |head| exchange.set_head(head))?;
    let proxy = code.prepared.instantiate_async(&mut *store).await?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, answer)
        .await
}
