//go:build tools

// Pins kubeconform, which validates the rendered chart.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
