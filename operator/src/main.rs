//! The program lb-operator.

use clap::Parser;
use lb_operator::args::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = args.config();
    lb_runtime::run(&args.common, lb_operator::args::VERSION, |context| {
        lb_operator::run(context, config)
    })
}
