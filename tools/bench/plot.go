package main

import (
	"fmt"
	"math"
	"strings"
)

// plot is a line for each series, over the number of Pods.
type plot struct {
	title  string
	times  float64 // what is drawn for one of the figures' unit
	pods   []int
	series []series
}

type series struct {
	name string
	of   func(pods int) figure
}

// scale are the plots on growth.
func scale() []plot {
	of := func(unit string) func(int) figure {
		return func(pods int) figure { return figure{fmt.Sprintf("bench.Scale/%d", pods), unit} }
	}
	pods := []int{1000, 3000, 10_000}
	return []plot{
		{"Pods created per second", 1, pods, []series{{"without Keyferry", of("without-pods/s")}, {"with Keyferry", of("with-pods/s")}}},
		{"Resident memory, MiB", 1, pods, []series{{"webhook", of("webhook-rss-MiB")}, {"broker", of("broker-rss-MiB")}}},
		{"CPU for each Pod, ms", 1000, pods, []series{{"webhook", of("webhook-cpu-sec/pod")}, {"broker", of("broker-cpu-sec/pod")}}},
	}
}

const (
	plotWidth, plotHeight = 640, 240
	margin                = 56
)

// color of a series: they can be told apart by everybody (https://jfly.uni-koeln.de/color/).
func color(series int) string { return []string{"#0072b2", "#d55e00"}[series%2] }

// svg returns the plots below each other; empty if nothing was measured. Both axes begin at zero.
func svg(all []plot, measured results) string {
	var b strings.Builder
	for i, p := range all {
		most := 0.0
		for _, s := range p.series {
			for _, pods := range p.pods {
				value, ok := measured.median(s.of(pods))
				if !ok {
					return ""
				}
				most = max(most, value*p.times)
			}
		}
		fmt.Fprintf(&b, "<g transform=\"translate(0,%d)\">\n", i*plotHeight)
		p.draw(&b, measured, nice(most))
		b.WriteString("</g>\n")
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n", plotWidth, len(all)*plotHeight, b.String())
}

func (p plot) draw(b *strings.Builder, measured results, most float64) {
	widest := p.pods[len(p.pods)-1]
	x := func(pods int) float64 { return margin + float64(plotWidth-3*margin)*float64(pods)/float64(widest) }
	y := func(value float64) float64 {
		return plotHeight - margin/2 - float64(plotHeight-margin-margin/2)*value/most
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"20\" font-weight=\"bold\">%s</text>\n", margin, p.title)
	for _, part := range []float64{0, 0.5, 1} {
		fmt.Fprintf(b, "<path d=\"M%d %.1fH%.1f\" stroke=\"#ccc\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
			margin, y(part*most), x(widest), margin-6, y(part*most)+4, digits(part*most))
	}
	for _, pods := range p.pods {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x(pods), plotHeight-8, pods)
	}
	for i, s := range p.series {
		var points []string
		last := 0.0
		for _, pods := range p.pods {
			last, _ = measured.median(s.of(pods))
			last *= p.times
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(pods), y(last)))
		}
		fmt.Fprintf(b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "), color(i))
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n", x(widest)+6, y(last)+4, color(i), s.name)
	}
}

// nice is the next value above that people count by.
func nice(value float64) float64 {
	if value <= 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(value)))
	for _, times := range []float64{1, 2, 5, 10} {
		if value <= times*step {
			return times * step
		}
	}
	return 10 * step
}
