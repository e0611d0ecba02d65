package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/injector/podtemplate"
)

// injectable are the kinds whose Pods are as their Pod templates, by API group.
var injectable = map[string][]string{
	"":                {"Pod", "PodTemplate", "ReplicationController"},
	"apps":            {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"},
	"batch":           {"Job", "CronJob"},
	"argoproj.io":     {"Rollout"},
	"jobset.x-k8s.io": {"JobSet"},
}

// manifest is an object of a document.
type manifest struct {
	kind, namespace, name string
	node                  *yaml.Node
	isInjectable          bool
	object                podtemplate.Object
}

// String names the object for messages.
func (m manifest) String() string {
	name := m.name
	if m.namespace != "" {
		name = m.namespace + "/" + name
	}
	return m.kind + " " + name
}

// manifests returns the object, or the objects that it holds if it is a List.
func manifests(node *yaml.Node) ([]manifest, error) {
	group, kind := groupKind(node)
	if items := member(node, "items"); strings.HasSuffix(kind, "List") && items != nil {
		var all []manifest
		for _, item := range elements(items) {
			found, err := manifests(item)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
		return all, nil
	}
	raw, err := toJSON(node)
	if err != nil {
		return nil, err
	}
	checked, err := jsonview.Check(raw)
	if err != nil {
		return nil, err
	}
	metadata := member(node, "metadata")
	name := text(member(metadata, "name"))
	if name == "" {
		name = text(member(metadata, "generateName"))
	}
	m := manifest{kind: kind, namespace: text(member(metadata, "namespace")), name: name, node: node, object: podtemplate.Read(checked)}
	if m.object.Exceeded != nil {
		return nil, fmt.Errorf("%s %w", m, m.object.Exceeded)
	}
	m.isInjectable = slices.Contains(injectable[group], kind) && len(m.object.Templates) > 0
	return []manifest{m}, nil
}

// checkPlaces refuses annotations that no Pod receives: the Pods would use the local cluster.
func (m manifest) checkPlaces() error {
	for _, misplaced := range m.object.Misplaced() {
		return fmt.Errorf("annotation %s in %s has no effect on Pods: move it to %s", misplaced.Annotation, misplaced.From, misplaced.To)
	}
	return nil
}

// unchanged returns a warning for each annotation that names a cluster, of an object that inject
// prints as it is.
func (m manifest) unchanged() []string {
	var found []string
	var walk func(node *yaml.Node, path string)
	walk = func(node *yaml.Node, path string) {
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			key := node.Content[i].Value
			if !injector.NamesCluster(strings.ToLower(key)) {
				walk(node.Content[i+1], strings.TrimPrefix(path+"."+key, "."))
				continue
			}
			effect := "the annotation has an effect only if a controller copies it to Pods"
			if slices.ContainsFunc(m.object.Templates, func(t podtemplate.Template) bool { return t.Annotations() == path }) {
				effect = "the webhook injects the Pods of this template when they are created"
			}
			found = append(found, fmt.Sprintf("%s: annotation %s in %s: inject does not support this kind and prints it unchanged, and %s",
				m, key, path, effect))
		}
		for i, element := range elements(node) {
			walk(element, fmt.Sprintf("%s[%d]", path, i))
		}
	}
	walk(m.node, "")
	return found
}

// descend returns what a path of names and indexes leads to. It is there.
func descend(node *yaml.Node, path []string) *yaml.Node {
	for _, name := range path {
		if list := elements(node); list != nil {
			i, _ := strconv.Atoi(name) // podtemplate gives indexes for lists
			node = list[i]
		} else {
			node = member(node, name)
		}
	}
	return node
}

// groupKind returns the API group and kind of an object; empty where it is none.
func groupKind(object *yaml.Node) (group, kind string) {
	group, _, grouped := strings.Cut(text(member(object, "apiVersion")), "/")
	if !grouped {
		group = ""
	}
	return group, text(member(object, "kind"))
}
