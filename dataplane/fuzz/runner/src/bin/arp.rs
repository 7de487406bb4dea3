//! Fuzzes [`lb_fuzz::arp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::arp::target(bytes));
