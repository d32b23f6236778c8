//! Reports on their way. Those who hear one at the same moment are one wave, and
//! one event.

use std::sync::Arc;

use weir_federation_core::facts::Facts;

/// What one node said, on its way.
struct Report {
    from: u32,
    facts: Arc<Facts>,
    /// How many have yet to hear it.
    left: u32,
}

/// Who hears a report at one moment.
#[derive(Default)]
struct Wave {
    report: u32,
    nodes: Vec<u32>,
}

/// All reports that travel.
#[derive(Default)]
pub(super) struct Travelling {
    reports: Vec<Option<Report>>,
    free_reports: Vec<u32>,
    waves: Vec<Wave>,
    free_waves: Vec<u32>,
}

impl Travelling {
    /// Lets a report of a node travel; it is held until [`Travelling::hears`].
    pub(super) fn add(&mut self, from: u32, facts: Arc<Facts>) -> u32 {
        let left = 1;
        let report = Some(Report { from, facts, left });
        place(&mut self.reports, &mut self.free_reports, report)
    }

    /// So many more hear it.
    pub(super) fn expect(&mut self, report: u32, more: u32) {
        if let Some(report) = &mut self.reports[report as usize] {
            report.left += more;
        }
    }

    /// Somebody hears a report, or is not there to hear it.
    pub(super) fn hears(&mut self, number: u32) -> Option<(u32, Arc<Facts>)> {
        let entry = &mut self.reports[number as usize];
        let report = entry.as_mut()?;
        report.left -= 1;
        if report.left > 0 {
            return Some((report.from, report.facts.clone()));
        }
        self.free_reports.push(number);
        entry.take().map(|report| (report.from, report.facts))
    }

    /// An empty wave of a report, which counts as one that hears it.
    pub(super) fn wave(&mut self, report: u32) -> u32 {
        self.expect(report, 1);
        if let Some(number) = self.free_waves.pop() {
            self.waves[number as usize].report = report;
            return number;
        }
        let nodes = Vec::new();
        place(
            &mut self.waves,
            &mut self.free_waves,
            Wave { report, nodes },
        )
    }

    pub(super) fn join(&mut self, wave: u32, node: u32) {
        self.waves[wave as usize].nodes.push(node);
    }

    /// How many nodes it reaches.
    pub(super) fn count(&self, wave: u32) -> u64 {
        self.waves[wave as usize].nodes.len() as u64
    }

    /// The report of a wave that has come, and who hears it.
    pub(super) fn arrives(&mut self, wave: u32) -> (u32, Vec<u32>) {
        let Wave { report, nodes } = &mut self.waves[wave as usize];
        (*report, std::mem::take(nodes))
    }

    /// A wave is over; its list is used again.
    pub(super) fn over(&mut self, wave: u32, mut nodes: Vec<u32>) {
        nodes.clear();
        self.waves[wave as usize].nodes = nodes;
        self.free_waves.push(wave);
    }
}

/// Puts something where there is room; its number.
fn place<T>(all: &mut Vec<T>, free: &mut Vec<u32>, one: T) -> u32 {
    if let Some(number) = free.pop() {
        all[number as usize] = one;
        return number;
    }
    all.push(one);
    u32::try_from(all.len() - 1).expect("reports on their way are few")
}
