package injector

import (
	"bytes"
	"strings"

	"github.com/keyferry/keyferry/injector/jsonview"
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

// findMountpoints sets in.mountpoints.
func (in *injection) findMountpoints() {
	for _, c := range in.chosen {
		for i := range c.Above {
			if in.mountpoints == nil {
				in.mountpoints = map[string]mountpoint{}
			}
			in.mountpoints[c.Above[i].Volume] = canBeCreated
		}
	}
	if in.mountpoints == nil {
		return
	}
	in.pod.Spec.Volumes.ByName(func(name []byte, volume jsonview.Valid) {
		if _, ok := in.mountpoints[string(name)]; ok {
			in.mountpoints[string(name)] = mountpointOf(volume)
		}
	})
}

// mountpointIn reports whether directories can be mounted inside a mount.
func (in *injection) mountpointIn(m *podview.Mount) mountpoint {
	if state := in.mountpoints[m.Volume]; state != canBeCreated || !m.ReadOnly {
		return state
	}
	return mayBeMissing
}

// mountpointOf reports whether directories can be mounted inside a volume, if its mount is
// writable.
func mountpointOf(volume jsonview.Valid) mountpoint {
	state := canBeCreated
	r := volume.Read()
	r.Members(func(kind []byte) {
		switch is := r.Kind(); {
		case is != '{':
		case string(kind) == "configMap", string(kind) == "secret", string(kind) == "downwardAPI", string(kind) == "projected":
			if hasDirectory(r) {
				state = max(state, mayBeMissing)
			} else {
				state = isMissing
			}
		case string(kind) == "image", isReadOnly(r): // a claim, for example, can be read-only for all containers
			state = max(state, mayBeMissing)
		}
	})
	return state
}

// hasDirectory reads a volume source, and reports whether it has a file in a subdirectory.
func hasDirectory(r *jsonview.Reader) (found bool) {
	switch r.Kind() {
	case '{':
		r.Members(func(name []byte) {
			if string(name) == "path" && r.Kind() == '"' {
				found = bytes.ContainsRune(r.Text(), '/') || found
			} else {
				found = hasDirectory(r) || found
			}
		})
	case '[':
		r.Elements(func(int) { found = hasDirectory(r) || found })
	}
	return found
}

// isReadOnly reads a volume source, and reports whether it is read-only.
func isReadOnly(r *jsonview.Reader) (readOnly bool) {
	r.Members(func(name []byte) {
		if string(name) == "readOnly" {
			readOnly = r.Kind() == 't'
		}
	})
	return readOnly
}

// checkLinked adds a problem for each mount that is at or in one of Keyferry's directories if
// /var/run is a link to /run. One of the two mounts would hide the other, or the container would
// not start. If /var/run is no link, programs that read the files at /run would present the local
// token to the target.
func (in *injection) checkLinked(c chosenContainer, problems *problems) {
	if len(c.Linked) == 0 {
		return
	}
	for _, dir := range in.mountDirs(c) {
		for i := range c.Linked {
			if m := &c.Linked[i]; m.IsLinkedIn(dir) {
				problems.add("container %s mounts volume %s at %s, and Keyferry mounts %s, which is the same directory in images where /var/run is a link to /run: "+
					"mount the volume elsewhere, or exclude the container with annotation %s", c.Name, m.Volume, m.Path, dir, AnnotationExcludeContainers)
			}
		}
	}
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

// warnOfMounts adds a warning for each mount that may prevent a container from starting.
func (in *injection) warnOfMounts(c chosenContainer, found *warnings) {
	in.above(c, func(m *podview.Mount, dir string, _ mountpoint) {
		found.add("container %s mounts volume %s read-only at %s, and Keyferry mounts %s inside it: "+
			"the container starts only if the volume contains this directory", c.Name, m.Volume, m.Path, dir)
	})
}
