package convert

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	yamlv3 "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

// document is an object with comments for the user.
type document struct {
	about    string
	object   any
	comments map[string]string // by the path of a field, with dots
}

// documents returns all objects for a target.
func (t *target) documents() []document {
	docs := []document{t.targetCluster(), t.role()}
	for _, r := range t.requests {
		docs = append(docs, r.serviceAccount(), t.roleBinding(r), t.credentialRequest(r))
	}
	return docs
}

func meta(name types.NamespacedName) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}
}

func (t *target) targetCluster() document {
	where := "The namespace of the target cluster."
	kubeconfig := "A placeholder: set the name of the Secret that spec.kubeconfig of the DPUCluster contains. The key is the key that DPF uses."
	if t.same {
		where = "The namespace of the ServiceAccount. Without spec.targetCluster, the target is the cluster of the requests."
		kubeconfig = "A placeholder: DPF needs no kubeconfig for its own cluster. Create a Secret with a kubeconfig of this cluster, under the key kubeconfig, and set its name."
	}
	doc := document{
		about: "Issues tokens of the target's ServiceAccount " + t.account.String() + ".",
		object: v1alpha1.TargetCluster{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TargetCluster"},
			ObjectMeta: meta(t.name()),
			Spec: v1alpha1.TargetClusterSpec{
				DefaultNamespace: t.account.Namespace,
				Access:           v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: t.kubeconfig()},
				Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
					ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: t.account.Namespace, Name: t.account.Name},
					Create:         t.create,
					Duration:       &metav1.Duration{Duration: t.life()},
					Revocable:      true,
				}},
			},
		},
		comments: map[string]string{
			"metadata.namespace":               where,
			"spec.defaultNamespace":            "The namespace of the ServiceAccount, as in DPF's kubeconfigs.",
			"spec.access.kubeconfig":           kubeconfig,
			"spec.issue.tokenRequest.duration": "The longest duration of the requests.",
			"spec.issue.tokenRequest.revocable": "If you delete a CredentialRequest, Keyferry revokes its tokens. DPF deletes the ServiceAccount, which revokes the tokens of all requests.\n" +
				"The kubeconfig needs permission to get, create and delete Secrets in the ServiceAccount's namespace.",
			"spec.issue.tokenRequest.serviceAccount": "With DPF, each request selects the ServiceAccount. With Keyferry, the TargetCluster selects it for all its users.",
		},
	}
	if t.create {
		doc.comments["spec.issue.tokenRequest.create"] = "Keyferry does not use a ServiceAccount that it did not create. First delete the " + sourceKind + ": then DPF\n" +
			"deletes its ServiceAccount. If the ServiceAccount must stay, set false. Its namespace must exist. Keyferry does not delete the ServiceAccount."
	} else {
		doc.comments["spec.issue.tokenRequest.serviceAccount"] += "\nKeyferry does not create this ServiceAccount in the target, because it is below: a CredentialRequest uses it."
	}
	return doc
}

func (t *target) role() document {
	return document{
		about:  "Permission to use the TargetCluster. With DPF, all users who may create a request have this permission.",
		object: use.Role(use.TargetCluster(t.name())),
	}
}

func (r *request) serviceAccount() document {
	return document{
		about: "The CredentialRequest uses this ServiceAccount, which needs no other permission. DPF has no such ServiceAccount.\n" +
			"Pods with the annotation keyferry.dev/credential-request must run as this ServiceAccount. If your Pods run as\n" +
			"another ServiceAccount, set its name in the RoleBinding and the CredentialRequest.",
		object: corev1.ServiceAccount{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: rbacv1.ServiceAccountKind},
			ObjectMeta: meta(r.place()),
		},
	}
}

func (t *target) roleBinding(r *request) document {
	return document{object: use.Binding(r.place(), use.TargetCluster(t.name()))}
}

func (t *target) credentialRequest(r *request) document {
	about := fmt.Sprintf("From %s %s. The namespace must be in the chart value credentialRequests.namespaces.", sourceKind, r.key())
	if len(r.dropped) > 0 {
		about += "\nDropped:\n- " + strings.Join(r.dropped, "\n- ")
	}
	object := v1alpha1.CredentialRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "CredentialRequest"},
		ObjectMeta: meta(r.place()),
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster:      v1alpha1.ObjectReference{Namespace: t.name().Namespace, Name: t.name().Name},
			ServiceAccountName: r.place().Name,
			Type:               v1alpha1.CredentialType(r.Spec.Type),
			Duration:           &metav1.Duration{Duration: r.life},
			Secret:             v1alpha1.CredentialSecret{Name: r.Spec.Secret.Name, Labels: r.Spec.Metadata.Labels, Annotations: r.Spec.Metadata.Annotations},
		},
	}
	object.Labels, object.Annotations = r.Metadata.Labels, r.Metadata.Annotations
	comments := map[string]string{
		"spec.secret.name": "Keyferry does not overwrite DPF's Secret: delete it, or add the label " + v1alpha1.LabelCredentialRequest + ": " + r.Metadata.Name + ".",
	}
	if r.place() != r.key() {
		comments["metadata.namespace"] = "The namespace of the Secret, because a CredentialRequest writes only into its namespace. The request was in " + r.Metadata.Namespace + "."
	}
	if r.lifeNow != "" {
		comments["spec.duration"] = r.lifeNow
	}
	if r.Spec.Type == string(v1alpha1.CredentialKubeconfig) {
		comments["spec.type"] = "In the kubeconfig, context, cluster and user have the name of the TargetCluster. In DPF's kubeconfigs, context and user are " + t.account.Name + "."
	}
	return document{about: about, object: object, comments: comments}
}

// write appends the documents.
func write(out *bytes.Buffer, docs []document) error {
	for _, d := range docs {
		node, err := d.node()
		if err != nil {
			return err
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		encoder := yamlv3.NewEncoder(out)
		encoder.SetIndent(2)
		encoder.CompactSeqIndent()
		if d.about != "" {
			out.WriteString("# " + strings.ReplaceAll(comment(d.about), "\n", "\n# ") + "\n")
		}
		if err := errors.Join(encoder.Encode(node), encoder.Close()); err != nil {
			return err
		}
	}
	return nil
}

// comment replaces characters that end a comment in YAML, which has more line breaks than \n.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// node returns the object as YAML with its comments.
func (d document) node() (*yamlv3.Node, error) {
	text, err := yaml.Marshal(d.object)
	if err != nil {
		return nil, err
	}
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	object := root.Content[0]
	remove(object, "status")
	for _, path := range slices.Sorted(maps.Keys(d.comments)) {
		key := find(object, strings.Split(path, "."))
		if key == nil {
			return nil, fmt.Errorf("%T has no %s to comment", d.object, path)
		}
		key.HeadComment = comment(d.comments[path])
	}
	return object, nil
}

// find returns the key of a field.
func find(object *yamlv3.Node, path []string) *yamlv3.Node {
	for i := 0; i+1 < len(object.Content); i += 2 {
		if object.Content[i].Value != path[0] {
			continue
		}
		if len(path) == 1 {
			return object.Content[i]
		}
		return find(object.Content[i+1], path[1:])
	}
	return nil
}

func remove(object *yamlv3.Node, field string) {
	for i := 0; i+1 < len(object.Content); i += 2 {
		if object.Content[i].Value == field {
			object.Content = slices.Delete(object.Content, i, i+2)
			return
		}
	}
}
