//! Metrics of the API client, with MetalLB's names.

use prometheus::{IntCounter, IntGauge, Registry};

/// The four `metallb_k8s_client_*` metrics that MetalLB's alerts use.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    /// `metallb_k8s_client_updates_total`: processed object updates.
    pub updates: IntCounter,
    /// `metallb_k8s_client_update_errors_total`: object updates that failed.
    pub update_errors: IntCounter,
    /// `metallb_k8s_client_config_loaded_bool`: 1 after pools and advertisements were listed once.
    pub config_loaded: IntGauge,
    /// `metallb_k8s_client_config_stale_bool`: 1 while part of the configuration is invalid and ignored.
    pub config_stale: IntGauge,
}

impl ClientMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a metric of the same name is already registered.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            updates: IntCounter::new(
                "metallb_k8s_client_updates_total",
                "Number of k8s object updates that have been processed.",
            )?,
            update_errors: IntCounter::new(
                "metallb_k8s_client_update_errors_total",
                "Number of k8s object updates that failed for some reason.",
            )?,
            config_loaded: IntGauge::new(
                "metallb_k8s_client_config_loaded_bool",
                "1 if the configuration was successfully loaded at least once.",
            )?,
            config_stale: IntGauge::new(
                "metallb_k8s_client_config_stale_bool",
                "1 if part of the configuration is invalid and therefore not in force.",
            )?,
        };
        registry.register(Box::new(metrics.updates.clone()))?;
        registry.register(Box::new(metrics.update_errors.clone()))?;
        registry.register(Box::new(metrics.config_loaded.clone()))?;
        registry.register(Box::new(metrics.config_stale.clone()))?;
        Ok(metrics)
    }
}
