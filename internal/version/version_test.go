package version

import (
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	t.Parallel()
	revision := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123456789abcdef0123"}}
	for _, test := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"installed by version", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: revision}, "v1.2.3"},
		{"built in a checkout", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: revision}, "v0.0.0-dev-0123456789ab"},
		{"nothing recorded", debug.BuildInfo{}, "unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := of(&test.info); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
