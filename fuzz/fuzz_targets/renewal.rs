#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cmg::auth::fuzz::renewal(bytes));
