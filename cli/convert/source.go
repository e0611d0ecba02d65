package convert

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	sourceAPIVersion = "svc.dpu.nvidia.com/v1alpha1"
	sourceKind       = "DPUServiceCredentialRequest"
)

// request is a DPUServiceCredentialRequest and the changes of its conversion.
type request struct {
	manifest
	where   string // for messages
	dropped []string
	life    time.Duration // of the credential
	lifeNow string        // why life differs from the requested duration; empty if it does not
}

// manifest contains all fields of the object except its status.
type manifest struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   requestMetadata `json:"metadata"`
	Spec       requestSpec     `json:"spec"`
}

// requestMetadata contains the metadata that users write.
type requestMetadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type requestSpec struct {
	ServiceAccount reference      `json:"serviceAccount"`
	Duration       string         `json:"duration,omitempty"`
	TargetCluster  *reference     `json:"targetCluster,omitempty"`
	Type           string         `json:"type"`
	Secret         reference      `json:"secret"`
	Metadata       secretMetadata `json:"metadata,omitempty"`
}

type reference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}

type secretMetadata struct {
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (r *request) key() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Metadata.Namespace, Name: r.Metadata.Name}
}

func (r reference) key() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

// read returns the requests in a stream of documents. Those that name no namespace are in
// namespace.
func read(input Input, namespace string) ([]*request, error) {
	var requests []*request
	var problems []error
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(input.Text)))
	for n := 1; ; n++ {
		where := fmt.Sprintf("%s: document %d", input.Name, n)
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return requests, errors.Join(problems...)
		}
		var document any
		if err == nil {
			err = yaml.UnmarshalStrict(text, &document) // text is read as kubectl does
		}
		if err != nil {
			return nil, errors.Join(append(problems, fmt.Errorf("%s: %w", where, err))...)
		}
		if document == nil {
			continue
		}
		found, err := decode(document, where, namespace)
		if err != nil {
			problems = append(problems, err)
		}
		requests = append(requests, found...)
	}
}

// decode returns the request that an object is, or those of a List.
func decode(document any, where, namespace string) ([]*request, error) {
	object, ok := document.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is not an object", where)
	}
	kind, _ := object["kind"].(string)
	if items, ok := object["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		var requests []*request
		var problems []error
		for i, item := range items {
			found, err := decode(item, fmt.Sprintf("%s: item %d", where, i+1), namespace)
			requests, problems = append(requests, found...), append(problems, err)
		}
		return requests, errors.Join(problems...)
	}
	if object["kind"] != sourceKind || object["apiVersion"] != sourceAPIVersion {
		return nil, fmt.Errorf("%s is %v %s, but the command converts only %s of %s: remove all other objects from the input", where, objectKind(object), nameOf(object), sourceKind, sourceAPIVersion)
	}
	r, err := newRequest(object, where, namespace)
	if err != nil {
		return nil, err
	}
	return []*request{r}, nil
}

func objectKind(object map[string]any) string {
	kind, _ := object["kind"].(string)
	if kind == "" {
		return "an object without kind"
	}
	version, _ := object["apiVersion"].(string)
	return strings.TrimSpace(version + " " + kind)
}

func nameOf(object map[string]any) string {
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return fmt.Sprintf("%q", name)
}

// newRequest decodes strictly, so that no field is lost without a message.
func newRequest(object map[string]any, where, namespace string) (*request, error) {
	r := &request{where: fmt.Sprintf("%s: %s %s", where, sourceKind, nameOf(object))}
	r.drop(object)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object, &r.manifest, true); err != nil {
		return nil, fmt.Errorf("%s: %w: correct the request, or remove it from the input", r.where, err)
	}
	r.setDefaults(namespace)
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.where, err)
	}
	return r, nil
}

// drop removes fields that do not affect the conversion, and adds them to r.dropped.
func (r *request) drop(object map[string]any) {
	if _, ok := object["status"]; ok {
		delete(object, "status")
		r.dropped = append(r.dropped, "status")
	}
	metadata, _ := object["metadata"].(map[string]any)
	for field := range metadata {
		if !slices.Contains([]string{"name", "namespace", "labels", "annotations"}, field) {
			delete(metadata, field)
			r.dropped = append(r.dropped, "metadata."+field)
		}
	}
	const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	if annotations, _ := metadata["annotations"].(map[string]any); annotations[lastApplied] != nil {
		delete(annotations, lastApplied)
		r.dropped = append(r.dropped, "annotation "+lastApplied)
	}
}

func (r *request) setDefaults(namespace string) {
	if r.Metadata.Namespace == "" {
		r.Metadata.Namespace = namespace
	}
	for _, ref := range []*reference{&r.Spec.ServiceAccount, &r.Spec.Secret, r.Spec.TargetCluster} {
		if ref != nil && ref.Namespace == "" {
			ref.Namespace = r.Metadata.Namespace
		}
	}
	for _, keys := range []map[string]string{r.Spec.Metadata.Labels, r.Spec.Metadata.Annotations} {
		for key := range keys {
			if strings.HasPrefix(key, "keyferry.dev/") {
				delete(keys, key)
				r.dropped = append(r.dropped, key+" of spec.metadata, because Keyferry sets labels and annotations with this prefix")
			}
		}
	}
	slices.Sort(r.dropped)
}

// The limits of a duration: a CredentialRequest's minimum, and DPF's maximum. DPF renews each token
// after a day.
const (
	shortest    = 10 * time.Minute
	longest     = 24 * time.Hour
	defaultLife = time.Hour
)

func (r *request) validate() error {
	if r.Spec.Type == "" {
		return errors.New("spec.type is missing: set it")
	}
	names := map[string]types.NamespacedName{
		"metadata":            r.key(),
		"spec.serviceAccount": r.Spec.ServiceAccount.key(),
		"spec.secret":         r.Spec.Secret.key(),
	}
	if r.Spec.TargetCluster != nil {
		names["spec.targetCluster"] = r.Spec.TargetCluster.key()
	}
	for _, field := range slices.Sorted(maps.Keys(names)) {
		if err := validName(field, names[field]); err != nil {
			return err
		}
	}
	switch {
	case r.Spec.Type != "kubeconfig" && r.Spec.Type != "tokenFile":
		return fmt.Errorf("spec.type is %.64q: it must be kubeconfig or tokenFile", r.Spec.Type)
	case len(r.Metadata.Name) > 63:
		return fmt.Errorf("metadata.name has %d characters, but the name of a CredentialRequest has at most 63: use a shorter name", len(r.Metadata.Name))
	}
	return r.setLife()
}

func validName(field string, name types.NamespacedName) error {
	if name.Name == "" {
		return fmt.Errorf("%s.name is missing: set it", field)
	}
	if problems := validation.IsDNS1123Subdomain(name.Name); len(problems) > 0 {
		return fmt.Errorf("%s.name is %.64q: %s", field, name.Name, problems[0])
	}
	if problems := validation.IsDNS1123Label(name.Namespace); len(problems) > 0 {
		return fmt.Errorf("%s.namespace is %.64q: %s", field, name.Namespace, problems[0])
	}
	return nil
}

func (r *request) setLife() error {
	if r.Spec.Duration == "" {
		r.life, r.lifeNow = defaultLife, "The request has no duration. API servers then issue tokens for an hour."
		return nil
	}
	asked, err := time.ParseDuration(r.Spec.Duration)
	if err != nil || asked < 0 {
		return fmt.Errorf("spec.duration is %.64q: write it like 1h or 90m", r.Spec.Duration)
	}
	r.life = min(max(asked, shortest), longest)
	switch {
	case asked < shortest:
		r.lifeNow = r.Spec.Duration + " is shorter than 10m, which is the minimum."
	case asked > longest:
		r.lifeNow = r.Spec.Duration + " is longer than 24h, which is DPF's maximum."
	}
	return nil
}
