//! What every test starts from: settings of one site that are as they should be, certificates with a life
//! of their own, and the binary.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cmg::pki::{Pki, gateway_tls_name};
use serde_json::Value;
use tempfile::TempDir;

pub const NAME: &str = "cmg.test";
pub const ROLE: u64 = (1 << 56) + 5;
pub const GATEWAY: &str = "gateway.toml";
pub const CONNECTOR: &str = "connector.toml";
pub const SITE: &str = "site.toml";

/// Settings of one site that are as they should be.
pub struct Files {
    pub folder: TempDir,
    pub client: u16,
    pub channel: u16,
    pub gateway_admin: u16,
    pub connector_admin: u16,
}

/// Four ports that are free now, no two the same: all are held until the last is known.
pub fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.each_ref().map(|listener| listener.local_addr().unwrap().port())
}

impl Files {
    pub fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        pki.server(&[NAME.into()], &[]).unwrap();
        pki.server(&["other.test".into()], &[]).unwrap();
        pki.gateway("gw1").unwrap();
        pki.gateway("gw2").unwrap();
        pki.connector("PS1", "1").unwrap();
        pki.connector("PS2", "1").unwrap();
        pki.client("client").unwrap();
        let [client, channel, gateway_admin, connector_admin] = free_ports();
        let files = Files { folder, client, channel, gateway_admin, connector_admin };
        files.write("gateway.toml", &files.gateway());
        files.write("connector.toml", &files.connector());
        files.write("site.toml", &files.site());
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Replaces text that is there once or more, the first time.
    pub fn edit(&self, name: &str, found: &str, with: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(found), "{name} has no {found:?}:\n{text}");
        self.write(name, &text.replacen(found, with, 1));
    }

    /// From 1, of the first line that contains `text`.
    pub fn line(&self, name: &str, text: &str) -> usize {
        let whole = fs::read_to_string(self.path(name)).unwrap();
        1 + whole.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{name}: {text:?}"))
    }

    pub fn gateway(&self) -> String {
        let Files { client, channel, gateway_admin, .. } = self;
        format!(
            r#"[gateway]
name = "{NAME}"
instance = "gw1"
shards = 1
clients_max = 100
state_dir = "state"
[[listener]]
address = "127.0.0.1:{client}"
[[server_certificate]]
chain = "pki/server/{NAME}.pem"
key = "pki/server/{NAME}.key"
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/gateway-gw1.pem"
key = "pki/internal/gateway-gw1.key"
[[internal.listener]]
address = "127.0.0.1:{channel}"
[admin]
address = "127.0.0.1:{gateway_admin}"
[[site]]
code = "PS1"
role_ids = ["{ROLE}-{last}"]
"#,
            last = ROLE + 10
        )
    }

    pub fn connector(&self) -> String {
        let Files { channel, connector_admin, .. } = self;
        let name = gateway_tls_name("gw1");
        format!(
            r#"[connector]
identity = "1"
shards = 1
site = "site.toml"
[[gateway]]
address = "127.0.0.1:{channel}"
name = "{name}"
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/connector-PS1-1.pem"
key = "pki/internal/connector-PS1-1.key"
[admin]
address = "127.0.0.1:{connector_admin}"
"#
        )
    }

    pub fn site(&self) -> String {
        let (sup, own) = (ROLE + 1, ROLE + 2);
        format!(
            r#"code = "PS1"
serial = 1
[trust]
roots = ["pki/ca.pem"]
[[management_point]]
id = {ROLE}
url = "http://127.0.0.1:9"
[[software_update_point]]
id = {sup}
url = "https://wsus.corp:8531"
ca = "pki/ca.pem"
[[endpoint]]
id = {own}
path = "reports/upload"
url = "http://127.0.0.1:9/in"
methods = ["GET", "PUT"]
request_length_max = 1000
"#
        )
    }

    /// Every file with its content and mode.
    pub fn everything(&self) -> Vec<(PathBuf, Vec<u8>, u32)> {
        let mut all = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                if path.is_dir() {
                    all.push((path.clone(), Vec::new(), mode));
                    folders.push(path);
                } else {
                    all.push((path.clone(), fs::read(&path).unwrap(), mode));
                }
            }
        }
        all.sort();
        all
    }

    pub fn start(&self, role: &str) -> Command {
        let mut command = cmg();
        command.arg(role).arg("--config").arg(self.path(&format!("{role}.toml")));
        command
    }

    /// `cmg check --json` over these files: exit code and answer.
    pub fn check(&self, files: &[&str], options: &[&str]) -> (i32, Value) {
        let output = run(cmg()
            .arg("check")
            .args(files.iter().map(|name| self.path(name)))
            .arg("--json")
            .args(options)
            .current_dir(self.folder.path()));
        let answer = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
        assert_eq!(text(&output.stderr), "", "findings are said once");
        (output.status.code().unwrap(), answer)
    }
}

pub fn cmg() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cmg"))
}

/// Runs to its end; one that does not end by itself is a role that started, and fails the test.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: both calls are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::alarm(60);
            Ok(())
        });
    }
    command.output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn texts(answer: &Value, level: &str) -> Vec<String> {
    let findings = answer["findings"].as_array().unwrap().iter();
    let wanted = findings.filter(|finding| finding["level"] == level);
    wanted.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
}

/// A certificate with a life of its own, under the folder's site CA or internal CA.
pub fn issue(files: &Files, name: &str, ca: &str, names: &[rcgen::SanType], years: (i32, i32)) {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let read = |path: &str| fs::read_to_string(files.path(path)).unwrap();
    let ca_key = KeyPair::from_pem(&read(&format!("pki/{ca}.key"))).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(&format!("pki/{ca}.pem")), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    files.write(&format!("{name}.pem"), &certificate.pem());
    files.write(&format!("{name}.key"), &key.serialize_pem());
    set_mode(&files.path(&format!("{name}.key")), 0o600);
}

/// An authority, signed by `above` (name of its files) or by itself.
pub fn authority(files: &Files, name: &str, above: Option<&str>, years: (i32, i32)) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        None => params.self_signed(&key).unwrap(),
        Some(above) => {
            let read = |path: String| fs::read_to_string(files.path(&path)).unwrap();
            let above_key = KeyPair::from_pem(&read(format!("pki/{above}.key"))).unwrap();
            let issuer = Issuer::from_ca_cert_pem(&read(format!("pki/{above}.pem")), above_key).unwrap();
            params.signed_by(&key, &issuer).unwrap()
        }
    };
    files.write(&format!("pki/{name}.pem"), &certificate.pem());
    files.write(&format!("pki/{name}.key"), &key.serialize_pem());
}

pub fn dns(name: &str) -> rcgen::SanType {
    rcgen::SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn show_server(files: &Files, name: &str) {
    files.edit("gateway.toml", "pki/server/cmg.test.pem", &format!("{name}.pem"));
    files.edit("gateway.toml", "pki/server/cmg.test.key", &format!("{name}.key"));
}

pub fn show_internal(files: &Files, role: &str, name: &str) {
    let pair = if role == "gateway" { "pki/internal/gateway-gw1" } else { "pki/internal/connector-PS1-1" };
    let file = format!("{role}.toml");
    files.edit(&file, &format!("{pair}.pem"), &format!("{name}.pem"));
    files.edit(&file, &format!("{pair}.key"), &format!("{name}.key"));
}

pub fn protect(files: &Files, token: &str, mode: u32) {
    files.write("token", token);
    set_mode(&files.path("token"), mode);
    let lines = "certificate = \"pki/server/cmg.test.pem\"\nkey = \"pki/server/cmg.test.key\"\ntoken_file = \"token\"\n";
    files.edit(GATEWAY, "[admin]\n", &format!("[admin]\n{lines}"));
    let address = format!("127.0.0.1:{}", files.gateway_admin);
    files.edit(GATEWAY, &address, &format!("0.0.0.0:{}", files.gateway_admin));
}

pub fn checking(files: &Files) -> Command {
    let mut command = cmg();
    command.arg("check").arg(files.path(GATEWAY));
    command
}
