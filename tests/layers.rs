//! The layering rule, held by a test: vocabulary < cores < shells < roles < `main`.
//!
//! Reads `src/` as text, so that it also sees code that a feature turns off. Roles do not import
//! roles, nothing imports upwards, and cores know no sockets, files, clocks, threads or shared cells.
//! Besides: documents and comments name no file that does not exist.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Vocabulary,
    Core,
    Shell,
    Role,
    Main,
}

/// Every module of `lib.rs` and `main.rs` with its layer; one that is missing here fails the test.
const MODULES: &[(&str, Layer)] = &[
    ("limits", Layer::Vocabulary),
    ("refusal", Layer::Vocabulary),
    ("request_id", Layer::Vocabulary),
    ("seeded", Layer::Vocabulary),
    ("auth", Layer::Core),
    ("channel", Layer::Core),
    ("dispatch", Layer::Core),
    ("fleet", Layer::Core),
    ("handover", Layer::Core),
    ("headroom", Layer::Core),
    ("http", Layer::Core),
    ("mapping", Layer::Core),
    ("settings", Layer::Core),
    ("admin", Layer::Shell),
    ("allocations", Layer::Shell),
    ("inside", Layer::Shell),
    ("issuer", Layer::Shell),
    ("logs", Layer::Shell),
    ("metrics", Layer::Shell),
    ("pki", Layer::Shell),
    ("renewal", Layer::Shell),
    ("reload", Layer::Shell),
    ("review", Layer::Shell),
    ("shard", Layer::Shell),
    ("sts", Layer::Shell),
    ("token_watch", Layer::Shell),
    ("transport", Layer::Shell),
    ("upgrade", Layer::Shell),
    ("connector", Layer::Role),
    ("gateway", Layer::Role),
    ("manager", Layer::Role),
    ("commands", Layer::Main),
    ("main", Layer::Main),
];

/// What a core must not touch, as the beginning of a path; the file's tests may.
const IMPURE_PATHS: &[&[&str]] = &[
    &["glommio"],
    &["io_uring"],
    &["socket2"],
    &["libc"],
    &["tokio"],
    &["axum"],
    &["signal_hook"],
    &["crossbeam"],
    &["arc_swap"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "os"],
    &["std", "sync", "atomic"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["UnixTime", "now"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
];

/// The same, by a name alone, wherever it stands in a path.
const IMPURE_NAMES: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "SystemRandom",
    "Mutex",
    "RwLock",
    "RefCell",
    "thread_local",
];

fn layer(module: &str) -> Option<Layer> {
    MODULES.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

// ── the rule, for one file ──────────────────────────────────────────────────────────────────────

/// What is wrong in `file` (a path below `src/`, with slashes).
fn faults(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    if module[0] == "lib" {
        return Vec::new();
    }
    let Some(own) = layer(module[0]) else {
        return vec![format!("{file}: module `{}` has no layer", module[0])];
    };
    let code = code_only(text);
    let mut faults = imports(file, &module, own, &code);
    if own <= Layer::Core && !is_test_file(file) {
        faults.extend(impurities(file, before_tests(&code)));
    }
    faults
}

fn imports(file: &str, module: &[&str], own: Layer, code: &str) -> Vec<String> {
    let wrong = |path: &Vec<&str>| {
        let used = reached(path, module.len())?;
        let layer = layer(used)?;
        let is_wrong = used != module[0] && (layer > own || layer == own && own == Layer::Role);
        is_wrong.then(|| format!("{file}: {own:?} imports {layer:?} `{}`", path.join("::")))
    };
    paths(code).iter().filter_map(wrong).collect()
}

fn impurities(file: &str, code: &str) -> Vec<String> {
    let wrong = |path: &Vec<&str>| {
        let by_path = |impure: &&&[&str]| path.windows(impure.len()).any(|part| part == **impure);
        let is_wrong = IMPURE_PATHS.iter().any(|impure| by_path(&impure))
            || path.iter().any(|name| IMPURE_NAMES.contains(name) || name.starts_with("Atomic"));
        is_wrong.then(|| format!("{file}: a core uses `{}`", path.join("::")))
    };
    paths(code).iter().filter_map(wrong).collect()
}

/// `src/a/b.rs` is `[a, b]`, `src/a/mod.rs` is `[a]`.
fn module_of(file: &str) -> Vec<&str> {
    let mut module: Vec<&str> = file.strip_suffix(".rs").unwrap_or(file).split('/').collect();
    if module.len() > 1 && module.last() == Some(&"mod") {
        module.pop();
    }
    module
}

/// Entries for fuzzing are tests: they need a first `now` to count from.
fn is_test_file(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "fuzz.rs" | "seeded.rs"))
}

/// Tests stand at the very bottom of a file.
fn before_tests(code: &str) -> &str {
    let end = code.match_indices("#[cfg(test)]").find(|(at, _)| {
        let mut next = code[*at..].lines().skip(1).skip_while(|line| line.trim_start().starts_with("#["));
        next.next().is_some_and(|line| line.contains("mod ") && line.contains('{'))
    });
    end.map_or(code, |(at, _)| &code[..at])
}

/// The top module that a path leads to: behind `crate::`, `cmg::`, or as many `super::` as lead out.
fn reached<'a>(path: &[&'a str], depth: usize) -> Option<&'a str> {
    match path[0] {
        "crate" | "cmg" => path.get(1).copied(),
        _ => {
            let steps = path.iter().take_while(|part| **part == "super").count();
            (steps >= depth).then(|| path.get(steps).copied()).flatten()
        }
    }
}

// ── reading Rust, as far as needed ──────────────────────────────────────────────────────────────

/// The text without comments and without the inside of string literals.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(size) = raw_string(rest) {
            size
        } else if first == '"' {
            quoted(rest)
        } else {
            character(rest).unwrap_or(0)
        };
        if skipped == 0 {
            code.push(first);
        }
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    code
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, octet) in text.bytes().enumerate().skip(1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let marks = after.bytes().take_while(|octet| *octet == b'#').count();
    let body = after[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    Some(text.len() - body.len() + body.find(&end)? + end.len())
}

fn character(text: &str) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    let mut chars = after.char_indices();
    let (_, first) = chars.next()?;
    let from = if first == '\\' { chars.nth(1)?.0 } else { chars.next()?.0 };
    // `'a'` is a character, `'a ` a lifetime; an escape runs to the next quote.
    let end = after[from..].find('\'')?;
    (first == '\\' && end < 10 || end == 0).then_some(1 + from + end + 1)
}

/// Every path in the code, those of `use` trees spelled out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    let tokens = tokens(code);
    let mut at = 0;
    while at < tokens.len() {
        at = if is_name(tokens[at]) { path(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

fn path<'a>(tokens: &[&'a str], mut at: usize, before: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(name) if is_name(name) => {
                path.push(name);
                at += 1;
            }
            Some(&"{") if at > 0 && tokens[at - 1] == "::" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if is_name(tokens[at]) { self::path(tokens, at, &path, found) } else { at + 1 };
                }
                return at + 1;
            }
            _ => break,
        }
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let size = if first.is_alphanumeric() || first == '_' {
            rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..size]);
        rest = rest[size..].trim_start();
    }
    tokens
}

// ── the tree ────────────────────────────────────────────────────────────────────────────────────

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|held| held == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn below<'a>(folder: &Path, path: &'a Path) -> &'a str {
    path.strip_prefix(folder).unwrap().to_str().unwrap()
}

#[test]
fn no_module_imports_upwards_and_cores_stay_pure() {
    let source = root().join("src");
    let files = files(&source, "rs");
    assert!(files.len() > 50, "the tree was not found: {} files", files.len());
    let faults: Vec<String> = files
        .iter()
        .flat_map(|path| faults(below(&source, path), &fs::read_to_string(path).unwrap()))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_of_the_library_has_a_layer_and_its_feature() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut line_before = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            let layer = layer(name).unwrap_or_else(|| panic!("`{name}` has no layer"));
            let is_featured = line_before == "#[cfg(feature = \"shells\")]";
            assert_eq!(layer >= Layer::Shell, is_featured, "{name}: cores stand without `shells`");
        }
        line_before = line;
    }
}

#[test]
fn the_load_tool_is_a_second_implementation() {
    let text = fs::read_to_string(root().join("loadgen/Cargo.toml")).unwrap();
    let names_it = |line: &str| {
        line.trim_start().strip_prefix("cmg").is_some_and(|rest| rest.starts_with([' ', '.', '=']))
    };
    assert!(!text.lines().any(names_it), "loadgen must not lean on the library it measures");
}

// ── it can fail ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_violation_is_found() {
    let rows = [
        ("limits.rs", "use crate::http::Version;"),
        ("http/head.rs", "use crate::transport::Wire;"),
        ("http/head.rs", "fn f() { crate::shard::start() }"),
        ("http/head.rs", "use crate::{limits, gateway::relay};"),
        ("http/tests.rs", "use super::super::gateway::run;"),
        ("dispatch.rs", "use super::shard::Shard;"),
        ("shard/ring.rs", "use crate::gateway::run;"),
        ("gateway/relay.rs", "use crate::connector::exchange;"),
        ("connector/mod.rs", "fn f() { crate::gateway::run(); }"),
        ("gateway/mod.rs", "use cmg::connector::run;"),
        ("brandnew.rs", ""),
        ("http/body.rs", "use glommio::Task;"),
        ("http/body.rs", "use io_uring::IoUring;"),
        ("auth/mod.rs", "use std::{io, fs};"),
        ("auth/mod.rs", "use std::{io, net::{IpAddr, TcpStream}};"),
        ("auth/mod.rs", "let file = std::fs::read(path);"),
        ("auth/mod.rs", "let now = Instant::now();"),
        ("auth/mod.rs", "let now = std::time::SystemTime::now();"),
        ("auth/mod.rs", "std::thread::spawn(|| {});"),
        ("channel/mux.rs", "struct A { b: Rc<RefCell<u8>> }"),
        ("channel/mux.rs", "static N: AtomicU64 = AtomicU64::new(0);"),
        ("channel/mux.rs", "use ring::rand::SystemRandom;"),
        ("channel/mux.rs", "fn f<'a>(c: char) -> bool { c == '\"' } use std::fs; // \""),
    ];
    for (file, text) in rows {
        assert!(!faults(file, text).is_empty(), "{file}: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    let rows = [
        ("lib.rs", "pub mod gateway;"),
        ("http/head.rs", "use crate::limits::HEAD_SIZE_MAX; use crate::refusal::Refusal;"),
        ("settings/site.rs", "use crate::mapping::Endpoint; use super::value;"),
        ("settings/site.rs", "use std::net::SocketAddr; use std::time::Instant;"),
        (
            "http/body.rs",
            "// use glommio\n/* std::fs */ let text = \"std::fs::read\"; let raw = r#\"std::fs\"#;",
        ),
        ("http/body.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n let now = Instant::now(); }"),
        ("http/tests/mod.rs", "let now = Instant::now();"),
        ("shard/ring.rs", "use std::fs; use crate::limits; let now = Instant::now();"),
        (
            "gateway/relay.rs",
            "use super::request::Request; use crate::transport::Wire; use crate::gateway::gate;",
        ),
        ("commands/up/mod.rs", "use cmg::settings::GatewaySettings; use cmg::gateway::run;"),
        ("commands/gateway.rs", "cmg::gateway::run(); cmg::connector::run();"),
    ];
    for (file, text) in rows {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

// ── files that are named exist ──────────────────────────────────────────────────────────────────

/// What `text` names in backticks or links to and that `exists` does not know: paths that begin with
/// a folder of the tree, and everything that ends in `.rs`.
fn missing(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    const FOLDERS: &[&str] =
        &["src/", "tests/", "docs/", "fuzz/", "benches/", "loadgen/", "tuning/", "deploy/", ".ci/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let linked = linked.filter(|link| !link.contains("://") && !link.starts_with('#'));
    let linked: Vec<&str> = linked.map(|link| link.split('#').next().unwrap_or(link)).collect();
    let is_path = |name: &&str| {
        let named = FOLDERS.iter().any(|folder| name.starts_with(folder)) || name.ends_with(".rs");
        named && !name.contains([' ', '*', '<', '{', '…'])
    };
    let quoted = quoted.filter(is_path);
    quoted.chain(linked).filter(|name| !exists(name)).map(str::to_owned).collect()
}

#[test]
fn documents_name_only_files_that_exist() {
    let mut documents = files(&root().join("docs"), "md");
    documents.push(root().join("README.md"));
    let mut faults = Vec::new();
    for path in documents {
        let folder = path.parent().unwrap();
        let exists = |name: &str| {
            [folder.to_owned(), root().to_owned(), root().join("src")]
                .iter()
                .any(|from| from.join(name).exists())
        };
        let text = fs::read_to_string(&path).unwrap();
        // A fenced block is shown, not said; its fences would also turn the quotes around.
        let text: String = text.split("```").step_by(2).collect();
        faults.extend(missing(&text, exists).iter().map(|name| format!("{}: {name}", path.display())));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn comments_name_only_files_that_exist() {
    let source = root().join("src");
    let mut faults = Vec::new();
    for path in files(&source, "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let folders = [path.parent().unwrap(), &source, root()];
        let exists = |name: &str| folders.iter().any(|from| from.join(name).exists());
        for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            let line = line.replace("](", "] (");
            faults.extend(missing(&line, exists).iter().map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_file_that_is_missing_is_found() {
    let exists = |name: &str| name == "src/here.rs";
    assert_eq!(
        missing("see `src/here.rs` and `cmg-up/up.json`, [web](https://a.example/b)", exists),
        [""; 0]
    );
    for text in ["see `src/gone.rs`", "see `relay.rs`", "[x](docs/gone.md#part)", "`docs/gone.md`"] {
        assert_eq!(missing(text, exists).len(), 1, "{text}");
    }
}
