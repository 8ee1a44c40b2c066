//! `cmg gateway`: one gateway in the foreground, until it has drained.

use cmg::review::{Document, GatewayReview};
use cmg::settings::SettingsErrors;
use cmg::shard;
use rustls::pki_types::UnixTime;

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let document = Document::open(&arguments.config).map_err(mistake)?;
    let review = GatewayReview::of(document, UnixTime::now());
    // What is wrong with the files and what is wrong with the machine is said in one go.
    let needs = review.settings.as_ref().map(shard::Needs::of_gateway).unwrap_or_default();
    let machine = shard::probe(&needs);
    let warnings = review.findings.warnings.clone();
    let start = super::check::starting(review.findings.verdict(), machine, || review.into_start())?;
    let _log = log::start("CMG_GATEWAY", &start.settings.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    cmg::gateway::run(start).map_err(|error| Failure::Broken(error.to_string()))
}

pub fn mistake(error: cmg::settings::SettingsError) -> Failure {
    Failure::Usage(SettingsErrors(vec![error]).to_string())
}
