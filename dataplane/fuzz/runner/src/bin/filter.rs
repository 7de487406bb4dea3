//! Fuzzes [`lb_fuzz::filter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::filter::target(bytes));
