package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Size of the terminal.
const (
	columns = 100
	rows    = 24
)

// cast is a recording.
type cast struct {
	title  string
	events []event
}

// event is a line that was printed, without its line break.
type event struct {
	// at is the time since the start.
	at     time.Duration
	output string
}

// header is the first line of an asciicast file; the others are arrays of the time in seconds, "o",
// and the output.
type header struct {
	Version int    `json:"version"`
	Width   int    `json:"width"`
	Height  int    `json:"height"`
	Title   string `json:"title,omitempty"`
}

// control are the sequences that move the cursor or change colours.
var control = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// capture reads lines, and takes the time at which each ends. It replaces the directory root, which
// is different on each machine, by ~/keyferry.
func capture(r io.Reader, root string, now func() time.Time) (cast, error) {
	var c cast
	start := now()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := control.ReplaceAllString(lines.Text(), "")
		line = line[strings.LastIndexByte(line, '\r')+1:] // what a terminal would have overwritten
		c.events = append(c.events, event{now().Sub(start), strings.ReplaceAll(line, root, "~/keyferry")})
	}
	return c, lines.Err()
}

// writeTo writes an asciicast file.
func (c cast) writeTo(w io.Writer) error {
	out := json.NewEncoder(w)
	if err := out.Encode(header{Version: 2, Width: columns, Height: rows, Title: c.title}); err != nil {
		return err
	}
	for _, e := range c.events {
		if err := out.Encode([]any{e.at.Seconds(), "o", e.output + "\r\n"}); err != nil {
			return err
		}
	}
	return nil
}

// readCast reads an asciicast file that writeTo has written.
func readCast(r io.Reader) (cast, error) {
	in := json.NewDecoder(r)
	var head header
	if err := in.Decode(&head); err != nil {
		return cast{}, err
	}
	if head.Version != 2 {
		return cast{}, fmt.Errorf("version %d of asciicast, not 2", head.Version)
	}
	c := cast{title: head.Title}
	for in.More() {
		var seconds float64
		var kind, output string
		if err := in.Decode(&[]any{&seconds, &kind, &output}); err != nil {
			return cast{}, err
		}
		c.events = append(c.events, event{time.Duration(seconds * float64(time.Second)), strings.TrimSuffix(output, "\r\n")})
	}
	return c, nil
}
