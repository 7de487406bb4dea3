//! Applies that the API server refuses as invalid.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request as HttpRequest, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::desired::render::DesiredObject;

/// An API server that refuses the first apply with this code. It records the content type of each request.
fn server(code: u16) -> (Client, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
        let mut seen = seen.lock().unwrap();
        let is_first = seen.is_empty();
        seen.push(kind);
        let (code, body) = if is_first {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "refused",
                "reason": "Invalid", "code": code,
            });
            (code, status)
        } else {
            (
                200,
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}),
            )
        };
        let response = Response::builder().status(code);
        let response = response.body(Body::from(serde_json::to_vec(&body).unwrap()));
        async { Ok::<_, Infallible>(response.unwrap()) }
    });
    (Client::new(service, "default"), requests)
}

async fn apply(kind: Kind, code: u16) -> (Result<Written, RequestError>, Vec<String>) {
    let (client, requests) = server(code);
    let id = ObjectId::new(kind, "metallb-system", "a");
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
    let wanted = DesiredObject::seal(id, body);
    let answer = send(&client, &Write::apply(&wanted)).await;
    let requests = requests.lock().unwrap().clone();
    (answer, requests)
}

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test]
async fn invalid_apply_is_repeated_after_a_merge() {
    let (answer, requests) = apply(Kind::Service, 422).await;
    assert!(answer.unwrap().is_done());
    assert_eq!(requests, [APPLY, MERGE, APPLY]);
}

#[tokio::test]
async fn other_refusals_and_crds_are_not_merged() {
    for (kind, code) in [
        (Kind::Service, 403),
        (Kind::Service, 409),
        (Kind::CustomResourceDefinition, 422),
    ] {
        let (answer, requests) = apply(kind, code).await;
        assert!(answer.is_err(), "{code}");
        assert_eq!(requests, [APPLY], "{code}");
    }
}
