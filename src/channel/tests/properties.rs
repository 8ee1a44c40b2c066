//! What holds for every message, by proptest.

use proptest::prelude::*;

use crate::channel::*;
use crate::limits::FRAME_PAYLOAD_SIZE_MAX;

fn token() -> impl Strategy<Value = Vec<u8>> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}".prop_map(String::into_bytes)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    "([!-~]([ -~]{0,200}[!-~])?)?".prop_map(String::into_bytes)
}

/// `Upgrade` is only where there is a tunnel.
fn name() -> impl Strategy<Value = Vec<u8>> {
    token().prop_filter("no tunnel", |name| !name.eq_ignore_ascii_case(message::UPGRADE))
}

fn fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    prop::collection::vec((name(), value()), 0..110)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_request_reads_back_or_does_not_fit(
        method in token(), target in "/[!-\"$-~]{0,300}", host in "[!-~]{0,60}", fields in fields(),
        length in proptest::option::of(any::<u64>()), request_id in any::<[u8; 16]>(), window in 1..=65_536_u32,
    ) {
        let start = RequestStart {
            request_id, identity: 3, window, has_body: true, length, is_tunnel: false,
            expect_continue: length.is_some(), method: &method, target: target.as_bytes(), host: host.as_bytes(),
        };
        let mut out = b"before".to_vec();
        let mut writer = RequestWriter::new(&mut out, &start).unwrap();
        let taken = fields.iter().take_while(|(name, value)| writer.field(name, value).is_ok()).count();
        writer.finish();
        let payload = &out[6..];
        prop_assert!(payload.len() <= FRAME_PAYLOAD_SIZE_MAX);
        prop_assert!(taken == fields.len().min(100) || payload.len() > FRAME_PAYLOAD_SIZE_MAX - 300);
        let read = RequestMessage::parse(payload).unwrap();
        prop_assert_eq!(*read, start);
        for (field, (name, value)) in read.fields().zip(&fields) {
            prop_assert_eq!((field.name, field.value), (&name[..], &value[..]));
        }
        prop_assert_eq!(read.fields().count(), taken);
    }

    #[test]
    fn a_message_cut_or_prolonged_never_reads(fields in fields(), cut in 0..60_usize) {
        let start = ResponseStart { status: 404, reason: b"Not Found", length: Some(7), body: Body::None };
        let mut out = Vec::new();
        let mut writer = ResponseWriter::new(&mut out, &start).unwrap();
        let _ = fields.iter().take_while(|(name, value)| writer.field(name, value).is_ok()).count();
        writer.finish();
        prop_assert_eq!(*ResponseMessage::parse(&out).unwrap(), start);
        let shorter = &out[..out.len().saturating_sub(1 + cut)];
        prop_assert!(ResponseMessage::parse(shorter).is_err());
        out.push(0);
        prop_assert!(ResponseMessage::parse(&out).is_err());
    }
}
