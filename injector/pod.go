package injector

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Pod is as much of a Pod, or of a Pod template, as injection and admission read.
type Pod struct {
	Metadata Metadata

	spec spec
}

// Metadata is as much of a Pod's metadata as is read.
type Metadata struct {
	Name         string
	GenerateName string
	Namespace    string
	Annotations  map[string]string
}

type spec struct {
	serviceAccountName string
	restartPolicy      corev1.RestartPolicy
	dnsPolicy          corev1.DNSPolicy
	hostNetwork        bool
	windows            bool
	runsAsRoot         bool // says so for the whole Pod
	volumes            volumes
	initContainers     []container
	containers         []container
}

// volumes says which of ours are there: with the name, and with the content as well.
type volumes struct {
	count       int
	credentials presence
	identity    presence
}

type presence struct{ named, ours bool }

// container is as much of a container as is read: of the lists in it only those entries that matter, with the index of each.
type container struct {
	name    string
	sidecar bool     // an init container that goes on running
	args    []string // of the refresher

	envCount int
	env      []env

	mountCount int
	mounts     []mount
}

// env is one of the variables that are ours to set, or KUBECONFIG.
type env struct {
	index   int
	name    string
	value   string
	fileKey corev1.FileKeySelector
}

// mount is a volume mount at, or inside, a directory that is ours to mount.
type mount struct {
	index    int
	volume   string
	path     string // as written
	dir      string // as the kubelet takes it: a trailing slash makes no difference to it, but does to the API server
	readOnly bool
	subPath  bool
}

// DecodePod reads the JSON of a Pod, or of anything with the same metadata and spec, such as a Pod template.
func DecodePod(raw []byte) (*Pod, error) {
	r, err := newReader(raw)
	if err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", err)
	}
	pod := new(Pod)
	r.members(func(name []byte) {
		switch string(name) {
		case "metadata":
			pod.Metadata.read(r)
		case "spec":
			pod.spec.read(r)
		}
	})
	if r.err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", r.err)
	}
	return pod, nil
}

func (m *Metadata) read(r *reader) {
	r.members(func(name []byte) {
		switch string(name) {
		case "name":
			m.Name = string(r.text())
		case "generateName":
			m.GenerateName = string(r.text())
		case "namespace":
			m.Namespace = string(r.text())
		case "annotations":
			r.members(func(key []byte) {
				if m.Annotations == nil {
					m.Annotations = make(map[string]string)
				}
				m.Annotations[string(key)] = string(r.text())
			})
		}
	})
}

func (s *spec) read(r *reader) {
	r.members(func(name []byte) {
		switch string(name) {
		case "serviceAccountName":
			s.serviceAccountName = string(r.text())
		case "restartPolicy":
			s.restartPolicy = corev1.RestartPolicy(r.text())
		case "dnsPolicy":
			s.dnsPolicy = corev1.DNSPolicy(r.text())
		case "hostNetwork":
			s.hostNetwork = r.bool()
		case "os":
			r.members(s.readOS(r, "name"))
		case "nodeSelector":
			// Most Windows Pods say no more.
			r.members(s.readOS(r, corev1.LabelOSStable))
		case "securityContext":
			r.members(func(name []byte) {
				if string(name) == "runAsUser" {
					s.runsAsRoot = string(r.value()) == "0"
				}
			})
		case "volumes":
			s.volumes.read(r)
		case "initContainers":
			s.initContainers = readContainers(r)
		case "containers":
			s.containers = readContainers(r)
		}
	})
}

func (s *spec) readOS(r *reader, member string) func(name []byte) {
	return func(name []byte) {
		if string(name) == member && string(r.text()) == string(corev1.Windows) {
			s.windows = true
		}
	}
}

func (v *volumes) read(r *reader) {
	r.elements(func(int) {
		v.count++
		var name []byte
		var inMemory, forBroker bool
		r.members(func(member []byte) {
			switch string(member) {
			case "name":
				name = r.text()
			case "emptyDir":
				r.members(func(member []byte) {
					inMemory = inMemory || string(member) == "medium" && string(r.text()) == string(corev1.StorageMediumMemory)
				})
			case "projected":
				forBroker = readsAudience(r)
			}
		})
		switch string(name) {
		case CredentialsVolume:
			v.credentials = presence{named: true, ours: inMemory}
		case IdentityVolume:
			v.identity = presence{named: true, ours: forBroker}
		}
	})
}

// readsAudience reads a projected volume and tells whether it has a token for the broker.
func readsAudience(r *reader) (found bool) {
	r.members(func(name []byte) {
		if string(name) != "sources" {
			return
		}
		r.elements(func(int) {
			r.members(func(name []byte) {
				if string(name) != "serviceAccountToken" {
					return
				}
				r.members(func(name []byte) {
					found = found || string(name) == "audience" && string(r.text()) == audience
				})
			})
		})
	})
	return found
}

func readContainers(r *reader) []container {
	var containers []container
	r.elements(func(int) {
		containers = append(containers, container{})
		containers[len(containers)-1].read(r)
	})
	return containers
}

func (c *container) read(r *reader) {
	var args []byte
	r.members(func(name []byte) {
		switch string(name) {
		case "name":
			c.name = string(r.text())
		case "restartPolicy":
			c.sidecar = string(r.text()) == string(corev1.ContainerRestartPolicyAlways)
		case "args":
			args = r.value()
		case "env":
			r.elements(func(index int) {
				c.envCount++
				c.readEnv(r, index)
			})
		case "volumeMounts":
			r.elements(func(index int) {
				c.mountCount++
				c.readMount(r, index)
			})
		}
	})
	if c.name == RefresherContainer && args != nil {
		list := &reader{data: args}
		list.elements(func(int) { c.args = append(c.args, string(list.text())) })
	}
}

func (c *container) readEnv(r *reader, index int) {
	var name, value []byte
	var key corev1.FileKeySelector
	r.members(func(member []byte) {
		switch string(member) {
		case "name":
			name = r.text()
		case "value":
			value = r.text()
		case "valueFrom":
			r.members(func(source []byte) {
				if string(source) == "fileKeyRef" {
					readFileKey(r, &key)
				}
			})
		}
	})
	switch string(name) {
	case envHost, envPort, envPortHTTPS, envKubeconfig:
		c.env = append(c.env, env{index: index, name: string(name), value: string(value), fileKey: key})
	}
}

func readFileKey(r *reader, key *corev1.FileKeySelector) {
	r.members(func(name []byte) {
		switch string(name) {
		case "volumeName":
			key.VolumeName = string(r.text())
		case "path":
			key.Path = string(r.text())
		case "key":
			key.Key = string(r.text())
		}
	})
}

func (c *container) readMount(r *reader, index int) {
	var volume, at []byte
	var readOnly, subPath bool
	r.members(func(name []byte) {
		switch string(name) {
		case "name":
			volume = r.text()
		case "mountPath":
			at = r.text()
		case "readOnly":
			readOnly = r.bool()
		case "subPath", "subPathExpr":
			subPath = subPath || len(r.text()) > 0
		}
	})
	if !bytes.Contains(at, []byte("/secrets/")) {
		return // most of them, without a copy
	}
	m := mount{index: index, volume: string(volume), path: string(at), readOnly: readOnly, subPath: subPath}
	m.dir = m.path
	if !path.IsAbs(m.dir) {
		m.dir = "/" + m.dir
	}
	m.dir = path.Clean(m.dir)
	if m.dir == localDir || m.dir == serviceAccountDir || strings.HasPrefix(m.dir, serviceAccountDir+"/") {
		c.mounts = append(c.mounts, m)
	}
}

// ServiceAccountName returns the name of the Pod's ServiceAccount, default where it names none.
func (p *Pod) ServiceAccountName() string {
	if p.spec.serviceAccountName == "" {
		return "default"
	}
	return p.spec.serviceAccountName
}

// IsMirror tells whether the Pod is the API server's picture of a Pod that a kubelet runs from a file: nothing that is changed
// in it reaches the kubelet.
func (p *Pod) IsMirror() bool {
	_, ok := p.Metadata.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// ResolvesServices tells whether the Pod's DNS knows the Services of the cluster: if not, Inject needs Config.BrokerAddress.
func (p *Pod) ResolvesServices() bool {
	switch p.spec.dnsPolicy {
	case corev1.DNSClusterFirstWithHostNet:
		return true
	case corev1.DNSDefault, corev1.DNSNone:
		return false
	default:
		return !p.spec.hostNetwork
	}
}

// restartsAlways goes by the API's default where the Pod says nothing.
func (p *Pod) restartsAlways() bool {
	return p.spec.restartPolicy == "" || p.spec.restartPolicy == corev1.RestartPolicyAlways
}

// containerNames returns the names of all containers but our own, for messages.
func (p *Pod) containerNames() string {
	var names []string
	for _, list := range [][]container{p.spec.initContainers, p.spec.containers} {
		for i := range list {
			if list[i].name != RefresherContainer {
				names = append(names, list[i].name)
			}
		}
	}
	return strings.Join(names, ", ")
}

func (p *Pod) hasContainer(name string) bool {
	return indexOf(p.spec.initContainers, name) >= 0 || indexOf(p.spec.containers, name) >= 0
}

// indexOf returns the index of the container of that name, or -1.
func indexOf(containers []container, name string) int {
	return slices.IndexFunc(containers, func(c container) bool { return c.name == name })
}
