package injector

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

// noProxyNames are the variables with the hosts that clients connect to without a proxy. Some
// clients read only one of them, and some prefer the lower-case name.
var noProxyNames = [...]string{podview.EnvNoProxy, podview.EnvNoProxyLower}

// exceptions are the changes that make clients with an HTTP proxy connect to the refresher's proxy
// directly. Not all clients bypass their proxy for loopback addresses.
type exceptions struct {
	// replaced are operations that must precede all operations that change the indexes of variables.
	replaced operations
	// sources are variables that the replaced variables refer to.
	sources []any
	// added are variables for the end of the list.
	added []any
}

func (e exceptions) replace(ops *operations) { *ops = append(*ops, e.replaced...) }

// movedEnv is a variable under a new name, with the same source.
type movedEnv struct {
	Name      string          `json:"name"`
	ValueFrom json.RawMessage `json:"valueFrom"`
}

// exceptLoopback returns the changes that add the refresher's address to NO_PROXY and no_proxy. The
// new values refer to other variables: the kubelet expands a reference to a variable that is
// earlier in the list or comes from envFrom. It keeps a reference to any other variable as text,
// which matches no host.
func (c chosenContainer) exceptLoopback() exceptions {
	var e exceptions
	if !c.Proxied && !c.EnvFrom {
		return e
	}
	var lists [len(noProxyNames)]string
	for i := range c.NoProxy {
		env := &c.NoProxy[i]
		list := env.Value
		if env.ValueFrom != nil {
			list = reference(podview.SourcePrefix + env.Name)
			e.sources = append(e.sources, movedEnv{podview.SourcePrefix + env.Name, env.ValueFrom})
		}
		list = withLoopback(list)
		lists[slices.Index(noProxyNames[:], env.Name)] = list
		if list != env.Value {
			e.replaced.replace(at(c.path, "/env/", env.Index), corev1.EnvVar{Name: env.Name, Value: list})
		}
	}
	for i, name := range noProxyNames {
		if lists[i] != "" {
			continue
		}
		list := lists[len(lists)-1-i]
		switch {
		case list == "" && c.EnvFrom:
			list = withLoopback(reference(podview.EnvNoProxy) + "," + reference(podview.EnvNoProxyLower))
		case list == "":
			list = proxyHost
		case c.EnvFrom:
			list = reference(name) + "," + list
		}
		e.added = append(e.added, corev1.EnvVar{Name: name, Value: list})
	}
	return e
}

// checkNoProxy adds a problem if a variable refers to a moved variable that another webhook has
// removed.
func (c chosenContainer) checkNoProxy(problems *problems) {
	for i := range c.NoProxy {
		env := &c.NoProxy[i]
		source := podview.SourcePrefix + env.Name
		if strings.Contains(env.Value, reference(source)) && !slices.Contains(c.NoProxySources, source) {
			problems.add("container %s: env %s refers to %s, which Keyferry added and another webhook removed: configure the other webhook to keep the variable, or set %s to a literal value",
				c.Name, env.Name, source, env.Name)
		}
	}
}

func reference(name string) string { return "$(" + name + ")" }

// withLoopback adds the refresher's host to a list of hosts, unless the list has it.
func withLoopback(list string) string {
	for host := range strings.SplitSeq(list, ",") {
		if host = strings.TrimSpace(host); host == proxyHost || host == "*" {
			return list
		}
	}
	return strings.TrimPrefix(strings.TrimRight(list, ", ")+","+proxyHost, ",")
}
