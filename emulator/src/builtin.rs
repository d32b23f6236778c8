//! Scenarios that come with the program.

use std::path::PathBuf;

use crate::scenario::Texts;

/// A scenario that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// What it is called.
    pub name: &'static str,
    /// What is tried in it.
    pub about: &'static str,
    /// Its file.
    pub text: &'static str,
}

/// The list of them.
pub const ALL: [Builtin; 3] = [
    Builtin {
        name: "three-nodes",
        about: "three neighbours of 10, 40 and 60 calls a second, all called at the first",
        text: include_str!("../scenarios/three-nodes.toml"),
    },
    Builtin {
        name: "federation",
        about: "16 nodes in three zones and a cloud, unlike functions, bursts and faults",
        text: include_str!("../scenarios/federation.toml"),
    },
    Builtin {
        name: "skewed",
        about: "16 neighbours at three quarters of their capacity, 70 % of the calls at four of them",
        text: include_str!("../scenarios/skewed.toml"),
    },
];

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|one| one.name == name)
}

impl Builtin {
    /// The name of its file, as mistakes tell it.
    pub fn path(&self) -> String {
        format!("{}.toml", self.name)
    }

    /// Its file, to be read by [`crate::scenario::Scenario::read`].
    pub fn files(&self) -> Texts {
        Texts::from([(PathBuf::from(self.path()), self.text.to_owned())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn all_of_them_are_right_and_named_as_they_say() {
        for builtin in ALL {
            let scenario = Scenario::read(&builtin.files(), &builtin.path(), &[]);
            let scenario = scenario.unwrap_or_else(|mistakes| panic!("{mistakes}"));
            assert_eq!(scenario.head.0.name, builtin.name);
            assert_eq!(named(builtin.name), Some(builtin).as_ref());
        }
    }
}
