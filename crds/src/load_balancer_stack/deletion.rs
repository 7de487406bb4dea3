//! Deletion policy of a stack.

use crate::api_enum::api_enum;

api_enum! {
    /// Effect of deleting the stack.
    #[derive(Default)]
    pub enum DeletionPolicy {
        /// The deletion waits until no Service has an address of the stack. The condition DeletionBlocked names the
        /// Services.
        #[default]
        BlockIfServicesExist,
        /// Only the LoadBalancerStack is deleted. Controller and speakers keep running without it.
        Orphan,
        /// All Services lose their addresses; then controller, speakers and their objects are deleted.
        Withdraw,
    }
}
