//! Side-by-side figures: what Weir does, as ratios to what other programs do on
//! the same machine in the same minutes, and as bounds where no other program
//! does the same.
//!
//! * [`cases`] is the list of cases; adding one touches its file and that list.
//! * [`subject`] runs the same load on two servers in turn and compares them.
//! * [`load`] is the client: cheap, closed loop, one thread.
//! * [`peers`] starts what Weir is compared with.
//! * [`many`] prepares a node with a thousand functions once for all cases.
//! * [`report`] is the table, with a verdict on each target.
//!
//! What one machine does in one second says little: a figure is the median of
//! [`Plan::repetitions`], and within each repetition the subjects take turns,
//! so that whatever else the machine does falls on all of them alike.

pub mod cases;
pub mod histogram;
pub mod load;
pub mod many;
pub mod peers;
pub mod process;
pub mod report;
pub mod subject;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::LocalSet;
use tokio::time::timeout;

use self::cases::Case;
use self::many::Many;
use self::report::{Row, Table};

/// Longest that one case may take before its rows say that it was not measured.
/// The longest, several times a minute of load, ends well before.
const CASE_TIME: Duration = Duration::from_secs(30 * 60);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Repetitions of everything; figures are medians over them.
    pub repetitions: usize,
    /// Length of one subject's turn under load.
    pub time: Duration,
    /// Functions in the cases about many.
    pub functions: usize,
    /// Asynchronous calls stored in the restart case.
    pub stored: usize,
}

impl Plan {
    /// What the published figures are made with.
    pub const FULL: Plan = Plan {
        repetitions: 9,
        time: Duration::from_secs(3),
        functions: 1_000,
        stored: 10_000,
    };

    /// Shows in a few minutes that everything can be measured; its figures are
    /// noise, and its functions and stored calls a tenth of the targets'.
    pub const QUICK: Plan = Plan {
        repetitions: 3,
        time: Duration::from_millis(500),
        functions: 100,
        stored: 1_000,
    };
}

/// One run of the benchmarks.
#[derive(Debug)]
pub struct Bench {
    plan: Plan,
    many: OnceCell<Many>,
}

impl Bench {
    /// A run by this plan; nothing is started yet.
    pub fn new(plan: Plan) -> Bench {
        Bench {
            plan,
            many: OnceCell::new(),
        }
    }

    /// Data of a node that has many functions, made at first need.
    async fn many(&self) -> anyhow::Result<&Many> {
        let make = || Many::deploy(self.plan.functions);
        self.many.get_or_try_init(make).await
    }

    /// Runs these cases one after the other and tabulates what they found.
    ///
    /// A case that fails, panics or hangs becomes a row that says so; the
    /// others are measured all the same.
    pub async fn run(self, cases: &[&Case]) -> Table {
        let bench = Rc::new(self);
        let mut table = Table::default();
        for case in cases {
            eprintln!("({}) {} ...", case.letter, case.what);
            // A task of its own, so that a panic ends nothing else.
            let task = timeout(CASE_TIME, (case.run)(Rc::clone(&bench)));
            let local = LocalSet::new();
            let task = local.spawn_local(task);
            let rows = match local.run_until(task).await {
                Ok(Ok(Ok(rows))) => rows,
                Ok(Ok(Err(error))) => vec![Row::unmeasured(case.what, format!("{error:#}"))],
                Ok(Err(_)) => vec![Row::unmeasured(
                    case.what,
                    format!("not done in {CASE_TIME:?}"),
                )],
                Err(panicked) => vec![Row::unmeasured(case.what, panicked.to_string())],
            };
            for row in rows {
                eprintln!("    {row}");
                table.push(case.letter, row);
            }
        }
        table
    }
}
