//! The objects that the controller writes.

use std::fmt;

use lb_crds::names::CONFIGURATION_STATE;
use lb_runtime::ObjectKey;

/// An object that the controller writes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum WriteTarget {
    /// A Service.
    Service(ObjectKey),
    /// An IPAddressPool, by name.
    Pool(String),
    /// An L2Advertisement.
    Advertisement(ObjectKey),
    /// The controller's ConfigurationState.
    ConfigurationState,
}

impl fmt::Display for WriteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "service {key}"),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Advertisement(key) => write!(f, "l2advertisement {key}"),
            Self::ConfigurationState => write!(f, "configurationstate {CONFIGURATION_STATE}"),
        }
    }
}
