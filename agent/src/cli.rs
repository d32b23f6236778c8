//! The command line: what can be said, and who does it.

mod completions;
mod config;
mod demo;
mod deploy;
mod federation;
pub(crate) mod flags;
mod functions;
mod health;
mod image;
mod invoke;
mod logs;
mod policy;
mod run;
mod samples;
mod scenario;
mod secret;
mod simulate;
mod source;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use weir_node::id::{FunctionName, Namespace};

use crate::client::{self, Client, ClientError, CredentialSources, Credentials};
use crate::config::{default_data_dir, token_file};
use crate::local;
use crate::output::{self, Format, OutputError};
use crate::setting::Mistakes;

/// Everything that can be said to `weir`.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    about = "Functions at the edge: run a node, or talk to one"
)]
#[command(max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
struct Global {
    /// The node to talk to
    #[arg(long, global = true, env = "WEIR_NODE", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:8080", help_heading = "Node")]
    node: String,
    /// User of basic authentication
    #[arg(
        long,
        global = true,
        env = "WEIR_USER",
        value_name = "NAME",
        help_heading = "Node"
    )]
    user: Option<String>,
    /// File with the user's password
    #[arg(long, global = true, env = "WEIR_PASSWORD_FILE", value_name = "FILE")]
    #[arg(help_heading = "Node")]
    password_file: Option<PathBuf>,
    /// File with the bearer token [default: WEIR_TOKEN, then the token of a node on this machine]
    #[arg(long, global = true, env = "WEIR_TOKEN_FILE", value_name = "FILE")]
    #[arg(help_heading = "Node")]
    token_file: Option<PathBuf>,
    /// File with certificates (PEM) to trust beside the bundled ones
    #[arg(
        long,
        global = true,
        env = "WEIR_CA",
        value_name = "FILE",
        help_heading = "Node"
    )]
    ca: Option<PathBuf>,
    /// Namespace of the functions [default: openfaas-fn]
    #[arg(
        long,
        global = true,
        env = "WEIR_NAMESPACE",
        value_name = "NAME",
        help_heading = "Node"
    )]
    namespace: Option<Namespace>,
    /// How results are printed
    #[arg(long, global = true, env = "WEIR_OUTPUT", value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Run(run::RunArguments),
    /// Deploy a function, or all functions of a file
    Deploy(Box<deploy::DeployArguments>),
    /// List the functions of a node, or of the federation
    List(functions::ListArguments),
    /// Show one function
    Describe(functions::Named),
    /// Call a function
    Invoke(invoke::InvokeArguments),
    /// Print the answer of an asynchronous call
    Result(invoke::ResultArguments),
    /// Remove functions
    Remove(functions::RemoveArguments),
    /// Set how many instances of a function are kept
    Scale(functions::ScaleArguments),
    /// Return to the version of a function that served before
    Rollback(functions::Named),
    /// Print what a function wrote to its standard error
    Logs(logs::LogsArguments),
    /// Secrets that functions may read
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Sample functions: a banner, a hash, primes, a matrix product and more
    Samples(samples::SamplesArguments),
    /// Print a token by which another node may join the federation, once
    Token(federation::TokenArguments),
    /// List the other nodes of the federation
    Peers(federation::PeersArguments),
    /// Try every way to another node
    Ping(federation::PeerArguments),
    /// Have the node take no calls of peers, and give its own to them
    Drain(federation::DrainArguments),
    /// Have the node leave its federation
    Leave,
    /// What concerns the whole federation
    #[command(subcommand)]
    Federation(federation::FederationCommand),
    /// Let another node in no more
    Deny(federation::DenyArguments),
    /// Tell the federation of a function that only this node knows
    Announce(federation::AnnounceArguments),
    /// Forget another node and where it was
    Forget(federation::PeerArguments),
    /// How calls are placed
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Nodes that are said to be congested, which policies avoid
    #[command(subcommand)]
    Congestion(policy::CongestionCommand),
    /// What each destination weighs in the tables of policies
    #[command(subcommand)]
    Routes(policy::RoutesCommand),
    /// Show how a node is
    Status,
    /// Succeed if a node answers; for health checks
    Health,
    /// Print the configuration and where each value comes from
    Config(config::ConfigArguments),
    /// Start a node for a moment and show what it does
    Demo(demo::DemoArguments),
    /// Scenarios for simulate: check one, draw one, explain their keys
    #[command(subcommand)]
    Scenario(scenario::ScenarioCommand),
    /// Play a scenario in virtual time, under one policy or several
    Simulate(simulate::SimulateArguments),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArguments),
    /// Compile an artifact, as a node's child
    #[command(hide = true)]
    CompileArtifact {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// A command line that parses and yet cannot be meant.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("--user and --password-file belong together: give both or none")]
    HalfBasic,
}

/// Reads the command line, does what it says, and reports how it went: 0 done,
/// 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output; nobody is left to tell
            // when that is closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Run(arguments) => run::run(&arguments)?,
        Command::Deploy(arguments) => block_on(deploy::deploy(global, &arguments))?,
        Command::List(arguments) => block_on(functions::list(global, &arguments))?,
        Command::Describe(arguments) => block_on(functions::describe(global, &arguments))?,
        Command::Invoke(arguments) => block_on(invoke::invoke(global, arguments))?,
        Command::Result(arguments) => block_on(invoke::show_result(global, &arguments))?,
        Command::Secret(command) => block_on(secret::secret(global, &command))?,
        Command::Remove(arguments) => block_on(functions::remove(global, &arguments))?,
        Command::Scale(arguments) => block_on(functions::scale(global, &arguments))?,
        Command::Rollback(arguments) => block_on(functions::roll_back(global, &arguments))?,
        Command::Logs(arguments) => block_on(logs::logs(global, &arguments))?,
        Command::Samples(arguments) => block_on(samples::samples(global, &arguments))?,
        Command::Token(arguments) => block_on(federation::token(global, &arguments))?,
        Command::Peers(arguments) => block_on(federation::peers(global, &arguments))?,
        Command::Ping(arguments) => block_on(federation::ping(global, &arguments))?,
        Command::Drain(arguments) => block_on(federation::drain(global, &arguments))?,
        Command::Federation(federation::FederationCommand::RotateSecret) => {
            block_on(federation::rotate(global))?
        }
        Command::Leave => block_on(federation::leave(global))?,
        Command::Deny(arguments) => block_on(federation::deny(global, &arguments))?,
        Command::Announce(arguments) => block_on(federation::announce(global, &arguments))?,
        Command::Forget(arguments) => block_on(federation::forget(global, &arguments))?,
        Command::Policy(command) => block_on(policy::policy(global, &command))?,
        Command::Congestion(command) => block_on(policy::congestion(global, &command))?,
        Command::Routes(command) => block_on(policy::routes(global, &command))?,
        Command::Status => block_on(status::status(global))?,
        Command::Health => block_on(health::health(global))?,
        Command::Config(arguments) => config::config(global, &arguments)?,
        Command::Demo(arguments) => return block_on(demo::demo(global, &arguments)),
        Command::Scenario(command) => scenario::scenario(global, &command)?,
        Command::Simulate(arguments) => simulate::simulate(global, &arguments)?,
        Command::Completions(arguments) => completions::completions(&arguments)?,
        Command::CompileArtifact { arguments } => return Ok(crate::compile_artifact(arguments)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the chain of causes once and picks the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(OutputError::Closed)))
    {
        return ExitCode::SUCCESS;
    }
    let mut causes = error.chain();
    if let Some(first) = causes.next() {
        output::note(&format!("weir: error: {first}"));
    }
    for cause in causes {
        output::note(&format!("  caused by: {cause}"));
    }
    let usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Mistakes>()
            || cause.is::<UsageError>()
            || matches!(cause.downcast_ref(), Some(ClientError::Address(_)))
    };
    if error.chain().any(usage) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a command's future. Commands do one thing at a time: one thread is enough.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("start the runtime")?;
    let result = runtime.block_on(command);
    // A read of a terminal that nobody types into would keep the program.
    runtime.shutdown_background();
    result
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn data_dir() -> PathBuf {
    variable("WEIR_DATA_DIR").map_or_else(
        || default_data_dir(rustix::process::geteuid().is_root(), &variable),
        PathBuf::from,
    )
}

impl Global {
    /// The way to the node that was named.
    fn client(&self) -> anyhow::Result<Client> {
        let node = client::node_address(&self.node)?;
        let user = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user.clone(), file.clone())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(UsageError::HalfBasic.into()),
        };
        let sources = CredentialSources {
            user,
            token_file: self.token_file.clone(),
            token: variable("WEIR_TOKEN"),
            local_token_file: Some(match node.port_or_known_default() {
                Some(port) => {
                    let found = local::find(port, &variable);
                    found.unwrap_or_else(|| token_file(&data_dir()))
                }
                None => token_file(&data_dir()),
            }),
        };
        let credentials = Credentials::resolve(&sources, &node)?;
        let open = node.scheme() == "http" && !client::is_loopback(&node);
        if open && credentials != Credentials::Anonymous {
            output::note("weir: warning: credentials go to the node unencrypted; use https");
        }
        Ok(Client::new(&node, &credentials, self.ca.as_deref())?)
    }

    /// The full name of the function that the user calls `text`: `name`, in
    /// the namespace asked for, or `name.namespace`.
    fn function(&self, text: &str) -> anyhow::Result<FunctionName> {
        match (&self.namespace, text.contains('.')) {
            (Some(namespace), false) => Ok(FunctionName::new(text, namespace.clone())?),
            (None, _) | (Some(_), true) => Ok(text.parse()?),
        }
    }

    fn json(&self) -> bool {
        self.output == Format::Json
    }

    /// Prints what a command did: for programs as one document, for people on
    /// standard error, where nothing of it is a result.
    fn told(&self, document: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        match self.json() {
            true => Ok(output::json(document)?),
            false => {
                output::note(text);
                Ok(())
            }
        }
    }

    /// The same where the text is what people asked for.
    fn answer(&self, document: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        match self.json() {
            true => Ok(output::json(document)?),
            false => Ok(output::line(text)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_line_parses() {
        for line in [
            "weir run --config weir.conf --data-dir /d --http 127.0.0.1:0",
            "weir run --set log.level=debug --insecure",
            "weir deploy a --wasm a.wasm --memory 128MiB --cpu 0.5 --timeout 30s --concurrency 4 \
             --min 1 --max 9 --keep-alive 10m --idempotent --env K=V --env L= --label K=V \
             --annotation K=V --secret s --protocol cgi --allow-outbound h.example:443 --qos fast \
             --namespace shop --no-wait",
            "weir deploy -f stack.yaml",
            "weir deploy a -f weir.toml",
            "weir health --node http://127.0.0.1:1",
            "weir list --output json --node http://127.0.0.1:1 --ca ca.pem",
            "weir describe a",
            "weir invoke a -d - --qos fast --deadline 200ms -H X:1 --method PUT --path /x \
             --query a=b",
            "weir invoke a -d @file --async --wait",
            "weir remove a b",
            "weir scale a 3",
            "weir logs a -f --tail 10 --since 5m",
            "weir samples list",
            "weir samples deploy",
            "weir samples deploy banner hash",
            "weir deploy a --image b:1 --protocol lambda --handler app.handler --read-write",
            "weir run --join weir1-x --listen /ip4/0.0.0.0/tcp/1 --peer-listen 0.0.0.0:2 \
             --advertise /ip4/192.0.2.1/tcp/1 --peer-advertise 192.0.2.1:2 --zone z --region a,b \
             --role edge --node-label disk=ssd --peer /ip4/192.0.2.2/tcp/1 --policy spill",
            "weir token --ttl 1h --role cloud",
            "weir peers --watch",
            "weir ping 12D3KooW",
            "weir drain",
            "weir leave",
            "weir deny 12D3KooW --federation",
            "weir deny 12D3KooW --undo",
            "weir deny 12D3KooW --federation --undo",
            "weir secret create a --from-file f --trim",
            "weir secret update a --from-literal v",
            "weir secret list",
            "weir secret remove a b",
            "weir secret rotate",
            "weir federation rotate-secret",
            "weir result 0011 --wait --wait-timeout 5s",
            "weir announce shout",
            "weir forget 12D3KooW",
            "weir invoke a --explain",
            "weir deploy a --wasm a.wasm --constraint disk=ssd",
            "weir status",
            "weir config --default",
            "weir demo --keep",
            "weir scenario check a.toml --set scenario.duration=1m",
            "weir scenario explain",
            "weir scenario explain node --output json",
            "weir scenario draw a.toml --out a.svg",
            "weir simulate three-nodes --policy spill,local-only --seed 7 --repeat 3 --set a.b=c \
             --out d --threads 2 --output json",
            "weir simulate --list",
            "weir completions bash",
            "weir compile-artifact --anything at all",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "weir",
            "weir deploy",
            "weir deploy a",
            "weir deploy a -f weir.toml --memory 1MiB",
            "weir deploy a --wasm f --memory much",
            "weir deploy a --wasm f --timeout 30",
            "weir deploy a --wasm f --env =x",
            "weir invoke a -H nonsense",
            "weir invoke a --wait",
            "weir scale a many",
            "weir simulate",
            "weir simulate a.toml --set nothing",
            "weir simulate a.toml --threads 0",
            "weir list --namespace a.b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn namespace_is_the_flags_unless_the_name_has_one() {
        let check = |line: &str, text: &str, expected: &str| {
            let name = parse(line)
                .expect("valid")
                .global
                .function(text)
                .expect("a name");
            assert_eq!(name.to_string(), expected);
        };
        check("weir list", "a", "a");
        check("weir list --namespace shop", "a", "a.shop");
        check("weir list --namespace shop", "a.other", "a.other");
        check("weir list", "a.openfaas-fn", "a");
    }

    #[test]
    fn closed_output_is_success_and_mistakes_are_wrong_usage() {
        let code = |error: anyhow::Error| format!("{:?}", report(&error));
        let same = |code: ExitCode| format!("{code:?}");
        assert_eq!(code(OutputError::Closed.into()), same(ExitCode::SUCCESS));
        assert_eq!(code(Mistakes(Vec::new()).into()), same(ExitCode::from(2)));
        assert_eq!(code(anyhow::anyhow!("other")), same(ExitCode::FAILURE));
    }
}
