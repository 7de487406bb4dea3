//! A user with the chart's role for pools and advertisements, and with `edit` in a namespace, tries to become root on a
//! node: see docs/security.md.

use lb_e2e::harness::Harness;

const SETUP: &str = "kubectl create namespace team && \
    kubectl label namespace team pod-security.kubernetes.io/enforce=baseline && \
    kubectl create rolebinding editor -n team --clusterrole=edit --user=editor && \
    kubectl create clusterrolebinding editor-pools --clusterrole=lb-operator-edit --user=editor && \
    kubectl create clusterrolebinding editor-view --clusterrole=lb-operator-view --user=editor";
const CLEANUP: &str =
    "kubectl delete clusterrolebinding editor-pools editor-view && kubectl delete namespace team";

/// Everything by which the stack could give away power: templates of pods, and who has which role.
const POWER: &str = "kubectl get daemonsets,deployments -n metallb-system \
    -o jsonpath='{range .items[*]}{.metadata.uid} {.spec.template}{\"\\n\"}{end}' && \
    kubectl get clusterrolebindings,rolebindings -A -l app.kubernetes.io/managed-by=lb-operator \
    -o jsonpath='{range .items[*]}{.metadata.name} {.roleRef.name} {.subjects}{\"\\n\"}{end}' && \
    kubectl get namespace team -o jsonpath='{.metadata.labels}'";

/// Commands of the user that must be refused: what they would give, and the command.
const REFUSED: [(&str, &str); 17] = [
    (
        "any image as root on every node",
        "kubectl patch lbs default --type=merge -p '{\"spec\":{\"images\":{\"speaker\":{\"repository\":\"evil.example/x\"}}}}'",
    ),
    (
        "speakers on other nodes, with other annotations",
        "kubectl patch lbs default --type=merge \
         -p '{\"spec\":{\"speaker\":{\"podAnnotations\":{\"container.apparmor.security.beta.kubernetes.io/speaker\":\"unconfined\"}}}}'",
    ),
    (
        "a privileged namespace",
        "kubectl patch lbs default --type=merge -p '{\"spec\":{\"namespace\":\"team\"}}'",
    ),
    ("a stack of one's own", "kubectl delete lbs default --wait=false"),
    (
        "a wrong revision to roll back to",
        "kubectl patch lbs default --subresource=status --type=merge -p '{\"status\":{\"lastGood\":null}}'",
    ),
    (
        "a stack that no operator manages",
        "kubectl patch lbs default --subresource=status --type=merge \
         -p '{\"status\":{\"operator\":{\"namespace\":\"kube-system\",\"name\":\"kube-scheduler\"}}}'",
    ),
    (
        "the template of a rollback",
        "kubectl create -n metallb-system -f - <<'EOF'\napiVersion: apps/v1\nkind: ControllerRevision\n\
         metadata: {name: lb-operator-evil}\nrevision: 1\nEOF",
    ),
    (
        "a pod in the privileged namespace of the stack",
        "kubectl run evil -n metallb-system --image=lab.local/agnhost:1",
    ),
    (
        "a shell in a speaker",
        "kubectl exec -n metallb-system daemonset/speaker -- /bin/true",
    ),
    (
        "a container in a speaker's pod",
        "kubectl patch daemonset speaker -n metallb-system --type=merge -p '{\"spec\":{\"template\":{\"spec\":{\"hostPID\":true}}}}'",
    ),
    (
        "a pod with the operator's account",
        "kubectl run evil -n lb-operator-system --image=lab.local/agnhost:1",
    ),
    (
        "the operator's account",
        "kubectl create token lb-operator -n lb-operator-system",
    ),
    (
        "the speaker's account",
        "kubectl create token speaker -n metallb-system",
    ),
    (
        "the operator's role",
        "kubectl create rolebinding evil -n team --clusterrole=lb-operator --user=editor",
    ),
    (
        "the heartbeat keys",
        "kubectl get secrets -n metallb-system -o yaml",
    ),
    (
        "the role of a user",
        "kubectl patch clusterrole lb-operator-edit --type=json \
         -p '[{\"op\":\"add\",\"path\":\"/rules/-\",\"value\":{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]}}]'",
    ),
    (
        "a host path in a namespace of one's own",
        "kubectl create -n team -f - <<'EOF'\napiVersion: v1\nkind: Pod\n\
         metadata: {name: speaker, labels: {app: metallb, component: speaker, app.kubernetes.io/managed-by: lb-operator}}\n\
         spec: {containers: [{name: speaker, image: \"lab.local/agnhost:1\", volumeMounts: [{name: host, mountPath: /host}]}], \
         volumes: [{name: host, hostPath: {path: /}}]}\nEOF",
    ),
];

/// Objects in the user's namespace with the names, labels and accounts of the stack's: allowed, and worth nothing.
const DECOYS: &str = "apiVersion: v1\nkind: ServiceAccount\n\
    metadata: {name: speaker, namespace: team, labels: {app.kubernetes.io/managed-by: lb-operator}}\n---\n\
    apiVersion: apps/v1\nkind: DaemonSet\n\
    metadata: {name: speaker, namespace: team, labels: {app: metallb, app.kubernetes.io/managed-by: lb-operator}}\n\
    spec:\n  selector: {matchLabels: {app: metallb, component: speaker}}\n  template:\n    \
    metadata: {labels: {app: metallb, component: speaker}}\n    \
    spec: {serviceAccountName: speaker, hostNetwork: true, \
    containers: [{name: speaker, image: \"lab.local/agnhost:1\", securityContext: {privileged: true}}]}";

pub(crate) fn editor_gets_no_power_over_nodes(harness: &Harness) -> anyhow::Result<()> {
    harness.admin(SETUP)?;
    let as_editor = |command: &str| harness.admin(&command.replacen("kubectl", "kubectl --as=editor", 1));
    // The user has the roles.
    as_editor("kubectl get lbs default")?;
    as_editor(
        "kubectl create --dry-run=server -f - <<'EOF'\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: editor, namespace: metallb-system}\nspec: {addresses: [192.168.50.240/32]}\nEOF",
    )?;
    as_editor("kubectl create configmap allowed -n team")?;
    let before = harness.admin(POWER)?;
    for (gain, command) in REFUSED {
        let refused = as_editor(command).err().map(|error| error.to_string());
        assert!(
            refused
                .as_ref()
                .is_some_and(|text| text.contains("orbidden") || text.contains("violates PodSecurity")),
            "{gain}: {command}\n{refused:?}"
        );
    }
    as_editor(&format!("kubectl create -f - <<'EOF'\n{DECOYS}\nEOF"))?;
    // The operator handles the events of these objects with those of its own that follow.
    crate::operator::replicas_are_repaired(harness)?;
    for command in [
        "get nodes",
        "list secrets -n metallb-system",
        "patch servicel2statuses.metallb.io -n metallb-system",
    ] {
        let answer = harness.admin(&format!(
            "kubectl auth can-i {command} --as=system:serviceaccount:team:speaker || true"
        ))?;
        assert!(answer.starts_with("no"), "{command}: {answer}");
    }
    let pods = harness.admin("kubectl get pods -n team -o name")?;
    assert_eq!(pods, "", "Pod Security refuses the pods of the DaemonSet");
    assert_eq!(harness.admin(POWER)?, before);
    harness.admin(CLEANUP)?;
    Ok(())
}
