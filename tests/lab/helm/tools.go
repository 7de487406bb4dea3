//go:build tools

// Pins the Helm that the scenarios install the chart with.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
