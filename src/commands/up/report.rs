//! What `cmg up` tells when everything is ready: `up.json` for scripts, a few lines for people.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cmg::pki::{PUBLIC_MODE, write_file};
use serde_json::json;

use super::super::Failure;
use super::children::Children;
use super::plan::Plan;
use super::{MANAGEMENT_POINT, broken, client_name, path_text};

/// A URL every management point answers without knowing the client.
const ANSWERED: &str = "SMS_MP/.sms_aut?MPLIST";
/// One that exists on a site and is never published by itself.
const REFUSED: &str = "AdminService/v1.0/Device";

fn url(plan: &Plan, rest: &str) -> String {
    format!("https://{}:{}/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}", plan.service, plan.gateway.port())
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
        "refused_url": url(plan, REFUSED),
        "ca": path_text(&folder.join("pki/ca.pem")),
        "client_cert": path_text(&certificate),
        "client_key": path_text(&key),
        "clients_dir": path_text(&folder.join("pki/clients")),
        "admin": { "gateway": plan.gateway_admin, "connector": plan.connector_admin },
        "pids": pids,
        "origin": plan.origin,
    });
    let path = folder.join("up.json");
    let text = serde_json::to_vec_pretty(&report).map_err(|error| broken(&path, &error))?;
    Ok(write_file(&path, &text, PUBLIC_MODE)?)
}

/// Takes `up.json` away: nothing is ready any more, or yet.
pub fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join("up.json"));
}

/// Says what runs where. A closed pipe is nothing to die of.
pub fn print(folder: &Path, plan: &Plan, children: &Children) {
    let pid = |wanted: &str| {
        children
            .pids()
            .find(|(role, _)| *role == wanted)
            .map_or(String::new(), |(_, pid)| format!(", pid {pid}"))
    };
    let name = &plan.service;
    let (gateway, admin) = (plan.gateway, plan.gateway_admin);
    let (channel, connector_admin) = (plan.channel, plan.connector_admin);
    let (certificate, key) = client(folder);
    let quoted = |path: &Path| quote(&path_text(path));
    let text = format!(
        "gateway    https://{name}:{port} on {gateway}, channels on {channel}, admin http://{admin}{}\n\
         connector  attached to {channel}, admin http://{connector_admin}{}\n\
         origin     {}{}\n\
         files      {}\n\
         \n\
         Ask the management point as a client:\n\
         \n  curl --cacert {} --cert {} --key {} --resolve {name}:{port}:{address} '{}'\n\
         \nCtrl-C drains and stops.\n",
        pid("gateway"),
        pid("connector"),
        plan.origin,
        pid("origin"),
        folder.display(),
        quoted(&folder.join("pki/ca.pem")),
        quoted(&certificate),
        quoted(&key),
        url(plan, ANSWERED),
        port = gateway.port(),
        address = gateway.ip(),
    );
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
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
