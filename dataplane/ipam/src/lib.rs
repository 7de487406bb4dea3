//! Which address a Service gets: ranges, pools, wishes and the allocator that holds them together.
//!
//! Pure: no clock, no randomness, no I/O; the same calls give the same answers on every machine. Nothing is ever
//! materialised: a /8 and a /64 cost what their assigned addresses cost, and every operation is O(log n).
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`range`] | families and ranges of addresses, as numbers |
//! | [`addresses`] | what one Service has: at most one address per family |
//! | [`free`] | which addresses of a pool are used, and the first that is not |
//! | `places` | a pool's addresses laid end to end |
//! | `rest` | which addresses were released lately |
//! | [`pool`] | one pool: ranges, switches, use |
//! | [`pools`] | which pools of a set are valid, and why the others are not |
//! | [`request`] | what a Service asks for |
//! | [`reason`] | every reason not to give it, in words |
//! | [`sharing`] | when Services may have one address together |
//! | [`assignment`] | what a Service has, and where it is from |
//! | `tenants` | who has an address |
//! | [`allocator`] | who has what: assign, adopt, release |

pub mod addresses;
pub mod allocator;
pub mod assignment;
pub mod free;
mod places;
pub mod pool;
pub mod pools;
pub mod range;
pub mod reason;
pub mod request;
mod rest;
pub mod sharing;
mod tenants;

pub use addresses::Addresses;
pub use allocator::{Allocator, Changed, Chosen, Cleared, Given, Keep};
pub use assignment::{Assignment, Claimed, Origin, Tenant};
pub use pool::{Access, Extras, Pool, PoolSpec, Strategy};
pub use pools::{Candidate, PoolError};
pub use range::{Family, Range};
pub use reason::Rejection;
pub use request::{DualStack, Families, Request, Wish};
pub use sharing::{Port, Sharing, Tenancy};
