//! Fuzzes [`lb_fuzz::claims`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::claims::target(bytes));
