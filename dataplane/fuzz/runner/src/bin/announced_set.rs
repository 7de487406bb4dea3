//! Fuzzes [`lb_fuzz::announced_set`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::announced_set::target(bytes));
