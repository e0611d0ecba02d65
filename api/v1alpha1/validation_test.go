package v1alpha1_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/testenv"
)

var targetClusters, credentialRequests, locks, clusterLocks dynamic.ResourceInterface

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		resource := func(name string) dynamic.ResourceInterface {
			return dynamic.NewForConfigOrDie(cfg).Resource(v1alpha1.GroupVersion.WithResource(name)).Namespace("default")
		}
		targetClusters, credentialRequests, locks = resource("targetclusters"), resource("credentialrequests"), resource("locks")
		clusterLocks = dynamic.NewForConfigOrDie(cfg).Resource(v1alpha1.GroupVersion.WithResource("clusterlocks"))
	}))
}

// create has the API server judge a spec; nothing is stored.
func create(t *testing.T, spec string) (*unstructured.Unstructured, error) {
	t.Helper()
	fields := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("TargetCluster"))
	u.SetName("tenant-1")
	return targetClusters.Create(t.Context(), u, metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
}

const (
	kubeconfig   = "access: {type: Kubeconfig, kubeconfig: {name: tenant-1}}\n"
	profile      = "clusterProfile: {namespace: fleet, name: tenant-1}\n"
	noAccess     = "access: {type: None}\n"
	ncp          = "access: {type: NCP, ncp: {clusterUUID: " + uuid + ", credentials: {name: keys}}}\n"
	spider       = "access: {type: Spider, spider: {url: 'http://spider:1024', cluster: c, connection: conn}}\n"
	tumblebug    = "access: {type: Tumblebug, tumblebug: {url: 'http://tumblebug:1323', namespace: ns, cluster: c}}\n"
	uuid         = "D11328F1-ECA9-4F1B-BA22-921F61D9C5FF"
	handOn       = "issue: {type: Access}\n"
	federation   = "issue: {type: Federation, federation: {audience: 'https://tenant-1.example'}}\n"
	certificate  = "issue: {type: ClientCertificate, clientCertificate: {issuerRef: {name: pods}, commonName: '${namespace}:${serviceAccount}'}}\n"
	fixed        = "serviceAccount: {type: Fixed, namespace: default, name: app}"
	tokenRequest = "issue: {type: TokenRequest, tokenRequest: {" + fixed + "}}\n"
)

// noAddress is the message about a TargetCluster that nothing has a server of.
const noAddress = "this access type does not provide the endpoint of the target: set endpoint.server or clusterProfile"

func server(url string) string { return "endpoint: {server: '" + url + "'}\n" }

func ackWith(fields string) string {
	return server("https://a.example") + "access: {type: ACK, ack: {" + fields + "}}\n" + handOn
}

func ncpWith(fields string) string {
	return server("https://a.example") + "access: {type: NCP, ncp: {" + fields + "}}\n" + handOn
}

func accessWith(access string) string {
	return server("https://a.example") + "access: {type: " + access + "}\n" + handOn
}

func spiderWith(fields string) string {
	return server("https://a.example") + "access: {type: Spider, spider: {" + fields + "}}\n" + handOn
}

func tumblebugWith(fields string) string {
	return server("https://a.example") + "access: {type: Tumblebug, tumblebug: {" + fields + "}}\n" + handOn
}

func tokenRequestWith(fields string) string {
	return kubeconfig + "issue: {type: TokenRequest, tokenRequest: {" + fields + "}}\n"
}

func TestAccepted(t *testing.T) {
	tests := map[string]string{
		"least":                     kubeconfig + handOn,
		"token of a fixed account":  kubeconfig + tokenRequest,
		"token of the same account": tokenRequestWith("serviceAccount: {type: Mirror}"),
		"key of the secret":         "access: {type: Kubeconfig, kubeconfig: {name: tenant-1, key: super-admin.conf}}\n" + handOn,
		"all of tokenRequest":       tokenRequestWith(fixed + ", create: true, audiences: [vault], duration: 90m, revocable: true"),
		"shortest duration":         tokenRequestWith(fixed + ", duration: 10m"),
		"longest duration":          tokenRequestWith(fixed + ", duration: 48h"),
		"endpoint by name":          server("https://api.tenant-1.example.com:6443") + kubeconfig + handOn,
		"endpoint by IPv4":          server("https://203.0.113.7:6443") + kubeconfig + handOn,
		"endpoint by IPv6":          server("https://[2001:db8::7]:6443") + kubeconfig + handOn,
		"endpoint without port":     server("https://api.tenant-1.example.com") + kubeconfig + handOn,
		"endpoint with path":        server("https://rancher.example.com/k8s/clusters/c-1") + kubeconfig + handOn,
		"all of endpoint":           "endpoint: {server: 'https://a.example', certificateAuthorityData: Q0E=, tlsServerName: kubernetes, proxyURL: 'http://proxy.example:3128'}\n" + kubeconfig + handOn,
		"socks5 proxy":              "endpoint: {server: 'https://a.example', proxyURL: 'socks5://proxy.example:1080'}\n" + kubeconfig + handOn,
		"cluster profile":           profile + kubeconfig + handOn,
		"profile and no access":     profile + noAccess + federation,
		"server beside a profile":   profile + server("https://a.example") + ncp + handOn,
		"federation":                server("https://a.example") + noAccess + federation,
		"client certificate":        server("https://a.example") + noAccess + certificate,
		"certificate, all fields": server("https://a.example") + noAccess +
			"issue: {type: ClientCertificate, clientCertificate: {issuerRef: {name: pods, kind: ClusterIssuer, group: cert-manager.io}, commonName: c, organizations: ['a:${namespace}', b], duration: 48h}}\n",
		"federation for a day":   server("https://a.example") + noAccess + "issue: {type: Federation, federation: {audience: a, duration: 24h}}\n",
		"EKS":                    accessWith("EKS, eks: {clusterName: c-1, region: eu-central-1, credentials: {name: keys}}"),
		"EKS, all fields":        accessWith("EKS, eks: {clusterName: c_1, region: us-gov-west-1, fips: true, identity: Secret, roleARN: 'arn:aws-us-gov:iam::123456789012:role/a/b', credentials: {name: keys}}"),
		"EKS, workload identity": accessWith("EKS, eks: {clusterName: c, region: cn-north-1, identity: WorkloadIdentity, roleARN: 'arn:aws-cn:iam::123456789012:role/a'}"),
		"EKS, outside of EKS":    accessWith("EKS, eks: {clusterName: tenant-1.k8s.example.com, region: ap-northeast-2, identity: Ambient}"),
		"EKS, ambient":           accessWith("EKS, eks: {clusterName: c, region: ap-northeast-2, identity: Ambient}"),
		"GKE":                    accessWith("GKE, gke: {credentials: {name: key}, impersonate: a@p.iam.gserviceaccount.com}"),
		"GKE, workload identity": accessWith("GKE, gke: {identity: WorkloadIdentity, workloadIdentityProvider: projects/1/locations/global/workloadIdentityPools/p/providers/r}"),
		"GKE, ambient":           accessWith("GKE, gke: {identity: Ambient}"),
		"AKS":                    accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'https://login.microsoftonline.us'}"),
		"AKS, workload identity": accessWith("AKS, aks: {identity: WorkloadIdentity, clientID: " + uuid + ", tenantID: " + uuid + "}"),
		"plugin in the broker":   accessWith("Exec, exec: {provider: a}"),
		"plugin in the Pod":      accessWith("Exec, exec: {provider: a, runIn: Pod}"),
		"NCP":                    server("https://a.example") + ncp + handOn,
		"NCP and TokenRequest":   server("https://a.example") + ncp + tokenRequest,
		"ACK":                    ackWith("clusterID: c5b5, region: cn-hangzhou, credentials: {name: keys}"),
		"ACK, all fields":        ackWith("clusterID: c5b5, region: eu-central-1, credentials: {name: keys}, privateIPAddress: true, duration: 72h"),
		"NCP, region":            ncpWith("clusterUUID: " + strings.ToLower(uuid) + ", region: SGN, credentials: {name: keys}"),
		"Spider":                 server("https://a.example") + spider + handOn,
		"all of Spider":          spiderWith("url: 'https://[2001:db8::7]:1024/behind', cluster: 'a/b c', connection: 'd&e', credentials: {name: spider}"),
		"Tumblebug":              server("https://a.example") + tumblebug + handOn,
		"all of Tumblebug":       tumblebugWith("url: 'https://tumblebug.example', namespace: ns, cluster: c, credentialHolder: team-a, credentials: {name: tumblebug}"),
	}
	for name, spec := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := create(t, spec); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
	for _, field := range []string{"server: 'https://a.example'", "certificateAuthorityData: Q0E=", "wellKnownCACertificates: System", "tlsServerName: kubernetes", "proxyURL: 'http://proxy.example:3128'"} {
		for beside, access := range map[string]string{"a kubeconfig": kubeconfig, "a profile": profile + ncp} {
			t.Run(field+" alone beside "+beside, func(t *testing.T) {
				if _, err := create(t, "endpoint: {"+field+"}\n"+access+handOn); err != nil {
					t.Errorf("refused: %v", err)
				}
			})
		}
	}
}

// TestSamples: what users copy is accepted, in the samples and in the pages on providers and issue
// types.
func TestSamples(t *testing.T) {
	root := filepath.Join("..", "..")
	samples, err := filepath.Glob(filepath.Join(root, "config", "samples", "targetcluster-*.yaml"))
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	fence := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	for _, file := range append(samples, pages...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents := strings.Split(string(text), "\n---\n")
			if filepath.Ext(file) == ".md" {
				documents = nil
				for _, match := range fence.FindAllStringSubmatch(string(text), -1) {
					documents = append(documents, match[1])
				}
			}
			for _, document := range documents {
				if !strings.Contains(document, "kind: TargetCluster") {
					continue
				}
				var object struct {
					Spec map[string]any `json:"spec"`
				}
				if err := yaml.Unmarshal([]byte(document), &object); err != nil {
					t.Fatal(err)
				}
				spec, err := yaml.Marshal(object.Spec)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := create(t, string(spec)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	got, err := create(t, kubeconfig+tokenRequest)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		value string
		path  []string
	}{
		{"default", []string{"spec", "defaultNamespace"}},
		{"Auto", []string{"spec", "delivery"}},
		{"1h", []string{"spec", "issue", "tokenRequest", "duration"}},
	} {
		if value, _, _ := unstructured.NestedString(got.Object, want.path...); value != want.value {
			t.Errorf("%s is %q, want %q", strings.Join(want.path, "."), value, want.value)
		}
	}
}

func TestRefused(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"nothing", "{}", "spec.access: Required value"},
		{"no issue", kubeconfig, "spec.issue: Required value"},
		{"no access and no endpoint", noAccess + federation, noAddress},
		{"two kinds of CA", "endpoint: {certificateAuthorityData: Q0E=, wellKnownCACertificates: System}\n" + kubeconfig + handOn,
			"certificateAuthorityData and wellKnownCACertificates exclude each other: remove one of them"},
		{"unknown CAs", "endpoint: {wellKnownCACertificates: Public}\n" + kubeconfig + handOn, `supported values: "System"`},
		{"no access and no server", "endpoint: {certificateAuthorityData: Q0E=}\n" + noAccess + federation, noAddress},
		{"no access and a token", server("https://a.example") + noAccess + tokenRequest,
			"access type None supports only issue types Federation and ClientCertificate: the other issue types need access to the target"},
		{"no access to hand on", server("https://a.example") + noAccess + handOn,
			"access type None supports only issue types Federation and ClientCertificate: the other issue types need access to the target"},
		{"federation with access", kubeconfig + federation, "issue type Federation needs no access to the target: set access type None"},

		{"access without its field", "access: {type: Kubeconfig}\n" + handOn, "kubeconfig is required when type is Kubeconfig, and must be empty otherwise"},
		{"access with another's field", "access: {type: EKS, kubeconfig: {name: tenant-1}}\n" + handOn, "kubeconfig is required when type is Kubeconfig, and must be empty otherwise"},
		{"unknown access", "access: {type: Magic}\n" + handOn, `supported values: "Kubeconfig"`},
		{"access without type", "access: {kubeconfig: {name: tenant-1}}\n" + handOn, "spec.access.type: Required value"},
		{"secret without name", "access: {type: Kubeconfig, kubeconfig: {name: ''}}\n" + handOn, "spec.access.kubeconfig.name"},

		{"NCP without endpoint", ncp + handOn, noAddress},
		{"Spider without endpoint", spider + handOn, noAddress},
		{"Tumblebug without endpoint", tumblebug + handOn, noAddress},
		{"NCP without its field", server("https://a.example") + "access: {type: NCP}\n" + handOn, "ncp is required when type is NCP, and must be empty otherwise"},
		{"NCP with another's field", server("https://a.example") + strings.Replace(spider, "type: Spider", "type: NCP", 1) + handOn, "spider is required when type is Spider, and must be empty otherwise"},
		{"Tumblebug without its field", server("https://a.example") + "access: {type: Tumblebug}\n" + handOn, "tumblebug is required when type is Tumblebug, and must be empty otherwise"},
		{"ACK without its field", server("https://a.example") + "access: {type: ACK}\n" + handOn, "ack is required when type is ACK, and must be empty otherwise"},
		{"ACK, a path as ID", ackWith("clusterID: ../c5b5, region: cn-hangzhou, credentials: {name: keys}"), "spec.access.ack.clusterID"},
		{"ACK, a host as region", ackWith("clusterID: c5b5, region: a.example, credentials: {name: keys}"), "spec.access.ack.region"},
		{"ACK for 10 minutes", ackWith("clusterID: c5b5, region: cn-hangzhou, credentials: {name: keys}, duration: 10m"), "duration must be whole minutes from 15m to 72h"},
		{"ACK for seconds", ackWith("clusterID: c5b5, region: cn-hangzhou, credentials: {name: keys}, duration: 15m30s"), "duration must be whole minutes from 15m to 72h"},
		{"ACK without keys", ackWith("clusterID: c5b5, region: cn-hangzhou"), "spec.access.ack.credentials: Required value"},
		{"no UUID", ncpWith("clusterUUID: tenant-1, credentials: {name: keys}"), "spec.access.ncp.clusterUUID"},
		{"region in lower case", ncpWith("clusterUUID: " + uuid + ", region: sgn, credentials: {name: keys}"), "spec.access.ncp.region"},
		{"NCP without keys", ncpWith("clusterUUID: " + uuid), "spec.access.ncp.credentials: Required value"},
		{"NCP with a nameless Secret", ncpWith("clusterUUID: " + uuid + ", credentials: {name: ''}"), "spec.access.ncp.credentials.name"},
		{"EKS without endpoint", "access: {type: EKS, eks: {clusterName: c, region: eu-central-1, identity: Ambient}}\n" + handOn, noAddress},
		{"EKS without keys", accessWith("EKS, eks: {clusterName: c, region: eu-central-1}"), "credentials is required when identity is Secret, and must be empty otherwise"},
		{"EKS, ambient and keys", accessWith("EKS, eks: {clusterName: c, region: eu-central-1, identity: Ambient, credentials: {name: keys}}"), "credentials is required when identity is Secret, and must be empty otherwise"},
		{"EKS, workload identity without role", accessWith("EKS, eks: {clusterName: c, region: eu-central-1, identity: WorkloadIdentity}"), "roleARN is required when identity is WorkloadIdentity"},
		{"EKS, no region", accessWith("EKS, eks: {clusterName: c, region: 'evil.example/', identity: Ambient}"), "spec.access.eks.region"},
		{"EKS, user as role", accessWith("EKS, eks: {clusterName: c, region: eu-central-1, identity: Ambient, roleARN: 'arn:aws:iam::123456789012:user/a'}"), "spec.access.eks.roleARN"},
		{"GKE without key", accessWith("GKE, gke: {}"), "credentials is required when identity is Secret, and must be empty otherwise"},
		{"GKE, workload identity without provider", accessWith("GKE, gke: {identity: WorkloadIdentity}"), "workloadIdentityProvider is required when identity is WorkloadIdentity, and must be empty otherwise"},
		{"AKS, IDs beside a Secret", accessWith("AKS, aks: {credentials: {name: app}, clientID: " + uuid + "}"), "clientID and tenantID are required when identity is WorkloadIdentity, and must be empty otherwise"},
		{"AKS, workload identity without tenant", accessWith("AKS, aks: {identity: WorkloadIdentity, clientID: " + uuid + "}"), "clientID and tenantID are required when identity is WorkloadIdentity, and must be empty otherwise"},
		{"AKS, ambient", accessWith("AKS, aks: {identity: Ambient}"), `supported values: "Secret", "WorkloadIdentity"`},
		{"AKS, authority with a tenant", accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'https://login.microsoftonline.us/" + uuid + "'}"), "authorityHost must have no user, path, query or fragment: set the tenant in tenantID"},
		{"AKS, authority with a user", accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'https://u:p@login.microsoftonline.us'}"), "authorityHost must have no user, path"},
		{"AKS, authority with a query", accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'https://login.microsoftonline.us?a=b'}"), "authorityHost must have no user, path"},
		{"AKS, authority over http", accessWith("AKS, aks: {credentials: {name: app}, authorityHost: 'http://login.example'}"), "authorityHost must be an https URL with a host"},
		{"plugin in the Pod, for Keyferry", server("https://a.example") + "access: {type: Exec, exec: {provider: a, runIn: Pod}}\n" + tokenRequest,
			"exec.runIn Pod supports only issue type Access: the credential never leaves the Pod"},
		{"Spider without scheme", spiderWith("url: 'spider:1024', cluster: c, connection: d"), "url must be an http or https URL with a host, such as https://spider.example.com:1024"},
		{"Spider with a password in the URL", spiderWith("url: 'http://u:p@spider', cluster: c, connection: d"), "url must have no user, query or fragment"},
		{"Spider without cluster", spiderWith("url: 'http://spider', connection: d"), "spec.access.spider.cluster: Required value"},
		{"Spider without connection", spiderWith("url: 'http://spider', cluster: c"), "spec.access.spider.connection: Required value"},
		{"Spider, way up", spiderWith("url: 'http://spider', cluster: '..', connection: d"), "cluster must not consist of one or two dots"},
		{"Tumblebug with a query", tumblebugWith("url: 'http://tumblebug?a', namespace: ns, cluster: c"), "url must have no user, query or fragment"},
		{"Tumblebug with a holder that is no name", tumblebugWith("url: 'http://tumblebug', namespace: ns, cluster: c, credentialHolder: 'a b'"), "spec.access.tumblebug.credentialHolder: Invalid value"},
		{"Tumblebug of another scheme", tumblebugWith("url: 'ftp://tumblebug', namespace: ns, cluster: c"), "url must be an http or https URL with a host, such as https://tumblebug.example.com:1323"},
		{"Tumblebug without namespace", tumblebugWith("url: 'http://tumblebug', cluster: c"), "spec.access.tumblebug.namespace: Required value"},
		{"Tumblebug, way up", tumblebugWith("url: 'http://tumblebug', namespace: '..', cluster: c"), "namespace must not consist of one or two dots"},

		{"issue without its field", kubeconfig + "issue: {type: TokenRequest}\n", "tokenRequest is required when type is TokenRequest, and must be empty otherwise"},
		{"issue with another's field", kubeconfig + "issue: {type: Access, tokenRequest: {" + fixed + "}}\n", "tokenRequest is required when type is TokenRequest, and must be empty otherwise"},
		{"federation by proxy", "delivery: Proxy\n" + server("https://a.example") + noAccess + federation, "issue type Federation has no sidecar, so it has no proxy: set delivery Auto or Direct"},
		{"federation without audience", server("https://a.example") + noAccess + "issue: {type: Federation, federation: {}}\n", "spec.issue.federation.audience: Required value"},
		{"federation for long", server("https://a.example") + noAccess + "issue: {type: Federation, federation: {audience: a, duration: 25h}}\n", "duration must be from 10m to 24h"},
		{"certificate of the system", server("https://a.example") + noAccess + strings.Replace(certificate, "${namespace}:", "system:node:", 1), "commonName must not begin with system: (reserved for Kubernetes)"},
		{"certificate in a group of the system", server("https://a.example") + noAccess + strings.Replace(certificate, "commonName", "organizations: ['system:masters'], commonName", 1), "organizations must not begin with system: (reserved for Kubernetes)"},
		{"certificate without issuer", server("https://a.example") + noAccess + "issue: {type: ClientCertificate, clientCertificate: {commonName: a}}\n", "spec.issue.clientCertificate.issuerRef: Required value"},
		{"unknown issue", kubeconfig + "issue: {type: Magic}\n", `supported values: "TokenRequest"`},

		{"http", server("http://203.0.113.7:6443") + kubeconfig + handOn, "server must be an https URL with a host, such as https://203.0.113.7:6443"},
		{"no scheme", server("203.0.113.7:6443") + kubeconfig + handOn, "server must be an https URL with a host, such as https://203.0.113.7:6443"},
		{"no host", server("https:///path") + kubeconfig + handOn, "server must be an https URL with a host, such as https://203.0.113.7:6443"},
		{"no server", server("") + kubeconfig + handOn, "server must be an https URL with a host, such as https://203.0.113.7:6443"},
		{"user", server("https://me:secret@a.example") + kubeconfig + handOn, "server must have no user, query or fragment"},
		{"query", server("https://a.example?x=y") + kubeconfig + handOn, "server must have no user, query or fragment"},
		{"fragment", server("https://a.example#x") + kubeconfig + handOn, "server must have no user, query or fragment"},
		{"proxy of another kind", "endpoint: {server: 'https://a.example', proxyURL: 'ftp://proxy.example'}\n" + kubeconfig + handOn,
			"proxyURL must be an http, https or socks5 URL"},
		{"proxy without scheme", "endpoint: {server: 'https://a.example', proxyURL: 'proxy.example:3128'}\n" + kubeconfig + handOn,
			"proxyURL must be an http, https or socks5 URL"},

		{"fixed without name", tokenRequestWith("serviceAccount: {type: Fixed, namespace: default}"),
			"namespace and name are required with type Fixed and not allowed with type Mirror"},
		{"mirror with name", tokenRequestWith("serviceAccount: {type: Mirror, name: app}"),
			"namespace and name are required with type Fixed and not allowed with type Mirror"},
		{"no account", tokenRequestWith("duration: 1h"), "spec.issue.tokenRequest.serviceAccount: Required value"},
		{"account name of another kind", tokenRequestWith("serviceAccount: {type: Fixed, namespace: default, name: 'system:admin'}"), "serviceAccount.name"},
		{"too short", tokenRequestWith(fixed + ", duration: 9m59s"), "duration must be from 10m to 48h"},
		{"too long", tokenRequestWith(fixed + ", duration: 48h1s"), "duration must be from 10m to 48h"},
		{"negative", tokenRequestWith(fixed + ", duration: -1h"), "duration must be from 10m to 48h"},
		{"no duration", tokenRequestWith(fixed + ", duration: soon"), "duration must be from 10m to 48h"},
		{"empty audience", tokenRequestWith(fixed + ", audiences: ['']"), "spec.issue.tokenRequest.audiences[0]"},

		{"delivery in lower case", "delivery: direct\n" + kubeconfig + handOn, `supported values: "Auto", "Direct", "Proxy"`},
		{"default namespace in capitals", "defaultNamespace: Default\n" + kubeconfig + handOn, "spec.defaultNamespace"},
		{"misspelt field", "endpont: {}\n" + kubeconfig + handOn, `unknown field "spec.endpont"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := create(t, tt.spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}
