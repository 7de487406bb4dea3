//! Fuzz targets: each is one function over any bytes, which panics when something does not hold that must.
//!
//! They are used twice. The fuzzer (`make fuzz`) is the crate in `runner/`, with one program for each target; it is none of
//! the workspace, so that nobody else needs its C++ runtime. And `tests/corpus.rs` replays the corpora, and mutations of
//! them, with every `cargo test`.
//!
//! The fuzzer is libFuzzer, by the crate libfuzzer-sys alone: it is guided by coverage, is built from source with the
//! compiler that is there already, and runs with stable Rust, because the flags that instrument (`run.sh`) are those of
//! LLVM's pass and not of a sanitizer. cargo-fuzz, its usual front, wants a nightly toolchain for what it adds: sanitizers,
//! and they look for errors of memory in unsafe code, of which the targets have none.
//!
//! | target | what reaches it |
//! | --- | --- |
//! | [`arp`] | frames of any host on the LAN |
//! | [`ndp`] | the same for IPv6 |
//! | [`filter`] | the kernel's part of both: what wakes the speaker up |
//! | [`heartbeat`] | datagrams of any host that reaches the port, with and without the right key |
//! | [`claims`] | what authentic datagrams bring together |
//! | [`coordinator`] | all of that in any order and at any time, with what the API server says |
//! | [`text`] | what users write into pools, Services and selectors |

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target fails by panicking"
)]

pub mod arp;
mod bytes;
pub mod claims;
pub mod coordinator;
pub mod filter;
pub mod heartbeat;
pub mod ndp;
pub mod text;

/// A function over any bytes, which panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target by name: the name of its program in `runner/src/bin` and of its directory in `corpus`.
pub const TARGETS: [(&str, Target); 7] = [
    ("arp", arp::target),
    ("ndp", ndp::target),
    ("filter", filter::target),
    ("heartbeat", heartbeat::target),
    ("claims", claims::target),
    ("coordinator", coordinator::target),
    ("text", text::target),
];
