//! Flags that follow from a list: those of settings and those of a function's
//! options.

use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use weir_node::resources::Resources;

use crate::config::{Config, KEYS};
use crate::deployment::Settings;
use crate::deployment::options::{DeployOption, OPTIONS, Shape};
use crate::document::{Tree, Value};
use crate::setting::{Flag, Origin, pair};

/// The heading of flags that are about a federation.
const FEDERATION: &str = "Federation";

/// The flags of settings that were given: each as it is written, its key, and
/// the value.
#[derive(Debug, Clone, Default)]
pub(super) struct SettingFlags(pub(super) Vec<(String, String, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let with = |command: Command, (path, flag, is_list): (&str, &'static Flag, bool)| {
            let argument = argument(flag, is_list);
            command.arg(match path.starts_with("federation.") {
                true => argument.help_heading(FEDERATION),
                false => argument,
            })
        };
        listed().fold(command, with)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = listed().filter_map(|(path, flag, _)| {
            // What is there several times is a list, which commas part.
            let text = given(matches, flag)?.join(",");
            Some((format!("--{}", flag.name), path.to_owned(), text))
        });
        Ok(SettingFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Keys with flags, and whether they are lists.
fn listed() -> impl Iterator<Item = (&'static str, &'static Flag, bool)> {
    let mut defaults = Config::new(PathBuf::new(), Resources::ZERO);
    let keys = KEYS.iter();
    keys.filter_map(move |key| {
        let kind = (key.field)(&mut defaults).kind();
        let flag = key.flag.as_ref()?;
        Some((key.path, flag, matches!(kind, "list" | "table")))
    })
}

/// The group of a function's options.
pub(super) const OPTIONS_GROUP: &str = "settings";

/// The flags of a function's options that were given, each with its values.
#[derive(Debug, Clone, Default)]
pub(crate) struct OptionFlags(Vec<(&'static str, Vec<String>)>);

impl OptionFlags {
    /// What they say of a function.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::default();
        for (key, values) in &self.0 {
            let option = DeployOption::named(key).expect("its flag is there");
            let set = settings.set(option, &value(option, values));
            set.map_err(|message| anyhow::anyhow!("{key}: {message}"))?;
        }
        Ok(settings)
    }
}

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        let flags = OPTIONS.iter().filter_map(|option| {
            let flag = option.flag.as_ref()?;
            let shape = option.shape();
            let argument = argument(flag, shape != Shape::One);
            let check = flag.check;
            let check = move |text: &str| {
                check(text)?;
                option.check(&value(option, &[text.to_owned()]))?;
                Ok::<_, String>(text.to_owned())
            };
            Some(match flag.value.is_empty() {
                true => argument,
                false => argument.value_parser(check),
            })
        });
        let flags: Vec<Arg> = flags.collect();
        let names = flags.iter().map(|flag| flag.get_id().clone());
        let group = ArgGroup::new(OPTIONS_GROUP).multiple(true).args(names);
        command.args(flags).group(group)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = OPTIONS.iter().filter_map(|option| {
            let flag = option.flag.as_ref()?;
            Some((option.key, given(matches, flag)?))
        });
        Ok(OptionFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What a flag that was given with `values` says, as a document would.
fn value(option: &DeployOption, values: &[String]) -> Value {
    let tree = |text: &str| Tree {
        origin: Origin::Default,
        value: Value::Text(text.to_owned()),
    };
    match option.shape() {
        Shape::One => Value::Text(values.last().cloned().unwrap_or_default()),
        Shape::List => Value::List(values.iter().map(|text| tree(text)).collect()),
        Shape::Table => {
            let pairs = values.iter().filter_map(|text| pair(text).ok());
            Value::Table(pairs.map(|(key, text)| (key, tree(&text))).collect())
        }
    }
}

/// The argument that a flag is; one of a list may be there several times.
pub(super) fn argument(flag: &'static Flag, is_list: bool) -> Arg {
    let argument = Arg::new(flag.name).long(flag.name).help(flag.about);
    if flag.value.is_empty() {
        return argument.action(ArgAction::SetTrue);
    }
    let check = flag.check;
    let argument = argument
        .value_name(flag.value)
        .value_parser(move |text: &str| check(text).map(|()| text.to_owned()))
        .action(match is_list {
            true => ArgAction::Append,
            false => ArgAction::Set,
        });
    match flag.value {
        "DIR" => argument.value_hint(ValueHint::AnyPath),
        _ => argument,
    }
}

/// The values that were given to a flag; `None` when it was not.
pub(super) fn given(matches: &ArgMatches, flag: &Flag) -> Option<Vec<String>> {
    if flag.value.is_empty() {
        return matches.get_flag(flag.name).then(|| vec!["true".to_owned()]);
    }
    let values = matches.get_many::<String>(flag.name)?;
    Some(values.cloned().collect())
}
