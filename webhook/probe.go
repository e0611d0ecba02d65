package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// restartAllContainers is the feature that a node declares, named after its gate (k8s.io/component-helpers/nodedeclaredfeatures).
	// A kubelet that has it (1.35, on since 1.36) takes env from files, too, which is older and on since 1.35.
	restartAllContainers = "RestartAllContainersOnContainerExits"

	// probePeriod is short because a node of an old version may join at any time.
	probePeriod = 5 * time.Minute
	// probeRetry is the period until there is a first answer, for which readiness waits.
	probeRetry = 5 * time.Second
	// nodePage bounds what a list of nodes, with all their images, takes in memory.
	nodePage = 200
)

// EnvProbe finds out whether this cluster can take env from files and restart all containers of a Pod. Versions do not tell: both
// are feature gates, of the API server and of each kubelet.
type EnvProbe struct {
	// Client reads and writes at the API server itself, not in a cache.
	Client client.Client
	// Namespace is where the dry run is made: one's own.
	Namespace string
	// Log gets a line when the result changes.
	Log logr.Logger

	last atomic.Pointer[ability]
}

// ability is what a probe comes to: an empty lack means that the cluster can.
type ability struct{ lack string }

// Able tells what the last probe that got an answer came to; false before the first.
func (p *EnvProbe) Able() bool {
	last := p.last.Load()
	return last != nil && last.lack == ""
}

// Ready is a readiness check: until the first answer it is not known what to inject.
func (p *EnvProbe) Ready(*http.Request) error {
	if p.last.Load() == nil {
		return errors.New("whether this cluster can take env from files is not known yet (the flag --env-from-file overrides the probe)")
	}
	return nil
}

// Start probes until ctx ends; it implements manager.Runnable.
func (p *EnvProbe) Start(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, probeRetry, true, func(ctx context.Context) (bool, error) {
		p.probe(ctx)
		return p.last.Load() != nil, nil
	})
	if err != nil {
		return nil // told to stop
	}
	wait.JitterUntilWithContext(ctx, p.probe, probePeriod, 0.2, true)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica must know.
func (*EnvProbe) NeedLeaderElection() bool { return false }

// Collector returns a gauge of the result.
func (p *EnvProbe) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyferry_admission_env_from_file",
		Help: "1 if API server and all nodes know env from files and the restart of all containers, so that an endpoint may move.",
	}, func() float64 {
		if p.Able() {
			return 1
		}
		return 0
	})
}

// probe looks once. Without an answer the last one stays.
func (p *EnvProbe) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	lack, err := p.lack(ctx)
	if err != nil {
		p.Log.Error(err, "probing for env from files")
		return
	}
	if last := p.last.Swap(&ability{lack}); last == nil || last.lack != lack {
		p.Log.Info("probed for env from files", "able", lack == "", "lack", lack)
	}
}

// lack returns what the cluster lacks, empty for nothing.
func (p *EnvProbe) lack(ctx context.Context) (string, error) {
	if lack, err := p.serverLack(ctx); lack != "" || err != nil {
		return lack, err
	}
	return p.nodeLack(ctx)
}

// serverLack asks the API server by a dry run. Of what it does not know or has turned off, fields are dropped and values refused.
// It is a PodTemplate because that goes the way of Pods, but the right to create one is not the right to run anything.
func (p *EnvProbe) serverLack(ctx context.Context) (string, error) {
	probe := probeTemplate(p.Namespace)
	err := p.Client.Create(ctx, probe, client.DryRunAll)
	switch {
	case apierrors.IsInvalid(err):
		return "the API server refuses env from files or the restart of all containers: " + err.Error(), nil
	case err != nil:
		return "", fmt.Errorf("creating a PodTemplate in namespace %s as a dry run: %w", p.Namespace, err)
	}
	sidecar, app := probe.Template.Spec.InitContainers[0], probe.Template.Spec.Containers[0]
	switch {
	case len(sidecar.RestartPolicyRules) == 0:
		return "the API server drops restartPolicyRules", nil
	case len(app.Env) == 0 || app.Env[0].ValueFrom == nil || app.Env[0].ValueFrom.FileKeyRef == nil:
		return "the API server drops fileKeyRef", nil
	}
	return "", nil
}

// nodeLack looks at what every Linux node declares.
func (p *EnvProbe) nodeLack(ctx context.Context) (string, error) {
	seen := false
	for next := ""; ; {
		var nodes corev1.NodeList
		if err := p.Client.List(ctx, &nodes, client.MatchingLabels{corev1.LabelOSStable: "linux"}, client.Limit(nodePage), client.Continue(next)); err != nil {
			return "", fmt.Errorf("listing nodes: %w", err)
		}
		for _, node := range nodes.Items {
			seen = true
			if !slices.Contains(node.Status.DeclaredFeatures, restartAllContainers) {
				return fmt.Sprintf("node %s (kubelet %s) does not declare %s", node.Name, node.Status.NodeInfo.KubeletVersion, restartAllContainers), nil
			}
		}
		if next = nodes.Continue; next == "" {
			break
		}
	}
	if !seen {
		return "there is no Linux node that declares " + restartAllContainers, nil
	}
	return "", nil
}

// probeTemplate has what injection uses where the cluster can.
func probeTemplate(namespace string) *corev1.PodTemplate {
	always := corev1.ContainerRestartPolicyAlways
	return &corev1.PodTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "keyferry-probe-"},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "keyferry-probe"}},
			Spec: corev1.PodSpec{
				Volumes: []corev1.Volume{{Name: "files", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				InitContainers: []corev1.Container{{
					Name: "sidecar", Image: "probe", RestartPolicy: &always,
					RestartPolicyRules: []corev1.ContainerRestartRule{{
						Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
						ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
					}},
				}},
				Containers: []corev1.Container{{
					Name: "app", Image: "probe",
					Env: []corev1.EnvVar{{Name: "PROBE", ValueFrom: &corev1.EnvVarSource{
						FileKeyRef: &corev1.FileKeySelector{VolumeName: "files", Path: "env", Key: "PROBE"},
					}}},
				}},
			},
		},
	}
}
