//! The API types: `metallb.io/v1beta1`, compatible with MetalLB, and `lb-operator.io/v1alpha1`.
//!
//! `kubectl explain` shows the doc comments of fields. The binary `crdgen` (`make generate`) writes the YAML in
//! `crds/` and in the chart from the types; a test fails if it is stale.
//!
//! | module | content |
//! | --- | --- |
//! | [`ip_address_pool`], [`l2_advertisement`] | the kinds of `metallb.io` that users write |
//! | [`bgp_peer`], [`bgp_advertisement`], [`bfd_profile`], [`community`] | the same, for BGP |
//! | [`service_l2_status`], [`configuration_state`] | the kinds of `metallb.io` that programs write |
//! | [`load_balancer_stack`] | the kind of `lb-operator.io` |
//! | [`names`] | annotations, labels, ports and object names |
//! | [`address_range`] | the syntax of a pool's `addresses` |
//! | [`go_duration`] | durations such as `1m30s` |
//! | [`selector`] | label selectors: matching and validation |
//! | [`condition`] | conditions of a status |
//! | [`crd`] | the CustomResourceDefinitions |

// The derive macros repeat `pub` types inside of functions.
#![allow(unreachable_pub)]
// Several printer columns have the same attributes.
#![allow(clippy::duplicated_attributes)]

pub mod address_range;
mod api_enum;
pub mod bfd_profile;
pub mod bgp_advertisement;
pub mod bgp_peer;
pub mod community;
pub mod condition;
pub mod configuration_state;
pub mod crd;
pub mod go_duration;
pub mod ip_address_pool;
pub mod l2_advertisement;
pub mod load_balancer_stack;
pub mod names;
mod schema;
pub mod selector;
pub mod service_l2_status;

pub use address_range::{AddressRange, AddressRangeError};
pub use api_enum::kebab_case;
pub use bfd_profile::{BFDProfile, BFDProfileSpec, BFDProfileStatus};
pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec, BGPAdvertisementStatus};
pub use bgp_peer::{BGPPeer, BGPPeerSpec, BGPPeerStatus, SecretReference};
pub use community::{
    Community, CommunityAlias, CommunityError, CommunitySpec, CommunityStatus, CommunityValue,
};
pub use condition::{ConditionStatus, set_condition};
pub use configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use crd::{metallb_crds, stack_crd};
pub use ip_address_pool::{
    IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ReleasedAddress, ServiceAllocation,
};
pub use l2_advertisement::{
    L2Advertisement, L2AdvertisementSpec, L2AdvertisementStatus, PreferredNodeSelector,
};
pub use load_balancer_stack::{
    ComponentStatus, InstallMode, LoadBalancerStack, LoadBalancerStackSpec, LoadBalancerStackStatus, LogLevel,
};
pub use service_l2_status::{InterfaceInfo, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};
