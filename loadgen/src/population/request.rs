//! A step as bytes: request line, fields and body as a real client sends them.
//!
//! Signatures have the form and the length of real ones and prove nothing: nobody here can check them but a site. So have
//! tokens, unless there is a key that a site knows (`tokens.rs`). What is compressed in a real message is letters here.

use super::catalogue::{BITS_PROTOCOL, Reply, part_head, utf16};
use super::features::Feature;
use super::step::{Agent, Family, Hold, Packet, Payload, Proof, Role, Step};
use crate::clients::options::Check;
use crate::clients::work::{Expect, Request, RequestBody, Statuses};
use crate::content::{self, Hash64, Pattern};
use crate::random::Random;
use crate::tokens::Signer;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Characters of a signature (RSA, 2048 bits, as hex).
const SIGNATURE_SIZE: usize = 512;
/// Characters of a token: with the rest of the head as many as were seen in a published log.
const TOKEN_SIZE: usize = 1_600;
/// Bytes of a notification message.
const NOTICE_SIZE: usize = 980;

/// Where requests go, for all clients of a run.
#[derive(Clone, Debug)]
pub struct Site {
    /// `Host`.
    pub host: String,
    /// Role id of the management point.
    pub management_point: u64,
    /// Role id of the software update point.
    pub update_point: u64,
    /// Who signs tokens; without one they are letters.
    pub signer: Option<Arc<Signer>>,
}

/// Who asks, when, and what it learnt from answers so far.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its number.
    pub number: u32,
    /// Seconds since 1970, in the time of the population.
    pub utc: u64,
    /// How long the server is to hold a request.
    pub hold: Duration,
    /// `BITS-Session-Id` of the upload under way.
    pub session: Option<String>,
    /// `ETag` of the file being fetched, with its name.
    pub tag: Option<(&'static str, String)>,
    /// What the directory or the site gave, and after that the token service.
    pub token: Option<String>,
}

/// A request, and what the origin must say it received.
#[derive(Clone, Debug)]
pub struct Made {
    /// What the engine asks.
    pub request: Request,
    /// Value of `X-Load-Account`.
    pub receipt: String,
}

/// Makes the request of step `index` of `feature` with this id; `name` is its number among all steps.
pub fn make(site: &Site, client: &Client, feature: &Feature, index: usize, name: u16, id: u64) -> Made {
    let step = &feature.steps[index];
    let id_text = content::id_text(id);
    let body = body(step, client, &id_text);
    let mut head = String::with_capacity(1024);
    write_head(&mut head, site, client, step, &body, id);
    let mut hash = Hash64::default();
    hash.update(&body);
    let mut receipt = Vec::new();
    content::write_receipt(hash.size(), hash.finish(), &mut receipt);
    let is_gateways = step.reply == Reply::Gateway;
    let expect = Expect {
        statuses: Statuses::of(&[step.status()]),
        // The script looks at id and length itself, so that it can say what it found.
        check: Check::Off,
        size: None,
        offset: step.range.map_or(0, |(first, _)| first),
        is_head: step.method == "HEAD",
        segment: Arc::from(&b""[..]),
        keeps: true,
        shape: (!is_gateways).then(|| step.reply.row().shape),
        held: if step.hold == Hold::No { Duration::ZERO } else { client.hold },
    };
    let body = if body.is_empty() { RequestBody::None } else { RequestBody::Bytes(body.into()) };
    let receipt = String::from_utf8(receipt).expect("a receipt is digits and letters");
    Made { request: Request { head: head.into_bytes(), body, expect, name }, receipt }
}

/// Path and query as they stand in the request line.
pub fn target(site: &Site, client: &Client, step: &Step) -> String {
    let family = match step.family {
        Family::Mutual => "/CCM_Proxy_MutualAuth",
        Family::Server => "/CCM_Proxy_ServerAuth",
    };
    let role = match step.role {
        Role::ManagementPoint => format!("/{}", site.management_point),
        Role::UpdatePoint => format!("/{}", site.update_point),
        Role::Gateway => String::new(),
    };
    format!("{family}{role}{}", step.path.replace("{client}", &braced(client.number)))
}

/// A client's id, as everywhere but in file names.
pub fn client_id(number: u32) -> String {
    format!("GUID:{number:08X}-4C0A-4D6E-9B21-10AD6E2B{:04X}", number & 0xffff)
}

fn braced(number: u32) -> String {
    format!("{{{number:08X}-4C0A-4D6E-9B21-10AD6E2B175A}}")
}

fn write_head(head: &mut String, site: &Site, client: &Client, step: &Step, body: &[u8], id: u64) {
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = head.write_fmt(text);
        head.push_str("\r\n");
    };
    line(format_args!("{} {} HTTP/1.1", step.method, target(site, client, step)));
    line(format_args!("Host: {}", site.host));
    line(format_args!("User-Agent: {}", user_agent(step.agent)));
    line(format_args!("Accept: */*"));
    if let Some((first, last)) = step.range {
        line(format_args!("Range: bytes={first}-{last}"));
    }
    match step.proof {
        Proof::None => {}
        Proof::Token | Proof::Registration => {
            let token = client.token.clone().unwrap_or_else(|| unsigned_token(id));
            line(format_args!("Authorization: Bearer {token}"));
        }
        Proof::Signed => {
            line(format_args!("CCMClientID: {}", client_id(client.number)));
            line(format_args!("CCMClientIDSignature: {}", signature(id)));
            line(format_args!("CCMClientTimestamp: {}", time_text(client.utc)));
            line(format_args!("CCMClientTimestampsSignature: {}", signature(id ^ 1)));
        }
        Proof::Policy => {
            let (client_id, time) = (client_id(client.number), time_text(client.utc));
            line(format_args!("ClientToken: {client_id};{time};2"));
            line(format_args!("ClientTokenSignature: {}", signature(id)));
        }
    }
    match step.payload {
        Payload::None => {}
        Payload::Message(..) => {
            line(format_args!("Content-Type: multipart/mixed; boundary=\"{}\"", super::catalogue::BOUNDARY));
        }
        Payload::Soap(action, _) => {
            line(format_args!("Content-Type: text/xml; charset=utf-8"));
            line(format_args!("SOAPAction: \"{action}\""));
        }
        Payload::Notice(_) => line(format_args!("Content-Type: text/xml; charset=utf-8")),
        Payload::Packet(packet) => write_packet(packet, client, &mut line),
    }
    if !body.is_empty() || step.payload != Payload::None {
        line(format_args!("Content-Length: {}", body.len()));
    }
    line(format_args!("X-Load-Id: {}", std::str::from_utf8(&content::id_text(id)).unwrap_or_default()));
    match step.hold {
        Hold::No => {}
        Hold::Quiet => line(format_args!("X-Load: delay_ms={}", client.hold.as_millis())),
        Hold::Push => line(format_args!("X-Load: delay_ms={}&push", client.hold.as_millis())),
    }
    line(format_args!(""));
}

fn write_packet(packet: Packet, client: &Client, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let kind = match packet {
        Packet::Ping => "PING",
        Packet::Create => "CREATE-SESSION",
        Packet::Fragment(..) => "FRAGMENT",
        Packet::Close => "CLOSE-SESSION",
    };
    line(format_args!("BITS-Packet-Type: {kind}"));
    match packet {
        Packet::Ping => {}
        Packet::Create => line(format_args!("BITS-Supported-Protocols: {BITS_PROTOCOL}")),
        Packet::Fragment(..) | Packet::Close => {
            line(format_args!("BITS-Session-Id: {}", client.session.as_deref().unwrap_or("{}")));
        }
    }
    if let Packet::Fragment(first, last, total) = packet {
        line(format_args!("Content-Name: inventory"));
        line(format_args!("Content-Range: bytes {first}-{last}/{total}"));
    }
}

fn user_agent(agent: Agent) -> &'static str {
    match agent {
        Agent::Messaging => "ConfigMgr Messaging HTTP Sender",
        Agent::Client => "SMS CCM 5.0",
        Agent::Transfer => "Microsoft BITS/7.8",
        Agent::TaskSequence => "SMS CCM 5.0 TS",
        Agent::Update => "Windows-Update-Agent/10.0.10011.16384 Client-Protocol/2.71",
        Agent::Setup => "ccmsetup",
    }
}

fn body(step: &Step, client: &Client, id: &[u8]) -> Vec<u8> {
    match step.payload {
        Payload::None => Vec::new(),
        Payload::Message(endpoint, size) => message(endpoint, size, client, id),
        Payload::Packet(Packet::Fragment(first, last, _)) => letters(id, (last - first + 1) as usize),
        Payload::Packet(_) => Vec::new(),
        Payload::Soap(action, size) => {
            let name = action.rsplit('/').next().unwrap_or_default();
            let front = format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body><{name}>"
            );
            framed(&front, letters(id, size), &format!("</{name}></soap:Body></soap:Envelope>"))
        }
        Payload::Notice(class) => {
            let front = format!(
                "<Bgb{class}Message TimeStamp=\"{}\"><ClientID>{}</ClientID><Data>",
                time_text(client.utc),
                client_id(client.number)
            );
            framed(&front, letters(id, NOTICE_SIZE), &format!("</Data></Bgb{class}Message>"))
        }
    }
}

fn framed(front: &str, middle: Vec<u8>, end: &str) -> Vec<u8> {
    let mut body = front.as_bytes().to_vec();
    body.extend_from_slice(&middle);
    body.extend_from_slice(end.as_bytes());
    body
}

fn letters(id: &[u8], size: usize) -> Vec<u8> {
    let mut letters = vec![0; size];
    Pattern::new(id).fill(0, &mut letters);
    letters
}

/// The envelope in UTF-16, and a payload that begins as zlib does.
fn message(endpoint: &str, size: usize, client: &Client, id: &[u8]) -> Vec<u8> {
    let (number, time) = (client.number, time_text(client.utc));
    let (client_id, id_name) = (client_id(number), braced(number));
    let is_async = super::catalogue::message_reply(endpoint) == Reply::Taken;
    let mode = if is_async { "Async" } else { "Sync" };
    let proof = signature(u64::from(number));
    let envelope = format!(
        "<Msg ReplyCompression=\"zlib\" SchemaVersion=\"1.1\"><Body Type=\"ByteRange\" Length=\"{size}\" Offset=\"0\"/>\
         <CorrelationID>{{00000000-0000-0000-0000-000000000000}}</CorrelationID><Hooks><Hook2 Name=\"clientauth\">\
         <Property Name=\"AuthSenderMachine\">CLIENT{number}</Property><Property Name=\"ClientIDSignature\">{proof}</Property>\
         <Property Name=\"PayloadSignature\">{proof}</Property><Property Name=\"ClientCapabilities\">NonSSL</Property>\
         <Property Name=\"HashAlgorithm\">1.2.840.113549.1.1.11</Property></Hook2><Hook3 Name=\"zlib-compress\"/></Hooks>\
         <ID>{id_name}</ID><Payload Type=\"inline\"/><Priority>0</Priority><Protocol>http</Protocol><ReplyMode>{mode}</ReplyMode>\
         <ReplyTo>direct:CLIENT{number}:SccmMessaging</ReplyTo><SentTime>{time}</SentTime><SourceHost>CLIENT{number}</SourceHost>\
         <SourceID>{client_id}</SourceID><TargetAddress>mp:[http]{endpoint}</TargetAddress>\
         <TargetEndpoint>{endpoint}</TargetEndpoint><TargetHost>mp</TargetHost><Timeout>60000</Timeout></Msg>"
    );
    let mut body = part_head("text/plain; charset=UTF-16");
    body.extend_from_slice(&utf16(&envelope));
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(&part_head("application/octet-stream"));
    body.extend_from_slice(b"\x78\x9c");
    body.extend_from_slice(&letters(id, size));
    body.extend_from_slice(format!("\r\n--{}--\r\n", super::catalogue::BOUNDARY).as_bytes());
    body
}

fn signature(seed: u64) -> String {
    let mut random = Random::new(seed, 2);
    let mut text = String::with_capacity(SIGNATURE_SIZE);
    while text.len() < SIGNATURE_SIZE {
        let _ = write!(text, "{:016X}", random.next_u64());
    }
    text
}

/// Three parts of letters, as a token has them.
fn unsigned_token(seed: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = Random::new(seed, 3);
    let mut text = String::from("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJsb2FkZ2VuIn0");
    text.extend(
        (text.len()..TOKEN_SIZE - 344).map(|_| char::from(DIGITS[(random.next_u64() & 63) as usize])),
    );
    text.push('.');
    text.extend((0..342).map(|_| char::from(DIGITS[(random.next_u64() & 63) as usize])));
    text
}

/// `yyyy-MM-ddTHH:mm:ssZ` of seconds since 1970.
pub fn time_text(utc: u64) -> String {
    let (days, second) = (utc / 86_400, utc % 86_400);
    // Days counted from 1 March of the year 0 in eras of 400 years: leap days then end years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::super::features::{FEATURES, find};
    use super::*;
    use crate::wire;

    fn site() -> Site {
        Site {
            host: "cmg.example".into(),
            management_point: 72_057_594_037_927_941,
            update_point: 42,
            signer: None,
        }
    }

    fn made(feature: &str, index: usize) -> (String, Vec<u8>, Made) {
        let client = Client {
            number: 7,
            utc: 1_700_000_000,
            hold: Duration::from_millis(500),
            session: Some("{S}".into()),
            tag: None,
            token: None,
        };
        let made = make(&site(), &client, &FEATURES[find(feature).expect("known")], index, 3, 0xab);
        let body = match &made.request.body {
            RequestBody::Bytes(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        (String::from_utf8(made.request.head.clone()).expect("text"), body, made)
    }

    #[test]
    fn times_are_written_as_calendars_have_them() {
        for (utc, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(time_text(utc), text);
        }
    }

    #[test]
    fn a_message_has_two_parts_and_the_fields_of_a_client() {
        let (head, body, made) = made("policy", 0);
        assert!(
            head.starts_with(
                "CCM_POST /CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request HTTP/1.1\r\n"
            ),
            "{head}"
        );
        for field in [
            "Host: cmg.example",
            "User-Agent: ConfigMgr Messaging HTTP Sender",
            "Content-Type: multipart/mixed; boundary=\"aAbBcCdDv1234567890VxXyYzZ\"",
            "X-Load-Id: 00000000000000ab",
        ] {
            assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
        }
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(made.receipt.starts_with(&format!("len={} hash=", body.len())));
        let boundaries = body.windows(28).filter(|window| *window == b"--aAbBcCdDv1234567890VxXyYzZ").count();
        assert_eq!(boundaries, 3, "two parts and the end");
        assert_eq!(
            super::super::catalogue::target_endpoint(&body[..4096]).as_deref(),
            Some("MP_PolicyManager")
        );
    }

    #[test]
    fn every_request_is_one_that_a_strict_reader_takes() {
        for feature in FEATURES {
            for index in 0..feature.steps.len() {
                let (head, body, _) = made(feature.name, index);
                let found = wire::parse_request(head.as_bytes()).expect("valid").expect("complete");
                assert_eq!(found.size, head.len());
                let step = &feature.steps[index];
                assert_eq!(found.method, step.method.as_bytes());
                assert_eq!(found.framing, wire::Framing::Length(body.len() as u64), "{}", step.name);
                assert!(head.len() < 8 * 1024, "{}", head.len());
            }
        }
    }

    #[test]
    fn packets_parts_and_proofs_have_their_fields() {
        for (feature, index, fields) in [
            (
                "inventory",
                1,
                &[
                    "BITS-Packet-Type: CREATE-SESSION",
                    "BITS-Supported-Protocols: {7df0354d-249b-430f-820d-3d2a9bef4931}",
                    "Content-Length: 0",
                ][..],
            ),
            (
                "inventory",
                3,
                &[
                    "BITS-Packet-Type: FRAGMENT",
                    "BITS-Session-Id: {S}",
                    "Content-Range: bytes 81920-163839/300000",
                    "Content-Length: 81920",
                ],
            ),
            ("inventory", 6, &["BITS-Packet-Type: CLOSE-SESSION", "BITS-Session-Id: {S}"]),
            ("client-upgrade", 2, &["Range: bytes=1048576-2097151", "User-Agent: Microsoft BITS/7.8"]),
            ("policy", 1, &["ClientToken: GUID:00000007-4C0A-4D6E-9B21-10AD6E2B0007;2023-11-14T22:13:20Z;2"]),
            ("notifications", 1, &["X-Load: delay_ms=500"]),
            ("scripts", 0, &["X-Load: delay_ms=500&push"]),
            (
                "update-scan",
                4,
                &[
                    "SOAPAction: \"http://www.microsoft.com/SoftwareDistribution/Server/ClientWebService/SyncUpdates\"",
                ],
            ),
        ] {
            let (head, ..) = made(feature, index);
            for field in fields {
                assert!(head.contains(&format!("\r\n{field}\r\n")), "{feature} {index} {field}: {head}");
            }
        }
        let (head, ..) = made("client-install", 0);
        let tenant = crate::tokens::TENANT;
        let line = format!("GET /CCM_Proxy_ServerAuth/AADAuthInfo?TenantID={tenant} HTTP/1.1\r\n");
        assert!(head.starts_with(&line), "{head}");
        assert!(head.contains("\r\nAuthorization: Bearer eyJ"));
        let (head, ..) = made("update-scan", 0);
        assert!(head.starts_with("POST /CCM_Proxy_MutualAuth/42/SimpleAuthWebService/"), "{head}");
    }
}
