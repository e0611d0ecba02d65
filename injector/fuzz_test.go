package injector_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/json"

	"github.com/keyferry/keyferry/injector"
)

// FuzzInject checks that the result of injecting any Pod can be applied, is a valid Pod, and needs
// no further injection.
func FuzzInject(f *testing.F) {
	for _, raw := range cases(f) {
		f.Add(raw, true)
		f.Add(raw, false)
	}
	f.Add([]byte(`{"metadata":{"annotations":{"keyferry.dev/cluster":"a"}},"spec":{"containers":[{"name":"a","env":null,"volumeMounts":[{"mountPath":"\/var\/run"}]}]}}`), true)
	f.Fuzz(func(t *testing.T, raw []byte, envFromFile bool) {
		// The API server hands on nothing else.
		if strict, err := json.UnmarshalStrict(raw, new(corev1.Pod)); err != nil || hasDuplicates(strict) {
			return
		}
		for _, p := range []*injector.Plugin{nil, plugin()} {
			i := defaultInstallation()
			i.config.EnvFromFile = envFromFile
			i.target.Plugin, i.config.ImageVolume = p, envFromFile
			first, err := i.inject(raw)
			if err != nil || len(first.Operations) == 0 {
				return
			}
			patched := apply(t, raw, first.Operations)
			if err := json.UnmarshalCaseSensitivePreserveInts(patched, new(corev1.Pod)); err != nil {
				t.Fatalf("%s: %v", patched, err)
			}
			second, err := i.inject(patched)
			if err != nil || len(second.Operations) > 0 {
				t.Errorf("injecting %s again gives %v, %v", patched, second.Operations, err)
			}
		}
	})
}

func hasDuplicates(strict []error) bool {
	return slices.ContainsFunc(strict, func(err error) bool { return strings.Contains(err.Error(), "duplicate field") })
}

// FuzzDecodePod compares the result with that of decoding the whole Pod.
func FuzzDecodePod(f *testing.F) {
	for _, raw := range cases(f) {
		f.Add(raw)
	}
	f.Add([]byte(` { "metadata" : { "na\u006de" : "\u00e4\n" , "x" : [ 1e3 , -2 , [ ] , { } ] } , "spec" : null } `))
	f.Add([]byte(`{"metadata":{"annotations":{"a":null,"keyferry.dev/b":"\\\""}},"spec":{"serviceAccountName":"x"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want corev1.Pod
		strict, wantErr := json.UnmarshalStrict(raw, &want)
		pod, err := injector.DecodePod(raw)
		if wantErr != nil || hasDuplicates(strict) {
			return // ours reads less, so it may be content
		}
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		got := pod.Metadata
		if got.Name != want.Name || got.GenerateName != want.GenerateName || got.Namespace != want.Namespace || got.AnnotationCount != len(want.Annotations) {
			t.Errorf("got %+v, want %+v", got, want.ObjectMeta)
		}
		for key, value := range want.Annotations {
			if strings.HasPrefix(key, injector.Prefix) && got.Annotations[key] != value {
				t.Errorf("annotation %q: got %q, want %q", key, got.Annotations[key], value)
			}
		}
		if name := want.Spec.ServiceAccountName; name != "" && pod.ServiceAccountName() != name {
			t.Errorf("got %q, want %q", pod.ServiceAccountName(), name)
		}
	})
}
