package testenv

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/version"
)

// Feature is a feature that not all supported API servers have. Its value is the first version of
// Kubernetes in which it is on by default.
type Feature string

// The features that tests depend on.
const (
	// EnvFromFile is the feature of variables from files and the restart of all containers of a Pod.
	EnvFromFile Feature = "1.36"
	// ImageVolume is the feature of images as volumes.
	ImageVolume Feature = "1.35"
	// PodLevelResources is the feature of resources for a whole Pod.
	PodLevelResources Feature = "1.34"
	// AuthenticationConfigurationV1 is version v1 of the API server's authentication configuration
	// file. Older API servers have v1beta1.
	AuthenticationConfigurationV1 Feature = "1.34"
)

// serverVersion runs the API server's binary once to get its version.
var serverVersion = sync.OnceValues(func() (*version.Version, error) {
	out, err := exec.Command(filepath.Join(Assets(), "kube-apiserver"), "--version").Output() //nolint:gosec // for tests only
	if err != nil {
		return nil, fmt.Errorf("asking the API server for its version: %w", err)
	}
	return version.ParseGeneric(strings.TrimPrefix(strings.TrimSpace(string(out)), "Kubernetes "))
})

// Has reports whether the tests' API server has a feature. If it does not, a test checks what users
// get instead. It panics if the API server's binary fails.
func Has(feature Feature) bool {
	v, err := serverVersion()
	if err != nil {
		panic(err)
	}
	return v.AtLeast(version.MustParseGeneric(string(feature)))
}
