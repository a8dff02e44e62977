package wire

import (
	"context"
	"errors"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

const (
	// ProtocolVersion is go-plugin's number for package usher.handler.v1.
	ProtocolVersion = 1
	// PluginName is the one entry of a plugin set.
	PluginName = "handler"
	// MaxFrameBytes is the largest frame that a plugin accepts. go-plugin lets
	// the host accept any, and would leave gRPC's 4 MiB to the plugin.
	MaxFrameBytes = 64 << 20
)

// Handshake is how a host and a plugin know each other. It is not a secret:
// it only lets a plugin that was started by hand say so. It never changes.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  ProtocolVersion,
		MagicCookieKey:   "USHER_PLUGIN",
		MagicCookieValue: "usher.handler.3f7c9d6b51e84a02",
	}
}

// Plugins is the plugin set of both sides: of the host with a nil server, of a
// plugin with its own.
func Plugins(server HandlerServer) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{ProtocolVersion: {PluginName: &process{server: server}}}
}

// Client is what the host dispenses as [PluginName].
type Client struct {
	HandlerClient
	// Gone is closed when the plugin's process has ended.
	Gone <-chan struct{}
}

// process is both ends of go-plugin's gRPC plugin.
type process struct {
	plugin.NetRPCUnsupportedPlugin
	server HandlerServer // nil on the host's side
}

var _ plugin.GRPCPlugin = (*process)(nil)

// GRPCServer registers the service; go-plugin calls it in the plugin.
func (p *process) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if p.server == nil {
		return errors.New("wire: there is no server to register; Plugins was given nil")
	}
	RegisterHandlerServer(s, p.server)
	return nil
}

// GRPCClient returns a *Client; go-plugin calls it in the host, with a context
// that ends with the process.
func (p *process) GRPCClient(ctx context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &Client{HandlerClient: NewHandlerClient(conn), Gone: ctx.Done()}, nil
}
