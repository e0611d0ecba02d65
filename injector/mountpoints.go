package injector

import (
	"fmt"
	"strings"

	"github.com/keyferry/keyferry/injector/podview"
)

// The container runtime creates the directory that a volume is mounted at. If the directory is
// inside of another volume that is mounted read-only and lacks it, the container does not start.

// mountpoint is whether a directory can be mounted inside of another volume.
type mountpoint int

const (
	canBeCreated mountpoint = iota
	mayBeMissing            // the volume is read-only, and has the directory or not
	isMissing
)

// mountDirs returns the directories at which a container gets mounts of ours.
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

// above calls f for each mount of a container that is above a directory of ours which the runtime
// may not be able to create.
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
				state = mayBeMissing // it is above only in an image where /var/run is a link to /run
			}
			f(m, dir, state)
		}
	}
}

// mountpointIn tells what a mount means for directories in it.
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

// hasDirectory reports whether a file of a volume is in a directory.
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

// isReadOnlySource reports whether a volume is read-only for all containers, such as that of a
// claim.
func isReadOnlySource(volume object) bool {
	for _, source := range volume {
		if valueOf(source, "readOnly") == true {
			return true
		}
	}
	return false
}

// checkAbove refuses mounts that keep a container from starting.
func (in *injection) checkAbove(c chosenContainer, problems *problems) {
	in.above(c, func(m *podview.Mount, dir string, state mountpoint) {
		if state == isMissing {
			problems.add("container %s mounts volume %s at %s, which is read-only, and Keyferry mounts %s inside of it: the container would not start: "+
				"mount the volume elsewhere, or exclude the container with annotation %s", c.Name, m.Volume, m.Path, dir, AnnotationExcludeContainers)
		}
	})
}

// mountWarnings are about mounts that may keep a container from starting.
func (in *injection) mountWarnings(c chosenContainer) []string {
	var warnings []string
	in.above(c, func(m *podview.Mount, dir string, _ mountpoint) {
		warnings = append(warnings, fmt.Sprintf("container %s mounts volume %s read-only at %s, and Keyferry mounts %s inside of it: "+
			"the container starts only if the volume has that directory", c.Name, m.Volume, m.Path, dir))
	})
	return warnings
}
