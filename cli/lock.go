package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/terminal"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// everything is the argument for all of a namespace, or of the cluster.
const everything = "everything"

// lockSubjects are the first arguments of the commands lock and unlock.
func lockSubjects() map[string]v1alpha1.LockSubjectType {
	return map[string]v1alpha1.LockSubjectType{
		"pod":            v1alpha1.LockPod,
		"serviceaccount": v1alpha1.LockServiceAccount,
		"target":         v1alpha1.LockTargetCluster,
		"clusterprofile": v1alpha1.LockClusterProfile,
		everything:       v1alpha1.LockEverything,
	}
}

func newLock(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	l := &locking{streams: streams}
	cmd := l.command(cluster, "lock", "Deny a Pod, a ServiceAccount, a target or a namespace all credentials", `
Create a Lock: Keyferry denies new Pods of the subject, issues no credential to the subject, and deletes the Secrets of
the subject's CredentialRequests. Users whose Pods are denied see the reason. Issued credentials stay valid until they
expire, if they are not revoked in the target.

The subject is a Pod, a ServiceAccount (its Pods and CredentialRequests), a target or a ClusterProfile (all its users), or everything: the
Pods and CredentialRequests of a namespace, and all users of its targets.

The Lock is in the namespace of the subject. With --cluster-wide, the lock is a ClusterLock, which the users of the
namespace cannot remove. With --cluster-wide, "everything" without a namespace locks the whole cluster. If you run the
command again, it changes the reason and the expiry.

You need permission to create Locks. The ClusterRole keyferry-lock-editor contains it. For ClusterLocks, the ClusterRole is
keyferry-clusterlock-editor.`, `
  # Deny a Pod new credentials
  keyferry lock pod app/web-0 --reason "incident 7"

  # Deny all Pods and CredentialRequests of a ServiceAccount, for two hours
  keyferry lock serviceaccount app/web --reason "incident 7" --duration 2h

  # Deny all users of a target
  keyferry lock target fleet/tenant-1 --reason "stolen key"

  # Deny everything in a namespace, or in the whole cluster
  keyferry lock everything app --reason "incident 7"
  keyferry lock everything --cluster-wide --reason "incident 7"`)
	cmd.Flags().StringVar(&l.reason, "reason", "", "why the subject is locked; users whose Pods are denied see the reason (required)")
	cmd.Flags().DurationVar(&l.duration, "duration", 0, "time after which the lock expires (default: the lock does not expire)")
	l.preview.addTo(cmd)
	l.run = l.lock
	return cmd
}

func newUnlock(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	l := &locking{streams: streams, unlocks: true}
	cmd := l.command(cluster, "unlock", "Remove the lock of a Pod, a ServiceAccount, a target or a namespace", `
Delete the Lock that "keyferry lock" created for a subject. With --cluster-wide, delete the ClusterLock. The subject's
Pods then receive credentials again, and need no restart.

If another lock still denies the subject, such as a lock of its namespace, the command prints the name of the other lock
and fails. The command deletes only locks that "keyferry lock" created.`, `
  keyferry unlock pod app/web-0
  keyferry unlock everything --cluster-wide`)
	l.run = l.unlock
	return cmd
}

// locking is one of the commands lock and unlock, and then one call of it.
type locking struct {
	streams genericiooptions.IOStreams
	preview preview
	unlocks bool
	run     func(ctx context.Context, c client.Client) error

	reason      string
	duration    time.Duration
	clusterWide bool
	// argument is how the subject was named on the command line.
	argument string
	subject  v1alpha1.ClusterLockSubject
}

func (l *locking) command(cluster *genericclioptions.ConfigFlags, verb, short, long, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     verb + " {pod|serviceaccount|target|clusterprofile|everything} [[NAMESPACE/]NAME]",
		Short:   short,
		Long:    strings.TrimSpace(long) + "\n\n" + exitCodes,
		Example: strings.Trim(example, "\n"),
		Args: func(_ *cobra.Command, args []string) error {
			return errors.Join(l.parse(args, metav1.NamespaceDefault), l.check())
		},
		ValidArgsFunction: completeLockSubjects(cluster),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if err := l.parse(args, namespace); err != nil {
				return err
			}
			var c client.Client
			if l.unlocks || !l.preview.isDryRun() {
				if _, c, err = connect(cluster); err != nil {
					return err
				}
			}
			return l.run(cmd.Context(), c)
		}),
	}
	cmd.Flags().BoolVar(&l.clusterWide, "cluster-wide", false, "the lock is a ClusterLock, which the users of the namespace cannot remove")
	return cmd
}

// parse reads the arguments; namespace is that of names that have none.
func (l *locking) parse(args []string, namespace string) error {
	if len(args) == 0 || len(args) > 2 {
		return errors.New("the subject is missing: use pod, serviceaccount, target or clusterprofile with a name, or everything with a namespace")
	}
	kind, ok := lockSubjects()[args[0]]
	if !ok {
		return fmt.Errorf("%.64q cannot be locked: use pod, serviceaccount, target, clusterprofile or everything", args[0])
	}
	l.argument, l.subject = args[0], v1alpha1.ClusterLockSubject{Type: kind}
	switch {
	case kind == v1alpha1.LockEverything && len(args) == 1 && !l.clusterWide:
		return errors.New("everything needs a namespace, such as: everything app; to lock the whole cluster, add --cluster-wide")
	case kind == v1alpha1.LockEverything && len(args) == 1:
		return nil
	case kind == v1alpha1.LockEverything:
		if problems := validation.IsDNS1123Label(args[1]); len(problems) > 0 {
			return fmt.Errorf("%.64q is not a valid namespace: %s", args[1], problems[0])
		}
		l.subject.Namespace = args[1]
		return nil
	case len(args) == 1:
		return fmt.Errorf("the name of the %s is missing: add [NAMESPACE/]NAME", kind)
	}
	name, err := parseName(string(kind), args[1], namespace)
	l.subject.Namespace, l.subject.Name = name.Namespace, name.Name
	return err
}

// check refuses flags that make no sense.
func (l *locking) check() error {
	switch {
	case l.unlocks:
		return nil
	case strings.TrimSpace(l.reason) == "":
		return errors.New("--reason is required: users whose Pods are denied see the reason")
	case l.duration < 0:
		return fmt.Errorf("--duration is %s: it must be positive", l.duration)
	}
	return l.preview.check()
}

// object returns the Lock or ClusterLock of the subject; reason and expiry may be zero.
func (l *locking) object(now time.Time) client.Object {
	terms := v1alpha1.LockTerms{Reason: l.reason}
	if l.duration > 0 {
		terms.ExpirationTimestamp = &metav1.Time{Time: now.Add(l.duration)}
	}
	if !l.clusterWide {
		name := strings.TrimSuffix(l.argument+"-"+l.subject.Name, "-")
		return &v1alpha1.Lock{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Lock"},
			ObjectMeta: metav1.ObjectMeta{Namespace: l.subject.Namespace, Name: name},
			Spec:       v1alpha1.LockSpec{Subject: v1alpha1.LockSubject{Type: l.subject.Type, Name: l.subject.Name}, LockTerms: terms},
		}
	}
	// No namespace contains a dot, so no two subjects have the same name.
	parts := slices.DeleteFunc([]string{l.subject.Namespace, l.subject.Name}, func(s string) bool { return s == "" })
	return &v1alpha1.ClusterLock{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ClusterLock"},
		ObjectMeta: metav1.ObjectMeta{Name: strings.TrimSuffix(l.argument+"-"+strings.Join(parts, "."), "-")},
		Spec:       v1alpha1.ClusterLockSpec{Subject: l.subject, LockTerms: terms},
	}
}

func (l *locking) lock(ctx context.Context, c client.Client) error {
	object := l.object(time.Now())
	if l.preview.isDryRun() {
		return l.preview.write(l.streams.Out, managed.Created, section{objects: []client.Object{object}})
	}
	outcome, err := managed.Apply(ctx, c, object)
	if err != nil {
		return err
	}
	printf(l.streams.Out, "%s %s\n", managed.Name(object), outcome)
	l.warnOfNothing(ctx, c)
	return nil
}

// warnOfNothing prints a warning if there is no object that the subject names: the name may be
// misspelt. It prints nothing if you may not read the object.
func (l *locking) warnOfNothing(ctx context.Context, c client.Client) {
	var kind schema.GroupVersionKind
	name := client.ObjectKey{Namespace: l.subject.Namespace, Name: l.subject.Name}
	switch l.subject.Type {
	case v1alpha1.LockPod, v1alpha1.LockServiceAccount:
		kind = corev1.SchemeGroupVersion.WithKind(string(l.subject.Type))
	case v1alpha1.LockTargetCluster:
		kind = v1alpha1.GroupVersion.WithKind(string(l.subject.Type))
	case v1alpha1.LockClusterProfile:
		kind = inventory.GroupVersion.WithKind(string(l.subject.Type))
	case v1alpha1.LockEverything:
		if l.subject.Namespace == "" {
			return
		}
		kind, name = corev1.SchemeGroupVersion.WithKind("Namespace"), client.ObjectKey{Name: l.subject.Namespace}
	}
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	if err := c.Get(ctx, name, object); apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		printf(l.streams.ErrOut, "warning: there is no %s %s: correct the name, or keep the lock for a later one of this name\n",
			kind.Kind, strings.TrimPrefix(name.String(), "/"))
	}
}

func (l *locking) unlock(ctx context.Context, c client.Client) error {
	object := l.object(time.Time{})
	outcome, err := managed.Delete(ctx, c, object)
	if err != nil {
		return err
	}
	printf(l.streams.Out, "%s %s\n", managed.Name(object), outcome)
	all, err := readLocks(ctx, c, l.subject.Namespace)
	if err != nil {
		return err
	}
	access := l.access()
	var problems []error
	for i := range all {
		if lock := &all[i]; lock.Concerns(access) && lock.InEffect(time.Now()) {
			problems = append(problems, fmt.Errorf("another lock still locks the subject: %s: %s: %s", lock, lock.Reason, lock.DeleteCommand()))
		}
	}
	return errors.Join(problems...)
}

// access is what a lock must concern to lock all of the subject.
func (l *locking) access() locks.Access {
	access := locks.Access{ServiceAccount: types.NamespacedName{Namespace: l.subject.Namespace}}
	name := types.NamespacedName{Namespace: l.subject.Namespace, Name: l.subject.Name}
	switch l.subject.Type {
	case v1alpha1.LockPod:
		access.Pod = l.subject.Name
	case v1alpha1.LockServiceAccount:
		access.ServiceAccount = name
	case v1alpha1.LockTargetCluster:
		access.Objects = []use.Object{use.TargetCluster(name)}
	case v1alpha1.LockClusterProfile:
		access.Objects = []use.Object{use.ClusterProfile(name)}
	case v1alpha1.LockEverything: // the namespace says it
	}
	return access
}

// readLocks reads the ClusterLocks, and the Locks of a namespace, or of all if it is empty. Those
// that you may not read are left out, if you may read the others.
func readLocks(ctx context.Context, c client.Client, namespace string) ([]locks.Lock, error) {
	var all []locks.Lock
	var clusterLocks v1alpha1.ClusterLockList
	clusterErr := c.List(ctx, &clusterLocks)
	for i := range clusterLocks.Items {
		all = append(all, locks.OfCluster(&clusterLocks.Items[i]))
	}
	var namespaced v1alpha1.LockList
	err := c.List(ctx, &namespaced, client.InNamespace(namespace))
	for i := range namespaced.Items {
		all = append(all, locks.Of(&namespaced.Items[i]))
	}
	switch {
	case err == nil && clusterErr != nil && !apierrors.IsForbidden(clusterErr):
		return nil, fmt.Errorf("reading ClusterLocks: %w", clusterErr)
	case err != nil && (clusterErr != nil || !apierrors.IsForbidden(err)):
		return nil, fmt.Errorf("reading Locks: %w", err)
	}
	return all, nil
}

func newLocks(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	everywhere := false
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "List Locks and ClusterLocks, with reason and expiry",
		Long: strings.TrimSpace(`
List the Locks of a namespace, and all ClusterLocks: the subject, the reason and the expiry. The command omits Locks that you
may not read.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry locks -n app
  keyferry locks -A -o json
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if everywhere {
				namespace = metav1.NamespaceAll
			}
			_, c, err := connect(cluster)
			if err != nil {
				return err
			}
			all, err := readLocks(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			now := time.Now()
			return output.print(streams.Out, lockReport(all, now), func() error {
				_, err := fmt.Fprint(streams.Out, lockTable(terminal.PaletteFor(streams.Out), all, now))
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "list the Locks of all namespaces")
	output.addTo(cmd)
	return cmd
}

// listedLock is a lock in the report for programs.
type listedLock struct {
	Kind      string                      `json:"kind"`
	Namespace string                      `json:"namespace,omitempty"`
	Name      string                      `json:"name"`
	Subject   v1alpha1.ClusterLockSubject `json:"subject"`
	InEffect  bool                        `json:"inEffect"`

	v1alpha1.LockTerms `json:",inline"`
}

func lockReport(all []locks.Lock, now time.Time) any {
	listed := make([]listedLock, 0, len(all))
	for i := range all {
		l := &all[i]
		listed = append(listed, listedLock{l.Kind, l.Namespace, l.Name, l.Subject, l.InEffect(now), l.LockTerms})
	}
	return struct {
		Locks []listedLock `json:"locks"`
	}{listed}
}

// lockTable is the report for people.
func lockTable(palette terminal.Palette, all []locks.Lock, now time.Time) string {
	if len(all) == 0 {
		return "there are no locks\n"
	}
	table := terminal.Table{
		Rows: [][]string{{"LOCK", "LOCKS", "EXPIRES", "REASON"}},
		Paint: func(row, _ int, text string) string {
			if row == 0 {
				return palette.Head(text)
			}
			return text
		},
	}
	for i := range all {
		l := &all[i]
		subject := string(l.Subject.Type)
		if name := strings.Trim(l.Subject.Namespace+"/"+l.Subject.Name, "/"); name != "" {
			subject += " " + name
		}
		expires := "never"
		if at := l.ExpirationTimestamp; at != nil {
			expires = at.UTC().Format(time.RFC3339)
			if !l.InEffect(now) {
				expires += " (expired)"
			}
		}
		table.Rows = append(table.Rows, []string{l.String(), subject, expires, terminal.Plain(l.Reason)})
	}
	var text strings.Builder
	table.AppendTo(&text)
	return text.String()
}

// completeLockSubjects completes the subject, and then its name.
func completeLockSubjects(cluster *genericclioptions.ConfigFlags) cobra.CompletionFunc {
	names := map[string]cobra.CompletionFunc{
		"pod":            completeObjects(cluster, schema.GroupVersionResource{Version: "v1", Resource: "pods"}, metav1.NamespaceAll, fullName),
		"serviceaccount": completeServiceAccounts(cluster),
		"target":         completeTargetClusters(cluster),
		"clusterprofile": completeClusterProfiles(cluster),
		everything:       completeObjects(cluster, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "", nameOnly),
	}
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch {
		case len(args) == 0:
			return []cobra.Completion{"pod", "serviceaccount", "target", "clusterprofile", everything}, cobra.ShellCompDirectiveNoFileComp
		case len(args) == 1 && names[args[0]] != nil:
			return names[args[0]](cmd, args, begun)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}
