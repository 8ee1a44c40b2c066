//! `cmg connector`: one connection point in the foreground, until it has drained.

use cmg::handover::Role;
use cmg::review::{ConnectorReview, Document};
use cmg::shard;
use rustls::pki_types::UnixTime;

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let document = Document::open(&arguments.config).map_err(super::gateway::mistake)?;
    let review = ConnectorReview::after(cmg::renewal::settle, document, UnixTime::now());
    let needs = review.settings.as_ref().map(shard::Needs::of_connector).unwrap_or_default();
    let machine = shard::probe(&needs);
    super::check::starting(&review.findings, machine)?;
    // Taking the ports may have something to say, so the log comes first.
    let settings = review.settings.as_ref().map(|settings| settings.log.clone()).unwrap_or_default();
    let _log = log::start("CMG_CONNECTOR", &settings)?;
    for warning in &review.findings.warnings {
        tracing::warn!("{warning}");
    }
    let admin = review.settings.as_ref().map(|settings| &settings.admin);
    let (taking, inherited) = super::upgrade::inherit(arguments, &review.document, admin, Role::Connector)?;
    let start = review.into_start(inherited).map_err(|errors| Failure::Usage(errors.to_string()))?;
    cmg::connector::run(start, taking).map_err(|error| Failure::Broken(error.to_string()))
}
