//! What the cores of one request cost: reading its head, finding its endpoint, and one exchange over a
//! channel at both ends.

use std::hint::black_box;
use std::time::Instant;

use cmg::channel::{Body, Channel, Event, RequestStart, RequestWriter, ResponseStart, ResponseWriter, Side};
use cmg::http::{FieldScratch, Parsed, forwarded_request_fields, parse_request};
use cmg::limits;
use cmg::mapping::{Publication, PublishedTable, Role, RoleIds, RoleKind, StandardEndpoint};
use criterion::{Criterion, criterion_group, criterion_main};

const HEAD: &[u8] = b"CCM_POST /CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request HTTP/1.1\r\n\
    Host: cmg.example.org\r\nUser-Agent: ConfigMgr Messaging HTTP Sender\r\nAccept: */*\r\n\
    CCMClientID: GUID:8ab0eb7d-0c3f-4a5c-9c5e-2f7ad1b4d2a1\r\nCCMClientTimestamp: 2026-11-21T20:00:00Z\r\n\
    Content-Type: multipart/mixed; boundary=\"aAbBcCdDv1234567890VxXyYzZ\"\r\nContent-Length: 2048\r\n\
    Connection: keep-alive\r\n\r\n";
const TARGET: &[u8] = b"/CCM_Proxy_MutualAuth/72057594037927941/CCM_System/request";

fn head(criterion: &mut Criterion) {
    criterion.bench_function("read a request head", |bencher| {
        bencher.iter(|| {
            let mut scratch = FieldScratch::new();
            match parse_request(black_box(HEAD), &mut scratch) {
                Ok(Parsed::Complete { head, .. }) => forwarded_request_fields(&head).count(),
                Ok(Parsed::Partial) | Err(_) => unreachable!("a whole head"),
            }
        });
    });
}

fn mapping(criterion: &mut Criterion) {
    let kind = RoleKind::ManagementPoint;
    let endpoints = StandardEndpoint::of(kind).map(StandardEndpoint::endpoint).collect();
    let roles = [Role { id: 72_057_594_037_927_941, kind, endpoints }];
    let allowed = RoleIds::all();
    let (table, _) = PublishedTable::new([Publication { site: 0, roles: &roles, allowed: &allowed }]);
    criterion.bench_function("find a publishing endpoint", |bencher| {
        bencher.iter(|| table.find(black_box(TARGET)).is_ok());
    });
}

/// Moves what one end wants sent to the other; gives the event of the last frame's stream.
fn pass(from: &mut Channel, to: &mut Channel, now: Instant, mut event: impl FnMut(&mut Channel, Event<'_>)) {
    let bytes = from.transmit().to_vec();
    from.transmitted(bytes.len());
    let mut at = 0;
    while let Ok(Some((size, heard))) = to.handle_frame(&bytes[at..], now) {
        at += size;
        event(to, heard);
    }
}

fn exchange(criterion: &mut Criterion) {
    let now = Instant::now();
    let (mut gateway, mut connector) = (Channel::new(Side::Gateway, now), Channel::new(Side::Connector, now));
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    let start = RequestStart {
        request_id: [7; 16],
        identity: 0,
        window: limits::STREAM_WINDOW_INITIAL as u32,
        has_body: false,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"GET",
        target: TARGET,
        host: b"cmg.example.org",
    };
    RequestWriter::new(&mut request, &start).expect("a small head").finish();
    let start = ResponseStart { status: 200, reason: b"OK", length: Some(200), body: Body::Length };
    ResponseWriter::new(&mut answer, &start).expect("a small head").finish();
    criterion.bench_function("one exchange of 200 bytes, both ends", |bencher| {
        bencher.iter(|| {
            gateway.open(&request, 1).expect("room");
            let mut opened = None;
            pass(&mut gateway, &mut connector, now, |_, event| {
                if let Event::Opened { stream, .. } = event {
                    opened = Some(stream);
                }
            });
            let stream = opened.expect("a request");
            connector.head(stream, &answer).expect("room");
            connector.data(stream, &[b'x'; 200]);
            connector.end(stream, &[]);
            pass(&mut connector, &mut gateway, now, |gateway, event| {
                if let Event::Data { stream, data, .. } = event {
                    gateway.consumed(stream, data.len());
                }
            });
        });
    });
}

criterion_group!(cores, head, mapping, exchange);
criterion_main!(cores);
