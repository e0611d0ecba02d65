package podview

import (
	"bytes"
	"path"
	"strings"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// Mount is a volume mount at, in or above a directory that Keyferry mounts.
type Mount struct {
	Index    int
	Volume   string
	Path     string // as written
	Dir      string // cleaned like the kubelet does; the API server compares paths as written
	ReadOnly bool
	SubPath  string // subPath or subPathExpr, as written
}

func (c *Container) readMount(r *reader, index int) {
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
	if !mayMatter(at) || r.exceeded != nil {
		return // as most mounts, without a copy
	}
	m := Mount{Index: index, ReadOnly: readOnly}
	if string(at) == ServiceAccountDir {
		m.Path = ServiceAccountDir // without a copy
	} else {
		m.Path = r.text(at, "volumeMounts", maxPath)
	}
	m.Dir = m.Path
	if !path.IsAbs(m.Dir) {
		m.Dir = "/" + m.Dir
	}
	m.Dir = path.Clean(m.Dir)
	var list *[]Mount
	switch {
	case isWithin(m.Dir, LocalDir), isWithin(m.Dir, ServiceAccountDir), isWithin(m.Dir, CredentialsDir):
		list = &c.Mounts
	case m.IsLinkedIn(LocalDir), m.IsLinkedIn(ServiceAccountDir), m.IsLinkedIn(CredentialsDir):
		list = &c.Linked
	case m.IsAbove(LocalDir), m.IsAbove(ServiceAccountDir), m.IsAbove(CredentialsDir):
		list = &c.Above
	default:
		return
	}
	if r.another("volumeMounts", len(*list), "mounts at, in or above directories of Keyferry") {
		m.Volume, m.SubPath = r.text(volume, "volumeMounts", maxName), r.text(subPath, "volumeMounts", maxPath)
		*list = append(*list, m)
	}
}

// mayMatter reports whether a path may be at, in or above a directory that Keyferry mounts.
func mayMatter(at []byte) bool {
	if bytes.Contains(at, []byte("/secrets/")) || bytes.Contains(at, []byte("/keyferry")) || bytes.Contains(at, []byte("..")) {
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

// IsLinkedIn reports whether the mount is at or in dir, a directory under /var/run, if /var/run is
// a link to /run. In most images it is.
func (m Mount) IsLinkedIn(dir string) bool { return isWithin(m.Dir, strings.TrimPrefix(dir, "/var")) }

// IsAbove reports whether the mount contains dir, a directory under /var/run. In most images
// /var/run is a link to /run.
func (m Mount) IsAbove(dir string) bool {
	return dir != m.Dir && (m.Dir == "/" || isWithin(dir, m.Dir) || isWithin(strings.TrimPrefix(dir, "/var"), m.Dir))
}

// ByName calls f with the name and the JSON of each volume.
func (v Volumes) ByName(f func(name []byte, volume jsonview.Valid)) {
	if len(v.JSON) == 0 {
		return
	}
	r := v.JSON.Read()
	r.Elements(func(int) {
		var name []byte
		volume := r.During(func() {
			r.Members(func(member []byte) {
				if string(member) == "name" {
					name = r.Text()
				}
			})
		})
		f(name, volume)
	})
}

// IsInsideLocalDir reports whether the mount is inside LocalDir.
func (m Mount) IsInsideLocalDir() bool { return m.Dir != LocalDir && isWithin(m.Dir, LocalDir) }

// InCredentialsDir reports whether the mount is at or in CredentialsDir.
func (m Mount) InCredentialsDir() bool { return isWithin(m.Dir, CredentialsDir) }

func isWithin(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}
