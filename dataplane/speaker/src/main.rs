//! The speaker: answers on the LAN for the addresses that this node owns.

use clap::Parser;
use lb_speaker::args::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.config()?;
    // Before the first thread starts.
    lb_runtime::malloc::limit_free_memory();
    lb_runtime::run(&args.common, lb_speaker::args::VERSION, |context| {
        lb_speaker::run(context, config)
    })
}
