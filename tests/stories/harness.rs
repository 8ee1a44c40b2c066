//! What every story needs: processes that end with it, a gateway with a connector, origins, curl.
//!
//! Nothing here is shared between stories; each has its own folder, ports and processes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cmg::pki::{Pki, gateway_tls_name};
use tempfile::TempDir;

/// For everything that should take a moment: a loaded machine with two cores is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// TLS name of the service in stories.
pub const SERVICE: &str = "cmg.test";
/// The management point that stories ask.
pub const MANAGEMENT_POINT: u64 = (1 << 56) + 5;
/// Role id of the site's own endpoints.
pub const OWN: u64 = (1 << 56) + 8;

// ── programs ────────────────────────────────────────────────────────────────────────────────────

/// Returns from a story whose programs this machine lacks, and says so, even when output is captured.
/// With `CMG_REQUIRE_PROGRAMS` set, the story fails instead.
#[macro_export]
macro_rules! needs {
    ($($program:literal),+) => {
        if !$crate::harness::has_programs(module_path!(), line!(), &[$($program),+]) {
            return;
        }
    };
}

pub fn has_programs(story: &str, line: u32, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    let name = thread::current().name().unwrap_or(story).to_owned();
    let text = format!("SKIPPED story {name} ({story}:{line}): no {}", missing.join(", no "));
    assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "{text}");
    // Not `eprintln!`, which the test harness would swallow.
    let _ = writeln!(io::stderr(), "{text}");
    false
}

/// Where the program is; Debian keeps servers out of a user's PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Whether stories of many gigabytes are wanted.
pub fn is_long() -> bool {
    std::env::var_os("CMG_LONG").is_some()
}

// ── processes ───────────────────────────────────────────────────────────────────────────────────

/// A process that ends with its story; its output is shown when the story fails.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Process::adopt(command, log)
    }

    /// The same with standard streams of the caller's choice.
    pub fn adopt(command: &mut Command, log: &Path) -> Process {
        end_with_parent(command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for, so its pid is still its own.
        let sent = unsafe { libc::kill(self.child.id().try_into().unwrap(), signal) };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    }

    pub fn wait_for_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let mut ended = None;
        eventually_within(within, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// As if its machine had lost power.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory now, in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(30).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            eprintln!("── {} ──\n{}", self.log.display(), last.join("\n"));
        }
    }
}

/// Asks the kernel to end the process when this thread, which runs the story, ends before it.
fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Looks again and again until it holds; says whether it did in time.
pub fn eventually_within(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(eventually_within(PATIENCE, holds), "never: {what}");
}

/// A port that is free now, below those that Linux gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 70) as u16 * 100;
    loop {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let is_free = |ip: IpAddr| TcpListener::bind((ip, port)).is_ok();
        if is_free(Ipv4Addr::LOCALHOST.into()) {
            return port;
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub fn cmg() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cmg"))
}

/// What `/status` says of the limits of this name.
pub fn limits_of<'s>(status: &'s serde_json::Value, name: &str) -> Vec<&'s serde_json::Value> {
    let limits = status["limits"].as_array().unwrap();
    limits.iter().filter(|limit| limit["limit"] == name).collect()
}

/// Asks an admin listener: status and body; `None` if nobody answers.
pub fn ask_admin(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

// ── a gateway and its connector ─────────────────────────────────────────────────────────────────

/// What a story wants otherwise than usual.
pub struct Setup {
    /// URL of the management point, or a list of them as settings have it.
    pub origin: String,
    /// More lines of `[gateway]`.
    pub gateway: String,
    /// Lines of the gateway's `[limits]`.
    pub gateway_limits: String,
    /// Lines of the connector's `[limits]`.
    pub connector_limits: String,
    /// Lines of the site's `[trust]`.
    pub trust: String,
    /// More sections of `site.toml`.
    pub site: String,
    pub gateway_shards: u16,
    pub connector_shards: u16,
    /// What the connector dials instead of the gateway's channel listener.
    pub channel: Option<SocketAddr>,
    /// More lines of the connector's `[[gateway]]`.
    pub ways: String,
    /// Also listen on `[::1]`.
    pub ipv6: bool,
}

impl Setup {
    pub fn new(origin: impl Into<String>) -> Setup {
        Setup {
            origin: origin.into(),
            gateway: String::new(),
            gateway_limits: String::new(),
            connector_limits: String::new(),
            trust: "roots = [\"pki/ca.pem\"]\n".into(),
            site: String::new(),
            gateway_shards: 2,
            connector_shards: 2,
            channel: None,
            ways: String::new(),
            ipv6: false,
        }
    }

    /// Writes files and starts nothing.
    pub fn prepare(self) -> Stack {
        self.prepare_with(|_| {})
    }

    /// The same with ports of the caller's choice.
    pub fn prepare_with(self, choose: impl FnOnce(&mut Ports)) -> Stack {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        pki.server(&[SERVICE.into()], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
        pki.gateway("gw1").unwrap();
        pki.connector("PS1", "1").unwrap();
        pki.client("client").unwrap();
        let mut ports = Ports {
            gateway: free_port(),
            channel: free_port(),
            gateway_admin: free_port(),
            connector_admin: free_port(),
        };
        choose(&mut ports);
        let stack = Stack { ports, gateway: None, connector: None, folder };
        stack.write("gateway.toml", &self.gateway_toml(&ports));
        stack.write("connector.toml", &self.connector_toml(&ports));
        stack.write("site.toml", &self.site_toml());
        stack
    }

    /// Starts both and waits until they are attached.
    pub fn start(self) -> Stack {
        let mut stack = self.prepare();
        stack.start_gateway();
        stack.start_connector();
        stack.wait_until_ready();
        stack
    }

    fn gateway_toml(&self, ports: &Ports) -> String {
        let (gateway, limits) = (&self.gateway, &self.gateway_limits);
        let Ports { gateway: port, channel, gateway_admin: admin, .. } = ports;
        let ipv6 =
            if self.ipv6 { format!("[[listener]]\naddress = \"[::1]:{port}\"\n") } else { String::new() };
        format!(
            r#"[gateway]
name = "{SERVICE}"
instance = "gw1"
shards = {shards}
state_dir = "state"
{gateway}
[[listener]]
address = "127.0.0.1:{port}"
{ipv6}
[[server_certificate]]
chain = "pki/server/{SERVICE}.pem"
key = "pki/server/{SERVICE}.key"
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/gateway-gw1.pem"
key = "pki/internal/gateway-gw1.key"
[[internal.listener]]
address = "127.0.0.1:{channel}"
[limits]
{limits}
[admin]
address = "127.0.0.1:{admin}"
[[site]]
code = "PS1"
role_ids = ["{MANAGEMENT_POINT}-{last}"]
"#,
            shards = self.gateway_shards,
            last = MANAGEMENT_POINT + 100,
        )
    }

    fn connector_toml(&self, ports: &Ports) -> String {
        format!(
            r#"[connector]
identity = "1"
shards = {shards}
site = "site.toml"
[[gateway]]
address = "{channel}"
name = "{name}"
{ways}
[internal]
ca = "pki/internal-ca.pem"
certificate = "pki/internal/connector-PS1-1.pem"
key = "pki/internal/connector-PS1-1.key"
[limits]
{limits}
[admin]
address = "127.0.0.1:{admin}"
"#,
            shards = self.connector_shards,
            channel = self.channel.unwrap_or(local(ports.channel)),
            name = gateway_tls_name("gw1"),
            ways = self.ways,
            limits = self.connector_limits,
            admin = ports.connector_admin,
        )
    }

    fn site_toml(&self) -> String {
        let Setup { origin, trust, site, .. } = self;
        let url = if origin.starts_with('[') { origin.clone() } else { format!("\"{origin}\"") };
        format!(
            r#"code = "PS1"
serial = 1
[trust]
{trust}
[[management_point]]
id = {MANAGEMENT_POINT}
url = {url}
{site}"#
        )
    }
}

#[derive(Clone, Copy)]
pub struct Ports {
    pub gateway: u16,
    pub channel: u16,
    pub gateway_admin: u16,
    pub connector_admin: u16,
}

/// Another instance of a stack's gateway.
pub struct SecondGateway {
    pub address: SocketAddr,
    pub process: Process,
}

/// A gateway and a connector in a folder of their own.
pub struct Stack {
    pub ports: Ports,
    pub gateway: Option<Process>,
    pub connector: Option<Process>,
    /// Last, for fields are dropped in this order: a failed story shows the logs that are in here.
    pub folder: TempDir,
}

impl Stack {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn start_gateway(&mut self) {
        // The kernel takes the rings of a killed process down after its end, and their listeners with
        // them: for a moment the port is still taken.
        eventually("the ports are free", || {
            [self.ports.gateway, self.ports.channel]
                .iter()
                .all(|port| TcpListener::bind(local(*port)).is_ok())
        });
        self.gateway = Some(self.start_role("gateway"));
    }

    pub fn start_connector(&mut self) {
        self.connector = Some(self.start_role("connector"));
    }

    fn start_role(&self, role: &str) -> Process {
        Process::start(&mut self.role(role), &self.path(&format!("{role}.log")))
    }

    /// A process that takes the place of the one that runs.
    pub fn start_successor(&self, role: &str) -> Process {
        Process::start(self.role(role).arg("--upgrade"), &self.path(&format!("{role}.log")))
    }

    /// The command that starts a role.
    pub fn role(&self, role: &str) -> Command {
        let mut command = cmg();
        command.arg(role).arg("--config").arg(self.path(&format!("{role}.toml")));
        command
    }

    pub fn gateway(&self) -> &Process {
        self.gateway.as_ref().unwrap()
    }

    pub fn connector(&self) -> &Process {
        self.connector.as_ref().unwrap()
    }

    /// Waits until the connector is attached and what it published is in force.
    pub fn wait_until_ready(&mut self) {
        eventually("the gateway and the connector are ready", || {
            for process in [&mut self.gateway, &mut self.connector] {
                assert!(process.as_mut().is_none_or(Process::is_running), "a role ended");
            }
            let is_ready = |address| matches!(ask_admin(address, "/readyz"), Some((200, _)));
            is_ready(self.gateway_admin())
                && is_ready(local(self.ports.connector_admin))
                && self.client().is_some_and(|mut client| {
                    client.send(
                        b"TRACE /CCM_Proxy_MutualAuth/72057594037927941/SMS_MP/x HTTP/1.1\r\nHost: a\r\n\r\n",
                    );
                    client.read().is_ok_and(|answer| answer.status == 405)
                })
        });
    }

    pub fn gateway_address(&self) -> SocketAddr {
        local(self.ports.gateway)
    }

    pub fn connector_admin(&self) -> SocketAddr {
        local(self.ports.connector_admin)
    }

    pub fn gateway_admin(&self) -> SocketAddr {
        local(self.ports.gateway_admin)
    }

    /// `/status` of the gateway.
    pub fn status(&self) -> serde_json::Value {
        let (_, body) = ask_admin(self.gateway_admin(), "/status").expect("the gateway answers");
        serde_json::from_str(&body).unwrap()
    }

    /// The same of the connection point.
    pub fn connector_status(&self) -> serde_json::Value {
        serde_json::from_str(&ask_admin(self.connector_admin(), "/status").unwrap().1).unwrap()
    }

    /// A counter of the gateway, over all its shards.
    pub fn count(&self, counter: &str) -> u64 {
        self.by_shard(counter).iter().sum()
    }

    /// A counter of the gateway, by shard.
    pub fn by_shard(&self, counter: &str) -> Vec<u64> {
        let status = self.status();
        status["shards"].as_array().unwrap().iter().map(|shard| shard[counter].as_u64().unwrap()).collect()
    }

    /// Lets a second site attach, with one management point: its settings in `connector2.toml` and
    /// `site2.toml`, to which `more` is added.
    pub fn add_site(&self, role: u64, origin: &str, roots: &str, more: &str) {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap();
        Pki::open(&self.path("pki")).unwrap().connector("PS2", "1").unwrap();
        let site = format!("[[site]]\ncode = \"PS2\"\nrole_ids = [\"{role}\"]\n");
        self.write("gateway.toml", &(read("gateway.toml") + &site));
        let connector = read("connector.toml")
            .replace("site.toml", "site2.toml")
            .replace("connector-PS1-1", "connector-PS2-1")
            .replace(&self.ports.connector_admin.to_string(), &free_port().to_string());
        self.write("connector2.toml", &connector);
        let site = format!(
            "code = \"PS2\"\nserial = 1\n[trust]\nroots = [\"{roots}\"]\n[[management_point]]\nid = {role}\nurl = \"{origin}\"\n{more}"
        );
        self.write("site2.toml", &site);
    }

    /// Lets a second connection point of the same site attach: its settings in `connector2.toml`.
    pub fn add_connection_point(&self) {
        Pki::open(&self.path("pki")).unwrap().connector("PS1", "2").unwrap();
        let connector = fs::read_to_string(self.path("connector.toml")).unwrap();
        let connector = connector
            .replace("identity = \"1\"", "identity = \"2\"")
            .replace("connector-PS1-1", "connector-PS1-2")
            .replace(&self.ports.connector_admin.to_string(), &free_port().to_string());
        self.write("connector2.toml", &connector);
    }

    /// Starts the connection point of the second site, or the second one of the site.
    pub fn start_second_connector(&self) -> Process {
        let config = self.path("connector2.toml");
        Process::start(cmg().arg("connector").arg("--config").arg(config), &self.path("connector2.log"))
    }

    /// Starts a second instance of the gateway, and lets the connector, which is not running yet, dial it, too.
    pub fn start_second_gateway(&self) -> SecondGateway {
        Pki::open(&self.path("pki")).unwrap().gateway("gw2").unwrap();
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap();
        let (port, channel, admin) = (free_port(), free_port(), free_port());
        let Ports { gateway: first, channel: first_channel, gateway_admin, .. } = self.ports;
        let gateway = read("gateway.toml")
            .replace(&format!("127.0.0.1:{first}\""), &format!("127.0.0.1:{port}\""))
            .replace(&format!("127.0.0.1:{first_channel}\""), &format!("127.0.0.1:{channel}\""))
            .replace(&format!("127.0.0.1:{gateway_admin}\""), &format!("127.0.0.1:{admin}\""))
            .replace("gw1", "gw2")
            .replace("\"state\"", "\"state2\"");
        self.write("gateway2.toml", &gateway);
        let name = gateway_tls_name("gw2");
        let section = format!("[[gateway]]\naddress = \"{}\"\nname = \"{name}\"\n[internal]", local(channel));
        self.write("connector.toml", &read("connector.toml").replace("[internal]", &section));
        let config = self.path("gateway2.toml");
        let log = self.path("gateway2.log");
        let process = Process::start(cmg().arg("gateway").arg("--config").arg(config), &log);
        SecondGateway { address: local(port), process }
    }

    // ── asking it ───────────────────────────────────────────────────────────────────────────────

    pub fn client_pair(&self) -> (PathBuf, PathBuf) {
        (self.path("pki/clients/client.pem"), self.path("pki/clients/client.key"))
    }

    /// URL of something on the management point.
    pub fn url(&self, rest: &str) -> String {
        format!("https://{SERVICE}:{}/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}", self.ports.gateway)
    }

    /// A connection with the client's certificate, if the gateway takes one now.
    pub fn client(&self) -> Option<crate::client::Client> {
        let (certificate, key) = self.client_pair();
        crate::client::Client::connect(
            self.gateway_address(),
            &self.path("pki/ca.pem"),
            Some((&certificate, &key)),
        )
        .ok()
    }

    /// curl that trusts the gateway and knows where it is, with the client's certificate.
    pub fn curl(&self) -> Command {
        let (certificate, key) = self.client_pair();
        let mut command = self.curl_as_stranger();
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
        command
    }

    /// The same without a certificate.
    pub fn curl_as_stranger(&self) -> Command {
        let mut command = Command::new("curl");
        let place = format!("{SERVICE}:{}:127.0.0.1", self.ports.gateway);
        command.args(["--silent", "--show-error", "--max-time", "300", "--resolve", &place, "--cacert"]);
        command.arg(self.path("pki/ca.pem"));
        command
    }
}

/// Runs it to its end, which must be a good one, and gives what it printed.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = outcome(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub fn outcome(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// ── origins ─────────────────────────────────────────────────────────────────────────────────────

/// A real nginx that serves files, stores bodies and answers what a management point would.
pub struct Nginx {
    pub port: u16,
    _process: Process,
    pub folder: TempDir,
}

impl Nginx {
    pub fn start() -> Nginx {
        let folder = tempfile::tempdir().unwrap();
        // Workers of a root's nginx run as somebody else and must get in.
        run(Command::new("chmod").arg("755").arg(folder.path()));
        for name in ["files/CCM_Client", "bodies", "temp"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let (port, sink) = (free_port(), free_port());
        fs::write(folder.path().join("nginx.conf"), nginx_conf(port, sink)).unwrap();
        let path = program("nginx").unwrap();
        let mut command = Command::new(path);
        command.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        let process = Process::start(&mut command, &folder.path().join("nginx.log"));
        eventually("nginx listens", || {
            TcpStream::connect(local(port)).is_ok() && TcpStream::connect(local(sink)).is_ok()
        });
        Nginx { port, _process: process, folder }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file below `/CCM_Client/`.
    pub fn offer(&self, name: &str, content: &[u8]) {
        fs::write(self.folder.path().join("files/CCM_Client").join(name), content).unwrap();
    }

    /// The body that an answer of a storing location tells of.
    pub fn stored(&self, answer: &str) -> PathBuf {
        let file = answer.lines().find_map(|line| line.strip_prefix("stored: ")).expect(answer);
        PathBuf::from(file)
    }
}

/// Locations that take bodies hand them to a second server, which alone makes nginx read them: as
/// files under `bodies`, whose names come back in the answer.
fn nginx_conf(port: u16, sink: u16) -> String {
    format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path bodies;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    client_max_body_size 0;
    default_type application/octet-stream;
    keepalive_requests 100000;
    server {{
        listen 127.0.0.1:{port};
        location /CCM_Client/ {{ root files; }}
        location /SMS_MP/ {{
            add_header X-Seen-Request-Id $http_x_cmg_request_id;
            add_header X-Seen-Host $http_host;
            return 200 "$request_method $request_uri\n";
        }}
        location /SMS_MP/forbidden {{ return 403 "no\n"; }}
        location ~* ^/(CCM_System|CCM_Incoming|BGB)/ {{
            client_body_in_file_only on;
            proxy_set_header X-Body-File $request_body_file;
            proxy_set_header X-Length $content_length;
            proxy_set_header X-Coding $http_transfer_encoding;
            proxy_set_body "-";
            proxy_pass http://127.0.0.1:{sink};
        }}
    }}
    server {{
        listen 127.0.0.1:{sink};
        location / {{
            return 200 "method: $request_method\nuri: $request_uri\nlength: $http_x_length\ncoding: $http_x_coding\nstored: $http_x_body_file\n";
        }}
    }}
}}
"#
    )
}

/// `cmg sample-origin` by itself.
pub struct SampleOrigin {
    pub address: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl SampleOrigin {
    pub fn start() -> SampleOrigin {
        SampleOrigin::at(local(free_port()), tempfile::tempdir().unwrap())
    }

    fn at(address: SocketAddr, folder: TempDir) -> SampleOrigin {
        let mut command = cmg();
        command.args(["sample-origin", "--listen", &address.to_string()]);
        let process = Process::start(&mut command, &folder.path().join("origin.log"));
        eventually("the sample origin listens", || TcpStream::connect(address).is_ok());
        SampleOrigin { address, process, folder }
    }

    /// Dies and starts again where it was.
    pub fn restart(self) -> SampleOrigin {
        self.kill().start()
    }

    /// Dies.
    pub fn kill(self) -> DeadOrigin {
        self.process.kill();
        DeadOrigin { address: self.address, folder: self.folder }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A sample origin that is not there any more.
pub struct DeadOrigin {
    pub address: SocketAddr,
    folder: TempDir,
}

impl DeadOrigin {
    /// Where it was.
    pub fn start(self) -> SampleOrigin {
        SampleOrigin::at(self.address, self.folder)
    }
}

/// An origin that a story writes itself: `serve` gets each connection, in a thread of its own.
pub struct HandOrigin {
    pub address: SocketAddr,
}

impl HandOrigin {
    pub fn start(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> HandOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                let _ = stream.set_nodelay(true);
                thread::spawn(move || serve(stream));
            }
        });
        HandOrigin { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Reads one head; empty at the end of the connection. Byte by byte, so that nothing behind it is taken.
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|size| size == 1) {
        head.push(octet[0]);
    }
    text(&head)
}

/// Bytes in which a missing, doubled or misplaced piece shows: no stretch of a few KiB occurs twice.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Whether two files hold the same bytes, read in pieces.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    if one.metadata().unwrap().len() != other.metadata().unwrap().len() {
        return false;
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let size = one.read(&mut left).unwrap();
        if size == 0 {
            return true;
        }
        other.read_exact(&mut right[..size]).unwrap();
        if left[..size] != right[..size] {
            return false;
        }
    }
}
