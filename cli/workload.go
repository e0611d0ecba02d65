package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyferry/keyferry/injector"
)

// templates says where the kinds of Kubernetes that make Pods have their Pod template.
var templates = [...]struct {
	groups []string
	kinds  []string
	path   []string
}{
	{[]string{""}, []string{"Pod"}, nil},
	{[]string{""}, []string{"PodTemplate"}, []string{"template"}},
	{[]string{""}, []string{"ReplicationController"}, []string{"spec", "template"}},
	{[]string{"apps"}, []string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}, []string{"spec", "template"}},
	{[]string{"batch"}, []string{"Job"}, []string{"spec", "template"}},
	{[]string{"batch"}, []string{"CronJob"}, []string{"spec", "jobTemplate", "spec", "template"}},
}

// workload is a Pod, or an object that makes Pods.
type workload struct {
	kind, namespace, name string
	object                *yaml.Node
	path                  []string   // from object to template
	template              *yaml.Node // the object itself if it is a Pod
}

// String names the object for messages.
func (w workload) String() string {
	name := w.name
	if w.namespace != "" {
		name = w.namespace + "/" + name
	}
	return w.kind + " " + name
}

// workloads returns the workloads that an object is or, being a List, holds.
func workloads(object *yaml.Node) []workload {
	group, kind := groupKind(object)
	if strings.HasSuffix(kind, "List") {
		items := elements(member(object, "items"))
		found := make([]workload, 0, len(items))
		for _, item := range items {
			found = append(found, workloads(item)...)
		}
		return found
	}
	for _, t := range templates {
		if !slices.Contains(t.groups, group) || !slices.Contains(t.kinds, kind) {
			continue
		}
		template := object
		for _, name := range t.path {
			template = member(template, name)
		}
		if template == nil || template.Kind != yaml.MappingNode {
			return nil
		}
		metadata := member(object, "metadata")
		name := text(member(metadata, "name"))
		if name == "" {
			name = text(member(metadata, "generateName"))
		}
		return []workload{{kind: kind, namespace: text(member(metadata, "namespace")), name: name, object: object, path: t.path, template: template}}
	}
	return nil
}

// unknown is an object of a kind whose Pod template is not known here, which has an annotation that
// names a cluster.
type unknown struct {
	kind, name string
	annotation string
	path       string // to the annotations, such as metadata.annotations
}

func (u unknown) String() string {
	effect := "it is printed unchanged, and the webhook injects the Pods of this template when they are created"
	if u.path == "metadata.annotations" {
		effect = "it is printed unchanged, and the annotation has an effect only if its controller copies it to the Pods: set it in the Pod template"
	}
	return fmt.Sprintf("%s %s: annotation %s in %s: inject does not know this kind: %s", u.kind, u.name, u.annotation, u.path, effect)
}

// unknowns returns what inject leaves as it is, of an object or the items of a List.
func unknowns(object *yaml.Node) []unknown {
	_, kind := groupKind(object)
	var found []unknown
	if strings.HasSuffix(kind, "List") {
		for _, item := range elements(member(object, "items")) {
			found = append(found, unknowns(item)...)
		}
		return found
	}
	if len(workloads(object)) > 0 {
		return nil
	}
	var walk func(node *yaml.Node, path []string)
	walk = func(node *yaml.Node, path []string) {
		given := annotations(node)
		for _, key := range []string{
			injector.AnnotationCluster, injector.AnnotationClusterProfile, injector.AnnotationClusters, injector.AnnotationCredentialRequest,
		} {
			if _, ok := given[key]; ok {
				at := strings.Join(append(slices.Clone(path), "metadata.annotations"), ".")
				found = append(found, unknown{kind, text(member(member(object, "metadata"), "name")), key, at})
			}
		}
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			walk(node.Content[i+1], append(slices.Clone(path), node.Content[i].Value))
		}
		for i, element := range elements(node) {
			at := slices.Clone(path)
			at[len(at)-1] += fmt.Sprintf("[%d]", i)
			walk(element, at)
		}
	}
	walk(object, nil)
	return found
}

// misplaced refuses annotations of ours above the Pod template: nothing reads them there, and the Pods would act on the local cluster. What
// the template says as well does no harm.
func (w workload) misplaced() error {
	if len(w.path) == 0 {
		return nil
	}
	have := annotations(w.template)
	where := []*yaml.Node{w.object}
	if w.kind == "CronJob" {
		where = append(where, member(member(w.object, "spec"), "jobTemplate"))
	}
	for _, holder := range where {
		own := annotations(holder)
		for _, key := range slices.Sorted(maps.Keys(own)) {
			if value, ok := have[key]; strings.HasPrefix(key, injector.Prefix) && (!ok || value != own[key]) {
				return fmt.Errorf("annotation %s is not on the Pod template, where alone it has an effect: move it to %s.metadata.annotations",
					key, strings.Join(w.path, "."))
			}
		}
	}
	return nil
}

// groupKind returns the API group and kind of an object; empty where it is none.
func groupKind(object *yaml.Node) (group, kind string) {
	group, _, grouped := strings.Cut(text(member(object, "apiVersion")), "/")
	if !grouped {
		group = ""
	}
	return group, text(member(object, "kind"))
}

// annotations returns the annotations of an object or template.
func annotations(holder *yaml.Node) map[string]string {
	node := member(member(holder, "metadata"), "annotations")
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	found := make(map[string]string, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		found[node.Content[i].Value] = node.Content[i+1].Value
	}
	return found
}
