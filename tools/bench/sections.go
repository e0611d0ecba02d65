package main

// sections are the tables, in the order of the page. Budgets that Keyferry keeps are promises; those it misses are explained there.
func sections() []section {
	return []section{admission()}
}

func admission() section {
	of := func(name, unit string) figure { return figure{"webhook." + name, unit} }
	return section{"Admission", []row{
		{"7 KB Pod, body to answer, beside a full decode", of("Admission/7KB", "sec/op"), of("FullDecode/7KB", "sec/op"), ratio, atMost(0.6)},
		{"63 KB Pod, body to answer, beside a full decode", of("Admission/63KB", "sec/op"), of("FullDecode/63KB", "sec/op"), ratio, atMost(0.6)},
		{"allocations, 7 KB Pod", of("Admission/7KB", "allocs/op"), of("FullDecode/7KB", "allocs/op"), alone, atMost(120)},
		{"bytes allocated, 7 KB Pod", of("Admission/7KB", "B/op"), of("FullDecode/7KB", "B/op"), alone, atMost(15e3)},
		{"two cores beside one", of("AdmissionParallel-2", "sec/op"), of("AdmissionParallel", "sec/op"), inverse, atLeast(1.8)},
	}}
}
