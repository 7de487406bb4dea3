//! Packages of the chart that install without a value.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Writes `lb-operator-VERSION.tgz`, whose images are `REGISTRY/PROGRAM:VERSION`, and returns its path.
///
/// # Errors
/// When `package-chart.sh` fails.
pub fn package(registry: &str, version: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("package-chart.sh");
    let output = Command::new(&script)
        .arg(registry)
        .arg(directory)
        .arg(version)
        .output()
        .with_context(|| format!("start {}", script.display()))?;
    if !output.status.success() {
        bail!("package-chart.sh: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(directory.join(format!("lb-operator-{version}.tgz")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::REGISTRY;

    #[test]
    fn same_chart_gives_same_bytes() {
        let packages = [(); 2].map(|()| {
            let directory = tempfile::tempdir().unwrap();
            std::fs::read(package(REGISTRY, "0.1.0", directory.path()).unwrap()).unwrap()
        });
        assert!(packages[0] == packages[1]);
    }
}
