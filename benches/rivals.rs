//! What a reader will ask: the channel beside HTTP/2 and yamux, heads beside `httparse` alone and the types
//! of the crate `http`.
//!
//! `cargo bench --bench rivals [-- FILTER]`. Each does the same work, in one thread, over memory
//! (`rival/mod.rs`); what that means and who wins stands in `benches/README.md`.

mod fixtures;
mod rival;

use std::hint::black_box;

use cmg::http::{FieldScratch, Parsed, parse_request};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixtures::channel::STREAM_BODY;
use fixtures::heads::{ANSWER_SIZE, BITS, POLICY};
use rival::Rival;
use rival::heads::http_request;
use rival::http2::Http2;
use rival::ours::Ours;
use rival::yamux::Yamux;

fn heads(criterion: &mut Criterion) {
    for (name, bytes) in [("policy", POLICY), ("bits", BITS)] {
        let mut group = criterion.benchmark_group(format!("rivals/head-{name}"));
        group.bench_function("cmg", |bencher| {
            bencher.iter(|| {
                let mut scratch = FieldScratch::new();
                let parsed = parse_request(black_box(bytes), &mut scratch);
                assert!(matches!(black_box(parsed), Ok(Parsed::Complete { .. })));
            });
        });
        group.bench_function("httparse", |bencher| {
            bencher.iter(|| {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                let mut parsed = httparse::Request::new(&mut fields);
                assert!(parsed.parse(black_box(bytes)).is_ok());
                black_box(&parsed);
            });
        });
        group.bench_function("httparse+http", |bencher| {
            bencher.iter(|| black_box(http_request(black_box(bytes))));
        });
        group.finish();
    }
}

fn channels(criterion: &mut Criterion) {
    let rows =
        [("exchange-200", 1, ANSWER_SIZE), ("streams-1", 1, STREAM_BODY), ("streams-100", 100, STREAM_BODY)];
    for (name, count, size) in rows {
        let body = vec![b'x'; size];
        let mut group = criterion.benchmark_group(format!("rivals/{name}"));
        group.throughput(Throughput::Bytes((count * size) as u64));
        let mut run = |who: &str, mut rival: Box<dyn Rival>| {
            group.bench_function(who, |bencher| bencher.iter(|| rival.exchange(count, black_box(&body))));
        };
        run("cmg", Box::new(Ours::new()));
        run("h2", Box::new(Http2::new()));
        run("yamux", Box::new(Yamux::new()));
        group.finish();
    }
}

criterion_group!(benches, heads, channels);
criterion_main!(benches);
