//! Writes the Grafana dashboards of the chart.

use std::path::PathBuf;

use anyhow::Context as _;
use lb_tools::dashboards::DASHBOARDS;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .context("usage: dashboards DIRECTORY")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)?;
    for dashboard in DASHBOARDS {
        let path = directory.join(format!("{}.json", dashboard.name));
        let text = serde_json::to_string_pretty(&dashboard.json())?;
        std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
