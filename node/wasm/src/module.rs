//! Running one command module.

use crate::call::{Context, classify};
use crate::limits::{FIRST_TICKS, MemoryLimit};
use crate::stdio::{Log, Stdin, Stdout};
use crate::{CallError, variables};
use wasmtime::{InstancePre, ModuleExport, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// Where a guest finds its secrets.
pub(crate) const SECRETS: &str = "/var/openfaas/secrets";

/// What a sandbox of a module holds.
pub(crate) struct ModuleState {
    wasi: WasiP1Ctx,
    memory: MemoryLimit,
}

impl ModuleState {
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

/// Code of a module, ready to start.
pub(crate) struct ModuleCode {
    pub(crate) prepared: InstancePre<ModuleState>,
    pub(crate) start: ModuleExport,
}

/// Runs the module once, from a fresh sandbox to its end.
pub(crate) async fn run(
    code: &ModuleCode,
    context: &Context,
    request: http::Request<crate::Body>,
) -> Result<(), CallError> {
    let (parts, body) = request.into_parts();
    let mut builder = WasiCtxBuilder::new();
    builder
        .arg(&context.setup().name)
        .stdin(Stdin::new(body, context.exchange.clone()))
        .stdout(Stdout(context.exchange.clone()))
        .stderr(Log(context.log.clone()));
    variables::describe(&mut builder, &context.setup().env, &parts);
    give_secrets(&mut builder, context)?;

    let mut store = Store::new(
        context.wasmtime(),
        ModuleState {
            wasi: builder.build_p1(),
            memory: MemoryLimit::new(context.setup().memory_bytes),
        },
    );
    store.limiter(|state| &mut state.memory);
    store.set_epoch_deadline(FIRST_TICKS);
    let meter = context.meter();
    store.epoch_deadline_callback(move |_| Ok(meter.tick()));

    let result = async {
        let instance = code.prepared.instantiate_async(&mut store).await?;
        let start = instance
            .get_module_export(&mut store, &code.start)
            .and_then(|export| export.into_func())
            .ok_or_else(|| wasmtime::format_err!("`_start` is not a function"))?
            .typed::<(), ()>(&store)?;
        start.call_async(&mut store, ()).await
    }
    .await;
    let result = classify(result, &store.data().memory, context);
    // Known before the sandbox goes, whose parts others may be watching.
    context.exchange.set_end(result);
    Ok(())
}

/// Shows the guest the folder with its secrets, to read only.
pub(crate) fn give_secrets(
    builder: &mut WasiCtxBuilder,
    context: &Context,
) -> Result<(), CallError> {
    let Some(folder) = &context.setup().secrets else {
        return Ok(());
    };
    // Reads go to other threads. Blocking this one for them would be quicker, but
    // what allows that has a guest that sleeps block the thread too, and with it
    // all other calls there.
    builder
        .preopened_dir(folder, SECRETS, FsPerms::ReadOnly)
        .map_err(|error| CallError::NotStarted(format!("cannot open its secrets: {error:#}")))?;
    Ok(())
}
