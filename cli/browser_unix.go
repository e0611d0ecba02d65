//go:build unix

package cli

import (
	"os/exec"
	"syscall"
)

// leaveGroup starts a program in a process group of its own. A terminal sends Ctrl-C to its group:
// the browser, and all its windows, would end with this program.
func leaveGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
