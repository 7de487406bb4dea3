//! Address allocation: ranges, pools, address requests, and the allocator that assigns addresses to Services.
//!
//! Pure: no clock, no random numbers, no I/O; the same calls give the same results on every machine. Memory grows with
//! the assigned addresses, not with the size of a pool (a /8 or a /64 costs the same), and every operation is O(log n).
//!
//! | module | contents |
//! | --- | --- |
//! | [`range`] | address families and ranges |
//! | [`addresses`] | the addresses of one Service: at most one of each family |
//! | [`assignment`] | the addresses of one Service with the pool of each |
//! | [`families`], [`request`] | which families, pool or addresses a Service requests |
//! | [`sharing`] | when Services may share an address |
//! | [`pool_spec`], [`pool`] | the configuration of a pool, and its usage |
//! | [`pool_error`], [`pools`] | validation of a set of pools |
//! | `address_space` | maps the addresses of a pool to consecutive positions |
//! | [`interval_set`], `hold_down` | positions in use, and positions released recently |
//! | `holders`, `shared_addresses` | the Services of each address, and the shared addresses by key |
//! | [`rejection`] | why a Service gets no address |
//! | [`allocator`] | assigns, adopts and releases addresses |

mod address_space;
pub mod addresses;
pub mod allocator;
pub mod assignment;
pub mod families;
mod hold_down;
mod holders;
pub mod interval_set;
pub mod pool;
pub mod pool_error;
pub mod pool_spec;
pub mod pools;
pub mod range;
pub mod rejection;
pub mod request;
mod shared_addresses;
pub mod sharing;

pub use addresses::Addresses;
pub use allocator::{AdoptRequest, Allocator, Assigned, ClearedService, PoolChanges, PoolFilter};
pub use assignment::{Assignment, Origin, RecordedPools};
pub use families::{Families, IpFamilyPolicy};
pub use holders::ServiceId;
pub use pool::Pool;
pub use pool_error::PoolError;
pub use pool_spec::{Access, AllocationStrategy, PoolAnnotations, PoolSpec, SharingScope};
pub use pools::PoolCandidate;
pub use range::{Family, Range};
pub use rejection::Rejection;
pub use request::{AddressRequest, RawRequest, Request};
pub use sharing::{Port, Sharing, SharingMode};
