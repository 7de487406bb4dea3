use super::*;

fn shown(data: &Value) -> DynamicObject {
    let json = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET_NAME}, "data": data});
    serde_json::from_value(json).unwrap()
}

fn mk_record() -> KeyRecord {
    KeyRecord {
        generation: 4,
        since: "2026-01-02T03:04:05Z".parse().unwrap(),
        requested: "x".to_owned(),
    }
}

#[test]
fn generated_keys_are_usable_and_unique() {
    let made = first_key_patch(7).unwrap();
    let entries = strip_keys(&mut shown(&made["data"]));
    assert!(entries.current && !entries.next && !entries.previous);
    assert_eq!(made["metadata"]["resourceVersion"], "7");
    assert_ne!(made, first_key_patch(7).unwrap());
}

#[test]
fn content_is_removed_from_stored_secrets() {
    for (len, valid) in [(0, false), (15, false), (16, true), (32, true)] {
        for (name, entry) in [
            (CURRENT, (|e| e.current) as fn(KeyEntries) -> bool),
            (NEXT, |e| e.next),
        ] {
            let mut object = shown(&json!({name: ByteString(vec![7; len])}));
            assert_eq!(entry(strip_keys(&mut object)), valid, "{name} {len}");
            assert!(object.data.get("data").is_none());
        }
    }
    // An unusable previous key is removed as well.
    assert!(strip_keys(&mut shown(&json!({PREVIOUS: "AA=="}))).previous);
    assert_eq!(strip_keys(&mut shown(&json!(null))), KeyEntries::default());
}

/// A Secret after a change.
fn patched(secret: &Value, change: &KeyChange) -> Value {
    let mut secret = secret.clone();
    json_patch::patch(&mut secret, &change.patch(7).unwrap()).unwrap();
    secret
}

#[test]
fn rotation_moves_keys_and_creates_one() {
    let first = ByteString(vec![1; KEY_BYTES]);
    let secret = json!({
        "metadata": {"resourceVersion": "7", "annotations": {"lb-operator.io/applied": "a"}},
        "data": {CURRENT: first, "own": first},
    });
    let spread = patched(&secret, &KeyChange::Distribute(mk_record()));
    assert_eq!(spread["data"][CURRENT], secret["data"][CURRENT]);
    let switched = patched(&spread, &KeyChange::Activate(mk_record()));
    assert_eq!(switched["data"][CURRENT], spread["data"][NEXT]);
    assert_eq!(switched["data"][PREVIOUS], spread["data"][CURRENT]);
    assert!(switched["data"].get(NEXT).is_none());
    let retired = patched(&switched, &KeyChange::Retire);
    assert_eq!(retired["data"][CURRENT], switched["data"][CURRENT]);
    assert!(retired["data"].get(PREVIOUS).is_none());
    assert_eq!(
        retired["data"]["own"], secret["data"]["own"],
        "a user's entry stays"
    );
    assert_ne!(retired["data"][CURRENT], secret["data"][CURRENT]);
}

#[test]
fn invalid_record_is_ignored() {
    let secret = json!({"metadata": {"resourceVersion": "7", "annotations": {}}, "data": {}});
    let written = patched(&secret, &KeyChange::Annotate(mk_record()));
    let annotations = &written["metadata"]["annotations"];
    assert_eq!(key_record(annotations), Some(mk_record()));
    let mut invalid = annotations.clone();
    invalid[ACTIVE_SINCE] = json!("yesterday");
    assert_eq!(key_record(&invalid), None);
    assert_eq!(key_generation(&invalid), Some(4));
    assert_eq!(key_record(&json!(null)), None);
}
