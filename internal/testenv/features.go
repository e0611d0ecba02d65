package testenv

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/version"
)

// Feature is what not every supported API server has. Its value is the first Kubernetes in which it
// is on by default.
type Feature string

// The features that tests depend on.
const (
	// EnvFromFile is env from files together with the restart of all containers of a Pod.
	EnvFromFile Feature = "1.36"
	// ImageVolume is an image as a volume.
	ImageVolume Feature = "1.35"
	// AuthenticationConfigurationV1 is version v1 of the file that configures authentication; v1beta1
	// is older.
	AuthenticationConfigurationV1 Feature = "1.34"
)

// serverVersion asks the API server's program once.
var serverVersion = sync.OnceValues(func() (*version.Version, error) {
	out, err := exec.Command(filepath.Join(Assets(), "kube-apiserver"), "--version").Output() //nolint:gosec // for tests only
	if err != nil {
		return nil, fmt.Errorf("asking the API server for its version: %w", err)
	}
	return version.ParseGeneric(strings.TrimPrefix(strings.TrimSpace(string(out)), "Kubernetes "))
})

// Has reports whether the API server of the tests has a feature. Where it does not, a test asserts
// what users get instead. It panics if the API server's program does not answer.
func Has(feature Feature) bool {
	v, err := serverVersion()
	if err != nil {
		panic(err)
	}
	return v.AtLeast(version.MustParseGeneric(string(feature)))
}
