package onboard

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers/kubeconfig"
)

// aksServer is the application ID of the API servers of AKS, for which Keyferry requests tokens.
const aksServer = "6dae42f8-4368-4678-94ff-3960e28e3630"

// AccessOf returns the access method that gets the same credential as the program of a kubeconfig,
// which is not run. credentials is the Secret with the key of the cloud; it may be empty if the
// access method needs none. server is the target's API server.
func AccessOf(program *kubeconfig.ExecError, server, credentials string) (v1alpha1.Access, error) {
	accessType := v1alpha1.AccessType(program.AccessType)
	convert, ok := converters()[accessType]
	if !ok {
		return v1alpha1.Access{}, fmt.Errorf("the program %q has no access type", program.Program)
	}
	var secret *v1alpha1.SecretReference
	if credentials != "" {
		secret = &v1alpha1.SecretReference{Name: credentials}
	}
	if secret == nil && resolve.NeedsSecret(accessType) {
		return v1alpha1.Access{}, fmt.Errorf("the access type %s needs a key of the cloud: create a Secret with the key (docs/providers/%s.md), and set --credentials to the name of the Secret",
			accessType, strings.ToLower(program.AccessType))
	}
	access, err := convert(arguments(program.Args), server, secret)
	access.Type = accessType
	return access, err
}

// converters returns, for each access type that a program of a kubeconfig corresponds to, what
// makes spec.access of the program's arguments. The Secret is set if the type needs one.
func converters() map[v1alpha1.AccessType]func(args arguments, server string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	return map[v1alpha1.AccessType]func(arguments, string, *v1alpha1.SecretReference) (v1alpha1.Access, error){
		v1alpha1.AccessEKS: eksAccess, v1alpha1.AccessGKE: gkeAccess, v1alpha1.AccessAKS: aksAccess, v1alpha1.AccessNCP: ncpAccess,
		v1alpha1.AccessSpider: spiderAccess, v1alpha1.AccessTumblebug: tumblebugAccess,
	}
}

// arguments are those of a program.
type arguments []string

// value returns the value of a flag, given as "--flag value" or "--flag=value"; empty if it is not
// there.
func (a arguments) value(flags ...string) string {
	for i, arg := range a {
		for _, flag := range flags {
			if value, ok := strings.CutPrefix(arg, flag+"="); ok {
				return value
			}
			if arg == flag && i+1 < len(a) {
				return a[i+1]
			}
		}
	}
	return ""
}

// eksServer has the region of a cluster of EKS in the name of its API server.
var eksServer = regexp.MustCompile(`\.([a-z0-9-]+)\.eks\.amazonaws\.com(\.cn)?$`)

func eksAccess(args arguments, server string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	eks := &v1alpha1.EKSAccess{
		ClusterName: args.value("--cluster-name", "--cluster-id", "-i"), Region: args.value("--region"), RoleARN: args.value("--role-arn", "--role", "-r"),
		Identity: v1alpha1.IdentitySecret, Credentials: secret,
	}
	if eks.Region == "" {
		parsed, err := endpoint.Parse(server)
		if err != nil {
			return v1alpha1.Access{}, fmt.Errorf("server %w", err)
		}
		found := eksServer.FindStringSubmatch(parsed.Hostname())
		if found == nil {
			return v1alpha1.Access{}, errors.New("the region is missing: add the argument --region to the program in the kubeconfig")
		}
		eks.Region = found[1]
	}
	if eks.ClusterName == "" {
		return v1alpha1.Access{}, errors.New("the arguments of the program do not contain the name of the EKS cluster")
	}
	return v1alpha1.Access{EKS: eks}, nil
}

func gkeAccess(_ arguments, _ string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	return v1alpha1.Access{GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentitySecret, Credentials: secret}}, nil
}

func ncpAccess(args arguments, _ string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	ncp := &v1alpha1.NCPAccess{ClusterUUID: args.value("--clusterUuid"), Region: args.value("--region"), Credentials: *secret}
	if ncp.ClusterUUID == "" {
		return v1alpha1.Access{}, errors.New("ncp-iam-authenticator has no --clusterUuid")
	}
	return v1alpha1.Access{NCP: ncp}, nil
}

func aksAccess(args arguments, _ string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	if id := args.value("--server-id"); id != "" && id != aksServer {
		return v1alpha1.Access{}, fmt.Errorf("kubelogin requests a token for the application %.64q, but Keyferry requests only tokens for AKS (%s)", id, aksServer)
	}
	aks := &v1alpha1.AKSAccess{Identity: v1alpha1.IdentitySecret, Credentials: secret}
	switch environment := args.value("--environment", "-e"); environment {
	case "", "AzurePublicCloud":
	case "AzureUSGovernmentCloud":
		aks.AuthorityHost = "https://login.microsoftonline.us"
	case "AzureChinaCloud":
		aks.AuthorityHost = "https://login.chinacloudapi.cn"
	default:
		return v1alpha1.Access{}, fmt.Errorf("kubelogin: the environment %.64q is not known", environment)
	}
	return v1alpha1.Access{AKS: aks}, nil
}

var (
	spiderURL    = regexp.MustCompile(`(https?://[^\s'"/]+)/spider/cluster/([^\s'"/?]+)/token\?(?:[^\s'"]*&)?ConnectionName=([^\s'"&]+)`)
	tumblebugURL = regexp.MustCompile(`(https?://[^\s'"/]+)/tumblebug/ns/([^\s'"/]+)/k8sCluster/([^\s'"/?]+)/token`)
)

func spiderAccess(args arguments, _ string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	parts, err := requested(args, spiderURL)
	if err != nil {
		return v1alpha1.Access{}, err
	}
	return v1alpha1.Access{Spider: &v1alpha1.SpiderAccess{URL: parts[0], Cluster: parts[1], Connection: parts[2], Credentials: secret}}, nil
}

func tumblebugAccess(args arguments, _ string, secret *v1alpha1.SecretReference) (v1alpha1.Access, error) {
	parts, err := requested(args, tumblebugURL)
	if err != nil {
		return v1alpha1.Access{}, err
	}
	return v1alpha1.Access{Tumblebug: &v1alpha1.TumblebugAccess{URL: parts[0], Namespace: parts[1], Cluster: parts[2], Credentials: secret}}, nil
}

// requested returns the parts of the URL that curl requests, decoded. Nothing of it is run.
func requested(args arguments, pattern *regexp.Regexp) ([]string, error) {
	found := pattern.FindStringSubmatch(strings.Join(args, " "))
	if found == nil {
		return nil, errors.New("the URL that curl requests is not a URL of the token API: write the TargetCluster by hand")
	}
	parts := found[1:]
	base, err := url.Parse(parts[0])
	if err != nil || base.User != nil {
		return nil, errors.New("the URL that curl requests has a user or is malformed: put the credentials into a Secret, and set --credentials to its name")
	}
	for n := 1; n < len(parts); n++ {
		decode := url.PathUnescape
		if pattern == spiderURL && n == len(parts)-1 {
			decode = url.QueryUnescape
		}
		if parts[n], err = decode(parts[n]); err != nil {
			return nil, errors.New("the URL that curl requests is malformed")
		}
	}
	return parts, nil
}

// RegisterAccess makes a TargetCluster with Request.Access. It connects to the management cluster
// only, and makes nothing in the target.
func (a *Adder) RegisterAccess(ctx context.Context) error {
	if err := a.CheckAccess(); err != nil {
		return err
	}
	tc := a.targetCluster(a.Endpoint)
	err := managed.Check(ctx, a.Management, tc)
	if meta.IsNoMatchError(err) {
		return errNoTargetClusters
	}
	if err == nil && a.Credentials != "" {
		secret := &metav1.PartialObjectMetadata{TypeMeta: typeMeta(corev1.SchemeGroupVersion.String(), "Secret")}
		if err = a.Management.Get(ctx, types.NamespacedName{Namespace: a.Name.Namespace, Name: a.Credentials}, secret); err != nil {
			err = fmt.Errorf("--credentials: reading Secret %s/%s: %w", a.Name.Namespace, a.Credentials, err)
		}
	}
	if err != nil {
		return in(inManagement, err)
	}
	return a.apply(ctx, inManagement, a.Management, tc, managed.Apply)
}

// CheckAccess refuses an endpoint that the controller would not resolve.
func (a *Adder) CheckAccess() error {
	_, err := endpoint.Policy{}.Check(a.Endpoint)
	wrong, ok := errors.AsType[*endpoint.Error](err)
	switch {
	case ok && wrong.Field == endpoint.FieldServer:
		return fmt.Errorf("TargetCluster %s would not work: its server %w; use --endpoint to set another address of the target", a.Name, err)
	case ok:
		return fmt.Errorf("TargetCluster %s would not work: %s of the kubeconfig's cluster: %w", a.Name, wrong.Field, err)
	}
	return err
}

// AwaitAccess waits until the TargetCluster is ready.
func (a *Adder) AwaitAccess(ctx context.Context) error {
	if err := a.awaitReady(ctx); err != nil {
		return fmt.Errorf("%w (the TargetCluster was not removed: fix the problem, and run the command again)", err)
	}
	return nil
}

// PreviewAccess returns the TargetCluster.
func (a *Adder) PreviewAccess() client.Object { return a.targetCluster(a.Endpoint) }
