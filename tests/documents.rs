//! What the documents say of settings, held against the readers of settings: every key is there, and no
//! other. And that the tests by which `docs/security.md` holds its promises exist.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cmg::headroom::Limit;
use cmg::settings::{ConnectorSettings, GatewaySettings, SettingsErrors, SiteSettings};

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap()
}

/// The keys that a reader knows in a section, as its answer to one that it does not know lists them.
fn keys(parse: impl Fn(&str) -> Option<SettingsErrors>, section: &str) -> Vec<String> {
    let errors = parse(&format!("{section}\nxqxqxqxqxq = 1\n")).unwrap();
    let error = errors.0.iter().find(|error| error.found == "an unknown key").unwrap();
    let list = error.expected.strip_prefix("one of ").unwrap_or_else(|| panic!("{section}: {error}"));
    list.split(", ").map(str::to_owned).collect()
}

fn all_keys() -> BTreeSet<String> {
    let gateway = |text: &str| GatewaySettings::parse(text, "f").err();
    let connector = |text: &str| ConnectorSettings::parse(text, "f").err();
    let site = |text: &str| SiteSettings::parse(text, "f").err();
    let mut all = BTreeSet::new();
    for section in [
        "[gateway]",
        "[[listener]]",
        "[[server_certificate]]",
        "[internal]",
        "[[internal.listener]]",
        "[[internal.https_listener]]",
        "[[site]]",
    ] {
        all.extend(keys(gateway, section));
    }
    for section in ["", "[limits]", "[log]", "[admin]"] {
        all.extend(keys(gateway, section));
        all.extend(keys(connector, section));
    }
    for section in ["[connector]", "[[gateway]]", "[internal]", "[proxy]"] {
        all.extend(keys(connector, section));
    }
    for section in [
        "",
        "[trust]",
        "[revocation]",
        "[[management_point]]",
        "[[software_update_point]]",
        "[[endpoint]]",
        "[[endpoint]]\n[endpoint.limits]",
        "[[endpoint]]\n[endpoint.health]",
        "[[token_issuer]]",
        "[tokens]",
    ] {
        all.extend(keys(site, section));
    }
    all
}

#[test]
fn every_settings_key_is_in_the_document_and_no_other() {
    let text = document();
    // Keys stand in the first cell of a row, in backquotes; sections in bold.
    let cells = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    let mut told: BTreeSet<String> = BTreeSet::new();
    for cell in cells {
        for quoted in cell.split('`').skip(1).step_by(2) {
            let name = quoted.trim_matches(['[', ']']);
            told.extend(name.split('.').map(str::to_owned));
        }
    }
    let known = all_keys();
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "not in docs/settings.md: {missing:?}");
    let invented: Vec<_> = told.difference(&known).collect();
    assert!(invented.is_empty(), "no reader knows: {invented:?}");
}

#[test]
fn every_limit_is_in_the_table_of_operations_and_no_other() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, limits) = text.split_once("\n### Limits\n").unwrap();
    let (limits, _) = limits.split_once("\n## ").unwrap();
    let told: BTreeSet<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| *name != "limit")
        .collect();
    assert_eq!(told, Limit::ALL.iter().map(|limit| limit.name()).collect());
    assert!(Limit::ALL.iter().all(|limit| !limit.remedy().is_empty()));
}

/// Every test of this package, by name.
fn tests(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // What stands behind the attribute, and perhaps others, up to the name's end.
            let names = text.split("#[test]").skip(1).filter_map(|behind| behind.split_once("fn "));
            into.extend(names.filter_map(|(_, name)| name.split_once('(')).map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_promise_is_held_by_tests_that_exist() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    ["src", "tests"].into_iter().for_each(|folder| tests(&package.join(folder), &mut known));
    let text = fs::read_to_string(package.join("docs/security.md")).unwrap();
    let (_, promises) = text.split_once("\n## What is promised\n").unwrap();
    let (promises, _) = promises.split_once("\n## ").unwrap();
    let mut count = 0;
    for row in promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise")) {
        let holders = row.split('|').nth(2).unwrap();
        let named: Vec<&str> = holders.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing holds this: {row}");
        for name in named.into_iter().filter(|name| !name.contains('/')) {
            assert!(known.contains(name), "no such test: {name}");
            count += 1;
        }
    }
    assert!(count >= 40, "{count}");
}
