package credential

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// File is a TargetCluster, and the Secrets and ClusterProfiles that came with it. It stands for the
// API server that there is none of.
type File struct {
	cluster *v1alpha1.TargetCluster
	others  map[objectKey]client.Object
}

// objectKey names a Secret or ClusterProfile.
type objectKey struct {
	kind string
	types.NamespacedName
}

// ReadFile reads YAML or JSON with one TargetCluster, Secrets and ClusterProfiles, in documents or
// Lists; of other kinds it takes no notice. What names no namespace is in the one given. Its errors
// repeat nothing of the text but names of fields.
func ReadFile(text io.Reader, namespace string) (*File, error) {
	f := &File{others: map[objectKey]client.Object{}}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(text))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = f.add(document, namespace)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
	}
	if f.cluster == nil {
		return nil, fmt.Errorf("the file contains no TargetCluster (%s): add the TargetCluster and its Secrets", v1alpha1.GroupVersion)
	}
	return f, nil
}

func (f *File) add(document []byte, namespace string) error {
	var object struct {
		metav1.TypeMeta
		Items []runtime.RawExtension `json:"items"`
	}
	if err := yaml.Unmarshal(document, &object); err != nil {
		return inYAML(err)
	}
	switch object.GroupVersionKind() {
	case corev1.SchemeGroupVersion.WithKind("List"):
		for n, item := range object.Items {
			if err := f.add(item.Raw, namespace); err != nil {
				return fmt.Errorf("item %d: %w", n+1, err)
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret := &corev1.Secret{}
		if err := decode(document, "Secret", secret, namespace); err != nil {
			return err
		}
		mergeStringData(secret)
		return f.addOther("Secret", secret)
	case inventory.GroupVersion.WithKind(inventory.ClusterProfileKind):
		profile := &inventory.ClusterProfile{}
		if err := decode(document, inventory.ClusterProfileKind, profile, namespace); err != nil {
			return err
		}
		return f.addOther(inventory.ClusterProfileKind, profile)
	case v1alpha1.GroupVersion.WithKind("TargetCluster"):
		var cluster v1alpha1.TargetCluster
		if err := decode(document, "TargetCluster", &cluster, namespace); err != nil {
			return err
		}
		if f.cluster != nil {
			return fmt.Errorf("TargetClusters %[2]s and %[1]s are in one file: remove one of them", client.ObjectKeyFromObject(&cluster), f.Target())
		}
		f.cluster = &cluster
	}
	return nil
}

// decode reads an object of a kind that is known.
func decode(document []byte, kind string, object client.Object, namespace string) error {
	if err := yaml.UnmarshalStrict(bytes.TrimSpace(document), object); err != nil {
		return fmt.Errorf("%s: %w", kind, inYAML(err))
	}
	if object.GetName() == "" {
		return fmt.Errorf("%s: metadata.name is missing: set it", kind)
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(namespace)
	}
	return nil
}

// mergeStringData does with stringData what the API server does.
func mergeStringData(secret *corev1.Secret) {
	for name, value := range secret.StringData {
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		secret.Data[name] = []byte(value)
	}
	secret.StringData = nil
}

func (f *File) addOther(kind string, object client.Object) error {
	key := objectKey{kind, client.ObjectKeyFromObject(object)}
	if f.others[key] != nil {
		return fmt.Errorf("%s %s is there twice: leave one", kind, key.NamespacedName)
	}
	f.others[key] = object
	return nil
}

var (
	yamlLine  = regexp.MustCompile(`line \d+`)
	jsonField = regexp.MustCompile(`(unknown |Go struct )field "?[\w.-]+"?`)
)

// inYAML keeps of a decoder's error the place alone: its own words may repeat a value, and that may
// be a key.
func inYAML(err error) error {
	where := cmp.Or(yamlLine.FindString(err.Error()), strings.TrimPrefix(jsonField.FindString(err.Error()), "Go struct "), "a value")
	return fmt.Errorf("%s cannot be read: correct the object (in a Secret, values of data are base64, and values of stringData are text in quotes)", where)
}

// Target is the name of the TargetCluster.
func (f *File) Target() types.NamespacedName { return client.ObjectKeyFromObject(f.cluster) }

// Get returns a Secret or ClusterProfile of the file.
func (f *File) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *corev1.Secret:
		if found, ok := f.others[objectKey{"Secret", key}].(*corev1.Secret); ok {
			found.DeepCopyInto(into)
			return nil
		}
	case *inventory.ClusterProfile:
		if found, ok := f.others[objectKey{inventory.ClusterProfileKind, key}].(*inventory.ClusterProfile); ok {
			found.DeepCopyInto(into)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

// List is what an issuer has no need for.
func (*File) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nothing is listed offline")
}

// Issue issues a credential on behalf of a ServiceAccount, which need not be given unless the
// TargetCluster goes by it. Whoever can read the file could do all this by hand, hence none of the
// limits of the broker hold: own identities and any addresses are allowed. Plugins are those of the
// provider file, which may be nil.
func (f *File) Issue(ctx context.Context, account types.NamespacedName, plugins *clusterprofile.ProviderFile) (Credential, error) {
	target := f.Target()
	if err := f.check(account); err != nil {
		return Credential{}, fmt.Errorf("TargetCluster %s: %w", target, err)
	}
	i, err := issuer.New(issuer.Config{
		Clusters:  f,
		Secrets:   f,
		Providers: func() *clusterprofile.ProviderFile { return plugins },
		Policy:    endpoint.Policy{AllowLinkLocal: true, AllowLocal: true, AmbientNamespaces: []string{target.Namespace}},
	})
	if err != nil {
		return Credential{}, err
	}
	issued, err := i.IssueFor(ctx, f.cluster, providers.Request{Identity: providers.Identity{Namespace: account.Namespace, ServiceAccount: account.Name}})
	if err != nil {
		return Credential{}, err
	}
	if issued.InPod != nil {
		return Credential{}, fmt.Errorf("TargetCluster %s: spec.access.exec.runIn is Pod, so only a Pod's sidecar has the credential: remove runIn to run the plugin here", target)
	}
	return Credential{Credential: issued.Credential, Target: target, Namespace: issued.Namespace}, nil
}

// check refuses what needs the cluster that Keyferry runs in.
func (f *File) check(account types.NamespacedName) error {
	request := f.cluster.Spec.Issue.TokenRequest
	switch {
	case request == nil:
		return nil
	case request.Create, request.Revocable:
		return errors.New("spec.issue.tokenRequest.create and revocable need the cluster in which Keyferry runs, and with -f there is no such cluster: remove create and revocable")
	case request.ServiceAccount.Type == v1alpha1.ServiceAccountMirror && account.Name == "":
		return errors.New("spec.issue.tokenRequest.serviceAccount.type Mirror needs the Pod's ServiceAccount: set --service-account NAMESPACE/NAME")
	}
	return nil
}
