// Package logging configures the programs' logs: one line of JSON for each message, without
// sampling.
package logging

import (
	"os"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger for level 0 and, if level is 1, level 1.
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
