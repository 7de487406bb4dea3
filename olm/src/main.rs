//! Writes bundle and catalog: `bundlegen --out olm` for those of the repository, with images at their tags, and with
//! `--digest` for a release's.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use lb_olm::{Digests, Input, repository};

/// Write the bundle and the catalog for the Operator Lifecycle Manager
#[derive(Debug, Parser)]
#[command(name = "bundlegen")]
struct Args {
    /// The repository
    #[arg(long, default_value = ".")]
    repository: PathBuf,
    /// The directory to write to
    #[arg(long)]
    out: PathBuf,
    /// Digest of an image, as PROGRAM=sha256:…; give it once for each of operator, controller and speaker
    #[arg(long, value_parser = digest)]
    digest: Vec<(String, String)>,
    /// When the release was made, in RFC 3339
    #[arg(long)]
    created_at: Option<String>,
    /// The image that the bundle is pushed as, with its digest
    #[arg(long)]
    bundle_image: Option<String>,
    /// The program Helm
    #[arg(long, default_value = "helm")]
    helm: PathBuf,
}

fn digest(text: &str) -> Result<(String, String), String> {
    let (program, digest) = text.split_once('=').ok_or("it is to be PROGRAM=sha256:…")?;
    Ok((program.to_owned(), digest.to_owned()))
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let input = Input {
        digests: Digests::new(args.digest)?,
        created_at: args.created_at,
        bundle_image: args.bundle_image,
        ..repository::input(&args.repository, &args.helm)?
    };
    // A catalog elsewhere has the bundles of former releases too; where they are already, this writes nothing.
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
