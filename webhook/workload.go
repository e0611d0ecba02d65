package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/podtemplate"
)

// ownership contains the fields of an object's metadata that are read here.
type ownership struct {
	Metadata struct {
		DeletionTimestamp *string `json:"deletionTimestamp"`
		OwnerReferences   []struct {
			Controller bool `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
}

// isControlled reports whether a controller wrote the object. Then its annotations are those of the
// owner, which was reviewed before: a ReplicaSet has the annotations of its Deployment, a Job those
// of its CronJob's jobTemplate.
func (o *ownership) isControlled() bool {
	for _, owner := range o.Metadata.OwnerReferences {
		if owner.Controller {
			return true
		}
	}
	return false
}

// reviewWorkload denies annotations where they have no effect, and warns if Pods of the templates
// would be denied. It denies nothing that the object already had, because that would block
// controllers and finalizers.
func (h *Handler) reviewWorkload(ctx context.Context, request *request) (answer, error) {
	var owned ownership
	if err := json.Unmarshal(request.object, &owned); err != nil {
		return answer{}, fmt.Errorf("decoding object: %w", err)
	}
	if owned.isControlled() || owned.Metadata.DeletionTimestamp != nil {
		return answer{reason: "NotAsked"}, nil
	}
	is := podtemplate.Read(request.object)
	var was podtemplate.Object
	if len(request.oldObject) > 0 {
		was = podtemplate.Read(request.oldObject)
	}
	if is.Exceeded != nil && was.Exceeded == nil {
		return answer{}, invalid("TooLarge", "the %s %v", request.kind, is.Exceeded)
	}
	if err := misplaced(request.kind, is, was); err != nil {
		return answer{}, err
	}
	given := answer{reason: "Unchanged"}
	for _, template := range is.Templates {
		if slices.ContainsFunc(was.Templates, func(before podtemplate.Template) bool {
			return slices.Equal(before.Path, template.Path) && bytes.Equal(before.JSON, template.JSON)
		}) {
			continue
		}
		if given.reason == "Unchanged" {
			given.reason = "Fine"
		}
		switch admitted, err := h.admitTemplate(ctx, request, template); {
		case err != nil:
			return answer{}, err
		case len(admitted) > 0:
			given.warnings, given.reason = append(given.warnings, admitted...), "Warned"
		}
	}
	if warnings := copied(is, was); len(warnings) > 0 {
		given.warnings, given.reason = append(given.warnings, warnings...), "Warned"
	}
	given.warnings = given.warnings[:min(len(given.warnings), maxFixes)]
	return given, nil
}

// admitTemplate returns warnings about the Pods that will be created from a template. If the object
// has no namespace, neither has the Pods' ServiceAccount, so only the annotations are checked.
func (h *Handler) admitTemplate(ctx context.Context, request *request, template podtemplate.Template) ([]string, error) {
	var given answer
	pod, err := injector.ReadPod(template.JSON)
	switch {
	case err != nil:
		err = invalid("Malformed", "%v", err)
	case request.namespace == "":
		given, err = admitWithoutNamespace(pod, template.Annotations())
	default:
		given, err = h.admit(ctx, request, pod)
	}
	if denied, ok := errors.AsType[*denial](err); ok {
		return []string{willBeDenied(template.Annotations(), denied.message)}, nil
	}
	return given.warnings, err
}

// admitWithoutNamespace checks the annotations of a Pod template. at is their path.
func admitWithoutNamespace(pod *injector.Pod, at string) (answer, error) {
	requested, err := injector.ParseAnnotations(pod.Metadata.Annotations, "")
	switch {
	case err != nil:
		return answer{}, invalid("InvalidAnnotation", "%v", err)
	case requested.Empty():
		return answer{}, nil
	}
	return answer{warnings: []string{at + ": this object has no namespace, so Keyferry checks the cluster, " +
		"and the permission to use it, only when Pods are created"}}, nil
}

// copied returns warnings about wrong annotations that a controller copies to Pods. Each annotation
// is checked alone, because a Pod may receive the annotations of several places.
func copied(is, was podtemplate.Object) []string {
	before := was.Copied()
	var warnings []string
	for _, c := range is.Copied() {
		same := func(b podtemplate.Copied) bool { return b.From == c.From && maps.Equal(b.Values, c.Values) }
		if slices.ContainsFunc(before, same) {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(c.Values)) {
			if err := injector.CheckAnnotation(key, c.Values[key]); err != nil {
				warnings = append(warnings, willBeDenied(c.From, fmt.Sprintf("annotation %s: %v", injector.Readable(key), err)))
			}
		}
	}
	return warnings[:min(len(warnings), maxFixes)]
}

func willBeDenied(at, message string) string {
	return "its Pods will be denied: " + at + ": " + message
}

// maxFixes limits the length of an answer: an object can have any number of wrong annotations.
const maxFixes = 20

// misplaced denies annotations of Keyferry that no Pod receives: the Pods would use the local
// cluster.
func misplaced(kind string, is, was podtemplate.Object) error {
	before := was.Misplaced()
	var fixes []string
	for _, m := range is.Misplaced() {
		if slices.Contains(before, m) {
			continue
		}
		if len(fixes) == maxFixes {
			fixes = append(fixes, "and more")
			break
		}
		fixes = append(fixes, fmt.Sprintf("move %s from %s to %s", injector.Readable(m.Annotation), m.From, m.To))
	}
	if len(fixes) == 0 {
		return nil
	}
	return invalid("MisplacedAnnotation", "Keyferry's annotations have no effect on a %s itself, only on its Pods: %s",
		kind, strings.Join(fixes, "; "))
}
