package main

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// longestPause is how long the SVG shows the same lines at most, and lastPause how long the
	// last ones.
	longestPause = 1200 * time.Millisecond
	lastPause    = 6 * time.Second

	// Sizes in pixels.
	charWidth  = 8.1
	lineHeight = 18
	margin     = 14
)

// frame is what the terminal shows from a point in time: the first n lines, of which the last are
// visible.
type frame struct {
	at    time.Duration
	lines int
}

// writeSVG writes an SVG that shows the lines one after the other, again and again. If a reader
// prefers no motion, it shows the end.
func (c cast) writeSVG(w io.Writer) error {
	lines, frames, length := c.frames()
	var text strings.Builder
	for i, line := range lines {
		class := ""
		switch {
		case strings.HasPrefix(line, "$ "):
			class = ` class="command"`
		case strings.HasPrefix(line, "==>"):
			class = ` class="step"`
		}
		if line != "" {
			fmt.Fprintf(&text, "<text y=\"%d\"%s>%s</text>\n", (i+1)*lineHeight-5, class, html.EscapeString(line))
		}
	}
	// The lines move up when the terminal is full, and a cover moves down from the lines that are
	// not printed yet.
	var scroll, cover strings.Builder
	for _, f := range frames {
		percent := 100 * f.at.Seconds() / length.Seconds()
		fmt.Fprintf(&scroll, "%.2f%%{transform:translateY(%dpx)}", percent, -lineHeight*max(0, f.lines-rows))
		fmt.Fprintf(&cover, "%.2f%%{transform:translateY(%dpx)}", percent, lineHeight*min(f.lines, rows))
	}
	const inner = rows * lineHeight
	width, height := int(columns*charWidth)+2*margin, inner+2*margin
	for _, part := range []string{
		fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`, width, height, width, height),
		"\n<title>" + html.EscapeString(c.title) + "</title>\n<style>\n",
		`text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d5dae1;white-space:pre}` + "\n",
		"rect{fill:#161b22}\n.command{fill:#fff;font-weight:bold}\n.step{fill:#7cc4ff}\n",
		animation("lines", -lineHeight*max(0, len(lines)-rows), length, scroll.String()),
		animation("cover", lineHeight*min(len(lines), rows), length, cover.String()),
		"@media (prefers-reduced-motion:reduce){.lines,.cover{animation:none}}\n</style>\n",
		fmt.Sprintf(`<rect width="%d" height="%d" rx="8"/>`+"\n", width, height),
		fmt.Sprintf(`<svg x="%d" y="%d" width="%d" height="%d">`+"\n", margin, margin, width-2*margin, inner),
		"<g class=\"lines\">\n" + text.String() + "</g>\n",
		fmt.Sprintf(`<rect class="cover" width="%d" height="%d"/>`, width-2*margin, inner),
		"\n</svg>\n</svg>\n",
	} {
		if _, err := io.WriteString(w, part); err != nil {
			return err
		}
	}
	return nil
}

// animation returns the style of a class whose elements jump from one frame to the next. Without
// motion, they are at the position end.
func animation(class string, end int, length time.Duration, frames string) string {
	return fmt.Sprintf(".%s{transform:translateY(%dpx);animation:%s %.2fs step-end infinite}\n@keyframes %s{%s}\n",
		class, end, class, length.Seconds(), class, frames)
}

// frames wraps the lines as a terminal does, and shortens the pauses between them.
func (c cast) frames() (lines []string, frames []frame, length time.Duration) {
	var before, at time.Duration
	for _, e := range c.events {
		at += min(e.at-before, longestPause)
		before = e.at
		for part := range slices.Chunk([]rune(e.output+" "), columns) {
			lines = append(lines, strings.TrimRight(string(part), " "))
		}
		if n := len(frames); n > 0 && at-frames[n-1].at < 20*time.Millisecond {
			frames[n-1].lines = len(lines)
			continue
		}
		frames = append(frames, frame{at, len(lines)})
	}
	return lines, frames, at + lastPause
}
