//! Telling whether code can run here, before anything is compiled.

use crate::tuning::{FEATURES, MEMORIES_PER_MODULE, OFF, TABLE_ELEMENTS, TABLES_PER_MODULE};
use crate::{Kind, Protocol};
use std::borrow::Cow;
use wasmparser::{
    BinaryReaderError, ComponentExternalKind, ExternalKind, Parser, Payload, TypeRef, Validator,
    WasmFeatures,
};

/// Bytes of WebAssembly text that are accepted: text is for small examples,
/// and parsing it takes many times its size in memory.
const TEXT_BYTES: usize = 8 << 20;

/// What every WebAssembly binary begins with.
const MAGIC: &[u8] = b"\0asm";

/// The only module that command modules may import from.
const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// The functions of WASI preview 1 that guests are given.
const PREVIEW_1_FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// The WASI 0.2 interfaces that components are given.
const WASI_0_2_INTERFACES: [&str; 29] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What a component must export to serve requests.
const INCOMING_HANDLER: &str = "wasi:http/incoming-handler";

/// Why code cannot run here, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// What code was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Module or component.
    pub kind: Kind,
    /// Bytes of memory that it has from the start, at least.
    pub memory_bytes: u64,
}

/// Parses and validates `bytes` (binary or text) and checks that everything
/// it imports is there, that it fits into a sandbox and that it can be called.
///
/// Takes time in proportion to the code (tens of milliseconds for a large
/// one): call it where blocking is allowed. `protocol` is what the deployer
/// asked for, if anything.
pub fn inspect(bytes: &[u8], protocol: Option<Protocol>) -> Result<Inspected, Unfit> {
    let bytes = binary(bytes)?;
    let component = Parser::is_component(&bytes);
    match (component, protocol) {
        (true, Some(Protocol::Stdio | Protocol::Cgi)) => {
            return Err(Unfit(
                "this is a component, and components speak the protocol `http`; deploy it \
                 without naming a protocol, or build a WASI preview 1 command module"
                    .to_owned(),
            ));
        }
        (false, Some(Protocol::Http)) => {
            return Err(Unfit(
                "this is a core module, and those speak `stdio` or `cgi`; the protocol `http` \
                 needs a component that exports wasi:http/incoming-handler"
                    .to_owned(),
            ));
        }
        (true, Some(Protocol::Http) | None)
        | (false, Some(Protocol::Stdio | Protocol::Cgi) | None) => {}
    }
    Validator::new_with_features(FEATURES)
        .validate_all(&bytes)
        .map_err(|error| invalid(&bytes, &error))?;
    let mut shape = Shape::default();
    let kind = if component {
        check_component(&bytes, &mut shape).map(|()| Kind::Component)
    } else {
        check_module(&bytes, &mut shape).map(|()| Kind::Module)
    }?;
    let memory_bytes = shape.largest_bytes;
    Ok(Inspected { kind, memory_bytes })
}

/// Why code is not valid here: what it uses that is off, if it is that.
fn invalid(bytes: &[u8], error: &BinaryReaderError) -> Unfit {
    let valid_with = |more: WasmFeatures| {
        let mut validator = Validator::new_with_features(FEATURES.union(more));
        validator.validate_all(bytes).is_ok()
    };
    let all = OFF
        .iter()
        .fold(WasmFeatures::empty(), |all, (_, more)| all.union(*more));
    if !valid_with(all) {
        return Unfit(format!("this is not valid WebAssembly: {error}"));
    }
    let needed = OFF
        .iter()
        .filter(|(_, more)| !valid_with(all.difference(*more)));
    let needed: Vec<_> = needed.map(|(name, _)| *name).collect();
    Unfit(format!(
        "this uses parts of WebAssembly that are off here: {} ({error})",
        needed.join("; ")
    ))
}

/// What the modules of some code have of their own.
#[derive(Default)]
struct Shape {
    memories: u32,
    tables: u32,
    bytes: u64,
    /// Bytes that the module with most of them has from the start.
    largest_bytes: u64,
}

impl Shape {
    /// Counts what a payload of the code defines.
    fn note(&mut self, payload: &Payload<'_>) -> Result<(), Unfit> {
        match payload {
            // A module begins, be it inside a component.
            Payload::Version { .. } => (self.memories, self.tables, self.bytes) = (0, 0, 0),
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory.map_err(malformed)?;
                    let page = 1_u64 << memory.page_size_log2.unwrap_or(16);
                    self.memories += 1;
                    self.bytes = self
                        .bytes
                        .saturating_add(memory.initial.saturating_mul(page));
                }
                self.largest_bytes = self.largest_bytes.max(self.bytes);
                if self.memories > MEMORIES_PER_MODULE {
                    return Err(Unfit(format!(
                        "a module has {} memories, and one may have {MEMORIES_PER_MODULE} here",
                        self.memories
                    )));
                }
            }
            Payload::TableSection(tables) => {
                for table in tables.clone() {
                    let elements = table.map_err(malformed)?.ty.initial;
                    self.tables += 1;
                    if elements > TABLE_ELEMENTS.into() {
                        return Err(Unfit(format!(
                            "a table has {elements} elements, and one may have {TABLE_ELEMENTS} \
                             here"
                        )));
                    }
                }
                if self.tables > TABLES_PER_MODULE {
                    return Err(Unfit(format!(
                        "a module has {} tables, and one may have {TABLES_PER_MODULE} here",
                        self.tables
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The binary form of `bytes`, which may be text.
pub(crate) fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unfit> {
    if bytes.starts_with(MAGIC) {
        return Ok(Cow::Borrowed(bytes));
    }
    if bytes.len() > TEXT_BYTES {
        return Err(Unfit(format!(
            "this is neither a WebAssembly binary nor text of at most {} MiB",
            TEXT_BYTES >> 20
        )));
    }
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| looks_like_text(text))
        .ok_or_else(|| {
            Unfit(
                "this is not WebAssembly: it begins neither like a binary (\\0asm) nor like \
                 text ((module or (component)"
                    .to_owned(),
            )
        })?;
    wat::parse_str(text)
        .map(Cow::Owned)
        .map_err(|error| Unfit(format!("this WebAssembly text does not parse: {error}")))
}

fn looks_like_text(text: &str) -> bool {
    let start = text.trim_start();
    start.starts_with('(') || start.starts_with(";;")
}

fn malformed(error: BinaryReaderError) -> Unfit {
    Unfit(format!("this is not valid WebAssembly: {error}"))
}

fn check_module(bytes: &[u8], shape: &mut Shape) -> Result<(), Unfit> {
    let mut starts = false;
    let mut memory = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        shape.note(&payload)?;
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(malformed)?;
                    check_import(import.module, import.name, &import.ty)?;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    starts |= export.name == "_start" && export.kind == ExternalKind::Func;
                    memory |= export.name == "memory" && export.kind == ExternalKind::Memory;
                }
            }
            _ => {}
        }
    }
    if !starts {
        return Err(Unfit(
            "this module exports no function `_start`: build a command (a program with `main`), \
             not a library or reactor"
                .to_owned(),
        ));
    }
    if !memory {
        return Err(Unfit(
            "this module exports no memory named `memory`, so it could neither read its input \
             nor write an answer"
                .to_owned(),
        ));
    }
    Ok(())
}

fn check_import(module: &str, name: &str, ty: &TypeRef) -> Result<(), Unfit> {
    let function = matches!(ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
    if module == PREVIEW_1 && function && PREVIEW_1_FUNCTIONS.contains(&name) {
        return Ok(());
    }
    Err(Unfit(if module == PREVIEW_1 {
        format!("this module imports {PREVIEW_1}.{name}, which is no part of WASI preview 1")
    } else {
        format!(
            "this module imports {module}.{name}, which is not given here: only functions of \
             {PREVIEW_1} are"
        )
    }))
}

fn check_component(bytes: &[u8], shape: &mut Shape) -> Result<(), Unfit> {
    let mut handler = false;
    // Sections of nested components come in the same stream; only what the
    // outermost one imports and exports is our business.
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        shape.note(&payload)?;
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    check_interface(import.map_err(malformed)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    handler |= export.kind == ComponentExternalKind::Instance
                        && is_0_2(export.name.name, INCOMING_HANDLER);
                }
            }
            _ => {}
        }
    }
    if handler {
        return Ok(());
    }
    Err(Unfit(format!(
        "this component does not export {INCOMING_HANDLER}@0.2: build it for the world \
         wasi:http/proxy"
    )))
}

fn check_interface(name: &str) -> Result<(), Unfit> {
    let given = WASI_0_2_INTERFACES
        .iter()
        .any(|interface| is_0_2(name, interface));
    if given {
        return Ok(());
    }
    Err(Unfit(format!(
        "this component imports {name}, which is not given here: only the interfaces of \
         WASI 0.2 and wasi:http are"
    )))
}

/// Whether `name` is `interface` in any release of WASI 0.2.
fn is_0_2(name: &str, interface: &str) -> bool {
    name.strip_prefix(interface)
        .is_some_and(|rest| rest.starts_with("@0.2."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

    #[track_caller]
    fn check(code: impl AsRef<[u8]>, expected: Result<Kind, &str>) {
        match (inspect(code.as_ref(), None), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.kind, expected),
            (Err(unfit), Err(part)) => assert!(unfit.0.contains(part), "{unfit}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn command_module_fits_as_text_and_as_binary() {
        check(COMMAND, Ok(Kind::Module));
        check(
            wat::parse_str(COMMAND).expect("valid text"),
            Ok(Kind::Module),
        );
    }

    #[test]
    fn unfit_code_is_told_what_it_lacks() {
        check("", Err("not WebAssembly"));
        check("#!/bin/sh", Err("not WebAssembly"));
        check("(module", Err("does not parse"));
        check(b"\0asm\x01\0\0\0\xff", Err("not valid WebAssembly"));
        check(r#"(module (memory (export "memory") 1))"#, Err("`_start`"));
        check(r#"(module (func (export "_start")))"#, Err("no memory"));
        check(
            r#"(module (import "env" "abort" (func)) (memory (export "memory") 1)
                (func (export "_start")))"#,
            Err("env.abort"),
        );
        check(
            r#"(module (import "wasi_snapshot_preview1" "sock_connect" (func)))"#,
            Err("sock_connect"),
        );
        check("(component)", Err("wasi:http/incoming-handler"));
        check(
            r#"(component (import "acme:db/query@1.0.0" (instance)))"#,
            Err("acme:db/query"),
        );
    }

    #[test]
    fn what_is_off_is_named_and_what_does_not_fit_is_counted() {
        let module = |more: &str| {
            format!(r#"(module (memory (export "memory") 2) {more} (func (export "_start")))"#)
        };
        let wat = module("(memory 3) (memory i64 1)");
        let found = inspect(wat.as_bytes(), None).expect("it fits");
        assert_eq!(found.memory_bytes, 6 << 16);
        check(module(&"(memory 1)".repeat(4)), Err("5 memories"));
        check(module("(table 65537 funcref)"), Err("65537 elements"));
        check(module(&"(table 1 funcref)".repeat(5)), Err("5 tables"));
        check(module("(memory 1 1 shared)"), Err("threads"));
        check(
            module(
                "(func (param i64 i64) (result i64 i64) local.get 0 local.get 1 i64.mul_wide_s)",
            ),
            Err("wide arithmetic"),
        );
        check(
            module("(memory 1 1 shared) (memory 1 (pagesize 1))"),
            Err("threads and shared memory (build without -pthread); custom page sizes"),
        );
        check(
            module("(func try (result i32) i32.const 0 catch_all i32.const 1 end drop)"),
            Err("exceptions in their old form"),
        );
        check(
            module("(func (result i32) i64.const 0)"),
            Err("not valid WebAssembly"),
        );
    }

    #[test]
    fn protocol_must_suit_the_kind() {
        assert!(inspect(COMMAND.as_bytes(), Some(Protocol::Cgi)).is_ok());
        assert!(inspect(COMMAND.as_bytes(), Some(Protocol::Http)).is_err());
        assert!(inspect(b"(component)", Some(Protocol::Stdio)).is_err());
    }

    #[test]
    fn every_listed_function_is_given() {
        let engine = wasmtime::Engine::default();
        let mut linker = wasmtime::Linker::<wasmtime_wasi::p1::WasiP1Ctx>::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |context| context)
            .expect("nothing is defined twice");
        let mut store =
            wasmtime::Store::new(&engine, wasmtime_wasi::WasiCtxBuilder::new().build_p1());
        for name in PREVIEW_1_FUNCTIONS {
            assert!(linker.get(&mut store, PREVIEW_1, name).is_ok(), "{name}");
        }
    }
}
