package logging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/internal/logging"
)

func TestLevels(t *testing.T) {
	for level, want := range map[int]int{0: 1, 1: 2} {
		file, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		log := logging.New(file, level).WithName("audit")
		log.Info("credential issued", "pod", "web-0")
		log.V(1).Info("credential unchanged")
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if len(lines) != want || !strings.HasPrefix(lines[0], `{"level":"info","time":"20`) || !strings.HasSuffix(lines[0], `"logger":"audit","msg":"credential issued","pod":"web-0"}`) {
			t.Errorf("at level %d: %s", level, text)
		}
	}
}
