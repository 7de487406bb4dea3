//! Fuzzes [`lb_fuzz::bpf_filter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb_fuzz::bpf_filter::target(bytes));
