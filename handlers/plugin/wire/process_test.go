package wire

import (
	"context"
	"testing"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// The protocol numbers are promises to plugins that were built long ago.
func TestHandshakeNeverChanges(t *testing.T) {
	want := plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "USHER_PLUGIN", MagicCookieValue: "usher.handler.3f7c9d6b51e84a02"}
	if got := Handshake(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if Handler_ServiceDesc.ServiceName != "usher.handler.v1.Handler" {
		t.Errorf("the service is called %q", Handler_ServiceDesc.ServiceName)
	}
}

type describer struct{ UnimplementedHandlerServer }

func (describer) Describe(context.Context, *DescribeRequest) (*Description, error) {
	return &Description{Name: "shop"}, nil
}

func TestPluginIsDispensed(t *testing.T) {
	set := Plugins(describer{})[ProtocolVersion]
	client, _ := plugin.TestPluginGRPCConn(t, false, set) // Close stops the server too
	dispensed, err := client.Dispense(PluginName)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := dispensed.(*Client)
	if !ok {
		t.Fatalf("dispensed a %T", dispensed)
	}
	d, err := c.Describe(t.Context(), &DescribeRequest{})
	if err != nil || d.GetName() != "shop" {
		t.Fatalf("described as %v, %v", d, err)
	}
	select {
	case <-c.Gone:
		t.Error("the process is gone while it runs")
	default:
	}
	if err := client.Close(); err != nil {
		t.Logf("close: %v", err) // the server may be faster than its answer
	}
}

func TestHostSideRegistersNothing(t *testing.T) {
	p, ok := Plugins(nil)[ProtocolVersion][PluginName].(plugin.GRPCPlugin)
	if !ok {
		t.Fatal("not a gRPC plugin")
	}
	if err := p.GRPCServer(nil, grpc.NewServer()); err == nil {
		t.Error("a host without a server registered one")
	}
}
