//! What the three programs share: arguments, logging, health and metrics endpoints, guarded watches, event
//! recording, Lease leadership and shutdown. Each program's `main` is one call of [`run`].

pub mod args;
pub mod events;
pub mod health;
mod http;
pub mod leader;
pub mod lease;
mod logging;
pub mod metrics;
pub mod object_key;
mod runtime;
pub mod shutdown;
pub mod watch;

pub use args::CommonArgs;
pub use health::{Gate, Health};
pub use object_key::Key;
pub use runtime::{Context, run};
pub use shutdown::Shutdown;
