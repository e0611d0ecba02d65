package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	return given, nil
}

// admitTemplate returns warnings about the Pods that will be created from a template.
func (h *Handler) admitTemplate(ctx context.Context, request *request, template podtemplate.Template) ([]string, error) {
	var given answer
	pod, err := injector.ReadPod(template.JSON)
	if err != nil {
		err = invalid("Malformed", "%v", err)
	} else {
		given, err = h.admit(ctx, request, pod)
	}
	if denied, ok := errors.AsType[*denial](err); ok {
		return []string{"its Pods will be denied: " + template.Annotations() + ": " + denied.message}, nil
	}
	return given.warnings, err
}

// maxFixes limits the length of a message: an object can have any number of such annotations.
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
