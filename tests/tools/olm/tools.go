//go:build tools

// Pins opm, which checks the catalog.
package main

import _ "github.com/operator-framework/operator-registry/cmd/opm"
