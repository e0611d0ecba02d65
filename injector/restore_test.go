package injector_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/injector"
)

// outcome is what a second injection does with a field that another webhook has removed or changed.
type outcome string

const (
	restored outcome = "restored" // the Pod has again everything that the first injection wrote
	denied   outcome = "denied"
	merged   outcome = "merged" // the other webhook's value, with the proxy's host in it
	kept     outcome = "kept"   // as the other webhook left it
)

// outcomes lists the fields that are not restored when they are removed or changed. All other
// fields that injection writes to the Pods of testdata are restored. * stands for all fields below.
var outcomes = map[string]struct{ removed, changed outcome }{
	// Others have their own idea of these: autoscalers, LimitRanger, platforms with minima. They are
	// restored where none is left, or if the Pod names them itself.
	"sidecar resources *": {kept, kept},

	// Two volumes cannot have the same place, and nobody knows which is meant.
	"container volumeMounts /var/run/secrets/kubernetes.io/serviceaccount name": {denied, denied},
	"container volumeMounts /var/run/keyferry name":                             {denied, denied},

	// Nothing tells a sidecar with another name from another container that reads its files.
	"spec initContainers keyferry-refresher name": {denied, denied},

	// Injection does not need the local cluster's files, and nothing else says which volume they were
	// in.
	"container volumeMounts /var/run/secrets/keyferry.dev/local":   {removed: kept},
	"container volumeMounts /var/run/secrets/keyferry.dev/local *": {kept, kept},

	// The hosts are the container's, with the proxy's among them. Where they come from another object,
	// its name is nowhere else.
	"container env NO_PROXY":                    {removed: merged},
	"container env NO_PROXY *":                  {merged, merged},
	"container env KEYFERRY_NO_PROXY":           {removed: denied},
	"container env KEYFERRY_NO_PROXY name":      {denied, denied},
	"container env KEYFERRY_NO_PROXY valueFrom": {removed: denied},
	"container env KEYFERRY_NO_PROXY *":         {kept, kept},

	// These are for the user to set. A container that sets KUBECONFIG gets a warning.
	"container env KUBECONFIG value":              {kept, kept},
	"metadata annotations keyferry.dev/namespace": {restored, kept},
}

// TestRestore removes and changes each field that injection has written, and injects again. It
// computes the fields from each Pod before and after injection, so it also tests new fields.
func TestRestore(t *testing.T) {
	met := map[string]bool{}
	for name, raw := range cases(t) {
		i := installationOf(name)
		first, err := i.inject(raw)
		if err != nil {
			continue // golden
		}
		injected := apply(t, raw, first.Operations)
		named := namedResources(t, raw)
		tested := map[string]bool{}
		for _, f := range written("", tree(t, raw), tree(t, injected)) {
			generic := f.generic(named)
			if tested[fmt.Sprint(generic)] {
				continue // in another container
			}
			tested[fmt.Sprint(generic)] = true
			row := rowOf(generic)
			want := outcomes[row]
			if met[row] = true; want.removed == "" {
				want.removed, want.changed = restored, restored
			}
			t.Run(name+"/"+strings.Join(f, " "), func(t *testing.T) {
				r := restoration{i, injected, f}
				r.check(t, "removed", want.removed, func(any) any { return nil })
				if isScalar(f.value(tree(t, injected))) {
					r.check(t, "changed", want.changed, another)
				}
			})
		}
	}
	for row := range outcomes {
		if !met[row] {
			t.Errorf("injection does not write %s: remove it from the table", row)
		}
	}
}

// TestRestoreKeepsTheRest checks that restoring fields keeps the changes of other webhooks and
// admission plugins.
func TestRestoreKeepsTheRest(t *testing.T) {
	const sidecar = "/spec/initContainers/0"
	add := func(path, value string) injector.Operation {
		return injector.Operation{Op: "add", Path: sidecar + path, Value: json.RawMessage(value)}
	}
	for name, others := range map[string][]injector.Operation{
		"image behind a mirror":              {add("/image", `"mirror.local:5000/ghcr.io/keyferry/refresher:v0.1.0"`)},
		"image with a digest":                {add("/image", `"ghcr.io/keyferry/refresher:v0.1.0@sha256:01234567"`)},
		"image with a digest and no tag":     {add("/image", `"mirror.local/refresher@sha256:01234567"`)},
		"pull policy":                        {add("/imagePullPolicy", `"Always"`)},
		"resources of an autoscaler":         {add("/resources", `{"requests":{"cpu":"50m","memory":"100Mi"}}`)},
		"resources of a LimitRange":          {add("/resources/limits/ephemeral-storage", `"1Gi"`)},
		"mounts, variables and a hook":       {add("/volumeMounts/0", `{"name":"ca","mountPath":"/etc/ca"}`), add("/env", `[{"name":"A","value":"b"}]`), add("/lifecycle/preStop", `{"sleep":{"seconds":1}}`)},
		"user and capabilities of OpenShift": {add("/securityContext/runAsUser", `1000650000`), add("/securityContext/capabilities/drop", `["ALL","KILL","MKNOD"]`)},
	} {
		t.Run(name, func(t *testing.T) {
			i := defaultInstallation()
			injected := apply(t, apply(t, cases(t)["minimal"], mustInject(t, "minimal")), others)
			damaged := apply(t, injected, []injector.Operation{
				{Op: "remove", Path: sidecar + "/restartPolicyRules"}, {Op: "remove", Path: sidecar + "/lifecycle/postStart"},
				{Op: "remove", Path: sidecar + "/securityContext/runAsNonRoot"}, {Op: "replace", Path: sidecar + "/command", Value: []string{"/other"}},
			})
			again, err := i.inject(damaged)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, apply(t, damaged, again.Operations)); !reflect.DeepEqual(got, tree(t, injected)) {
				t.Errorf("got %v", got)
			}
			want := []string{"Keyferry restored parts of its earlier injection that were missing or different: " +
				"init container keyferry-refresher: command, lifecycle, restartPolicyRules, securityContext"}
			if !slices.Equal(again.Warnings, want) {
				t.Errorf("got warnings %q, want %q", again.Warnings, want)
			}
		})
	}
	for name, image := range map[string]string{
		"another tag": "mirror.local/refresher:v0.0.9", "another name": "ghcr.io/keyferry/other:v0.1.0", "none": "",
	} {
		t.Run("but not an image with "+name, func(t *testing.T) {
			damaged := apply(t, apply(t, cases(t)["minimal"], mustInject(t, "minimal")), []injector.Operation{{Op: "add", Path: sidecar + "/image", Value: image}})
			again, err := defaultInstallation().inject(damaged)
			if err != nil || len(again.Operations) != 1 || again.Operations[0].Path != sidecar+"/image" {
				t.Errorf("got %v, %v", again.Operations, err)
			}
		})
	}
}

// rowOf returns the row of the table for a field, or the field itself.
func rowOf(generic field) string {
	row := strings.Join(generic, " ")
	if _, ok := outcomes[row]; ok {
		return row
	}
	for n := range generic {
		all := strings.Join(generic[:n], " ") + " *"
		if _, ok := outcomes[all]; ok {
			return all
		}
	}
	return row
}

// restoration is a second injection after a field of the first was edited.
type restoration struct {
	installation

	injected []byte
	field    field
}

func (r restoration) check(t *testing.T, what string, want outcome, edit func(any) any) {
	t.Helper()
	raw, err := json.Marshal(r.field.edit("", tree(t, r.injected), edit))
	if err != nil {
		t.Fatal(err)
	}
	got := denied
	again, err := r.inject(raw)
	if err == nil {
		patched := apply(t, raw, again.Operations)
		got = r.outcome(t, patched)
		if third, err := r.inject(patched); err != nil || len(third.Operations) > 0 {
			t.Errorf("%s: a third injection gives %v, %v", what, third.Operations, err)
		}
	}
	if got != want && (want != merged || got != restored) {
		t.Errorf("%s: it is %s, want %s; operations %v, error %v", what, got, want, again.Operations, err)
	}
}

func (r restoration) outcome(t *testing.T, patched []byte) outcome {
	t.Helper()
	pod, wanted := tree(t, patched), tree(t, r.injected)
	if r.field[len(r.field)-1] == "name" {
		// A container with another name stays beside what is restored, and the status names it.
		delete(wanted["metadata"].(map[string]any)["annotations"].(map[string]any), injector.AnnotationStatus)
	}
	switch {
	case has("", pod, wanted):
		return restored
	case len(r.field) > 4 && strings.EqualFold(r.field[4], "NO_PROXY") && strings.Contains(fmt.Sprint(r.field[:5].value(pod)), "127.0.0.1"):
		return merged
	default:
		return kept
	}
}

// field is the path of a value in a Pod: the names of members, and the keys of list elements.
type field []string

// namedResources returns a function that reports whether the Pod names an amount for the sidecar,
// such as "limits cpu", or "limits" for both CPU and memory.
func namedResources(t *testing.T, raw []byte) func(amount string) bool {
	t.Helper()
	pod, err := injector.DecodePod(raw)
	if err != nil {
		t.Fatal(err)
	}
	named, amounts := map[string]bool{}, map[string]map[string]any{}
	if value, ok := pod.Metadata.Annotations[injector.AnnotationRefresherResources]; ok {
		if err := json.Unmarshal([]byte(value), &amounts); err != nil {
			t.Fatal(err)
		}
	}
	for kind, names := range amounts {
		named[kind] = len(names) == 2
		for name := range names {
			named[kind+" "+name] = true
		}
	}
	return func(amount string) bool { return named[amount] }
}

// generic replaces the names of containers, except Keyferry's, by one name. For resources that are
// not named it replaces Keyferry's, too.
func (f field) generic(named func(amount string) bool) field {
	generic := slices.Clone(f)
	switch isContainer := len(f) > 2 && f[0] == "spec" && strings.HasSuffix(f[1], "ontainers"); {
	case isContainer && !strings.HasPrefix(f[2], "keyferry-"):
		generic = slices.Concat(field{"container"}, f[3:])
	case isContainer && len(f) > 3 && f[3] == "resources" && !named(strings.Join(f[4:], " ")):
		generic = slices.Concat(field{"sidecar"}, f[3:])
	}
	for i, name := range generic {
		generic[i] = strings.Replace(name, "no_proxy", "NO_PROXY", 1)
	}
	return generic
}

// known are the members that identify the elements of a list. Elements of other lists are
// identified by their index.
var known = map[string]string{
	"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath", "ports": "name",
}

// children returns the members of an object, or the elements of a list with their keys, in order.
func children(list string, value any) (names []string, values map[string]any) {
	values = map[string]any{}
	switch value := value.(type) {
	case map[string]any:
		return slices.Sorted(maps.Keys(value)), value
	case []any:
		for i, element := range value {
			name := elementName(list, i, element)
			names, values[name] = append(names, name), element
		}
	}
	return names, values
}

func elementName(list string, index int, element any) string {
	if key := known[list]; key != "" {
		return fmt.Sprint(element.(map[string]any)[key])
	}
	return strconv.Itoa(index)
}

func isScalar(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	default:
		return true
	}
}

// written returns the fields of after that before lacks or that differ. at is the path of both.
func written(name string, before, after any, at ...string) (fields []field) {
	_, had := children(name, before)
	names, has := children(name, after)
	for _, child := range names {
		path := append(slices.Clone(at), child)
		if old, ok := had[child]; !ok || isScalar(has[child]) && old != has[child] {
			fields = append(fields, path)
		}
		fields = append(fields, written(child, had[child], has[child], path...)...)
	}
	return fields
}

func (f field) value(pod any) any {
	list := ""
	for _, name := range f {
		_, values := children(list, pod)
		list, pod = name, values[name]
	}
	return pod
}

// edit returns value with the field changed by edit, which returns nil to remove it.
func (f field) edit(list string, value any, edit func(any) any) any {
	if len(f) == 0 {
		return edit(value)
	}
	switch value := value.(type) {
	case map[string]any:
		if value[f[0]] = f[1:].edit(f[0], value[f[0]], edit); value[f[0]] == nil {
			delete(value, f[0])
		}
		return value
	case []any:
		for i, element := range value {
			if elementName(list, i, element) != f[0] {
				continue
			}
			if value[i] = f[1:].edit(f[0], element, edit); value[i] == nil {
				return slices.Delete(value, i, i+1)
			}
			return value
		}
	}
	panic("no such field")
}

// another returns another value of the same type.
func another(value any) any {
	switch value := value.(type) {
	case string:
		return value + "x"
	case bool:
		return !value
	case json.Number:
		return "1" + value
	default:
		panic(fmt.Sprintf("%T", value))
	}
}

// has reports whether value contains everything in wanted. Lists whose elements have keys may have
// more elements, in another order.
func has(list string, value, wanted any) bool {
	if isScalar(wanted) {
		return reflect.DeepEqual(value, wanted)
	}
	names, values := children(list, value)
	wantedNames, wanteds := children(list, wanted)
	if _, isList := wanted.([]any); isList && known[list] == "" && len(names) != len(wantedNames) {
		return false
	}
	return !slices.ContainsFunc(wantedNames, func(child string) bool { return !has(child, values[child], wanteds[child]) })
}
