//! The speaker: answers on the LAN for the addresses that this node owns.

use lb_speaker::args::{Args, VERSION};

fn main() -> anyhow::Result<()> {
    let args: Args = lb_runtime::arguments(VERSION);
    let config = args.config()?;
    // Before the first thread starts.
    lb_runtime::malloc::limit_free_memory();
    lb_runtime::run(&args.common, VERSION, |context| lb_speaker::run(context, config))
}
