use std::collections::BTreeSet;

use super::*;

#[test]
fn keys_flags_and_places_are_unique() {
    let mut all = BTreeSet::new();
    for option in OPTIONS {
        assert!(all.insert(format!("key {}", option.key)), "{}", option.key);
        if let Some(flag) = &option.flag {
            assert!(all.insert(format!("--{}", flag.name)), "--{}", flag.name);
        }
        let place = match &option.way {
            Way::Text { place, .. } => format!("{place:?}"),
            Way::Field { name, .. } => (*name).to_owned(),
        };
        assert!(all.insert(place.clone()), "{place}");
    }
}

#[test]
fn the_readme_lists_every_option() {
    let readme = include_str!("../../../../README.md");
    let table = reference();
    assert!(
        readme.contains(&table),
        "README.md lacks this table:\n{table}"
    );
}
