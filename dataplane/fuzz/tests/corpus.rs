//! Runs every target on its corpus and on thousands of mutations of it.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a missing file fails the test"
)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use lb_fuzz::{TARGETS, Target};

/// Mutations per target.
const MUTATIONS: u64 = 1500;
/// Maximum total size of the corpora, in bytes.
const MAX_CORPUS_LEN: usize = 200 << 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = root().join("corpus").join(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// The random number generator xorshift64*.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// Changes, removes and inserts bytes, and appends some of another file.
    fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 => bytes.extend(other.iter().skip(at)),
                3 => {
                    let end = at + self.below(9).min(bytes.len() - at);
                    bytes.drain(at..end);
                }
                change => {
                    let (flip, byte) = (1 << self.below(8), self.byte());
                    if let Some(place) = bytes.get_mut(at) {
                        *place = if change == 4 { *place ^ flip } else { byte };
                    }
                }
            }
        }
        bytes
    }
}

/// Prints a failing input in the form in which it is committed.
fn replay(target: Target, bytes: &[u8], name: &str) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        println!("{name} fails with {bytes:02x?}");
        resume_unwind(failure);
    }
}

#[test]
fn corpora_pass() {
    for (name, target) in TARGETS {
        for (path, bytes) in corpus(name) {
            replay(target, &bytes, &path.display().to_string());
        }
        replay(target, &[], name);
    }
}

#[test]
fn mutations_of_the_corpora_pass() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        for seed in 0..MUTATIONS {
            let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let (one, other) = (rng.below(files.len()), rng.below(files.len()));
            let bytes = rng.mutate(&files[one].1, &files[other].1);
            replay(target, &bytes, &format!("{name}, seed {seed}"));
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_small_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let of = |directory: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(root().join(directory)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    assert_eq!(of("runner/src/bin"), names);
    assert_eq!(of("corpus"), names);
    let sizes = names.iter().flat_map(|name| corpus(name));
    let total: usize = sizes.map(|(_, bytes)| bytes.len()).sum();
    assert!(
        total <= MAX_CORPUS_LEN,
        "the corpora have {total} bytes: shrink them with run.sh minimize"
    );
}
