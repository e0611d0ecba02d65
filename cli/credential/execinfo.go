package credential

import (
	"encoding/json"
	"errors"
	"fmt"

	utiljson "sigs.k8s.io/json"

	"github.com/keyferry/keyferry/endpoint"
)

// execInfoVariable is where a client tells its credential plugin what it asks for
// (https://kubernetes.io/docs/reference/config-api/client-authentication.v1/).
const execInfoVariable = "KUBERNETES_EXEC_INFO"

// The versions of the protocol. They differ in nothing that matters here, but the answer has to be
// of the one that was asked in.
const (
	execV1      = "client.authentication.k8s.io/v1"
	execV1beta1 = "client.authentication.k8s.io/v1beta1"
)

// ExecInfo is what a client says to its credential plugin.
type ExecInfo struct {
	// APIVersion is that of the question, and so of the answer.
	APIVersion string
	// Server is the one that the client will talk to, in the form of endpoint.Parse; empty if it does
	// not say (provideClusterInfo).
	Server string
	// TargetCluster is the one that the cluster's config names, as NAMESPACE/NAME; empty if there is
	// none.
	TargetCluster string
}

// ParseExecInfo reads the value of KUBERNETES_EXEC_INFO; empty where no client asks. Its errors
// repeat nothing of the value but its apiVersion.
func ParseExecInfo(value string) (ExecInfo, error) {
	if value == "" {
		return ExecInfo{APIVersion: execV1}, nil
	}
	var asked struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Cluster *struct {
				Server string          `json:"server"`
				Config json.RawMessage `json:"config"`
			} `json:"cluster"`
		} `json:"spec"`
	}
	if utiljson.UnmarshalCaseSensitivePreserveInts([]byte(value), &asked) != nil {
		return ExecInfo{}, errors.New(execInfoVariable + " is not an ExecCredential in JSON: unset this variable, or let client-go or kubectl set it")
	}
	if asked.Kind != "ExecCredential" || asked.APIVersion != execV1 && asked.APIVersion != execV1beta1 {
		return ExecInfo{}, fmt.Errorf("%s has the kind %.64q and the apiVersion %.64q: set the plugin's apiVersion to %s or %s", execInfoVariable, asked.Kind, asked.APIVersion, execV1, execV1beta1)
	}
	info := ExecInfo{APIVersion: asked.APIVersion}
	if asked.Spec.Cluster == nil {
		return info, nil
	}
	server, err := endpoint.Parse(asked.Spec.Cluster.Server)
	if err != nil {
		return ExecInfo{}, fmt.Errorf("%s: spec.cluster.server %w", execInfoVariable, err)
	}
	info.Server = server.String()
	info.TargetCluster, err = targetOf(asked.Spec.Cluster.Config)
	return info, err
}

// targetOf returns the TargetCluster that a cluster's config names. The config may also be none, or
// be meant for another plugin.
func targetOf(config json.RawMessage) (string, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(config, &fields) != nil || fields["targetCluster"] == nil {
		return "", nil
	}
	var name string
	if json.Unmarshal(fields["targetCluster"], &name) != nil || name == "" {
		return "", errors.New(execInfoVariable + `: spec.cluster.config.targetCluster is not a string: write it as "NAMESPACE/NAME"`)
	}
	return name, nil
}

// check refuses to hand a credential to a client that will send it to another server than its own.
func (e ExecInfo) check(c Credential) error {
	if e.Server == "" || e.Server == c.Endpoint.Server {
		return nil
	}
	return fmt.Errorf("TargetCluster %s has the server %s, but the client connects to %s: use a TargetCluster with the client's server, or correct the client's server",
		c.Target, c.Endpoint.Server, e.Server)
}
