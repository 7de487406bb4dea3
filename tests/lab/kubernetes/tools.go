//go:build tools

// Keeps agnhost in the module graph, so that it is built at the version of the cluster.
package main

import _ "k8s.io/kubernetes/test/images/agnhost"
