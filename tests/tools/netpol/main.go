// Evaluates which flows NetworkPolicies allow. Reads policies and flows as JSON from standard input and writes for each flow, by
// name, whether the policies of its source (egress) and of its destination (ingress) allow it.
//
// The lab's network does not enforce NetworkPolicies. This uses the matcher of cyclonus, which tests networks that do.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type input struct {
	Policies networkingv1.NetworkPolicyList `json:"policies"`
	Flows    []flow                         `json:"flows"`
}

type flow struct {
	Name     string          `json:"name"`
	From     peer            `json:"from"`
	To       peer            `json:"to"`
	Port     int             `json:"port"`
	PortName string          `json:"portName"`
	Protocol corev1.Protocol `json:"protocol"`
}

// A peer without a namespace is outside of all policies: a machine outside the cluster, or a pod on its node's network.
type peer struct {
	IP              string            `json:"ip"`
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	PodLabels       map[string]string `json:"podLabels"`
}

type verdict struct {
	Egress  bool `json:"egress"`
	Ingress bool `json:"ingress"`
}

func (p peer) traffic() *matcher.TrafficPeer {
	found := &matcher.TrafficPeer{IP: p.IP}
	if p.Namespace != "" {
		found.Internal = &matcher.InternalPeer{
			Namespace:       p.Namespace,
			NamespaceLabels: p.NamespaceLabels,
			PodLabels:       p.PodLabels,
		}
	}
	return found
}

func main() {
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	var in input
	if err := decoder.Decode(&in); err != nil {
		fail(err)
	}
	policies := make([]*networkingv1.NetworkPolicy, 0, len(in.Policies.Items))
	for index := range in.Policies.Items {
		policies = append(policies, &in.Policies.Items[index])
	}
	policy := matcher.BuildNetworkPolicies(false, policies)
	verdicts := map[string]verdict{}
	for _, flow := range in.Flows {
		if _, twice := verdicts[flow.Name]; twice {
			fail(fmt.Errorf("duplicate flow name %q", flow.Name))
		}
		result := policy.IsTrafficAllowed(&matcher.Traffic{
			Source:           flow.From.traffic(),
			Destination:      flow.To.traffic(),
			ResolvedPort:     flow.Port,
			ResolvedPortName: flow.PortName,
			Protocol:         flow.Protocol,
		})
		verdicts[flow.Name] = verdict{Egress: result.Egress.IsAllowed(), Ingress: result.Ingress.IsAllowed()}
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "netpol: "+err.Error())
	os.Exit(1)
}
