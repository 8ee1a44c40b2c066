//! `cmg gateway`: one gateway in the foreground, until it has drained.

use cmg::admin::default_socket;
use cmg::settings::GatewaySettings;

use super::{Failure, RoleArguments, log, running};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let (text, name, folder) = arguments.read()?;
    let settings =
        GatewaySettings::parse(&text, &name).map_err(|errors| Failure::Usage(errors.to_string()))?;
    running::check_admin(&settings.admin, folder, &text, &name)?;
    let _log = log::start("CMG_GATEWAY", &settings.log)?;
    cmg::gateway::run(settings, folder, &default_socket(&arguments.config))
        .map_err(|error| Failure::Broken(error.to_string()))
}
