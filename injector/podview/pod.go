// Package podview reads the parts of a Pod that injection needs. Decoding whole Pods would take
// longer than the rest of an admission.
package podview

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// Names in a Pod that injection uses.
const (
	// RefresherContainer is the sidecar.
	RefresherContainer = "keyferry-refresher"
	// CredentialsVolume holds the files that the refresher writes and the application reads.
	CredentialsVolume = "keyferry-credentials"
	// IdentityVolume holds the Pod's projected tokens and the broker's CA.
	IdentityVolume = "keyferry-identity"
	// ProxyVolume holds the key, certificate and token of the refresher's proxy. Only the sidecar
	// reads it.
	ProxyVolume = "keyferry-proxy"
	// PluginVolume holds the credential plugin, if it runs in the Pod.
	PluginVolume = "keyferry-plugin"
	// CopierContainer and PluginContainer are the init containers that copy the plugin into the
	// volume, in clusters that cannot mount an image as a volume.
	CopierContainer = "keyferry-plugin-copier"
	PluginContainer = "keyferry-plugin"
	// Audience of the token in IdentityVolume. The broker accepts no other audience.
	Audience = "keyferry"
	// SubjectTokenPath is the file in IdentityVolume with the token that the target's provider
	// exchanges. SubjectTokensDir contains these tokens for further targets, as NAMESPACE/NAME. Not
	// every provider needs such a token.
	SubjectTokenPath = "subject-token"
	SubjectTokensDir = "subject-tokens"

	// ServiceAccountDir is the directory in which in-cluster clients read token, ca.crt and namespace.
	ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// LocalDir is the directory for the volume that was mounted at ServiceAccountDir before, with the
	// credentials for the local cluster.
	LocalDir = "/var/run/secrets/keyferry.dev/local"

	// AnnotationPrefix is the prefix of all annotations of Keyferry.
	AnnotationPrefix = "keyferry.dev/"
	// LabelFederated, with the value FederatedValue, is the label of Pods whose target accepts tokens
	// of this cluster.
	LabelFederated = "keyferry.dev/federated"
	// FederatedValue is the value of LabelFederated.
	FederatedValue = "true"
	// LabelWorkflow is the label of Pods of Argo Workflows.
	LabelWorkflow = "workflows.argoproj.io/workflow"

	// CredentialsDir is the directory at which the whole CredentialsVolume is mounted.
	CredentialsDir = "/var/run/keyferry"

	// EnvHost, EnvPort and EnvPortHTTPS are the variables in which in-cluster clients find their API
	// server.
	EnvHost      = "KUBERNETES_SERVICE_HOST"
	EnvPort      = "KUBERNETES_SERVICE_PORT"
	EnvPortHTTPS = "KUBERNETES_SERVICE_PORT_HTTPS"
	// EnvKubeconfig makes many clients read a kubeconfig instead of the in-cluster configuration.
	EnvKubeconfig = "KUBECONFIG"

	// EnvNoProxy and EnvNoProxyLower list the hosts that clients connect to without a proxy. Some
	// clients read only one of the two.
	EnvNoProxy      = "NO_PROXY"
	EnvNoProxyLower = "no_proxy"
	// SourcePrefix is the prefix of a variable to which Keyferry has moved the source of EnvNoProxy or
	// EnvNoProxyLower.
	SourcePrefix = "KEYFERRY_"
)

// Pod contains the fields of a Pod or Pod template that injection and admission need.
type Pod struct {
	Metadata Metadata
	Spec     Spec

	// Exceeded is the first limit that the Pod exceeds, as a sentence with the fix; nil if there is
	// none. If it is set, Spec is incomplete, and the Pod must not be injected.
	Exceeded error
	// Memory is the number of bytes that an injection needs at most, besides the JSON of the Pod.
	Memory int
}

// Metadata contains the fields of a Pod's metadata that are read.
type Metadata struct {
	Name         string
	GenerateName string
	Namespace    string
	// Annotations contains only Keyferry's annotations and the annotation of mirror Pods.
	Annotations     map[string]string
	AnnotationCount int
	annotationBytes int // of Annotations
	LabelCount      int
	Federated       bool // has LabelFederated
	IsWorkflow      bool // has LabelWorkflow
}

// Spec contains the fields of a Pod's spec that are read.
type Spec struct {
	ServiceAccountName string
	RestartPolicy      corev1.RestartPolicy
	DNSPolicy          corev1.DNSPolicy
	HostNetwork        bool
	SharesProcesses    bool // shareProcessNamespace: containers see each other's processes
	HostPID            bool
	Windows            bool
	RunsAsRoot         bool    // the user of the whole Pod is 0
	Resources          Amounts // of the Pod as a whole
	Volumes            Volumes
	InitContainers     []Container
	Containers         []Container
}

// Volumes contains the volumes with Keyferry's names.
type Volumes struct {
	Count int
	// JSON is the list of all volumes.
	JSON                                 jsonview.Valid
	Credentials, Identity, Proxy, Plugin Volume
}

// Volume is a volume with a name of Keyferry's. It is the zero value if the Pod has no such volume.
type Volume struct {
	Index int
	JSON  jsonview.Valid
}

// SubjectToken is a projected token of the Pod that the provider of a target exchanges.
type SubjectToken struct {
	// Path of the file in IdentityVolume.
	Path     string
	Audience string
}

// Container contains the fields of a container that are read. Env, NoProxy, Mounts and Above
// contain only the entries that matter, with their indexes.
type Container struct {
	Name    string
	Sidecar bool           // an init container with restartPolicy Always
	JSON    jsonview.Valid // the whole container; nil unless IsOurs

	Amounts Amounts

	// Ports are those that the container declares; see TCPPorts.
	Ports jsonview.Valid

	EnvCount int
	Env      []Env
	// Proxied reports whether a variable makes clients use an HTTP proxy. NoProxy are the variables
	// with exceptions from it. EnvFrom reports whether the container has variables from other objects,
	// whose names are not known.
	Proxied bool
	NoProxy []Env
	EnvFrom bool
	// NoProxySources are the names of variables with SourcePrefix and a source.
	NoProxySources []string

	MountCount int
	Mounts     []Mount
	// Above are the mounts at parent directories of Keyferry's mounts.
	Above []Mount
	// Linked are the mounts at or in a directory that Keyferry mounts, if /var/run is a link to /run.
	Linked []Mount
	// SidecarVolume is the name of a volume that only the sidecar may mount, if the container mounts
	// one.
	SidecarVolume string
}

// Amounts are requests and limits of CPU and memory, as written. Nil means none.
type Amounts struct{ RequestedCPU, RequestedMemory, LimitCPU, LimitMemory []byte }

// IsEmpty reports whether there are none.
func (a *Amounts) IsEmpty() bool {
	return a.RequestedCPU == nil && a.RequestedMemory == nil && a.LimitCPU == nil && a.LimitMemory == nil
}

// Env is one of the variables that Keyferry sets, or KUBECONFIG.
type Env struct {
	Index   int
	Name    string
	Value   string
	FileKey corev1.FileKeySelector
	// ConfigMapKey has only Name and Key.
	ConfigMapKey corev1.ConfigMapKeySelector
	// SecretKey has only Name and Key.
	SecretKey corev1.SecretKeySelector
	// ValueFrom is the source of the value, as written; nil if there is none. It is set only in
	// NoProxy.
	ValueFrom []byte
}

// Decode decodes the JSON of a Pod, or of another object with the same metadata and spec, such as a
// Pod template.
func Decode(raw []byte) (*Pod, error) {
	checked, err := jsonview.Check(raw)
	if err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", err)
	}
	return Read(checked)
}

// Read is Decode for JSON that is already validated, as a part of another document.
func Read(raw jsonview.Valid) (*Pod, error) {
	if len(raw) == 0 {
		return nil, errors.New("decoding Pod: the document is empty")
	}
	pod, r := new(Pod), &reader{Reader: *raw.Read()}
	r.Members(func(name []byte) {
		switch string(name) {
		case "metadata":
			pod.Metadata.read(r)
		case "spec":
			pod.Spec.read(r)
		}
	})
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", err)
	}
	if pod.Metadata.annotationBytes > maxAnnotations {
		return nil, errAnnotations
	}
	if r.memory > maxMemory {
		r.exceed("spec.containers", "their names, variables and mounts that Keyferry has to change are too long: shorten some")
	}
	pod.Exceeded, pod.Memory = r.exceeded, r.memory
	return pod, nil
}

func (m *Metadata) read(r *reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "name":
			m.Name = r.name("metadata.name")
		case "generateName":
			m.GenerateName = r.name("metadata.generateName")
		case "namespace":
			m.Namespace = r.name("metadata.namespace")
		case "annotations":
			r.Members(func(key []byte) {
				m.AnnotationCount++
				if !HasAnnotationPrefix(key) && string(key) != corev1.MirrorPodAnnotationKey {
					r.SkipText()
					return
				}
				value := r.Text()
				if m.annotationBytes += len(key) + len(value); m.annotationBytes > maxAnnotations {
					return
				}
				if m.Annotations == nil {
					m.Annotations = make(map[string]string)
				}
				m.Annotations[string(key)] = string(value)
			})
		case "labels":
			r.Members(func(key []byte) {
				m.LabelCount++
				m.IsWorkflow = m.IsWorkflow || string(key) == LabelWorkflow
				m.Federated = m.Federated || string(key) == LabelFederated && string(r.Text()) == FederatedValue
			})
		}
	})
}

func (s *Spec) read(r *reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "serviceAccountName":
			s.ServiceAccountName = r.name("spec.serviceAccountName")
		case "restartPolicy":
			s.RestartPolicy = corev1.RestartPolicy(r.name("spec.restartPolicy"))
		case "dnsPolicy":
			s.DNSPolicy = corev1.DNSPolicy(r.name("spec.dnsPolicy"))
		case "hostNetwork":
			s.HostNetwork = r.Bool()
		case "shareProcessNamespace":
			s.SharesProcesses = r.Bool()
		case "hostPID":
			s.HostPID = r.Bool()
		case "os":
			r.Members(s.readOS(r, "name"))
		case "nodeSelector":
			// Most Windows Pods have only this.
			r.Members(s.readOS(r, corev1.LabelOSStable))
		case "securityContext":
			r.Members(func(name []byte) {
				if string(name) == "runAsUser" {
					s.RunsAsRoot = string(r.Value()) == "0"
				}
			})
		case "resources":
			s.Resources.read(r)
		case "volumes":
			s.Volumes.JSON = r.During(func() { s.Volumes.read(r) })
		case "initContainers":
			s.InitContainers = readContainers(r, "spec.initContainers")
		case "containers":
			s.Containers = readContainers(r, "spec.containers")
		}
	})
}

func (s *Spec) readOS(r *reader, member string) func(name []byte) {
	return func(name []byte) {
		if string(name) == member && string(r.Text()) == string(corev1.Windows) {
			s.Windows = true
		}
	}
}

func (v *Volumes) read(r *reader) {
	r.Elements(func(index int) {
		v.Count++
		var name []byte
		volume := Volume{Index: index}
		volume.JSON = r.During(func() {
			r.Members(func(member []byte) {
				if string(member) == "name" {
					name = r.Text()
				}
			})
		})
		var ours *Volume
		switch string(name) {
		case CredentialsVolume:
			ours = &v.Credentials
		case IdentityVolume:
			ours = &v.Identity
		case ProxyVolume:
			ours = &v.Proxy
		case PluginVolume:
			ours = &v.Plugin
		default:
			return
		}
		volume.JSON = r.whole("spec.volumes", volume.JSON)
		*ours = volume
	})
}

func readContainers(r *reader, list string) []Container {
	containers := make([]Container, 0, 4) // enough for most Pods
	r.Elements(func(index int) {
		if index == maxContainers {
			r.exceed(list, "has more than %d containers: use several Pods", maxContainers)
		}
		if index >= maxContainers {
			return
		}
		containers = append(containers, Container{})
		c := &containers[index]
		r.list, r.index = list, index
		json := r.During(func() { c.read(r) })
		r.list = ""
		r.memory += containerMemory
		if IsOurs(c.Name) {
			c.JSON = r.whole(list, json)
		}
	})
	return containers
}

func (c *Container) read(r *reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "name":
			c.Name = r.name("name")
		case "restartPolicy":
			c.Sidecar = string(r.Text()) == string(corev1.ContainerRestartPolicyAlways)
		case "ports":
			c.Ports = r.Value()
		case "env":
			r.Elements(func(index int) {
				c.EnvCount++
				c.readEnv(r, index)
			})
		case "envFrom":
			r.Elements(func(int) { c.EnvFrom = true })
		case "resources":
			c.Amounts.read(r)
		case "volumeMounts":
			r.Elements(func(index int) {
				c.MountCount++
				c.readMount(r, index)
			})
		}
	})
}

// TCPPorts calls f with each TCP port that the container declares.
func (c *Container) TCPPorts(f func(port int)) {
	if len(c.Ports) == 0 {
		return
	}
	r := c.Ports.Read()
	r.Elements(func(int) {
		var port, protocol []byte
		r.Members(func(name []byte) {
			switch string(name) {
			case "containerPort":
				port = r.Value()
			case "protocol":
				protocol = r.Text()
			}
		})
		isTCP := len(protocol) == 0 || string(protocol) == string(corev1.ProtocolTCP)
		if n, err := strconv.Atoi(string(port)); err == nil && isTCP {
			f(n)
		}
	})
}

func (a *Amounts) read(r *reader) {
	r.Members(func(kind []byte) {
		switch string(kind) {
		case "requests":
			readAmounts(r, &a.RequestedCPU, &a.RequestedMemory)
		case "limits":
			readAmounts(r, &a.LimitCPU, &a.LimitMemory)
		}
	})
}

func readAmounts(r *reader, cpu, memory *[]byte) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "cpu":
			*cpu = r.Value()
		case "memory":
			*memory = r.Value()
		}
	})
}

func (c *Container) readEnv(r *reader, index int) {
	var name, value, valueFrom []byte
	var fileKey, configMapKey, secretKey keyRef
	r.Members(func(member []byte) {
		switch string(member) {
		case "name":
			name = r.Text()
		case "value":
			value = r.Text()
		case "valueFrom":
			valueFrom = r.During(func() {
				r.Members(func(source []byte) {
					switch string(source) {
					case "fileKeyRef":
						fileKey.read(r, "volumeName")
					case "configMapKeyRef":
						configMapKey.read(r, "name")
					case "secretKeyRef":
						secretKey.read(r, "name")
					}
				})
			})
		}
	})
	switch string(name) {
	case EnvHost, EnvPort, EnvPortHTTPS, EnvKubeconfig:
		if !r.another("env", len(c.Env), "variables named KUBERNETES_SERVICE_* or KUBECONFIG") {
			return
		}
		env := Env{Index: index, Name: string(name), Value: r.text(value, "env", maxValue)}
		env.FileKey.VolumeName, env.FileKey.Path, env.FileKey.Key = fileKey.texts(r)
		env.ConfigMapKey.Name, _, env.ConfigMapKey.Key = configMapKey.texts(r)
		env.SecretKey.Name, _, env.SecretKey.Key = secretKey.texts(r)
		c.Env = append(c.Env, env)
	case EnvNoProxy, EnvNoProxyLower:
		if !r.another("env", len(c.NoProxy), "variables named NO_PROXY or no_proxy") {
			return
		}
		env := Env{Index: index, Name: string(name), Value: r.text(value, "env", maxValue)}
		if valueFrom != nil {
			env.ValueFrom = []byte(r.text(valueFrom, "env", maxValue))
		}
		c.NoProxy = append(c.NoProxy, env)
	case SourcePrefix + EnvNoProxy, SourcePrefix + EnvNoProxyLower:
		if valueFrom != nil && !slices.Contains(c.NoProxySources, string(name)) {
			c.NoProxySources = append(c.NoProxySources, string(name))
		}
	case "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy":
		c.Proxied = true
	}
}

// keyRef refers to a key of a ConfigMap, a Secret or a file. It shares memory with the input,
// because most of them belong to variables that are not needed, and need no string.
type keyRef struct{ name, path, key []byte }

// read reads a reference. nameField is the field with the name of the object or volume.
func (k *keyRef) read(r *reader, nameField string) {
	r.Members(func(member []byte) {
		switch string(member) {
		case nameField:
			k.name = r.Text()
		case "path":
			k.path = r.Text()
		case "key":
			k.key = r.Text()
		}
	})
}

func (k *keyRef) texts(r *reader) (name, path, key string) {
	return r.text(k.name, "env", maxName), r.text(k.path, "env", maxPath), r.text(k.key, "env", maxName)
}

// ServiceAccountName returns the name of the Pod's ServiceAccount; "default" if the Pod names none.
func (p *Pod) ServiceAccountName() string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// IsMirror reports whether the Pod is the API server's copy of a static Pod of a kubelet. Changes
// to it do not reach the kubelet.
func (p *Pod) IsMirror() bool {
	_, ok := p.Metadata.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// ResolvesServices reports whether the Pod's DNS resolves Services of the cluster. If not, Inject
// needs Config.BrokerAddress.
func (p *Pod) ResolvesServices() bool {
	switch p.Spec.DNSPolicy {
	case corev1.DNSClusterFirstWithHostNet:
		return true
	case corev1.DNSDefault, corev1.DNSNone:
		return false
	default:
		return !p.Spec.HostNetwork
	}
}

// RestartsAlways reports whether the Pod's restartPolicy is Always, which is the default.
func (p *Pod) RestartsAlways() bool {
	return p.Spec.RestartPolicy == "" || p.Spec.RestartPolicy == corev1.RestartPolicyAlways
}

// ContainerNames returns the names of the containers except Keyferry's, for messages: at most 20.
func (p *Pod) ContainerNames() string {
	const longest = 20
	var names []string
	for _, list := range [][]Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			switch {
			case IsOurs(list[i].Name):
			case len(names) == longest:
				return strings.Join(names, ", ") + " and more"
			default:
				names = append(names, list[i].Name)
			}
		}
	}
	return strings.Join(names, ", ")
}

// HasAnnotationPrefix reports whether a key begins with AnnotationPrefix, in upper or lower case.
func HasAnnotationPrefix[T string | []byte](key T) bool {
	const (
		n = len(AnnotationPrefix)
		// API servers accept U+212A, the Kelvin sign, as a k. It has two bytes more.
		kelvin = n + 2
	)
	return len(key) >= n && strings.EqualFold(string(key[:n]), AnnotationPrefix) ||
		len(key) >= kelvin && strings.EqualFold(string(key[:kelvin]), AnnotationPrefix)
}

// IsOurs reports whether a container has one of Keyferry's names.
func IsOurs(name string) bool {
	return name == RefresherContainer || name == CopierContainer || name == PluginContainer
}

// HasContainer reports whether the Pod has a container or init container with that name.
func (p *Pod) HasContainer(name string) bool {
	return IndexOf(p.Spec.InitContainers, name) >= 0 || IndexOf(p.Spec.Containers, name) >= 0
}

// IndexOf returns the index of the container with that name; -1 if there is none.
func IndexOf(containers []Container, name string) int {
	return slices.IndexFunc(containers, func(c Container) bool { return c.Name == name })
}
