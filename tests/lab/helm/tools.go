//go:build tools

// Pins Helm, which installs the chart in the lab.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
