package main

import (
	"context"
	"errors"
	"fmt"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// check compiles the CEL of an object. known reports whether the object is of a kind that has any.
func check(object *unstructured.Unstructured) (known bool, err error) {
	switch object.GroupVersionKind().GroupKind().String() {
	case "CustomResourceDefinition.apiextensions.k8s.io":
		return true, checkWith(object, checkDefinition)
	case "MutatingWebhookConfiguration.admissionregistration.k8s.io":
		return true, checkWith(object, func(configuration *admissionregistrationv1.MutatingWebhookConfiguration) (errs []error) {
			for _, webhook := range configuration.Webhooks {
				errs = append(errs, newCompiler(false).matchConditions(webhook.MatchConditions)...)
			}
			return errs
		})
	case "ValidatingWebhookConfiguration.admissionregistration.k8s.io":
		return true, checkWith(object, func(configuration *admissionregistrationv1.ValidatingWebhookConfiguration) (errs []error) {
			for _, webhook := range configuration.Webhooks {
				errs = append(errs, newCompiler(false).matchConditions(webhook.MatchConditions)...)
			}
			return errs
		})
	case "ValidatingAdmissionPolicy.admissionregistration.k8s.io":
		return true, checkWith(object, checkPolicy)
	}
	return false, nil
}

// checkWith converts an object to its type, strictly.
func checkWith[T any](object *unstructured.Unstructured, check func(*T) []error) error {
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, true); err != nil {
		return err
	}
	return errors.Join(check(typed)...)
}

// checkDefinition validates the whole definition, since the schema decides what a rule may refer to
// and what it may cost.
func checkDefinition(definition *apiextensionsv1.CustomResourceDefinition) (errs []error) {
	apiextensionsv1.SetDefaults_CustomResourceDefinition(definition)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&definition.Spec)
	internal := &apiextensions.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(definition, internal, nil); err != nil {
		return []error{err}
	}
	internal.Status = apiextensions.CustomResourceDefinitionStatus{}
	for _, version := range internal.Spec.Versions {
		if version.Storage {
			internal.Status.StoredVersions = []string{version.Name}
		}
	}
	for _, err := range validation.ValidateCustomResourceDefinition(context.Background(), internal) {
		errs = append(errs, err)
	}
	return errs
}

func checkPolicy(policy *admissionregistrationv1.ValidatingAdmissionPolicy) (errs []error) {
	c := newCompiler(policy.Spec.ParamKind != nil)
	errs = c.matchConditions(policy.Spec.MatchConditions)
	for i, variable := range policy.Spec.Variables {
		errs = append(errs, c.variable(fmt.Sprintf("variables[%d]", i), variable)...)
	}
	for i, v := range policy.Spec.Validations {
		errs = append(errs, c.compile(fmt.Sprintf("validations[%d].expression", i), v.Expression, celgo.BoolType)...)
		if v.MessageExpression != "" {
			c := c
			c.variables.HasAuthorizer = false
			errs = append(errs, c.compile(fmt.Sprintf("validations[%d].messageExpression", i), v.MessageExpression, celgo.StringType)...)
		}
	}
	for i, a := range policy.Spec.AuditAnnotations {
		errs = append(errs, c.compile(fmt.Sprintf("auditAnnotations[%d].valueExpression", i), a.ValueExpression, celgo.StringType, celgo.NullType)...)
	}
	return errs
}

// compiler compiles expressions of admission.
type compiler struct {
	*plugincel.CompositedCompiler
	// variables that expressions may use besides object, oldObject, request, namespaceObject and those
	// that the policy defines.
	variables plugincel.OptionalVariableDeclarations
}

func newCompiler(hasParams bool) compiler {
	composited, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion(), true))
	if err != nil {
		panic(err) // the environment is constant
	}
	return compiler{composited, plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true, StrictCost: true}}
}

func (c compiler) matchConditions(conditions []admissionregistrationv1.MatchCondition) (errs []error) {
	for i, condition := range conditions {
		errs = append(errs, c.compile(fmt.Sprintf("matchConditions[%d].expression", i), condition.Expression, celgo.BoolType)...)
	}
	return errs
}

func (c compiler) variable(path string, v admissionregistrationv1.Variable) []error {
	e := expression{text: v.Expression, name: v.Name, types: []*celgo.Type{celgo.AnyType, celgo.DynType}}
	return wrap(path, c.CompileAndStoreVariable(e, c.variables, environment.NewExpressions))
}

func (c compiler) compile(path, text string, types ...*celgo.Type) []error {
	return wrap(path, c.CompileCELExpression(expression{text: text, types: types}, c.variables, environment.NewExpressions))
}

func wrap(path string, result plugincel.CompilationResult) []error {
	if result.Error == nil {
		return nil
	}
	return []error{fmt.Errorf("%s: %w", path, result.Error)}
}

// expression implements plugincel.NamedExpressionAccessor.
type expression struct {
	text, name string
	types      []*celgo.Type
}

func (e expression) GetExpression() string      { return e.text }
func (e expression) GetName() string            { return e.name }
func (e expression) ReturnTypes() []*celgo.Type { return e.types }
