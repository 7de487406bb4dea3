//! Fuzzes [`lb_fuzz::bfd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::bfd::target(bytes));
