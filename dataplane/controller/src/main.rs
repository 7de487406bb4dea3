//! The controller: assigns addresses to Services.

use clap::Parser;
use lb_controller::args::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.config();
    lb_runtime::run(&args.common, lb_controller::args::VERSION, |context| {
        lb_controller::run(context, config)
    })
}
