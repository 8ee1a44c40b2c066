//! Tokens: of a real OpenID provider, of a site in the published format, and every misuse of them.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use cmg::auth::token::{PublicKey, TokenKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{digest, hmac};
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, Process, SERVICE, Setup, Stack, cmg, eventually, eventually_within,
    free_port, outcome, read_head, run, text,
};
use crate::needs;

const HIERARCHY: &str = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE";
const TENANT: &str = "99999999-8888-4777-8666-555555555555";
const ID: &str = "11111111-2222-4333-8444-555555555555";

/// Says what reached it; holds what is below `/held` until it may go.
fn origin(held: &Arc<AtomicUsize>) -> HandOrigin {
    let held = held.clone();
    HandOrigin::start(move |mut stream: TcpStream| {
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            if path.starts_with("/ws") {
                let switched =
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                let _ = stream.write_all(switched);
                let _ = read_head(&mut stream);
                return;
            }
            if path.starts_with("/held") {
                held.fetch_add(1, Ordering::SeqCst);
                // Until the connection point gives it up.
                let _ = read_head(&mut stream);
                held.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            let has_token = head.to_ascii_lowercase().contains("\r\nauthorization: bearer ");
            let body = format!("{path} {}", if has_token { "with token" } else { "without" });
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// A site's signing certificate, made by openssl, and a token service's key.
struct Site {
    rsa: RsaKeyPair,
    x5t: String,
    certificate: String,
    ec: EcdsaKeyPair,
}

impl Site {
    fn new(stack: &Stack) -> Site {
        let (key, certificate) = (stack.path("signing.key"), stack.path("signing.pem"));
        let made =
            ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=SMS Token Signing Certificate", "-days", "9"];
        run(Command::new("openssl")
            .args(["req", "-x509"])
            .args(made)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate));
        let der = |arguments: &[&str], file| run(Command::new("openssl").args(arguments).arg(file));
        let rsa = der(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"], &key);
        let leaf = der(&["x509", "-outform", "DER", "-in"], &certificate);
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let named = |kid: &str| TokenKey {
            kid: Some(kid.into()),
            x5t: None,
            public: PublicKey::P256(ec.public_key().as_ref().to_vec()),
        };
        fs::write(stack.path("sts.json"), TokenKey::write_set(&[named("sts-1")])).unwrap();
        fs::write(stack.path("blocked.txt"), "# nobody yet\n").unwrap();
        let x5t = BASE64URL.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &leaf));
        let certificate = fs::read_to_string(&certificate).unwrap();
        Site { rsa: RsaKeyPair::from_pkcs8(&rsa).unwrap(), x5t, certificate, ec }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match header["alg"].as_str() {
            Some("ES256") => self.ec.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            // As somebody who takes the public key for a secret.
            Some("HS256") => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.certificate.as_bytes());
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Some("none") => return format!("{message}."),
            _ => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    fn registration(&self) -> (Value, Value) {
        let now = now();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5t": self.x5t});
        let claims = json!({
            "SCCMTokenCategory": "SCCMPreAuthToken", "Authority": "SCCM", "License": "SCCM",
            "Type": "BulkRegistration", "TenantId": HIERARCHY, "UniqueId": ID,
            "iss": format!("urn:sccm:oauth2:{}", HIERARCHY.to_lowercase()), "aud": "urn:sccm:service",
            "nbf": now - 10, "exp": now - 10 + 259_200,
        });
        (header, claims)
    }

    fn ccm(&self, device: &str) -> String {
        let now = now();
        let claims = json!({
            "SCCMTokenCategory": "SCCMSessionToken", "Type": "UDA", "HierarchyId": HIERARCHY,
            "DeviceId": device, "UserId": "u", "UniqueId": format!("of-{device}"), "iss": "urn:sts",
            "aud": "urn:sccm:service", "nbf": now - 10, "exp": now + 28_000,
        });
        self.sign(&json!({"typ": "JWT", "alg": "ES256", "kid": "sts-1"}), &claims)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn with(mut value: Value, changes: &Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

fn site_toml(origin: &HandOrigin, more: &str) -> String {
    format!(
        r#"[[endpoint]]
id = {OWN}
path = "held"
url = "{url}/held"
held = true
auth = ["certificate", "ccm"]
[[endpoint]]
id = {OWN}
path = "app"
url = "{url}/app"
[[token_issuer]]
name = "site"
issuer = "urn:sccm:oauth2:{lower}"
audiences = ["urn:sccm:service"]
tenants = ["{HIERARCHY}"]
kinds = ["registration", "client"]
keys = ["signing.pem"]
[[token_issuer]]
name = "sts"
issuer = "urn:sts"
audiences = ["urn:sccm:service"]
tenants = ["{HIERARCHY}"]
kinds = ["ccm"]
keys = ["sts.json"]
{more}
[tokens]
blocked = "blocked.txt"
"#,
        url = origin.url(),
        lower = HIERARCHY.to_lowercase(),
    )
}

fn start(origin: &HandOrigin, more: &str) -> (Stack, Site) {
    let mut setup = Setup::new(origin.url());
    setup.site = site_toml(origin, more);
    let mut stack = setup.prepare();
    let site = Site::new(&stack);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    (stack, site)
}

/// A client without a certificate.
fn stranger(stack: &Stack) -> Client {
    Client::connect(stack.gateway_address(), &stack.path("pki/ca.pem"), None).unwrap()
}

fn ask(client: &mut Client, path: &str, fields: &str) -> Answer {
    let head = format!("GET /CCM_Proxy_ServerAuth/{path} HTTP/1.1\r\nHost: {SERVICE}\r\n{fields}\r\n");
    client.send(head.as_bytes());
    client.read().unwrap()
}

fn with_token(client: &mut Client, path: &str, token: &str) -> Answer {
    ask(client, path, &format!("Authorization: Bearer {token}\r\n"))
}

#[test]
fn a_token_leads_where_its_kind_may_go_and_nowhere_else() {
    needs!("openssl");
    let held = Arc::default();
    let origin = origin(&held);
    let (stack, site) = start(&origin, "");
    let (header, claims) = site.registration();
    let registration = site.sign(&header, &claims);
    let client_claims = with(claims, &json!({"Type": "Client", "DeviceId": "GUID:1"}));
    let device = site.sign(&header, &client_claims);
    let ccm = site.ccm("GUID:2");
    let mut client = stranger(&stack);
    let mp = |rest: &str| format!("{MANAGEMENT_POINT}/{rest}");
    let own = |rest: &str| format!("{OWN}/{rest}");
    let rows = [
        (mp("CCM_STS"), &registration, Ok("/CCM_STS with token")),
        (mp("CCM_STS"), &ccm, Err("a token of kind ccm; expected registration, client, directory")),
        (mp("ccm_system_tokenauth/request"), &ccm, Ok("/ccm_system_tokenauth/request with token")),
        (mp("SMS_MP_TokenAuth/x"), &device, Ok("/SMS_MP_TokenAuth/x with token")),
        (mp("CMUserService"), &device, Err("a token of kind client; expected ccm, directory")),
        (own("app/x"), &ccm, Ok("/app/x without")),
        (own("app/x"), &registration, Err("a token of kind registration; expected client, ccm")),
    ];
    for (path, token, expected) in rows {
        let answer = with_token(&mut client, &path, token);
        match expected {
            Ok(body) => assert_eq!((answer.status, answer.text().as_str()), (200, body), "{path}"),
            Err(cause) => {
                assert_eq!(
                    (answer.status, answer.reason.as_str()),
                    (401, "CMGService_Invalid_Token"),
                    "{path}"
                );
                eventually(cause, || stack.gateway().log().contains(cause));
            }
        }
    }
    // The family for certificates takes none of them, and the family for tokens no certificate.
    let head = format!(
        "GET /CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/CCM_STS HTTP/1.1\r\nHost: {SERVICE}\r\n\
         Authorization: Bearer {ccm}\r\n\r\n"
    );
    client.send(head.as_bytes());
    assert_eq!(client.read().unwrap().status, 403);
    let mut owner = stack.client().unwrap();
    assert_eq!(ask(&mut owner, &mp("CCM_STS"), "").status, 401);
    for path in ["CCM_System/request", "SMS_MP/x", "CCM_Incoming/x", "BGB/x"] {
        assert_eq!(with_token(&mut owner, &mp(path), &ccm).status, 404, "{path}");
    }
}

/// Each row is good but for one thing; the log says what was found and what was expected, and has
/// nothing of the token.
#[test]
fn every_misuse_is_refused_and_logged_without_the_token() {
    needs!("openssl");
    let held = Arc::default();
    let origin = origin(&held);
    let two = "[[token_issuer]]\nname = \"twice\"\nissuer = \"urn:twice\"\naudiences = [\"a\"]\nkinds = [\"ccm\"]\n\
         keys = [\"sts.json\"]\n[[token_issuer]]\nname = \"again\"\nissuer = \"urn:twice\"\naudiences = [\"a\"]\n\
         kinds = [\"ccm\"]\nkeys = [\"sts.json\"]\n";
    let (stack, site) = start(&origin, two);
    let (header, claims) = site.registration();
    let es256 = json!({"x5t": null, "kid": "sts-1", "alg": "ES256"});
    let rows: Vec<(&str, Value, Value, &str)> = vec![
        (
            "wrong issuer",
            json!({}),
            json!({"iss": "urn:evil"}),
            r#"issuer \"urn:evil\"; expected \"urn:sccm:oauth2:"#,
        ),
        (
            "wrong audience",
            json!({}),
            json!({"aud": "urn:else"}),
            r#"audience \"urn:else\"; expected \"urn:sccm:service\""#,
        ),
        (
            "wrong tenant",
            json!({}),
            json!({"TenantId": TENANT}),
            r#"tenant \"99999999-8888-4777-8666-555555555555\"; expected"#,
        ),
        ("expired", json!({}), json!({"nbf": now() - 9_000, "exp": now() - 4_000}), "it expired at "),
        ("early", json!({}), json!({"nbf": now() + 4_000, "exp": now() + 9_000}), "it is not valid before "),
        (
            "unknown kid",
            json!({"x5t": null, "kid": "other"}),
            json!({}),
            r#"key \"other\", which issuer site does not have"#,
        ),
        ("no key named", json!({"x5t": null}), json!({}), "it names no key; expected kid or x5t"),
        (
            "two keys of one kid",
            es256.clone(),
            json!({"iss": "urn:twice"}),
            r#"key \"sts-1\", of which issuer twice has 2"#,
        ),
        ("alg none", json!({"alg": "none"}), json!({}), "a part of it is empty"),
        (
            "HS256 with the public key",
            json!({"alg": "HS256"}),
            json!({}),
            r#"algorithm \"HS256\"; expected RS256"#,
        ),
        (
            "ES256 where the key is RSA",
            json!({"alg": "ES256"}),
            json!({}),
            r#"algorithm \"ES256\"; expected RS256"#,
        ),
        (
            "RS256 where the key is P-256",
            json!({"x5t": null, "kid": "sts-1"}),
            json!({"iss": "urn:sts"}),
            r#"algorithm \"RS256\"; expected ES256"#,
        ),
        ("jku", json!({"jku": "https://evil.example/keys"}), json!({}), r#"its header has \"jku\""#),
        ("x5u", json!({"x5u": "https://evil.example/keys"}), json!({}), r#"its header has \"x5u\""#),
        ("jwk", json!({"jwk": {"kty": "EC"}}), json!({}), r#"its header has \"jwk\""#),
        ("crit", json!({"crit": ["exp"]}), json!({}), r#"its header has \"crit\""#),
        (
            "category wrong",
            json!({}),
            json!({"SCCMTokenCategory": "Other"}),
            r#"category \"Other of type BulkRegistration\"; expected a token of kind"#,
        ),
        (
            "kind of another issuer",
            es256.clone(),
            json!({"iss": "urn:sts"}),
            r#"category \"SCCMPreAuthToken of type BulkRegistration\"; expected a token of kind ccm"#,
        ),
        ("a life too long", json!({}), json!({"exp": now() + 900_000}), "expected 604800 s at most"),
        ("no end", json!({}), json!({"exp": null}), "no claim exp"),
        ("oversized", json!({"pad": "x".repeat(7_000)}), json!({}), "expected 8192 at most"),
    ];
    let mut forged: Vec<(&str, String, &str)> = rows
        .into_iter()
        .map(|(what, in_header, in_claims, cause)| {
            (what, site.sign(&with(header.clone(), &in_header), &with(claims.clone(), &in_claims)), cause)
        })
        .collect();
    let good = site.sign(&header, &claims);
    forged.push(("truncated", good[..good.len() - 9].to_owned(), "its signature is not that of key"));
    forged.push((
        "another's signature",
        swap_signature(&good, &site.ccm("GUID:1")),
        "its signature is not that of key",
    ));
    forged.push(("no token at all", "x".to_owned(), "not three parts"));
    let mut client = stranger(&stack);
    let path = format!("{MANAGEMENT_POINT}/CCM_STS");
    assert_eq!(with_token(&mut client, &path, &good).status, 200, "what all rows begin with");
    for (what, token, cause) in &forged {
        let answer = with_token(&mut client, &path, token);
        assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"), "{what}");
        assert_eq!(answer.field("WWW-Authenticate"), Some("Bearer"), "{what}");
        let found = eventually_within(Duration::from_secs(20), || stack.gateway().log().contains(cause));
        assert!(found, "{what}: no {cause} in\n{}", stack.gateway().log());
        println!("{what:<30} 401 CMGService_Invalid_Token  {cause}…");
    }
    for (fields, cause) in [
        ("", "no token was shown; expected Authorization: Bearer"),
        ("Authorization: Basic eDp5\r\n", "something other than Bearer and one token"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "stands there more than once"),
    ] {
        assert_eq!(ask(&mut client, &path, fields).status, 401);
        eventually(cause, || stack.gateway().log().contains(cause));
    }
    let log = stack.gateway().log() + &stack.connector().log();
    for (what, token, _) in &forged {
        let parts = token.split('.').filter(|part| part.len() > 20);
        for part in parts.chain(good.split('.')) {
            assert!(!log.contains(part), "{what}: a log has a part of the token");
        }
    }
}

fn swap_signature(token: &str, other: &str) -> String {
    let (message, _) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", other.rsplit_once('.').unwrap().1)
}

#[test]
fn a_blocked_token_is_refused_at_once_and_its_held_request_is_cut() {
    needs!("openssl");
    let held: Arc<AtomicUsize> = Arc::default();
    let origin = origin(&held);
    let (stack, site) = start(&origin, "");
    let (bad, good) = (site.ccm("GUID:BAD"), site.ccm("GUID:GOOD"));
    let (mut one, mut other) = (stranger(&stack), stranger(&stack));
    let path = format!("{MANAGEMENT_POINT}/CCM_Client/x");
    for token in [&bad, &good] {
        assert_eq!(with_token(&mut one, &path, token).status, 200);
    }
    let waiting = |token: &str| {
        format!(
            "GET /CCM_Proxy_ServerAuth/{OWN}/held/x HTTP/1.1\r\nHost: {SERVICE}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
    };
    one.send(waiting(&bad).as_bytes());
    other.send(waiting(&good).as_bytes());
    eventually("both are held", || held.load(Ordering::SeqCst) == 2);
    let begin = Instant::now();
    fs::write(stack.path("blocked.txt"), "of-guid:bad # stolen\n").unwrap();
    eventually("one is cut", || held.load(Ordering::SeqCst) == 1);
    println!("cut after {:?}", begin.elapsed());
    let answer = one.read().unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
    let mut again = stranger(&stack);
    let mut status = |token| with_token(&mut again, &path, token).status;
    assert_eq!((status(&bad), status(&good)), (401, 200));
    eventually("the log says it", || {
        let log = stack.gateway().log();
        log.contains("the client's token was blocked meanwhile")
            && log.contains("is blocked")
            && log.contains("ccm:GUID:BAD")
    });
    fs::write(stack.path("blocked.txt"), "").unwrap();
    eventually("it is taken again", || status(&bad) == 200);
}

/// By each instance, within two seconds: what is new, what was accepted before, what is held, and a tunnel. Of three
/// blocks the quickest counts, for a machine with more to do delays any one of them.
#[test]
fn a_blocked_token_is_refused_by_every_instance_within_two_seconds() {
    needs!("openssl");
    let held: Arc<AtomicUsize> = Arc::default();
    let origin = origin(&held);
    let mut setup = Setup::new(origin.url());
    setup.site = site_toml(
        &origin,
        &format!(
            "[[endpoint]]\nid = {OWN}\npath = \"ws\"\nurl = \"{}/ws\"\ntunnel = true\nauth = [\"ccm\"]\n",
            origin.url()
        ),
    );
    let mut stack = setup.prepare();
    let site = Site::new(&stack);
    stack.start_gateway();
    let second = stack.start_second_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let ca = stack.path("pki/ca.pem");
    let instances = [stack.gateway_address(), second.address];
    let connect = |place: usize| Client::connect(instances[place], &ca, None).unwrap();
    let path = format!("{MANAGEMENT_POINT}/CCM_Client/x");
    let good = site.ccm("GUID:GOOD");
    eventually("the second instance serves", || {
        Client::connect(instances[1], &ca, None)
            .is_ok_and(|mut client| with_token(&mut client, &path, &good).status == 200)
    });
    let own = |path: &str, token: &str, lines: &str| {
        format!(
            "GET /CCM_Proxy_ServerAuth/{OWN}/{path}/x HTTP/1.1\r\nHost: {SERVICE}\r\n\
             Authorization: Bearer {token}\r\n{lines}\r\n"
        )
    };
    let blocks = (0..3).map(|number| {
        let token = site.ccm(&format!("GUID:BAD{number}"));
        let begin = |place: usize| {
            let (mut known, mut waiting, mut tunnel) = (connect(place), connect(place), connect(place));
            assert_eq!(with_token(&mut known, &path, &token).status, 200);
            waiting.send(own("held", &token, "").as_bytes());
            tunnel.send(own("ws", &token, "Connection: Upgrade\r\nUpgrade: websocket\r\n").as_bytes());
            assert_eq!(tunnel.read().unwrap().status, 101);
            (known, waiting, tunnel)
        };
        let clients = [begin(0), begin(1)];
        eventually("both are held", || held.load(Ordering::SeqCst) == 2);
        let begun = Instant::now();
        let blocked: String = (0..=number).map(|number| format!("of-guid:bad{number}\n")).collect();
        fs::write(stack.path("blocked.new"), blocked).unwrap();
        fs::rename(stack.path("blocked.new"), stack.path("blocked.txt")).unwrap();
        for (mut known, mut waiting, mut tunnel) in clients {
            let answer = waiting.read().unwrap();
            assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
            assert!(tunnel.bytes(1).is_err(), "the tunnel is cut");
            assert_eq!(with_token(&mut known, &path, &token).status, 401);
        }
        let took = begun.elapsed();
        for place in 0..2 {
            assert_eq!(with_token(&mut connect(place), &path, &token).status, 401);
            assert_eq!(with_token(&mut connect(place), &path, &good).status, 200);
        }
        println!("block {number}: refused and cut by both instances after {took:?}");
        took
    });
    let least = blocks.min().unwrap();
    assert!(least <= Duration::from_secs(2), "{least:?}");
    assert!(!second.process.log().contains("panicked"));
}

/// Its request stands in line, for nobody is attached; who attaches then knows that the token is blocked.
#[test]
fn a_request_whose_token_is_blocked_while_it_waits_reaches_no_origin() {
    needs!("openssl");
    let held: Arc<AtomicUsize> = Arc::default();
    let origin = origin(&held);
    let (mut stack, site) = start(&origin, "");
    let (bad, good) = (site.ccm("GUID:BAD"), site.ccm("GUID:GOOD"));
    let (mut one, mut other) = (stranger(&stack), stranger(&stack));
    stack.connector.take().unwrap().kill();
    eventually("the channels are gone", || stack.count("links") == 0);
    for (client, token) in [(&mut one, &bad), (&mut other, &good)] {
        client.send(
            format!(
                "GET /CCM_Proxy_ServerAuth/{OWN}/held/x HTTP/1.1\r\nHost: {SERVICE}\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            .as_bytes(),
        );
    }
    eventually("both wait", || stack.count("waiting") == 2);
    fs::write(stack.path("blocked.txt"), "of-guid:bad\n").unwrap();
    stack.start_connector();
    let answer = one.read().unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
    eventually("the other's is at the origin", || held.load(Ordering::SeqCst) == 1);
    assert_eq!((stack.count("waiting"), stack.count("active")), (0, 1));
}

#[test]
fn each_holder_of_a_token_has_a_rate_and_devices_with_one_handed_out_in_bulk_by_address() {
    needs!("openssl");
    let origin = origin(&Arc::default());
    let limited = format!(
        r#"[[endpoint]]
id = {OWN}
path = "limited"
url = "{}/limited"
auth = ["ccm", "registration"]
limits = {{ client_rate = "1/h", client_burst = 2 }}
"#,
        origin.url()
    );
    let (stack, site) = start(&origin, &limited);
    let path = format!("{OWN}/limited/x");
    let status = |token: &str| with_token(&mut stranger(&stack), &path, token).status;
    let (one, other) = (site.ccm("GUID:ONE"), site.ccm("GUID:OTHER"));
    assert_eq!([status(&one), status(&one), status(&one)], [200, 200, 429]);
    assert_eq!([status(&other), status(&other), status(&other)], [200, 200, 429]);
    let (header, claims) = site.registration();
    let bulk = site.sign(&header, &claims);
    let again =
        site.sign(&header, &with(claims, &json!({"UniqueId": "00000000-0000-0000-0000-00000000cafe"})));
    assert_eq!([status(&bulk), status(&again), status(&bulk)], [200, 200, 429]);
}

#[test]
fn the_connection_point_believes_no_gateway() {
    needs!("openssl");
    let held = Arc::default();
    let origin = origin(&held);
    let (mut stack, site) = start(&origin, "");
    let (token, path) = (site.ccm("GUID:1"), format!("{MANAGEMENT_POINT}/CCM_Client/x"));
    assert_eq!(with_token(&mut stranger(&stack), &path, &token).status, 200);
    // The same serial with another issuer: the gateway goes on with the settings it has.
    let file = stack.path("site.toml");
    let settings = fs::read_to_string(&file).unwrap().replace("issuer = \"urn:sts\"", "issuer = \"urn:new\"");
    fs::write(&file, settings).unwrap();
    stack.connector.take().unwrap().kill();
    stack.start_connector();
    eventually("the gateway has another opinion", || stack.connector().log().contains("Diverged"));
    let answer = with_token(&mut stranger(&stack), &path, &token);
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Invalid_Token"));
    let cause = r#"issuer \"urn:sts\"; expected"#;
    eventually("the connection point says why", || stack.connector().log().contains(cause));
}

#[test]
fn tokens_of_a_real_provider_are_taken_and_those_for_others_are_not() {
    needs!("openssl", "curl", "python3");
    if !has_provider() {
        return;
    }
    let held = Arc::default();
    let origin = origin(&held);
    let provider = Provider::start();
    let entry = format!(
        "[[token_issuer]]\nname = \"directory\"\nissuer = \"{url}\"\naudiences = [\"app\"]\n\
         tenants = [\"{TENANT}\"]\nkinds = [\"directory\"]\nkeys = [\"{url}/jwks\"]\nclient_id = \"app\"\n",
        url = provider.url()
    );
    let (stack, _) = start(&origin, &entry);
    let mut client = stranger(&stack);
    let path = format!("{MANAGEMENT_POINT}/CCM_STS");
    let good = provider.token("device-1", "app");
    eventually("its keys were fetched", || with_token(&mut client, &path, &good).status == 200);
    let rows = [
        ("device-1", "other", r#"audience \"other\"; expected \"app\""#),
        ("device-2", "app", r#"tenant \"elsewhere\"; expected \"99999999-"#),
        ("device-1", "nameless", "it names no key"),
    ];
    for (user, audience, cause) in rows {
        let answer = with_token(&mut client, &path, &provider.token(user, audience));
        assert_eq!(answer.status, 401, "{user} {audience}");
        eventually(cause, || stack.gateway().log().contains(cause));
    }
    let other = Provider::start();
    let answer = with_token(&mut client, &path, &other.token("device-1", "app"));
    assert_eq!(answer.status, 401, "an issuer that nobody named");
    let answer = ask(&mut client, &format!("AADAuthInfo?TenantID={TENANT}"), "");
    let body: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((answer.status, body["ClientAppId"].as_str()), (200, Some("app")));
    assert_eq!(ask(&mut client, &format!("AADAuthInfo?TenantID={ID}"), "").status, 401);
}

#[test]
fn a_token_of_cmg_token_is_taken_until_it_is_blocked() {
    let held = Arc::default();
    let origin = origin(&held);
    let folder = tempfile::tempdir().unwrap();
    let issue = |arguments: &[&str]| {
        let dir = folder.path().join("tokens");
        text(&run(cmg().args(["token", "--dir"]).arg(dir).args(arguments)))
    };
    let (one, other) = (issue(&["new", "--minutes", "60", "--note", "laptops"]), issue(&["new"]));
    let (one, other) = (one.trim(), other.trim());
    let mut setup = Setup::new(origin.url());
    setup.site = issue(&["site"]);
    let stack = setup.start();
    let mut client = stranger(&stack);
    let path = format!("{MANAGEMENT_POINT}/CCM_STS");
    let mut status = |token: &str| with_token(&mut client, &path, token).status;
    assert_eq!((status(one), status(other)), (200, 200));
    let list = issue(&["list"]);
    let row = list.lines().find(|line| line.contains("laptops")).unwrap();
    let id = row.split_whitespace().next().unwrap();
    assert!(row.contains(" good ") && !list.contains(one) && !list.contains(other), "{list}");
    issue(&["block", &id.to_lowercase()]);
    eventually("it is refused", || status(one) == 401);
    assert_eq!(status(other), 200);
    assert!(issue(&["list"]).contains(" blocked "));
    issue(&["unblock", id]);
    eventually("it is taken again", || status(one) == 200);
    let refused =
        outcome(cmg().args(["token", "--dir"]).arg(folder.path()).args(["new", "--minutes", "10081"]));
    assert_eq!(refused.status.code(), Some(2));
    // A key that is taken away is followed by another; tokens of the one before live on.
    let key = folder.path().join("tokens/signing.key");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&key).unwrap();
    let next = issue(&["new"]);
    let keys = fs::read_to_string(folder.path().join("tokens/keys.json")).unwrap();
    assert_eq!(keys.matches("\"kid\"").count(), 2, "{keys}");
    eventually("its key is known", || status(next.trim()) == 200);
    assert_eq!(status(other), 200);
    // What cannot be read takes the place of nothing.
    fs::write(folder.path().join("tokens/keys.json"), "{").unwrap();
    eventually("it is told", || stack.connector().log().contains("keys cannot be read"));
    assert_eq!((status(next.trim()), status(other)), (200, 200));
}

/// Whether Python has the provider's package.
fn has_provider() -> bool {
    let has = outcome(Command::new("python3").args(["-W", "ignore", "-c", "import oidc_provider_mock"]));
    let text = "SKIPPED story: python3 has no oidc_provider_mock (pip install oidc-provider-mock)";
    assert!(has.status.success() || std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "{text}");
    if !has.status.success() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    has.status.success()
}

struct Provider {
    port: u16,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Provider {
    fn start() -> Provider {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories/openid_provider.py");
        let users = [
            json!({"sub": "device-1", "tid": TENANT, "oid": "o1"}),
            json!({"sub": "device-2", "tid": "elsewhere", "oid": "o2"}),
        ];
        let mut command = Command::new("python3");
        command.arg(script).arg(port.to_string()).args(users.map(|user| user.to_string()));
        let process = Process::start(&mut command, &folder.path().join("provider.log"));
        eventually("the provider listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Provider { port, _process: process, _folder: folder }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An ID token by the code flow, as a client of this name gets it.
    fn token(&self, user: &str, client: &str) -> String {
        let back = "http://127.0.0.1/back";
        let ask = format!(
            "{}/oauth2/authorize?client_id={client}&redirect_uri={back}&response_type=code&scope=openid%20profile",
            self.url()
        );
        let curl = |arguments: &[&str]| text(&run(Command::new("curl").arg("-sS").args(arguments)));
        let location =
            curl(&["-o", "/dev/null", "-w", "%{redirect_url}", "-d", &format!("sub={user}"), &ask]);
        let code = location.split("code=").nth(1).expect(&location).split('&').next().unwrap().to_owned();
        let form = format!("grant_type=authorization_code&code={code}&redirect_uri={back}");
        let answer =
            curl(&["-u", &format!("{client}:secret"), "-d", &form, &format!("{}/oauth2/token", self.url())]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id_token"].as_str().unwrap().to_owned()
    }
}
