//! The ConfigurationState of this speaker: the peers whose heartbeats do not arrive. The operator reports them.
//!
//! It is created when there is something to report. The Node owns it.

use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use lb_crds::ConfigurationState;
use lb_crds::names::{LABEL_COMPONENT_TYPE, LABEL_NODE, MAX_UNHEARD_PEERS, SPEAKER, SPEAKER_STATE_PREFIX};
use lb_runtime::Backoff;
use lb_runtime::error::chain;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::k8s::l2_status::label;

const FIELD_MANAGER: &str = "lb-speaker";
/// Timeout of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum time between two writes: peers may flap.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);

/// The report of this node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SpeakerReport {
    /// The uid of the Node; empty if it is unknown.
    pub node_uid: String,
    /// The first of the peers whose heartbeats do not arrive.
    pub unheard_peers: Vec<String>,
}

impl SpeakerReport {
    /// A report with as many peers as the object may contain.
    pub fn new<'a>(node_uid: &str, unheard: impl IntoIterator<Item = &'a String>) -> Self {
        Self {
            node_uid: node_uid.to_owned(),
            unheard_peers: unheard.into_iter().take(MAX_UNHEARD_PEERS).cloned().collect(),
        }
    }

    /// The object without its status, as server-side apply creates it.
    #[must_use]
    pub fn applied_object(&self, namespace: &str, node: &str) -> Value {
        let mut object = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "ConfigurationState",
            "metadata": {
                "name": object_name(node),
                "namespace": namespace,
                "labels": {LABEL_COMPONENT_TYPE: SPEAKER, LABEL_NODE: label(node)},
            },
            "spec": {},
        });
        if !self.node_uid.is_empty() {
            object["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": self.node_uid}]);
        }
        object
    }
}

/// The name of the object of a node.
#[must_use]
pub fn object_name(node: &str) -> String {
    format!("{SPEAKER_STATE_PREFIX}{node}")
}

/// Writes the last report in the background.
#[derive(Debug)]
pub struct SpeakerStateWriter(watch::Sender<SpeakerReport>);

impl SpeakerStateWriter {
    /// Starts the task that writes; it ends with the writer.
    #[must_use]
    pub fn start(client: kube::Client, namespace: &str, node: &str) -> Self {
        let (sender, receiver) = watch::channel(SpeakerReport::default());
        let api = Api::namespaced(client, namespace);
        tokio::spawn(write_reports(
            api,
            namespace.to_owned(),
            node.to_owned(),
            receiver,
        ));
        Self(sender)
    }

    /// Replaces the report.
    pub fn set(&self, report: SpeakerReport) {
        self.0.send_replace(report);
    }
}

async fn write_reports(
    api: Api<ConfigurationState>,
    namespace: String,
    node: String,
    mut reports: watch::Receiver<SpeakerReport>,
) {
    let mut backoff = Backoff::new(FIRST_RETRY_DELAY, MAX_RETRY_DELAY);
    while reports.changed().await.is_ok() {
        loop {
            let report = reports.borrow_and_update().clone();
            let written = tokio::time::timeout(WRITE_TIMEOUT, write(&api, &namespace, &node, &report)).await;
            let error = match written {
                Ok(Ok(())) => {
                    backoff.reset();
                    break;
                }
                Ok(Err(error)) => chain(&error),
                Err(_) => format!(
                    "the API server did not answer within {} s",
                    WRITE_TIMEOUT.as_secs()
                ),
            };
            let delay = backoff.next_delay();
            tracing::warn!(error, retry_in = ?delay, "failed to write ConfigurationState; retrying");
            tokio::time::sleep(delay).await;
        }
        tokio::time::sleep(MIN_WRITE_INTERVAL).await;
    }
}

async fn write(
    api: &Api<ConfigurationState>,
    namespace: &str,
    node: &str,
    report: &SpeakerReport,
) -> Result<(), kube::Error> {
    let name = object_name(node);
    let status = json!({"status": {"unheardPeers": report.unheard_peers}});
    if report.unheard_peers.is_empty() {
        return match api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await
        {
            Ok(_) => Ok(()),
            // Nothing was ever reported.
            Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
            Err(error) => Err(error),
        };
    }
    // The object first, because the status subresource cannot create it.
    let object = report.applied_object(namespace, node);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&object)).await?;
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_bounded_and_owned_by_its_node() {
        let peers: Vec<_> = (0..1_000).map(|at| format!("n{at:04}")).collect();
        let report = SpeakerReport::new("uid-1", &peers);
        assert_eq!(report.unheard_peers.len(), MAX_UNHEARD_PEERS);
        let object = report.applied_object("metallb-system", "n1");
        assert_eq!(object["metadata"]["name"], "speaker-n1");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        // The operator decodes it.
        assert!(serde_json::from_value::<ConfigurationState>(object).is_ok());
        let unknown = SpeakerReport::new("", &peers).applied_object("metallb-system", "n1");
        assert_eq!(unknown["metadata"].get("ownerReferences"), None);
    }
}
