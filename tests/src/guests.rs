//! The functions that the tests deploy: real programs in the languages that
//! people use, built with the tools that people have.
//!
//! A guest is a file in `tests/guests/`; its extension says how it is built:
//!
//! | extension | built by | becomes |
//! |---|---|---|
//! | `.c` | Debian's clang and wasi-libc | a command module |
//! | `.c` that includes `proxy.h` | the same, with bindings made from the WIT files that wasmtime carries | a `wasi:http/proxy` component |
//! | `.rs` | Debian's rustc and its WebAssembly standard library | a command module |
//! | `.py` | componentize-py from PyPI, in a virtual environment of its own | a `wasi:http/proxy` component |
//! | `.wat` | nothing: the node accepts text | |
//!
//! Built ones are kept under the target folder by the digest of their source
//! and of this file, so each is built once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wit_parser::Resolve;

/// The version of the Python builder; part of a guest's digest.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// Debian's own compiler: it, and not the one that builds Weir, has a standard
/// library for WebAssembly in a package.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A function's code, ready to be uploaded.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name: the source file's, without the extension.
    pub name: String,
    /// The code.
    pub bytes: bytes::Bytes,
    /// The hexadecimal SHA-256 of the code.
    pub digest: String,
}

impl Guest {
    /// Code that a test makes up.
    pub fn from_bytes(name: &str, bytes: impl Into<bytes::Bytes>) -> Guest {
        let bytes = bytes.into();
        let digest = hex(&bytes);
        Guest {
            name: name.to_owned(),
            bytes,
            digest,
        }
    }

    /// Where a built guest lies; of use to the command line, which takes files.
    pub fn path(&self) -> PathBuf {
        let path = cache().join(format!("{}-{}.code", self.name, &self.digest[..16]));
        if !path.exists() {
            write_whole(&path, &self.bytes).expect("the cache folder can be written");
        }
        path
    }
}

/// The hexadecimal SHA-256 of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
            text
        })
}

/// The names of all guests, in order.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(sources())
        .expect("tests/guests is there")
        .map(|entry| entry.expect("tests/guests can be listed").path())
        .filter(|path| path.is_file() && path.extension().is_some())
        .map(|path| {
            path.file_name()
                .expect("a file has a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// The guest of this file name, built if need be; panics when it cannot be.
///
/// The extension may be left out where only one source has the name, in the
/// order `.c`, `.rs`, `.py`, `.wat`.
pub fn guest(name: &str) -> Guest {
    static BUILT: LazyLock<Mutex<BTreeMap<String, Guest>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock();
    if let Some(guest) = built.get(name) {
        return guest.clone();
    }
    match build(name) {
        Ok(guest) => {
            built.insert(name.to_owned(), guest.clone());
            guest
        }
        Err(error) => panic!("cannot build the guest {name}: {error:#}"),
    }
}

/// Builds a guest, or reads what an earlier run built.
pub fn build(name: &str) -> Result<Guest> {
    let source = ["", ".c", ".rs", ".py", ".wat"]
        .iter()
        .map(|extension| sources().join(format!("{name}{extension}")))
        .find(|path| path.is_file())
        .with_context(|| format!("no source of that name in {}", sources().display()))?;
    let name = source
        .file_stem()
        .expect("a source has a name")
        .to_string_lossy()
        .into_owned();
    let text = fs::read_to_string(&source)?;
    let extension = source
        .extension()
        .expect("a source has an extension")
        .to_string_lossy()
        .into_owned();
    if extension == "wat" {
        return Ok(Guest::from_bytes(&name, text));
    }

    let key = hex(format!("{extension}\n{text}\n{}", include_str!("guests.rs")).as_bytes());
    let place = cache().join(format!("{name}-{}.wasm", &key[..16]));
    // Test programs run at the same time in separate processes: the second one
    // waits for the first one's guest instead of building its own.
    let lock = fs::File::create(cache().join(format!("{name}.{extension}.lock")))?;
    lock.lock()?;
    if !place.exists() {
        let scratch = tempfile::tempdir_in(cache())?;
        let output = scratch.path().join("guest.wasm");
        match extension.as_str() {
            "c" if text.contains("#include \"proxy.h\"") => {
                c_component(&source, scratch.path(), &output)?
            }
            "c" => c_module(&[&source], &[], &output)?,
            "rs" => rust_module(&source, &output)?,
            "py" => python_component(&source, scratch.path(), &output)?,
            other => bail!("no way to build a .{other} guest"),
        }
        fs::rename(&output, &place)?;
    }
    Ok(Guest::from_bytes(&name, fs::read(&place)?))
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

/// The folder of built guests, beside what cargo built.
fn cache() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .or_else(|| program.parent())
        .expect("a program lies in a folder");
    let cache = target.join("guests");
    fs::create_dir_all(&cache).expect("the target folder can be written");
    cache
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file =
        tempfile::NamedTempFile::new_in(path.parent().expect("a file lies in a folder"))?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Runs a build step; its output is shown only when it fails.
fn run(command: &mut Command, package: &str) -> Result<()> {
    let output = command.output().with_context(|| {
        format!(
            "run {:?}; is the package {package} installed?",
            command.get_program()
        )
    })?;
    ensure!(
        output.status.success(),
        "{command:?} failed; is the package {package} installed?\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn c_module(inputs: &[&Path], options: &[&str], output: &Path) -> Result<()> {
    let mut command = Command::new("clang");
    command.args([
        "--target=wasm32-wasi",
        "--sysroot=/usr",
        "-O2",
        "-Wall",
        "-Wno-infinite-recursion",
        "-Wl,--strip-debug",
    ]);
    run(
        command.args(options).args(inputs).arg("-o").arg(output),
        "clang, lld, wasi-libc and libclang-rt-14-dev-wasm32",
    )
}

fn rust_module(source: &Path, output: &Path) -> Result<()> {
    let mut command = Command::new(DEBIAN_RUSTC);
    // A toolchain manager's variables would redirect it to another compiler.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    command.args([
        "--target",
        "wasm32-wasi",
        "--edition",
        "2021",
        "-O",
        "-C",
        "strip=symbols",
        "-o",
    ]);
    run(
        command.arg(output).arg(source),
        "rustc and libstd-rust-dev-wasm32",
    )
}

/// The folder of WIT files that wasmtime's own `wasi:http` host is made from.
fn wit() -> Result<PathBuf> {
    // Without a platform, packages for systems that nobody builds here would be
    // downloaded too.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            &platform,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "wasmtime-wasi-http")
        .and_then(|package| package["manifest_path"].as_str())
        .context("wasmtime-wasi-http is not among the dependencies")?;
    Ok(Path::new(manifest).with_file_name("wit"))
}

/// The `wasi:http/proxy` world of these WIT files, in its full name.
fn proxy(wit: &Path) -> Result<(Resolve, wit_parser::WorldId, String)> {
    let mut resolve = Resolve::default();
    resolve.push_dir(wit)?;
    let (world, name) = resolve
        .worlds
        .iter()
        .filter(|(_, world)| world.name == "proxy")
        .find_map(|(id, world)| {
            let package = &resolve.packages[world.package?].name;
            let version = package.version.as_ref()?;
            (package.namespace == "wasi" && package.name == "http")
                .then(|| (id, format!("wasi:http/proxy@{version}")))
        })
        .context("no world wasi:http/proxy in the WIT files")?;
    Ok((resolve, world, name))
}

fn c_component(source: &Path, scratch: &Path, output: &Path) -> Result<()> {
    let (mut resolve, world, _) = proxy(&wit()?)?;
    let mut files = wit_bindgen_core::Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, world, &mut files)?;
    for (name, content) in files.iter() {
        fs::write(scratch.join(name), content)?;
    }
    let module = scratch.join("module.wasm");
    let include = format!("-I{}", scratch.display());
    let (bindings, kind) = (
        scratch.join("proxy.c"),
        scratch.join("proxy_component_type.o"),
    );
    c_module(
        &[source, &bindings, &kind],
        &["-mexec-model=reactor", &include],
        &module,
    )?;
    let component = wit_component::ComponentEncoder::default()
        .module(&fs::read(&module)?)?
        .adapter(
            wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER,
        )?
        .validate(true)
        .encode()?;
    fs::write(output, component)?;
    Ok(())
}

fn python_component(source: &Path, scratch: &Path, output: &Path) -> Result<()> {
    let environment = cache().join("python");
    let builder = environment.join("bin/componentize-py");
    if !builder.exists() {
        run(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv", "--clear"])
                .arg(&environment),
            "python3-venv",
        )?;
        let mut pip = Command::new(environment.join("bin/pip"));
        run(
            pip.args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                COMPONENTIZE_PY,
            ]),
            "python3-venv",
        )?;
    }
    let wit = wit()?;
    let (_, _, world) = proxy(&wit)?;
    fs::copy(source, scratch.join("app.py"))?;
    let mut command = Command::new(builder);
    command.current_dir(scratch).arg("-d").arg(wit).args([
        "-w",
        &world,
        "componentize",
        "app",
        "-o",
    ]);
    run(command.arg(output), "python3-venv")
}
