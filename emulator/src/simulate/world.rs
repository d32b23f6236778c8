//! A scenario with its names as numbers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::facts::PeerKey;
use weir_federation_core::policy::{Choice, ClassKey};
use weir_federation_core::report::Role;
use weir_federation_core::samples;
use weir_federation_core::wanted::Wanted;
use weir_node_core::class::ClassConfig;
use weir_node_core::function::{ArtifactKind, CodeSource, FunctionSpec, Protocol, Scope};
use weir_node_core::id::FunctionName;
use weir_node_core::profile::Profile;
use weir_node_core::resources::{Cpu, Memory, Resources};

use crate::scenario::Scenario;
use crate::scenario::field::At;
use crate::scenario::work::{self, Placing};
use crate::scenario::world::{Link, Nodes, Selector};
use crate::workload::law::{Sizes, Times};

/// Time there and back between nodes for which no link is written.
const ROUND_TRIP: Duration = Duration::from_millis(1);

/// One node as it is described.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) class: usize,
    pub(super) number: u64,
    pub(super) id: PeerId,
    /// Nodes of one group have the same links and policies.
    group: u32,
}

/// One function as it is described.
pub(super) struct Function {
    pub(super) name: FunctionName,
    pub(super) qualified: String,
    pub(super) profile: Profile,
    pub(super) wanted: Arc<Wanted>,
    pub(super) service: Times,
    pub(super) start: Times,
    pub(super) answer: Sizes,
    pub(super) fails: f64,
    pub(super) code_bytes: u64,
    pub(super) timeout: Duration,
    /// Nodes that have its code to begin with; `None` for all.
    pub(super) at: Option<Vec<bool>>,
}

/// The way from one node to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    /// Nanoseconds.
    pub(super) one_way: f64,
    /// Nanoseconds, as a standard deviation.
    pub(super) jitter: f64,
    /// Nanoseconds for a byte.
    pub(super) per_byte: f64,
    /// Part of gossip that is lost.
    pub(super) loss: f64,
}

/// A scenario with its names as numbers.
pub(super) struct World {
    pub(super) classes: Vec<Nodes>,
    pub(super) nodes: Vec<Described>,
    ids: HashMap<PeerKey, u32>,
    /// Most peers that any node knows.
    pub(super) most_known: usize,
    /// Nodes in the order of their ids, and the place of each there.
    pub(super) by_id: Vec<u32>,
    pub(super) ranks: Vec<u32>,
    pub(super) regions: Vec<Vec<String>>,
    pub(super) functions: Vec<Function>,
    pub(super) qos: Vec<ClassConfig>,
    /// What stands for each of them in tables.
    pub(super) class_keys: Vec<ClassKey>,
    ways: Vec<Way>,
    groups: usize,
    /// By group of nodes: the policies that each holds.
    held: Vec<Vec<Held>>,
    /// By group of nodes, function and QoS class: which of those.
    slots: Vec<u32>,
}

/// A policy that nodes hold, each one of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    pub(super) choice: Choice,
    /// For which calls: empty for all, `class/NAME`, or `function/NAME`. Policies of
    /// one name and scope at several nodes are alike, and hear each other's notes.
    pub(super) scope: String,
}

impl World {
    /// Makes one of a scenario that was checked. `policy` stands in for all that
    /// it names.
    pub(super) fn new(scenario: &Scenario, policy: Option<&Choice>) -> World {
        let classes: Vec<Nodes> = scenario.nodes.0.iter().map(|n| n.value.clone()).collect();
        let nodes = described(scenario, &classes);
        let (ways, groups) = ways(scenario, &classes, &nodes);
        let ids = nodes.iter().zip(0..);
        let ids = ids.map(|(node, at)| (PeerKey::of(&node.id), at));
        let mut by_id: Vec<u32> = (0..small(nodes.len() as u64)).collect();
        by_id.sort_unstable_by_key(|at| nodes[*at as usize].id);
        let mut ranks = vec![0; nodes.len()];
        for (rank, at) in (0..).zip(&by_id) {
            ranks[*at as usize] = rank;
        }
        let mut world = World {
            ids: ids.collect(),
            most_known: 0,
            by_id,
            ranks,
            regions: regions(&classes),
            functions: functions(scenario, &classes, &nodes),
            class_keys: Vec::new(),
            qos: scenario.class_configs(),
            nodes,
            ways,
            groups,
            held: Vec::new(),
            slots: Vec::new(),
            classes,
        };
        let keys = world
            .qos
            .iter()
            .map(|class| ClassKey::of(Some(&class.name)));
        world.class_keys = keys.collect();
        (world.held, world.slots) = policies(scenario, &world, policy);
        let known = (0..world.classes.len()).map(|class| world.known(class));
        world.most_known = known.max().unwrap_or(0);
        world
    }

    pub(super) fn class(&self, node: u32) -> &Nodes {
        &self.classes[self.nodes[node as usize].class]
    }

    /// How many peers each node of a class knows.
    pub(super) fn known(&self, class: usize) -> usize {
        let others = self.nodes.len().saturating_sub(1);
        let most = self.classes[class].peers.map(|most| most.0);
        let most = most.and_then(|most| usize::try_from(most).ok());
        most.unwrap_or(others).min(others)
    }

    /// The number of a node by its id.
    pub(super) fn number(&self, id: &PeerId) -> Option<u32> {
        self.ids.get(&PeerKey::of(id)).copied()
    }

    pub(super) fn name(&self, node: u32) -> String {
        let Described { class, number, .. } = self.nodes[node as usize];
        self.classes[class].node_name(number)
    }

    pub(super) fn way(&self, from: u32, to: u32) -> Way {
        let [from, to] = [from, to].map(|node| self.nodes[node as usize].group as usize);
        self.ways[from * self.groups + to]
    }

    /// The policies that a node holds.
    pub(super) fn held(&self, node: u32) -> &[Held] {
        &self.held[self.nodes[node as usize].group as usize]
    }

    /// By which of them it places calls of a function and a class.
    pub(super) fn slot(&self, node: u32, function: u32, class: u32) -> usize {
        let group = self.nodes[node as usize].group as usize;
        let at = (group * self.functions.len() + function as usize) * self.qos.len();
        self.slots[at + class as usize] as usize
    }

    pub(super) fn capacity(&self, node: u32) -> Resources {
        let class = self.class(node);
        Resources {
            cpu: Cpu::cores(small(class.cores.0)),
            memory: class.memory,
        }
    }

    /// The functions that a name means.
    pub(super) fn named(&self, scenario: &Scenario, name: &str) -> Range<u32> {
        let mut first = 0;
        for of in &scenario.functions.0 {
            if let Some(numbers) = of.value.numbers(name) {
                return first + small(numbers.start)..first + small(numbers.end);
            }
            first += small(of.value.count.0);
        }
        0..1
    }

    /// The nodes that a selector means.
    pub(super) fn selected(&self, selector: &Selector) -> impl Iterator<Item = u32> {
        let nodes = (0_u32..).zip(&self.nodes);
        let selected = nodes
            .filter(move |(_, node)| is_selected(selector, &self.classes[node.class], node.number));
        selected.map(|(at, _)| at)
    }

    /// Whether two nodes hear each other's whole reports.
    pub(super) fn are_near(&self, one: u32, other: u32) -> bool {
        let (one, other) = (self.class(one), self.class(other));
        match (one.role.0, other.role.0) {
            (Role::Edge, Role::Edge) => one.zone == other.zone,
            (Role::Cloud, Role::Cloud) => one.region == other.region,
            (Role::Edge, Role::Cloud) | (Role::Cloud, Role::Edge) => false,
        }
    }
}

/// A number that a scenario bounds far below what fits.
pub(super) fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn is_selected(selector: &Selector, class: &Nodes, number: u64) -> bool {
    match selector {
        Selector::All => true,
        Selector::Zone(zone) => class.zone.as_ref() == Some(zone),
        Selector::Region(region) => class.region.as_ref() == Some(region),
        Selector::Name(name) => class
            .numbers(name)
            .is_some_and(|numbers| numbers.contains(&number)),
    }
}

fn regions(classes: &[Nodes]) -> Vec<Vec<String>> {
    let mut all: Vec<String> = classes.iter().filter_map(|c| c.region.clone()).collect();
    all.sort();
    all.dedup();
    let of = |class: &Nodes| {
        let named = class.regions.as_ref();
        let mut regions = match named {
            Some(named) => named.iter().map(|region| region.value.clone()).collect(),
            None => all.clone(),
        };
        if let Some(own) = &class.region {
            regions.retain(|region| region != own);
            regions.insert(0, own.clone());
        }
        regions
    };
    classes.iter().map(of).collect()
}

/// All ends of links: nodes that all or none of them mean have the same links.
fn links(scenario: &Scenario) -> Vec<Link> {
    let mut links = Vec::new();
    if let Some(matrix) = &scenario.matrix {
        let ends = &matrix.0.between;
        for (from, row) in ends.iter().zip(&matrix.0.round_trips.0) {
            for (to, round_trip) in ends.iter().zip(row) {
                links.push(Link {
                    between: vec![from.clone(), to.clone()],
                    round_trip: *round_trip,
                    ..Link::default()
                });
            }
        }
    }
    let topology = scenario.topology.iter();
    links.extend(topology.flat_map(|topology| topology.0.file.0.clone()));
    links.extend(scenario.links.0.iter().map(|link| link.value.clone()));
    links
}

fn described(scenario: &Scenario, classes: &[Nodes]) -> Vec<Described> {
    let links = links(scenario);
    let mut ends: Vec<&Selector> = Vec::new();
    let placings = scenario.policies.0.iter();
    let placings = placings.map(|placing| &placing.value.at);
    let of_links = links.iter().flat_map(|link| &link.between);
    for At { value, .. } in of_links.chain(placings) {
        if !ends.contains(&value) {
            ends.push(value);
        }
    }
    let mut groups: BTreeMap<Vec<bool>, u32> = BTreeMap::new();
    let mut nodes = Vec::new();
    for (class, of) in classes.iter().enumerate() {
        for number in 0..of.count.0 {
            let of_ends = ends.iter().map(|end| is_selected(end, of, number));
            let next = small(groups.len() as u64);
            let group = *groups.entry(of_ends.collect()).or_insert(next);
            nodes.push(Described {
                class,
                number,
                id: samples::numbered(small(nodes.len() as u64)),
                group,
            });
        }
    }
    nodes
}

fn ways(scenario: &Scenario, classes: &[Nodes], nodes: &[Described]) -> (Vec<Way>, usize) {
    let links = links(scenario);
    let groups = nodes.iter().map(|node| node.group as usize + 1).max();
    let groups = groups.unwrap_or(1);
    let mut examples = vec![0; groups];
    for (at, node) in nodes.iter().enumerate() {
        examples[node.group as usize] = at;
    }
    let mut ways = Vec::with_capacity(groups * groups);
    for from in &examples {
        for to in &examples {
            let is = |end: &At<Selector>, at: usize| {
                let node = &nodes[at];
                is_selected(&end.value, &classes[node.class], node.number)
            };
            let fits = |link: &&Link| match &*link.between {
                [one, other] => {
                    (is(one, *from) && is(other, *to)) || (is(one, *to) && is(other, *from))
                }
                _ => false,
            };
            let link = links.iter().rev().find(fits);
            ways.push(way(link));
        }
    }
    (ways, groups)
}

fn way(link: Option<&Link>) -> Way {
    let half = |round_trip: Duration| round_trip.as_nanos() as f64 / 2.0;
    let Some(link) = link else {
        return Way {
            one_way: half(ROUND_TRIP),
            jitter: 0.0,
            per_byte: 0.0,
            loss: 0.0,
        };
    };
    Way {
        one_way: half(link.round_trip),
        jitter: link.jitter.as_nanos() as f64,
        per_byte: link.rate.map_or(0.0, |rate| 8e9 / rate.0),
        loss: link.loss.map_or(0.0, |loss| loss.0),
    }
}

fn functions(scenario: &Scenario, classes: &[Nodes], nodes: &[Described]) -> Vec<Function> {
    let all = scenario.functions.0.iter().map(|function| &function.value);
    all.flat_map(|of| alike(of, classes, nodes)).collect()
}

/// All functions of one description.
fn alike(
    of: &work::Function,
    classes: &[Nodes],
    nodes: &[Described],
) -> impl Iterator<Item = Function> {
    let at = (!of.at.is_empty()).then(|| {
        let has = |node: &Described| {
            let mut at = of.at.iter();
            at.any(|end| is_selected(&end.value, &classes[node.class], node.number))
        };
        nodes.iter().map(has).collect::<Vec<bool>>()
    });
    let profile = Profile {
        instance: Resources {
            cpu: Cpu::ZERO,
            memory: of.memory,
        },
        call: Resources {
            cpu: of.cpu,
            memory: Memory::ZERO,
        },
        calls_per_instance: small(of.concurrency.0),
        max_instances: small(of.most.0),
        min_instances: small(of.least.0),
        keep_alive: of.keep_alive,
        keeping: of.keeping.0,
    };
    let one = move |number| {
        let name = of.function_name(number);
        let name: FunctionName = name.parse().expect("names were checked");
        Function {
            profile,
            wanted: Arc::new(wanted(of, &name)),
            service: Times::new(&of.service),
            start: Times::new(&of.start),
            answer: Sizes::new(&of.answer),
            fails: of.fails.0,
            code_bytes: of.code.as_bytes(),
            timeout: of.timeout,
            qualified: name.qualified(),
            name,
            at: at.clone(),
        }
    };
    (0..of.count.0).map(one)
}

/// What placement knows of a function, by how it would be deployed.
fn wanted(of: &work::Function, name: &FunctionName) -> Wanted {
    use weir_federation_core::policy::Bounds;
    let code = weir_node_core::id::Digest::of(name.qualified().as_bytes());
    let mut spec = FunctionSpec::new(
        name.clone(),
        CodeSource::Artifact(code),
        ArtifactKind::WasmModule,
        Protocol::Stdio,
    );
    spec.cpu = Some(of.cpu);
    spec.idempotent = of.idempotent;
    spec.scope = match of.scope.0 {
        Bounds::Node => Scope::Node,
        Bounds::Zone => Scope::Zone,
        Bounds::Federation => Scope::Federation,
    };
    Wanted::by(&spec, None)
}

/// What the nodes of each group hold, and by which of those calls are placed.
fn policies(
    scenario: &Scenario,
    world: &World,
    instead: Option<&Choice>,
) -> (Vec<Vec<Held>>, Vec<u32>) {
    let usual = Held {
        choice: instead.cloned().unwrap_or_default(),
        scope: String::new(),
    };
    let (mut all, mut slots) = (Vec::new(), Vec::new());
    for group in 0..world.groups {
        let mut alike = world.nodes.iter();
        let Some(node) = alike.find(|node| node.group as usize == group) else {
            continue;
        };
        let mut held: Vec<Held> = Vec::new();
        let functions = scenario.functions.0.iter();
        let functions = functions.flat_map(|of| (0..of.value.count.0).map(|at| (&of.value, at)));
        for (function, number) in functions {
            for qos in &world.qos {
                let fits = |placing: &&At<Placing>| {
                    let placing = &placing.value;
                    let means = |of: &At<String>| {
                        let numbers = function.numbers(&of.value);
                        numbers.is_some_and(|numbers| numbers.contains(&number))
                    };
                    let (of, class) = (placing.function.as_ref(), placing.class.as_ref());
                    is_selected(&placing.at.value, &world.classes[node.class], node.number)
                        && of.is_none_or(means)
                        && class.is_none_or(|class| class.value == qos.name)
                };
                let placing = scenario.policies.0.iter().rev().find(fits);
                let chosen = placing.filter(|_| instead.is_none());
                let chosen = chosen.and_then(|of| held_by(&of.value));
                let chosen = chosen.unwrap_or_else(|| usual.clone());
                let slot = held.iter().position(|held| *held == chosen);
                slots.push(small(slot.unwrap_or(held.len()) as u64));
                if slot.is_none() {
                    held.push(chosen);
                }
            }
        }
        all.push(held);
    }
    (all, slots)
}

fn held_by(placing: &Placing) -> Option<Held> {
    let of = |what: &str, of: &Option<At<String>>| {
        let name = of.as_ref().map(|of| format!("{what}/{}", of.value));
        name.into_iter()
    };
    let function = of("function", &placing.function);
    let scope: Vec<String> = function.chain(of("class", &placing.class)).collect();
    Some(Held {
        choice: placing.choice().ok()?,
        scope: scope.join("/"),
    })
}
