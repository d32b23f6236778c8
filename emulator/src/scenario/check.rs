//! What must hold between the sections of a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use weir_federation_core::policy;

use super::Scenario;
use super::field::At;
use super::tree::{Mistakes, Origin, suggestion};
use super::work::Function;
use super::world::{Nodes, Selector};

/// Functions of one scenario.
const FUNCTIONS_MAX: u64 = 100_000;

/// Nodes of one scenario.
const NODES_MAX: u64 = 1_000_000;

/// Names that may be referred to.
struct Names<'a> {
    nodes: &'a [At<Nodes>],
    alike: &'a [At<Function>],
    /// Whether a count may be one of the mistakes, so that a number says little.
    any_number: bool,
    zones: BTreeSet<&'a str>,
    regions: BTreeSet<&'a str>,
    functions: BTreeSet<&'a str>,
    classes: BTreeSet<&'a str>,
}

/// Checks it.
pub(super) fn check(scenario: &Scenario, mistakes: &mut Mistakes) {
    let nodes = &scenario.nodes.0;
    let of_nodes = |name: fn(&Nodes) -> Option<&String>| {
        let names = nodes.iter().filter_map(move |class| name(&class.value));
        names.map(String::as_str).collect::<BTreeSet<_>>()
    };
    let functions = scenario.functions.0.iter();
    let classes = scenario.classes.0.iter();
    let mut names = Names {
        nodes,
        alike: &scenario.functions.0,
        any_number: !mistakes.0.is_empty(),
        zones: of_nodes(|nodes| nodes.zone.as_ref()),
        regions: of_nodes(|nodes| nodes.region.as_ref()),
        functions: functions.map(|f| f.value.name.value.as_str()).collect(),
        classes: classes.map(|c| c.value.name.value.as_str()).collect(),
    };
    if names.classes.is_empty() {
        names.classes.insert("default");
    }
    let sections = [
        (
            "node",
            nodes.iter().map(|n| &n.value.name).collect::<Vec<_>>(),
        ),
        (
            "function",
            scenario.functions.0.iter().map(|f| &f.value.name).collect(),
        ),
        (
            "class",
            scenario.classes.0.iter().map(|c| &c.value.name).collect(),
        ),
    ];
    for (what, named) in &sections {
        unique(what, named, mistakes);
    }
    let count = nodes.iter().map(|class| class.value.count.0).sum::<u64>();
    if count > NODES_MAX {
        let at = nodes.first().map(|class| class.at.clone());
        let message = format!("{count} nodes are more than {NODES_MAX}");
        mistakes.add(&at.unwrap_or_default(), message);
    }
    check_functions(&scenario.functions.0, mistakes);
    names.check_world(scenario, mistakes);
    names.check_work(scenario, mistakes);
}

/// Functions have names of their own, with their numbers too.
fn check_functions(functions: &[At<Function>], mistakes: &mut Mistakes) {
    let count = functions.iter().map(|f| f.value.count.0).sum::<u64>();
    if let Some(first) = functions.first()
        && count > FUNCTIONS_MAX
    {
        let message = format!("{count} functions are more than {FUNCTIONS_MAX}");
        mistakes.add(&first.at, message);
    }
    let many = functions.iter().filter(|f| f.value.count.0 > 1);
    for alike in many {
        let is_one = |other: &&At<Function>| {
            let name = &other.value.name.value;
            *name != alike.value.name.value && alike.value.numbers(name).is_some()
        };
        for other in functions.iter().filter(is_one) {
            let (name, class) = (&other.value.name, &alike.value.name.value);
            let message = format!("{} is one of the functions that {class} means", name.value);
            mistakes.add(&name.at, message);
        }
    }
}

fn unique(what: &str, named: &[&At<String>], mistakes: &mut Mistakes) {
    let mut seen: BTreeMap<&str, &Origin> = BTreeMap::new();
    for name in named {
        if name.value.is_empty() {
            continue;
        }
        if let Some(first) = seen.insert(&name.value, &name.at) {
            let message = format!("{what} {} was described at {first}", name.value);
            mistakes.add(&name.at, message);
        }
    }
}

impl Names<'_> {
    fn check_world(&self, scenario: &Scenario, mistakes: &mut Mistakes) {
        for class in self.nodes {
            for region in class.value.regions.iter().flatten() {
                self.is_region(&region.value, &region.at, mistakes);
            }
        }
        let links = scenario.links.0.iter().map(|link| &link.value);
        let topology = scenario.topology.iter().flat_map(|of| &of.0.file.0);
        let ends = links.chain(topology).flat_map(|link| &link.between);
        let matrix = scenario.matrix.iter().flat_map(|matrix| &matrix.0.between);
        let faults = scenario.faults.0.iter().map(|fault| &fault.value);
        let mut selectors: Vec<&At<Selector>> = ends.chain(matrix).collect();
        for fault in faults {
            selectors.extend(&fault.kill);
            selectors.extend(&fault.pause);
            selectors.extend(&fault.restart);
            selectors.extend(fault.cut.iter().flatten());
            selectors.extend(fault.congestion.iter().flatten());
            selectors.extend(fault.slow_link.iter().flat_map(|slow| &slow.0.between));
            selectors.extend(fault.slow_node.as_ref().map(|slow| &slow.0.node));
            selectors.extend(fault.liar.as_ref().map(|liar| &liar.0.node));
        }
        for fault in &scenario.faults.0 {
            if fault.value.at >= scenario.head.0.duration {
                mistakes.add(&fault.at, "the scenario is over when this begins");
            }
        }
        for selector in selectors {
            self.is_somebody(selector, mistakes);
        }
    }

    fn check_work(&self, scenario: &Scenario, mistakes: &mut Mistakes) {
        for function in &scenario.functions.0 {
            for at in &function.value.at {
                self.is_somebody(at, mistakes);
            }
            self.fits_somewhere(&function.value, mistakes);
        }
        for workload in &scenario.workloads.0 {
            let workload = &workload.value;
            self.is_function(&workload.function, mistakes);
            self.is_somebody(&workload.at, mistakes);
            if let Some(class) = &workload.class {
                self.is_class(class, mistakes);
            }
        }
        for placing in &scenario.policies.0 {
            let placing = &placing.value;
            let name = &placing.name;
            let mut known = policy::KINDS.iter().map(|kind| kind.name);
            let is_known = policy::KINDS.iter().any(|kind| kind.name == name.value);
            if !is_known && !name.value.is_empty() {
                let suggested = suggestion(&name.value, &mut known);
                let message = format!("no policy is named {}{suggested}", name.value);
                mistakes.add(&name.at, message);
            }
            if is_known && let Err(wrong) = placing.choice() {
                for mistake in wrong.mistakes {
                    mistakes.add(&name.at, mistake);
                }
            }
            self.is_somebody(&placing.at, mistakes);
            if let Some(function) = &placing.function {
                self.is_function(function, mistakes);
            }
            if let Some(class) = &placing.class {
                self.is_class(class, mistakes);
            }
        }
    }

    fn fits_somewhere(&self, function: &Function, mistakes: &mut Mistakes) {
        let fits = |class: &At<Nodes>| {
            let cores = class.value.cores.0.saturating_mul(1_000);
            class.value.memory >= function.memory
                && cores >= u64::from(function.cpu.as_millicores())
        };
        if !self.nodes.is_empty() && !self.nodes.iter().any(fits) {
            let message = format!("no node is large enough for {}", function.name.value);
            mistakes.add(&function.name.at, message);
        }
    }

    fn is_function(&self, name: &At<String>, mistakes: &mut Mistakes) {
        let mut alike = self.alike.iter();
        if alike.any(|function| function.value.numbers(&name.value).is_some()) {
            return;
        }
        self.is_one_of("function", &self.functions, &name.value, &name.at, mistakes);
    }

    fn is_class(&self, name: &At<String>, mistakes: &mut Mistakes) {
        self.is_one_of("class", &self.classes, &name.value, &name.at, mistakes);
    }

    fn is_region(&self, name: &str, at: &Origin, mistakes: &mut Mistakes) {
        self.is_one_of("region", &self.regions, name, at, mistakes);
    }

    fn is_one_of(
        &self,
        what: &str,
        known: &BTreeSet<&str>,
        name: &str,
        at: &Origin,
        mistakes: &mut Mistakes,
    ) {
        // What could not be read is a mistake already.
        if !known.contains(name) && !name.is_empty() {
            let suggested = suggestion(name, known.iter().copied());
            mistakes.add(at, format!("no {what} is named {name}{suggested}"));
        }
    }

    fn is_somebody(&self, selector: &At<Selector>, mistakes: &mut Mistakes) {
        let At { at, value } = selector;
        match value {
            Selector::All => {}
            Selector::Zone(name) => self.is_one_of("zone", &self.zones, name, at, mistakes),
            Selector::Region(name) => self.is_region(name, at, mistakes),
            Selector::Name(name) => {
                let knows = |class: &At<Nodes>| {
                    let starts = || name.starts_with(&class.value.name.value);
                    class.value.numbers(name).is_some() || (self.any_number && starts())
                };
                if self.nodes.iter().any(knows) {
                    return;
                }
                let classes = self
                    .nodes
                    .iter()
                    .map(|class| class.value.name.value.as_str());
                let suggested = suggestion(name, classes);
                let message = format!("no node or class is named {name}{suggested}");
                mistakes.add(at, message);
            }
        }
    }
}

/// Which of `count` things that are alike a name means, by their numbers from 0;
/// `None` for none.
pub(super) fn numbers(class: &str, count: u64, name: &str) -> Option<Range<u64>> {
    let rest = name.strip_prefix(class)?;
    if rest.is_empty() {
        return Some(0..count);
    }
    let number = rest.strip_prefix('-')?;
    let number = number
        .parse::<u64>()
        .ok()
        .filter(|_| !number.starts_with('0'))?;
    (1..=count).contains(&number).then(|| number - 1..number)
}

/// The name of one of `count` things that are alike, by its number from 0.
pub(super) fn numbered(class: &str, count: u64, number: u64) -> String {
    match count {
        1 => class.to_owned(),
        _ => format!("{class}-{}", number.saturating_add(1)),
    }
}

impl Nodes {
    /// The nodes of this class that a name means, by their numbers from 0; `None`
    /// for none.
    pub fn numbers(&self, name: &str) -> Option<Range<u64>> {
        numbers(&self.name.value, self.count.0, name)
    }

    /// The name of one of its nodes, by its number from 0.
    pub fn node_name(&self, number: u64) -> String {
        numbered(&self.name.value, self.count.0, number)
    }
}
