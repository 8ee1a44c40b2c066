#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cmg::dispatch::fuzz::client_hello(bytes));
