// Package convert converts NVIDIA DPF's DPUServiceCredentialRequests into objects with which
// Keyferry writes the same Secrets. It does not connect to a cluster: values that only the cluster
// has are placeholders with a comment.
package convert

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Input is a stream of YAML or JSON; its name is for messages.
type Input struct {
	Name string
	Text []byte
}

// Convert returns the objects for all requests in the inputs as YAML, and warnings about changes
// that the user has to make before applying them. Requests without a namespace are in namespace.
// Requests for the same ServiceAccount of the same cluster share a TargetCluster if they are
// converted together. If there is an error, text is empty, and the error describes all problems.
func Convert(inputs []Input, namespace string) (text []byte, warnings []string, err error) {
	var requests []*request
	var problems []error
	for _, input := range inputs {
		found, err := read(input, namespace)
		requests, problems = append(requests, found...), append(problems, err)
	}
	targets, err := group(requests)
	if err := errors.Join(append(problems, err)...); err != nil {
		return nil, nil, err
	}
	if len(requests) == 0 {
		return nil, nil, fmt.Errorf("there is no %s in the input", sourceKind)
	}
	var out bytes.Buffer
	for _, t := range targets {
		if err := write(&out, t.documents()); err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, t.warnings()...)
	}
	return out.Bytes(), append(warnings, rivals(requests)...), nil
}

// rivals warns of requests for the same Secret: with DPF, each of them overwrites it, but with
// Keyferry, only one CredentialRequest can write it.
func rivals(requests []*request) (warnings []string) {
	writers := map[types.NamespacedName]*request{}
	for _, r := range requests {
		secret := r.Spec.Secret.key()
		if first := writers[secret]; first != nil {
			warnings = append(warnings, fmt.Sprintf("%s: Secret %s is also the Secret of %s, but only one CredentialRequest can write a Secret: set another name", r.where, secret, first.where))
			continue
		}
		writers[secret] = r
	}
	return warnings
}

// target is a ServiceAccount of a cluster: what becomes a TargetCluster.
type target struct {
	identity
	requests []*request
	create   bool // the ServiceAccount is Keyferry's to make
}

type identity struct {
	cluster types.NamespacedName
	same    bool // the cluster is that of the requests
	account types.NamespacedName
}

// name is of the TargetCluster. It depends on nothing else in the input, so that whatever is
// converted later can be applied along with it.
func (i identity) name() types.NamespacedName {
	return types.NamespacedName{Namespace: i.cluster.Namespace, Name: i.cluster.Name + "." + i.account.Namespace + "." + i.account.Name}
}

func identityOf(r *request) identity {
	account := r.Spec.ServiceAccount.key()
	if r.Spec.TargetCluster == nil {
		return identity{cluster: types.NamespacedName{Namespace: account.Namespace, Name: "in-cluster"}, same: true, account: account}
	}
	return identity{cluster: r.Spec.TargetCluster.key(), account: account}
}

// group returns the targets of the requests, in the order of the requests, or an error where two
// would become objects of the same name.
func group(requests []*request) ([]*target, error) {
	var targets []*target
	var problems []error
	byName := map[types.NamespacedName]*target{}
	places := map[types.NamespacedName]*request{}
	for _, r := range requests {
		if other := places[r.place()]; other != nil {
			problems = append(problems, fmt.Errorf("%s and %[3]s would both become CredentialRequest %[2]s: rename one of them", r.where, r.place(), other.where))
			continue
		}
		places[r.place()] = r
		id := identityOf(r)
		t := byName[id.name()]
		switch {
		case t == nil:
			t = &target{identity: id}
			byName[id.name()] = t
			targets = append(targets, t)
		case t.identity != id:
			problems = append(problems, fmt.Errorf("%s and %s need different TargetClusters, but both would be named %s: convert the requests separately, and rename one TargetCluster", r.where, t.requests[0].where, id.name()))
		}
		t.requests = append(t.requests, r)
	}
	for _, t := range targets {
		if why := validation.IsDNS1123Subdomain(t.name().Name); len(why) > 0 {
			problems = append(problems, fmt.Errorf("%s needs a TargetCluster named %s: %s: write the objects for the request by hand", t.requests[0].where, t.name(), why[0]))
		}
		// What a request of the same cluster acts for must be there already, and Keyferry does not take
		// it over.
		t.create = !t.same || places[t.account] == nil
	}
	return targets, errors.Join(problems...)
}

// place is the CredentialRequest's, which writes into no other namespace than its own; and that of
// the ServiceAccount that it acts for.
func (r *request) place() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Spec.Secret.Namespace, Name: r.Metadata.Name}
}

// life is the longest of the requests'.
func (t *target) life() (life time.Duration) {
	for _, r := range t.requests {
		life = max(life, r.life)
	}
	return life
}

// kubeconfig is a placeholder: the Secret that DPF's own cluster manager makes for a DPUCluster.
// The key is the one that DPF reads, of every DPUCluster (https://github.com/NVIDIA/doca-platform,
// dpucluster.Config).
func (t *target) kubeconfig() *v1alpha1.KubeconfigAccess {
	access := &v1alpha1.KubeconfigAccess{Name: t.cluster.Name + "-admin-kubeconfig"}
	if !t.same {
		access.Key = "admin.conf"
	}
	return access
}

func (t *target) warnings() []string {
	warnings := []string{fmt.Sprintf("TargetCluster %s: spec.access.kubeconfig.name is the placeholder %s: set the name of a Secret in the same namespace with a kubeconfig of the target", t.name(), t.kubeconfig().Name)}
	for _, r := range t.requests {
		if r.Spec.TargetCluster == nil {
			warnings = append(warnings, r.where+": spec.targetCluster is not set, so the target is the cluster itself: Keyferry needs a kubeconfig of this cluster, too")
		}
		if r.place() != r.key() {
			warnings = append(warnings, fmt.Sprintf("%s: the CredentialRequest is in the namespace of its Secret, %s", r.where, r.place().Namespace))
		}
		if r.Spec.Duration != "" && r.lifeNow != "" {
			warnings = append(warnings, fmt.Sprintf("%s: spec.duration becomes %s: %s", r.where, r.life, r.lifeNow))
		}
	}
	return warnings
}
