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
)

// workload is as much of a Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job or CronJob as is read here.
type workload struct {
	Metadata struct {
		holder
		DeletionTimestamp *string `json:"deletionTimestamp"`
		OwnerReferences   []struct {
			Controller bool `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		Template    json.RawMessage `json:"template"`
		JobTemplate struct {
			Metadata holder `json:"metadata"`
			Spec     struct {
				Template json.RawMessage `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// holder is metadata with annotations.
type holder struct {
	Annotations map[string]string `json:"annotations"`
}

// template returns the Pod template and the path of its annotations; nil where there is none.
func (w *workload) template() (raw json.RawMessage, annotations string) {
	if raw := w.Spec.JobTemplate.Spec.Template; raw != nil {
		return raw, "spec.jobTemplate.spec.template.metadata.annotations"
	}
	return w.Spec.Template, "spec.template.metadata.annotations"
}

// controlled tells whether a controller wrote the object. Its annotations are its owner's, whose user has been told there: a
// ReplicaSet has those of its Deployment, a Job those of its CronJob's jobTemplate.
func (w *workload) controlled() bool {
	for _, owner := range w.Metadata.OwnerReferences {
		if owner.Controller {
			return true
		}
	}
	return false
}

// reviewWorkload refuses annotations that stand where they have no effect, and shows as warnings what Pods of the template would be
// refused for. It refuses nothing that is there already: that would keep controllers and finalizers from their work.
func (h *Handler) reviewWorkload(ctx context.Context, request *request) (answer, error) {
	var is, was workload
	if err := json.Unmarshal(request.object, &is); err != nil {
		return answer{}, fmt.Errorf("decoding object: %w", err)
	}
	if len(request.oldObject) > 0 {
		if err := json.Unmarshal(request.oldObject, &was); err != nil {
			return answer{}, fmt.Errorf("decoding old object: %w", err)
		}
	}
	if is.controlled() || is.Metadata.DeletionTimestamp != nil {
		return answer{reason: "NotAsked"}, nil
	}
	template, path := is.template()
	if err := misplaced(request.kind, &is, &was); err != nil {
		return answer{}, err
	}
	if before, _ := was.template(); len(template) == 0 || bytes.Equal(template, before) {
		return answer{reason: "Unchanged"}, nil
	}
	given, err := h.admitTemplate(ctx, request.namespace, template)
	switch denied, ok := errors.AsType[*denial](err); {
	case ok:
		return answer{warnings: []string{"its Pods will be refused: " + path + ": " + denied.message}, reason: "Warned"}, nil
	case err != nil:
		return answer{}, err
	}
	if len(given.warnings) > 0 {
		return answer{warnings: given.warnings, reason: "Warned"}, nil
	}
	return answer{reason: "Fine"}, nil
}

// admitTemplate decides on the Pods that will be made from a template.
func (h *Handler) admitTemplate(ctx context.Context, namespace string, template []byte) (answer, error) {
	pod, err := injector.DecodePod(template)
	if err != nil {
		return answer{}, invalid("Malformed", "%v", err)
	}
	return h.admit(ctx, namespace, pod)
}

// maxMends are told at once: there may be as many as fit into an object.
const maxMends = 20

// misplaced refuses annotations of ours that stand above the Pod template, where nothing reads them: the Pods would act on the local
// cluster. What the template says as well does no harm; tools that annotate everything write it in both places.
func misplaced(kind string, is, was *workload) error {
	raw, path := is.template()
	var template struct {
		Metadata holder `json:"metadata"`
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &template); err != nil {
			return fmt.Errorf("decoding Pod template: %w", err)
		}
	}
	var mends []string
	look := func(where string, is, was holder) {
		for _, key := range slices.Sorted(maps.Keys(is.Annotations)) {
			value := is.Annotations[key]
			if !strings.HasPrefix(key, injector.Prefix) || has(template.Metadata, key, value) || has(was, key, value) {
				continue
			}
			if len(mends) == maxMends {
				mends = append(mends, "and more")
			}
			if len(mends) > maxMends {
				return
			}
			mends = append(mends, fmt.Sprintf("move %s from %s to %s", injector.Readable(key), where, path))
		}
	}
	look("metadata.annotations", is.Metadata.holder, was.Metadata.holder)
	look("spec.jobTemplate.metadata.annotations", is.Spec.JobTemplate.Metadata, was.Spec.JobTemplate.Metadata)
	if len(mends) == 0 {
		return nil
	}
	return invalid("MisplacedAnnotation", "an annotation of keyferry has no effect on a %s itself, only on its Pod template: %s", kind, strings.Join(mends, "; "))
}

func has(h holder, key, value string) bool {
	got, ok := h.Annotations[key]
	return ok && got == value
}
