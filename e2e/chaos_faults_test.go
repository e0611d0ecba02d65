//go:build long

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/chaos"
	"github.com/keyferry/keyferry/e2e/cluster"
)

// killedRefreshers is how many are killed at once.
const killedRefreshers = 10

// findParties learns the addresses of who talks to whom. They stay: no Pod is replaced.
func (w *chaosWorld) findParties(t *testing.T) {
	t.Helper()
	node := strings.TrimSpace(onNode(t, suite.pair.Management, `hostname -I; ip -4 -o addr show cni0 2>/dev/null | sed 's/.*inet \([0-9.]*\).*/\1/'`))
	target, err := url.Parse(suite.targetServer)
	if err != nil {
		t.Fatal(err)
	}
	w.parties = map[string][]string{"apiserver": nil, "target": nil}
	for _, address := range strings.Fields(node) {
		if net.ParseIP(address).To4() != nil {
			w.parties["apiserver"] = append(w.parties["apiserver"], address)
		}
	}
	w.parties["target"] = strings.Fields(onNode(t, suite.pair.Management, "getent ahostsv4 "+target.Hostname()+" | cut -d' ' -f1 | sort -u"))
	for _, namespace := range []string{w.namespace, suite.release} {
		var pods corev1.PodList
		if err := suite.management.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		for i := range pods.Items {
			labels := pods.Items[i].Labels
			party := map[string]string{"chaos": "pods", "forward": "target", "source": "source"}[labels["app"]]
			if namespace == suite.release {
				party = labels["app.kubernetes.io/component"]
			}
			w.parties[party] = append(w.parties[party], pods.Items[i].Status.PodIP)
		}
	}
	t.Logf("parties: %v", w.parties)
	if onNode(t, suite.pair.Management, "tc qdisc add dev lo root netem delay 1ms 2>&1; tc qdisc del dev lo root 2>/dev/null; true") != "" {
		t.Log("this kernel has no netem: packets come late because they queue before a slow line (tbf)")
	}
}

// onNode runs a script on a cluster's node.
func onNode(t *testing.T, c *cluster.Cluster, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if err := c.Run(ctx, &out, "sh", "-c", script); err != nil {
		t.Errorf("%s: %v", script, err)
	}
	return out.String()
}

// inflict has all faults happen at once: the network's first, since who looks for a process needs
// none.
func (w *chaosWorld) inflict(t *testing.T, faults []chaos.Fault) {
	t.Helper()
	leader := w.leader(t)
	var rules strings.Builder
	for _, f := range faults {
		switch f.Kind {
		case chaos.Cut, chaos.Loss:
			rules.WriteString(w.drop(f))
		case chaos.Delay:
			onNode(t, suite.pair.Management, late(w.parties[f.Target], f.Target == "target"))
		case chaos.Source:
			w.trouble(t, f.Target)
		}
	}
	if rules.Len() > 0 {
		onNode(t, suite.pair.Management, "nft -f - <<'EOF'\n"+ruleset(rules.String())+"EOF\n")
	}
	for _, f := range faults {
		if f.Kind == chaos.Kill {
			w.kill(t, f, leader)
		}
	}
}

// heal ends all faults, and waits until both API servers are there.
func (w *chaosWorld) heal(t *testing.T) {
	t.Helper()
	if dropped := strings.TrimSpace(onNode(t, suite.pair.Management, `nft list table inet chaos 2>/dev/null | sed -n 's/.*counter packets \([0-9]*\).*/\1/p' | paste -sd+ - ; true`)); dropped != "" {
		t.Logf("     packets dropped, by rule: %s", dropped)
	}
	onNode(t, suite.pair.Management, `nft delete table inet chaos 2>/dev/null; for dev in $(ls /sys/class/net); do tc qdisc del dev $dev root 2>/dev/null; done; true`)
	w.trouble(t, "")
	start := time.Now()
	for _, k := range []*kube{suite.management, suite.target} {
		eventually(t, 2*time.Minute, "the API server of "+k.config.Host+" is ready", func() error {
			return k.clientset.CoreV1().RESTClient().Get().AbsPath("/readyz").Timeout(3 * time.Second).Do(t.Context()).Error()
		})
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Logf("     API servers were ready after another %s", took.Round(time.Second))
	}
}

// drop is the rules by which packets between the parties of a pair are lost, all of them or a
// third.
func (w *chaosWorld) drop(f chaos.Fault) string {
	one, other, _ := strings.Cut(f.Target, "-")
	chance := ""
	if f.Kind == chaos.Loss {
		chance = "numgen random mod 3 0 "
	}
	a, b := strings.Join(w.parties[one], ", "), strings.Join(w.parties[other], ", ")
	return fmt.Sprintf("ip saddr { %[1]s } ip daddr { %[2]s } %[3]scounter drop\nip saddr { %[2]s } ip daddr { %[1]s } %[3]scounter drop\n", a, b, chance)
}

// ruleset applies rules to what a node forwards, sends and takes.
func ruleset(rules string) string {
	var out strings.Builder
	out.WriteString("table inet chaos {\nchain faults {\n" + rules + "}\n")
	for _, hook := range []string{"forward", "input", "output"} {
		fmt.Fprintf(&out, "chain %[1]s { type filter hook %[1]s priority -5; jump faults; }\n", hook)
	}
	return out.String() + "}\n"
}

// late is a script that delays packets to these addresses, or from those of the node: on the device
// that leads there, which is a port of the bridge, if there is one. Without netem they queue before
// a slow line, less slow where much passes.
func late(addresses []string, much bool) string {
	rate := "400kbit"
	if much {
		rate = "2mbit"
	}
	return `for address in ` + strings.Join(addresses, " ") + `; do
  dev=$(ip -o route get $address | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  case $dev in
    lo) dev=cni0 ;;
    eth*) continue ;; # to another machine
  esac
  mac=$(ip neigh show $address dev $dev | sed -n 's/.*lladdr \([^ ]*\).*/\1/p')
  port=$(bridge fdb show 2>/dev/null | grep -i "^$mac .* master" | sed -n 's/.* dev \([^ ]*\) .*/\1/p' | head -n 1)
  [ -z "$mac" ] || [ -z "$port" ] || dev=$port
  tc qdisc replace dev $dev root netem delay 200ms 100ms 2>/dev/null || tc qdisc replace dev $dev root tbf rate ` + rate + ` burst 3200 latency 3s
done
`
}

// trouble tells the source what is wrong with it; nothing, if that is empty.
func (w *chaosWorld) trouble(t *testing.T, is string) {
	t.Helper()
	onNode(t, suite.pair.Management, "curl --silent --fail --max-time 10 --retry 3 --retry-connrefused -X POST 'http://"+w.parties["source"][0]+":8080/trouble?is="+is+"'")
}

// leader is the UID of the Pod that leads.
func (w *chaosWorld) leader(t *testing.T) (uid types.UID) {
	t.Helper()
	eventually(t, time.Minute, "somebody leads", func() error {
		var lease coordinationv1.Lease
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: suite.release, Name: "keyferry-controller"}, &lease); err != nil {
			return err
		}
		name, _, _ := strings.Cut(ptr.Deref(lease.Spec.HolderIdentity, ""), "_")
		var pod corev1.Pod
		err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: suite.release, Name: name}, &pod)
		uid = pod.UID
		return err
	})
	return uid
}

// kill sends SIGKILL. That nobody is there to be killed is no error: an earlier phase may have done
// so.
func (w *chaosWorld) kill(t *testing.T, f chaos.Fault, leader types.UID) {
	t.Helper()
	switch cluster, program, found := strings.Cut(f.Target, " "); {
	case found && cluster == "target":
		onNode(t, suite.pair.Target, "pkill -KILL -x "+program+"; true")
	case found:
		onNode(t, suite.pair.Management, "pkill -KILL -x "+program+"; true")
	case f.Target == "refreshers":
		var uids []types.UID
		for i := range killedRefreshers {
			uids = append(uids, w.pods[(int(f.Pick)+i*3)%len(w.pods)].UID)
		}
		onNode(t, suite.pair.Management, killOf("refresher", uids...))
	case f.Target == "leader":
		onNode(t, suite.pair.Management, killOf("controller", leader))
	default:
		onNode(t, suite.pair.Management, fmt.Sprintf("pids=$(pgrep -x %s); set -- $pids; [ $# = 0 ] || { shift $((%d %% $#)); kill -KILL $1; }", f.Target, f.Pick))
	}
}

// killOf kills a program in Pods. The kubelet's cgroup drivers write UIDs with dashes or with
// underscores.
func killOf(program string, uids ...types.UID) string {
	var patterns []string
	for _, uid := range uids {
		patterns = append(patterns, string(uid), strings.ReplaceAll(string(uid), "-", "_"))
	}
	return fmt.Sprintf(`for p in $(pgrep -x %s); do ! grep -qE '%s' /proc/$p/cgroup || kill -KILL $p; done; true`, program, strings.Join(patterns, "|"))
}
