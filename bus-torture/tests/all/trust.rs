//! What `docs/trust.md` names is there: each test, and each command of `bus-torture`.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backquotes, a word at a time.
fn quoted(text: &str) -> Vec<Vec<String>> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .map(|span| span.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// The sources below a place, which may be a file.
fn sources(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let Ok(entries) = fs::read_dir(place) else {
        return Vec::new();
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|entry| sources(&entry)).collect()
}

/// Whether a test of this name is in the sources below a place.
fn has_test(place: &Path, name: &str) -> bool {
    sources(place).iter().any(|source| {
        fs::read_to_string(source)
            .unwrap_or_default()
            .contains(&format!("fn {name}("))
    })
}

#[test]
fn every_test_that_is_promised_is_there() {
    let page = fs::read_to_string(root().join("docs/trust.md")).unwrap();
    let mut found = 0;
    for words in quoted(&page) {
        let [package, file, name] = &words[..] else {
            continue;
        };
        if !package.starts_with("bus-")
            || name == "NAME"
            || package == "bus-torture" && file.starts_with('-')
        {
            continue;
        }
        let folder = match package.as_str() {
            "bus-bench" => root().join("benches"),
            package => root().join(package),
        };
        let there = if file == "--lib" {
            has_test(&folder.join("src"), name)
        } else {
            let tests = folder.join("tests");
            let programs = fs::read_dir(&tests).unwrap();
            let folders = programs.map(|entry| entry.unwrap().path());
            let mut places = folders.chain([tests]);
            places.any(|place| {
                has_test(&place.join(format!("{file}.rs")), name)
                    || has_test(&place.join(file), name)
            })
        };
        assert!(there, "docs/trust.md names `{}`", words.join(" "));
        found += 1;
    }
    assert!(found > 40, "only {found} tests are named");
}

#[test]
fn every_command_that_is_promised_is_there() {
    let page = fs::read_to_string(root().join("docs/trust.md")).unwrap();
    let commands = bus_torture::cli::commands();
    for words in quoted(&page) {
        // With a third word that is no option, it is a test of the package.
        let option = words.get(2).is_none_or(|third| third.starts_with('-'));
        if words[..].first().is_some_and(|word| word == "bus-torture") && words.len() > 1 && option
        {
            let named = words.join(" ");
            assert!(
                commands.contains(&words[1]),
                "docs/trust.md names `{named}`"
            );
        }
    }
}
