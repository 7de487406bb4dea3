//! Shared runtime of the operator, the controller and the speaker: arguments, logging, health and metrics endpoints,
//! the API client, watches, events, leader election and shutdown. The `main` of each program is one call of [`run`].

pub mod args;
mod arguments;
pub mod backoff;
pub mod client;
pub mod error;
pub mod events;
pub mod health;
mod http;
pub mod leader;
pub mod lease;
mod logging;
pub mod malloc;
pub mod metrics;
pub mod object_key;
pub mod rate_limit;
mod runtime;
pub mod shutdown;
pub mod sleep;
pub mod text;
pub mod watch;

pub use args::CommonArgs;
pub use arguments::arguments;
pub use backoff::Backoff;
pub use health::{Health, ReadinessGate};
pub use object_key::ObjectKey;
pub use runtime::{Context, run};
pub use shutdown::Shutdown;
pub use sleep::sleep_until;
