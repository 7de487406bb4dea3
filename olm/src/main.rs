//! Writes the bundle and the catalog: `bundlegen --out olm` for the repository, with image tags; with `--digest` for a
//! release.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use lb_olm::{ARCHITECTURES, BundleInput, Digests, REGISTRY, repository};

/// Write the bundle and the catalog for the Operator Lifecycle Manager
#[derive(Debug, Parser)]
#[command(name = "bundlegen")]
struct Args {
    /// Root directory of the repository
    #[arg(long, default_value = ".")]
    repository: PathBuf,
    /// Output directory
    #[arg(long)]
    out: PathBuf,
    /// Registry and path of the images
    #[arg(long, default_value = REGISTRY)]
    registry: String,
    /// Digest of an image as PROGRAM=sha256:…, once for each of operator, controller and speaker
    #[arg(long, value_parser = digest)]
    digest: Vec<(String, String)>,
    /// Time of the release (RFC 3339)
    #[arg(long)]
    created_at: Option<String>,
    /// Architecture of the images (amd64, arm64), once for each
    #[arg(long, default_values = ARCHITECTURES)]
    architecture: Vec<String>,
    /// Image of the bundle, with its digest
    #[arg(long)]
    bundle_image: Option<String>,
    /// Path of the helm program
    #[arg(long, default_value = "helm")]
    helm: PathBuf,
}

fn digest(text: &str) -> Result<(String, String), String> {
    let (program, digest) = text.split_once('=').ok_or("expected PROGRAM=sha256:…")?;
    Ok((program.to_owned(), digest.to_owned()))
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let input = BundleInput {
        digests: Digests::new(args.digest)?,
        created_at: args.created_at,
        architectures: args.architecture,
        bundle_image: args.bundle_image,
        ..repository::input(&args.repository, &args.helm, &args.registry)?
    };
    // Copies the bundles of earlier releases into another output directory.
    for release in &input.releases {
        let path = release.path();
        write(
            &args.out.join(&path),
            &repository::read(&args.repository, &format!("olm/{path}"))?,
        )?;
    }
    for file in lb_olm::files(&input)? {
        write(&args.out.join(&file.path), &file.text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let failed = || format!("write {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
