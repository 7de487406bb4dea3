//! Command-line arguments, and what `--version` does.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

/// Where the kubelet reads a container's termination message.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Parses the arguments of this process. `--version` prints the version and writes it to the container's termination
/// message: before an upgrade, the operator compares it with the version that it expects in the image.
#[must_use]
pub fn arguments<A: CommandFactory + FromArgMatches>(version: &'static str) -> A {
    let matches = A::command().version(version).try_get_matches();
    let parsed = matches.and_then(|matches| A::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| {
        if error.kind() == ErrorKind::DisplayVersion {
            report_version(Path::new(TERMINATION_LOG), version);
        }
        error.exit()
    })
}

/// Outside of a container there is no such file, and none is created.
fn report_version(file: &Path, version: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).open(file) {
        // Nobody could read of a failure: the operator then cannot compare the version.
        let _ = file.write_all(version.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_written_only_to_an_existing_file() {
        let file = std::env::temp_dir().join(format!("termination-log-{}", std::process::id()));
        report_version(&file, "0.1.0");
        assert!(!file.exists());
        std::fs::write(&file, "").unwrap();
        report_version(&file, "0.1.0");
        let written = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(written, "0.1.0");
    }
}
