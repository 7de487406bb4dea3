//go:build tools

// Pins the kubeconform that checks what the chart renders.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
