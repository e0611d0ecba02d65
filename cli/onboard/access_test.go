package onboard

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/kubeconfig"
)

const (
	eksHost = "https://0123456789ABCDEF.gr7.eu-central-1.eks.amazonaws.com"
	uuid    = "D11328F1-ECA9-4F1B-BA22-921F61D9C5FF"
)

// TestAccessOf: of the kubeconfigs that the clouds' tools write, and of CB-Spider and CB-Tumblebug.
func TestAccessOf(t *testing.T) {
	t.Parallel()
	key := &v1alpha1.SecretReference{Name: "key"}
	eks := func(change func(*v1alpha1.EKSAccess)) v1alpha1.Access {
		access := &v1alpha1.EKSAccess{ClusterName: "tenant-1", Region: "eu-central-1", Identity: v1alpha1.IdentitySecret, Credentials: key}
		change(access)
		return v1alpha1.Access{Type: v1alpha1.AccessEKS, EKS: access}
	}
	for name, test := range map[string]struct {
		server  string
		command string
		args    []string
		want    v1alpha1.Access
	}{
		"aws eks update-kubeconfig": {eksHost, "aws", []string{"--region", "eu-west-1", "eks", "get-token", "--cluster-name", "tenant-1", "--output", "json"},
			eks(func(e *v1alpha1.EKSAccess) { e.Region = "eu-west-1" })},
		"aws with a role, the region from the server": {eksHost, "/usr/local/bin/aws", []string{"eks", "get-token", "--cluster-name=tenant-1", "--role-arn", "arn:aws:iam::123456789012:role/a"},
			eks(func(e *v1alpha1.EKSAccess) { e.RoleARN = "arn:aws:iam::123456789012:role/a" })},
		"aws-iam-authenticator": {eksHost, "aws-iam-authenticator", []string{"token", "-i", "tenant-1", "-r", "arn:aws:iam::123456789012:role/a"},
			eks(func(e *v1alpha1.EKSAccess) { e.RoleARN = "arn:aws:iam::123456789012:role/a" })},
		"gke": {"https://203.0.113.7", "gke-gcloud-auth-plugin", nil,
			v1alpha1.Access{Type: v1alpha1.AccessGKE, GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentitySecret, Credentials: key}}},
		"kubelogin": {"https://a.hcp.westeurope.azmk8s.io:443", "kubelogin", []string{"get-token", "--environment", "AzureUSGovernmentCloud", "--server-id", aksServer, "--login", "devicecode"},
			v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{Identity: v1alpha1.IdentitySecret, AuthorityHost: "https://login.microsoftonline.us", Credentials: key}}},
		"ncp": {"https://203.0.113.7", "ncp-iam-authenticator", []string{"token", "--clusterUuid", uuid, "--region", "KR"},
			v1alpha1.Access{Type: v1alpha1.AccessNCP, NCP: &v1alpha1.NCPAccess{ClusterUUID: uuid, Region: "KR", Credentials: *key}}},
		"CB-Spider": {"https://203.0.113.7", "sh", []string{"-c", `. ~/.cb-spider/.spider-credential; curl -s -u "$A:$B" 'http://spider.example.com:1024/spider/cluster/a%20b/token?ConnectionName=aws%2Bseoul'`},
			v1alpha1.Access{Type: v1alpha1.AccessSpider, Spider: &v1alpha1.SpiderAccess{URL: "http://spider.example.com:1024", Cluster: "a b", Connection: "aws+seoul", Credentials: key}}},
		"CB-Tumblebug": {"https://203.0.113.7", "curl", []string{"-s", "https://tb.example.com/tumblebug/ns/default/k8sCluster/tenant-7/token"},
			v1alpha1.Access{Type: v1alpha1.AccessTumblebug, Tumblebug: &v1alpha1.TumblebugAccess{URL: "https://tb.example.com", Namespace: "default", Cluster: "tenant-7", Credentials: key}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := programOf(t, test.server, test.command, test.args...)
			if program.Endpoint.Server != test.server {
				t.Errorf("server %s", program.Endpoint.Server)
			}
			got, err := AccessOf(program, program.Endpoint.Server, "key")
			if err != nil || !reflect.DeepEqual(got, test.want) {
				text, _ := yaml.Marshal(got)
				t.Errorf("%v\n%s", err, text)
			}
		})
	}
}

// TestAccessOfRefuses what would give another credential than the program's, or none.
func TestAccessOfRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		server, command, credentials string
		args                         []string
		want                         string
	}{
		"no key":             {eksHost, "aws", "", []string{"eks", "get-token", "--cluster-name", "tenant-1"}, "create a Secret with the key (docs/providers/eks.md), and set --credentials to the name of the Secret"},
		"no region":          {"https://proxy.example.com", "aws", "key", []string{"eks", "get-token", "--cluster-name", "tenant-1"}, "add the argument --region"},
		"no cluster":         {eksHost, "aws", "key", []string{"eks", "get-token"}, "do not contain the name of the EKS cluster"},
		"another server ID":  {"https://a.example.com", "kubelogin", "key", []string{"get-token", "--server-id", "1234"}, "only tokens for AKS"},
		"another cloud":      {"https://a.example.com", "kubelogin", "key", []string{"get-token", "-e", "Mars"}, `the environment "Mars" is not known`},
		"no UUID":            {"https://a.example.com", "ncp-iam-authenticator", "key", []string{"token"}, "has no --clusterUuid"},
		"no connection":      {"https://a.example.com", "curl", "", []string{"http://spider:1024/spider/cluster/a/token"}, "is not a URL of the token API"},
		"a password":         {"https://a.example.com", "curl", "", []string{"http://me:secret@spider:1024/spider/cluster/a/token?ConnectionName=b"}, "put the credentials into a Secret"},
		"a user in the URL":  {"https://a.example.com", "curl", "", []string{"http://me@tb/tumblebug/ns/a/k8sCluster/b/token"}, "put the credentials into a Secret"},
		"a malformed escape": {"https://a.example.com", "curl", "", []string{"http://tb/tumblebug/ns/a%zz/k8sCluster/b/token"}, "is malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := programOf(t, test.server, test.command, test.args...)
			_, err := AccessOf(program, test.server, test.credentials)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret@") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// programOf is the program that a kubeconfig names.
func programOf(t *testing.T, server, command string, args ...string) *kubeconfig.ExecError {
	t.Helper()
	encoded, err := yaml.Marshal(map[string]any{"exec": map[string]any{
		"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": command, "args": args,
	}})
	if err != nil {
		t.Fatal(err)
	}
	user := strings.ReplaceAll(strings.TrimSpace(string(encoded)), "\n", "\n    ")
	text := fmt.Sprintf("current-context: a\ncontexts:\n- {name: a, context: {cluster: a, user: a}}\nclusters:\n- {name: a, cluster: {server: %q}}\nusers:\n- name: a\n  user:\n    %s\n", server, user)
	_, err = kubeconfig.NewFromFile([]byte(text), "")
	program, ok := errors.AsType[*kubeconfig.ExecError](err)
	if !ok {
		t.Fatalf("%v\n%s", err, text)
	}
	return program
}
