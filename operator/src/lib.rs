//! LoadBalancerStack to a running, upgraded stack.
