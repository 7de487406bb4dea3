//! `crdgen DIRECTORY`: writes the CustomResourceDefinitions into the repository's `crds/` and into the chart.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: crdgen DIRECTORY (the repository's crds/)");
        return ExitCode::FAILURE;
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for file in lb_crds::crd::files()? {
        let path = directory.join(&file.path);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&file.text) {
            std::fs::write(&path, &file.text)
                .map_err(|error| format!("write {}: {error}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(())
}
