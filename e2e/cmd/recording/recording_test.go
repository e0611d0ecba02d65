package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata")

// TestCapture: each line has its time, and nothing that is only for this machine or for a terminal.
func TestCapture(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	now := func() time.Time {
		at = at.Add(time.Second)
		return at
	}
	got, err := capture(strings.NewReader("==> \x1b[1mfirst\x1b[0m\n10 %\r100 %\n/src/e2e/.run\n"), "/src", now)
	want := cast{events: []event{{time.Second, "==> first"}, {2 * time.Second, "100 %"}, {3 * time.Second, "~/keyferry/e2e/.run"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// TestCast: what is written is read again.
func TestCast(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	want := cast{title: "A title", events: []event{{0, "$ make demo"}, {1500 * time.Millisecond, `a "quoted" <line>`}}}
	if err := want.writeTo(&file); err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(file.String(), "\n"); first != `{"version":2,"width":100,"height":24,"title":"A title"}` {
		t.Errorf("the header is %s", first)
	}
	got, err := readCast(&file)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// TestSVG: pauses are short, long lines are wrapped, and the last line is visible without motion.
func TestSVG(t *testing.T) {
	t.Parallel()
	c := cast{title: "make demo & more", events: []event{{0, "$ make demo"}, {time.Second, "==> a step"}, {time.Hour, strings.Repeat("long ", 25)}}}
	for range rows {
		c.events = append(c.events, event{time.Hour, "a <line>"})
	}
	lines, frames, length := c.frames()
	if len(lines) != 4+rows || len(frames) != 3 || length != time.Second+longestPause+lastPause {
		t.Errorf("%d lines, %d frames, %s", len(lines), len(frames), length)
	}
	var svg bytes.Buffer
	if err := c.writeSVG(&svg); err != nil {
		t.Fatal(err)
	}
	for decoder := xml.NewDecoder(bytes.NewReader(svg.Bytes())); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	golden := filepath.Join("testdata", "recording.svg")
	if *update {
		if err := os.WriteFile(golden, svg.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if svg.String() != string(want) {
		t.Errorf("it differs from %s: run this test with -update, and look at it", golden)
	}
}
