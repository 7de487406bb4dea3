//go:build tools

// Pins MetalLB: `lab install metallb` uses its programs and its manifest.
package tools

import (
	_ "go.universe.tf/metallb/controller"
	_ "go.universe.tf/metallb/speaker"
)
