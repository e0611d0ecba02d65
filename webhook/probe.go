package webhook

import (
	"context"
	"fmt"
	"net/http"
	"strings"
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
	// probePeriod is short because a node of an old version may join at any time.
	probePeriod = 5 * time.Minute
	// probeRetry is the period until there is a first answer, for which readiness waits.
	probeRetry = 5 * time.Second
	// nodePage bounds what a list of nodes, with all their images, takes in memory.
	nodePage = 200
)

// Probe finds out whether this cluster has a feature. The version of its API server does not tell:
// features are behind gates, there and in each kubelet.
type Probe struct {
	// Feature to look for: EnvFromFile or ImageVolume.
	Feature Feature
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
func (p *Probe) Able() bool {
	last := p.last.Load()
	return last != nil && last.lack == ""
}

// Ready is a readiness check: until the first answer it is not known what to inject.
func (p *Probe) Ready(*http.Request) error {
	if p.last.Load() == nil {
		return fmt.Errorf("whether this cluster has the feature %s is not known yet (the flag --%s overrides the probe)", p.Feature.Name, p.Feature.Name)
	}
	return nil
}

// Start probes until ctx ends; it implements manager.Runnable.
func (p *Probe) Start(ctx context.Context) error {
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
func (*Probe) NeedLeaderElection() bool { return false }

// Collector returns a gauge of the result.
func (p *Probe) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyferry_admission_" + strings.ReplaceAll(p.Feature.Name, "-", "_"),
		Help: p.Feature.help,
	}, func() float64 {
		if p.Able() {
			return 1
		}
		return 0
	})
}

// probe looks once. Without an answer the last one stays.
func (p *Probe) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	lack, err := p.Lack(ctx)
	if err != nil {
		p.Log.Error(err, "probing for a feature of this cluster", "feature", p.Feature.Name)
		return
	}
	if last := p.last.Swap(&ability{lack}); last == nil || last.lack != lack {
		p.Log.Info("probed for a feature of this cluster", "feature", p.Feature.Name, "able", lack == "", "lack", lack)
	}
}

// Lack looks once, and returns what the cluster lacks, empty for nothing.
func (p *Probe) Lack(ctx context.Context) (string, error) {
	if lack, err := p.serverLack(ctx); lack != "" || err != nil {
		return lack, err
	}
	return p.nodeLack(ctx)
}

// serverLack asks the API server by a dry run. Of what it does not know or has turned off, fields
// are dropped and values refused. It is a PodTemplate because that goes the way of Pods, but the
// right to create one is not the right to run anything.
func (p *Probe) serverLack(ctx context.Context) (string, error) {
	probe := &corev1.PodTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, GenerateName: "keyferry-probe-"},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "keyferry-probe"}},
			Spec:       p.Feature.use(),
		},
	}
	err := p.Client.Create(ctx, probe, client.DryRunAll)
	switch {
	case apierrors.IsInvalid(err):
		return "the API server refuses what the feature is used by: " + err.Error(), nil
	case err != nil:
		return "", fmt.Errorf("creating a PodTemplate in namespace %s as a dry run: %w", p.Namespace, err)
	}
	return p.Feature.dropped(&probe.Template.Spec), nil
}

// nodeLack looks at every Linux node.
func (p *Probe) nodeLack(ctx context.Context) (string, error) {
	seen := false
	for next := ""; ; {
		var nodes corev1.NodeList
		if err := p.Client.List(ctx, &nodes, client.MatchingLabels{corev1.LabelOSStable: "linux"}, client.Limit(nodePage), client.Continue(next)); err != nil {
			return "", fmt.Errorf("listing nodes: %w", err)
		}
		for i := range nodes.Items {
			seen = true
			if lack := p.Feature.nodeLack(&nodes.Items[i]); lack != "" {
				return "node " + nodes.Items[i].Name + " " + lack, nil
			}
		}
		if next = nodes.Continue; next == "" {
			break
		}
	}
	if !seen {
		return "there is no Linux node", nil
	}
	return "", nil
}
