// Package podtemplate finds the Pod templates in objects of any kind, and annotations of Keyferry
// that no Pod receives.
package podtemplate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// maxDepth limits the levels of an object that are read. In all known kinds, the templates are in
	// the first six.
	maxDepth = 16
	// maxName is the longest name of a member that is read, in bytes. Members of templates and of the
	// objects around them are fields; those of Kubernetes have less than 50. Answers contain paths.
	maxName = 63
	// maxTemplates and maxAnnotations limit the time to compare templates and annotations.
	maxTemplates   = 100
	maxAnnotations = 500
)

// Object is the result of Read.
type Object struct {
	// Templates are the Pod templates of the object, in its order: every object in it that has a spec
	// with containers.
	Templates []Template
	// Exceeded is the first limit that the object exceeds, as a sentence with the fix; nil if there is
	// none, or if the object has no annotations of Keyferry. If it is set, Templates is incomplete.
	Exceeded error

	group, kind string
	// hasWorkloadRef is set if the object uses the Pod template of another object.
	hasWorkloadRef bool
	annotated      []annotated
	annotations    int // in annotated
}

// Template is a Pod template.
type Template struct {
	// Path is the path from the object to the template: names of members, and indexes of elements such
	// as "0". It is empty if the object itself is a template, such as a Pod.
	Path []string
	JSON jsonview.Valid
}

// Annotations returns the path of the template's annotations, for messages.
func (t Template) Annotations() string { return annotationsOf(t.Path) + ".annotations" }

// Misplaced is an annotation of Keyferry that no Pod receives.
type Misplaced struct {
	Annotation, Value string
	From              string // the path of the annotation, such as metadata.annotations
	To                string // the path where the annotation would have an effect
}

// annotated is an object, such as metadata, with annotations of Keyferry.
type annotated struct {
	path   []string
	values map[string]string
}

func (a annotated) has(key, value string) bool {
	given, ok := a.values[key]
	return ok && given == value
}

// copier is a kind whose controller copies annotations to Pods from other places than Pod templates
// with containers.
type copier struct {
	group string
	kinds []string
	// ignored are the paths of annotations that the controller does not copy.
	ignored []string
	// to is the path where annotations have an effect, for messages.
	to string
}

var copiers = [...]copier{
	{"argoproj.io", []string{"Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate"}, []string{"metadata", "spec.workflowMetadata"},
		"spec.podMetadata.annotations"},
	{"argoproj.io", []string{"CronWorkflow"}, []string{"metadata", "spec.workflowMetadata"}, "spec.workflowSpec.podMetadata.annotations"},
	{"pkg.crossplane.io", []string{"DeploymentRuntimeConfig"},
		[]string{"metadata", "spec.deploymentTemplate.metadata", "spec.serviceTemplate.metadata", "spec.serviceAccountTemplate.metadata"},
		"spec.deploymentTemplate.spec.template.metadata.annotations"},
	{"sparkoperator.k8s.io", []string{"SparkApplication"}, []string{"metadata"},
		"spec.driver.annotations or spec.executor.annotations"},
	{"sparkoperator.k8s.io", []string{"ScheduledSparkApplication"}, []string{"metadata"},
		"spec.template.driver.annotations or spec.template.executor.annotations"},
}

// Read finds the Pod templates and annotations of an object.
func Read(raw jsonview.Valid) Object {
	var o Object
	r := raw.Read()
	r.Members(func(name []byte) {
		switch string(name) {
		case "apiVersion":
			group, _, _ := strings.Cut(string(r.Text()), "/")
			o.group = group
		case "kind":
			o.kind = string(r.Text())
		}
	})
	o.walk(raw.Read(), make([]string, 0, maxDepth+2))
	if len(o.annotated) == 0 {
		o.Exceeded = nil
	}
	return o
}

// walk reads the next value, at a path, and the values in it. It reports whether the value is an
// object with a list of containers. Callees change the elements behind path.
func (o *Object) walk(r *jsonview.Reader, path []string) (hasContainers bool) {
	switch r.Kind() {
	case '[':
		if len(path) <= maxDepth {
			r.Elements(func(i int) {
				if isNested(r) {
					o.walk(r, append(path, strconv.Itoa(i)))
				}
			})
		}
	case '{':
		return o.walkObject(r, path)
	}
	return false
}

func (o *Object) walkObject(r *jsonview.Reader, path []string) (hasContainers bool) {
	isTemplate, first := false, len(o.Templates)
	raw := r.During(func() {
		r.Members(func(name []byte) {
			hasContainers = hasContainers || string(name) == "containers" && r.Kind() == '['
			switch {
			case len(path) > maxDepth || len(name) > maxName:
			case string(name) == "workloadRef" && len(path) == 1:
				o.hasWorkloadRef = true
			case string(name) == "annotations":
				o.note(r, path)
			case string(name) == "spec":
				before := *o
				if o.walk(r, append(path, "spec")) {
					*o, isTemplate = before, true // nothing in the spec of a Pod is a template
				}
			case isNested(r):
				o.walk(r, append(path, string(name)))
			}
		})
	})
	switch {
	case !isTemplate:
	case len(o.Templates) == maxTemplates:
		o.exceed("has more than %d Pod templates: use several objects", maxTemplates)
	default:
		o.Templates = slices.Insert(o.Templates, first, Template{slices.Clone(path), raw})
	}
	return hasContainers
}

// isNested reports whether the next value is an object or a list.
func isNested(r *jsonview.Reader) bool { return r.Kind() == '{' || r.Kind() == '[' }

func (o *Object) exceed(format string, args ...any) {
	if o.Exceeded == nil {
		o.Exceeded = fmt.Errorf(format, args...)
	}
}

// note records the annotations of Keyferry at a path.
func (o *Object) note(r *jsonview.Reader, path []string) {
	if r.Kind() != '{' {
		return
	}
	found := annotated{values: map[string]string{}}
	r.Members(func(name []byte) {
		switch {
		case !podview.HasAnnotationPrefix(name) || r.Kind() != '"':
		case o.annotations == maxAnnotations:
			o.exceed("has more than %d annotations of Keyferry: use several objects", maxAnnotations)
		default:
			o.annotations++
			found.values[string(name)] = string(r.Text())
		}
	})
	if len(found.values) > 0 {
		found.path = slices.Clone(path)
		o.annotated = append(o.annotated, found)
	}
}

// Misplaced returns the annotations of Keyferry that no Pod receives: the Pods would use the local
// cluster. An annotation is not misplaced if all Pods receive it with the same value, because some
// tools annotate everything. For kinds whose Pods are not known to come from a template, Misplaced
// returns nothing.
func (o *Object) Misplaced() []Misplaced {
	var ignored, received []annotated
	for _, a := range o.annotated {
		if o.ignores(a.path) {
			ignored = append(ignored, a)
		} else {
			received = append(received, a)
		}
	}
	var found []Misplaced
	for _, a := range ignored {
		from := readable(a.path) + ".annotations"
		for _, key := range slices.Sorted(maps.Keys(a.values)) {
			value := a.values[key]
			if to := o.destination(received, a.path, key, value); to != "" {
				found = append(found, Misplaced{key, value, from, to})
			}
		}
	}
	return found
}

// Copied is a set of annotations of Keyferry that a controller copies to Pods.
type Copied struct {
	From   string // the path of the annotations, such as spec.podMetadata.annotations
	Values map[string]string
}

// Copied returns the annotations that the object's controller copies to Pods from other places than
// the object's Templates. A Pod may receive the annotations of several places.
func (o *Object) Copied() []Copied {
	if o.copier() == nil {
		return nil
	}
	var found []Copied
	for _, a := range o.annotated {
		isTemplate := func(t Template) bool { return slices.Equal(a.path, append(slices.Clip(t.Path), "metadata")) }
		if !o.ignores(a.path) && !slices.ContainsFunc(o.Templates, isTemplate) {
			found = append(found, Copied{readable(a.path) + ".annotations", a.values})
		}
	}
	return found
}

// ignores reports whether no Pod receives the annotations at a path.
func (o *Object) ignores(path []string) bool {
	if c := o.copier(); c != nil {
		return slices.Contains(c.ignored, readable(path))
	}
	if len(o.Templates) == 0 && !o.hasWorkloadRef || len(path) == 0 || path[len(path)-1] != "metadata" {
		return false
	}
	return !slices.ContainsFunc(o.Templates, func(t Template) bool { return slices.Equal(t.Path, path[:len(path)-1]) })
}

// destination returns the path where an annotation would have an effect. received are the
// annotations that Pods receive. It is empty if the Pods of
// all templates below the path receive the annotation. For a copier it is not known which Pods
// receive a copy, so one copied annotation is enough.
func (o *Object) destination(received []annotated, path []string, key, value string) string {
	if c := o.copier(); c != nil {
		if slices.ContainsFunc(received, func(a annotated) bool { return a.has(key, value) }) {
			return ""
		}
		return c.to
	}
	if len(o.Templates) == 0 {
		return "the Pod template of the object that spec.workloadRef names"
	}
	for _, t := range o.below(path) {
		at := append(slices.Clip(t.Path), "metadata")
		if !slices.ContainsFunc(received, func(a annotated) bool { return slices.Equal(a.path, at) && a.has(key, value) }) {
			return t.Annotations()
		}
	}
	return ""
}

// below returns the templates inside the object whose metadata is at a path, or all templates if
// there are none inside.
func (o *Object) below(path []string) []Template {
	above := path[:len(path)-1]
	below := slices.DeleteFunc(slices.Clone(o.Templates), func(t Template) bool {
		return len(t.Path) < len(above) || !slices.Equal(t.Path[:len(above)], above)
	})
	if len(below) == 0 {
		return o.Templates
	}
	return below
}

func (o *Object) copier() *copier {
	for i := range copiers {
		if c := &copiers[i]; c.group == o.group && slices.Contains(c.kinds, o.kind) {
			return c
		}
	}
	return nil
}

func annotationsOf(path []string) string {
	return readable(append(slices.Clip(path), "metadata"))
}

// readable formats a path as kubectl does, such as spec.replicatedJobs[0].template.
func readable(path []string) string {
	var b strings.Builder
	for i, name := range path {
		_, err := strconv.Atoi(name)
		switch {
		case err == nil:
			b.WriteString("[" + name + "]")
		case i > 0:
			b.WriteString("." + name)
		default:
			b.WriteString(name)
		}
	}
	return b.String()
}
