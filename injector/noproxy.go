package injector

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

// noProxyNames are the variables that hold the hosts to go to without a proxy. Some clients know
// the one, some the other, and some prefer the lower case.
var noProxyNames = [...]string{podview.EnvNoProxy, podview.EnvNoProxyLower}

// exceptions are what makes clients that use a proxy come to the refresher's without it: not all of
// them take that for granted at loopback.
type exceptions struct {
	// replaced are operations that come before all that change the indexes of variables.
	replaced operations
	// sources are variables that those refer to.
	sources []any
	// added go to the end.
	added []any
}

func (e exceptions) replace(ops *operations) { *ops = append(*ops, e.replaced...) }

// movedEnv is a variable with another name and the same source.
type movedEnv struct {
	Name      string          `json:"name"`
	ValueFrom json.RawMessage `json:"valueFrom"`
}

// exceptLoopback adds to the lists that there are. The kubelet expands a reference to a variable
// before, and to one that comes by envFrom; to one that there is not it leaves as it is, which is
// the name of no host.
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

// checkNoProxy refuses a list that was moved to another variable and is gone from there.
func (c chosenContainer) checkNoProxy(problems *problems) {
	for i := range c.NoProxy {
		env := &c.NoProxy[i]
		source := podview.SourcePrefix + env.Name
		if strings.Contains(env.Value, reference(source)) && !slices.Contains(c.NoProxySources, source) {
			problems.add("container %s: env %s refers to %s, which Keyferry had added and another webhook has removed: keep that webhook from it, or set %s to a literal value",
				c.Name, env.Name, source, env.Name)
		}
	}
}

func reference(name string) string { return "$(" + name + ")" }

// withLoopback adds the refresher's host to a list of hosts that lacks it.
func withLoopback(list string) string {
	for host := range strings.SplitSeq(list, ",") {
		if host = strings.TrimSpace(host); host == proxyHost || host == "*" {
			return list
		}
	}
	return strings.TrimPrefix(strings.TrimRight(list, ", ")+","+proxyHost, ",")
}
