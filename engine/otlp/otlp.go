package otlp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"usher/engine"
	"usher/handlers"
)

// Config is where spans go. URL is required.
type Config struct {
	// URL is the collector's, as in "http://127.0.0.1:4318"; /v1/traces is added.
	URL string
	// Queue names the queue that messages come from.
	Queue string
	// Sample is the part of the traces that usher begins itself, 0 to 1, that is told
	// of. Of those that a producer began his own decision holds.
	Sample float64
	// Version is usher's own.
	Version string
	// LostFunc is told how many spans the collector did not take; nil: nobody is.
	LostFunc func(n int)
	Log      zerolog.Logger
}

// Tracer makes spans and sends them in batches, beside everything else. What the
// collector does not take within 10 s, and what is more than 2,048 spans waiting, is
// lost. It is safe for concurrent use.
type Tracer struct {
	config   Config
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	headers  propagation.TraceContext
}

// New makes a Tracer; it connects to nothing yet. Shutdown ends it.
func New(ctx context.Context, config Config) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(strings.TrimSuffix(config.URL, "/")+"/v1/traces"), otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}))
	if err != nil {
		return nil, fmt.Errorf("otlp: %s: %w", config.URL, err)
	}
	if config.LostFunc == nil {
		config.LostFunc = func(int) {}
	}
	about := resource.NewSchemaless(attribute.String("service.name", "usher"), attribute.String("service.version", config.Version))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&counted{SpanExporter: exporter, config: config}, sdktrace.WithExportTimeout(exportTimeout)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(config.Sample))),
		sdktrace.WithResource(about),
	)
	return &Tracer{config: config, provider: provider, tracer: provider.Tracer("usher")}, nil
}

// exportTimeout is how long the collector may take for a batch.
const exportTimeout = 10 * time.Second

// Shutdown sends what waits, until ctx ends.
func (t *Tracer) Shutdown(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("otlp: %w", err)
	}
	return nil
}

// Plugins is all that the engine asks of a plugin host.
type Plugins interface {
	engine.Handler
	engine.Versioned
	engine.Holder
	engine.Prober
}

// Trace is the plugins, with a span for each attempt.
func (t *Tracer) Trace(p Plugins) Plugins { return &traced{p, t} }

type traced struct {
	Plugins

	t *Tracer
}

// HandleMessage runs m in a span.
func (p *traced) HandleMessage(ctx context.Context, m *handlers.Message) error {
	return p.t.attempt(ctx, m, false, p.Plugins.HandleMessage)
}

// HandleAlone runs m in a span.
func (p *traced) HandleAlone(ctx context.Context, m *handlers.Message) error {
	return p.t.attempt(ctx, m, true, p.Plugins.HandleAlone)
}

// attempt runs handle in a span, whose traceparent the handler gets. One that cannot
// be read is as none: a new trace begins.
func (t *Tracer) attempt(ctx context.Context, m *handlers.Message, apart bool, handle handlers.HandlerFunc) error {
	if m.Headers == nil {
		m.Headers = map[string]string{}
	}
	headers := propagation.MapCarrier(m.Headers)
	ctx, span := t.tracer.Start(t.headers.Extract(ctx, headers), "process "+m.Type, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "activemq"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", t.config.Queue),
		attribute.String("messaging.message.id", m.ID),
		attribute.Int("messaging.message.body.size", len(m.Body)),
		attribute.String("usher.type", m.Type),
		attribute.Int("usher.priority", m.Priority),
		attribute.Int("usher.attempt", m.Attempt),
		attribute.Bool("usher.apart", apart),
	))
	defer span.End()
	t.headers.Inject(ctx, headers)
	err := handle(ctx, m)
	outcome, failed := outcomeOf(err)
	span.SetAttributes(attribute.String("usher.outcome", outcome))
	if failed {
		span.SetStatus(codes.Error, handlers.OneLine(err.Error(), engine.MaxDetailBytes))
	}
	return err
}

// outcomeOf names how an attempt ended, and says whether that is an error.
func outcomeOf(err error) (name string, failed bool) {
	switch kind := handlers.OutcomeOf(err).Kind; {
	case kind == handlers.Done:
		return engine.OutcomeDone, false
	case kind == handlers.Dropped:
		return engine.OutcomeDropped, false
	case errors.Is(err, engine.ErrPluginAway):
		return engine.OutcomeNotStarted, true
	case errors.Is(err, engine.ErrPluginLost):
		return engine.OutcomeCrashed, true
	case kind == handlers.Deferred:
		return engine.OutcomeDeferred, false
	case kind == handlers.Rejected:
		return "permanent", true
	}
	return "failed", true
}

// counted is an exporter whose failures cost nothing but the spans.
type counted struct {
	sdktrace.SpanExporter

	config Config
	failed atomic.Bool
}

// ExportSpans sends spans, and returns nil.
func (c *counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		c.config.LostFunc(len(spans))
	}
	if c.failed.Swap(err != nil) == (err != nil) {
		return nil
	}
	if err != nil {
		c.config.Log.Warn().Err(err).Str("collector", c.config.URL).Msg("the collector does not take spans; they are lost until it does, messages are not held up")
	} else {
		c.config.Log.Info().Str("collector", c.config.URL).Msg("the collector takes spans again")
	}
	return nil
}
