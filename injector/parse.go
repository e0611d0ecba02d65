package injector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/injector/podview"
)

// ParseAnnotations parses the annotations of a Pod. It ignores annotations without Prefix.
// podNamespace is the default namespace of a cluster.
//
// An error names every wrong annotation, its value and the fix.
func ParseAnnotations(annotations map[string]string, podNamespace string) (Annotations, error) {
	parsed := Annotations{}
	var problems problems
	var given []string // annotations that have no effect without one that names a cluster
	for key, value := range annotations {
		if !podview.HasAnnotationPrefix(key) || key == AnnotationStatus {
			continue
		}
		if len(problems) > maxProblems {
			break
		}
		if err := parsed.set(key, value, podNamespace); err != nil {
			problems.add("annotation %s: %w", Readable(key), err)
		}
		given = append(given, key)
	}
	checkExclusive(annotations, &problems)
	parsed.checkClusters(annotations, &problems)
	if parsed.Empty() && len(given) > 0 && len(problems) == 0 {
		slices.Sort(given)
		problems.add("annotation %s has no effect without %s, and the Pod would use the local cluster: set %s to the [namespace/]name of a TargetCluster, or remove it",
			Readable(given[0]), AnnotationCluster, AnnotationCluster)
	}
	for _, name := range parsed.Containers {
		if slices.Contains(parsed.ExcludeContainers, name) {
			problems.add("annotations %s and %s both contain %q: remove the name from one of the annotations", AnnotationContainers, AnnotationExcludeContainers, name)
		}
	}
	if len(problems) > 0 {
		return Annotations{}, problems.err()
	}
	return parsed, nil
}

// CheckAnnotation returns an error if the webhook denies every Pod with the annotation, whatever
// other annotations the Pod has. The error does not contain the key. A value with a parameter is
// not checked: a controller that copies annotations to Pods may replace {{workflow.name}} or
// $(params.name).
func CheckAnnotation(key, value string) error {
	hasParameter := strings.Contains(value, "{{") || strings.Contains(value, "$(")
	if !podview.HasAnnotationPrefix(key) || key == AnnotationStatus || hasParameter && slices.Contains(options[:], key) {
		return nil
	}
	return new(Annotations).set(key, value, "")
}

// set parses one annotation.
func (a *Annotations) set(key, value, podNamespace string) (err error) {
	switch key {
	case AnnotationCluster:
		a.Cluster, err = parseCluster(value, podNamespace, "TargetCluster")
	case AnnotationClusterProfile:
		a.ClusterProfile = true
		a.Cluster, err = parseCluster(value, podNamespace, "ClusterProfile")
	case AnnotationContainers:
		a.Containers, err = parseContainers(value)
	case AnnotationExcludeContainers:
		a.ExcludeContainers, err = parseContainers(value)
	case AnnotationDelivery:
		a.Delivery, err = parseDelivery(value)
	case AnnotationMetricsPort:
		a.MetricsPort, err = parsePort(value)
	case AnnotationNamespace:
		a.Namespace, err = parseNamespace(value)
	case AnnotationOnEndpointChange:
		a.OnEndpointChange, err = parseOnEndpointChange(value)
	case AnnotationRefresherResources:
		a.RefresherResources, err = ParseResources(value)
	case AnnotationClusters:
		a.Clusters, err = parseClusters(value, podNamespace)
	case AnnotationSetKubeconfig:
		a.SetKubeconfig, err = parseSetKubeconfig(value)
	case AnnotationCredentialRequest:
		a.CredentialRequest = true
		a.Cluster, err = parseCredentialRequest(value, podNamespace)
	default:
		err = fmt.Errorf("is unknown: did you mean %s? Unknown annotations under %s are denied, because a misspelt annotation would leave the Pod on the local cluster",
			nearest(Readable(key)), Prefix)
	}
	return err
}

// Readable quotes an annotation's key for messages, in one line. The API server validates a Pod
// only after the webhooks, so the key can contain any text.
func Readable(key string) string {
	const longest = 100 // longer than any valid key
	quoted := strconv.Quote(key[:min(len(key), longest)])
	return quoted[1 : len(quoted)-1]
}

// checkExclusive adds a problem for each pair of annotations that contradict each other, or of
// which one needs a sidecar and the other has none.
func checkExclusive(annotations map[string]string, problems *problems) {
	for _, pair := range [...][2]string{
		{AnnotationCluster, AnnotationClusterProfile},
		{AnnotationCluster, AnnotationCredentialRequest},
		{AnnotationClusterProfile, AnnotationCredentialRequest},
		{AnnotationClusters, AnnotationCredentialRequest},
	} {
		_, one := annotations[pair[0]]
		_, other := annotations[pair[1]]
		if one && other {
			problems.add("annotations %s and %s exclude each other: remove one of them", pair[0], pair[1])
		}
	}
}

func parseCluster(value, podNamespace, kind string) (types.NamespacedName, error) {
	namespace, name, qualified := strings.Cut(value, "/")
	if !qualified {
		namespace, name = podNamespace, value
	}
	form := "use [namespace/]name of a " + kind + ", such as fleet/tenant-1"
	if qualified {
		if msgs := validation.IsDNS1123Label(namespace); len(msgs) > 0 {
			return types.NamespacedName{}, fmt.Errorf("%.100q has no valid namespace (%s): %s", value, msgs[0], form)
		}
	}
	if msgs := validation.IsDNS1123Subdomain(name); len(msgs) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%.100q has no valid name (%s): %s", value, msgs[0], form)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

// maxContainers is more than any Pod has, and maxResources more than any container. They limit the
// time to look up the names, and the memory.
const (
	maxContainers = 200
	maxResources  = 64
)

func parseContainers(value string) ([]string, error) {
	if given := strings.Count(value, ",") + 1; given > maxContainers {
		return nil, fmt.Errorf("names %d containers, but at most %d are allowed: remove some", given, maxContainers)
	}
	names := strings.Split(value, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		switch {
		case podview.IsOurs(names[i]):
			return nil, fmt.Errorf("%.100q contains %s, which is a container that Keyferry adds: remove it", value, names[i])
		case len(validation.IsDNS1123Label(names[i])) > 0:
			return nil, fmt.Errorf("%.100q is not valid (at %.100q): use names of containers, separated by commas", value, names[i])
		}
	}
	return names, nil
}

func parseDelivery(value string) (Delivery, error) {
	switch d := Delivery(value); d {
	case DeliveryAuto, DeliveryDirect, DeliveryProxy:
		return d, nil
	default:
		return "", fmt.Errorf("%.100q is not valid: use %s, %s or %s", value, DeliveryAuto, DeliveryDirect, DeliveryProxy)
	}
}

func parseNamespace(value string) (string, error) {
	if msgs := validation.IsDNS1123Label(value); len(msgs) > 0 {
		return "", fmt.Errorf("%.100q is not a valid name of a namespace: %s", value, msgs[0])
	}
	return value, nil
}

// parsePort accepts unprivileged ports, except for those of the refresher's proxies.
func parsePort(value string) (int32, error) {
	port, err := strconv.ParseInt(value, 10, 32)
	switch {
	case err != nil || port < 1024 || port > 65535:
		return 0, fmt.Errorf("%.100q is not valid: use a port from 1024 to 65535 that no container of the Pod uses, such as %d", value, exampleMetricsPort)
	case port >= firstProxyPort && port <= firstProxyPort+maxClusters:
		return 0, fmt.Errorf("%d is a port of the refresher's proxies (%d to %d): use another port, such as %d", port, firstProxyPort, firstProxyPort+maxClusters, exampleMetricsPort)
	}
	return int32(port), nil
}

func parseOnEndpointChange(value string) (OnEndpointChange, error) {
	switch o := OnEndpointChange(value); o {
	case OnEndpointChangeRestart, OnEndpointChangeIgnore:
		return o, nil
	default:
		return "", fmt.Errorf("%.100q is not valid: use %s or %s", value, OnEndpointChangeRestart, OnEndpointChangeIgnore)
	}
}

// absurd matches numbers that take excessive memory and time to compare, such as 1e999999. It also
// matches escapes, which could hide such numbers.
var absurd = regexp.MustCompile(`\\|\d{20}|[0-9.][eE][+-]?\d{3}`)

// ParseResources parses the JSON of ResourceRequirements for the refresher. It also checks what the
// API server would reject: the API server's message would name a container that is not in the
// user's manifest.
func ParseResources(value string) (*corev1.ResourceRequirements, error) {
	const form = `use JSON such as {"requests":{"cpu":"10m","memory":"16Mi"},"limits":{"memory":"64Mi"}}`
	if absurd.MatchString(value) {
		return nil, fmt.Errorf("%.100q has a number that is too large, too small or escaped: %s", value, form)
	}
	resources := new(corev1.ResourceRequirements)
	decoder := json.NewDecoder(bytes.NewBufferString(value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(resources); err != nil {
		return nil, fmt.Errorf("%.100q is not valid (%w): %s", value, err, form)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%.100q has text after the JSON value: %s", value, form)
	}
	if len(resources.Claims) > 0 {
		return nil, fmt.Errorf("%.100q has claims, which the refresher does not support: %s", value, form)
	}
	if len(resources.Requests) > maxResources || len(resources.Limits) > maxResources {
		return nil, fmt.Errorf("%.100q has more than %d resources: remove some", value, maxResources)
	}
	for _, list := range []corev1.ResourceList{resources.Requests, resources.Limits} {
		for name, quantity := range list {
			if quantity.Sign() < 0 {
				return nil, fmt.Errorf("%.100q has a negative quantity of %s: %s", value, name, form)
			}
		}
	}
	for name, request := range resources.Requests {
		if limit, ok := resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			return nil, fmt.Errorf("%.100q requests more %s than its limit: lower the request or raise the limit", value, name)
		}
	}
	return resources, nil
}

// options are the annotations that users may set.
var options = [...]string{
	AnnotationCluster, AnnotationClusterProfile, AnnotationClusters, AnnotationSetKubeconfig, AnnotationContainers, AnnotationExcludeContainers, AnnotationDelivery, AnnotationNamespace,
	AnnotationOnEndpointChange, AnnotationRefresherResources, AnnotationCredentialRequest, AnnotationMetricsPort,
}

// nearest returns the annotation with the smallest edit distance to key.
func nearest(key string) string {
	return slices.MinFunc(options[:], func(a, b string) int { return distance(key, a) - distance(key, b) })
}

// distance returns the number of bytes to insert, remove or change to get from a to b
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// problems collects errors, so that a user gets all of them at once.
type problems []error

// add ignores problems that err would not show.
func (p *problems) add(format string, args ...any) {
	if len(*p) <= maxProblems {
		*p = append(*p, fmt.Errorf(format, args...))
	}
}

// maxProblems limits the length of a message: a Pod can have any number of wrong annotations.
const maxProblems = 20

// err joins the problems in one line; nil if there are none. It sorts them because they come from
// maps.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	lines := make([]string, len(p))
	for i, err := range p {
		lines[i] = err.Error()
	}
	slices.Sort(lines)
	if len(lines) > maxProblems {
		lines = append(lines[:maxProblems], "and more")
	}
	return errors.New(strings.Join(lines, "; "))
}
