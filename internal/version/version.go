// Package version returns the version of the running program.
package version

import "runtime/debug"

// version is set by the linker in images and releases: -ldflags "-X
// github.com/keyferry/keyferry/internal/version.version=v1.2.3".
var version string

// String returns the version that was set at build time; or else that of the module, as `go install
// …@v1.2.3` records it; or else the commit; or else "unknown".
func String() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return of(info)
}

func of(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "v0.0.0-dev-" + setting.Value[:min(12, len(setting.Value))]
		}
	}
	return "unknown"
}
