package main

// sections are the tables, in the order of the page. Why a budget is missed stands below the
// tables.
func sections() []section {
	return []section{admission(), refresher(), start(), broker(), proxy(), growth()}
}

func admission() section {
	of := func(name, unit string) figure { return figure{"webhook." + name, unit} }
	creation := func(which, unit string) figure { return figure{"bench.PodCreation/" + which, unit} }
	return section{"Admission", []row{
		{"7 KB Pod, body to answer, beside a full decode", of("Admission/7KB", "sec/op"), of("FullDecode/7KB", "sec/op"), ratio, atMost(0.6)},
		{"63 KB Pod, body to answer, beside a full decode", of("Admission/63KB", "sec/op"), of("FullDecode/63KB", "sec/op"), ratio, atMost(0.6)},
		{"allocations, 7 KB Pod", of("Admission/7KB", "allocs/op"), of("FullDecode/7KB", "allocs/op"), alone, atMost(120)},
		{"bytes allocated, 7 KB Pod", of("Admission/7KB", "B/op"), of("FullDecode/7KB", "B/op"), alone, atMost(15e3)},
		{"two cores beside one", of("AdmissionParallel-2", "sec/op"), of("AdmissionParallel", "sec/op"), inverse, atLeast(1.8)},
		{"two cores beside one: full decode, what the cores themselves give", of("FullDecodeParallel-2", "sec/op"), of("FullDecodeParallel", "sec/op"), inverse, budget{}},
		{"creation of a Pod without annotation, beside a namespace without Keyferry, p50", creation("without", "p50-sec"), creation("kube-public", "p50-sec"), addition, budget{}},
		{"creation of a Pod without annotation: the guard, beside a policy whose only condition is false, p50", creation("without", "p50-sec"), creation("smallest-policy", "p50-sec"), addition, atMost(0.2e-3)},
		{"creation of a Pod, beside one without annotation, p50", creation("with", "p50-sec"), creation("without", "p50-sec"), addition, budget{}},
		{"creation of a Pod, beside one that a webhook changes which has its answer ready, p50", creation("with", "p50-sec"), creation("bare", "p50-sec"), addition, budget{}},
		{"creation of a Pod, beside one without annotation, p99", creation("with", "p99-sec"), creation("without", "p99-sec"), addition, budget{}},
	}}
}

func refresher() section {
	of := func(unit string) figure { return figure{"bench.Refresher", unit} }
	return section{"Refresher, after 500 renewals", []row{
		{"program, with proxy", of("program-B"), figure{}, alone, atMost(7.5e6)},
		{"resident memory", of("rss-MiB"), figure{}, alone, atMost(9)},
		{"of it private and written to", of("dirty-MiB"), figure{}, alone, atMost(2.5)},
		{"CPU per renewal, each with a new connection", of("cpu-sec/renewal"), figure{}, alone, atMost(4e-3)},
		{"CPU between renewals, in 30 s", of("idle-sec/30s"), figure{}, alone, atMost(1e-3)},
		{"delivery by proxy, which nothing uses: resident memory", of("proxy-rss-MiB"), of("rss-MiB"), addition, atMost(1)},
		{"delivery by proxy: private and written to", of("proxy-dirty-MiB"), of("dirty-MiB"), addition, budget{}},
		{"delivery by proxy: CPU per renewal", of("proxy-cpu-sec/renewal"), of("cpu-sec/renewal"), addition, budget{}},
	}}
}

func start() section {
	of := func(unit string) figure { return figure{"e2e.PodStart", unit} }
	return section{"Start: from the Pod's sandbox to the application, beside a sidecar that has nothing to wait for", []row{
		{"p50", of("with-p50-sec"), of("without-p50-sec"), addition, atMost(0.1)},
		{"p99", of("with-p99-sec"), of("without-p99-sec"), addition, budget{}},
	}}
}

func broker() section {
	answers := func(name string) figure { return figure{"broker.Server/" + name, "answers/s"} }
	return section{"Broker, on one core", []row{
		{"credentials from the cache, a connection each, as refreshers ask", answers("new/issued"), answers("new/bare200"), ratio, atLeast(0.5)},
		{"nothing new (304), a connection each, as refreshers ask", answers("new/unchanged"), answers("new/bare304"), ratio, atLeast(0.5)},
		{"credentials from the cache, over one connection (no refresher keeps one)", answers("kept/issued"), answers("kept/bare200"), ratio, budget{}},
		{"nothing new (304), over one connection (no refresher keeps one)", answers("kept/unchanged"), answers("kept/bare304"), ratio, budget{}},
		{"10,000 Pods of 50 identities start: the provider is asked", figure{"broker.Start", "issues"}, figure{}, alone, atMost(50)},
		{"all of them have a credential after", figure{"broker.Start", "sec/op"}, figure{}, alone, atMost(60)},
		{"memory for 10,000 identities", figure{"broker.Memory", "heap-MiB"}, figure{}, alone, budget{}},
	}}
}

func proxy() section {
	of := func(name, unit string) figure { return figure{"bench.Proxy/" + name, unit} }
	return section{"Proxy", []row{
		{"one request, p50, beside direct", of("latency/keyferry", "p50-sec"), of("latency/direct", "p50-sec"), addition, atMost(0.4e-3)},
		{"one request, p50, beside kubectl proxy", of("latency/keyferry", "p50-sec"), of("latency/kubectl", "p50-sec"), ratio, atMost(1)},
		{"requests/s over 50 connections, beside direct", of("requests/keyferry", "requests/s"), of("requests/direct", "requests/s"), ratio, atLeast(0.42)},
		{"requests/s over 50 connections, beside kubectl proxy", of("requests/keyferry", "requests/s"), of("requests/kubectl", "requests/s"), ratio, atLeast(1)},
		{"a list of 20 MB", of("list/keyferry", "B/s"), of("list/direct", "B/s"), alone, atLeast(200e6)},
		{"a list of 20 MB, beside kubectl proxy", of("list/keyferry", "B/s"), of("list/kubectl", "B/s"), ratio, atLeast(1)},
		{"CPU for lists", of("list/keyferry", "cpu-sec/GB"), figure{}, alone, atMost(3.2)},
		{"CPU for lists, beside kubectl proxy", of("list/keyferry", "cpu-sec/GB"), of("list/kubectl", "cpu-sec/GB"), ratio, atMost(1)},
		{"resident memory with 200 watches", of("watches200/keyferry", "rss-MiB"), of("watches200/kubectl", "rss-MiB"), alone, atMost(20)},
		{"resident memory with 1,000 watches", of("watches1000/keyferry", "rss-MiB"), of("watches1000/kubectl", "rss-MiB"), alone, atMost(70)},
		{"memory after an hour's worth of traffic, beside six minutes'", of("hour/keyferry", "late-MiB"), of("hour/keyferry", "early-MiB"), ratio, atMost(1.1)},
	}}
}

func growth() section {
	s := section{title: "Scale: 200 TargetClusters, 2,000 ServiceAccounts"}
	for _, pods := range []string{"1000", "3000", "10000"} {
		of := func(unit string) figure { return figure{"bench.Scale/" + pods, unit} }
		s.rows = append(s.rows,
			row{pods + " Pods, created per second", of("with-pods/s"), of("without-pods/s"), ratio, budget{}},
			row{pods + " Pods: CPU of the webhook for each", of("webhook-cpu-sec/pod"), figure{}, alone, budget{}},
			row{pods + " Pods: resident memory of the webhook", of("webhook-rss-MiB"), figure{}, alone, budget{}},
			row{pods + " Pods, given their credentials per second", of("credentials/s"), figure{}, alone, budget{}},
			row{pods + " Pods: CPU of the broker for each", of("broker-cpu-sec/pod"), figure{}, alone, budget{}},
			row{pods + " Pods: resident memory of the broker", of("broker-rss-MiB"), figure{}, alone, budget{}},
		)
	}
	return s
}
