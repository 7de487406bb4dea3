//! The connection to the API server: the kubeconfig as kubectl reads it, with exec credential plugins.

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lb_runtime::client::{ConnectionTimeouts, with_timeouts};

use crate::args::Global;

/// A client, and the namespace of the context.
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// `-n`, or the namespace of the context.
    pub(crate) namespace: String,
}

/// Connects as kubectl would.
pub(crate) async fn connect(global: &Global) -> anyhow::Result<Connection> {
    let kubeconfig = match &global.kubeconfig {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?
        }
        None => Kubeconfig::read().context("read the kubeconfig: set KUBECONFIG or --kubeconfig")?,
    };
    if let Some(context) = &global.context
        && !kubeconfig.contexts.iter().any(|one| one.name == *context)
    {
        let names: Vec<_> = kubeconfig.contexts.iter().map(|one| one.name.as_str()).collect();
        bail!(
            "no context {context:?} in the kubeconfig: it has {}",
            names.join(", ")
        );
    }
    let options = KubeConfigOptions {
        context: global.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .context("use the kubeconfig")?;
    if let Some(user) = &global.impersonate {
        config.auth_info.impersonate = Some(user.clone());
    }
    let namespace = global
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = with_timeouts(&config, ConnectionTimeouts::default())?;
    Ok(Connection { client, namespace })
}
