//! The program lb-operator.

use lb_operator::args::{Args, VERSION};

fn main() -> anyhow::Result<()> {
    let args: Args = lb_runtime::arguments(VERSION);
    let config = args.config();
    lb_runtime::run(&args.common, VERSION, |context| lb_operator::run(context, config))
}
