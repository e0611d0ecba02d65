package webhook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
)

// hostileSize is the size of a hostile review, in bytes.
const hostileSize = 1 << 20

// repeated returns as many copies of a JSON value, separated by commas, as fit into a hostile
// review. A %d in it becomes the number of the copy.
func repeated(value string) string { return repeatedTo(hostileSize, value) }

// repeatedTo is repeated for a number of bytes.
func repeatedTo(size int, value string) string {
	var b strings.Builder
	for i := 0; b.Len()+len(value)+16 < size; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.ReplaceAll(value, "%d", fmt.Sprint(i)))
	}
	return b.String()
}

// TestHostileReviews sends reviews whose values take more memory than their text, or have to be
// compared with each other. A review allocates a few times the memory of its body.
func TestHostileReviews(t *testing.T) {
	const (
		requested = `"keyferry.dev/cluster":"fleet/tenant-1"`
		app       = `"containers":[{"name":"app"}]`
	)
	pod := func(annotations, spec string) string {
		return `{"metadata":{"annotations":{` + annotations + `}},"spec":{` + spec + `}}`
	}
	container := func(member string) string { return pod(requested, `"containers":[{"name":"app",`+member+`}]`) }
	workload := func(members string) string {
		return `{"kind":"Example","metadata":{"annotations":{` + requested + `}},` + members + `}`
	}
	for name, test := range map[string]struct {
		object  string
		path    string // PathPods by default
		denied  string // a part of the message; empty if the Pod is allowed
		garbage int    // times the body's size that may be allocated; 4 by default
	}{
		"containers":                {object: pod(requested, `"containers":[`+repeated("{}")+`]`), denied: "spec.containers: has more than 200 containers: use several Pods"},
		"init containers":           {object: pod(requested, app+`,"initContainers":[`+repeated("{}")+`]`), denied: "spec.initContainers: has more than 200 containers"},
		"annotation last":           {object: `{"spec":{"containers":[` + repeated("{}") + `]},"metadata":{"annotations":{` + requested + `}}}`, denied: "spec.containers: has more than 200"},
		"containers, no annotation": {object: pod(`"a":"b"`, `"containers":[`+repeated("{}")+`]`)},
		"resources":                 {object: pod(requested, app+`,"resources":{"limits":{`+repeated(`"r%d":"1"`)+`}}`)},
		"resources, no annotation":  {object: pod(``, app+`,"resources":{"limits":{`+repeated(`"r%d":"1"`)+`}}`)},
		"resources of a container":  {object: container(`"resources":{"limits":{` + repeated(`"cpu":"%d"`) + `}}`)},
		"quantity":                  {object: container(`"resources":{"limits":{"cpu":"` + strings.Repeat("1.", hostileSize/2) + `"}}`)},
		"volumes":                   {object: pod(requested, app+`,"volumes":[`+repeated("{}")+`]`)},
		"variables":                 {object: container(`"env":[` + repeated("{}") + `]`)},
		"same variable":             {object: container(`"env":[` + repeated(`{"name":"KUBECONFIG"}`) + `]`), denied: "spec.containers[0].env: has more than 16 variables named KUBERNETES_SERVICE_* or KUBECONFIG: remove some"},
		"exceptions":                {object: container(`"env":[` + repeated(`{"name":"NO_PROXY"}`) + `]`), denied: "spec.containers[0].env: has more than 16 variables named NO_PROXY or no_proxy"},
		"escaped variable":          {object: container(`"env":[{"name":"NO_PROXY","value":"` + strings.Repeat("<", hostileSize) + `"}]`), denied: "at most 131072 are possible: shorten it"},
		"variables from files":      {object: container(`"env":[` + repeated(`{"valueFrom":{"fileKeyRef":{"path":"aaaa"}}}`) + `]`)},
		"mounts":                    {object: container(`"volumeMounts":[` + repeated(`{"mountPath":"/"}`) + `]`), denied: "spec.containers[0].volumeMounts: has more than 16 mounts at, in or above directories of Keyferry"},
		"mounts in containers, and volumes": {object: pod(requested, `"containers":[`+strings.Repeat(`{"volumeMounts":[`+strings.TrimSuffix(strings.Repeat(`{"name":"v","mountPath":"/var"},`, 16), ",")+`]},`, 199)+
			`{}],"volumes":[`+repeatedTo(hostileSize/2, `{"name":"v"}`)+`]`)},
		"directories in a volume": {object: pod(requested, `"containers":[{"volumeMounts":[`+strings.TrimSuffix(strings.Repeat(`{"name":"v","mountPath":"/var"},`, 16), ",")+`]}],`+
			`"volumes":[{"name":"v","projected":{"sources":[`+repeated(`{}`)+`]}}]`), denied: "which is read-only"},
		"ports":            {object: pod(requested+`,"keyferry.dev/metrics-port":"9000"`, `"containers":[{"name":"app","ports":[`+repeated(`{"containerPort":9000}`)+`]}]`)},
		"long names":       {object: pod(requested+`,"keyferry.dev/containers":"`+missing(200)+`"`, `"containers":[{"name":"`+strings.Repeat("a", hostileSize)+`"}]`), denied: "spec.containers[0].name: has"},
		"account":          {object: pod(requested, app+`,"serviceAccountName":"`+strings.Repeat("a", hostileSize)+`"`), denied: "spec.serviceAccountName: has"},
		"our container":    {object: pod(requested, app+`,"initContainers":[{"name":"keyferry-refresher","args":[`+repeated(`[]`)+`]}]`), denied: "spec.initContainers: the containers and volumes with names of Keyferry have more than 256 KiB"},
		"our volume":       {object: pod(requested, app+`,"volumes":[{"name":"keyferry-identity","projected":{"sources":[`+repeated(`{}`)+`]}}]`), denied: "spec.volumes: the containers and volumes with names of Keyferry"},
		"annotations":      {object: pod(requested+`,`+repeated(`"keyferry.dev/%d":""`), app), denied: "metadata.annotations: the annotations of Keyferry have more than 256 KiB"},
		"named containers": {object: pod(requested+`,"keyferry.dev/containers":"`+strings.Repeat(",", hostileSize)+`"`, app), denied: "more than 256 KiB"},
		"status":           {object: pod(requested+`,"keyferry.dev/status":"{\"containers\":[`+strings.ReplaceAll(repeatedTo(100<<10, `"a"`), `"`, `\"`)+`]}"`, app)},
		"named resources": {object: pod(requested+`,"keyferry.dev/refresher-resources":"{\"limits\":{`+strings.ReplaceAll(repeatedTo(200<<10, `"r%d":1`), `"`, `\"`)+`}}"`, app),
			denied: "more than 64 resources"},
		"escaped members": {object: pod(requested, app+`,`+repeated(`"\u0061":1`)), garbage: 24},
		"templates": {path: PathWorkloads, object: workload(`"a":[` + repeated(`{"spec":{"containers":[]}}`) + `]`),
			denied: "the Example has more than 100 Pod templates: use several objects"},
		"deep templates": {path: PathWorkloads, object: `{` + strings.Repeat(`"`+strings.Repeat("<", 63)+`":{`, 14) + `"a":[{}` +
			strings.Repeat(`,{"metadata":{"annotations":{"keyferry.dev/cluster":"missing"}},"spec":{"containers":[]}}`, 100) + `]` + strings.Repeat(`}`, 15)},
		"templates, no annotation": {path: PathWorkloads, object: `{"a":[` + repeated(`{"spec":{"containers":[]}}`) + `]}`},
		"annotated objects": {path: PathWorkloads, object: workload(`"spec":{"containers":[]},"a":[` + repeated(`{"metadata":{"annotations":{"keyferry.dev/cluster":"a"}}}`) + `]`),
			denied: "the Example has more than 500 annotations of Keyferry: use several objects"},
		"templates and annotations": {path: PathWorkloads, object: workload(`"a":[` + strings.Repeat(`{"spec":{"containers":[]},"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}}},`, 99) +
			strings.Repeat(`{"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}}},`, 400) + `{}]`)},
		"long members": {path: PathWorkloads, object: workload(`"` + strings.Repeat("a", hostileSize/2) + `":[` + repeatedTo(hostileSize/2, `{"metadata":{"annotations":{"keyferry.dev/cluster":"a"}}}`) + `]`)},
		"nested lists": {path: PathWorkloads, object: workload(`"a":[` + repeated(`[]`) + `]`), garbage: 8},
		"nested specs": {path: PathWorkloads, object: workload(strings.Repeat(`"spec":{`, 5000) + `"a":[` + repeatedTo(hostileSize-100000, `{}`) + `]` + strings.Repeat(`}`, 5000))},
	} {
		t.Run(name, func(t *testing.T) {
			if test.path == "" {
				test.path = PathPods
			}
			if test.garbage == 0 {
				test.garbage = 4
			}
			body := []byte(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","kind":{"kind":"Example"},"namespace":"shop","operation":"CREATE",` +
				`"resource":{"group":"","version":"v1","resource":"pods"},"object":` + test.object + `}}`)
			h := testHandler(t, nil)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got := post(h, test.path, body)
			runtime.ReadMemStats(&after)
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(got.Body.Bytes(), &review); err != nil || got.Code != http.StatusOK || review.Response == nil {
				t.Fatalf("got %d %.300s: %v", got.Code, got.Body, err)
			}
			switch answer := review.Response; {
			case answer.Allowed != (test.denied == ""), !answer.Allowed && !strings.Contains(answer.Result.Message, test.denied):
				t.Errorf("allowed: %t, %.300v", answer.Allowed, answer.Result)
			case got.Body.Len() > 256<<10:
				t.Errorf("the answer has %d bytes", got.Body.Len())
			}
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > uint64(test.garbage*len(body)+8<<20) {
				t.Errorf("%d bytes were allocated for a body of %d", allocated, len(body))
			}
		})
	}
}

// missing returns n names of containers.
func missing(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i)
	}
	return strings.Join(names, ",")
}
