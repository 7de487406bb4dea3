//! Writes container images: `image build` for a program of this project, `image releases` for the releases in upgrade tests,
//! `image pack` for a tree of files. `image digest` prints the digest of one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use lb_tools::image::{Image, digest_of, write_all};
use lb_tools::{REGISTRY, releases};

/// Write container images without Docker
#[derive(Debug, Parser)]
#[command(name = "image")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the image of a program of this project
    Build {
        /// operator, controller or speaker
        #[arg(long)]
        program: String,
        /// The program's static binary
        #[arg(long)]
        binary: PathBuf,
        /// Version, which becomes the tag
        #[arg(long)]
        version: String,
        /// Registry and path of its name
        #[arg(long, default_value = REGISTRY)]
        registry: String,
        /// Commit it was built from
        #[arg(long)]
        revision: String,
        /// The archive to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the images of the releases for upgrade tests, in one archive
    Releases {
        /// The static binary that plays all of them
        #[arg(long)]
        binary: PathBuf,
        /// The archive to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Write an image of all files below a directory
    Pack {
        /// Name with a tag
        #[arg(long)]
        name: String,
        /// The directory that becomes the root of the image
        #[arg(long)]
        root: PathBuf,
        /// The program and its arguments; repeat for each word
        #[arg(long, allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// A label as NAME=VALUE; repeat for each
        #[arg(long, value_parser = label)]
        label: Vec<(String, String)>,
        /// More arguments, which a pod may replace; repeat for each word
        #[arg(long, allow_hyphen_values = true)]
        command: Vec<String>,
        /// The archive to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the digest of the image in an archive
    Digest {
        /// The archive
        archive: PathBuf,
    },
}

/// User and group of the programs, unless a pod sets others, as the speaker's pod does for NET_RAW.
const USER: &str = "65532:65532";

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Build {
            program,
            binary,
            version,
            registry,
            revision,
            out,
        } => {
            let path = format!("/lb-{program}");
            let labels = [
                ("title", format!("lb-{program}")),
                (
                    "description",
                    format!("The {program} of lb-operator, load balancing for bare-metal Kubernetes"),
                ),
                ("version", version.clone()),
                ("revision", revision),
                ("licenses", "Apache-2.0".to_owned()),
            ];
            let image = Image {
                name: format!("{}/{program}:{version}", registry.trim_end_matches('/')),
                files: BTreeMap::from([(path.clone().into(), binary)]),
                entrypoint: vec![path],
                user: USER.to_owned(),
                labels: labels
                    .into_iter()
                    .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value))
                    .collect(),
                ..Image::default()
            };
            image.write(&out)
        }
        Command::Releases { binary, out } => write_all(&releases::images(&binary, USER)?, &out),
        Command::Pack {
            name,
            root,
            entrypoint,
            label,
            command,
            out,
        } => {
            let mut image = Image {
                name,
                entrypoint,
                command,
                labels: label.into_iter().collect(),
                ..Image::default()
            };
            image.add_tree(&root)?;
            image.write(&out)
        }
        Command::Digest { archive } => {
            let digest = digest_of(&archive)?;
            writeln!(std::io::stdout(), "{digest}").context("print the digest")
        }
    }
}
