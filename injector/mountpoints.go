package injector

import (
	"fmt"
	"strings"

	"github.com/keyferry/keyferry/injector/podview"
)

// The container runtime creates the directory at which a volume is mounted. If that directory is
// inside another volume that is read-only and lacks the directory, the container does not start.

// mountpoint describes whether a directory can be mounted inside another volume.
type mountpoint int

const (
	canBeCreated mountpoint = iota
	mayBeMissing            // the volume is read-only, and its content is unknown
	isMissing
)

// mountDirs returns the directories at which Keyferry mounts volumes in a container.
func (in *injection) mountDirs(c chosenContainer) []string {
	var dirs []string
	if in.inCluster() {
		dirs = append(dirs, podview.ServiceAccountDir)
		if c.localMount() != nil {
			dirs = append(dirs, podview.LocalDir)
		}
	}
	if in.several() {
		dirs = append(dirs, podview.CredentialsDir)
	}
	return dirs
}

// above calls f for each mount of a container that contains one of these directories, if the
// runtime may be unable to create the directory.
func (in *injection) above(c chosenContainer, f func(m *podview.Mount, dir string, state mountpoint)) {
	if len(c.Above) == 0 {
		return
	}
	for _, dir := range in.mountDirs(c) {
		for i := range c.Above {
			m := &c.Above[i]
			state := in.mountpointIn(m)
			if state == canBeCreated || !m.IsAbove(dir) {
				continue
			}
			if !strings.HasPrefix(dir, m.Dir) {
				state = mayBeMissing // it contains dir only if /var/run is a link to /run in the image
			}
			f(m, dir, state)
		}
	}
}

// mountpointIn reports whether directories can be mounted inside a mount.
func (in *injection) mountpointIn(m *podview.Mount) mountpoint {
	volume := decodeObject(in.pod.Spec.Volumes.Named(m.Volume))
	for _, kind := range []string{"configMap", "secret", "downwardAPI", "projected"} {
		if source := volume[kind]; source != nil {
			if hasDirectory(source) {
				return mayBeMissing
			}
			return isMissing
		}
	}
	if m.ReadOnly || volume["image"] != nil || isReadOnlySource(volume) {
		return mayBeMissing
	}
	return canBeCreated
}

// hasDirectory reports whether a volume source has a file in a subdirectory.
func hasDirectory(source any) bool {
	switch source := source.(type) {
	case object:
		for name, value := range source {
			if text, ok := value.(string); ok && name == "path" && strings.Contains(text, "/") || hasDirectory(value) {
				return true
			}
		}
	case []any:
		for _, element := range source {
			if hasDirectory(element) {
				return true
			}
		}
	}
	return false
}

// isReadOnlySource reports whether a volume, such as one of a claim, is read-only for all
// containers.
func isReadOnlySource(volume object) bool {
	for _, source := range volume {
		if valueOf(source, "readOnly") == true {
			return true
		}
	}
	return false
}

// checkAbove adds a problem for each mount that prevents a container from starting.
func (in *injection) checkAbove(c chosenContainer, problems *problems) {
	in.above(c, func(m *podview.Mount, dir string, state mountpoint) {
		if state == isMissing {
			problems.add("container %s mounts volume %s at %s, which is read-only, and Keyferry mounts %s inside it, so the container would not start: "+
				"mount the volume elsewhere, or exclude the container with annotation %s", c.Name, m.Volume, m.Path, dir, AnnotationExcludeContainers)
		}
	})
}

// mountWarnings returns warnings about mounts that may prevent a container from starting.
func (in *injection) mountWarnings(c chosenContainer) []string {
	var warnings []string
	in.above(c, func(m *podview.Mount, dir string, _ mountpoint) {
		warnings = append(warnings, fmt.Sprintf("container %s mounts volume %s read-only at %s, and Keyferry mounts %s inside it: "+
			"the container starts only if the volume has that directory", c.Name, m.Volume, m.Path, dir))
	})
	return warnings
}
