// Package clusterprofile reads ClusterProfiles (multicluster.x-k8s.io, KEP-4322) and the operator's
// provider file, which configures the plugins that issue credentials for them.
//
// Only the provider file decides which program runs, from which image, and with which arguments and
// environment. A ClusterProfile, which another user may write, selects one of the providers, and
// may add arguments and variables if the provider's policies allow it. It can never set variables
// that affect how a program runs, and it does not affect other ClusterProfiles.
package clusterprofile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Limits. Arguments and environment must fit into a Pod's spec and onto the stack of a process.
const (
	maxFile      = 1 << 20
	maxProviders = 100
	maxName      = 253
	maxImage     = 1024
	maxCount     = 128
	maxBytes     = 64 << 10
)

// Policies of a provider for arguments and variables of a ClusterProfile. Empty means policyIgnore.
const (
	policyIgnore            = "Ignore"
	policyAppend            = "Append"            // arguments
	policyAppendIfNotExists = "AppendIfNotExists" // variables; the operator's take precedence
	policyReplace           = "Replace"           // variables; the profile's take precedence
)

// ProviderFile is a parsed provider file. It is immutable; nil has no providers.
type ProviderFile struct {
	providers []provider // in the operator's order of preference
}

type provider struct {
	plugin    Plugin // without a Cluster
	argPolicy string
	envPolicy string
	envNames  []string // names that a profile may set; if nil, see checkProfileSets
}

// Plugin is a program that issues credentials, with its arguments and environment.
type Plugin struct {
	// Name of the provider.
	Name string
	// Image contains the program for Pods. It is empty if the program runs only in the broker.
	Image string
	// RunIn is the default for where the program runs.
	RunIn v1alpha1.RunIn

	// Command is an absolute path without . or .., in the image or in the broker. It is not a shell.
	Command string
	Args    []string
	// Env has unique names.
	Env []EnvVar
	// APIVersion of the ExecCredential that the program reads and prints.
	APIVersion string
	// ProvideClusterInfo passes the cluster's endpoint and CA to the program.
	ProvideClusterInfo bool

	// Cluster is zero unless the Plugin is for a ClusterProfile.
	Cluster Cluster
}

// EnvVar is a variable of the environment.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// providerJSON has the format of the library
// https://pkg.go.dev/sigs.k8s.io/cluster-inventory-api/pkg/access, with the additional fields
// image, runIn and profileSourcedEnvVarNames.
type providerJSON struct {
	Name       string         `json:"name"`
	Image      string         `json:"image"`
	RunIn      v1alpha1.RunIn `json:"runIn"`
	ExecConfig *struct {
		Command            string   `json:"command"`
		Args               []string `json:"args"`
		Env                []EnvVar `json:"env"`
		APIVersion         string   `json:"apiVersion"`
		ProvideClusterInfo bool     `json:"provideClusterInfo"`
		InteractiveMode    string   `json:"interactiveMode"`
		InstallHint        string   `json:"installHint"` // for users at a terminal
	} `json:"execConfig"`
	ArgPolicy string   `json:"profileSourcedCLIArgsPolicy"`
	EnvPolicy string   `json:"profileSourcedEnvVarsPolicy"`
	EnvNames  []string `json:"profileSourcedEnvVarNames"`
}

// ParseProviderFile parses a provider file in JSON. It returns an error for anything that would
// otherwise be ignored, such as unknown fields. The error names the provider and the field.
func ParseProviderFile(data []byte) (*ProviderFile, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d KiB", maxFile>>10)
	}
	var file struct {
		Providers []json.RawMessage `json:"providers"`
	}
	if err := decodeStrictly(data, &file); err != nil {
		return nil, err
	}
	if len(file.Providers) > maxProviders {
		return nil, fmt.Errorf("providers: it has %d, more than %d", len(file.Providers), maxProviders)
	}
	parsed := &ProviderFile{}
	for i, raw := range file.Providers {
		var said providerJSON
		err := decodeStrictly(raw, &said)
		if err == nil && slices.Contains(parsed.Names(), said.Name) {
			err = errors.New("name: another provider has the same name")
		}
		var p provider
		if err == nil {
			p, err = said.provider()
		}
		if err != nil {
			return nil, fmt.Errorf("providers[%d] (%.*q): %w", i, maxName, said.Name, err)
		}
		parsed.providers = append(parsed.providers, p)
	}
	return parsed, nil
}

func decodeStrictly(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("it is not valid JSON for a provider file: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON")
	}
	return nil
}

// provider validates a provider and sets defaults.
func (said providerJSON) provider() (provider, error) {
	if said.ExecConfig == nil {
		return provider{}, errors.New("execConfig is missing")
	}
	p := provider{
		plugin: Plugin{
			Name:               said.Name,
			Image:              said.Image,
			RunIn:              said.RunIn,
			Command:            said.ExecConfig.Command,
			Args:               said.ExecConfig.Args,
			Env:                said.ExecConfig.Env,
			APIVersion:         said.ExecConfig.APIVersion,
			ProvideClusterInfo: said.ExecConfig.ProvideClusterInfo,
		},
		argPolicy: said.ArgPolicy,
		envPolicy: said.EnvPolicy,
		envNames:  said.EnvNames,
	}
	if p.plugin.RunIn == "" {
		p.plugin.RunIn = v1alpha1.RunInBroker
		if p.plugin.Image != "" {
			p.plugin.RunIn = v1alpha1.RunInPod
		}
	}
	if said.ExecConfig.InteractiveMode == "Always" {
		return provider{}, errors.New("execConfig.interactiveMode is Always, but no user can answer: use a plugin that asks no questions")
	}
	return p, errors.Join(p.plugin.check(), p.checkPolicies())
}

func (p Plugin) check() error {
	switch {
	case p.Name == "" || len(p.Name) > maxName || hasControl(p.Name):
		return fmt.Errorf("name must be 1 to %d printable characters", maxName)
	case len(p.Image) > maxImage || hasControl(p.Image) || strings.Contains(p.Image, " "):
		return errors.New("image is not a reference to an image")
	case !slices.Contains([]v1alpha1.RunIn{v1alpha1.RunInBroker, v1alpha1.RunInPod}, p.RunIn):
		return fmt.Errorf("runIn is %q: it must be Broker or Pod", p.RunIn)
	case p.RunIn == v1alpha1.RunInPod && p.Image == "":
		return errors.New("image is missing: with runIn Pod, the image must contain the program")
	case !slices.Contains([]string{"client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"}, p.APIVersion):
		return fmt.Errorf("execConfig.apiVersion is %q: set the version that the plugin prints, client.authentication.k8s.io/v1 or v1beta1", p.APIVersion)
	}
	if err := checkCommand(p.Command); err != nil {
		return fmt.Errorf("execConfig.command %w", err)
	}
	for i, arg := range p.Args {
		if strings.ContainsRune(arg, 0) {
			return fmt.Errorf("execConfig.args[%d] has a NUL in it", i)
		}
	}
	for i, v := range p.Env {
		switch {
		case !isEnvName(v.Name):
			return fmt.Errorf("execConfig.env[%d].name %q must be letters, digits and underscores, with no digit first", i, v.Name)
		case v.Name == execInfo:
			return fmt.Errorf("execConfig.env[%d].name: Keyferry sets %s itself: remove it", i, v.Name)
		case strings.ContainsRune(v.Value, 0):
			return fmt.Errorf("execConfig.env[%d].value has a NUL in it", i)
		case slices.ContainsFunc(p.Env[:i], func(other EnvVar) bool { return other.Name == v.Name }):
			return fmt.Errorf("execConfig.env[%d].name: %s is there twice", i, v.Name)
		}
	}
	return p.checkSize()
}

// checkCommand returns an error unless command is the path of a program. Shells are not allowed,
// because they execute their arguments.
func checkCommand(command string) error {
	shells := []string{"sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "zsh"}
	switch {
	case !path.IsAbs(command) || path.Clean(command) != command || command == "/" || hasControl(command):
		return fmt.Errorf("is %q: it must be an absolute path without . and .., such as /plugins/secretreader", command)
	case slices.Contains(shells, path.Base(command)):
		return fmt.Errorf("is the shell %s: use the path of the program itself", command)
	}
	return nil
}

// checkSize limits arguments and variables. It also applies after those of a ClusterProfile were
// added.
func (p Plugin) checkSize() error {
	size := 0
	for _, arg := range p.Args {
		size += len(arg)
	}
	for _, v := range p.Env {
		size += len(v.Name) + len(v.Value)
	}
	switch {
	case len(p.Args) > maxCount:
		return fmt.Errorf("it has %d arguments, more than %d", len(p.Args), maxCount)
	case len(p.Env) > maxCount:
		return fmt.Errorf("it has %d variables, more than %d", len(p.Env), maxCount)
	case size > maxBytes:
		return fmt.Errorf("arguments and variables are %d bytes long, more than %d KiB", size, maxBytes>>10)
	}
	return nil
}

func (p provider) checkPolicies() error {
	if !slices.Contains([]string{"", policyIgnore, policyAppend}, p.argPolicy) {
		return fmt.Errorf("profileSourcedCLIArgsPolicy is %q: it must be Ignore or Append", p.argPolicy)
	}
	if !slices.Contains([]string{"", policyIgnore, policyAppendIfNotExists, policyReplace}, p.envPolicy) {
		return fmt.Errorf("profileSourcedEnvVarsPolicy is %q: it must be Ignore, AppendIfNotExists or Replace", p.envPolicy)
	}
	for i, name := range p.envNames {
		if !isEnvName(name) || isReserved(name) {
			return fmt.Errorf("profileSourcedEnvVarNames[%d]: a ClusterProfile must never set %q: remove it", i, name)
		}
	}
	return nil
}

// Names returns the names of the providers, in the operator's order.
func (f *ProviderFile) Names() []string {
	if f == nil {
		return nil
	}
	names := make([]string, 0, len(f.providers))
	for _, p := range f.providers {
		names = append(names, p.plugin.Name)
	}
	return names
}

func (f *ProviderFile) find(name string) (provider, bool) {
	i := slices.Index(f.Names(), name)
	if i < 0 {
		return provider{}, false
	}
	return f.providers[i], true
}

// clone returns a copy that shares no slices.
func (p Plugin) clone() Plugin {
	p.Args = slices.Clone(p.Args)
	p.Env = slices.Clone(p.Env)
	return p
}

func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}
