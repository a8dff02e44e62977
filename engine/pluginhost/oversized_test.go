package pluginhost_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	goplugin "github.com/hashicorp/go-plugin"

	"usher/engine"
	"usher/handlers/plugin/wire"
)

// oversized is a plugin whose answers are longer than a frame may be.
type oversized struct {
	wire.UnimplementedHandlerServer
}

func (oversized) Describe(context.Context, *wire.DescribeRequest) (*wire.Description, error) {
	return &wire.Description{Name: "oversized", Version: "1", Types: []string{"nothing"}, Concurrency: 1}, nil
}

func (oversized) Work(stream wire.Handler_WorkServer) error {
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := &wire.PluginFrame{Credit: 1}
		switch {
		case f.GetHello() != nil:
			answer.Kind = &wire.PluginFrame_Ready{Ready: &wire.Ready{}}
		case f.GetMessages() != nil:
			o := &wire.Outcome{Tag: f.GetMessages().GetMessages()[0].GetTag(), Verdict: wire.Verdict_VERDICT_RETRY, Detail: strings.Repeat("x", 4*wire.MaxFrameBytes)}
			answer.Kind = &wire.PluginFrame_Outcomes{Outcomes: &wire.OutcomeBatch{Outcomes: []*wire.Outcome{o}}}
		default:
			continue
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func serveOversized() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: wire.Handshake(), VersionedPlugins: wire.Plugins(oversized{}), GRPCServer: goplugin.DefaultGRPCServer,
	})
}

// TestAnAnswerThatIsTooLongIsNotRead: it costs its plugin, and the host no memory.
func TestAnAnswerThatIsTooLongIsNotRead(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing"}, role: "oversized"})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := h.do(message("nothing"))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v, want that the plugin is lost", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
		t.Errorf("an answer of 256 MiB took %d MiB of memory", took>>20)
	}
}
