package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// snoop prints, once a second, how many processes it sees and how many files below DIR it finds in
// their root directories. It finds a file only if the kernel lets it look into that process.
func snoop(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: podtools snoop DIR")
	}
	for ; ; time.Sleep(time.Second) {
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		files, err := filepath.Glob("/proc/[0-9]*/root" + filepath.Join(args[0], "*"))
		if err != nil {
			return err
		}
		fmt.Printf("processes=%d files=%d\n", len(processes), len(files))
	}
}
