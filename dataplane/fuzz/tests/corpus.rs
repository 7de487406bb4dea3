//! Every target holds for its corpus, what fuzzing has found worth keeping, and for thousands of mutations of it.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what is not there fails the test"
)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use lb_fuzz::{TARGETS, Target};

/// Mutations of all files of a target together.
const MUTATIONS: u64 = 1500;
/// Of all corpora together, in bytes: they are read by people, too.
const MOST_CORPUS: usize = 200 << 10;

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

/// Small and good enough: xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.roll(256) as u8
    }

    /// A few bytes changed, left out, put in or taken from another file.
    fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 => bytes.extend(other.iter().skip(at)),
                3 => {
                    let end = at + self.roll(9).min(bytes.len() - at);
                    bytes.drain(at..end);
                }
                change => {
                    let (flip, byte) = (1 << self.roll(8), self.byte());
                    if let Some(place) = bytes.get_mut(at) {
                        *place = if change == 4 { *place ^ flip } else { byte };
                    }
                }
            }
        }
        bytes
    }
}

/// What fails is shown as it is to be committed.
fn replay(target: Target, bytes: &[u8], what: &str) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        println!("{what} fails with {bytes:02x?}");
        resume_unwind(failure);
    }
}

#[test]
fn every_file_of_the_corpora_holds() {
    for (name, target) in TARGETS {
        for (path, bytes) in corpus(name) {
            replay(target, &bytes, &path.display().to_string());
        }
        replay(target, &[], name);
    }
}

#[test]
fn mutations_of_the_corpora_hold() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        for seed in 0..MUTATIONS {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let (one, other) = (dice.roll(files.len()), dice.roll(files.len()));
            let bytes = dice.mutate(&files[one].1, &files[other].1);
            replay(target, &bytes, &format!("{name}, seed {seed}"));
        }
    }
}

#[test]
fn every_target_has_its_program_and_a_small_corpus() {
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
        total <= MOST_CORPUS,
        "{total} bytes: shrink them with run.sh minimise"
    );
}
