//! What the three programs share: arguments, logging, health and metrics endpoints, guarded watches, event
//! recording, Lease leadership and shutdown. Each program's `main` is one call of [`run`].

pub mod args;
pub mod events;
pub mod health;
mod http;
pub mod key;
pub mod leader;
pub mod lease;
mod logging;
pub mod metrics;
mod program;
pub mod shutdown;
pub mod watch;

pub use args::CommonArgs;
pub use health::{Gate, Health};
pub use key::Key;
pub use program::{Context, run};
pub use shutdown::Shutdown;
