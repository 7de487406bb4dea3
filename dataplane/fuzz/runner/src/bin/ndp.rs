//! Fuzzes [`lb_fuzz::ndp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::ndp::target(bytes));
