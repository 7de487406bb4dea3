//! `lab`: a real Kubernetes cluster on this machine, with cables to cut and power to switch off.

// The program's purpose is its output.
#![allow(clippy::print_stdout)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use lb_lab::metallb;
use lb_lab::{Lab, LabConfig, cached_images};

/// A real Kubernetes cluster on this machine: nodes in namespaces on one LAN, 192.168.50.0/24
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Name of the lab
    #[arg(long, global = true, default_value = "lab")]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the lab; does nothing if it is running
    Up {
        /// Number of nodes
        #[arg(long, default_value_t = 3)]
        nodes: usize,
    },
    /// Remove everything that belongs to the lab
    Down {
        /// Only if the lab has this token
        #[arg(long, hide = true)]
        token: Option<String>,
    },
    /// Run a command on a machine of the lab: client, cp, n1, n2, …
    Run {
        /// The machine
        machine: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Unplug a node's cables
    Cut {
        /// Number of the node
        node: usize,
    },
    /// Plug a node's cables in again
    Join {
        /// Number of the node
        node: usize,
    },
    /// Switch a node off without warning
    Crash {
        /// Number of the node
        node: usize,
    },
    /// Switch a node on
    Start {
        /// Number of the node
        node: usize,
    },
    /// Stop a program on a node with SIGSTOP
    Freeze {
        /// Number of the node
        node: usize,
        /// The program's file name, as in lb-speaker
        program: String,
    },
    /// Continue a stopped program
    Thaw {
        /// Number of the node
        node: usize,
        /// The program's file name
        program: String,
    },
    /// Import a container image on every node
    Load {
        /// Archive of the image
        image: PathBuf,
    },
    /// Print a log, or list the logs
    Logs {
        /// Name of the log, as in n1-kubelet
        log: Option<String>,
    },
    /// Install another load balancer in place of lb-operator
    #[command(alias = "peer")]
    Install {
        /// The load balancer
        #[arg(value_parser = ["metallb"])]
        load_balancer: String,
    },
}

fn main() -> ExitCode {
    lb_lab::exit("lab", run())
}

fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let name = &cli.which.name;
    let lab = || Lab::running(name);
    match cli.command {
        Command::Up { nodes } => up(name, nodes),
        Command::Down { token: None } => Lab::down(name),
        Command::Down { token: Some(token) } => Lab::down_if(name, &token),
        Command::Run { machine, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            // This process becomes the command, so that signals and the exit code are the command's.
            let error = lab()?.command(&machine, &words)?.exec();
            bail!("run {}: {error}", words.join(" "))
        }
        Command::Cut { node } => lab()?.cut(node),
        Command::Join { node } => lab()?.join(node),
        Command::Crash { node } => lab()?.crash(node),
        Command::Start { node } => lab()?.start(node),
        Command::Freeze { node, program } => lab()?.freeze(node, &program).map(report("stopped", &program)),
        Command::Thaw { node, program } => lab()?.thaw(node, &program).map(report("continued", &program)),
        Command::Load { image } => lab()?.load(&image),
        Command::Logs { log } => logs(&lab()?, log.as_deref()),
        Command::Install { load_balancer: _ } => metallb::install(&lab()?),
    }
}

fn up(name: &str, nodes: usize) -> anyhow::Result<()> {
    if let Ok(lab) = Lab::running(name)
        && lab.is_ready()
    {
        let found = lab.nodes().len();
        if found != nodes {
            bail!(
                "lab {name} is running with {found} nodes, not {nodes}: run `lab down --name {name}` first"
            );
        }
        println!(
            "lab {name} is up already: export KUBECONFIG={}",
            lab.kubeconfig().display()
        );
        return Ok(());
    }
    let mut images = cached_images()?;
    images.extend(lb_lab::operator_images());
    let lab = Lab::up(LabConfig {
        nodes,
        images,
        ..LabConfig::named(name)
    })?;
    println!(
        "lab {name} is up: export KUBECONFIG={}",
        lab.kubeconfig().display()
    );
    lab.leave_up()
}

fn logs(lab: &Lab, log: Option<&str>) -> anyhow::Result<()> {
    let directory = lab.logs();
    let Some(log) = log else {
        let mut names: Vec<_> = std::fs::read_dir(&directory)?
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        println!("{}\n\nin {}", names.join("\n"), directory.display());
        return Ok(());
    };
    let path = directory.join(format!("{log}.log"));
    let Ok(mut file) = std::fs::File::open(&path) else {
        bail!("there is no log {log}: list the logs with `lab logs`");
    };
    std::io::copy(&mut file, &mut std::io::stdout())?;
    Ok(())
}

fn report(state: &'static str, program: &str) -> impl FnOnce(usize) {
    move |count| println!("{program}: {count} processes, {state}")
}
