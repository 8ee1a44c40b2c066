use crate::http::*;

fn request_names(lines: &str) -> Vec<String> {
    let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes(), &mut scratch) else {
        panic!("{text:?} is no head");
    };
    forwarded_request_fields(&head).map(|field| String::from_utf8(field.name.to_vec()).unwrap()).collect()
}

fn passes_to_origin(name: &str) -> bool {
    is_forwarded_request_field(name.as_bytes(), &ConnectionTokens::default())
}

fn passes_to_client(name: &str) -> bool {
    is_forwarded_response_field(name.as_bytes(), &ConnectionTokens::default())
}

#[test]
fn what_clients_of_a_site_send_passes() {
    for name in [
        "Accept",
        "Authorization",
        "CCMClientID",
        "CCMClientIDSignature",
        "CCMClientTimestamp",
        "ClientToken",
        "ClientTokenSignature",
        "Content-Type",
        "Content-Encoding",
        "Cookie",
        "Date",
        "If-Range",
        "Range",
        "Trailer",
        "User-Agent",
        "BITS-Packet-Type",
        "X-Requested-With",
        "TEx",
        "Hosts",
        "Client",
        "Upgrade-Insecure-Requests",
        "Forwarded-Id",
        "Expected",
        "Sec-WebSocket-Key",
        "Proxying",
        "SSL",
        "X",
    ] {
        assert!(passes_to_origin(name), "{name}");
    }
}

#[test]
fn fields_of_one_connection_pass_in_neither_direction() {
    for name in [
        "Connection",
        "keep-alive",
        "KEEP_ALIVE",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Proxy-Anything",
        "Proxy",
        "TE",
        "te",
        "Transfer-Encoding",
        "Transfer_Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Content-Length",
        "content_length",
        "Content.Length",
    ] {
        assert!(!passes_to_origin(name), "{name}");
        assert!(!passes_to_client(name), "{name}");
        assert!(!is_forwarded_trailer_field(name.as_bytes()), "{name}");
    }
}

#[test]
fn nobody_outside_can_say_who_asks() {
    for name in [
        "Client-Cert",
        "client_cert",
        "CLIENT-CERT-CHAIN",
        "Client-Certificate",
        "Client.Cert",
        "Forwarded",
        "FORWARDED",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded_Proto",
        "X-Forwarded",
        "X-Real-IP",
        "x_real_ip",
        "X-ARR-ClientCert",
        "X-Arr_ClientCert",
        "X-SSL-Client-Verify",
        "X_SSL_CERT",
        "SSL-Client-S-DN",
        "SSL_CLIENT_CERT",
        "X-Original-URL",
        "X-Rewrite-Url",
        "X_REWRITE_URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Host",
        "X-Client-Cert",
        "X_Client_IP",
        "X-Client-Verify",
        "X-Cluster-Client-IP",
        "True-Client-IP",
        "Remote-User",
        "REMOTE_ADDR",
        "X-Remote-User",
        "X-MS-Client-Principal-Name",
        "MS-ASPNETCORE-CLIENTCERT",
        "X-CMG-Request-Id",
        "X-CMG-Status",
        "x_cmg_anything",
        "Host",
        "Expect",
    ] {
        assert!(!passes_to_origin(name), "{name}");
        assert!(!is_forwarded_trailer_field(name.as_bytes()), "{name}");
    }
}

#[test]
fn an_origin_cannot_send_the_client_past_us() {
    for name in [
        "BITS-Host-Id",
        "bits_host_id",
        "BITS-Host-Id-Fallback-Timeout",
        "X-CMG-Status",
        "x-cmg-request-id",
        "Host",
    ] {
        assert!(!passes_to_client(name), "{name}");
    }
    for name in [
        "ETag",
        "Last-Modified",
        "Content-Range",
        "Location",
        "Set-Cookie",
        "Server",
        "BITS-Session-Id",
        "Vary",
    ] {
        assert!(passes_to_client(name), "{name}");
    }
}

#[test]
fn what_connection_names_stays_behind() {
    let names = request_names(
        "Connection: X-Hop, close\r\nx-hop: 1\r\nX-Hop-2: 2\r\nConnection: also\r\nAlso: 3\r\nA: 4\r\n",
    );
    assert_eq!(names, ["X-Hop-2", "A"]);
}

#[test]
fn order_and_repetition_are_kept() {
    assert_eq!(request_names("B: 1\r\nA: 2\r\nTE: trailers\r\nB: 3\r\n"), ["B", "A", "B"]);
}

#[test]
fn trailers_cannot_add_what_belongs_into_a_head() {
    for name in [
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "WWW-Authenticate",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Cache-Control",
        "If-Match",
        "Range",
        "Location",
        "Max-Forwards",
        "Trailer",
        "Vary",
        "Date",
    ] {
        assert!(!is_forwarded_trailer_field(name.as_bytes()), "{name}");
    }
    for name in ["Digest", "Server-Timing", "X-Checksum", "ETag"] {
        assert!(is_forwarded_trailer_field(name.as_bytes()), "{name}");
    }
}

#[test]
fn a_response_keeps_what_is_not_for_the_hop() {
    let text = b"HTTP/1.1 200 OK\r\nServer: s\r\nKeep-Alive: timeout=5\r\nConnection: x-y\r\nX-Y: 1\r\n\
        Content-Length: 3\r\nETag: \"e\"\r\n\r\n";
    let mut scratch = FieldScratch::new();
    let Ok(Parsed::Complete { head, .. }) = parse_response(text, false, &mut scratch) else {
        panic!("no head")
    };
    let names: Vec<&[u8]> = forwarded_response_fields(&head).map(|field| field.name).collect();
    assert_eq!(names, [b"Server".as_slice(), b"ETag"]);
}
