//go:build unix

package credentialplugin

import (
	"errors"
	"os/exec"
	"syscall"
)

// inGroup has a plugin and what it starts be one process group, which ends as a whole.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// sweep ends what a plugin has left behind of its process group. Where this process is the first of
// its container it inherits that, and nobody else would bury it.
func sweep(group int) {
	_ = syscall.Kill(-group, syscall.SIGKILL) // mostly there is nothing
	for {
		if _, err := syscall.Wait4(-group, nil, 0, nil); err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
