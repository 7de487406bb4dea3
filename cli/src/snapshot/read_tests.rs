//! Reading from an API server that answers in pages, refuses, and has objects that nobody can decode.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::{Scope, read};
use crate::snapshot::Snapshot;

/// The pages of a list, or the code of an error.
type Answer = Result<Vec<Vec<Value>>, u16>;

/// An API server that gives these answers by path, and 404 otherwise.
fn server(answers: &[(&str, Answer)]) -> (Client, Arc<Mutex<Vec<String>>>) {
    let answers: BTreeMap<String, Answer> = answers
        .iter()
        .map(|(path, answer)| ((*path).to_owned(), answer.clone()))
        .collect();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (path, query) = (
            request.uri().path().to_owned(),
            request.uri().query().unwrap_or_default().to_owned(),
        );
        seen.lock().unwrap().push(request.uri().to_string());
        let failed = |code: u16| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("answer {code}"),
                "reason": "", "code": code,
            });
            (code, status)
        };
        let (code, body) = match answers.get(&path) {
            None => failed(404),
            Some(Err(code)) => failed(*code),
            Some(Ok(pages)) => {
                let page = query
                    .split('&')
                    .find_map(|part| part.strip_prefix("continue="))
                    .map_or(0, |token| token.parse().unwrap());
                let more = if page + 1 < pages.len() {
                    (page + 1).to_string()
                } else {
                    String::new()
                };
                let list = json!({
                    "kind": "List", "apiVersion": "v1", "metadata": {"continue": more, "resourceVersion": "1"},
                    "items": pages.get(page).cloned().unwrap_or_default(),
                });
                (200, list)
            }
        };
        let response = Response::builder()
            .status(StatusCode::from_u16(code).unwrap())
            .body(Body::from(body.to_string().into_bytes()))
            .unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    (Client::new(service, "default"), requests)
}

fn names<K: kube::Resource>(objects: &[K]) -> Vec<&str> {
    objects
        .iter()
        .filter_map(|object| object.meta().name.as_deref())
        .collect()
}

const STACKS: &str = "/apis/lb-operator.io/v1alpha1/loadbalancerstacks";

fn stack() -> Value {
    json!({
        "apiVersion": "lb-operator.io/v1alpha1", "kind": "LoadBalancerStack", "metadata": {"name": "default"},
        "spec": {"namespace": "lb"},
    })
}

#[tokio::test]
async fn lists_are_read_in_pages_from_the_namespace_of_the_stack() {
    let service = |name: &str| json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "LoadBalancer"}});
    let pod = json!({"metadata": {"name": "speaker-1", "namespace": "lb"}, "spec": {"containers": []}});
    let (client, requests) = server(&[
        (STACKS, Ok(vec![vec![stack()]])),
        (
            "/api/v1/services",
            Ok(vec![vec![service("a")], vec![service("b")]]),
        ),
        ("/api/v1/namespaces/lb/pods", Ok(vec![vec![pod]])),
        ("/api/v1/nodes", Ok(vec![Vec::new()])),
        ("/api/v1/namespaces", Ok(vec![Vec::new()])),
        ("/apis/discovery.k8s.io/v1/endpointslices", Ok(vec![Vec::new()])),
    ]);
    let snapshot: Snapshot = read(&client, &Scope::All).await.unwrap();
    assert_eq!(names(&snapshot.services), ["a", "b"]);
    assert_eq!(names(&snapshot.pods), ["speaker-1"]);
    assert_eq!(snapshot.unread, [""; 0]);
    assert!(
        snapshot.absent.contains(&"IPAddressPool"),
        "{:?}",
        snapshot.absent
    );
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests
            .iter()
            .all(|one| !one.contains("secrets") && one.contains("limit=500")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn refused_and_undecodable_objects_are_named_and_nothing_else_is_lost() {
    let pool = |name: &str, addresses: Value| {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": "lb"}, "spec": {"addresses": addresses},
        })
    };
    let pools = vec![pool("good", json!(["10.0.0.0/24"])), pool("bad", json!(7))];
    let (client, _) = server(&[
        (STACKS, Ok(vec![vec![stack()]])),
        ("/api/v1/nodes", Err(403)),
        ("/apis/metallb.io/v1beta1/ipaddresspools", Ok(vec![pools])),
        ("/apis/metallb.io/v1beta2/bgppeers", Err(403)),
    ]);
    let snapshot = read(&client, &Scope::Stack).await.unwrap();
    assert_eq!(names(&snapshot.pools), ["good"]);
    // Peers do not matter without a BGPAdvertisement.
    assert_eq!(
        snapshot.unread,
        ["Node: answer 403", "IPAddressPool lb/bad cannot be decoded"]
    );
}

#[tokio::test]
async fn refused_credentials_are_an_error_and_not_an_empty_cluster() {
    let (client, _) = server(&[(STACKS, Err(401))]);
    let error = read(&client, &Scope::All).await.unwrap_err();
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
}

#[tokio::test]
async fn user_of_one_namespace_gets_its_services_and_the_gap_is_named() {
    let service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"type": "LoadBalancer"}});
    let (client, _) = server(&[
        (STACKS, Err(403)),
        ("/api/v1/services", Err(403)),
        ("/api/v1/namespaces/shop/services", Ok(vec![vec![service]])),
    ]);
    let scope = Scope::One(lb_runtime::ObjectKey::new("shop", "web"));
    let snapshot = read(&client, &scope).await.unwrap();
    assert_eq!(names(&snapshot.services), ["web"]);
    assert_eq!(
        snapshot.unread,
        [
            "LoadBalancerStack: answer 403",
            "Service: only those of namespace shop: answer 403"
        ]
    );
}
