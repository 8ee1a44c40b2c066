use super::*;
use crate::channel::{RequestStart, RequestWriter, ResponseMessage};
use crate::http::{FieldScratch, Parsed, parse_response};
use crate::settings::SiteSettings;

const TARGET: &[u8] = b"/CCM_Proxy_MutualAuth/7/app/x";

fn mapping() -> UrlMapping {
    let text =
        "code = \"PS1\"\nserial = 1\n[[endpoint]]\nid = 7\npath = \"app\"\nurl = \"http://in.corp/base\"\n";
    SiteSettings::parse(text, "site.toml").unwrap().url_mapping()
}

fn start() -> RequestStart<'static> {
    RequestStart {
        request_id: [0xa0; 16],
        identity: 0,
        window: 1,
        has_body: false,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"GET",
        target: TARGET,
        host: b"cmg.example:443",
    }
}

fn written(start: &RequestStart<'_>, fields: &[(&str, &str)], client: Option<&Client>) -> String {
    let mut open = Vec::new();
    let mut writer = RequestWriter::new(&mut open, start).unwrap();
    for (name, value) in fields {
        writer.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    writer.finish();
    let request = RequestMessage::parse(&open).unwrap();
    let mapping = mapping();
    let mapped = mapping.map(request.target).unwrap();
    let mut out = Vec::new();
    write_request(&mut out, &request, &mapped, "in.corp", client);
    String::from_utf8(out).unwrap()
}

const ID: &str = "X-CMG-Request-Id: a0a0a0a0-a0a0-a0a0-a0a0-a0a0a0a0a0a0\r\n";

#[test]
fn the_origin_is_told_its_own_authority_and_the_internal_target() {
    let text = written(&start(), &[("Accept", "*/*")], None);
    assert_eq!(text, format!("GET /base/x HTTP/1.1\r\nHost: in.corp\r\nAccept: */*\r\n{ID}\r\n"));
}

#[test]
fn a_body_leaves_with_the_length_it_came_with_or_chunked() {
    for (has_body, length, expected) in [
        (true, Some(5), "Content-Length: 5\r\n"),
        (false, Some(0), "Content-Length: 0\r\n"),
        (true, None, "Transfer-Encoding: chunked\r\n"),
        (false, None, ""),
    ] {
        let text = written(&RequestStart { has_body, length, ..start() }, &[], None);
        assert_eq!(text, format!("GET /base/x HTTP/1.1\r\nHost: in.corp\r\n{expected}{ID}\r\n"));
    }
    let expecting = RequestStart { has_body: true, length: Some(1), expect_continue: true, ..start() };
    assert!(written(&expecting, &[], None).contains("\r\nExpect: 100-continue\r\n"));
}

#[test]
fn an_upgrade_is_written_anew_and_only_for_a_tunnel() {
    let asking = RequestStart { has_body: true, is_tunnel: true, ..start() };
    let fields = [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"), ("Connection", "close")];
    let text = written(&asking, &fields, None);
    let upgrade = "Sec-WebSocket-Version: 13\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(text, format!("GET /base/x HTTP/1.1\r\nHost: in.corp\r\n{upgrade}{ID}\r\n"));
}

#[test]
fn what_could_speak_for_somebody_else_does_not_reach_the_origin() {
    let forged = [
        ("Forwarded", "for=10.0.0.1"),
        ("Client_Cert", ":AAAA:"),
        ("X-Forwarded-Host", "a"),
        ("X-CMG-Request-Id", "1"),
        ("Connection", "X"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "7"),
        ("Authorization", "NTLM TlRM"),
        ("authorization", "negotiate YII"),
    ];
    assert_eq!(written(&start(), &forged, None), written(&start(), &[], None));
    let basic = written(&start(), &[("Authorization", "Basic bmVnb3RpYXRl")], None);
    assert!(basic.contains("\r\nAuthorization: Basic bmVnb3RpYXRl\r\n"));
}

#[test]
fn an_identity_is_told_where_the_endpoint_forwards_it() {
    for (peer, leaf, expected) in [
        ("192.0.2.7", None, "Forwarded: for=192.0.2.7;host=\"cmg.example:443\";proto=https\r\n"),
        (
            "2001:db8::1",
            Some(b"leaf".as_slice()),
            "Forwarded: for=\"[2001:db8::1]\";host=\"cmg.example:443\";proto=https\r\nClient-Cert: :bGVhZg==:\r\n",
        ),
    ] {
        let client = Client::new(&Identity { peer: peer.parse().unwrap(), leaf });
        let text = written(&start(), &[], Some(&client));
        assert!(text.ends_with(&format!("{ID}{expected}\r\n")), "{text}");
    }
    let client = Client::new(&Identity { peer: IpAddr::from([192, 0, 2, 7]), leaf: None });
    let odd = RequestStart { host: b"a\";for=1", ..start() };
    assert!(written(&odd, &[], Some(&client)).contains("Forwarded: for=192.0.2.7;proto=https\r\n"));
}

fn answered(head: &str, is_head: bool) -> Result<(Vec<u8>, Written), Refused> {
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { head, .. }) = parse_response(head.as_bytes(), is_head, &mut scratch) else {
        panic!("a whole head")
    };
    let mapping = mapping();
    let mapped = mapping.map(TARGET).unwrap();
    let mut out = Vec::new();
    let written = write_answer(&mut out, &head, &mapping, &mapped)?;
    Ok((out, written))
}

#[test]
fn a_reason_from_400_up_names_the_hop_and_has_no_blanks() {
    for (line, reason) in [
        ("200 All Right", "All Right"),
        ("404 Not Found", "CMGConnector_NotFound"),
        ("404 ", "CMGConnector_NotFound"),
        ("418 ", "CMGConnector_I'mateapot"),
        ("599 ", "CMGConnector_Error"),
        ("500 a \u{fc} b", "CMGConnector_ab"),
    ] {
        let (out, _) = answered(&format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"), false).unwrap();
        let message = ResponseMessage::parse(&out).unwrap();
        assert_eq!(String::from_utf8_lossy(message.reason), reason);
    }
    let long = format!("HTTP/1.1 500 {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(1000));
    let (out, _) = answered(&long, false).unwrap();
    assert_eq!(ResponseMessage::parse(&out).unwrap().reason.len(), REASON_SIZE_MAX);
}

#[test]
fn framing_is_told_as_declared() {
    for (head, is_head, length, body) in [
        ("200 OK\r\nContent-Length: 5", false, Some(5), Body::Length),
        ("200 OK\r\nContent-Length: 5", true, Some(5), Body::None),
        ("304 Not Modified\r\nContent-Length: 5", false, Some(5), Body::None),
        ("204 No Content\r\nContent-Length: 0", false, None, Body::None),
        ("103 Early Hints\r\nLink: <x>", false, None, Body::None),
        ("200 OK\r\nTransfer-Encoding: chunked", false, None, Body::Unknown),
        ("200 OK\r\nServer: x", false, None, Body::Unknown),
    ] {
        let (out, _) = answered(&format!("HTTP/1.1 {head}\r\n\r\n"), is_head).unwrap();
        let message = ResponseMessage::parse(&out).unwrap();
        assert_eq!((message.length, message.body), (length, body), "{head}");
    }
}

#[test]
fn an_answer_that_switches_tells_to_what_and_no_other_does() {
    for (status, protocol, body) in [(101, Some(&b"WebSocket"[..]), Body::Unknown), (426, None, Body::Length)]
    {
        let length = if status == 101 { "" } else { "Content-Length: 1\r\n" };
        let lines = "Connection: Upgrade\r\nUpgrade: WebSocket\r\n";
        let (out, _) = answered(&format!("HTTP/1.1 {status} X\r\n{lines}{length}\r\n"), false).unwrap();
        let message = ResponseMessage::parse(&out).unwrap();
        assert_eq!((message.protocol(), message.body), (protocol, body), "{status}");
    }
}

#[test]
fn a_location_is_mapped_back_or_refused() {
    for (status, location, expected) in [
        (302, "/base/y?z", Ok(Some("/CCM_Proxy_MutualAuth/7/app/y?z"))),
        (201, "http://in.corp/base/y", Ok(Some("/CCM_Proxy_MutualAuth/7/app/y"))),
        (302, "/elsewhere?token=secret", Err("the origin redirects to a path that is not mapped")),
        (302, "//a b/?token=secret", Err("the origin redirects to a path that is not mapped")),
        (
            302,
            "http://secret.corp:81/base/y?token=secret",
            Err("the origin redirects to a path on host secret.corp:81 that is not mapped"),
        ),
        (
            201,
            "https://in.corp/base/y",
            Err("the origin redirects to a path on host in.corp that is not mapped"),
        ),
        (200, "http://secret.corp/", Ok(None)),
    ] {
        let head = format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let told = answered(&head, false).map(|(out, _)| {
            let message = ResponseMessage::parse(&out).unwrap();
            message.fields().next().map(|field| String::from_utf8(field.value.to_vec()).unwrap())
        });
        let refused = |cause: &'static str| Refused::new(Refusal::Redirect, cause);
        let expected = expected.map(|value| value.map(str::to_owned)).map_err(refused);
        assert_eq!(told, expected, "{status} {location}");
    }
}

#[test]
fn logins_that_stay_with_a_connection_are_not_offered_on() {
    for (value, is_kept) in [
        ("NTLM", false),
        ("Negotiate YII=", false),
        ("Basic realm=\"x\", NTLM", false),
        ("Basic realm=\"ntlm\"", true),
        ("Bearer", true),
    ] {
        let head = format!("HTTP/1.1 401 X\r\nWWW-Authenticate: {value}\r\nContent-Length: 0\r\n\r\n");
        let (out, written) = answered(&head, false).unwrap();
        assert_eq!(ResponseMessage::parse(&out).unwrap().fields().count() == 1, is_kept, "{value}");
        assert_eq!(written.saw_connection_login, !is_kept, "{value}");
    }
}
