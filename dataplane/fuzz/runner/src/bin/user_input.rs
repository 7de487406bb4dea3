//! Fuzzes [`lb_fuzz::user_input`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::user_input::target(bytes));
