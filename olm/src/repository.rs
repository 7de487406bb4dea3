//! Reads the input of the generator from the repository, and renders the chart with Helm.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{ARCHITECTURES, BundleInput, Chart, Digests, NAMESPACE, RELEASE, Release};

/// The input for a bundle with the images of a registry, by their tags.
///
/// # Errors
/// If a file cannot be read, or Helm cannot render the chart.
pub fn input(repository: &Path, helm: &Path, registry: &str) -> anyhow::Result<BundleInput> {
    let rendered = render(repository, helm, registry)?;
    Ok(BundleInput {
        chart: Chart::new(&read(repository, "charts/lb-operator/Chart.yaml")?, &rendered)?,
        readme: read(repository, "README.md")?,
        stack: read(repository, "charts/lb-operator/examples/stack.yaml")?,
        digests: Digests::default(),
        created_at: None,
        registry: registry.trim_end_matches('/').to_owned(),
        architectures: ARCHITECTURES.map(str::to_owned).to_vec(),
        bundle_image: None,
        releases: releases(&repository.join("olm/catalog/lb-operator"))?,
    })
}

/// Reads a file of the repository.
///
/// # Errors
/// If the file cannot be read.
pub fn read(repository: &Path, path: &str) -> anyhow::Result<String> {
    let path = repository.join(path);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The output of `helm template` with the images of a registry.
///
/// # Errors
/// If Helm cannot be started or fails.
pub fn render(repository: &Path, helm: &Path, registry: &str) -> anyhow::Result<String> {
    let output = Command::new(helm)
        .args([
            "template",
            RELEASE,
            "charts/lb-operator",
            "--namespace",
            NAMESPACE,
            "--set-string",
            &format!("image.registry={registry}"),
        ])
        .current_dir(repository)
        .output()
        .with_context(|| format!("start {}: run `make setup`", helm.display()))?;
    if !output.status.success() {
        bail!("helm template: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("helm template printed invalid UTF-8")
}

/// The releases in the catalog of the repository.
fn releases(directory: &Path) -> anyhow::Result<Vec<Release>> {
    let mut releases = Vec::new();
    if directory.exists() {
        for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
            releases.extend(Release::of_file(&entry?.file_name().to_string_lossy()));
        }
    }
    Ok(releases)
}
