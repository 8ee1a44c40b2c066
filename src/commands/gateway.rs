//! `cmg gateway`: one gateway in the foreground, until it has drained.

use cmg::settings::GatewaySettings;

use super::{Failure, RoleArguments, log};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let (text, name, folder) = arguments.read()?;
    let settings =
        GatewaySettings::parse(&text, &name).map_err(|errors| Failure::Usage(errors.to_string()))?;
    log::start(settings.log.level);
    cmg::gateway::run(settings, folder).map_err(|error| Failure::Broken(error.to_string()))
}
