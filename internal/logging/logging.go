// Package logging is how the programs log: a line of JSON for each message, of which none is left
// out.
package logging

import (
	"os"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger of the levels 0 and, if level is 1, 1.
func New(output *os.File, level int) logr.Logger {
	threshold := zapcore.InfoLevel
	if level == 1 {
		threshold = zapcore.DebugLevel
	}
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey = "time"
	encoder.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zapr.NewLogger(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.Lock(output), threshold)))
}
