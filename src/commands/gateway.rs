//! `cmg gateway`: one gateway in the foreground, until it has drained.

use cmg::logs::access;
use cmg::settings::{GatewaySettings, Source};

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let (text, name, folder) = arguments.read()?;
    let settings =
        GatewaySettings::parse(&text, &name).map_err(|errors| Failure::Usage(errors.to_string()))?;
    access::check(&settings.log, folder).map_err(|error| {
        let error = Source::new(&text, &name).error("log.access_log", error.found, error.expected);
        Failure::Usage(error.to_string())
    })?;
    log::start(settings.log.level);
    cmg::gateway::run(settings, folder).map_err(|error| Failure::Broken(error.to_string()))
}
