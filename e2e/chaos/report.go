package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what came of a run.
type Report struct {
	Seed     uint64
	Duration time.Duration
	Pods     int
	Phases   []*Phase
	// Secrets has the account of what reads the Secrets of CredentialRequests, in the same phases.
	Secrets []*Phase
	// Gap is the longest time in which a Pod had no credential that was good.
	Gap      time.Duration
	Restarts map[string]int
	// Minted and Issued count the tokens that the target made, and the credentials that Pods were
	// given.
	Minted, Issued int
	// Before and After count the objects in the target's namespaces, before anything was issued and
	// after it was given back.
	Before, After int
}

// Failures says, a line for each, what should not have been.
func (r *Report) Failures() (all []string) {
	for who, phases := range map[string][]*Phase{"Pods": r.Phases, "the readers of Secrets": r.Secrets} {
		for i, p := range phases {
			if n := p.Wanting(); n > 0 {
				all = append(all, fmt.Sprintf("in phase %d (%s), %d requests of %s failed without a valid credential: %s%s", i, Name(p.Faults), n, who, p.Examples[Want], p.Examples[Refused]))
			}
			if p.Requests == 0 {
				all = append(all, fmt.Sprintf("in phase %d, %s made no request", i, who))
			}
		}
	}
	if r.Gap > 0 {
		all = append(all, fmt.Sprintf("a Pod had no credential for %s", r.Gap.Round(time.Second)))
	}
	if r.After != r.Before {
		all = append(all, fmt.Sprintf("there were %d objects in the target before, and %d are left", r.Before, r.After))
	}
	// A call that hangs is repeated shortly before a credential expires, and both calls may be
	// answered.
	if r.Minted > r.Issued+len(r.Phases) {
		all = append(all, fmt.Sprintf("the target made %d tokens, and only %d were given to anybody: more than one for each phase is left over", r.Minted, r.Issued))
	}
	return all
}

type totals struct{ requests, failed, wanting, renewals int }

func (r *Report) totals() (t totals) {
	for i, p := range r.Phases {
		for _, n := range p.Failed {
			t.failed += n
		}
		t.requests += p.Requests
		t.wanting += p.Wanting() + r.Secrets[i].Wanting()
		t.renewals += p.Renewals
	}
	return t
}

// runsHead begins the table of AddRun.
const runsHead = "| seed | commit | duration | requests | failed requests | failed for lack of a credential | renewals | longest time without a credential |\n" +
	"|---|---|---|---|---|---|---|---|\n"

// AddRun returns table, in Markdown with a row for each seed, with the row of this run, of a
// commit. A row of the same seed is replaced. An empty table is fine.
func (r *Report) AddRun(table, commit string) string {
	t := r.totals()
	rows := map[uint64]string{r.Seed: fmt.Sprintf("| %d | %s | %s | %d | %d | %d | %d | %s |\n", r.Seed, commit,
		r.Duration.Round(time.Second), t.requests, t.failed, t.wanting, t.renewals, max(r.Gap, 0).Round(time.Second))}
	for row := range strings.Lines(table) {
		var seed uint64
		if _, err := fmt.Sscanf(row, "| %d |", &seed); err == nil && seed != r.Seed {
			rows[seed] = row
		}
	}
	var out strings.Builder
	out.WriteString(runsHead)
	for _, seed := range slices.Sorted(maps.Keys(rows)) {
		out.WriteString(rows[seed])
	}
	return out.String()
}

// Table is the report as text.
func (r *Report) Table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "seed %d, %s, %d Pods\n\n", r.Seed, r.Duration.Round(time.Second), r.Pods)
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "at\tfaults\trequests\tunreachable\trejected at a start\twithout a credential\trenewals\tof Secrets\tfailed")
	for i, p := range r.Phases {
		s := r.Secrets[i]
		failed := s.Failed[Want] + s.Failed[Refused] + s.Failed[Unreachable]
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", p.Start.Sub(r.Phases[0].Start).Round(time.Second), Name(p.Faults), p.Requests,
			p.Failed[Unreachable], p.AtStart(), p.Wanting(), p.Renewals, s.Requests, failed)
	}
	_ = table.Flush()
	t := r.totals()
	fmt.Fprintf(&out, "\nThe Pods sent %d requests, and %d of these failed. Keyferry renewed credentials %d times.\n", t.requests, t.failed, t.renewals)
	fmt.Fprintf(&out, "%d requests failed for lack of a valid credential, including the requests with Secrets.\n", t.wanting)
	fmt.Fprintf(&out, "Longest time in which a Pod had no valid credential: %s.\n", max(r.Gap, 0).Round(time.Second))
	fmt.Fprintf(&out, "The target created %d tokens, and Keyferry issued credentials %d times.\n", r.Minted, r.Issued)
	fmt.Fprintf(&out, "The target had %d objects before the run and %d after it.\n", r.Before, r.After)
	fmt.Fprintf(&out, "Restarts: %s.\n", counts(r.Restarts))
	return out.String()
}

func counts(of map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		all = append(all, fmt.Sprintf("%s %d", name, of[name]))
	}
	return strings.Join(all, ", ")
}
