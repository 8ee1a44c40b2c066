//! What `cmg up` tells when everything is ready: `up.json` for scripts, a few lines for people.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cmg::mapping::Family;
use cmg::pki::{PUBLIC_MODE, write_file};
use serde_json::json;

use super::super::Failure;
use super::children::Children;
use super::plan::Plan;
use super::{broken, client_name, path_text};

/// A URL every management point answers without knowing the client.
const ANSWERED: &str = "SMS_MP/.sms_aut?MPLIST";
/// One that exists on a site and is never published by itself.
const REFUSED: &str = "AdminService/v1.0/Device";

fn url(plan: &Plan, rest: &str) -> String {
    // The port always: curl is told where that is, not where the name is.
    let Plan { service, gateway, management_point, .. } = plan;
    format!("https://{service}:{}/{}/{management_point}/{rest}", gateway.port(), Family::MutualAuth.segment())
}

/// The first client's certificate and key.
fn client(folder: &Path) -> (PathBuf, PathBuf) {
    let path = |extension| folder.join("pki/clients").join(format!("{}.{extension}", client_name(1)));
    (path("pem"), path("key"))
}

/// Writes `up.json`: its presence says that everything is ready.
pub fn write(folder: &Path, plan: &Plan, children: &Children) -> Result<(), Failure> {
    let (certificate, key) = client(folder);
    let mut pids: serde_json::Map<_, _> =
        children.pids().map(|(role, pid)| (role.to_owned(), json!(pid))).collect();
    pids.insert("up".into(), json!(std::process::id()));
    let report = json!({
        "gateway": plan.gateway,
        "service": plan.service,
        "url": url(plan, ANSWERED),
        "software_update_point": plan.update_point,
        "refused_url": url(plan, REFUSED),
        "ca": path_text(&folder.join("pki/ca.pem")),
        "client_cert": path_text(&certificate),
        "client_key": path_text(&key),
        "clients_dir": path_text(&folder.join("pki/clients")),
        "admin": { "gateway": plan.gateway_admin, "connector": plan.connector_admin },
        "pids": pids,
        "origin": plan.origin,
        "tokens": plan.tokens.as_deref().map(path_text),
    });
    let path = folder.join("up.json");
    let text = serde_json::to_vec_pretty(&report).map_err(|error| broken(&path, &error))?;
    Ok(write_file(&path, &text, PUBLIC_MODE)?)
}

/// Takes `up.json` away: nothing is ready any more, or yet.
pub fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join("up.json"));
}

/// Says what runs where, as text for a shell: commands to copy, the rest comments. A closed pipe is
/// nothing to die of.
pub fn print(folder: &Path, plan: &Plan, children: &Children) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text(folder, plan, children).as_bytes()).and_then(|()| out.flush());
}

fn text(folder: &Path, plan: &Plan, children: &Children) -> String {
    let pid = |wanted: &str| {
        children
            .pids()
            .find(|(role, _)| *role == wanted)
            .map_or(String::new(), |(_, pid)| format!(", pid {pid}"))
    };
    let (certificate, key) = client(folder);
    let quoted = |path: &Path| quote(&path_text(path));
    let Plan { service: name, gateway, channel, gateway_admin, connector_admin, origin, .. } = plan;
    // --include: the head of an answer has its reason text, which is what a refusal says.
    let curl = format!(
        "curl --include --cacert {} --resolve {name}:{}:{}",
        quoted(&folder.join("pki/ca.pem")),
        gateway.port(),
        gateway.ip()
    );
    let url = quote(&url(plan, ANSWERED));
    let place = given(plan);
    format!(
        "# gateway    https://{host} on {gateway}, channels on {channel}, admin http://{gateway_admin}{}
# connector  attached to {channel}, admin http://{connector_admin}{}
# origin     {origin}{}
# files      {}

# Answered 200, through gateway and connector, by the management point:
{curl} --cert {} --key {} {url}

# Refused for want of a client certificate, and the head says so:
{curl} {url}

# Status and metrics:
{} status --dir {}
curl http://{gateway_admin}/status
curl http://{gateway_admin}/metrics
curl http://{connector_admin}/status
curl http://{connector_admin}/metrics

# What a client of the site would be installed with:
#   ccmsetup.exe /mp:https://{place} CCMHOSTNAME={place} SMSSiteCode={}

# Ctrl-C drains and stops.
",
        pid("gateway"),
        pid("connector"),
        pid("origin"),
        path_text(folder).escape_debug(),
        quoted(&certificate),
        quoted(&key),
        quote(&program()),
        quoted(folder),
        plan.site,
        host = host(plan),
    )
}

/// What clients know the gateway by: its port only where it is not that of https.
fn host(plan: &Plan) -> String {
    match plan.gateway.port() {
        443 => plan.service.clone(),
        port => format!("{}:{port}", plan.service),
    }
}

/// What stands for the management point's host name in everything that a client is given.
fn given(plan: &Plan) -> String {
    format!("{}/{}/{}", host(plan), Family::MutualAuth.segment(), plan.management_point)
}

/// This program as it can be called again from where it was called: `cargo run` leaves nothing in PATH.
fn program() -> String {
    let called = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_found = match called.components().count() {
        0 => false,
        1 if !path_text(&called).contains('/') => {
            env::split_paths(&paths).any(|folder| folder.join(&called).is_file())
        }
        _ => called.is_file(),
    };
    let own = || env::current_exe().ok();
    if is_found { path_text(&called) } else { own().map_or_else(|| "cmg".into(), |path| path_text(&path)) }
}

/// For a shell: quoted where it must be.
fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_a_shell_only_where_it_must_be() {
        let rows =
            [("/a/b-1.pem", "/a/b-1.pem"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'"), ("/a$b", "'/a$b'")];
        for (text, quoted) in rows {
            assert_eq!(quote(text), quoted);
        }
    }
}
