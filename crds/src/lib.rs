//! The API types: `metallb.io/v1beta1`, exactly as MetalLB's users know it, and `lb-operator.io/v1alpha1`.
//!
//! One file per kind. The comments on fields are what `kubectl explain` shows. The YAML in `crds/` and in the chart is
//! generated from the types by the binary `crdgen` (`make generate`); a test fails when it is stale.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`ip_address_pool`], [`l2_advertisement`], [`service_l2_status`], [`configuration_state`] | the kinds of `metallb.io` |
//! | [`load_balancer_stack`] | the kind of `lb-operator.io` |
//! | [`names`] | annotations, labels, ports and object names |
//! | [`address_range`] | the syntax of a pool's `addresses` |
//! | [`selector`] | what a label selector chooses |
//! | [`condition`] | conditions of a status |
//! | [`definition`] | the CustomResourceDefinitions |

// The derive macros repeat the types inside of functions, where `pub` reaches nobody.
#![allow(unreachable_pub)]
// Columns of a table are of one type more often than not.
#![allow(clippy::duplicated_attributes)]

pub mod address_range;
pub mod condition;
pub mod configuration_state;
pub mod crd;
pub mod ip_address_pool;
pub mod l2_advertisement;
pub mod load_balancer_stack;
pub mod names;
mod schema;
pub mod selector;
pub mod service_l2_status;

pub use address_range::{AddressRange, AddressRangeError};
pub use condition::{ConditionStatus, set_condition};
pub use configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use crd::{metallb_crds, stack_crd};
pub use ip_address_pool::{
    IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ReleasedAddress, ServiceAllocation,
};
pub use l2_advertisement::{L2Advertisement, L2AdvertisementSpec, L2AdvertisementStatus};
pub use load_balancer_stack::{
    ComponentStatus, LoadBalancerStack, LoadBalancerStackSpec, LoadBalancerStackStatus, LogLevel, Mode,
};
pub use service_l2_status::{InterfaceInfo, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};
