//! What is printed of the list of settings.

use std::fmt::Write as _;

use weir_node::config::ClassConfig;

use super::Config;
use super::keys::{CLASS_KEYS, CLASSES, KEYS};
use crate::setting::Field;

/// A commented configuration file that sets every key to its default.
pub fn default_file(mut defaults: Config) -> String {
    let mut text = String::from("# Every setting of `weir run` with its default.\n");
    let mut section = "";
    for key in KEYS {
        let (group, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if group != section {
            section = group;
            // Writing into a String cannot fail.
            let _ = writeln!(text, "\n[{group}]");
        }
        let value = (key.field)(&mut defaults).toml();
        let _ = writeln!(text, "# {}\n# {name} = {value}", key.help());
    }
    for class in &mut defaults.node.classes {
        let _ = writeln!(
            text,
            "\n# A QoS class; the first is the default.\n# [[{CLASSES}]]"
        );
        for key in CLASS_KEYS {
            let _ = writeln!(
                text,
                "# {} = {}  # {}",
                key.path,
                (key.field)(class).toml(),
                key.help()
            );
        }
    }
    text
}

/// The table of keys for the manual, in Markdown.
pub fn reference(mut defaults: Config) -> String {
    let mut text = String::from("| key | value | default | environment | meaning |\n");
    text.push_str("|---|---|---|---|---|\n");
    let mut row = |path: &str, field: &dyn Field, environment: String, help: &str| {
        let shown = field.show();
        let shown = if shown.is_empty() {
            String::new()
        } else {
            format!("`{shown}`")
        };
        let _ = writeln!(
            text,
            "| `{path}` | {} | {shown} | {environment} | {help} |",
            field.kind()
        );
    };
    for key in KEYS {
        let environment = format!("`{}`", key.environment());
        row(
            key.path,
            &*(key.field)(&mut defaults),
            environment,
            key.help(),
        );
    }
    for key in CLASS_KEYS {
        let mut class = ClassConfig::default();
        let path = format!("{CLASSES}.{}", key.path);
        row(&path, &*(key.field)(&mut class), String::new(), key.help());
    }
    text
}
