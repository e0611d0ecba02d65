package clientcertificate

import (
	"strings"
	"testing"

	"github.com/keyferry/keyferry/providers"
)

var pod = providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "sa-1", PodName: "web-0", PodUID: "2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a10"}

func TestSubject(t *testing.T) {
	for name, test := range map[string]struct {
		commonName    string
		organizations []string
		want          string
		shared        string
	}{
		"the same for everybody": {"robot", []string{"robots"}, "CN=robot,O=robots", ""},
		"by namespace":           {"ns:${namespace}", nil, "CN=ns:app", "app"},
		"by ServiceAccount":      {"${namespace}:${serviceAccount}", nil, "CN=app:web", "app/web/sa-1"},
		"by Pod":                 {"${namespace}:${podName}", nil, "CN=app:web-0", "app/web/sa-1/web-0/2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a10"},
		"by a group's Pod":       {"robot", []string{"pod:${podUID}"}, "CN=robot,O=pod:2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a10", "app/web/sa-1/web-0/2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a10"},
		"groups in order, once":  {"robot", []string{"b", "a", "${namespace}", "app"}, "CN=robot,O=a+O=app+O=b", "app"},
		"a dollar is a dollar":   {"$robot$", nil, "CN=$robot$", ""},
		"system in the middle":   {"x:system:y", nil, "CN=x:system:y", ""},
	} {
		t.Run(name, func(t *testing.T) {
			template, err := parseSubject(test.commonName, test.organizations)
			if err != nil {
				t.Fatal(err)
			}
			got, err := template.of(pod)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if key := (&Provider{subject: template}).ShareKey(providers.Request{Identity: pod}); key != test.shared {
				t.Errorf("share key is %q, want %q", key, test.shared)
			}
		})
	}
}

func TestSubjectRefusedAtOnce(t *testing.T) {
	for name, test := range map[string]struct{ commonName, want string }{
		"empty":              {"", "must not be empty"},
		"unknown field":      {"${name}", "${name} is not a field: use ${namespace}, ${serviceAccount}, ${podName} or ${podUID}"},
		"in capitals":        {"${Namespace}", "${Namespace} is not a field"},
		"with a blank":       {"${ namespace }", "${ namespace } is not a field"},
		"not closed":         {"${namespace", "${namespace is not a field"},
		"nested":             {"${${namespace}}", "${${namespace} is not a field"},
		"system":             {"system:masters", "begins with system:"},
		"System":             {"SyStEm:masters", "begins with system:"},
		"system and a field": {"system:${namespace}", "begins with system:"},
		"kubeadm":            {"Kubeadm:cluster-admins", "begins with kubeadm:"},
		"blank before":       {" system:masters", "begins or ends with a space"},
		"blank after":        {"robot ", "begins or ends with a space"},
		"tab before":         {"\tsystem:masters", "not printable ASCII"},
		"zero before":        {"\x00system:masters", "not printable ASCII"},
		"zero-width space":   {"\u200bsystem:masters", "not printable ASCII"},
		"full width":         {"ｓｙｓｔｅｍ：masters", "not printable ASCII"},
		"long s":             {"ſystem:masters", "not printable ASCII"},
		"too long":           {strings.Repeat("x", 65), "has 65 bytes, and X.509 allows 64"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseSubject(test.commonName, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "spec.issue.clientCertificate.commonName: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("common name: got %v, want %s", err, test.want)
			}
			_, err = parseSubject("robot", []string{"a", test.commonName})
			if err == nil || !strings.HasPrefix(err.Error(), "spec.issue.clientCertificate.organizations[1]: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("organization: got %v, want %s", err, test.want)
			}
		})
	}
}

// TestSubjectRefusedForSome: what a template comes to depends on who asks.
func TestSubjectRefusedForSome(t *testing.T) {
	account := pod
	account.PodName, account.PodUID = "", ""
	system := pod
	system.Namespace = "system"
	kubeadm := pod
	kubeadm.Namespace, kubeadm.ServiceAccount = "kubeadm", "cluster-admins"
	long := pod
	long.ServiceAccount = strings.Repeat("x", 61)
	for name, test := range map[string]struct {
		template string
		id       providers.Identity
		want     string
	}{
		"a namespace called system":  {"${namespace}:masters", system, `comes to "system:masters" for system:serviceaccount:system:web: begins with system:`},
		"a namespace called kubeadm": {"${namespace}:${serviceAccount}", kubeadm, `comes to "kubeadm:cluster-admins" for system:serviceaccount:kubeadm:cluster-admins: begins with kubeadm:`},
		"no Pod":                     {"${namespace}:${podName}", account, "contains ${podName}, but the request does not come from a Pod"},
		"no Pod, no UID":             {"${podUID}", account, "contains ${podUID}, but the request does not come from a Pod"},
		"a long name":                {"${namespace}:${serviceAccount}", long, "has 65 bytes, and X.509 allows 64: make it shorter"},
	} {
		t.Run(name, func(t *testing.T) {
			template, err := parseSubject(test.template, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := template.of(test.id)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %s and %v, want %s", got, err, test.want)
			}
		})
	}
}
