//! `cmg connector`: one connection point in the foreground, until it has drained.

use std::fs;
use std::path::Path;

use cmg::admin::default_socket;
use cmg::settings::{ConnectorSettings, SiteSettings};

use super::{Failure, RoleArguments, log, running};

pub fn run(arguments: &RoleArguments) -> Result<(), Failure> {
    let (text, name, folder) = arguments.read()?;
    let settings =
        ConnectorSettings::parse(&text, &name).map_err(|errors| Failure::Usage(errors.to_string()))?;
    check_site(&folder.join(&settings.site))?;
    running::check_admin(&settings.admin, folder, &text, &name)?;
    let _log = log::start("CMG_CONNECTOR", &settings.log)?;
    cmg::connector::run(settings, folder, &default_socket(&arguments.config))
        .map_err(|error| Failure::Broken(error.to_string()))
}

/// The role reads the file itself; here a mistake in it is told apart from what goes wrong later.
fn check_site(file: &Path) -> Result<(), Failure> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    SiteSettings::parse(&text, &name).map(drop).map_err(|errors| Failure::Usage(errors.to_string()))
}
