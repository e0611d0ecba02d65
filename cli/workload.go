package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
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
	raw                   jsonview.Valid
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
	m := manifest{
		kind: kind, namespace: text(member(metadata, "namespace")), name: name,
		node: node, raw: checked, object: podtemplate.Read(checked),
	}
	if m.object.Exceeded != nil {
		return nil, fmt.Errorf("%s %w", m, m.object.Exceeded)
	}
	m.isInjectable = slices.Contains(injectable[group], kind) && len(m.object.Templates) > 0
	return []manifest{m}, nil
}

// checkPlaces refuses annotations that no Pod receives: the Pods would use the local cluster.
func (m manifest) checkPlaces() error {
	for _, misplaced := range m.object.Misplaced() {
		return fmt.Errorf("annotation %s in %s has no effect on Pods: move it to %s",
			injector.Readable(misplaced.Annotation), misplaced.From, misplaced.To)
	}
	return nil
}

// unread returns a warning for each annotation of Keyferry that inject does not read, because it is
// outside of a Pod template of a supported kind. checkPlaces decides about the metadata of
// supported kinds.
func (m manifest) unread() []string {
	var found []string
	warn := func(key string, value jsonview.Valid, path string) {
		found = append(found, fmt.Sprintf("%s: annotation %s in %s: %s", m, injector.Readable(key), path, m.effect(key, value, path)))
	}
	var walk func(raw jsonview.Valid, path, field string)
	walk = func(raw jsonview.Valid, path, field string) {
		isChecked := m.isInjectable && strings.HasSuffix("."+path, ".metadata.annotations")
		r := raw.Read()
		switch raw[0] {
		case '[':
			r.Elements(func(i int) { walk(r.Value(), fmt.Sprintf("%s[%d]", path, i), field) })
		case '{':
			members := map[string]jsonview.Valid{}
			r.Members(func(name []byte) {
				key, value := string(name), r.Value()
				members[strings.ToLower(key)] = value
				if !isAnnotation(key, field) {
					walk(value, strings.TrimPrefix(path+"."+key, "."), key)
				} else if !isChecked {
					warn(key, value, path)
				}
			})
			// Some kinds have lists of pairs instead.
			for _, member := range []string{"name", "key"} {
				if key := textOf(members[member]); holdsAnnotations(field) && isAnnotation(key, field) {
					warn(key, members["value"], path)
				}
			}
		}
	}
	walk(m.raw, "", "")
	return found
}

// isAnnotation reports whether a key of a field is an annotation for Pods. HelmReleases and other
// kinds have fields such as podAnnotations. Labels may have keys with the same prefix.
func isAnnotation(key, field string) bool {
	key, field = strings.ToLower(key), strings.ToLower(field)
	return strings.HasPrefix(key, injector.Prefix) && !slices.Contains(written[:], key) &&
		(holdsAnnotations(field) || injector.NamesCluster(key) && !strings.HasSuffix(field, "labels"))
}

func holdsAnnotations(field string) bool {
	return strings.HasSuffix(strings.ToLower(field), "annotations")
}

// textOf returns the text of a string; empty for any other value, and for nil.
func textOf(value jsonview.Valid) string {
	if len(value) == 0 || value[0] != '"' {
		return ""
	}
	return string(value.Read().Text())
}

// written are the annotations that Keyferry writes.
var written = [...]string{injector.AnnotationStatus, v1alpha1.AnnotationCredential, managed.OwnerAnnotation}

// effect returns why inject does not read an annotation, and what the annotation does.
func (m manifest) effect(key string, value jsonview.Valid, path string) string {
	why := "inject does not support this kind and prints it unchanged"
	if m.isInjectable {
		why = "inject does not read this field"
	}
	isOfTemplate := func(t podtemplate.Template) bool { return t.Annotations() == path }
	switch err := injector.CheckAnnotation(key, textOf(value)); {
	case err != nil:
		return fmt.Sprintf("%s, and the webhook denies Pods that get this annotation: %v", why, err)
	case slices.ContainsFunc(m.object.Templates, isOfTemplate):
		return why + ", and the webhook injects the Pods of this template when they are created"
	default:
		return why + ", and the annotation has an effect only if a controller copies it to Pods"
	}
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
