//! Client certificates of every kind, shown by real openssl and curl over TLS 1.2 and 1.3: what each is
//! answered, and what the log says of it. `--nocapture` prints the table.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams,
    CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair,
    NameConstraints, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, SERVICE, Setup, Stack, ask_admin, eventually, read_head, text,
};
use crate::needs;

type Authority = CertifiedIssuer<'static, KeyPair>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The site's papers, as a company's own CA would make them.
struct Papers {
    folder: PathBuf,
    root: Authority,
    issuing: Authority,
    constrained: Authority,
    /// Below the root, and in nobody's hands but the client's.
    hidden: Authority,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 365 * DAY).into());
    params
}

fn authority(name: &str, above: Option<&Authority>, change: impl Fn(&mut CertificateParams)) -> Authority {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    match above {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
    }
}

impl Papers {
    fn new(folder: &Path) -> Papers {
        let root = authority("Story Root", None, |_| {});
        let issuing = authority("Story Issuing", Some(&root), |_| {});
        let constrained = authority("Story Constrained", Some(&root), |params| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("inside.corp".into())];
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        });
        let hidden = authority("Story Hidden", Some(&root), |_| {});
        let papers = Papers { folder: folder.to_owned(), root, issuing, constrained, hidden };
        for (name, authority) in
            [("root", &papers.root), ("issuing", &papers.issuing), ("constrained", &papers.constrained)]
        {
            papers.write(&format!("{name}.pem"), authority.pem().as_bytes());
            papers.publish(name, authority, 1, &[]);
        }
        papers.write("hidden.pem", papers.hidden.pem().as_bytes());
        papers.publish("hidden", &papers.hidden, 1, &[]);
        papers.write("blocked.txt", b"# nobody yet\n");
        papers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// As a whole or not at all: the connection point reads at any time.
    fn write(&self, name: &str, bytes: &[u8]) {
        let draft = self.path(&format!("{name}.new"));
        fs::write(&draft, bytes).unwrap();
        fs::rename(draft, self.path(name)).unwrap();
    }

    /// Writes the authority's list with this number.
    fn publish(&self, name: &str, issuer: &Authority, number: u64, revoked: &[u8]) {
        let list = self.list(issuer, number, revoked, DAY, 30 * DAY);
        self.write(&format!("{name}.crl"), list.pem().unwrap().as_bytes());
    }

    /// One that began so long ago and has so long to live.
    fn list(
        &self,
        issuer: &Authority,
        number: u64,
        revoked: &[u8],
        ago: Duration,
        ahead: Duration,
    ) -> CertificateRevocationList {
        let entry = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: (SystemTime::now() - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (SystemTime::now() - ago).into(),
            next_update: (SystemTime::now() + ahead).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(issuer).unwrap()
    }

    /// A client's pair, with what it sends above itself.
    fn client(
        &self,
        name: &str,
        issuer: &Authority,
        sent: &[&Authority],
        change: impl Fn(&mut CertificateParams),
    ) -> Shown {
        let mut params = params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer).unwrap().pem();
        let chain: String = sent.iter().map(|above| above.pem()).collect();
        self.shown(name, &leaf, &chain, &key.serialize_pem())
    }

    fn shown(&self, name: &str, leaf: &str, above: &str, key: &str) -> Shown {
        let shown = Shown {
            all: self.path(&format!("{name}.all.pem")),
            leaf: self.path(&format!("{name}.leaf.pem")),
            above: (!above.is_empty()).then(|| self.path(&format!("{name}.above.pem"))),
            key: self.path(&format!("{name}.key")),
        };
        self.write(&format!("{name}.all.pem"), format!("{leaf}{above}").as_bytes());
        self.write(&format!("{name}.leaf.pem"), leaf.as_bytes());
        self.write(&format!("{name}.above.pem"), above.as_bytes());
        self.write(&format!("{name}.key"), key.as_bytes());
        shown
    }
}

/// Files that a client shows and signs with.
struct Shown {
    all: PathBuf,
    leaf: PathBuf,
    above: Option<PathBuf>,
    key: PathBuf,
}

fn numbered(serial: u8) -> impl Fn(&mut CertificateParams) {
    move |params| params.serial_number = Some(SerialNumber::from(vec![serial]))
}

/// Answers everything at once, but for `held`, and speaks in a tunnel to nobody.
fn origin() -> HandOrigin {
    HandOrigin::start(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            let answer: &[u8] = match &head {
                head if head.is_empty() => return,
                head if head.contains("/ws/") => {
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                }
                head if head.contains("/held/") => b"",
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n",
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    })
}

fn start() -> (Papers, Stack, HandOrigin) {
    let origin = origin();
    let url = origin.url();
    let mut setup = Setup::new(&url);
    setup.gateway = "[log]\nlevel = \"debug\"\n".into();
    setup.trust =
        "roots = [\"pki/ca.pem\", \"root.pem\"]\nintermediates = [\"issuing.pem\", \"constrained.pem\"]\n\
                   blocked = \"blocked.txt\"\n"
            .into();
    setup.site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"ws\"\nurl = \"{url}/ws\"\ntunnel = true\n\
         [[endpoint]]\nid = {OWN}\npath = \"held\"\nurl = \"{url}/held\"\nheld = true\n\
         [revocation]\ncrls = [\"root.crl\", \"issuing.crl\", \"constrained.crl\"]\n"
    );
    let mut stack = setup.prepare();
    let papers = Papers::new(stack.folder.path());
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    eventually("all lists are in force", || {
        stack.status()["sites"][0]["lists"].as_array().unwrap().len() == 3
    });
    (papers, stack, origin)
}

// ── what a client sees ──────────────────────────────────────────────────────────────────────────

/// `200`, `401 CMGService_…`, or `alert …`.
fn outcome(output: &str) -> String {
    // Behind the words of openssl, where it prints a ticket at that moment.
    let status = output.find("HTTP/1.1 ").and_then(|at| output[at + "HTTP/1.1 ".len()..].lines().next());
    let alert = || {
        let place = output.find(" alert ")? + " alert ".len();
        let line = output[place..].lines().next()?;
        (!line.starts_with("number"))
            .then(|| format!("alert {}", line.split([':', ',']).next().unwrap_or(line).trim()))
    };
    match status {
        Some("200 OK") => "200".to_owned(),
        Some(status) => status.trim().to_owned(),
        None => alert().unwrap_or_else(|| format!("nothing: {}", output.lines().last().unwrap_or_default())),
    }
}

const VERSIONS: [&str; 2] = ["1.2", "1.3"];

fn target(stack: &Stack) -> String {
    stack.url("SMS_MP/x")
}

fn by_curl(stack: &Stack, shown: Option<&Shown>, version: &str) -> String {
    let mut curl = stack.curl_as_stranger();
    curl.args([&format!("--tlsv{version}"), "--tls-max", version, "--include"]);
    if let Some(shown) = shown {
        // As openssl is told below: a small key is to be refused by the gateway and not by the client.
        curl.args(["--ciphers", "DEFAULT@SECLEVEL=0", "--cert"]).arg(&shown.all).arg("--key").arg(&shown.key);
    }
    let output = curl.arg(target(stack)).output().unwrap();
    outcome(&(text(&output.stdout) + &text(&output.stderr)))
}

fn openssl(stack: &Stack, shown: Option<&Shown>, version: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &stack.gateway_address().to_string(), "-servername", SERVICE]);
    openssl.args([
        &format!("-tls{}", version.replace('.', "_")),
        "-cipher",
        "DEFAULT@SECLEVEL=0",
        "-ign_eof",
    ]);
    openssl.arg("-CAfile").arg(stack.path("pki/ca.pem")).args(["-verify_return_error", "-no-CApath"]);
    if let Some(shown) = shown {
        openssl.arg("-cert").arg(&shown.leaf).arg("-key").arg(&shown.key);
        if let Some(above) = &shown.above {
            openssl.arg("-cert_chain").arg(above);
        }
    }
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    openssl
}

fn request(stack: &Stack, connection: &str) -> String {
    let path = target(stack);
    let path = &path[path.find("/CCM").unwrap()..];
    format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: {connection}\r\n\r\n")
}

fn finish(mut openssl: Command, request: &str) -> String {
    let mut child = openssl.spawn().unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

fn by_openssl(stack: &Stack, shown: Option<&Shown>, version: &str) -> String {
    outcome(&finish(openssl(stack, shown, version), &request(stack, "close")))
}

/// For what neither of both would show: a certificate whose key is another's, or that is none.
fn by_rustls(stack: &Stack, chain: Vec<CertificateDer<'static>>, key: &Path, version: &str) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let versions: &[&SupportedProtocolVersion] =
        if version == "1.2" { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stack.path("pki/ca.pem")).unwrap()).unwrap();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(resolver));
    let patience = Duration::from_secs(20);
    let asked =
        Client::connect_with(stack.gateway_address(), Arc::new(config), patience).and_then(|mut client| {
            client.try_send(request(stack, "close").as_bytes())?;
            client.read()
        });
    match asked {
        Ok(answer) => format!("{} {}", answer.status, answer.reason),
        Err(error) => {
            let text = error.to_string();
            let words: String =
                text.rsplit(' ')
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .flat_map(|sign| {
                        if sign.is_uppercase() { vec![' ', sign.to_ascii_lowercase()] } else { vec![sign] }
                    })
                    .collect();
            format!("alert{words}")
        }
    }
}

// ── the table ───────────────────────────────────────────────────────────────────────────────────

const UNTRUSTED: &str = "401 CMGService_Untrusted_Certificate";

/// What is shown, what it is answered (the beginning of it), and what the log says.
type Row = (&'static str, Shown, &'static str, &'static str);

fn rows(papers: &Papers) -> Vec<Row> {
    let Papers { issuing, hidden, constrained, .. } = papers;
    let stranger = authority("Stranger's Root", None, |_| {});
    let at = |days: i64| {
        let now = SystemTime::now();
        let span = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 { now - span } else { now + span }
    };
    let dns = |name: &'static str| {
        move |params: &mut CertificateParams| {
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        }
    };
    papers.publish("issuing", issuing, 2, &[66]);
    vec![
        ("good", papers.client("good", issuing, &[], |_| {}), "200", ""),
        ("good, chain sent", papers.client("sent", issuing, &[issuing], |_| {}), "200", ""),
        (
            "expired",
            papers.client("expired", issuing, &[], |params| {
                (params.not_before, params.not_after) = (at(-20).into(), at(-10).into());
            }),
            UNTRUSTED,
            "a certificate of the chain expired at ",
        ),
        (
            "early",
            papers.client("early", issuing, &[], |params| {
                (params.not_before, params.not_after) = (at(10).into(), at(20).into());
            }),
            UNTRUSTED,
            "a certificate of the chain is not valid before ",
        ),
        (
            "wrong usage",
            papers.client("usage", issuing, &[], |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            UNTRUSTED,
            "is not meant for client authentication",
        ),
        (
            "wrong root",
            papers.client("stranger", &stranger, &[&stranger], |_| {}),
            UNTRUSTED,
            "nobody trusted has the name of the issuer \\\"CN=Stranger's Root\\\"",
        ),
        (
            "missing intermediate",
            papers.client("missing", hidden, &[], |_| {}),
            UNTRUSTED,
            "nobody trusted has the name of the issuer \\\"CN=Story Hidden\\\"",
        ),
        (
            "authority without a list",
            papers.client("unlisted", hidden, &[hidden], |_| {}),
            UNTRUSTED,
            "there is no revocation list of \\\"CN=Story Hidden\\\"",
        ),
        (
            "revoked",
            papers.client("revoked", issuing, &[], numbered(66)),
            UNTRUSTED,
            "serial number 42, was revoked by \\\"CN=Story Issuing\\\"",
        ),
        (
            "constrained names, inside",
            papers.client("in", constrained, &[], dns("pc.inside.corp")),
            "200",
            "",
        ),
        (
            "constrained names, outside",
            papers.client("out", constrained, &[], dns("pc.outside.corp")),
            UNTRUSTED,
            "the chain is not valid: NameConstraintViolation",
        ),
        ("chain of 20", chain_of_20(papers), "alert", "the chain has 19 intermediates, more than 6"),
        (
            SMALL,
            by_key_of(papers, "small", &["rsa:1024"]),
            "alert",
            "an RSA key of 1024 bits; taken are RSA of 2048 to 4096",
        ),
        ("RSA of 2048 bits", by_key_of(papers, "rsa2048", &["rsa:2048"]), "200", ""),
        ("RSA of 4096 bits", by_key_of(papers, "rsa4096", &["rsa:4096"]), "200", ""),
        // Of four primes, for it is soon made; nobody who is shown it sees that.
        (
            "RSA of 5120 bits",
            by_key_of(papers, "rsa5120", &["rsa:5120", "-pkeyopt", "rsa_keygen_primes:4"]),
            UNTRUSTED,
            "an RSA key of 5120 bits; taken are RSA of 2048 to 4096",
        ),
        (
            "ECDSA on P-256",
            by_key_of(papers, "p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
            "200",
            "",
        ),
        (
            "ECDSA on P-384",
            by_key_of(papers, "p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
            "200",
            "",
        ),
        (
            P521,
            by_key_of(papers, "p521", &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"]),
            "alert",
            "an ECDSA key on the curve 1.3.132.0.35; taken are",
        ),
        ("Ed25519", by_key_of(papers, "ed25519", &["ed25519"]), "200", ""),
    ]
}

/// curl itself refuses to show it.
const SMALL: &str = "RSA of 1024 bits";
/// None of the signatures that a gateway takes is by such a key. By TLS 1.3 a client then shows no certificate.
const P521: &str = "ECDSA on P-521";

fn chain_of_20(papers: &Papers) -> Shown {
    let mut chain = vec![authority("Link 1", Some(&papers.root), |_| {})];
    for number in 2..20 {
        let next = authority(&format!("Link {number}"), chain.last(), |_| {});
        chain.push(next);
    }
    let sent: Vec<&Authority> = chain.iter().rev().collect();
    papers.client("twenty", chain.last().unwrap(), &sent, |_| {})
}

/// By a key that openssl makes, for rcgen makes none of most kinds.
fn by_key_of(papers: &Papers, name: &str, kind: &[&str]) -> Shown {
    let (key, request) = (papers.path(&format!("{name}.made")), papers.path(&format!("{name}.csr")));
    let (ca, ca_key) = (papers.path("issuing.pem"), papers.path("issuing.key"));
    let usage = papers.path("usage.cnf");
    papers.write("usage.cnf", b"extendedKeyUsage = clientAuth\n");
    fs::write(&ca_key, papers.issuing.key().serialize_pem()).unwrap();
    let run = |arguments: &[&str], files: &[(&str, &Path)]| {
        let mut openssl = Command::new("openssl");
        openssl.args(arguments);
        for (option, file) in files {
            openssl.arg(option).arg(file);
        }
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let subject = format!("/CN={name}");
    let made = [&["req", "-new", "-nodes", "-subj", &subject, "-newkey"], kind].concat();
    run(&made, &[("-keyout", &key), ("-out", &request)]);
    let sign = ["x509", "-req", "-days", "30"];
    let by = [("-in", &*request), ("-CA", &ca), ("-CAkey", &ca_key), ("-extfile", &usage)];
    let leaf = run(&sign, &by);
    papers.shown(name, &leaf, "", &fs::read_to_string(key).unwrap())
}

#[test]
fn every_kind_of_client_certificate_is_answered_as_it_should_be() {
    needs!("openssl", "curl");
    let (papers, stack, _origin) = start();
    let rows = rows(&papers);
    eventually("the second list is in force", || {
        let status = stack.status();
        let lists = status["sites"][0]["lists"].as_array().unwrap();
        lists.iter().any(|list| list["number"] == "2")
    });
    let mut table = Table::default();
    for version in VERSIONS {
        table.row(version, "none", "openssl", &by_openssl(&stack, None, version), "403", "");
        table.row(version, "none", "curl", &by_curl(&stack, None, version), "403", "");
        for (what, shown, expected, cause) in &rows {
            let expected = if (*what, version) == (P521, "1.3") { "403" } else { *expected };
            table.row(version, what, "openssl", &by_openssl(&stack, Some(shown), version), expected, cause);
            if *what != SMALL {
                table.row(version, what, "curl", &by_curl(&stack, Some(shown), version), expected, cause);
            }
        }
        let good = &rows[0].1;
        let others = &rows[2].1.key;
        let leaf = CertificateDer::from_pem_file(&good.leaf).unwrap();
        let foreign = by_rustls(&stack, vec![leaf], others, version);
        table.row(version, "certificate of A, key of B", "rustls", &foreign, "alert", "handshake failed");
        let garbage = by_rustls(&stack, vec![CertificateDer::from(vec![7; 500])], &good.key, version);
        table.row(version, "garbage", "rustls", &garbage, "alert", "handshake failed");
    }
    let log = stack.gateway().log();
    println!("{}", table.text);
    for (what, cause) in table.causes {
        let plain = cause.replace('\\', "");
        assert!(
            log.contains(&cause) || log.contains(&plain),
            "the log says nothing of {what}: {cause}\n{log}"
        );
    }
    assert_eq!(table.wrong, Vec::<String>::new());
}

#[derive(Default)]
struct Table {
    text: String,
    wrong: Vec<String>,
    causes: HashSet<(String, String)>,
}

impl Table {
    fn row(&mut self, version: &str, what: &str, by: &str, found: &str, expected: &str, cause: &str) {
        let line = format!("| {what} | {version} | {by} | {found} | {cause} |");
        self.text += &format!("{line}\n");
        if !found.starts_with(expected) {
            self.wrong.push(format!("{line} expected {expected}"));
        }
        if !cause.is_empty() {
            self.causes.insert((what.to_owned(), cause.to_owned()));
        }
    }
}

// ── revoked while it is there ───────────────────────────────────────────────────────────────────

#[test]
fn who_is_revoked_later_is_cut_and_does_not_come_back_by_a_ticket() {
    needs!("openssl");
    let (papers, stack, _origin) = start();
    for (version, serial) in VERSIONS.into_iter().zip([70_u8, 71]) {
        let shown = papers.client(&format!("later{serial}"), &papers.issuing, &[], numbered(serial));
        let session = papers.path(&format!("session{serial}"));
        let mut kept = openssl(&stack, Some(&shown), version);
        let mut kept = kept.arg("-sess_out").arg(&session).arg("-quiet").spawn().unwrap();
        let mut sent = kept.stdin.take().unwrap();
        sent.write_all(request(&stack, "keep-alive").as_bytes()).unwrap();
        let mut stdout = kept.stdout.take().unwrap();
        let mut answer = String::new();
        while !answer.ends_with("ok\n") {
            let mut octet = [0];
            assert_eq!(stdout.read(&mut octet).unwrap(), 1, "{answer}");
            answer.push(char::from(octet[0]));
        }
        assert_eq!(outcome(&answer), "200");
        assert!(session.exists(), "a ticket came with the answer");

        let began = Instant::now();
        let revoked: Vec<u8> = (70..=serial).collect();
        papers.publish("issuing", &papers.issuing, u64::from(serial), &revoked);
        // Nothing was asked: the connection at rest ends by itself.
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        let took = began.elapsed();
        assert_eq!(rest, "");
        drop(sent);
        kept.wait().unwrap();
        println!(
            "| revoked after connecting | {version} | openssl | closed after {:.1} s |",
            took.as_secs_f32()
        );
        assert!(took < Duration::from_secs(20), "{took:?}");

        let mut again = openssl(&stack, Some(&shown), version);
        again.arg("-sess_in").arg(&session);
        let answer = finish(again, &request(&stack, "close"));
        println!("| revoked, then resumed | {version} | openssl | {} |", outcome(&answer));
        assert!(answer.contains("Reused, TLSv"), "{answer}");
        assert_eq!(outcome(&answer), UNTRUSTED);
    }
    // An older list takes nothing back.
    papers.publish("issuing", &papers.issuing, 3, &[]);
    eventually("the older list was turned away", || stack.connector().log().contains("list not taken"));
    let shown = papers.client("later70", &papers.issuing, &[], numbered(70));
    assert_eq!(by_openssl(&stack, Some(&shown), "1.3"), UNTRUSTED);
}

#[test]
fn who_is_blocked_loses_tunnels_held_requests_and_connections_at_rest() {
    let (papers, mut stack, _origin) = start();
    let shown = papers.client("victim", &papers.issuing, &[], |_| {});
    let other = papers.client("bystander", &papers.issuing, &[], |_| {});
    let connect = |shown: &Shown| {
        let pair = Some((shown.all.as_path(), shown.key.as_path()));
        Client::connect(stack.gateway_address(), &stack.path("pki/ca.pem"), pair).unwrap()
    };
    let own = |path: &str, lines: &str| {
        format!("GET /CCM_Proxy_MutualAuth/{OWN}/{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{lines}\r\n")
    };
    let upgrade = own("ws/x", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let begin = |shown: &Shown| {
        let (mut rest, mut held, mut tunnel) = (connect(shown), connect(shown), connect(shown));
        rest.send(request(&stack, "keep-alive").as_bytes());
        assert_eq!(rest.read().unwrap().status, 200);
        held.send(own("held/x", "").as_bytes());
        tunnel.send(upgrade.as_bytes());
        assert_eq!(tunnel.read().unwrap().status, 101);
        [rest, held, tunnel]
    };
    let [mut rest, mut held, mut tunnel] = begin(&shown);
    let [mut other_rest, other_held, other_tunnel] = begin(&other);
    // The held request has to be on its way, or it would be refused as a new one.
    thread::sleep(Duration::from_millis(500));

    let leaf = CertificateDer::from_pem_file(&shown.leaf).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &leaf);
    let digits: String = digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    let began = Instant::now();
    papers.write("blocked.txt", format!("sha256 {digits}\n").as_bytes());
    let answer = held.read().unwrap();
    println!("held request: {} after {:?}", answer.reason, began.elapsed());
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Untrusted_Certificate"));
    let is_cut = |client: &mut Client| client.bytes(1).is_err();
    assert!(is_cut(&mut tunnel));
    println!("tunnel: cut after {:?}", began.elapsed());
    assert!(is_cut(&mut rest));
    println!("at rest: closed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(stack.count("shut_out"), 3);
    eventually("the log says why", || stack.gateway().log().contains("is blocked by its thumbprint"));

    other_rest.send(request(&stack, "keep-alive").as_bytes());
    assert_eq!(other_rest.read().unwrap().status, 200, "nobody else is touched");
    for mut client in [other_held, other_tunnel] {
        client.set_patience(Duration::from_millis(200));
        let error = client.bytes(1).unwrap_err();
        assert!(
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            "{error}"
        );
    }

    // What is in force outlives the process, and so does who is blocked, without a connection point.
    stack.connector.take().unwrap().kill();
    stack.gateway.take().unwrap().kill();
    stack.start_gateway();
    eventually("the gateway serves again", || {
        by_rustls(&stack, vec![CertificateDer::from_pem_file(&shown.leaf).unwrap()], &shown.key, "1.3")
            .starts_with("401")
    });
    assert_eq!(stack.status()["sites"][0]["lists"].as_array().unwrap().len(), 3);
    assert_eq!(stack.status()["sites"][0]["blocked"], 1);
}

/// A web server with one file.
fn web_server(content: Arc<Mutex<Vec<u8>>>) -> HandOrigin {
    HandOrigin::start(move |mut stream| {
        if read_head(&mut stream).is_empty() {
            return;
        }
        let content = content.lock().unwrap().clone();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
        let _ = stream.write_all(&[head.as_bytes(), &content].concat());
    })
}

#[test]
fn a_list_comes_by_http_a_bad_one_costs_nothing_and_an_old_one_is_told_of() {
    let content = Arc::new(Mutex::new(Vec::new()));
    let (web, origin) = (web_server(content.clone()), origin());
    let mut setup = Setup::new(origin.url());
    setup.trust = "roots = [\"pki/ca.pem\", \"root.pem\"]\n".into();
    setup.site =
        format!("[revocation]\nmode = \"soft\"\nrefresh_secs = 1\ncrls = [\"{}/root.crl\"]\n", web.url());
    let mut stack = setup.prepare();
    let papers = Papers::new(stack.folder.path());
    let serve = |bytes: &[u8]| bytes.clone_into(&mut content.lock().unwrap());
    let list = |number, revoked: &[u8]| papers.list(&papers.root, number, revoked, DAY, 30 * DAY);
    serve(b"<html>no list here</html>");
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let shown = papers.client("fetched", &papers.root, &[], numbered(80));
    let ask = || {
        let leaf = CertificateDer::from_pem_file(&shown.leaf).unwrap();
        by_rustls(&stack, vec![leaf], &shown.key, "1.3")
    };
    eventually("what is no list is told of", || stack.connector().log().contains("no list in DER"));
    assert_eq!(ask(), "200 OK", "admitted without a list");
    assert_eq!(stack.count("verdicts_unchecked"), 1, "and counted");
    let by_ldap = papers.client("by-ldap", &papers.root, &[], |params| {
        let uris = ["http://127.0.0.1:9/root.crl", "ldap:///CN=root"].map(str::to_owned).to_vec();
        params.crl_distribution_points = vec![rcgen::CrlDistributionPoint { uris }];
    });
    for _ in 0..2 {
        let leaf = CertificateDer::from_pem_file(&by_ldap.leaf).unwrap();
        assert_eq!(by_rustls(&stack, vec![leaf], &by_ldap.key, "1.3"), "200 OK");
    }
    eventually("it is told of, once, and once of the place where nobody looks", || {
        let log = stack.gateway().log();
        log.matches("clients are admitted unchecked").count() == 2 && log.contains("ldap:///CN=root")
    });

    let number = |number: &str| {
        let status = stack.status();
        status["sites"][0]["lists"].as_array().unwrap().iter().any(|list| list["number"] == number)
    };
    serve(list(1, &[80]).der());
    eventually("the list is in force", || number("1"));
    assert_eq!(ask(), UNTRUSTED);
    serve(b"and now for something else");
    eventually("it is told of again", || {
        let (_, status) = ask_admin(stack.connector_admin(), "/status").unwrap();
        status.contains("\"trouble\":\"the list cannot be read: no list in DER\"")
    });
    assert!(number("1") && ask() == UNTRUSTED, "the list before stays");
    // Nine tenths of its life are over.
    serve(papers.list(&papers.root, 2, &[], 9 * DAY, DAY).der());
    eventually("the next one is in force", || number("2"));
    assert_eq!(ask(), "200 OK");
    let text = "90 % of the life of the revocation list of";
    for process in [stack.gateway(), stack.connector()] {
        eventually("the alarm is in the log", || process.log().contains(text));
    }
    assert_eq!(stack.status()["state"], "Degraded");
}

// ── what the gateway shows ──────────────────────────────────────────────────────────────────────

#[test]
fn the_key_that_a_gateway_shows_is_one_that_the_client_s_ciphers_can_use() {
    needs!("openssl");
    let origin = origin();
    let mut setup = Setup::new(origin.url());
    setup.gateway = "[[server_certificate]]\nchain = \"rsa.pem\"\nkey = \"rsa.key\"\n".into();
    let mut stack = setup.prepare();
    let ca = authority("Server Root", None, |_| {});
    let mut params = params("wildcard");
    params.subject_alt_names =
        ["cmg.test", "*.wild.test"].map(|name| SanType::DnsName(name.try_into().unwrap())).to_vec();
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    fs::write(stack.path("rsa.pem"), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
    fs::write(stack.path("rsa.key"), key.serialize_pem()).unwrap();
    fs::set_permissions(stack.path("rsa.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    stack.start_gateway();
    eventually("it listens", || std::net::TcpStream::connect(stack.gateway_address()).is_ok());
    let shown = |name: &str, options: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &stack.gateway_address().to_string(), "-servername", name]);
        let output = openssl.args(options).stdin(Stdio::null()).output().unwrap();
        let output = text(&output.stdout) + &text(&output.stderr);
        let line = output.lines().find(|line| line.starts_with("Peer signature type: "));
        line.map_or_else(|| outcome(&output), |line| line["Peer signature type: ".len()..].to_owned())
    };
    let rows: [(&str, &[&str], &str); 6] = [
        (SERVICE, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        (SERVICE, &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
        // As Windows 8.1: of RSA only CBC, of ECDSA GCM.
        (SERVICE, &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        (SERVICE, &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA-PSS"),
        (SERVICE, &["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], "ECDSA"),
        ("a.wild.test", &["-tls1_3"], "RSA-PSS"),
    ];
    for (name, options, expected) in rows {
        let found = shown(name, options);
        println!("{name} {options:?}: {found}");
        assert!(found.starts_with(expected), "{name} {options:?}: {found}");
    }
}

/// Who signed what the gateway shows, as openssl says it.
fn issuer_shown(stack: &Stack) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &stack.gateway_address().to_string(), "-servername", SERVICE]);
    let output = text(&openssl.stdin(Stdio::null()).output().unwrap().stdout);
    output.lines().find_map(|line| line.strip_prefix("issuer=")).unwrap_or_default().to_owned()
}

#[test]
fn server_certificates_change_while_the_gateway_runs_and_wrong_ones_take_the_place_of_none() {
    needs!("openssl");
    let origin = origin();
    let stack = Setup::new(origin.url()).start();
    let (chain, key) = (stack.path("pki/server/cmg.test.pem"), stack.path("pki/server/cmg.test.key"));
    let mut early = stack.client().unwrap();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    let mut ask_early = || early.ask("GET", &target).unwrap().status;
    assert_eq!(ask_early(), 200);
    let before = issuer_shown(&stack);
    assert!(!before.contains("Second Root"), "{before}");

    let ca = authority("Second Root", None, |_| {});
    let mut params = params(SERVICE);
    params.subject_alt_names = vec![SanType::DnsName(SERVICE.try_into().unwrap())];
    params.not_after = (SystemTime::now() + 77 * DAY).into();
    let pair = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&pair, &ca).unwrap().pem();
    let log = || stack.gateway().log();

    // The key alone: it is not that of the certificate.
    fs::write(&key, pair.serialize_pem()).unwrap();
    eventually("the mistake is told", || log().contains("server certificates cannot be shown"));
    let told = log();
    let line = told.lines().find(|line| line.contains("server certificates cannot be shown")).unwrap();
    for part in ["gateway.toml:", "server_certificate[1].key", "cmg.test.key", "does not belong", "expected"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(issuer_shown(&stack), before);
    let status = stack.status();
    assert_eq!(status["state"], "Degraded");
    assert!(status["reason"].as_str().unwrap().contains("server certificates before are shown"), "{status}");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(log().matches("server certificates cannot be shown").count(), 1, "told once");

    // The certificate, too.
    fs::write(&chain, leaf + &ca.pem()).unwrap();
    eventually("the new one is shown", || issuer_shown(&stack).contains("Second Root"));
    eventually("it is healthy", || stack.status()["state"] == "Healthy");
    assert!(log().contains("server certificates changed: "), "{}", log());
    let status = stack.status();
    let shown = status["certificates"].as_array().unwrap();
    assert_eq!(shown.iter().filter(|one| one["use"] == "server").count(), 1, "{status}");
    assert_eq!(shown.iter().filter(|one| one["use"] == "internal").count(), 1, "{status}");
    let (_, metrics) = ask_admin(stack.gateway_admin(), "/metrics").unwrap();
    assert!(metrics.contains("cmg_gateway_server_certificates_failing 0"), "{metrics}");

    // Who was connected stays so, and who believes the new root comes in.
    assert_eq!(ask_early(), 200);
    fs::write(stack.path("second.pem"), ca.pem()).unwrap();
    let (cert, key) = stack.client_pair();
    let pair = Some((cert.as_path(), key.as_path()));
    let mut late = Client::connect(stack.gateway_address(), &stack.path("second.pem"), pair).unwrap();
    assert_eq!(late.ask("GET", &target).unwrap().status, 200);

    // A folder in a certificate's place is told of at once, when somebody asks.
    fs::remove_file(&chain).unwrap();
    fs::create_dir(&chain).unwrap();
    stack.gateway().signal(libc::SIGHUP);
    eventually("it is told", || log().contains("a folder, not a file"));
    assert!(issuer_shown(&stack).contains("Second Root"));
}

#[test]
fn a_gateway_that_speaks_tls_1_3_alone_says_so_to_others() {
    needs!("curl");
    let origin = origin();
    let mut setup = Setup::new(origin.url());
    setup.gateway = "tls_min = \"1.3\"\n".into();
    let stack = setup.start();
    let ask = |version: &str| {
        let mut curl = stack.curl();
        curl.args([&format!("--tlsv{version}"), "--tls-max", version, "--include"]).arg(target(&stack));
        let output = curl.output().unwrap();
        outcome(&(text(&output.stdout) + &text(&output.stderr)))
    };
    assert_eq!(ask("1.3"), "200");
    assert!(ask("1.2").contains("protocol version"), "{}", ask("1.2"));
}
