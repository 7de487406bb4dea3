//! The controller: assigns addresses to Services.

use lb_controller::args::{Args, VERSION};

fn main() -> anyhow::Result<()> {
    let args: Args = lb_runtime::arguments(VERSION);
    let config = args.config();
    lb_runtime::run(&args.common, VERSION, |context| {
        lb_controller::run(context, config)
    })
}
