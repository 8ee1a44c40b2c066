//! `cmg gateway`: one gateway in the foreground, until it has drained.

use cmg::handover::Role;
use cmg::review::{Document, GatewayReview};
use cmg::settings::SettingsErrors;
use cmg::shard;
use rustls::pki_types::UnixTime;

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let document = Document::open(&arguments.config).map_err(mistake)?;
    let review = GatewayReview::after(cmg::renewal::settle, document, UnixTime::now());
    // What is wrong with the files and what is wrong with the machine is said in one go.
    let needs = review.settings.as_ref().map(shard::Needs::of_gateway).unwrap_or_default();
    let machine = shard::probe(&needs);
    super::check::starting(&review.findings, machine)?;
    // Taking the ports may have something to say, so the log comes first.
    let settings = review.settings.as_ref().map(|settings| settings.log.clone()).unwrap_or_default();
    let _log = log::start("CMG_GATEWAY", &settings)?;
    for warning in &review.findings.warnings {
        tracing::warn!("{warning}");
    }
    let admin = review.settings.as_ref().map(|settings| &settings.admin);
    let (taking, inherited) = super::upgrade::inherit(arguments, &review.document, admin, Role::Gateway)?;
    let start = review.into_start(inherited).map_err(|errors| Failure::Usage(errors.to_string()))?;
    cmg::gateway::run(start, taking).map_err(|error| Failure::Broken(error.to_string()))
}

pub fn mistake(error: cmg::settings::SettingsError) -> Failure {
    Failure::Usage(SettingsErrors(vec![error]).to_string())
}
