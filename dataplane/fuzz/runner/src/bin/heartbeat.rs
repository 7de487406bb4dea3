//! Fuzzes [`lb_fuzz::heartbeat`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::heartbeat::target(bytes));
