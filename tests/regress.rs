//! The rules by which `.ci/regress` lets a growth pass or fail, from made-up counts and real commits: nothing is built or
//! measured here.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Says so and gives true where python3 or git is missing.
fn is_skipped(story: &str) -> bool {
    let is_there = |program: &&str| {
        Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let missing = ["python3", "git"].iter().find(|program| !is_there(program));
    if let Some(program) = missing {
        let text = format!("SKIPPED {story}: no {program}");
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "{text}");
        let _ = writeln!(io::stderr(), "{text}");
    }
    missing.is_some()
}

/// What `lines` print, with the script as the module `regress`.
fn python(lines: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/regress");
    let text = format!(
        "import importlib.machinery, importlib.util, sys\nsys.dont_write_bytecode = True\n\
         loader = importlib.machinery.SourceFileLoader('regress', {script:?})\n\
         regress = importlib.util.module_from_spec(importlib.util.spec_from_loader('regress', loader))\n\
         loader.exec_module(regress)\n{lines}"
    );
    let output = Command::new("python3").arg("-c").arg(text).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn counts_may_grow_by_three_percent_or_by_what_a_commit_says() {
    if is_skipped("counts_may_grow_by_three_percent_or_by_what_a_commit_says") {
        return;
    }
    // Growth, what commits say, and whether `head/parse` fails by it.
    let rows = [
        (1.0, "[]", false),
        (0.5, "[]", false),
        (1.029, "[]", false),
        (1.031, "[]", true),
        (1.10, "[]", true),
        (1.10, "[('head/parse', 10.0)]", false),
        (1.10, "[('head/*', 10.0)]", false),
        (1.10, "[('head/parse', 4.0), ('head/parse', 4.0)]", false),
        (1.10, "[('head/parse', 4.0)]", true),
        (1.10, "[('head/parser', 50.0), ('head', 50.0), ('mux/*', 50.0)]", true),
        (1.15, "[('head/parse', 10.0)]", true),
    ];
    for (growth, costs, fails) in rows {
        // The neighbour grows by 10 % and nobody says why: a line is for its own case alone.
        let said = python(&format!(
            "regress.count = lambda programs: {{'base': {{'head/parse': 1000.0, 'path/find': 1000.0, 'gone': 1.0}},\n\
             \x20   'head': {{'head/parse': 1000.0 * {growth}, 'path/find': 1100.0, 'new': 5000.0}}}}\n\
             for failure in regress.instructions({{'base': {{}}, 'head': {{}}}}, {costs}): print('GREW', failure)"
        ));
        let grew: Vec<&str> = said.lines().filter(|line| line.starts_with("GREW")).collect();
        let of_case = grew.iter().any(|line| line.starts_with("GREW head/parse: 1000.0 to "));
        assert_eq!(of_case, fails, "{growth} {costs}\n{said}");
        assert!(grew.iter().any(|line| line.contains("path/find: 1000.0 to 1100.0 instructions (+10.00%)")));
        assert_eq!(grew.len(), 1 + usize::from(fails), "{said}");
    }
}

#[test]
fn ten_runs_of_the_same_pass_and_less_than_one_instruction_is_no_growth() {
    if is_skipped("ten_runs_of_the_same_pass_and_less_than_one_instruction_is_no_growth") {
        return;
    }
    let said = python(
        "regress.count = lambda programs: {side: {'a': 1234.5, 'tiny': tiny} for side, tiny in [('base', 10.0), ('head', 10.9)]}\n\
         print([regress.instructions({'base': {}, 'head': {}}, []) for _ in range(10)])",
    );
    assert!(said.ends_with(&format!("[{}]\n", ["[]"; 10].join(", "))), "{said}");
}

#[test]
fn time_fails_only_when_every_round_and_the_fastest_of_all_are_slower() {
    if is_skipped("time_fails_only_when_every_round_and_the_fastest_of_all_are_slower") {
        return;
    }
    for (pairs, slower) in [
        ("[(100, 112), (100, 113), (100, 125)]", true),
        // One round in which head was not slower: a busy machine, not the code.
        ("[(100, 120), (100, 109), (100, 130)]", false),
        // Slower in each round, as the machine was; the fastest of all are alike.
        ("[(100, 125), (150, 180), (90, 101)]", true),
        ("[(100, 125), (150, 180), (90, 99)]", false),
        // Of a case that takes 20 ns, some cycles more are where its code lies.
        ("[(5, 6.2), (5, 6.3)]", false),
        ("[(5, 6.6), (5, 6.7)]", true),
        ("[(100, 100), (100, 100)]", false),
    ] {
        let said = python(&format!("print(regress.judge({pairs}, regress.TIME_GROWTH_MAX))"));
        assert_eq!(said.trim() == "True", slower, "{pairs}");
    }
    let said = python("print(regress.allowed('mux/1', 1.1, [('mux/*', 20.0)]))");
    assert!((said.trim().parse::<f64>().unwrap() - 1.32).abs() < 1e-9, "{said}");
}

/// A repository with a base, and behind it a commit for each message; what `read_costs` makes of it.
fn costs(messages: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let named = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false"];
        let mut command = Command::new("git");
        command.arg("-C").arg(folder.path()).args(named).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "--quiet"]);
    git(&[
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "Base\n\nCost: base/case +90 % of before, and so not looked at",
    ]);
    git(&["tag", "base"]);
    for message in messages {
        git(&["commit", "--quiet", "--allow-empty", "-m", message]);
    }
    python(&format!(
        "import pathlib\nregress.ROOT = pathlib.Path({:?})\n\
         try: print('READ', regress.read_costs('base'))\n\
         except regress.Unknown as unknown: print('UNKNOWN', unknown)",
        folder.path()
    ))
}

#[test]
fn what_commits_since_the_base_say_is_read_line_by_line() {
    if is_skipped("what_commits_since_the_base_say_is_read_line_by_line") {
        return;
    }
    for (messages, read) in [
        (&[][..], "READ []"),
        (&["No line\n\nA body with Cost: in it."][..], "READ []"),
        (&["One\n\nWhy.\n\nCost: head/parse +4.5 %: a check more"][..], "READ [('head/parse', 4.5)]"),
        (&["One\n\nWhy.\n\nCost: head/parse +4.5 % a check more"][..], "READ [('head/parse', 4.5)]"),
        (
            &[
                "One\n\nWhy.\n\nCost: head/parse +4 % a check more\nCost: mux/* +12.5% two words more",
                "Two\n\nCost: head/parse +3 % another",
            ][..],
            "READ [('head/parse', 3.0), ('head/parse', 4.0), ('mux/*', 12.5)]",
        ),
        (&["Without a reason\n\nCost: head/parse +4 %"][..], "UNKNOWN a commit says `Cost: head/parse +4 %`"),
        (&["Down\n\nCost: head/parse -4 % less"][..], "UNKNOWN a commit says `Cost: head/parse -4 % less`"),
    ] {
        let said = costs(messages);
        let line = said.lines().find(|line| line.starts_with("READ") || line.starts_with("UNKNOWN"));
        assert!(line.unwrap().starts_with(read), "{messages:?}\n{said}");
    }
    assert_eq!(python("print(regress.read_costs(None))").trim(), "[]");
}
