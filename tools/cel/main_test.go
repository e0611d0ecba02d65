package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: examples.example.com}
spec:
  group: example.com
  names: {kind: Example, plural: examples, singular: example, listKind: ExampleList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {namespace: {type: string}, name: {type: string}, list: {type: array, items: {type: string}}}
            x-kubernetes-validations:
            - {rule: "EXPRESSION"}
`
	mutating = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: example}
webhooks:
- name: a.example.com
  matchConditions: [{name: a, expression: "EXPRESSION"}]
`
	policy = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: example}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConditions: [{name: a, expression: "authorizer.group('').resource('pods').check('get').allowed()"}]
  variables:
  - {name: annotations, expression: "object.metadata.?annotations.orValue({})"}
  - {name: asks, expression: "variables.annotations.exists(a, a.lowerAscii().startsWith(params.data.prefix))"}
  validations: [{expression: "EXPRESSION", messageExpression: "'no ' + object.metadata.name"}]
  auditAnnotations: [{key: a, valueExpression: "string(variables.asks)"}]
`
)

func TestCompile(t *testing.T) {
	for name, test := range map[string]struct{ manifest, expression, rejected string }{
		"rule":                              {definition, "has(self.__namespace__) == has(self.name)", ""},
		"rule, reserved word":               {definition, "has(self.namespace) == has(self.name)", "undefined field 'namespace'"},
		"rule of a newer Kubernetes":        {definition, "self.name == '' || isDNS1123Label(self.name)", "undeclared reference to 'isDNS1123Label'"},
		"rule that is too costly":           {definition, "self.list.all(a, self.list.all(b, a.contains(b)))", "exceeds budget"},
		"match condition":                   {mutating, "object.metadata.?annotations.orValue({}).exists(a, a.startsWith('example.com/'))", ""},
		"match condition, not a condition":  {mutating, "object.metadata.name + 'x'", "must evaluate to bool"},
		"match condition, two variables":    {mutating, "object.metadata.annotations.exists(k, v, k == v)", "undeclared reference"},
		"policy":                            {policy, "!variables.asks", ""},
		"policy, a variable that is no one": {policy, "!variables.ask", "undefined field 'ask'"},
		"policy, unknown function":          {policy, "format.named('dns1123Label').hasValue()", "undeclared reference to 'format'"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "manifest.yaml")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(test.manifest, "EXPRESSION", test.expression)), 0o600); err != nil {
				t.Fatal(err)
			}
			err := run(io.Discard, []string{filepath.Dir(file)})
			if test.rejected == "" && err != nil || test.rejected != "" && (err == nil || !strings.Contains(err.Error(), test.rejected)) {
				t.Errorf("got %v, want %q", err, test.rejected)
			}
		})
	}
}

func TestNothingToCompile(t *testing.T) {
	if err := run(io.Discard, []string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no object with CEL") {
		t.Errorf("got %v", err)
	}
}
