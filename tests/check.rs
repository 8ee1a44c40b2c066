//! Every mistake that settings, and what they name, can have: the role does not start, ends with 2 and
//! leaves everything as it was; and `cmg check` says the same before. With the real binary throughout.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cmg::pki::{Pki, gateway_tls_name};
use serde_json::Value;
use tempfile::TempDir;

const NAME: &str = "cmg.test";
const ROLE: u64 = (1 << 56) + 5;

// ── what every test starts from ─────────────────────────────────────────────────────────────────

/// Settings of one site that are as they should be.
struct Files {
    folder: TempDir,
    client: u16,
    channel: u16,
    gateway_admin: u16,
    connector_admin: u16,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        pki.server(&[NAME.into()], &[]).unwrap();
        pki.server(&["other.test".into()], &[]).unwrap();
        pki.gateway("gw1").unwrap();
        pki.gateway("gw2").unwrap();
        pki.connector("PS1", "1").unwrap();
        pki.connector("PS2", "1").unwrap();
        pki.client("client").unwrap();
        let files = Files {
            folder,
            client: free_port(),
            channel: free_port(),
            gateway_admin: free_port(),
            connector_admin: free_port(),
        };
        files.write("gateway.toml", &files.gateway());
        files.write("connector.toml", &files.connector());
        files.write("site.toml", &files.site());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Replaces text that is there once or more, the first time.
    fn edit(&self, name: &str, found: &str, with: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(found), "{name} has no {found:?}:\n{text}");
        self.write(name, &text.replacen(found, with, 1));
    }

    /// From 1, of the first line that contains `text`.
    fn line(&self, name: &str, text: &str) -> usize {
        let whole = fs::read_to_string(self.path(name)).unwrap();
        1 + whole.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{name}: {text:?}"))
    }

    fn gateway(&self) -> String {
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

    fn connector(&self) -> String {
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

    fn site(&self) -> String {
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
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>, u32)> {
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

    fn start(&self, role: &str) -> Command {
        let mut command = cmg();
        command.arg(role).arg("--config").arg(self.path(&format!("{role}.toml")));
        command
    }

    /// `cmg check --json` over these files: exit code and answer.
    fn check(&self, files: &[&str], options: &[&str]) -> (i32, Value) {
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

fn cmg() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cmg"))
}

/// Runs to its end; one that does not end by itself is a role that started, and fails the test.
fn run(command: &mut Command) -> Output {
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn texts(answer: &Value, level: &str) -> Vec<String> {
    let findings = answer["findings"].as_array().unwrap().iter();
    let wanted = findings.filter(|finding| finding["level"] == level);
    wanted.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
}

/// A certificate with a life of its own, under the folder's site CA or internal CA.
fn issue(files: &Files, name: &str, ca: &str, names: &[rcgen::SanType], years: (i32, i32)) {
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
fn authority(files: &Files, name: &str, above: Option<&str>, years: (i32, i32)) {
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

fn dns(name: &str) -> rcgen::SanType {
    rcgen::SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

// ── one file and what it names ──────────────────────────────────────────────────────────────────

/// What is done to good settings, and how the message must read.
struct Mistake {
    role: &'static str,
    what: &'static str,
    make: fn(&Files),
    /// File, and text of the line the message must name.
    at: (&'static str, &'static str),
    key: &'static str,
    found: &'static str,
    expected: &'static str,
}

const fn row(
    role: &'static str,
    what: &'static str,
    make: fn(&Files),
    at: (&'static str, &'static str),
    key: &'static str,
    found: &'static str,
    expected: &'static str,
) -> Mistake {
    Mistake { role, what, make, at, key, found, expected }
}

fn show_server(files: &Files, name: &str) {
    files.edit("gateway.toml", "pki/server/cmg.test.pem", &format!("{name}.pem"));
    files.edit("gateway.toml", "pki/server/cmg.test.key", &format!("{name}.key"));
}

fn show_internal(files: &Files, role: &str, name: &str) {
    let pair = if role == "gateway" { "pki/internal/gateway-gw1" } else { "pki/internal/connector-PS1-1" };
    let file = format!("{role}.toml");
    files.edit(&file, &format!("{pair}.pem"), &format!("{name}.pem"));
    files.edit(&file, &format!("{pair}.key"), &format!("{name}.key"));
}

const GATEWAY: &str = "gateway.toml";
const CONNECTOR: &str = "connector.toml";
const SITE: &str = "site.toml";

fn mistakes() -> Vec<Mistake> {
    vec![
        // Text.
        row(
            "gateway",
            "unknown key",
            |f| f.edit(GATEWAY, "state_dir", "state_dri"),
            (GATEWAY, "state_dri"),
            "gateway.state_dri",
            "an unknown key",
            "\"state_dir\"",
        ),
        row(
            "gateway",
            "wrong type",
            |f| f.edit(GATEWAY, "shards = 1", "shards = \"1\""),
            (GATEWAY, "shards"),
            "gateway.shards",
            "\"1\"",
            "a whole number",
        ),
        row("gateway", "no TOML", |f| f.edit(GATEWAY, "[admin]", "[admin"), (GATEWAY, "[admin"), "", "", ""),
        row(
            "connector",
            "unknown section",
            |f| f.edit(CONNECTOR, "[[gateway]]", "[[gatway]]"),
            (CONNECTOR, "[[gatway]]"),
            "gatway",
            "an unknown key",
            "\"gateway\"",
        ),
        row(
            "connector",
            "wrong type in the site",
            |f| f.edit(SITE, "serial = 1", "serial = \"one\""),
            (SITE, "serial"),
            "serial",
            "\"one\"",
            "a whole number",
        ),
        row(
            "connector",
            "unknown key in the site",
            |f| f.edit(SITE, "roots", "root"),
            (SITE, "root ="),
            "trust.root",
            "an unknown key",
            "\"roots\"",
        ),
        // Missing files.
        row(
            "gateway",
            "missing certificate",
            |f| fs::remove_file(f.path("pki/server/cmg.test.pem")).unwrap(),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "no such file",
            "a PEM file",
        ),
        row(
            "gateway",
            "missing key",
            |f| fs::remove_file(f.path("pki/server/cmg.test.key")).unwrap(),
            (GATEWAY, "server/cmg.test.key"),
            "server_certificate[1].key",
            "no such file",
            "a private key",
        ),
        row(
            "gateway",
            "missing internal CA",
            |f| fs::remove_file(f.path("pki/internal-ca.pem")).unwrap(),
            (GATEWAY, "ca ="),
            "internal.ca",
            "no such file",
            "a PEM file",
        ),
        row(
            "gateway",
            "missing ticket keys",
            |f| f.edit(GATEWAY, "state_dir", "ticket_keys = \"t.key\"\nstate_dir"),
            (GATEWAY, "ticket_keys"),
            "gateway.ticket_keys",
            "no such file",
            "32 random octets",
        ),
        row(
            "gateway",
            "a folder for a file",
            |f| f.edit(GATEWAY, "pki/internal-ca.pem", "pki"),
            (GATEWAY, "ca ="),
            "internal.ca",
            "a folder",
            "a PEM file",
        ),
        row(
            "connector",
            "missing site",
            |f| fs::remove_file(f.path(SITE)).unwrap(),
            (CONNECTOR, "site ="),
            "connector.site",
            "no such file",
            "site.toml",
        ),
        row(
            "connector",
            "missing root",
            |f| f.edit(SITE, "pki/ca.pem", "pki/none.pem"),
            (SITE, "roots"),
            "trust.roots[1]",
            "no such file",
            "a PEM file",
        ),
        row(
            "connector",
            "missing origin CA",
            |f| f.edit(SITE, "ca = \"pki/ca.pem\"", "ca = \"no.pem\""),
            (SITE, "no.pem"),
            "software_update_point[1].ca",
            "no such file",
            "a PEM file",
        ),
        // What is no PEM.
        row(
            "gateway",
            "text for a certificate",
            |f| f.write("pki/server/cmg.test.pem", "hello"),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "not PEM",
            "BEGIN CERTIFICATE",
        ),
        row(
            "gateway",
            "empty certificate",
            |f| f.write("pki/server/cmg.test.pem", ""),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "an empty file",
            "BEGIN CERTIFICATE",
        ),
        row(
            "gateway",
            "binary certificate",
            |f| fs::write(f.path("pki/server/cmg.test.pem"), [0x30, 0x82]).unwrap(),
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "binary (DER or PKCS#12)",
            "PEM",
        ),
        row(
            "gateway",
            "cut PEM",
            |f| {
                let whole = fs::read_to_string(f.path("pki/server/cmg.test.pem")).unwrap();
                f.write("pki/server/cmg.test.pem", &whole[..whole.len() / 2]);
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "without its -----END",
            "PEM",
        ),
        row(
            "gateway",
            "PEM of nonsense",
            |f| {
                let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
                f.write("pki/server/cmg.test.pem", nonsense);
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "cannot be read as X.509",
            "version 3",
        ),
        row(
            "gateway",
            "files swapped",
            |f| {
                f.edit(GATEWAY, "server/cmg.test.pem", "server/X");
                f.edit(GATEWAY, "server/cmg.test.key", "server/cmg.test.pem");
                f.edit(GATEWAY, "server/X", "server/cmg.test.key");
            },
            (GATEWAY, "chain"),
            "server_certificate[1].chain",
            "no certificate, but a private key",
            "PEM",
        ),
        row(
            "gateway",
            "key under a passphrase",
            |f| {
                let text =
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
                f.write("pki/server/cmg.test.key", text);
            },
            (GATEWAY, "server/cmg.test.key"),
            "server_certificate[1].key",
            "under a passphrase",
            "openssl pkey",
        ),
        row(
            "connector",
            "damaged root",
            |f| f.write("pki/ca.pem", "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n"),
            (SITE, "roots"),
            "trust.roots[1]",
            "no base64",
            "PEM",
        ),
        row(
            "gateway",
            "short ticket secret",
            |f| {
                f.edit(GATEWAY, "state_dir", "ticket_keys = \"t.key\"\nstate_dir");
                f.write("t.key", "short");
            },
            (GATEWAY, "ticket_keys"),
            "gateway.ticket_keys",
            "5 octets",
            "64 hexadecimal",
        ),
        // What does not belong together.
        row(
            "gateway",
            "key of another certificate",
            |f| f.edit(GATEWAY, "server/cmg.test.key", "server/other.test.key"),
            (GATEWAY, "other.test.key"),
            "server_certificate[1].key",
            "does not belong to the certificate",
            "the private key of CN=cmg.test",
        ),
        row(
            "connector",
            "internal key of another",
            |f| f.edit(CONNECTOR, "connector-PS1-1.key", "connector-PS2-1.key"),
            (CONNECTOR, "PS2-1.key"),
            "internal.key",
            "does not belong",
            "connector 1 of PS1",
        ),
        row(
            "gateway",
            "certificate of another name",
            |f| {
                f.edit(GATEWAY, "server/cmg.test.pem", "server/other.test.pem");
                f.edit(GATEWAY, "server/cmg.test.key", "server/other.test.key");
            },
            (GATEWAY, "other.test.pem"),
            "server_certificate[1].chain",
            "bears other.test",
            "\"cmg.test\"",
        ),
        row(
            "gateway",
            "wildcard too short",
            |f| {
                issue(f, "wild", "ca", &[dns("*.test")], (2020, 2090));
                f.edit(GATEWAY, "cmg.test", "a.b.test");
                show_server(f, "wild");
            },
            (GATEWAY, "wild.pem"),
            "server_certificate[1].chain",
            "bears *.test",
            "one label",
        ),
        row(
            "gateway",
            "internal certificate of another instance",
            |f| show_internal(f, "gateway", "pki/internal/gateway-gw2"),
            (GATEWAY, "gateway-gw2.pem"),
            "internal.certificate",
            "cmg://gateway/gw2",
            "cmg://gateway/gw1",
        ),
        row(
            "gateway",
            "internal certificate of the site's CA",
            |f| {
                let names = [uri("cmg://gateway/gw1"), dns("gw1.gateway.cmg.internal")];
                issue(f, "strange", "ca", &names, (2020, 2090));
                show_internal(f, "gateway", "strange");
            },
            (GATEWAY, "strange.pem"),
            "internal.certificate",
            "issued by CN=cmg site CA",
            "signed by the internal CA",
        ),
        row(
            "gateway",
            "a client's certificate as internal one",
            |f| show_internal(f, "gateway", "pki/clients/client"),
            (GATEWAY, "client.pem"),
            "internal.certificate",
            "names no role",
            "cmg://gateway/gw1",
        ),
        row(
            "connector",
            "internal certificate of another site",
            |f| show_internal(f, "connector", "pki/internal/connector-PS2-1"),
            (CONNECTOR, "PS2-1.pem"),
            "internal.certificate",
            "cmg://site/PS2/connector/1",
            "cmg://site/PS1/connector/1",
        ),
        row(
            "connector",
            "identity of another certificate",
            |f| f.edit(CONNECTOR, "identity = \"1\"", "identity = \"2\""),
            (CONNECTOR, "certificate"),
            "internal.certificate",
            "cmg://site/PS1/connector/1",
            "cmg://site/PS1/connector/2",
        ),
        row(
            "connector",
            "a gateway's certificate",
            |f| show_internal(f, "connector", "pki/internal/gateway-gw1"),
            (CONNECTOR, "gateway-gw1.pem"),
            "internal.certificate",
            "extended key usage",
            "client authentication",
        ),
        row(
            "connector",
            "internal CA trusted for clients",
            |f| f.edit(SITE, "pki/ca.pem", "pki/internal-ca.pem"),
            (CONNECTOR, "ca ="),
            "internal.ca",
            "trusts for clients as well",
            "an internal CA of its own",
        ),
        row(
            "connector",
            "internal CA below a client root",
            |f| {
                authority(f, "below", Some("ca"), (2020, 2090));
                // The site CA allows none below it, so a root that does is made first.
                authority(f, "top", None, (2020, 2090));
                authority(f, "below", Some("top"), (2020, 2090));
                let names = [uri("cmg://site/PS1/connector/1")];
                issue(f, "pki/below-leaf", "below", &names, (2020, 2090));
                f.edit(CONNECTOR, "internal-ca.pem", "below.pem");
                show_internal(f, "connector", "pki/below-leaf");
                f.edit(SITE, "pki/ca.pem", "pki/top.pem");
            },
            (CONNECTOR, "below-leaf.pem"),
            "internal.certificate",
            "accept as a client's",
            "an internal CA of its own",
        ),
        row(
            "connector",
            "a leaf for a root",
            |f| f.edit(SITE, "pki/ca.pem", "pki/clients/client.pem"),
            (SITE, "roots"),
            "trust.roots[1]",
            "may sign nothing",
            "an authority",
        ),
        row(
            "connector",
            "an intermediate without its root",
            |f| {
                authority(f, "top", None, (2020, 2090));
                authority(f, "middle", Some("top"), (2020, 2090));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\"]\nintermediates = [\"pki/middle.pem\"]");
            },
            (SITE, "intermediates"),
            "trust.intermediates[1]",
            "issued by CN=top: no such certificate",
            "the root in trust.roots",
        ),
        row(
            "connector",
            "a root among the intermediates",
            |f| {
                authority(f, "top", None, (2020, 2090));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\"]\nintermediates = [\"pki/top.pem\"]");
            },
            (SITE, "intermediates"),
            "trust.intermediates[1]",
            "a root itself",
            "trust.roots",
        ),
        // Out of their time.
        row(
            "gateway",
            "expired server certificate",
            |f| {
                issue(f, "old", "ca", &[dns(NAME)], (2020, 2021));
                show_server(f, "old");
            },
            (GATEWAY, "old.pem"),
            "server_certificate[1].chain",
            "expired at 2021-01-01",
            "valid now",
        ),
        row(
            "gateway",
            "server certificate of tomorrow",
            |f| {
                issue(f, "new", "ca", &[dns(NAME)], (2090, 2091));
                show_server(f, "new");
            },
            (GATEWAY, "new.pem"),
            "server_certificate[1].chain",
            "not valid before 2090-01-01",
            "valid now",
        ),
        row(
            "connector",
            "expired internal certificate",
            |f| {
                issue(f, "old", "internal-ca", &[uri("cmg://site/PS1/connector/1")], (2020, 2021));
                show_internal(f, "connector", "old");
            },
            (CONNECTOR, "old.pem"),
            "internal.certificate",
            "expired at 2021-01-01",
            "valid now",
        ),
        row(
            "connector",
            "expired root",
            |f| {
                authority(f, "old", None, (2020, 2021));
                f.edit(SITE, "pki/ca.pem", "pki/old.pem");
            },
            (SITE, "roots"),
            "trust.roots[1]",
            "CN=old expired at 2021-01-01",
            "valid now",
        ),
        // The admin listener off loopback.
        row(
            "gateway",
            "a token that all can read",
            |f| protect(f, "secret", 0o644),
            (GATEWAY, "token_file"),
            "admin.token_file",
            "mode 0644",
            "mode 0600",
        ),
        row(
            "gateway",
            "no token",
            |f| protect(f, "\n", 0o600),
            (GATEWAY, "token_file"),
            "admin.token_file",
            "no token in it",
            "openssl rand",
        ),
        // Ports.
        row(
            "gateway",
            "overlap with a wildcard",
            |f| {
                f.edit(GATEWAY, &format!("127.0.0.1:{}", f.channel), &format!("0.0.0.0:{}", f.client));
            },
            (GATEWAY, "0.0.0.0"),
            "internal.listener[1].address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "overlap with the admin",
            |f| {
                f.edit(
                    GATEWAY,
                    &format!("127.0.0.1:{}", f.gateway_admin),
                    &format!("127.0.0.1:{}", f.client),
                );
            },
            (GATEWAY, "[admin]\n"),
            "admin.address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "overlap of health and channels",
            |f| {
                let health = format!("[admin]\nhealth_address = \"0.0.0.0:{}\"", f.channel);
                f.edit(GATEWAY, "[admin]", &health);
            },
            (GATEWAY, "health_address"),
            "admin.health_address",
            "overlaps internal.listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "a health wildcard that takes both families",
            |f| {
                let health = format!("[admin]\nhealth_address = \"[::]:{}\"", f.client);
                f.edit(GATEWAY, "[admin]", &health);
            },
            (GATEWAY, "health_address"),
            "admin.health_address",
            "overlaps listener[1].address",
            "no other listener",
        ),
        row(
            "gateway",
            "an address of another machine",
            |f| {
                f.edit(GATEWAY, &format!("127.0.0.1:{}", f.client), &format!("192.0.2.1:{}", f.client));
            },
            (GATEWAY, "192.0.2.1"),
            "listener[1].address",
            "does not have",
            "own addresses",
        ),
        // Mappings that collide.
        row(
            "connector",
            "a role twice",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 1), &format!("id = {ROLE}")),
            (SITE, "software_update_point]]\n+1"),
            "software_update_point[1].id",
            "again, which management_point[1] has",
            "each role once",
        ),
        row(
            "connector",
            "a path twice",
            |f| {
                let more = format!(
                    "[[endpoint]]\nid = {}\npath = \"Reports/Upload\"\nurl = \"http://a\"\n",
                    ROLE + 2
                );
                let site = f.site() + &more;
                f.write(SITE, &site);
            },
            (SITE, "Reports/Upload"),
            "endpoint[2].path",
            "which endpoint[1] publishes",
            "each path once",
        ),
        row(
            "connector",
            "a standard path again",
            |f| {
                f.edit(SITE, &format!("id = {}", ROLE + 2), &format!("id = {ROLE}"));
                f.edit(SITE, "reports/upload", "ccm_system");
            },
            (SITE, "ccm_system"),
            "endpoint[1].path",
            "which management_point[1] publishes",
            "each path once",
        ),
        row(
            "gateway",
            "a log without a folder",
            |f| f.edit(GATEWAY, "[admin]", "[log]\naccess_log = \"no/a.log\"\n[admin]"),
            (GATEWAY, "access_log"),
            "log.access_log",
            "no folder",
            "a folder that is there",
        ),
        row(
            "gateway",
            "a file for the state",
            |f| f.edit(GATEWAY, "\"state\"", "\"site.toml\""),
            (GATEWAY, "state_dir"),
            "gateway.state_dir",
            "a file",
            "a folder",
        ),
    ]
}

fn protect(files: &Files, token: &str, mode: u32) {
    files.write("token", token);
    set_mode(&files.path("token"), mode);
    let lines = "certificate = \"pki/server/cmg.test.pem\"\nkey = \"pki/server/cmg.test.key\"\ntoken_file = \"token\"\n";
    files.edit(GATEWAY, "[admin]\n", &format!("[admin]\n{lines}"));
    let address = format!("127.0.0.1:{}", files.gateway_admin);
    files.edit(GATEWAY, &address, &format!("0.0.0.0:{}", files.gateway_admin));
}

/// The line a row means: `text\n` is the line after the one with `text`, `text\n+1` as well.
fn line_of(files: &Files, (file, text): (&str, &str)) -> usize {
    match text.split_once('\n') {
        None => files.line(file, text),
        Some((before, _)) => files.line(file, before) + 1,
    }
}

#[test]
fn every_mistake_keeps_the_role_from_starting_and_is_found_by_looking() {
    for mistake in mistakes() {
        let Mistake { role, what, make, at, key, found, expected } = mistake;
        let files = Files::new();
        make(&files);
        let before = files.everything();
        let output = run(&mut files.start(role));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {errors}");
        assert_eq!(files.everything(), before, "{what}: nothing is changed");

        let place = format!("{}:{}:", files.path(at.0).display(), line_of(&files, at));
        let is_it = |line: &&str| {
            line.contains(&place)
                && line.contains(&format!(": {key}"))
                && line.contains(", expected ")
                && line.split_once(", expected ").is_some_and(|(before, after)| {
                    before.contains("found ") && before.contains(found) && after.contains(expected)
                })
        };
        assert!(errors.lines().any(|line| is_it(&line)), "{what}: no {place} {key}\n{errors}");

        let (code, answer) = files.check(&[&format!("{role}.toml")], &[]);
        assert_eq!(code, 2, "{what}: {answer:#}");
        let seen = texts(&answer, "error");
        for line in errors.lines() {
            let line = line.strip_prefix("cmg: ").unwrap_or(line).to_owned();
            assert!(seen.contains(&line), "{what}: check does not say\n{line}\nbut\n{}", seen.join("\n"));
        }
    }
}

#[test]
fn a_port_in_use_is_told_with_its_key_and_who_to_ask() {
    for (role, key, port) in [
        ("gateway", "listener[1].address", (|f: &Files| f.client) as fn(&Files) -> u16),
        ("gateway", "internal.listener[1].address", |f| f.channel),
        ("gateway", "admin.address", |f| f.gateway_admin),
        ("connector", "admin.address", |f| f.connector_admin),
    ] {
        let files = Files::new();
        let port = port(&files);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let output = run(&mut files.start(role));
        let errors = text(&output.stderr);
        let line = files.line(&format!("{role}.toml"), &format!(":{port}\""));
        let message = format!(
            "{role}.toml:{line}:11: {key}: found \"127.0.0.1:{port}\", a port that is in use, expected a free port \
             (who listens there: ss -ltnp 'sport = :{port}')"
        );
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(&message), "{errors}");
        assert!(!files.path("state").exists());
        let (code, answer) = files.check(&[&format!("{role}.toml")], &[]);
        assert!(
            code == 2 && texts(&answer, "error").iter().any(|text| text.contains(&message)),
            "{answer:#}"
        );
        let (code, answer) = files.check(&[&format!("{role}.toml")], &["--files-only"]);
        assert_eq!(code, 0, "{answer:#}");
        drop(held);
    }
}

#[test]
fn a_low_port_without_the_right_is_told_with_the_remedy() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if start.trim() == "0" {
        eprintln!("SKIPPED: every port is for everybody here");
        return;
    }
    let files = Files::new();
    files.edit(GATEWAY, &format!("127.0.0.1:{}", files.client), "127.0.0.1:7");
    for mut command in [files.start("gateway"), checking(&files)] {
        // SAFETY: prctl is async-signal-safe; without the capability in the bounding set, root's exec
        // does not give it back. Whoever is not root has none to lose.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_CAPBSET_DROP, 10);
                Ok(())
            });
        }
        let output = run(&mut command);
        let errors = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let line = files.line(GATEWAY, "127.0.0.1:7\"");
        assert!(
            errors.contains(&format!("gateway.toml:{line}:11: listener[1].address: found \"127.0.0.1:7\"")),
            "{errors}"
        );
        assert!(errors.contains("CAP_NET_BIND_SERVICE"), "{errors}");
    }
}

fn checking(files: &Files) -> Command {
    let mut command = cmg();
    command.arg("check").arg(files.path(GATEWAY));
    command
}

#[test]
fn mistakes_of_all_files_come_in_one_go() {
    let files = Files::new();
    files.edit(CONNECTOR, "connector-PS1-1.key", "none.key");
    files.edit(SITE, "pki/ca.pem", "none.pem");
    files.edit(SITE, "ca = \"pki/ca.pem\"", "ca = \"pki/ca.key\"");
    let output = run(&mut files.start("connector"));
    let errors = text(&output.stderr);
    for key in ["internal.key: found", "trust.roots[1]: found", "software_update_point[1].ca: found"] {
        assert!(errors.contains(key), "{errors}");
    }
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn what_is_no_mistake_yet_is_a_warning_and_no_reason_to_end() {
    // File, key, words.
    let rows: [(fn(&Files), &str, &str); 5] = [
        (|f| set_mode(&f.path("pki/server/cmg.test.key"), 0o644), "server_certificate[1].key", "mode 0644"),
        (
            |f| {
                authority(f, "old", None, (2020, 2021));
                f.edit(SITE, "[\"pki/ca.pem\"]", "[\"pki/ca.pem\", \"pki/old.pem\"]");
            },
            "trust.roots[2]",
            "expired at 2021",
        ),
        (|f| f.edit(SITE, "roots = [\"pki/ca.pem\"]", "roots = []"), "trust.roots", "no root"),
        (|f| soon(f), "server_certificate[1].chain", "expires at"),
        (
            |f| {
                let pem = |name: &str| fs::read_to_string(f.path(name)).unwrap();
                let both = pem("pki/server/cmg.test.pem") + &pem("pki/server/other.test.pem");
                f.write("pki/server/cmg.test.pem", &both);
            },
            "server_certificate[1].chain",
            "is not that of the issuer",
        ),
    ];
    for (make, key, words) in rows {
        let files = Files::new();
        make(&files);
        let (code, answer) = files.check(&[GATEWAY, CONNECTOR], &[]);
        assert_eq!(code, 0, "{answer:#}");
        let warnings = texts(&answer, "warning");
        assert!(
            warnings.iter().any(|text| text.contains(key) && text.contains(words)),
            "{key}: {warnings:#?}"
        );
    }
}

/// A server certificate that ends within a month, whenever the test runs.
fn soon(files: &Files) {
    use rcgen::{CertificateParams, Issuer, KeyPair};
    let read = |path: &str| fs::read_to_string(files.path(path)).unwrap();
    let ca_key = KeyPair::from_pem(&read("pki/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("pki/ca.pem"), ca_key).unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + std::time::Duration::from_secs(20 * 86_400);
    let key = KeyPair::generate().unwrap();
    files.write("pki/server/cmg.test.pem", &params.signed_by(&key, &issuer).unwrap().pem());
    files.write("pki/server/cmg.test.key", &key.serialize_pem());
}

#[test]
fn a_file_of_no_kind_or_that_is_not_there_is_said() {
    let files = Files::new();
    files.write("x.toml", "color = 1\n");
    files.write("y.toml", "[[\n");
    fs::write(files.path("z.toml"), [0xFF, 0xFE]).unwrap();
    for (name, words) in [
        ("x.toml", "no section that is known"),
        ("y.toml", "y.toml:1:"),
        ("z.toml", "no UTF-8"),
        ("none.toml", "no such file"),
    ] {
        let (code, answer) = files.check(&[name], &["--files-only"]);
        let errors = texts(&answer, "error");
        assert!(code == 2 && errors.iter().any(|text| text.contains(words)), "{name}: {errors:?}");
    }
    let output = run(cmg().args(["gateway", "--config", "none.toml"]).current_dir(files.folder.path()));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "cmg: none.toml: found no such file, expected a settings file that can be read\n"
    );
}

#[test]
fn what_is_as_it_should_be_is_said_line_by_line_with_counts_at_the_end() {
    let files = Files::new();
    let output = run(cmg()
        .arg("check")
        .args(["gateway.toml", "connector.toml", "site.toml"])
        .current_dir(files.folder.path()));
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{lines}");
    for line in [
        "ok       this machine: io_uring, open files and locked memory",
        "ok       gateway.toml: gateway settings",
        "ok       connector.toml: connection point settings",
        "ok       ./site.toml: site settings",
        "ok       connector.toml: gateway[1] is gateway.toml",
    ] {
        assert!(lines.lines().any(|found| found == line), "{line}\n{lines}");
    }
    // Made by `cmg pki`: ECDSA alone, and who that shuts out is said.
    assert!(
        lines.contains(
            "warning: gateway.toml:10:9: server_certificate[1].chain: found ECDSA certificates alone"
        ),
        "{lines}"
    );
    assert_eq!(lines.lines().last(), Some("0 errors, 1 warning in 3 files"));
}

// ── files against each other ────────────────────────────────────────────────────────────────────

#[test]
fn files_that_are_good_alone_are_judged_together() {
    // What is done; file and key of the finding; its words; whether it is a mistake.
    type Row = (&'static str, fn(&Files), (&'static str, &'static str), &'static str, bool);
    let rows: [Row; 12] = [
        (
            "another port than the listener's",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "127.0.0.1:1");
            },
            (CONNECTOR, "gateway[1].address"),
            "an [[internal.listener]] of",
            true,
        ),
        (
            "the clients' port",
            |f| {
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.channel),
                    &format!("cmg.example.org:{}", f.client),
                );
            },
            (CONNECTOR, "gateway[1].address"),
            "where clients come in",
            true,
        ),
        (
            "a mapped port outside",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "cmg.example.org:443");
            },
            (CONNECTOR, "gateway[1].address"),
            "unless something between them maps the port",
            false,
        ),
        (
            "another TLS name",
            |f| f.edit(CONNECTOR, "gw1.gateway", "gw2.gateway"),
            (CONNECTOR, "gateway[1].name"),
            "gw1.gateway.cmg.internal",
            true,
        ),
        (
            "an instance whose file is not given",
            |f| {
                f.edit(CONNECTOR, "gw1.gateway", "gw9.gateway");
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "192.0.2.7:10140");
            },
            (CONNECTOR, "gateway[1].address"),
            "look at it together",
            false,
        ),
        (
            "another internal CA",
            |f| {
                let other = Pki::open(&f.path("pki2")).unwrap();
                other.connector("PS1", "1").unwrap();
                let text = fs::read_to_string(f.path(CONNECTOR)).unwrap();
                f.write(CONNECTOR, &text.replace("pki/", "pki2/"));
            },
            (CONNECTOR, "internal.certificate"),
            "does not know as internal",
            true,
        ),
        (
            "a site that the gateway does not let in",
            |f| f.edit(GATEWAY, "code = \"PS1\"", "code = \"XX1\""),
            (SITE, "code"),
            "a [[site]] with this code there; it has XX1",
            true,
        ),
        (
            "a role id beyond the rights",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 1), "id = 8"),
            (SITE, "software_update_point[1].id"),
            "a role id among its role_ids there",
            true,
        ),
        (
            "an endpoint's role id beyond the rights",
            |f| f.edit(SITE, &format!("id = {}", ROLE + 2), "id = 9"),
            (SITE, "endpoint[1].id"),
            "a role id among its role_ids there",
            true,
        ),
        (
            "one admin port for both, on one machine",
            |f| {
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.connector_admin),
                    &format!("127.0.0.1:{}", f.gateway_admin),
                );
            },
            (CONNECTOR, "admin.address"),
            "overlaps admin.address",
            true,
        ),
        (
            "one admin port for both, on two machines",
            |f| {
                f.edit(CONNECTOR, &format!("127.0.0.1:{}", f.channel), "192.0.2.7:10140");
                f.edit(
                    CONNECTOR,
                    &format!("127.0.0.1:{}", f.connector_admin),
                    &format!("127.0.0.1:{}", f.gateway_admin),
                );
            },
            (CONNECTOR, "admin.address"),
            "if both run on one machine",
            false,
        ),
        (
            "another site's file under the same serial",
            |f| {
                f.write(
                    "site2.toml",
                    &f.site().replace("http://127.0.0.1:9\"", "http://127.0.0.1:9\"\nexclude = [\"BGB\"]"),
                );
            },
            ("site2.toml", "serial"),
            "a higher serial",
            true,
        ),
    ];
    for (what, make, (file, key), words, is_mistake) in rows {
        let files = Files::new();
        make(&files);
        for alone in [GATEWAY, CONNECTOR] {
            let (code, answer) = files.check(&[alone], &["--files-only"]);
            assert_eq!(code, 0, "{what}: {alone} alone is good: {answer:#}");
        }
        let mut given = vec![SITE, CONNECTOR, GATEWAY];
        given.extend(files.path("site2.toml").exists().then_some("site2.toml"));
        let (code, answer) = files.check(&given, &["--files-only"]);
        let level = if is_mistake { "error" } else { "warning" };
        let found = texts(&answer, level);
        let is_it = |text: &&String| {
            text.contains(&format!("{}:", files.path(file).display()))
                && text.contains(&format!(" {key}: found "))
                && text.contains(words)
        };
        assert!(found.iter().any(|text| is_it(&text)), "{what}: {answer:#}");
        assert_eq!(code, if is_mistake { 2 } else { 0 }, "{what}: {answer:#}");
    }
}

#[test]
fn kinds_of_server_certificates_say_whom_they_shut_out() {
    let files = Files::new();
    // RSA is not made by the crate's key maker: the test's own key, for this name, for good.
    let rsa = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"])
        .args(["-subj", "/CN=cmg.test", "-addext", "subjectAltName=DNS:cmg.test", "-keyout"])
        .arg(files.path("rsa.key"))
        .arg("-out")
        .arg(files.path("rsa.pem"))
        .output();
    if !rsa.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "no openssl");
        eprintln!("SKIPPED: no openssl");
        return;
    }
    let two = "[[server_certificate]]\nchain = \"rsa.pem\"\nkey = \"rsa.key\"\n[internal]";
    files.edit(GATEWAY, "[internal]", two);
    let (code, answer) = files.check(&[GATEWAY], &["--files-only"]);
    assert!(code == 0 && texts(&answer, "warning").is_empty(), "{answer:#}");
    assert!(texts(&answer, "ok").iter().any(|text| text.contains("RSA and ECDSA")), "{answer:#}");
    files.write(GATEWAY, &files.gateway());
    show_server(&files, "rsa");
    let (code, answer) = files.check(&[GATEWAY], &["--files-only"]);
    let warnings = texts(&answer, "warning").join("\n");
    assert!(code == 0 && warnings.contains("Windows 8.1") && warnings.contains("CPU"), "{answer:#}");
}

#[test]
fn a_sample_certificate_is_judged_and_the_missing_link_named() {
    let files = Files::new();
    authority(&files, "top", None, (2020, 2090));
    authority(&files, "middle", Some("top"), (2020, 2090));
    issue(&files, "leaf", "middle", &[dns("client")], (2020, 2090));
    issue(&files, "late", "ca", &[dns("client")], (2020, 2021));
    let rows: [(&str, &[&str], bool, &str); 6] = [
        ("pki/clients/client.pem", &["pki/ca.pem"], true, "is accepted as a client until"),
        ("leaf.pem", &["pki/ca.pem"], false, "the issuer \"CN=middle\""),
        ("leaf.pem", &["pki/top.pem"], false, "the issuer \"CN=middle\""),
        ("late.pem", &["pki/ca.pem"], false, "expired at 2021-01-01"),
        ("pki/server/cmg.test.pem", &["pki/ca.pem"], false, "not meant for client authentication"),
        ("pki/clients/client.key", &["pki/ca.pem"], false, "no certificate in it"),
    ];
    for (certificate, roots, good, words) in rows {
        files.write(SITE, &files.site().replace("[\"pki/ca.pem\"]", &format!("{roots:?}")));
        let (code, answer) = files.check(&[CONNECTOR], &["--files-only", "--client-cert", certificate]);
        let level = if good { "ok" } else { "error" };
        assert!(texts(&answer, level).iter().any(|text| text.contains(words)), "{certificate}: {answer:#}");
        assert_eq!(code, if good { 0 } else { 2 });
    }
    let site =
        files.site().replace("[\"pki/ca.pem\"]", "[\"pki/top.pem\"]\nintermediates = [\"pki/middle.pem\"]");
    files.write(SITE, &site);
    let (code, answer) = files.check(&[SITE], &["--files-only", "--client-cert", "leaf.pem"]);
    let fine = texts(&answer, "ok").join("\n");
    assert_eq!(code, 0, "{answer:#}");
    assert!(fine.contains("CN=middle leads to the root CN=top") && fine.contains("is accepted"), "{fine}");
}

// ── one URL ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_url_is_told_its_way_or_why_there_is_none() {
    let files = Files::new();
    let (mp, sup, own) = (ROLE, ROLE + 1, ROLE + 2);
    let (mutual, server) = ("/CCM_Proxy_MutualAuth", "/CCM_Proxy_ServerAuth");
    // Target, method, status and reason (or none), words of the cause.
    let rows: Vec<(String, &str, Option<(u16, &str)>, &str)> = vec![
        (
            format!("{mutual}/{mp}/SMS_MP/.sms_aut?MPLIST"),
            "GET",
            None,
            "http://127.0.0.1:9/SMS_MP/.sms_aut?MPLIST",
        ),
        (
            format!("https://{NAME}:{}{mutual}/{mp}/CCM_Incoming/{{A}}", files.client),
            "BITS_POST",
            None,
            "/CCM_Incoming/{A}",
        ),
        (
            format!("{mutual}/{sup}/ClientWebService/x.asmx"),
            "POST",
            None,
            "https://wsus.corp:8531/ClientWebService/x.asmx",
        ),
        (format!("{mutual}/{own}/reports/upload/a%20b"), "PUT", None, "http://127.0.0.1:9/in/a%20b"),
        (format!("{mutual}/ServiceMetadata"), "GET", None, "by itself"),
        (
            format!("{mutual}/{own}/reports/upload"),
            "POST",
            Some((405, "CMGService_Method_Not_Allowed")),
            "GET, PUT",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP"),
            "TRACE",
            Some((405, "CMGService_Method_Not_Allowed")),
            "any method but",
        ),
        (
            format!("{mutual}/{mp}/AdminService/v1.0"),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "it has: CCM_System",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP_TokenAuth"),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "not to this family",
        ),
        (format!("{mutual}/7/SMS_MP"), "GET", Some((404, "CMGService_Unknown_Url")), "no role 7"),
        (
            "/elsewhere".to_owned(),
            "GET",
            Some((404, "CMGService_Unknown_Url")),
            "begins with /CCM_Proxy_MutualAuth/",
        ),
        (
            format!("{mutual}/{mp}/SMS_MP/../CCM_System"),
            "GET",
            Some((400, "CMGService_Bad_Request")),
            "canonical",
        ),
        (format!("{server}/{mp}/CCM_Client"), "GET", Some((401, "CMGService_Invalid_Token")), "no token yet"),
        (format!("{server}/ServiceMetadata"), "GET", None, "by itself"),
    ];
    for (url, method, refusal, words) in rows {
        let options = ["--files-only", "--url", &url, "--method", method];
        let (code, answer) = files.check(&[GATEWAY, CONNECTOR], &options);
        let asked = &answer["url"];
        assert_eq!(code, 0, "a question is no mistake: {answer:#}");
        assert_eq!(asked["taken"], refusal.is_none(), "{url}: {asked:#}");
        let said =
            refusal.map_or((Value::Null, Value::Null), |(status, reason)| (status.into(), reason.into()));
        assert_eq!((asked["status"].clone(), asked["reason"].clone()), said, "{url}: {asked:#}");
        assert!(asked["why"].as_str().unwrap().contains(words), "{url}: {asked:#}");
    }
    let url = format!("{mutual}/{own}/reports/upload");
    let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
    let facts = &answer["url"]["facts"];
    let rows = [
        ("family", "CCM_Proxy_MutualAuth (a client certificate that the site trusts)"),
        ("site", "PS1 (serial 1)"),
        ("role", "the site's own endpoints (endpoint[1])"),
        ("endpoint", "reports/upload"),
        ("families", "mutual_auth, server_auth"),
        ("methods", "GET, PUT"),
        ("request limit", "1000 octets of body"),
        ("internal URL", "http://127.0.0.1:9/in"),
        ("identity told", "yes, to the origin"),
    ];
    for (name, value) in rows {
        assert_eq!(facts[name], value, "{facts:#}");
    }
    // A role that the gateway does not let the site publish is nobody's.
    files.edit(GATEWAY, "code = \"PS1\"\nrole_ids", "code = \"PS1\"\nrole_ids = [\"5\"]\n#");
    let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
    assert!(answer["url"]["why"].as_str().unwrap().contains("not among the role_ids"), "{answer:#}");
    assert_eq!(answer["url"]["status"], 404);
}

#[test]
fn a_url_under_another_name_or_port_is_remarked() {
    let files = Files::new();
    let path = format!("/CCM_Proxy_MutualAuth/{ROLE}/SMS_MP");
    for (host, words) in [("other.test", "is not gateway.name"), (NAME, "port 443 is none")] {
        let url = format!("https://{host}{path}");
        let (_, answer) = files.check(&[GATEWAY, SITE], &["--files-only", "--url", &url]);
        assert!(answer["url"]["facts"]["host"].as_str().unwrap().contains(words), "{answer:#}");
    }
}

// ── the machine ─────────────────────────────────────────────────────────────────────────────────

/// Lets the command run under a filter that answers `io_uring_setup` with `errno`, as a container's does.
fn without_io_uring(command: &mut Command, errno: i32) {
    // SAFETY: the closure makes two system calls over memory on its own stack.
    unsafe {
        command.pre_exec(move || {
            let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
            let setup = libc::SYS_io_uring_setup as u32;
            let mut filter = [
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
                libc::sock_filter {
                    code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                    jt: 0,
                    jf: 1,
                    k: setup,
                },
                statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
                statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let is_set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

fn limit(command: &mut Command, which: libc::__rlimit_resource_t, bound: u64) {
    // SAFETY: setrlimit reads the local alone.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bound, rlim_max: bound };
            if libc::setrlimit(which, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

#[test]
fn a_machine_that_cannot_run_a_role_is_told_cause_and_remedy_in_one_line() {
    type Break = fn(&mut Command);
    let rows: [(Break, &str, &str); 4] = [
        (
            |command| without_io_uring(command, libc::EPERM),
            "a seccomp filter forbids io_uring (EPERM)",
            "allow io_uring_setup",
        ),
        (
            |command| without_io_uring(command, libc::ENOSYS),
            "a seccomp filter hides io_uring (ENOSYS)",
            "allow io_uring_setup",
        ),
        (
            |command| limit(command, libc::RLIMIT_NOFILE, 800),
            "800 open files are too few for 100 clients on 1 shards",
            "LimitNOFILE=",
        ),
        (
            |command| limit(command, libc::RLIMIT_MEMLOCK, 64 * 1024),
            "64 KiB of locked memory are too few",
            "LimitMEMLOCK=",
        ),
    ];
    for (make, cause, remedy) in rows {
        let files = Files::new();
        let before = files.everything();
        for mut command in [files.start("gateway"), checking(&files)] {
            make(&mut command);
            let output = run(&mut command);
            let said = text(&output.stderr) + &text(&output.stdout);
            assert_eq!(output.status.code(), Some(2), "{cause}: {said}");
            let line = said.lines().find(|line| line.contains(cause));
            assert!(line.is_some_and(|line| line.contains(remedy)), "{cause}: {said}");
            assert_eq!(files.everything(), before);
        }
        if !cause.contains("clients") {
            for mut command in [files.start("connector"), bare_check()] {
                make(&mut command);
                let output = run(&mut command);
                let said = text(&output.stderr) + &text(&output.stdout);
                assert!(output.status.code() == Some(2) && said.contains(cause), "{said}");
            }
        }
    }
}

fn bare_check() -> Command {
    let mut command = cmg();
    command.arg("check");
    command
}

#[test]
fn mistakes_in_files_and_in_the_machine_are_said_together() {
    let files = Files::new();
    fs::remove_file(files.path("pki/internal-ca.pem")).unwrap();
    let mut command = files.start("gateway");
    without_io_uring(&mut command, libc::EPERM);
    let errors = text(&run(&mut command).stderr);
    assert!(errors.contains("internal.ca: found") && errors.contains("seccomp"), "{errors}");
}

#[test]
fn with_no_file_this_machine_is_looked_at() {
    let output = run(&mut bare_check());
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{lines}");
    assert!(lines.starts_with("ok       this machine: io_uring"), "{lines}");
    let json: Value = serde_json::from_slice(&run(bare_check().arg("--json")).stdout).unwrap();
    assert_eq!(json["errors"], 0);
}
