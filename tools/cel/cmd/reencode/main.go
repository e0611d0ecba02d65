// Reencode decodes a Pod from standard input into the types of Kubernetes 1.30, and prints it.
// Fields that these types lack are lost. Many webhooks do the same with Pods. The program is in
// this module because the module has the packages of Kubernetes 1.30.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "reencode:", err)
		os.Exit(1)
	}
}

func run() error {
	var pod corev1.Pod
	if err := json.NewDecoder(os.Stdin).Decode(&pod); err != nil {
		return fmt.Errorf("decoding the Pod: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(&pod)
}
