//! Fuzz targets: functions over arbitrary bytes that panic when an invariant is violated.
//!
//! `make fuzz` runs each target under libFuzzer with the programs in `runner/`. That crate is not a member of the
//! workspace, because it needs a C++ compiler. `tests/corpus.rs` replays the corpora and mutations of them in
//! `cargo test`.
//!
//! The crate libfuzzer-sys builds libFuzzer from source. It runs with stable Rust, because the flags in `run.sh` enable
//! the instrumentation pass of LLVM without a sanitizer. cargo-fuzz requires a nightly toolchain for sanitizers, which
//! find memory errors in unsafe code; the fuzzed code is safe.
//!
//! | target | input |
//! | --- | --- |
//! | [`bfd`] | BFD packets in the name of a router, at any time, with restarts and changed settings |
//! | [`arp`] | ARP frames from any host on the LAN |
//! | [`ndp`] | Neighbor Discovery frames from any host on the LAN |
//! | [`bpf_filter`] | both, as the kernel filter sees them |
//! | [`heartbeat`] | datagrams from any host that reaches the port, with and without a valid key |
//! | [`announced_set`] | fragments in authentic datagrams |
//! | [`coordinator`] | all of these in any order and at any time, with the state of the API |
//! | [`user_input`] | text in pools, Services and selectors |

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target fails by panicking"
)]

pub mod announced_set;
pub mod arp;
pub mod bfd;
pub mod bpf_filter;
mod bytes;
pub mod coordinator;
pub mod heartbeat;
pub mod ndp;
pub mod user_input;

/// Panics if an invariant is violated.
pub type Target = fn(&[u8]);

/// All targets with their names, which are also those of their programs in `runner/src/bin` and their directories in
/// `corpus`.
pub const TARGETS: [(&str, Target); 8] = [
    ("bfd", bfd::target),
    ("arp", arp::target),
    ("ndp", ndp::target),
    ("bpf_filter", bpf_filter::target),
    ("heartbeat", heartbeat::target),
    ("announced_set", announced_set::target),
    ("coordinator", coordinator::target),
    ("user_input", user_input::target),
];
