use std::time::Duration;

use crate::scenario::arrivals::{Arrivals, Bursts, Constant, Diurnal, OnOff, Poisson};
use crate::scenario::field::Real;
use crate::scenario::law as written;
use crate::scenario::law::{Service, Size};
use crate::scenario::{Scenario, Texts};

use super::chance::Stream;
use super::law::{Sizes, Times};
use super::process::Process;

const DRAWS: usize = 40_000;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn variance(numbers: &[f64]) -> f64 {
    let mean = mean(numbers);
    let squares = numbers.iter().map(|number| (number - mean).powi(2));
    squares.sum::<f64>() / (numbers.len() - 1) as f64
}

/// The largest difference between what was drawn and a distribution, against the
/// bound that one of a hundred right samples exceeds (Kolmogorov-Smirnov).
fn assert_follows(name: &str, drawn: &[f64], below: &dyn Fn(f64) -> f64) {
    let mut sorted = drawn.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let distances = sorted.iter().enumerate().map(|(at, number)| {
        let expected = below(*number);
        let (before, after) = (at as f64 / count, (at + 1) as f64 / count);
        (expected - before).abs().max((after - expected).abs())
    });
    let distance = distances.fold(0.0, f64::max);
    assert!(
        distance < 1.63 / count.sqrt(),
        "{name}: {distance} of {count}"
    );
}

fn assert_near(name: &str, found: f64, expected: f64, part: f64) {
    let distance = (found - expected).abs();
    assert!(
        distance <= expected.abs() * part,
        "{name}: {found}, not {expected}"
    );
}

/// The normal distribution: M. Abramowitz, I. Stegun, 7.1.26, to 1.5e-7.
fn below_normal(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let erf = 1.0 - poly * (-z * z).exp();
    0.5 * (1.0 + erf.copysign(x))
}

/// Draws of a law of times, in milliseconds.
fn times(name: &str, service: &Service) -> Vec<f64> {
    let (law, mut chance) = (Times::new(service), Stream::new(7, name));
    let draw = |_| law.draw(2_048, &mut chance) as f64 / 1e6;
    (0..DRAWS).map(draw).collect()
}

#[test]
fn times_follow_their_laws() {
    type Check<'a> = (&'a str, Service, f64, f64, Box<dyn Fn(f64) -> f64>);
    let sigma = 0.5_f64;
    let spread = (sigma * sigma).exp();
    let checks: [Check<'_>; 4] = [
        (
            "uniform",
            Service::Uniform(written::Uniform {
                least: ms(10),
                most: ms(30),
            }),
            20.0,
            400.0 / 12.0,
            Box::new(|x| ((x - 10.0) / 20.0).clamp(0.0, 1.0)),
        ),
        (
            "exponential",
            Service::Exponential(written::Exponential { mean: ms(80) }),
            80.0,
            6_400.0,
            Box::new(|x| 1.0 - (-x / 80.0).exp()),
        ),
        (
            "lognormal",
            Service::LogNormal(written::LogNormal {
                median: ms(80),
                sigma: Real(sigma),
            }),
            80.0 * spread.sqrt(),
            6_400.0 * spread * (spread - 1.0),
            Box::new(move |x| below_normal((x / 80.0).ln() / sigma)),
        ),
        (
            "pareto",
            Service::Pareto(written::Pareto {
                least: ms(10),
                shape: Real(6.0),
                most: ms(1_000_000),
            }),
            12.0,
            100.0 * 6.0 / (25.0 * 4.0),
            Box::new(|x| 1.0 - (10.0 / x).powf(6.0)),
        ),
    ];
    for (name, service, expected, varied, below) in checks {
        let drawn = times(name, &service);
        assert_near(name, mean(&drawn), expected, 0.02);
        assert_near(name, variance(&drawn), varied, 0.08);
        assert_follows(name, &drawn, &below);
    }
}

#[test]
fn times_without_chance_are_what_is_written() {
    let constant = Service::Constant(written::Constant { time: ms(5) });
    assert_eq!(times("constant", &constant)[9], 5.0);
    let by_size = Service::BySize(written::BySize {
        fixed: ms(5),
        per_kilobyte: ms(2),
    });
    assert_eq!(times("by size", &by_size)[9], 9.0);
    let mut samples = written::Samples::default();
    samples.values = vec![ms(1), ms(2), ms(6)];
    let drawn = times("samples", &Service::Samples(samples));
    assert_near("samples", mean(&drawn), 3.0, 0.02);
    assert!(drawn.iter().all(|time| [1.0, 2.0, 6.0].contains(time)));
}

#[test]
fn sizes_follow_their_laws() {
    let mut chance = Stream::new(7, "sizes");
    let mut draw = |size: &Size| {
        let law = Sizes::new(size);
        let draw = |_| law.draw(1_000, &mut chance) as f64;
        mean(&(0..DRAWS).map(draw).collect::<Vec<_>>())
    };
    let memory = weir_node_core::resources::Memory::bytes;
    assert_eq!(draw(&Size::Constant(memory(77))), 77.0);
    let times = Real(2.5);
    assert_eq!(draw(&Size::OfInput(written::OfInput { times })), 2_500.0);
    let uniform = written::UniformSize {
        least: memory(1_000),
        most: memory(3_000),
    };
    assert_near("uniform", draw(&Size::Uniform(uniform)), 2_000.0, 0.02);
    let lognormal = written::LogNormalSize {
        median: memory(1_000_000),
        sigma: Real(0.5),
    };
    let expected = 1e6 * (0.125_f64).exp();
    assert_near(
        "lognormal",
        draw(&Size::LogNormal(lognormal)),
        expected,
        0.02,
    );
}

/// Moments of a process, in seconds, up to `until`.
fn moments(name: &str, arrivals: &Arrivals, until: f64) -> Vec<f64> {
    let mut chance = Stream::new(7, name);
    let mut process = Process::new(arrivals, &mut chance);
    let next = || Some(process.next(&mut chance)?.at as f64 / 1e9);
    let moments: Vec<f64> = std::iter::from_fn(next)
        .take_while(|at| *at < until)
        .collect();
    assert!(moments.is_sorted(), "{name}");
    moments
}

fn gaps(moments: &[f64]) -> Vec<f64> {
    moments.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_constant_process_does_not_drift() {
    let rate = Real(3.0);
    let moments = moments("constant", &Arrivals::Constant(Constant { rate }), 1e6);
    assert_eq!(moments.len(), 2_999_999);
    assert_near("last", moments[2_999_996], 999_999.0, 1e-12);
}

#[test]
fn a_poisson_process_has_exponential_gaps() {
    let rate = Real(50.0);
    let moments = moments("poisson", &Arrivals::Poisson(Poisson { rate }), 800.0);
    let gaps = gaps(&moments);
    assert_near("rate", moments.len() as f64, 40_000.0, 0.02);
    assert_near("variance", variance(&gaps), 0.0004, 0.05);
    assert_follows("gaps", &gaps, &|x| 1.0 - (-50.0 * x).exp());
}

#[test]
fn a_uniform_process_has_gaps_within_its_bounds() {
    let (least, most) = (ms(10), ms(30));
    let uniform = Arrivals::Uniform(written::Uniform { least, most });
    let gaps = gaps(&moments("uniform", &uniform, 800.0));
    assert_follows("gaps", &gaps, &|x| ((x - 0.01) / 0.02).clamp(0.0, 1.0));
}

#[test]
fn an_interrupted_process_is_on_for_its_part_of_the_time() {
    let process = OnOff {
        rate: Real(40.0),
        on: ms(1_000),
        off: ms(3_000),
    };
    let moments = moments("on-off", &Arrivals::OnOff(process), 20_000.0);
    assert_near("rate", moments.len() as f64, 200_000.0, 0.04);
    // A. Kuczura, "The Interrupted Poisson Process As An Overflow Process", 1973:
    // gaps are hyperexponential, here by the roots of its Laplace transform.
    let (lambda, from_on, from_off) = (40.0, 1.0, 1.0 / 3.0);
    let sum: f64 = lambda + from_on + from_off;
    let root = (sum * sum - 4.0 * lambda * from_off).sqrt();
    let (first, second) = (0.5 * (sum + root), 0.5 * (sum - root));
    let part = (lambda - second) / (first - second);
    assert_follows("gaps", &gaps(&moments), &|x| {
        1.0 - part * (-first * x).exp() - (1.0 - part) * (-second * x).exp()
    });
}

#[test]
fn bursts_come_as_often_and_are_as_large_as_written() {
    let bursts = Bursts {
        every: ms(5_000),
        size: Real(5.0),
        spacing: ms(1),
    };
    let moments = moments("bursts", &Arrivals::Bursts(bursts), 100_000.0);
    assert_near("calls", moments.len() as f64, 100_000.0, 0.02);
    let within = gaps(&moments).iter().filter(|gap| **gap < 0.001_1).count();
    assert!(within > 70_000, "{within} in a burst");
}

#[test]
fn a_diurnal_process_swings() {
    let diurnal = Diurnal {
        rate: Real(20.0),
        swing: Real(0.8),
        period: ms(100_000),
        peak: ms(25_000),
    };
    let moments = moments("diurnal", &Arrivals::Diurnal(diurnal), 2_000.0);
    assert_near("calls", moments.len() as f64, 40_000.0, 0.02);
    let phases: Vec<f64> = moments.iter().map(|at| at % 100.0).collect();
    let tau = std::f64::consts::TAU;
    let swung = |x: f64| 0.8 * 100.0 / tau * ((tau * (x - 25.0) / 100.0).sin() + 1.0);
    assert_follows("phases", &phases, &|x| (x + swung(x)) / 100.0);
}

#[test]
fn traces_are_played_as_they_were_recorded() {
    let text = r#"
scenario = { duration = "1m" }
node = { name = "edge" }
function = { name = "f", service = "1ms" }
[[workload]]
function = "f"
at = "*"
arrivals = { azure-2019 = { file = "a.csv", function = "f2", quicker = 2 } }
[[workload]]
function = "f"
at = "*"
arrivals = { azure-2021 = { file = "b.csv", function = "f" } }
[[workload]]
function = "f"
at = "*"
arrivals = { timetable = { times = ["3s", "1s"] } }
"#;
    let minutes = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f1,t,9,9,9\no,a,f2,t,0,40,2\n";
    let calls = "app,func,end_timestamp,duration\na,f,101.5,0.5\na,g,100.0,1\na,f,100.5,0.25\n";
    let files = Texts::from([
        ("s.toml".into(), text.to_owned()),
        ("a.csv".into(), minutes.to_owned()),
        ("b.csv".into(), calls.to_owned()),
    ]);
    let scenario = Scenario::read(&files, "s.toml", &[]).expect("valid");
    let of = |at: usize| &scenario.workloads.0[at].value.arrivals;
    let counted = moments("2019", of(0), 1e9);
    assert_eq!(counted.len(), 42);
    let in_second = counted.iter().filter(|at| (30.0..60.0).contains(*at));
    assert_eq!(in_second.count(), 40);
    let mut chance = Stream::new(1, "2021");
    let mut process = Process::new(of(1), &mut chance);
    let next = |process: &mut Process, chance: &mut Stream| {
        let arrival = process.next(chance)?;
        Some((arrival.at, arrival.runs?))
    };
    let second = 1_000_000_000;
    assert_eq!(
        next(&mut process, &mut chance),
        Some((5 * second / 4, second / 4))
    );
    assert_eq!(
        next(&mut process, &mut chance),
        Some((2 * second, second / 2))
    );
    assert_eq!(process.next(&mut chance), None);
    assert_eq!(moments("timetable", of(2), 1e9), [1.0, 3.0]);
}

#[test]
fn a_stream_is_its_seed_and_name_alone() {
    let first = |seed, name| Stream::new(seed, name).number();
    assert_eq!(first(1, "a"), first(1, "a"));
    assert_ne!(first(1, "a"), first(2, "a"));
    assert_ne!(first(1, "a"), first(1, "b"));
    // So that every version and machine draws what the reports were made with.
    let mut chance = Stream::new(1, "golden");
    let drawn = [
        chance.number(),
        chance.exponential().to_bits(),
        chance.normal().to_bits(),
    ];
    assert_eq!(drawn, GOLDEN);
}

/// Draws of the stream `golden` of seed 1.
const GOLDEN: [u64; 3] = [
    1_971_093_117_938_748_439,
    4_600_933_067_984_790_925,
    13_823_229_162_635_828_774,
];
