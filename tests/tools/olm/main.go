// Checks an OLM bundle with every validator of operator-framework/api, including those of OperatorHub. Fails on every error and on
// every unexpected warning.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"

	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/validation"
	"github.com/sirupsen/logrus"
)

// An expected warning, with the reason. An expected warning that does not appear is an error too, so that the list stays short.
type expected struct {
	text   *regexp.Regexp
	reason string
}

var warnings = []expected{
	{
		regexp.MustCompile(`Kind=(ServiceL2Status|ConfigurationState): provided API should have an example annotation$`),
		"written by programs only, so an example to create one from would mislead",
	},
	{
		regexp.MustCompile(`removed in v1\.25\..* Migrate the API\(s\) for ((endpointslices|events): \(\["ClusterServiceVersion[^)]*"\]\),?)+ *$`),
		"RBAC rules name groups and resources without versions; the programs use v1 of both",
	},
	{
		regexp.MustCompile(`unable to inspect the image`),
		"needs a registry and Docker; the build sets the architecture of the images",
	},
	{
		regexp.MustCompile(`node affinity configuration for the image.*(\.|supported: \["error/error"\]) *$`),
		"derived from the images that could not be inspected",
	},
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: bundle-validate DIRECTORY KUBERNETES: a bundle, and the newest version of Kubernetes that it supports")
	}
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.ErrorLevel)
	// Hides docker and podman: the result must not depend on the machine.
	if err := os.Setenv("PATH", ""); err != nil {
		fail(err.Error())
	}
	bundle, err := manifests.GetBundleFromDir(os.Args[1])
	if err != nil {
		fail(err.Error())
	}
	objects := append(bundle.ObjectsToValidate(), map[string]string{"k8s-version": os.Args[2]})
	faults := 0
	seen := make([]bool, len(warnings))
	for _, result := range validation.AllValidators.Validate(objects...) {
		for _, found := range result.Errors {
			faults++
			fmt.Printf("error: %s: %v\n", result.Name, found)
		}
		for _, found := range result.Warnings {
			if index := find(found.Error()); index >= 0 {
				seen[index] = true
				continue
			}
			faults++
			fmt.Printf("warning: %s: %v\n", result.Name, found)
		}
	}
	for index, warning := range warnings {
		if !seen[index] {
			faults++
			fmt.Printf("expected warning did not appear, remove it from the list: %s\n", warning.text)
		}
	}
	if faults > 0 {
		fail(fmt.Sprintf("%d problems found: fix the bundle, or add an expected warning with its reason", faults))
	}
	summary, err := json.Marshal(map[string]any{
		"csv": bundle.CSV.GetName(), "objects": len(bundle.Objects), "validators": len(validation.AllValidators),
	})
	if err != nil {
		fail(err.Error())
	}
	fmt.Println(string(summary))
}

func find(text string) int {
	for index, warning := range warnings {
		if warning.text.MatchString(text) {
			return index
		}
	}
	return -1
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "bundle-validate: "+message)
	os.Exit(1)
}
