package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/cluster"
)

func startProgram(ctx context.Context, pair *cluster.Pair) error {
	// From the beginning, where an earlier demo runs.
	api, err := pair.Management.Client()
	if err != nil {
		return err
	}
	if err := api.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace("app"), client.GracePeriodSeconds(0)); err != nil {
		return err
	}
	// Keyferry's webhook answers from now on, or very soon.
	return until(ctx, time.Minute, func() error { return pair.Management.Apply(ctx, programManifests) })
}

// line is what the program prints: see e2e/testdata/client.
type line struct {
	Requests    int      `json:"requests"`
	Failures    int      `json:"failures"`
	LastError   string   `json:"lastError"`
	User        string   `json:"user"`
	Host        string   `json:"host"`
	TokenSHA256 string   `json:"tokenSHA256"`
	Namespaces  []string `json:"namespaces"`
}

// rotations is how many new tokens the demo waits to see. client-go reads the file again each
// minute, however often that changes.
const rotations = 2

// watchProgram prints what the program prints, until its token has changed some times.
func watchProgram(ctx context.Context, pair *cluster.Pair) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	logs, err := programLogs(ctx, pair.Management)
	if err != nil {
		return err
	}
	defer logs.Close()
	var first, last line
	var printed time.Time
	seen := 0
	for lines := bufio.NewScanner(logs); seen <= rotations; {
		if !lines.Scan() {
			return errors.Join(fmt.Errorf("the program's log ended after %d tokens", seen), lines.Err(), ctx.Err())
		}
		var now line
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			return fmt.Errorf("the program says %s", lines.Bytes())
		}
		if seen == 0 {
			fmt.Printf("    server      %s\n    it is       %s\n    namespaces  %s\n", now.Host, now.User, strings.Join(now.Namespaces, " "))
			first = now
		}
		note := ""
		if now.TokenSHA256 != last.TokenSHA256 {
			if seen++; seen > 1 {
				note = "  <- a new token"
			}
		}
		if note != "" || now.Failures != last.Failures || time.Since(printed) >= 5*time.Second {
			fmt.Printf("    %4d requests, %d failures, token (hash) %s%s\n", now.Requests, now.Failures, now.TokenSHA256, note)
			printed = time.Now()
		}
		last = now
	}
	if last.Failures > 0 {
		return fmt.Errorf("%d of %d requests failed, the last with: %s", last.Failures, last.Requests, last.LastError)
	}
	fmt.Printf("    %d tokens, %d requests, none failed\n", seen, last.Requests-first.Requests)
	return nil
}

// programLogs follows the log of the program, from when it runs.
func programLogs(ctx context.Context, management *cluster.Cluster) (logs io.ReadCloser, err error) {
	cfg, err := management.Config()
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	err = until(ctx, 2*time.Minute, func() error {
		pods, err := clients.CoreV1().Pods("app").List(ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "status.phase=Running"})
		if err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errors.New("no Pod of app/web runs: kubectl describe says why")
		}
		logs, err = clients.CoreV1().Pods("app").GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{Container: "web", Follow: true}).Stream(ctx)
		return err
	})
	return logs, err
}
