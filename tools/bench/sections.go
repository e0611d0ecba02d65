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
		{"time for a 7 KB Pod, compared with a full decode", of("Admission/7KB", "sec/op"), of("FullDecode/7KB", "sec/op"), ratio, atMost(0.6)},
		{"time for a 63 KB Pod, compared with a full decode", of("Admission/63KB", "sec/op"), of("FullDecode/63KB", "sec/op"), ratio, atMost(0.6)},
		{"allocations for a 7 KB Pod", of("Admission/7KB", "allocs/op"), of("FullDecode/7KB", "allocs/op"), alone, atMost(120)},
		{"allocated bytes for a 7 KB Pod", of("Admission/7KB", "B/op"), of("FullDecode/7KB", "B/op"), alone, atMost(15e3)},
		{"time with two cores, compared with one core", of("AdmissionParallel-2", "sec/op"), of("AdmissionParallel", "sec/op"), inverse, atLeast(1.8)},
		{"full decode with two cores, compared with one core", of("FullDecodeParallel-2", "sec/op"), of("FullDecodeParallel", "sec/op"), inverse, budget{}},
		{"creation of a Pod without annotation, compared with a namespace without Keyferry, p50", creation("without", "p50-sec"), creation("kube-public", "p50-sec"), addition, budget{}},
		{"creation of a Pod without annotation, compared with a policy whose only condition is false, p50", creation("without", "p50-sec"), creation("smallest-policy", "p50-sec"), addition, atMost(0.2e-3)},
		{"creation of an annotated Pod, compared with a Pod without annotation, p50", creation("with", "p50-sec"), creation("without", "p50-sec"), addition, budget{}},
		{"creation of an annotated Pod, compared with a webhook that does no work, p50", creation("with", "p50-sec"), creation("bare", "p50-sec"), addition, budget{}},
		{"creation of an annotated Pod, compared with a Pod without annotation, p99", creation("with", "p99-sec"), creation("without", "p99-sec"), addition, budget{}},
	}}
}

func refresher() section {
	of := func(unit string) figure { return figure{"bench.Refresher", unit} }
	return section{"Refresher, after 500 renewals", []row{
		{"size of the program, with proxy", of("program-B"), figure{}, alone, atMost(7.5e6)},
		{"resident memory", of("rss-MiB"), figure{}, alone, atMost(9)},
		{"private memory that was written", of("dirty-MiB"), figure{}, alone, atMost(2.5)},
		{"CPU time for a renewal with a new connection", of("cpu-sec/renewal"), figure{}, alone, atMost(4e-3)},
		{"CPU time between renewals, in 30 s", of("idle-sec/30s"), figure{}, alone, atMost(1e-3)},
		{"idle delivery by proxy: resident memory", of("proxy-rss-MiB"), of("rss-MiB"), addition, atMost(1)},
		{"idle delivery by proxy: private memory that was written", of("proxy-dirty-MiB"), of("dirty-MiB"), addition, budget{}},
		{"idle delivery by proxy: CPU time for a renewal", of("proxy-cpu-sec/renewal"), of("cpu-sec/renewal"), addition, budget{}},
	}}
}

func start() section {
	of := func(unit string) figure { return figure{"e2e.PodStart", unit} }
	return section{"Start: from the Pod's sandbox to the application, compared with a sidecar that does not wait", []row{
		{"p50", of("with-p50-sec"), of("without-p50-sec"), addition, atMost(0.1)},
		{"p99", of("with-p99-sec"), of("without-p99-sec"), addition, budget{}},
	}}
}

func broker() section {
	answers := func(name string) figure { return figure{"broker.Server/" + name, "answers/s"} }
	return section{"Broker, on one core", []row{
		{"cached credentials, new connection for each request, as from refreshers", answers("new/issued"), answers("new/bare200"), ratio, atLeast(0.5)},
		{"unchanged (304), new connection for each request, as from refreshers", answers("new/unchanged"), answers("new/bare304"), ratio, atLeast(0.5)},
		{"cached credentials, one connection for all requests", answers("kept/issued"), answers("kept/bare200"), ratio, budget{}},
		{"unchanged (304), one connection for all requests", answers("kept/unchanged"), answers("kept/bare304"), ratio, budget{}},
		{"10,000 Pods of 50 identities start: requests to the provider", figure{"broker.Start", "issues"}, figure{}, alone, atMost(50)},
		{"time until all of these Pods have a credential", figure{"broker.Start", "sec/op"}, figure{}, alone, atMost(60)},
		{"memory for 10,000 identities", figure{"broker.Memory", "heap-MiB"}, figure{}, alone, budget{}},
	}}
}

func proxy() section {
	of := func(name, unit string) figure { return figure{"bench.Proxy/" + name, unit} }
	return section{"Proxy", []row{
		{"one request, compared with no proxy, p50", of("latency/keyferry", "p50-sec"), of("latency/direct", "p50-sec"), addition, atMost(0.4e-3)},
		{"one request, compared with kubectl proxy, p50", of("latency/keyferry", "p50-sec"), of("latency/kubectl", "p50-sec"), ratio, atMost(1)},
		{"requests/s over 50 connections, compared with no proxy", of("requests/keyferry", "requests/s"), of("requests/direct", "requests/s"), ratio, atLeast(0.42)},
		{"requests/s over 50 connections, compared with kubectl proxy", of("requests/keyferry", "requests/s"), of("requests/kubectl", "requests/s"), ratio, atLeast(1)},
		{"a list of 20 MB", of("list/keyferry", "B/s"), of("list/direct", "B/s"), alone, atLeast(200e6)},
		{"a list of 20 MB, compared with kubectl proxy", of("list/keyferry", "B/s"), of("list/kubectl", "B/s"), ratio, atLeast(1)},
		{"CPU time for lists", of("list/keyferry", "cpu-sec/GB"), figure{}, alone, atMost(3.2)},
		{"CPU time for lists, compared with kubectl proxy", of("list/keyferry", "cpu-sec/GB"), of("list/kubectl", "cpu-sec/GB"), ratio, atMost(1)},
		{"resident memory with 200 watches", of("watches200/keyferry", "rss-MiB"), of("watches200/kubectl", "rss-MiB"), alone, atMost(20)},
		{"resident memory with 1,000 watches", of("watches1000/keyferry", "rss-MiB"), of("watches1000/kubectl", "rss-MiB"), alone, atMost(70)},
		{"memory after the traffic of an hour, compared with the traffic of six minutes", of("hour/keyferry", "late-MiB"), of("hour/keyferry", "early-MiB"), ratio, atMost(1.1)},
	}}
}

func growth() section {
	s := section{title: "Scale: 200 TargetClusters, 2,000 ServiceAccounts"}
	for _, pods := range []string{"1000", "3000", "10000"} {
		of := func(unit string) figure { return figure{"bench.Scale/" + pods, unit} }
		s.rows = append(s.rows,
			row{pods + " Pods: created Pods per second", of("with-pods/s"), of("without-pods/s"), ratio, budget{}},
			row{pods + " Pods: CPU time of the webhook for each Pod", of("webhook-cpu-sec/pod"), figure{}, alone, budget{}},
			row{pods + " Pods: resident memory of the webhook", of("webhook-rss-MiB"), figure{}, alone, budget{}},
			row{pods + " Pods: issued credentials per second", of("credentials/s"), figure{}, alone, budget{}},
			row{pods + " Pods: CPU time of the broker for each Pod", of("broker-cpu-sec/pod"), figure{}, alone, budget{}},
			row{pods + " Pods: resident memory of the broker", of("broker-rss-MiB"), figure{}, alone, budget{}},
		)
	}
	return s
}
