//! Checks that the generated YAML is current, and that every field has a description.

use std::path::Path;

#[test]
fn generated_yaml_is_current() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = lb_crds::crd::files().unwrap();
    assert_eq!(files.len(), 10, "one per kind, and the chart template");
    for file in files {
        let path = directory.join(&file.path);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == file.text,
            "{} is stale: run `make generate`",
            path.display()
        );
    }
}

#[test]
fn every_field_has_a_description() {
    fn walk(path: &str, schema: &serde_json::Value, missing: &mut Vec<String>) {
        let Some(properties) = schema
            .get("properties")
            .and_then(|properties| properties.as_object())
        else {
            return;
        };
        for (name, schema) in properties {
            let path = format!("{path}.{name}");
            if schema.get("description").is_none() {
                missing.push(path.clone());
            }
            walk(&path, schema, missing);
        }
    }
    let mut missing = Vec::new();
    for definition in lb_crds::metallb_crds().iter().chain([&lb_crds::stack_crd()]) {
        let value = serde_json::to_value(definition).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            walk(
                &format!("{}.{part}", definition.spec.names.kind),
                &schema[part],
                &mut missing,
            );
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
