//go:build tools

// Pins the opm that checks the catalog.
package main

import _ "github.com/operator-framework/operator-registry/cmd/opm"
