package clusters

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyferry/keyferry/refresher/fileset"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// kubecontext is a context of the kubeconfig. Its cluster and user have the same name.
type kubecontext struct{ name, address, namespace string }

// writeKubeconfig writes the kubeconfig and the files that it refers to. They contain the CA and
// the token of the Pod's proxies, whose identity is in identityDir. They are valid only for these
// proxies.
func writeKubeconfig(path, identityDir string, contexts []kubecontext) error {
	identity, err := proxy.LoadIdentity(identityDir)
	if err != nil {
		return err
	}
	const caFile, tokenFile = "ca.crt", "token"
	dir := filepath.Join(filepath.Dir(path), "proxy")
	if err := fileset.Write(dir, map[string][]byte{caFile: identity.CA(), tokenFile: []byte(identity.Token())}); err != nil {
		return fmt.Errorf("writing the identity of the proxies: %w", err)
	}
	// The rename replaces the file atomically. A symbolic link, as for the other files, would not
	// work: the root of the volume is sticky, and there the kernel follows a symlink only for its
	// owner.
	next := path + ".new"
	if err := os.WriteFile(next, render(contexts, filepath.Join(dir, caFile), filepath.Join(dir, tokenFile)), 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	if err := os.Chmod(next, 0o644); err != nil { //nolint:gosec // the application may run as any user
		return fmt.Errorf("making the kubeconfig readable: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("putting the kubeconfig in place: %w", err)
	}
	return nil
}

// render returns a kubeconfig whose current context is the first.
func render(contexts []kubecontext, ca, token string) []byte {
	var clusters, users, named bytes.Buffer
	for _, k := range contexts {
		fmt.Fprintf(&clusters, "- name: %q\n  cluster:\n    server: %q\n    certificate-authority: %q\n", k.name, "https://"+k.address, ca)
		fmt.Fprintf(&users, "- name: %q\n  user:\n    tokenFile: %q\n", k.name, token)
		fmt.Fprintf(&named, "- name: %[1]q\n  context:\n    cluster: %[1]q\n    user: %[1]q\n", k.name)
		if k.namespace != "" {
			fmt.Fprintf(&named, "    namespace: %q\n", k.namespace)
		}
	}
	return fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters:\n%susers:\n%scontexts:\n%scurrent-context: %q\n", &clusters, &users, &named, contexts[0].name)
}
