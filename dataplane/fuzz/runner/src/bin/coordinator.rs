//! Fuzzes [`lb_fuzz::coordinator`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::coordinator::target(bytes));
