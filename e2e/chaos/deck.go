package chaos

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// deck deals each of its faults once, in an order of chance, before it begins again.
type deck struct{ all, left []Fault }

func (d *deck) deal(random *rand.Rand) Fault {
	if len(d.left) == 0 {
		d.left = slices.Clone(d.all)
		random.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	next := d.left[0]
	d.left = d.left[1:]
	next.Pick = random.UintN(1 << 16)
	return next
}

func (d *deck) sort() {
	slices.SortFunc(d.all, func(a, b Fault) int { return cmp.Compare(a.String(), b.String()) })
}
