#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cmg::handover::fuzz::handover(bytes));
