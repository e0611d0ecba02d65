// Package podview reads of a Pod what injection needs, and no more: to decode a Pod as a whole
// would cost more than all else that an admission does.
package podview

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// Names in a Pod that matter to injection.
const (
	// RefresherContainer is the sidecar.
	RefresherContainer = "keyferry-refresher"
	// CredentialsVolume holds what the refresher writes and the application reads.
	CredentialsVolume = "keyferry-credentials"
	// IdentityVolume holds what the refresher shows the broker, and what it knows the broker by.
	IdentityVolume = "keyferry-identity"
	// ProxyVolume holds what the refresher's proxy is known by; nobody else reads it.
	ProxyVolume = "keyferry-proxy"
	// PluginVolume holds the program that issues the credential, where the Pod does that itself.
	PluginVolume = "keyferry-plugin"
	// CopierContainer and PluginContainer are the init containers that put it there, where an image
	// cannot be a volume.
	CopierContainer = "keyferry-plugin-copier"
	PluginContainer = "keyferry-plugin"
	// Audience of the token in IdentityVolume; the broker takes no other.
	Audience = "keyferry"
	// SubjectTokenPath is the file in IdentityVolume with the token that the target's provider
	// exchanges, if it does, and SubjectTokensDir the directory of those for the providers of further
	// targets, in NAMESPACE/NAME.
	SubjectTokenPath = "subject-token"
	SubjectTokensDir = "subject-tokens"

	// ServiceAccountDir is where in-cluster clients read token, ca.crt and namespace.
	ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// LocalDir keeps what was mounted there before, for whoever needs the local cluster.
	LocalDir = "/var/run/secrets/keyferry.dev/local"

	// AnnotationPrefix is that of all our annotations.
	AnnotationPrefix = "keyferry.dev/"
	// LabelFederated, with FederatedValue, is the label of Pods that have a token of this cluster for
	// another one.
	LabelFederated = "keyferry.dev/federated"
	// FederatedValue is the value of LabelFederated.
	FederatedValue = "true"
	// LabelWorkflow is the label that Argo Workflows gives its Pods.
	LabelWorkflow = "workflows.argoproj.io/workflow"

	// CredentialsDir is where CredentialsVolume is mounted as a whole.
	CredentialsDir = "/var/run/keyferry"

	// EnvHost, EnvPort and EnvPortHTTPS are what in-cluster clients find their API server by.
	EnvHost      = "KUBERNETES_SERVICE_HOST"
	EnvPort      = "KUBERNETES_SERVICE_PORT"
	EnvPortHTTPS = "KUBERNETES_SERVICE_PORT_HTTPS"
	// EnvKubeconfig makes many clients not in-cluster.
	EnvKubeconfig = "KUBECONFIG"

	// EnvNoProxy and EnvNoProxyLower are the hosts that clients go to without their proxy. Some know
	// the one, some the other.
	EnvNoProxy      = "NO_PROXY"
	EnvNoProxyLower = "no_proxy"
	// SourcePrefix precedes their names where Keyferry has moved what the value comes from to another
	// variable.
	SourcePrefix = "KEYFERRY_"
)

// Pod is as much of a Pod, or of a Pod template, as injection and admission read.
type Pod struct {
	Metadata Metadata
	Spec     Spec
}

// Metadata is as much of a Pod's metadata as is read.
type Metadata struct {
	Name         string
	GenerateName string
	Namespace    string
	// Annotations are those that matter to injection: ours, and the one of mirror Pods.
	Annotations     map[string]string
	AnnotationCount int
	LabelCount      int
	Federated       bool // has LabelFederated
	IsWorkflow      bool // has LabelWorkflow
}

// Spec is as much of a Pod's spec as is read.
type Spec struct {
	ServiceAccountName string
	RestartPolicy      corev1.RestartPolicy
	DNSPolicy          corev1.DNSPolicy
	HostNetwork        bool
	SharesProcesses    bool // shareProcessNamespace: containers see each other's processes
	HostPID            bool
	Windows            bool
	RunsAsRoot         bool // says so for the whole Pod
	// Resources are the names of those that have a request or limit for the Pod as a whole.
	Resources      []string
	Volumes        Volumes
	InitContainers []Container
	Containers     []Container
}

// Volumes are those with names of ours.
type Volumes struct {
	Count int
	// JSON is the list of all volumes.
	JSON                                 jsonview.Valid
	Credentials, Identity, Proxy, Plugin Volume
}

// Volume is a volume with a name of ours. The zero value is one that the Pod does not have.
type Volume struct {
	Index int
	JSON  jsonview.Valid
}

// SubjectToken is a token of the Pod's own that the provider of a target exchanges.
type SubjectToken struct {
	// Path is the file in IdentityVolume.
	Path     string
	Audience string
}

// Container is as much of a container as is read: of the lists in it only those entries that
// matter, with the index of each.
type Container struct {
	Name    string
	Sidecar bool           // an init container that goes on running
	JSON    jsonview.Valid // all of it; nil unless IsOurs

	Amounts Amounts

	EnvCount int
	Env      []Env
	// Proxied says that a variable sends the container's requests through a proxy. NoProxy are those
	// that except hosts. EnvFrom says that there are variables in other objects, and nobody knows
	// which.
	Proxied bool
	NoProxy []Env
	EnvFrom bool
	// NoProxySources are the names of variables with SourcePrefix that have their value from
	// elsewhere.
	NoProxySources []string

	MountCount int
	Mounts     []Mount
	// Above are the mounts at the parents of these directories.
	Above []Mount
	// SidecarVolume is a volume of the sidecar alone that the container mounts; empty if there is
	// none.
	SidecarVolume string
}

// Amounts are a container's requests and limits of CPU and memory, as written; nil where there is
// none.
type Amounts struct{ RequestedCPU, RequestedMemory, LimitCPU, LimitMemory []byte }

// Env is one of the variables that are ours to set, or KUBECONFIG.
type Env struct {
	Index   int
	Name    string
	Value   string
	FileKey corev1.FileKeySelector
	// ConfigMapKey has Name and Key only.
	ConfigMapKey corev1.ConfigMapKeySelector
	// SecretKey has Name and Key only.
	SecretKey corev1.SecretKeySelector
	// ValueFrom is where else the value is, as written; nil if it is nowhere else. Only that of
	// NoProxy is kept.
	ValueFrom []byte
}

// Decode reads the JSON of a Pod, or of anything with the same metadata and spec, such as a Pod
// template.
func Decode(raw []byte) (*Pod, error) {
	checked, err := jsonview.Check(raw)
	if err != nil {
		return nil, fmt.Errorf("decoding Pod: %w", err)
	}
	return Read(checked)
}

// Read is Decode for what has been checked already, as a part of something else.
func Read(raw jsonview.Valid) (*Pod, error) {
	if len(raw) == 0 {
		return nil, errors.New("decoding Pod: there is none")
	}
	pod, r := new(Pod), raw.Read()
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
	return pod, nil
}

func (m *Metadata) read(r *jsonview.Reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "name":
			m.Name = string(r.Text())
		case "generateName":
			m.GenerateName = string(r.Text())
		case "namespace":
			m.Namespace = string(r.Text())
		case "annotations":
			r.Members(func(key []byte) {
				m.AnnotationCount++
				if !bytes.HasPrefix(key, []byte(AnnotationPrefix)) && string(key) != corev1.MirrorPodAnnotationKey {
					r.SkipText()
					return
				}
				if m.Annotations == nil {
					m.Annotations = make(map[string]string)
				}
				m.Annotations[string(key)] = string(r.Text())
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

func (s *Spec) read(r *jsonview.Reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "serviceAccountName":
			s.ServiceAccountName = string(r.Text())
		case "restartPolicy":
			s.RestartPolicy = corev1.RestartPolicy(r.Text())
		case "dnsPolicy":
			s.DNSPolicy = corev1.DNSPolicy(r.Text())
		case "hostNetwork":
			s.HostNetwork = r.Bool()
		case "shareProcessNamespace":
			s.SharesProcesses = r.Bool()
		case "hostPID":
			s.HostPID = r.Bool()
		case "os":
			r.Members(s.readOS(r, "name"))
		case "nodeSelector":
			// Most Windows Pods say no more.
			r.Members(s.readOS(r, corev1.LabelOSStable))
		case "securityContext":
			r.Members(func(name []byte) {
				if string(name) == "runAsUser" {
					s.RunsAsRoot = string(r.Value()) == "0"
				}
			})
		case "resources":
			r.Members(func(kind []byte) {
				if string(kind) != "requests" && string(kind) != "limits" {
					return
				}
				r.Members(func(name []byte) {
					if !slices.Contains(s.Resources, string(name)) {
						s.Resources = append(s.Resources, string(name))
					}
				})
			})
		case "volumes":
			s.Volumes.JSON = r.During(func() { s.Volumes.read(r) })
		case "initContainers":
			s.InitContainers = readContainers(r)
		case "containers":
			s.Containers = readContainers(r)
		}
	})
}

func (s *Spec) readOS(r *jsonview.Reader, member string) func(name []byte) {
	return func(name []byte) {
		if string(name) == member && string(r.Text()) == string(corev1.Windows) {
			s.Windows = true
		}
	}
}

func (v *Volumes) read(r *jsonview.Reader) {
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
		switch string(name) {
		case CredentialsVolume:
			v.Credentials = volume
		case IdentityVolume:
			v.Identity = volume
		case ProxyVolume:
			v.Proxy = volume
		case PluginVolume:
			v.Plugin = volume
		}
	})
}

func readContainers(r *jsonview.Reader) []Container {
	containers := make([]Container, 0, 4) // enough for most Pods
	r.Elements(func(int) {
		containers = append(containers, Container{})
		c := &containers[len(containers)-1]
		if json := r.During(func() { c.read(r) }); IsOurs(c.Name) {
			c.JSON = json
		}
	})
	return containers
}

func (c *Container) read(r *jsonview.Reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "name":
			c.Name = string(r.Text())
		case "restartPolicy":
			c.Sidecar = string(r.Text()) == string(corev1.ContainerRestartPolicyAlways)
		case "env":
			r.Elements(func(index int) {
				c.EnvCount++
				c.readEnv(r, index)
			})
		case "envFrom":
			r.Elements(func(int) { c.EnvFrom = true })
		case "resources":
			r.Members(func(kind []byte) {
				switch string(kind) {
				case "requests":
					readAmounts(r, &c.Amounts.RequestedCPU, &c.Amounts.RequestedMemory)
				case "limits":
					readAmounts(r, &c.Amounts.LimitCPU, &c.Amounts.LimitMemory)
				}
			})
		case "volumeMounts":
			r.Elements(func(index int) {
				c.MountCount++
				c.readMount(r, index)
			})
		}
	})
}

func readAmounts(r *jsonview.Reader, cpu, memory *[]byte) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "cpu":
			*cpu = r.Value()
		case "memory":
			*memory = r.Value()
		}
	})
}

func (c *Container) readEnv(r *jsonview.Reader, index int) {
	var name, value []byte
	var configMapKey, secretKey objectKey
	env := Env{Index: index}
	r.Members(func(member []byte) {
		switch string(member) {
		case "name":
			name = r.Text()
		case "value":
			value = r.Text()
		case "valueFrom":
			env.ValueFrom = r.During(func() {
				r.Members(func(source []byte) {
					switch string(source) {
					case "fileKeyRef":
						readFileKey(r, &env.FileKey)
					case "configMapKeyRef":
						configMapKey.read(r)
					case "secretKeyRef":
						secretKey.read(r)
					}
				})
			})
		}
	})
	switch string(name) {
	case EnvHost, EnvPort, EnvPortHTTPS, EnvKubeconfig:
		env.Name, env.Value = string(name), string(value)
		env.ConfigMapKey.Name, env.ConfigMapKey.Key = string(configMapKey.name), string(configMapKey.key)
		env.SecretKey.Name, env.SecretKey.Key = string(secretKey.name), string(secretKey.key)
		c.Env = append(c.Env, env)
	case EnvNoProxy, EnvNoProxyLower:
		env.Name, env.Value = string(name), string(value)
		c.NoProxy = append(c.NoProxy, env)
	case SourcePrefix + EnvNoProxy, SourcePrefix + EnvNoProxyLower:
		if env.ValueFrom != nil {
			c.NoProxySources = append(c.NoProxySources, string(name))
		}
	case "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy":
		c.Proxied = true
	}
}

func readFileKey(r *jsonview.Reader, key *corev1.FileKeySelector) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "volumeName":
			key.VolumeName = string(r.Text())
		case "path":
			key.Path = string(r.Text())
		case "key":
			key.Key = string(r.Text())
		}
	})
}

// objectKey refers to a key of a ConfigMap or Secret. It is part of the input: most of them are of
// variables that are nobody's business here, and not worth a string.
type objectKey struct{ name, key []byte }

func (k *objectKey) read(r *jsonview.Reader) {
	r.Members(func(member []byte) {
		switch string(member) {
		case "name":
			k.name = r.Text()
		case "key":
			k.key = r.Text()
		}
	})
}

// ServiceAccountName returns the name of the Pod's ServiceAccount, default where it names none.
func (p *Pod) ServiceAccountName() string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// IsMirror reports whether the Pod is the API server's picture of a Pod that a kubelet runs from a
// file: nothing that is changed in it reaches the kubelet.
func (p *Pod) IsMirror() bool {
	_, ok := p.Metadata.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// ResolvesServices reports whether the Pod's DNS knows the Services of the cluster: if not, Inject
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

// RestartsAlways goes by the API's default where the Pod says nothing.
func (p *Pod) RestartsAlways() bool {
	return p.Spec.RestartPolicy == "" || p.Spec.RestartPolicy == corev1.RestartPolicyAlways
}

// ContainerNames returns the names of all containers but our own, for messages.
func (p *Pod) ContainerNames() string {
	var names []string
	for _, list := range [][]Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if !IsOurs(list[i].Name) {
				names = append(names, list[i].Name)
			}
		}
	}
	return strings.Join(names, ", ")
}

// IsOurs reports whether a container has one of the names that injection gives.
func IsOurs(name string) bool {
	return name == RefresherContainer || name == CopierContainer || name == PluginContainer
}

// HasContainer reports whether the Pod has a container or init container of that name.
func (p *Pod) HasContainer(name string) bool {
	return IndexOf(p.Spec.InitContainers, name) >= 0 || IndexOf(p.Spec.Containers, name) >= 0
}

// IndexOf returns the index of the container of that name, or -1.
func IndexOf(containers []Container, name string) int {
	return slices.IndexFunc(containers, func(c Container) bool { return c.Name == name })
}
