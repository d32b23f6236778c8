//! Nodes, links between them, and how they speak.

use std::time::Duration;

use weir_node_core::resources::Memory;

use super::field::{
    At, BitRate, Field, Key, Of, Reading, Section, Share, Times, Whole, key, needed, wrong,
};
use super::tree::{Mistakes, Origin, Tree, Value};

/// Nodes of one class.
pub type Count = Whole<1, 100_000>;

/// Cores of a node.
pub type Cores = Whole<1, 4_096>;

/// What a node is among others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Role(pub weir_federation_core::report::Role);

impl Field for Role {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        match &tree.value {
            Value::Text(text) => match text.parse() {
                Ok(role) => self.0 = role,
                Err(error) => reading.mistakes.add(&tree.at, error),
            },
            other => wrong(tree, "edge or cloud", other, reading),
        }
    }

    fn takes(&self) -> String {
        "edge or cloud".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// A class of nodes that are alike: `edge-1`, `edge-2`, ... of `edge`; a class
/// of one node is named as it.
#[derive(Debug, Clone, PartialEq)]
pub struct Nodes {
    /// The class.
    pub name: At<String>,
    /// How many.
    pub count: Count,
    /// Edge or cloud.
    pub role: Role,
    /// Neighbours are of the same zone.
    pub zone: Option<String>,
    /// Of a cloud.
    pub region: Option<String>,
    /// Regions that its calls may go to, the first first; of all nodes when
    /// nothing is said.
    pub regions: Option<Vec<At<String>>>,
    /// Processors.
    pub cores: Cores,
    /// Memory.
    pub memory: Memory,
    /// How much quicker than a node of speed 1 its cores are.
    pub speed: Times,
    /// Part of it that calls of other nodes' users may hold that run long.
    pub guests: Share,
    /// Calls that run and wait together.
    pub calls: Whole<1, 10_000_000>,
    /// Instances that start at once.
    pub starts: Option<Whole<1, 4_096>>,
    /// Peers that it knows; all by default.
    pub peers: Option<Whole<1, 100_000>>,
    /// Cost of a core for an hour.
    pub price: Price,
    /// Watts of a core that works.
    pub watts: Price,
}

/// Money for an hour, or watts.
pub type Price = super::field::Real<0, 1_000_000_000>;

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes {
            name: At::default(),
            count: Whole(1),
            role: Role::default(),
            zone: None,
            region: None,
            regions: None,
            cores: Whole(1),
            memory: Memory::mebibytes(1_024),
            speed: Times::default(),
            guests: super::field::Real(0.5),
            calls: Whole(10_000),
            starts: None,
            peers: None,
            price: super::field::Real(0.0),
            watts: super::field::Real(0.0),
        }
    }
}

impl Section for Nodes {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "name",
            |s| &mut s.name,
            "Name of the class; its nodes are name-1, name-2 and so on.",
        ),
        key(
            "count",
            |s| &mut s.count,
            "How many nodes; one alone has the name of the class.",
        ),
        key("role", |s| &mut s.role, "Edge or cloud."),
        key(
            "zone",
            |s| &mut s.zone,
            "Its zone: nodes of one are neighbours.",
        ),
        key("region", |s| &mut s.region, "Its cloud region."),
        key(
            "regions",
            |s| &mut s.regions,
            "Regions that its calls may go to; all by default.",
        ),
        key("cores", |s| &mut s.cores, "Processors."),
        key("memory", |s| &mut s.memory, "Memory."),
        key(
            "speed",
            |s| &mut s.speed,
            "How much quicker its cores are than those of speed 1.",
        ),
        key(
            "guests",
            |s| &mut s.guests,
            "Part of it for other nodes' calls that run long.",
        ),
        key(
            "calls",
            |s| &mut s.calls,
            "Most calls that run and wait together.",
        ),
        key(
            "starts",
            |s| &mut s.starts,
            "Instances that start at once; as many as cores by default.",
        ),
        key(
            "peers",
            |s| &mut s.peers,
            "Peers that it knows; all by default.",
        ),
        key(
            "price",
            |s| &mut s.price,
            "Cost of a busy core for an hour.",
        ),
        key("watts", |s| &mut s.watts, "Watts of a busy core."),
    ];

    fn check(&self, _at: &Origin, mistakes: &mut Mistakes) {
        let cloud = self.role.0 == weir_federation_core::report::Role::Cloud;
        if cloud && self.region.is_none() {
            mistakes.add(&self.name.at, "a cloud node is in a region: write region");
        }
        if !cloud && self.region.is_some() {
            mistakes.add(
                &self.name.at,
                "only a cloud node has a region: write role = \"cloud\"",
            );
        }
    }
}

/// Whom a link, a fault, a workload or a policy is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Every node.
    #[default]
    All,
    /// Those of a zone.
    Zone(String),
    /// Those of a region.
    Region(String),
    /// One node, or those of a class.
    Name(String),
}

impl Field for Selector {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(text) = &tree.value else {
            return wrong(
                tree,
                "whom: a node, a class, zone:NAME or *",
                &tree.value,
                reading,
            );
        };
        *self = match text.split_once(':') {
            None if text == "*" => Selector::All,
            None => Selector::Name(text.clone()),
            Some(("zone", name)) => Selector::Zone(name.to_owned()),
            Some(("region", name)) => Selector::Region(name.to_owned()),
            Some((other, _)) => {
                let message = format!("{other}: is neither zone: nor region:");
                return reading.mistakes.add(&tree.at, message);
            }
        };
    }

    fn takes(&self) -> String {
        "a node, a class, zone:NAME, region:NAME or *".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// How long and how wide the way between two is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Link {
    /// Which two; from both sides.
    pub between: Vec<At<Selector>>,
    /// There and back.
    pub round_trip: Duration,
    /// Standard deviation of one way; normal, cut at nothing.
    pub jitter: Duration,
    /// Bits a second of each way; without it any.
    pub rate: Option<BitRate>,
    /// Part of messages that is lost; of calls it is a delay, of gossip a loss.
    pub loss: Option<Share>,
}

impl Section for Link {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "between",
            |s| &mut s.between,
            "The two ends; the last link that fits counts.",
        ),
        needed("round-trip", |s| &mut s.round_trip, "Time there and back."),
        key(
            "jitter",
            |s| &mut s.jitter,
            "Standard deviation of the time of one way.",
        ),
        key(
            "rate",
            |s| &mut s.rate,
            "How wide each way is; any without it.",
        ),
        key("loss", |s| &mut s.loss, "Part of gossip that is lost."),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.between.len() != 2 {
            mistakes.add(at, "between takes two ends");
        }
    }
}

/// Round trips between zones (or regions), row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// Zones or regions, in the order of the rows.
    pub between: Vec<At<Selector>>,
    /// A row for each, with a time for each.
    pub round_trips: Rows,
}

/// Rows of times.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows(pub Vec<Vec<Duration>>);

impl Field for Rows {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::List(rows) = &tree.value else {
            return wrong(tree, "a list of rows of times", &tree.value, reading);
        };
        for row in rows {
            let mut times: Vec<Duration> = Vec::new();
            times.take(row, reading);
            self.0.push(times);
        }
    }

    fn takes(&self) -> String {
        "list of lists of times".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl Section for Matrix {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "between",
            |s| &mut s.between,
            "Zones and regions, in the order of the rows.",
        ),
        needed(
            "round-trips",
            |s| &mut s.round_trips,
            "A row of times there and back for each.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        let side = self.between.len();
        let rows = &self.round_trips.0;
        if rows.len() != side || rows.iter().any(|row| row.len() != side) {
            mistakes.add(at, format!("expected {side} rows of {side} times"));
        }
    }
}

/// Links from a file: a line `from,to,round-trip[,rate]` for each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    /// What it says.
    pub file: TopologyFile,
}

impl Section for Topology {
    const KEYS: &'static [Key<Self>] = &[needed(
        "file",
        |s| &mut s.file,
        "A file with a line `from,to,round-trip,rate` for each link; the rate may be left out.",
    )];
}

/// Links that were read from a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopologyFile(pub Vec<Link>);

impl Field for TopologyFile {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(name) = &tree.value else {
            return wrong(tree, "the name of a file", &tree.value, reading);
        };
        let Some(text) = reading.file(name, &tree.at) else {
            return;
        };
        let path = super::field::beside(name, &tree.at).display().to_string();
        for (line, row) in (1..).zip(text.lines()) {
            let row = row.trim();
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            let at = Origin::File {
                path: path.as_str().into(),
                line,
                column: 1,
            };
            let cells: Vec<&str> = row.split(',').map(str::trim).collect();
            let (3 | 4) = cells.len() else {
                reading.mistakes.add(
                    &at,
                    "expected from,to,round-trip or from,to,round-trip,rate",
                );
                continue;
            };
            self.0.push(link_of(&cells, &at, reading));
        }
    }

    fn takes(&self) -> String {
        "name of a file".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

fn link_of(cells: &[&str], at: &Origin, reading: &mut Reading<'_>) -> Link {
    let tree = |text: &str| Tree {
        key: at.clone(),
        at: at.clone(),
        value: Value::Text(text.to_owned()),
    };
    let mut link = Link::default();
    for end in &cells[..2] {
        let mut selector = At::<Selector>::default();
        selector.take(&tree(end), reading);
        link.between.push(selector);
    }
    link.round_trip.take(&tree(cells[2]), reading);
    if let Some(rate) = cells.get(3) {
        Field::take(&mut link.rate, &tree(rate), reading);
    }
    link
}

/// How nodes hear of each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Gossip {
    /// How many peers each node passes a report on to.
    pub fan_out: Whole<1, 64>,
    /// What a hop adds to the way.
    pub hop: Duration,
    /// How long a dead node is missed before all suspect it.
    pub detect: Duration,
}

impl Default for Gossip {
    fn default() -> Gossip {
        Gossip {
            fan_out: Whole(6),
            hop: Duration::from_millis(1),
            detect: Duration::from_secs(2),
        }
    }
}

impl Section for Gossip {
    const KEYS: &'static [Key<Self>] = &[
        key(
            "fan-out",
            |s| &mut s.fan_out,
            "Peers to which each node passes a report on.",
        ),
        key(
            "hop",
            |s| &mut s.hop,
            "What each node on the way of a report adds.",
        ),
        key(
            "detect",
            |s| &mut s.detect,
            "How long a dead node is missed before it is suspected.",
        ),
    ];
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fault {
    /// When.
    pub at: Duration,
    /// How long; for ever without it.
    pub lasts: Option<Duration>,
    /// Nodes die at once, with their calls.
    pub kill: Option<At<Selector>>,
    /// Nodes stand still, and go on later.
    pub pause: Option<At<Selector>>,
    /// Nodes die, and are back at once, as new.
    pub restart: Option<At<Selector>>,
    /// No message passes between two.
    pub cut: Option<Vec<At<Selector>>>,
    /// The way between two takes longer.
    pub slow_link: Option<Of<SlowLink>>,
    /// Nodes work more slowly.
    pub slow_node: Option<Of<SlowNode>>,
    /// Nodes claim more room than they have.
    pub liar: Option<Of<Liar>>,
    /// The network says that ways between two are congested.
    pub congestion: Option<Vec<At<Selector>>>,
}

/// The way between two takes longer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlowLink {
    /// Which two.
    pub between: Vec<At<Selector>>,
    /// How many times as long.
    pub times: Times,
}

impl Section for SlowLink {
    const KEYS: &'static [Key<Self>] = &[
        needed("between", |s| &mut s.between, "The two ends."),
        needed(
            "times",
            |s| &mut s.times,
            "How many times as long the way is.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if self.between.len() != 2 {
            mistakes.add(at, "between takes two ends");
        }
    }
}

/// Nodes work more slowly.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlowNode {
    /// Which.
    pub node: At<Selector>,
    /// How many times as slowly.
    pub times: Times,
}

impl Section for SlowNode {
    const KEYS: &'static [Key<Self>] = &[
        needed("node", |s| &mut s.node, "Which nodes."),
        needed(
            "times",
            |s| &mut s.times,
            "How many times as long their calls run.",
        ),
    ];
}

/// Nodes claim more room than they have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Liar {
    /// Which.
    pub node: At<Selector>,
    /// How many times the room that there is; of a full node, of the whole.
    pub claims: Times,
}

impl Section for Liar {
    const KEYS: &'static [Key<Self>] = &[
        needed("node", |s| &mut s.node, "Which nodes."),
        key(
            "claims",
            |s| &mut s.claims,
            "Part of all its processors that it says is free.",
        ),
    ];
}

impl Section for Fault {
    const KEYS: &'static [Key<Self>] = &[
        needed("at", |s| &mut s.at, "When it begins."),
        key(
            "for",
            |s| &mut s.lasts,
            "How long it lasts; to the end without it.",
        ),
        key(
            "kill",
            |s| &mut s.kill,
            "Nodes die at once, with their calls.",
        ),
        key(
            "pause",
            |s| &mut s.pause,
            "Nodes stand still, and go on where they were.",
        ),
        key(
            "restart",
            |s| &mut s.restart,
            "Nodes die and are back at once, as new ones.",
        ),
        key("cut", |s| &mut s.cut, "Nothing passes between two ends."),
        key(
            "slow-link",
            |s| &mut s.slow_link,
            "The way between two ends takes longer.",
        ),
        key("slow-node", |s| &mut s.slow_node, "Nodes work more slowly."),
        key(
            "liar",
            |s| &mut s.liar,
            "Nodes claim room that they do not have.",
        ),
        key(
            "congestion",
            |s| &mut s.congestion,
            "The network says that the ways between two ends are congested.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        let kinds = [
            self.kill.is_some(),
            self.pause.is_some(),
            self.restart.is_some(),
            self.cut.is_some(),
            self.slow_link.is_some(),
            self.slow_node.is_some(),
            self.liar.is_some(),
            self.congestion.is_some(),
        ];
        if kinds.iter().filter(|is_it| **is_it).count() != 1 {
            let names: Vec<_> = Self::KEYS[2..].iter().map(|key| key.name).collect();
            mistakes.add(at, format!("write exactly one of {}", names.join(", ")));
        }
        for ends in [&self.cut, &self.congestion].into_iter().flatten() {
            if ends.len() != 2 {
                mistakes.add(at, "write two ends");
            }
        }
    }
}
