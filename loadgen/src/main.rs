//! `loadgen`: simulated clients, and an origin, that measure cmg or any HTTPS proxy from outside.
//!
//! `loadgen clients` asks and checks every answer, `loadgen notify` waits for notifications, `loadgen origin` answers. It shares no code with the proxy. This file
//! alone decides how the process ends: 0 all right, 1 something failed, 2 wrong usage, 3 right and not as wanted (an
//! objective missed, an open loop behind its plan), 4 a notification not delivered exactly once, 130 ended early by the user.

mod clients;
mod compare;
mod content;
mod machine;
mod notification;
mod notify;
mod origin;
mod population;
mod process;
mod random;
mod report;
mod ring;
mod syscalls;
mod tokens;
mod wire;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clients::{Outcome, RunError};
use compare::CompareError;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulated clients, and an origin, that measure a proxy from outside.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  loadgen clients --up cmg-up/up.json -c 1000 -m 100
  loadgen clients --up cmg-up/up.json -c 64 --duration 10 --warmup 2 --json run.json
  loadgen clients --up cmg-up/up.json -c 19500 --source 127.0.0.2,127.0.0.3 --connect-rate 1000 --hold 60
  loadgen clients --up cmg-up/up.json -c 6000 --rate 2000 --duration 60 --warmup 5
  loadgen clients --up cmg-up/up.json -c 64 -m 0 --resume --duration 10
  loadgen clients --target 127.0.0.1:443 --name proxy.test --ca ca.pem --clients-dir clients -c 64 -d 10 --pids nginx=12+13
  loadgen clients --plain --target 127.0.0.1:8080 -c 10 -m 10 --body 100000 --chunked --answer 100000
  loadgen clients --up cmg-up/up.json -c 10 --feature policy,inventory
  loadgen clients --up cmg-up/up.json -c 10 --feature client-install --tokens load-tokens
  loadgen clients --up cmg-up/up.json -c 2000 --profile population --speed 60 -d 120 --burst after-outage";

const NOTIFY_EXAMPLES: &str = "\
Examples:
  loadgen origin --listen 127.0.0.1:8081 --shards 2 --control 127.0.0.1:8082
  loadgen notify --up cmg-up/up.json --clients 1000 --origin-control 127.0.0.1:8082 --hold 10 --pushes 5
  loadgen notify --up cmg-up/up.json --clients 32000 --source 127.0.0.2,127.0.0.3 --origin-control 127.0.0.1:8082 --hold 600 --pushes 3
  loadgen notify --up cmg-up/up.json --clients 16000 --resume --hold 5 --storm 60 --ordinary 500 --json run.json";

const TOKENS_EXAMPLES: &str = "\
Examples:
  loadgen tokens load-tokens > issuers.toml
  loadgen origin --listen 127.0.0.1:8081 --tokens load-tokens
  loadgen clients --up cmg-up/up.json -c 10 --feature client-install --tokens load-tokens";

const ORIGIN_EXAMPLES: &str = "\
Examples:
  loadgen origin --listen 127.0.0.1:8081 --shards 2
  loadgen origin --delay 5..20 --hold 15000
  loadgen origin --fault reset=0.01,stall=0.001,cut=0.01,garbage=0.005 --seed 7
  curl -X PROPFIND http://127.0.0.1:8080/CCM_Client/package/
  curl 'http://127.0.0.1:8080/x?bytes=1000&fault=cut'
  loadgen origin --tokens load-tokens
  loadgen origin --shards 2 --control 127.0.0.1:8082
  curl -X POST 'http://127.0.0.1:8082/push?rate=1000'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask as many clients, and check every answer
    ///
    /// Exit code: 0 all right, 1 an answer was wrong or failed, 2 wrong usage, 3 an objective was missed or planned requests
    /// were never sent, 130 interrupted (the report is printed all the same).
    #[command(after_help = EXAMPLES)]
    Clients(Box<clients::options::Options>),
    /// Hold notifications for many clients, push to them, and see that each has each push exactly once
    ///
    /// Clients connect, sign in, and each has one request held (client notification). Then: silence, which shows memory and CPU
    /// of the processes between; pushes ordered from `loadgen origin`, which show how fast all have them; and, if asked for, a
    /// time in which what is between is stopped and started, which shows how fast all come back.
    ///
    /// Exit code: 0 all right, 1 connections were lost or refused, or not all were held, 2 wrong usage, 4 a notification was
    /// lost, duplicated, misdelivered or malformed, 130 interrupted (the report is printed all the same).
    #[command(after_help = NOTIFY_EXAMPLES)]
    Notify(Box<notify::options::Options>),
    /// Be the management point and the software update point behind a proxy
    ///
    /// Any request is answered with what it was, as its query decides: id=ID, bytes=N (200), status=N, delay_ms=N,
    /// framing=chunked|close, cut=N (end after N bytes of the body), stall (read and answer nothing),
    /// fault=reset|stall|close|cut|garbage. HEAD and one Range are honoured.
    ///
    /// Without any of these in the query, the endpoints of real site systems answer as those do, in form and size: CCM_System,
    /// SMS_MP, CCM_Incoming (BITS uploads, with their state), CCM_STS, BGB (held), CCM_Client, CMUserService,
    /// ClientWebService, SimpleAuthWebService, ReportingWebService, Content, SelfUpdate; docs/loadgen-profiles.md lists them.
    /// The id is then taken from X-Load-Id, and what else a query could ask for from X-Load.
    #[command(after_help = ORIGIN_EXAMPLES)]
    Origin(origin::Options),
    /// Make a key that signs tokens, and print what `site.toml` needs for them to be taken
    ///
    /// Whoever reads its signing.pem can make tokens that the site takes: for sites that are measured, never for one in use.
    ///
    /// Exit code: 0 made, 1 a file could not be read or written, 2 wrong usage.
    #[command(after_help = TOKENS_EXAMPLES)]
    Tokens(tokens::Options),
    /// Show two runs side by side
    ///
    /// Exit code: 0 compared, 1 the comparison could not be written, 2 wrong usage or a file that is no report.
    Compare(compare::Options),
}

fn main() -> ExitCode {
    let failed = |error: &dyn std::fmt::Display, code| {
        eprintln!("loadgen: {error}");
        ExitCode::from(code)
    };
    let mut command = Arguments::command();
    let matches = command.get_matches_mut();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let flags = matches
        .subcommand()
        .and_then(|(name, matches)| Some(report::flags_of(command.find_subcommand(name)?, matches)))
        .unwrap_or_default();
    match arguments.command {
        Command::Clients(options) if options.population.list_features => {
            print!("{}", population::list());
            ExitCode::SUCCESS
        }
        Command::Clients(options) => match clients::run(&options, flags) {
            Ok(Outcome::Right) => ExitCode::SUCCESS,
            Ok(Outcome::Failed) => ExitCode::from(1),
            Ok(Outcome::Missed) => ExitCode::from(3),
            Ok(Outcome::Interrupted) => ExitCode::from(130),
            Err(error @ RunError::Usage(_)) => failed(&error, 2),
            Err(error @ RunError::System(_)) => failed(&error, 1),
        },
        Command::Notify(options) => match notify::run(&options, flags) {
            Ok(notify::Outcome::Right) => ExitCode::SUCCESS,
            Ok(notify::Outcome::Failed) => ExitCode::from(1),
            Ok(notify::Outcome::NotOnce) => ExitCode::from(4),
            Ok(notify::Outcome::Interrupted) => ExitCode::from(130),
            Err(error @ RunError::Usage(_)) => failed(&error, 2),
            Err(error @ RunError::System(_)) => failed(&error, 1),
        },
        Command::Origin(options) => match options.rules().and_then(|rules| Ok((rules, options.signer()?))) {
            Ok((rules, signer)) => origin::run(&options, rules, signer)
                .map_or_else(|error| failed(&error, 1), |()| ExitCode::SUCCESS),
            Err(error) => failed(&error, 2),
        },
        Command::Tokens(options) => match tokens::make(&options) {
            Ok(lines) => {
                print!("{lines}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error, 1),
        },
        Command::Compare(options) => match compare::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ CompareError::Input(_)) => failed(&error, 2),
            Err(error @ CompareError::Output(_)) => failed(&error, 1),
        },
    }
}
