//! Fuzzes [`lb_fuzz::text`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::text::target(bytes));
