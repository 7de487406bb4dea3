use super::*;

fn shown(data: &Value) -> DynamicObject {
    let json = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "data": data});
    serde_json::from_value(json).unwrap()
}

fn mk_record() -> Record {
    Record {
        generation: 4,
        since: "2026-01-02T03:04:05Z".parse().unwrap(),
        asked: "x".to_owned(),
    }
}

#[test]
fn what_is_made_is_of_use_and_each_time_another() {
    let made = make(7).unwrap();
    let entries = strip(&mut shown(&made["data"]));
    assert!(entries.current && !entries.next && !entries.previous);
    assert_eq!(made["metadata"]["resourceVersion"], "7");
    assert_ne!(made, make(7).unwrap());
}

#[test]
fn the_content_is_taken_out_before_a_secret_is_kept() {
    for (len, valid) in [(0, false), (15, false), (16, true), (32, true)] {
        for (name, entry) in [
            (CURRENT, (|e| e.current) as fn(Entries) -> bool),
            (NEXT, |e| e.next),
        ] {
            let mut object = shown(&json!({name: ByteString(vec![7; len])}));
            assert_eq!(entry(strip(&mut object)), valid, "{name} {len}");
            assert!(object.data.get("data").is_none());
        }
    }
    // One that no speaker can use is to go all the same.
    assert!(strip(&mut shown(&json!({PREVIOUS: "AA=="}))).previous);
    assert_eq!(strip(&mut shown(&json!(null))), Entries::default());
}

/// What a JSON patch makes of a Secret.
fn patched(secret: &Value, change: &Change) -> Value {
    let mut secret = secret.clone();
    json_patch::patch(&mut secret, &change.patch(7).unwrap()).unwrap();
    secret
}

#[test]
fn a_rotation_moves_the_keys_and_the_operator_makes_one_only() {
    let first = ByteString(vec![1; LEN]);
    let secret = json!({
        "metadata": {"resourceVersion": "7", "annotations": {"lb-operator.io/applied": "a"}},
        "data": {CURRENT: first, "own": first},
    });
    let spread = patched(&secret, &Change::Spread(mk_record()));
    assert_eq!(spread["data"][CURRENT], secret["data"][CURRENT]);
    let switched = patched(&spread, &Change::Switch(mk_record()));
    assert_eq!(switched["data"][CURRENT], spread["data"][NEXT]);
    assert_eq!(switched["data"][PREVIOUS], spread["data"][CURRENT]);
    assert!(switched["data"].get(NEXT).is_none());
    let retired = patched(&switched, &Change::Retire);
    assert_eq!(retired["data"][CURRENT], switched["data"][CURRENT]);
    assert!(retired["data"].get(PREVIOUS).is_none());
    assert_eq!(
        retired["data"]["own"], secret["data"]["own"],
        "another's entry stays"
    );
    assert_ne!(retired["data"][CURRENT], secret["data"][CURRENT]);
}

#[test]
fn what_is_written_down_is_read_again_and_what_was_spoilt_is_not() {
    let secret = json!({"metadata": {"resourceVersion": "7", "annotations": {}}, "data": {}});
    let written = patched(&secret, &Change::Record(mk_record()));
    let annotations = &written["metadata"]["annotations"];
    assert_eq!(record(annotations), Some(mk_record()));
    let mut spoilt = annotations.clone();
    spoilt[SINCE] = json!("yesterday");
    assert_eq!(record(&spoilt), None);
    assert_eq!(generation(&spoilt), Some(4));
    assert_eq!(record(&json!(null)), None);
}
