package clientcertificate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/providers"
)

func TestSubjectsThatCouldBeShared(t *testing.T) {
	const together, several = "can result in the same name: put a colon or a slash between them", "is the same name in several namespaces: add ${namespace}"
	for template, want := range map[string]string{
		"robot":                                              "",
		"${namespace}":                                       "",
		"${namespace}:${serviceAccount}":                     "",
		"${namespace}/${serviceAccount}":                     "",
		"${namespace}.${serviceAccount}":                     "", // no namespace has a dot
		"${serviceAccount}.${namespace}":                     "",
		"${serviceAccount}-.${namespace}":                    "",
		"${namespace}-${podUID}":                             "", // UIDs have one length
		"${namespace}${podUID}":                              "",
		"${podUID}-${serviceAccount}":                        "",
		"${namespace}:${serviceAccount}.${namespace}":        "",
		"${namespace}:${serviceAccount}-${podUID}":           "",
		"${namespace}-${serviceAccount}":                     together,
		"${serviceAccount}-${namespace}":                     together,
		"${namespace}${podName}":                             together,
		"${podName}-of-${namespace}":                         together,
		"${namespace}:${serviceAccount}.${podName}":          together, // both may have dots
		"${namespace}:${podName}.${serviceAccount}":          together,
		"${namespace}:${serviceAccount}${podName}":           together,
		"${serviceAccount}.${podName}.${namespace}":          together,
		"${namespace}.${serviceAccount}.${podName}":          together,
		"${namespace}-${podUID}${serviceAccount}-${podName}": together,
		"${serviceAccount}":                                  several,
		"x:${podName}":                                       several,
		"${serviceAccount}:${podName}":                       several,
		"${serviceAccount}:${podUID}":                        "",
	} {
		for _, organization := range []bool{false, true} {
			commonName, organizations := template, []string(nil)
			if organization {
				commonName, organizations = "robot", []string{template}
			}
			_, err := parseSubject(commonName, organizations)
			if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", template, err, want)
			}
		}
	}
}

func TestGroupsThatCouldBeShared(t *testing.T) {
	for _, test := range []struct {
		organizations []string
		refused       bool
	}{
		{[]string{"pods", "${namespace}"}, false}, // all are in pods
		{[]string{"${namespace}", "${namespace}"}, false},
		{[]string{"ns:${namespace}", "sa:${namespace}:${serviceAccount}"}, false},
		{[]string{"${namespace}:ns", "${namespace}:sa"}, false},
		{[]string{"${namespace}", "${podUID}"}, true},
		{[]string{"${namespace}", "${namespace}.${serviceAccount}"}, true},
		{[]string{"a", "b", "ns:${namespace}", "ns:${namespace}:${serviceAccount}"}, true},
	} {
		_, err := parseSubject("robot", test.organizations)
		if (err != nil) != test.refused || err != nil && !strings.Contains(err.Error(), "can result in the same name: begin each with a different prefix") {
			t.Errorf("%q: %v", test.organizations, err)
		}
	}
}

// TestTwoIdentitiesShareNoSubject: whatever a template that is accepted is made of, two identities
// that differ in what it holds never come to the same name.
func TestTwoIdentitiesShareNoSubject(t *testing.T) {
	const uid = "2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a1"
	names := []string{"a", "b", "a-b", "a.b", "a.b.a", "a-a"}
	var identities []providers.Identity
	for _, namespace := range []string{"a", "b", "a-b", "a-a"} {
		for _, account := range names {
			for _, pod := range names {
				identities = append(identities, providers.Identity{Namespace: namespace, ServiceAccount: account, PodName: pod, PodUID: uid + fmt.Sprint(len(identities)%10)})
			}
		}
	}
	fields := []string{fieldNamespace, fieldServiceAccount, fieldPodName, fieldPodUID}
	literals := []string{"", "-", ".", ":", "-a."}
	accepted := 0
	for _, first := range append(fields, "") {
		for _, between := range literals {
			for _, second := range fields {
				for _, then := range literals {
					for _, third := range append(fields, "") {
						template, err := parseSubject(first+between+second+then+third, nil)
						if err != nil {
							continue
						}
						accepted++
						if a, b, name := shared(template, identities, first+second+third); name != "" {
							t.Fatalf("%s: %v and %v are both %s", template[0].text, a, b, name)
						}
					}
				}
			}
		}
	}
	if accepted < 100 {
		t.Errorf("only %d templates are accepted", accepted)
	}
}

// shared returns two identities that come to one name, and differ in one of the fields.
func shared(template subjectTemplate, identities []providers.Identity, fields string) (a, b, name string) {
	had := map[string]string{}
	for _, id := range identities {
		got, err := template.of(id)
		if err != nil {
			continue // too long
		}
		var values []string
		for _, f := range field.FindAllString(fields, -1) {
			value, _ := valueOf(f, id)
			values = append(values, value)
		}
		used := strings.Join(values, " ")
		if before, ok := had[got.commonName]; ok && before != used {
			return before, used, got.commonName
		}
		had[got.commonName] = used
	}
	return "", "", ""
}

func TestSubjectWarning(t *testing.T) {
	for template, want := range map[string]bool{
		"${namespace}:${serviceAccount}":            false,
		"${namespace}:${serviceAccount}:${podName}": false,
		"${namespace}:${podUID}:${podName}":         false,
		"${podUID}":                                 false,
		"${namespace}:${podName}":                   true,
	} {
		for _, organizations := range [][]string{nil, {"a:" + template}} {
			commonName := template
			if organizations != nil {
				commonName = "robot"
			}
			parsed, err := parseSubject(commonName, organizations)
			if err != nil {
				t.Fatal(err)
			}
			if got := parsed.warning(); (got != "") != want {
				t.Errorf("%s: warning %q, want one: %v", template, got, want)
			}
		}
	}
}
