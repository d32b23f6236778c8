//! The list itself.

use weir_federation::dispatch::POLICY_LABEL;
use weir_node::function::FunctionSpec;

use super::kinds::{
    self, Kind, copies, count, durable, flag, port, read_duration, read_memory, words,
};
use super::rows::{annotation, flagged, label, limit, option, parsed, put, shown, unusual, yes};
use super::{DeployOption, Way};
use crate::setting::{pair, plain};

/// The annotation that says whether an instance is started before the function
/// counts as ready.
pub const CHECK: &str = "weir.check";

/// The option of an image that runs source code.
pub const CODE_IMAGE: &str = "code-image";

/// Every option of a function.
pub static OPTIONS: &[DeployOption] = &[
    option(
        "memory",
        "SIZE",
        "Limit of memory, for example 128MiB",
        shown(limit("memory"), Kind::SIZE, |spec, text| {
            put(&mut spec.memory, read_memory(text))
        }),
        [
            "32MiB",
            "64MiB",
            "memory of one call (WebAssembly) or of one container (`128Mi`, `128M` and Docker's `128m` \
             do too); more ends it with a 502",
        ],
    ),
    option(
        "cpu",
        "CORES",
        "Share of processors: cores (0.5) or millicores (500m)",
        shown(limit("cpu"), Kind::CORES, |spec, text| {
            put(&mut spec.cpu, parsed(text).map(Some))
        }),
        [
            "0.5",
            "none",
            "share of the cores that a call holds and may not exceed; without it a call uses what is \
             free, and is counted as a tenth of a core until the node has learned what calls of a \
             container need (never less than a twentieth)",
        ],
    ),
    option(
        "timeout",
        "TIME",
        "Longest run of one call",
        annotation(
            "weir.timeout",
            Kind::TIME,
            |spec, text| {
                put(&mut spec.timeout, read_duration(text))?;
                match spec.timeout.is_zero() {
                    true => Err("no call can end in no time".to_owned()),
                    false => Ok(()),
                }
            },
            |spec| Some(kinds::time(spec.timeout)),
        ),
        [
            "45s",
            "30s",
            "wall clock of one call; then 504. Without it `exec_timeout`, `write_timeout` or \
             `read_timeout` of the environment counts",
        ],
    ),
    option(
        "max",
        "N",
        "Most instances at once on each node that runs it",
        shown(
            label("com.openfaas.scale.max"),
            Kind::NUMBER,
            |spec, text| {
                put(&mut spec.max, count(text).map(Some))?;
                match spec.max {
                    Some(0) => Err("0 would run nothing: write 1 or more".to_owned()),
                    Some(_) | None => Ok(()),
                }
            },
        ),
        [
            "7",
            "none",
            "calls at once (WebAssembly), or containers, on each node that runs it; more wait, or go \
             to other nodes",
        ],
    ),
    option(
        "min",
        "N",
        "Instances kept warm",
        shown(
            label("com.openfaas.scale.min"),
            Kind::NUMBER,
            |spec, text| put(&mut spec.min, count(text)),
        ),
        [
            "2",
            "0",
            "keep the code loaded, or so many containers, even when nobody calls",
        ],
    ),
    option(
        "keep-alive",
        "TIME",
        "How long an idle instance stays warm",
        annotation(
            "weir.keep-alive",
            Kind::TIME,
            |spec, text| put(&mut spec.keep_alive, read_duration(text)),
            |spec| Some(kinds::time(spec.keep_alive)),
        ),
        ["3m", "10m", "how long unused code stays loaded"],
    ),
    option(
        "keep-alive-policy",
        "POLICY",
        "By which rule idle instances stay: fixed, greedy-dual or histogram",
        annotation(
            "weir.keep-alive-policy",
            Kind::KEEPING,
            |spec, text| put(&mut spec.keeping, parsed(text).map(Some)),
            |spec| spec.keeping.map(|keeping| keeping.to_string()),
        ),
        [
            "histogram",
            "the node's",
            "by which rule: `fixed` (the time above), `greedy-dual` (until their room is wanted) or \
             `histogram` (as the function's own pauses say, else the time above)",
        ],
    ),
    option(
        "concurrency",
        "N",
        "Calls that one instance runs at once",
        annotation(
            "weir.concurrency",
            Kind::NUMBER,
            |spec, text| {
                put(&mut spec.concurrency, count(text).map(Some))?;
                match spec.concurrency {
                    Some(0) => Err("write 1 or more".to_owned()),
                    Some(_) | None => Ok(()),
                }
            },
            |spec| spec.concurrency.map(|count| count.to_string()),
        ),
        ["4", "1", "calls that one container takes at once"],
    ),
    option(
        "idempotent",
        "",
        "A call may be run again after it may have started",
        annotation(
            "weir.idempotent",
            Kind::SWITCH,
            |spec, text| put(&mut spec.idempotent, flag(text)),
            |spec| yes(spec.idempotent),
        ),
        [
            "",
            "false",
            "a call may be run again after it may have started",
        ],
    ),
    flagged(
        "secrets",
        "secret",
        "NAME",
        "Secret that the code may read",
        Way::Field {
            name: "secrets",
            field: |settings| plain(&mut settings.secrets),
        },
        ["key", "none", "readable at `/var/openfaas/secrets/NAME`"],
    ),
    option(
        "allow-outbound",
        "HOST:PORT",
        "Where the code may connect to",
        annotation(
            "weir.allow-outbound",
            Kind::TARGETS,
            |spec, text| {
                let mut wrong = Vec::new();
                for target in words(text) {
                    match parsed(target) {
                        Ok(target) => spec.allow_outbound.push(target),
                        Err(error) => wrong.push(error),
                    }
                }
                match wrong.is_empty() {
                    true => Ok(()),
                    false => Err(wrong.join("\n")),
                }
            },
            |spec| {
                let targets: Vec<_> = spec
                    .allow_outbound
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                (!targets.is_empty()).then(|| targets.join(","))
            },
        ),
        [
            "api.example:443",
            "none",
            "components only: where the code may send HTTP requests; checked on the resolved address",
        ],
    ),
    option(
        "qos",
        "CLASS",
        "QoS class that callers may name; the first is the default",
        annotation(
            "weir.qos",
            Kind::WORDS,
            |spec, text| {
                spec.classes = words(text).map(str::to_owned).collect();
                Ok(())
            },
            |spec| (!spec.classes.is_empty()).then(|| spec.classes.join(",")),
        ),
        [
            "fast",
            "the node's first class",
            "QoS classes that callers may name; the first is the default",
        ],
    ),
    option(
        "protocol",
        "PROTOCOL",
        "How the code is spoken to: stdio, cgi, http, openwhisk, serverledge or lambda",
        annotation(
            "weir.protocol",
            Kind::PROTOCOL,
            |spec, text| put(&mut spec.protocol, parsed(text)),
            |spec| Some(spec.protocol.to_string()),
        ),
        ["cgi", "by the code", "how the code is spoken to, as above"],
    ),
    option(
        "runtime",
        "NAME",
        "What runs source code: python",
        annotation(
            "weir.runtime",
            Kind::TEXT,
            |spec, text| put(&mut spec.container.runtime, Ok(Some(text.to_owned()))),
            |spec| spec.container.runtime.clone(),
        ),
        ["python", "none", "what runs a folder of code: `python`"],
    ),
    option(
        "handler",
        "MODULE.FUNCTION",
        "What the runtime calls",
        annotation(
            "weir.handler",
            Kind::TEXT,
            |spec, text| put(&mut spec.container.handler, Ok(Some(text.to_owned()))),
            |spec| spec.container.handler.clone(),
        ),
        ["a.handle", "none", "what the runtime calls"],
    ),
    DeployOption {
        key: CODE_IMAGE,
        flag: None,
        way: annotation(
            "weir.image",
            Kind::IMAGE,
            |spec, text| put(&mut spec.container.image, parsed(text).map(Some)),
            |spec| spec.container.image.as_ref().map(ToString::to_string),
        ),
        usual: "none",
        meaning: "the image that runs a folder of code: `--image` beside `--src`",
        example: "docker.io/a/b:1",
    },
    option(
        "pull",
        "WHEN",
        "When an image is fetched: missing, always or never",
        annotation(
            "weir.pull",
            Kind::PULL,
            |spec, text| put(&mut spec.container.pull, parsed(text)),
            |spec| unusual(spec.container.pull),
        ),
        [
            "always",
            "missing",
            "when an image is fetched: `missing`, `always` or `never`",
        ],
    ),
    option(
        "network",
        "NETWORK",
        "What a container can reach: none or bridge",
        annotation(
            "weir.network",
            Kind::NETWORK,
            |spec, text| put(&mut spec.container.network, parsed(text)),
            |spec| unusual(spec.container.network),
        ),
        [
            "bridge",
            "none",
            "what a container can reach: `none` or `bridge`, as above",
        ],
    ),
    option(
        "health",
        "PATH",
        "Path that answers 2xx once a container is ready",
        annotation(
            "weir.health",
            Kind::TEXT,
            |spec, text| {
                spec.container.health = Some(text.to_owned());
                match text.starts_with('/') {
                    true => Ok(()),
                    false => Err("write a path, as /_/health".to_owned()),
                }
            },
            |spec| spec.container.health.clone(),
        ),
        [
            "/_/health",
            "none",
            "path that answers 2xx once a container is ready",
        ],
    ),
    option(
        "port",
        "PORT",
        "Port on which a container answers [default: the one that its image exposes, or 8080]",
        annotation(
            "weir.port",
            Kind::PORT,
            |spec, text| put(&mut spec.container.port, port(text).map(Some)),
            |spec| spec.container.port.map(|port| port.to_string()),
        ),
        [
            "3000",
            "the one exposed, or 8080",
            "port on which a container answers",
        ],
    ),
    option(
        "image-user",
        "",
        "Run a container as the user that its image names, be it root",
        annotation(
            "weir.image-user",
            Kind::SWITCH,
            |spec, text| put(&mut spec.container.image_user, flag(text)),
            |spec| yes(spec.container.image_user),
        ),
        [
            "",
            "false",
            "a container runs as the user that its image names, be it root",
        ],
    ),
    option(
        "read-write",
        "",
        "Let a container write to its root, where the engine can bound that",
        annotation(
            "weir.read-write",
            Kind::SWITCH,
            |spec, text| put(&mut spec.container.read_write, flag(text)),
            |spec| yes(spec.container.read_write),
        ),
        [
            "",
            "false",
            "a container may write to its root, where the engine can bound that",
        ],
    ),
    option(
        "no-check",
        "",
        "Start no container to see whether it runs: ready once its image is there",
        // It is about this deployment, and not the function's.
        annotation(CHECK, Kind::UNLESS, |_, _| Ok(()), |_| None),
        [
            "",
            "checked",
            "a container is ready without a first start (`weir.check: \"false\"`)",
        ],
    ),
    flagged(
        "constraints",
        "constraint",
        "K=V",
        "Label that a node must have to run it",
        Way::Field {
            name: "constraints",
            field: |settings| plain(&mut settings.constraints),
        },
        ["disk=ssd", "none", "labels that a node must have to run it"],
    )
    .checked(|text| pair(text).map(drop)),
    option(
        "policy",
        "POLICY",
        "Policy that places its calls in a federation",
        shown(label(POLICY_LABEL), Kind::POLICY, |_, _| Ok(())),
        [
            "local-only",
            "the node's",
            "how its calls are placed in a federation",
        ],
    ),
    option(
        "durable",
        "N",
        "Peers that keep each asynchronous call before it is accepted, 0 to 2 [default: 0]",
        annotation(
            "weir.durable",
            Kind::NUMBER,
            |spec, text| put(&mut spec.durability.copies, durable(text)),
            |spec| unusual(spec.durability.copies),
        ),
        [
            "1",
            "0",
            "peers that keep each asynchronous call before it is accepted, 0 to 2",
        ],
    ),
    option(
        "durable-best-effort",
        "",
        "Accept asynchronous calls though fewer peers than --durable can keep them",
        annotation(
            "weir.durable-best-effort",
            Kind::SWITCH,
            |spec, text| put(&mut spec.durability.best_effort, flag(text)),
            |spec| yes(spec.durability.best_effort),
        ),
        [
            "",
            "false",
            "calls are accepted though fewer peers than that can keep them",
        ],
    ),
    option(
        "scope",
        "SCOPE",
        "Who knows of it and may run it: node, zone or federation",
        annotation(
            "weir.scope",
            Kind::SCOPE,
            |spec, text| put(&mut spec.scope, parsed(text)),
            |spec| Some(spec.scope.to_string()),
        ),
        [
            "zone",
            "federation",
            "who knows of it and may run it: `node`, `zone` or `federation`",
        ],
    ),
    option(
        "replicas",
        "N",
        "Members that keep its code, this one included [default: 2]",
        annotation(
            "weir.replicas",
            Kind::NUMBER,
            |spec, text| put(&mut spec.copies, copies(text)),
            |spec| (spec.copies != FunctionSpec::USUAL_COPIES).then(|| spec.copies.to_string()),
        ),
        [
            "3",
            "2",
            "members that keep its code, the one that it is deployed to included",
        ],
    ),
    option(
        "prefetch",
        "",
        "Have all who can run it bring it to them at once",
        annotation(
            "weir.prefetch",
            Kind::SWITCH,
            |spec, text| put(&mut spec.prefetch, flag(text)),
            |spec| yes(spec.prefetch),
        ),
        [
            "",
            "false",
            "all who can run it bring its code to them at once",
        ],
    ),
    option(
        "env",
        "K=V",
        "Environment of the code",
        Way::Field {
            name: "envVars",
            field: |settings| plain(&mut settings.env),
        },
        ["STAGE=test", "", "environment of the code"],
    )
    .checked(|text| pair(text).map(drop)),
    flagged(
        "labels",
        "label",
        "K=V",
        "Label",
        Way::Field {
            name: "labels",
            field: |settings| plain(&mut settings.labels),
        },
        ["team=blue", "", "labels, kept and shown"],
    )
    .checked(|text| pair(text).map(drop)),
    flagged(
        "annotations",
        "annotation",
        "K=V",
        "Annotation",
        Way::Field {
            name: "annotations",
            field: |settings| plain(&mut settings.annotations),
        },
        ["topic=x", "", "annotations, kept and shown"],
    )
    .checked(|text| pair(text).map(drop)),
];
