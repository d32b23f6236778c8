//! How rows of the list are written.

use std::fmt::Display;
use std::str::FromStr;

use weir_node::function::FunctionSpec;

use super::kinds::Kind;
use super::{DeployOption, Place, Way, Within};
use crate::setting::Flag;

/// An option with a flag of its name. What the manual has of it: an example as
/// the flag has it, what is usual, what it means.
pub(super) const fn option(
    key: &'static str,
    value: &'static str,
    about: &'static str,
    way: Way,
    manual: [&'static str; 3],
) -> DeployOption {
    flagged(key, key, value, about, way, manual)
}

/// One of which the flag says a single value, and is called so.
pub(super) const fn flagged(
    key: &'static str,
    name: &'static str,
    value: &'static str,
    about: &'static str,
    way: Way,
    [example, usual, meaning]: [&'static str; 3],
) -> DeployOption {
    let flag = Flag {
        name,
        value,
        about,
        check: |_| Ok(()),
    };
    DeployOption {
        key,
        flag: Some(flag),
        way,
        usual,
        meaning,
        example,
    }
}

/// An annotation.
pub(super) const fn annotation(
    name: &'static str,
    kind: Kind,
    read: fn(&mut FunctionSpec, &str) -> Result<(), String>,
    show: fn(&FunctionSpec) -> Option<String>,
) -> Way {
    Way::Text {
        place: Place {
            within: Within::Annotations,
            name,
        },
        kind,
        read,
        show,
    }
}

pub(super) const fn label(name: &'static str) -> Place {
    let within = Within::Labels;
    Place { within, name }
}

pub(super) const fn limit(name: &'static str) -> Place {
    let within = Within::Limits;
    Place { within, name }
}

/// A label or a limit, which a node shows as it came.
pub(super) const fn shown(
    place: Place,
    kind: Kind,
    read: fn(&mut FunctionSpec, &str) -> Result<(), String>,
) -> Way {
    Way::Text {
        place,
        kind,
        read,
        show: |_| None,
    }
}

pub(super) fn yes(is_so: bool) -> Option<String> {
    is_so.then(|| "true".to_owned())
}

/// Reads with the type's own parser.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A value as text, unless it is what nobody asked for.
pub(super) fn unusual<T: Default + PartialEq + ToString>(value: T) -> Option<String> {
    (value != T::default()).then(|| value.to_string())
}

/// Puts what was read into a field.
pub(super) fn put<T>(field: &mut T, read: Result<T, String>) -> Result<(), String> {
    *field = read?;
    Ok(())
}
