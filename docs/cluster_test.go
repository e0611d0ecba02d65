package docs_test

import (
	"context"
	"os/exec"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/internal/testenv"
)

// withNodes does for a cluster that has neither nodes nor controllers what pages need of them,
// until the function is called that it returns: Secrets for tokens of ServiceAccounts get theirs,
// TargetClusters are ready, and Pods that run once end: the check before an uninstallation as its
// command does, the others with success.
func withNodes(t *testing.T, cfg *rest.Config) (stop func()) {
	t.Helper()
	clients := kubernetes.NewForConfigOrDie(cfg)
	fillTokens(t, clients)
	noTokens, notReady := testenv.FillTokens(t, cfg), testenv.MarkReady(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	pods, err := clients.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	program, environment := tools(t)["keyferry"], testenv.Kubectl(t, cfg, ".").Env
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range pods.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			hasEnded := ok && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
			if !ok || hasEnded || pod.Spec.RestartPolicy != corev1.RestartPolicyNever || pod.DeletionTimestamp != nil {
				continue
			}
			pod.Status.Phase = corev1.PodSucceeded
			if args := pod.Spec.Containers[0].Args; slices.Contains(args, "--uninstall") && !succeeds(ctx, program, environment, pod) {
				pod.Status.Phase = corev1.PodFailed
			}
			if _, err := clients.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
				t.Errorf("ending Pod %s: %v", pod.Name, err)
			}
		}
	}()
	return func() {
		noTokens()
		notReady()
		cancel()
		pods.Stop()
		<-ended
	}
}

// succeeds reports whether the command keyferry of a Pod succeeds, with the permissions of the
// Pod's ServiceAccount.
func succeeds(ctx context.Context, program string, environment []string, pod *corev1.Pod) bool {
	as := "--as=system:serviceaccount:" + pod.Namespace + ":" + pod.Spec.ServiceAccountName
	cmd := exec.CommandContext(ctx, program, append(slices.Clone(pod.Spec.Containers[0].Args), as)...)
	cmd.Env = environment
	return cmd.Run() == nil
}

// fillTokens puts tokens into Secrets that are for them.
func fillTokens(t *testing.T, clients kubernetes.Interface) {
	t.Helper()
	list, err := clients.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if err := testenv.FillToken(t.Context(), clients, &list.Items[i]); err != nil {
			t.Fatal(err)
		}
	}
}
