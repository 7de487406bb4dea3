//go:build tools

// Pins the MetalLB that the lab installs as the peer: its programs are built from this module, its manifest is read from it.
package tools

import (
	_ "go.universe.tf/metallb/controller"
	_ "go.universe.tf/metallb/speaker"
)
