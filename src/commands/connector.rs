//! `cmg connector`: one connection point in the foreground, until it has drained.

use cmg::review::{ConnectorReview, Document};
use cmg::shard;
use rustls::pki_types::UnixTime;

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let document = Document::open(&arguments.config).map_err(super::gateway::mistake)?;
    let review = ConnectorReview::of(document, UnixTime::now());
    let needs = review.settings.as_ref().map(shard::Needs::of_connector).unwrap_or_default();
    let machine = shard::probe(&needs);
    let warnings = review.findings.warnings.clone();
    let start = super::check::starting(review.findings.verdict(), machine, || review.into_start())?;
    let _log = log::start("CMG_CONNECTOR", &start.settings.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    cmg::connector::run(start).map_err(|error| Failure::Broken(error.to_string()))
}
