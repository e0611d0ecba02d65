package main

import (
	"fmt"
	"math"
	"strings"
)

// row is a line of a table: a figure, most of them beside that of a floor, and a budget.
type row struct {
	what string
	// measured is compared to floor, what one would have without Keyferry, or with something else. A
	// floor without a name is none.
	measured, floor figure
	compare         comparison
	budget          budget
}

// comparison makes what the budget is for out of a figure and its floor.
type comparison int

const (
	alone    comparison = iota // there is no floor
	ratio                      // measured / floor
	inverse                    // floor / measured
	addition                   // measured - floor
)

// budget is a bound. Its zero value is none.
type budget struct {
	kind  bound
	value float64
}

type bound int

const (
	none bound = iota
	most
	least
)

func atMost(value float64) budget  { return budget{most, value} }
func atLeast(value float64) budget { return budget{least, value} }

func (b budget) holds(value float64) bool {
	return b.kind == none || b.kind == most && value <= b.value || b.kind == least && value >= b.value
}

// section is a table.
type section struct {
	title string
	rows  []row
}

// render returns the tables in Markdown.
func render(all []section, measured results) string {
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "### %s\n\n| | measured | floor | compared | budget | |\n|---|---|---|---|---|---|\n", s.title)
		for _, r := range s.rows {
			fmt.Fprintf(&b, "| %s | %s |\n", r.what, strings.Join(r.cells(measured), " | "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cells are those behind what the row is about.
func (r row) cells(measured results) []string {
	value, ok := measured.median(r.measured)
	floor, hasFloor := measured.median(r.floor)
	if !ok || r.floor.benchmark != "" && !hasFloor {
		return []string{"not run", "", "", "", ""}
	}
	cells := []string{show(value, r.measured.unit), "", "", "", ""}
	if hasFloor {
		cells[1] = show(floor, r.floor.unit)
	}
	unit := "ratio"
	compared := value
	switch r.compare {
	case alone:
		unit = r.measured.unit
	case ratio:
		compared = value / floor
	case inverse:
		compared = floor / value
	case addition:
		compared, unit = value-floor, r.measured.unit
	}
	switch r.compare {
	case alone:
	case addition:
		cells[2] = "+ " + show(compared, unit)
	default:
		cells[2] = show(compared, unit)
	}
	if r.budget.kind == none {
		return cells
	}
	sign, verdict := "≤ ", "holds"
	if r.budget.kind == least {
		sign = "≥ "
	}
	if !r.budget.holds(compared) {
		verdict = "**missed**"
	}
	cells[3], cells[4] = sign+show(r.budget.value, unit), verdict
	return cells
}

// show writes a value as people do: with three digits, in a unit that fits.
func show(value float64, unit string) string {
	base, per, _ := strings.Cut(unit, "/")
	if per == "op" {
		per = ""
	} else if per != "" {
		per = "/" + per
	}
	// What stands before the base unit says which one it is, such as p50-sec.
	base = base[strings.LastIndex(base, "-")+1:]
	switch {
	case value == 0 && base == "sec":
		return "0 s" + per
	case base == "ratio":
		return digits(value) + " ×"
	case base == "sec" && math.Abs(value) < 1e-3:
		return digits(value*1e6) + " µs" + per
	case base == "sec" && math.Abs(value) < 1:
		return digits(value*1e3) + " ms" + per
	case base == "sec":
		return digits(value) + " s" + per
	case base == "MiB":
		return digits(value) + " MiB" + per
	case base == "B" && math.Abs(value) >= 1e6:
		return digits(value/1e6) + " MB" + per
	case base == "B" && math.Abs(value) >= 1e3:
		return digits(value/1e3) + " KB" + per
	case base == "B":
		return digits(value) + " B" + per
	default:
		return digits(value) + " " + base + per
	}
}

// digits are three, or all that stand before the point.
func digits(value float64) string {
	if value == 0 {
		return "0"
	}
	after := max(0, 2-int(math.Floor(math.Log10(math.Abs(value)))))
	text := fmt.Sprintf("%.*f", min(after, 4), value)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}
