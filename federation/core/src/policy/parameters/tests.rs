use super::*;
use crate::policy::{Case, Decision, Reaches};

/// Runs all here, and has parameters.
struct Parametrised(String);

impl Policy for Parametrised {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn reaches(&self) -> Reaches {
        Reaches::default()
    }

    fn decide(&self, _: &mut Case<'_>) -> Decision {
        assert!(!self.0.is_empty());
        Decision::Run
    }
}

static SAMPLES: [Kind; 1] = [Kind {
    name: "sample",
    about: "shows each range",
    keys: &[
        Key {
            name: "share",
            about: "a share",
            unit: "of 1",
            range: Range::Number {
                least: 0.0,
                most: 1.0,
            },
            default: "0.5",
        },
        Key {
            name: "calls",
            about: "a count",
            unit: "calls",
            range: Range::Whole { least: 1, most: 16 },
            default: "4",
        },
        Key {
            name: "period",
            about: "a time",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(10),
                most: Duration::from_secs(3_600),
            },
            default: "1500ms",
        },
        Key {
            name: "faithful",
            about: "a flag",
            unit: "",
            range: Range::Flag,
            default: "false",
        },
        Key {
            name: "by",
            about: "a word",
            unit: "",
            range: Range::Word(&["mean", "least"]),
            default: "mean",
        },
        Key {
            name: "shares",
            about: "a text",
            unit: "",
            range: Range::Text { bytes_max: 16 },
            default: "",
        },
    ],
    build: |parameters| {
        let text = format!(
            "{} {} {:?} {} {} {}",
            parameters.number("share"),
            parameters.whole("calls"),
            parameters.time("period"),
            parameters.flag("faithful"),
            parameters.word("by"),
            parameters.text("shares"),
        );
        Arc::new(Parametrised(text))
    },
}];

#[test]
fn what_is_written_is_what_is_read() {
    for (text, written) in [
        ("sample", "sample"),
        ("sample:", "sample"),
        (
            " sample : share = 0.25 , calls=3",
            "sample:share=0.25,calls=3",
        ),
        (
            "sample:period=90s,faithful=true",
            "sample:period=90s,faithful=true",
        ),
        ("sample:period=60000ms", "sample:period=1m"),
        ("sample:by=least,shares=a/3", "sample:by=least,shares=a/3"),
    ] {
        let choice = Choice::read(text, &SAMPLES).expect(text);
        assert_eq!(choice.to_string(), written);
        assert_eq!(Choice::read(written, &SAMPLES), Ok(choice.clone()));
        assert_eq!(choice.build().name(), "sample");
    }
}

#[test]
fn what_is_not_written_is_as_the_list_says() {
    let choice = Choice::read("sample:calls=7", &SAMPLES).expect("it is right");
    let parameters = choice.parameters();
    assert_eq!(parameters.whole("calls"), 7);
    assert_eq!(parameters.time("period"), Duration::from_millis(1_500));
    assert!((parameters.number("share") - 0.5).abs() < f64::EPSILON);
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text = "sample:share=2,calls=0,period=5,faithful=yes,by=most,calls=3,calls=4,other=1,bare";
    let wrong = Choice::read(text, &SAMPLES).expect_err("it is wrong");
    assert_eq!(
        wrong.mistakes,
        [
            "share of policy sample is \"2\": write a number from 0 to 1 (of 1)",
            "calls of policy sample is \"0\": write a whole number from 1 to 16 (calls)",
            "period of policy sample is \"5\": write a time from 10ms to 1h",
            "faithful of policy sample is \"yes\": write true or false",
            "by of policy sample is \"most\": write mean, least",
            "calls of policy sample is given twice",
            "policy sample has no parameter \"other\": it has share, calls, period, faithful, by, \
             shares",
            "\"bare\" is no parameter of policy sample: write key=value",
        ]
    );
    assert!(
        wrong
            .to_string()
            .contains("; calls of policy sample is \"0\"")
    );
    for (text, part) in [
        ("sampel", "\"sampel\" is no policy: write one of sample"),
        ("sample:share=NaN", "is \"NaN\""),
        ("sample:shares=12345678901234567", "at most 16 bytes"),
    ] {
        let wrong = Choice::read(text, &SAMPLES).expect_err(text).to_string();
        assert!(wrong.contains(part), "{wrong}");
    }
    let long = format!("sample:shares={}", "x".repeat(CHOICE_BYTES_MAX));
    assert!(Choice::read(&long, &SAMPLES).is_err());
}

#[test]
fn the_list_describes_itself() {
    for kind in &KINDS {
        assert!(!kind.about.is_empty(), "{}", kind.name);
        for key in kind.keys {
            assert!(key.range.read(key.default).is_ok(), "{}", key.name);
            assert!(!key.about.is_empty(), "{}", key.name);
        }
        let choice: Choice = kind.name.parse().expect("it is in the list");
        assert_eq!(choice.build().name(), kind.name);
        assert_eq!(choice.to_string(), kind.name);
    }
    assert_eq!(Choice::default().kind().name, "spill");
    let wrong = "spill:alpha=1".parse::<Choice>().expect_err("it has none");
    assert_eq!(
        wrong.to_string(),
        "policy spill has no parameters, so no \"alpha\""
    );
}
