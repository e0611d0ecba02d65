package podview

import (
	"bytes"
	"path"
	"strings"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// Mount is a volume mount at, or inside, a directory that is ours to mount.
type Mount struct {
	Index    int
	Volume   string
	Path     string // as written
	Dir      string // as the kubelet takes it: a trailing slash makes no difference to it, but does to the API server
	ReadOnly bool
	SubPath  string // or subPathExpr, as written
}

func (c *Container) readMount(r *jsonview.Reader, index int) {
	var volume, at, subPath []byte
	var readOnly bool
	r.Members(func(name []byte) {
		switch string(name) {
		case "name":
			volume = r.Text()
		case "mountPath":
			at = r.Text()
		case "readOnly":
			readOnly = r.Bool()
		case "subPath", "subPathExpr":
			if text := r.Text(); len(text) > 0 {
				subPath = text
			}
		}
	})
	if string(volume) == IdentityVolume || string(volume) == ProxyVolume {
		c.SidecarVolume = string(volume)
	}
	if !mayMatter(at) {
		return // most of them, without a copy
	}
	m := Mount{Index: index, Volume: string(volume), ReadOnly: readOnly, SubPath: string(subPath)}
	if string(at) == ServiceAccountDir {
		m.Path = ServiceAccountDir // without a copy
	} else {
		m.Path = string(at)
	}
	m.Dir = m.Path
	if !path.IsAbs(m.Dir) {
		m.Dir = "/" + m.Dir
	}
	m.Dir = path.Clean(m.Dir)
	switch {
	case isWithin(m.Dir, LocalDir), isWithin(m.Dir, ServiceAccountDir), isWithin(m.Dir, CredentialsDir):
		c.Mounts = append(c.Mounts, m)
	case m.IsAbove(LocalDir), m.IsAbove(ServiceAccountDir), m.IsAbove(CredentialsDir):
		c.Above = append(c.Above, m)
	}
}

// mayMatter reports whether a path can be in, at or above a directory of ours.
func mayMatter(at []byte) bool {
	if bytes.Contains(at, []byte("/secrets/")) || bytes.Contains(at, []byte("run/keyferry")) {
		return true
	}
	if len(at) == 0 {
		return false
	}
	switch at = bytes.TrimRight(at, "/."); {
	case len(at) == 0, bytes.HasSuffix(at, []byte("var")), bytes.HasSuffix(at, []byte("run")), bytes.HasSuffix(at, []byte("secrets")):
		return true
	}
	return false
}

// IsAbove reports whether dir, one of the directories under /var/run that are ours to mount, is
// inside of the mount. In most images /var/run is a link to /run.
func (m Mount) IsAbove(dir string) bool {
	return dir != m.Dir && (m.Dir == "/" || isWithin(dir, m.Dir) || isWithin(strings.TrimPrefix(dir, "/var"), m.Dir))
}

// Named returns the volume of that name; nil if there is none.
func (v Volumes) Named(name string) jsonview.Valid {
	var found jsonview.Valid
	if len(v.JSON) == 0 {
		return nil
	}
	r := v.JSON.Read()
	r.Elements(func(int) {
		volume := r.Value()
		if len(volume) == 0 || volume[0] != '{' {
			return
		}
		r := volume.Read()
		r.Members(func(member []byte) {
			if value := r.Value(); string(member) == "name" && string(value.Read().Text()) == name {
				found = volume
			}
		})
	})
	return found
}

// IsInsideLocalDir reports whether the mount is inside LocalDir.
func (m Mount) IsInsideLocalDir() bool { return m.Dir != LocalDir && isWithin(m.Dir, LocalDir) }

// InCredentialsDir reports whether the mount is at CredentialsDir or inside.
func (m Mount) InCredentialsDir() bool { return isWithin(m.Dir, CredentialsDir) }

func isWithin(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
