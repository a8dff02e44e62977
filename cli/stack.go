package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"usher/account"
	"usher/config"
	"usher/engine"
	"usher/engine/apigateway"
	"usher/engine/dynamo"
	"usher/engine/embedded/broker"
	"usher/engine/embedded/live"
	"usher/engine/monitor"
	"usher/engine/monitor/webhook"
	"usher/engine/otlp"
	"usher/engine/pluginhost"
	"usher/engine/stomp"
	"usher/server"
)

// stack is everything that one process runs, wired together from a
// configuration. open makes it, run runs it, close gives back what open took.
type stack struct {
	cfg       *config.Config
	roles     roles
	log       zerolog.Logger
	level     *logLevel // of log; nil: it is fixed
	reload    *reloader // nil: the configuration stays as it is
	observers []engine.Observer
	settled   *settledLog

	httpLn  net.Listener
	stompLn net.Listener // nil: the broker is elsewhere
	broker  *broker.Broker
	records store
	user    *account.User // of the broker; nil: it stands in the configuration
	stomp   *stomp.Broker
	host    *pluginhost.Host  // nil: there is no engine here
	handler engine.Handler    // host, and its spans
	engine  *engine.Engine    // likewise
	letters *stomp.Subscriber // nil: there is no monitor here
	monitor *monitor.Monitor  // likewise
	hub     *live.Hub
	pusher  *apigateway.Pusher // nil: nobody watches over API Gateway
	gateway http.Handler       // what its API calls; nil: likewise
	public  http.Handler       // the hub for those who have tokens; nil: there are no keys of such
	server  *server.Server
	metrics *server.Metrics
	undo    []func() error // in the order of making
}

// openStack opens stores and ports and builds all parts; nothing runs yet. What
// cannot be had, a port or a folder, is found here. On an error nothing is left open.
func openStack(cfg *config.Config, state string, r roles, log zerolog.Logger, observers ...engine.Observer) (s *stack, err error) {
	s = &stack{cfg: cfg, roles: r, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.metrics = server.NewMetrics(typeNames(cfg))
	s.settled = newSettledLog(s.part("messages"))
	s.observers = append(slices.Clone(observers), s.metrics, s.settled)
	for _, open := range []func() error{
		s.openPorts,
		func() error { return s.openState(state) },
		s.openBroker, s.openLive, s.openPlugins, s.openEngine, s.openMonitor, s.openServer,
	} {
		if err := open(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *stack) openPorts() (err error) {
	if s.httpLn, err = listen(s.cfg.Server.Listen, "--listen, or server: {listen: …}"); err != nil {
		return err
	}
	s.undo = append(s.undo, quietClose(s.httpLn))
	if s.embedded() {
		if s.stompLn, err = listen(s.cfg.Embedded.Stomp, "--stomp, or embedded: {stomp: …}"); err != nil {
			return err
		}
		s.undo = append(s.undo, quietClose(s.stompLn))
	}
	return nil
}

// embedded says whether the broker is in this process.
func (s *stack) embedded() bool { return len(s.cfg.Broker.URLs) == 0 }

// listen takes a port, or says what to do if it is taken.
func listen(addr, setting string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fail(exitFailed, "%s is taken by another process: end that one, or choose another port with %s (port 0: any)", addr, setting)
	}
	if err != nil {
		return nil, fail(exitFailed, "cannot listen on %s (%s): %w", addr, setting, err)
	}
	return ln, nil
}

// quietClose closes a listener that its server may have closed already.
func quietClose(ln net.Listener) func() error {
	return func() error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

func (s *stack) openState(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(exitFailed, "the state folder cannot be made: %w", err)
	}
	if s.embedded() {
		if s.broker, err = broker.Open(broker.Config{Dir: dir, MaxBodyBytes: brokerBody(s.cfg), Log: s.part("broker")}); err != nil {
			return fail(exitFailed, "%w", err)
		}
		s.undo = append(s.undo, s.broker.Close)
	}
	if s.records, err = openRecords(s.cfg, dir, s.part("records")); err != nil {
		return err
	}
	s.undo = append(s.undo, s.records.Close)
	return nil
}

// brokerBody is the longest body that the broker gives us whole: what is over
// engine.maxBody and not over this is dead-lettered with its body.
func brokerBody(cfg *config.Config) int { return 4 * int(cfg.Engine.MaxBody) }

// stompConfig is how the broker is reached.
func (s *stack) stompConfig() stomp.Config {
	cfg := stomp.Config{
		URLs: []string{s.stompURL()}, Login: s.cfg.Secrets.BrokerLogin, Passcode: s.cfg.Secrets.BrokerPasscode,
		Queue: s.queue(), Window: s.cfg.Engine.Window, MaxBodyBytes: brokerBody(s.cfg), Probe: true, Log: s.part("stomp"),
	}
	if b := s.cfg.Broker; !s.embedded() {
		cfg.URLs, cfg.HeartBeat = b.URLs, b.Heartbeat
	}
	if s.user != nil {
		cfg.CredentialsFunc = s.user.Credentials
	}
	return cfg
}

func (s *stack) openBroker() (err error) {
	if err := s.openUser(); err != nil {
		return err
	}
	s.stomp, err = stomp.New(s.stompConfig())
	if err != nil {
		return fail(exitInvalid, "%w", err)
	}
	s.undo = append(s.undo, s.stomp.Close)
	return nil
}

func (s *stack) openLive() error {
	keys, err := watchKeys(s.cfg)
	if err != nil {
		return err
	}
	s.hub, err = live.New(live.Config{
		Table: s.records, Log: s.part("live"), Keys: keys, Stage: s.cfg.Notify.Stage,
		Origins: s.cfg.Notify.Origins, MaxPerAddress: s.cfg.Notify.PerAddress, RefusedFunc: s.metrics.WatchRefused,
		NudgeFunc: s.watch,
	})
	if err != nil {
		return fail(exitInvalid, "%w", err)
	}
	s.undo = append(s.undo, s.hub.Close)
	if keys.Any() {
		s.public = s.hub
	}
	return s.openGateway(keys)
}

// watch asks the engine that has a message in hand to tell a new watcher.
func (s *stack) watch(id string, w engine.Watcher) {
	if s.engine != nil {
		s.engine.Watch(id, w)
	}
}

func (s *stack) openPlugins() (err error) {
	if !s.roles.engine {
		return nil
	}
	cfg, err := hostConfig(s.cfg)
	if err != nil {
		return err
	}
	cfg.Log = s.part("plugins")
	if s.host, err = pluginhost.New(cfg); err != nil {
		return fail(exitInvalid, "%w", err)
	}
	s.handler = s.host
	if s.cfg.Traces.OTLP == "" {
		return nil
	}
	tracer, err := otlp.New(context.Background(), otlp.Config{
		URL: s.cfg.Traces.OTLP, Queue: s.queue(), Sample: s.cfg.Traces.Part(), Version: buildInfo().Version, LostFunc: s.metrics.SpansLost, Log: s.part("traces"),
	})
	if err != nil {
		return fail(exitInvalid, "%w", err)
	}
	s.undo = append(s.undo, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		return tracer.Shutdown(ctx)
	})
	s.handler = tracer.Trace(s.host)
	return nil
}

// lastSpans is how long a collector may take for the last spans.
const lastSpans = 2 * time.Second

// hostConfig is what a configuration says of plugins.
func hostConfig(c *config.Config) (pluginhost.Config, error) {
	cfg := pluginhost.Config{Plugins: map[string]pluginhost.Plugin{}, Types: map[string]string{}, Drain: c.Engine.Drain}
	for name, p := range c.Plugins {
		command, err := pluginCommand(p.Command)
		if err != nil {
			return cfg, err
		}
		cfg.Plugins[name] = pluginhost.Plugin{
			Command: command, Dir: p.Dir, SHA256: p.SHA256, Files: p.Files, Env: p.Env, Memory: p.Memory, Grace: p.Grace,
		}
	}
	for name, t := range c.Types {
		cfg.Types[name] = t.Plugin
	}
	return cfg, nil
}

// pluginCommand puts this very binary in the place of the word usher.
func pluginCommand(command []string) ([]string, error) {
	if command[0] != "usher" {
		return command, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fail(exitFailed, "the path of this binary cannot be told: %w", err)
	}
	return append([]string{self}, command[1:]...), nil
}

func (s *stack) openEngine() (err error) {
	if !s.roles.engine {
		return nil
	}
	broker, kept := dying(s.stomp, s.records)
	cfg := engine.Config{
		Broker: broker, Records: kept, Bodies: kept, Index: kept, Holds: kept, Handler: s.handler, Notifier: s.notifier(), Control: s.stomp,
		Observer: everybody(s.observers), Log: s.part("engine"),
		Queue: s.queue(), Window: s.cfg.Engine.Window, MaxBody: int(s.cfg.Engine.MaxBody),
	}
	reloadable(&cfg, s.cfg)
	s.engine, err = engine.New(cfg)
	return err
}

// reloadable is what a configuration says of the engine that can be changed while
// it runs.
func reloadable(to *engine.Config, c *config.Config) {
	to.Slots, to.Reserved, to.ReservedFrom, to.Share = c.Engine.Slots, c.Engine.Reserve.Slots, c.Engine.Reserve.From, c.Starvation.Part()
	to.Drain, to.ParkAfter, to.UnknownTypeWait = c.Engine.Drain, c.Engine.ParkAfter, c.UnknownType.Wait
	to.Types = make(map[string]engine.Type, len(c.Types))
	for name, t := range c.Types {
		low, high := t.Levels()
		to.Types[name] = engine.Type{
			MinLevel: low, MaxLevel: high, Concurrency: valueOr(t.Concurrency, 0), Rate: t.PerSecond(),
			Timeout: t.Timeout, Attempts: t.Retry.Attempts, Backoff: t.Retry.Backoff, Redeliveries: t.Retry.Redeliveries,
			Delay: t.Delay.Default, Bypass: t.Delay.Bypass, MaxAge: t.MaxAge, Breaker: t.Breaker, Dedupe: engine.Dedupe(t.Dedupe),
		}
	}
}

// whileAwake has what takes messages run while this process gets its time of the
// processors; see server.awake.
func (s *stack) whileAwake(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error { return s.server.WhileAwake(ctx, run) }
}

// lettersMemory is what the dead letters that are in hand may take.
const lettersMemory = 256 << 20

func (s *stack) openMonitor() (err error) {
	if !s.roles.monitor {
		return nil
	}
	queues := engine.DeadQueues(s.queue())
	cfg := s.stompConfig()
	cfg.MaxBodyBytes = max(engine.MinArchived, int(s.cfg.Engine.MaxBody))
	cfg.Window = min(max(lettersMemory/cfg.MaxBodyBytes/len(queues), 2), stomp.DefaultWindow)
	if s.letters, err = stomp.NewSubscriber(cfg, queues); err != nil {
		return fail(exitInvalid, "%w", err)
	}
	s.undo = append(s.undo, s.letters.Close)
	_, kept := dying(s.stomp, s.records)
	mc := monitor.Config{
		Source: s.letters, Archive: kept, Records: kept, Notifier: s.notifier(), Window: s.cfg.Monitor.Window, Log: s.part("monitor"),
	}
	if url := s.cfg.Monitor.Webhook.URL; url != "" {
		hook, err := webhook.New(webhook.Config{URL: url, Secret: s.cfg.Secrets.Webhook})
		if err != nil {
			return fail(exitInvalid, "%w", err)
		}
		s.undo = append(s.undo, hook.Close)
		mc.Ops = append(mc.Ops, hook)
	}
	if arn := s.cfg.Monitor.Topic; arn != "" {
		topic, err := openTopic(arn)
		if err != nil {
			return err
		}
		mc.Ops = append(mc.Ops, topic)
	}
	s.monitor, err = monitor.New(mc)
	return err
}

func valueOr(v *int, def int) int {
	if v == nil {
		return def
	}
	return *v
}

// everybody observes together.
type everybody []engine.Observer

func (e everybody) Observe(ev engine.Event) {
	for _, o := range e {
		o.Observe(ev)
	}
}

func (s *stack) openServer() (err error) {
	broker, kept := dying(s.stomp, s.records)
	redriver := engine.Redriver{Archive: kept, Records: kept, Broker: broker, Queue: s.queue()}
	cfg := server.Config{
		Addr: s.httpLn.Addr().String(), Token: s.cfg.Secrets.Token, Table: s.records, Broker: polled{s.stomp},
		Archive: s.records, RedriveFunc: redriver.Redrive,
		Metrics: s.metrics, PluginsFunc: s.plugins, Live: s.hub.Operators(), LivePublic: s.public, NotifyFunc: s.notifier().Notify, Gateway: s.gateway, Awake: s.cfg.Server.Awake, Queue: s.queue(), Log: s.part("http"),
		InHandFunc: s.stomp.InHand, BrokerFunc: s.brokerReport, ConfigFunc: s.configReport,
		Checks: []server.Check{{Name: "broker", Func: s.brokerAlive}},
	}
	if s.engine != nil {
		cfg.Engine = s.engine
		cfg.Checks = append(cfg.Checks, server.Check{Name: "lanes", Func: func(context.Context) error { return s.stomp.Probed() }})
	}
	if s.embedded() {
		cfg.QueuesFunc = s.queues
	}
	if s.server, err = server.New(cfg); err != nil {
		return fail(exitInvalid, "%w", err)
	}
	return nil
}

// brokerAlive says whether anything came from the broker within two intervals.
func (s *stack) brokerAlive(context.Context) error {
	h := s.health()
	if !h.Connected {
		return errors.New("not subscribed")
	}
	if silent := time.Since(h.LastFrame); h.Interval > 0 && silent > 2*h.Interval {
		return fmt.Errorf("nothing came from the broker for %v", silent.Round(time.Second))
	}
	return nil
}

// health is the engine's session, or, where there is no engine, the monitor's.
func (s *stack) health() stomp.Health {
	if s.engine != nil {
		return s.stomp.Health()
	}
	return s.letters.Health()
}

// polled tells what the engine, which asks each second, was told last: however
// many look, the broker is asked by one.
type polled struct{ broker *stomp.Broker }

func (p polled) Depths(context.Context) (engine.Depths, error) { return p.broker.LastDepths() }

func (s *stack) brokerReport() server.BrokerReport {
	h := s.health()
	report := server.BrokerReport{Connected: h.Connected, Address: h.Address, Since: h.Since}
	report.Nudges = server.NudgeReport(s.stomp.NudgeCounts())
	for _, f := range s.stomp.Findings() {
		report.Findings = append(report.Findings, server.Finding{Name: f.Name, State: string(f.State), Detail: f.Detail, Help: f.Help})
	}
	return report
}

// configReport is the configuration that is in use.
func (s *stack) configReport() (server.ConfigReport, error) {
	if s.reload != nil {
		return s.reload.look()
	}
	text, err := s.cfg.MarshalJSON()
	return server.ConfigReport{Config: text}, err
}

func (s *stack) plugins() []server.Plugin {
	if s.host == nil {
		return nil
	}
	status := s.host.Status()
	list := make([]server.Plugin, 0, len(status))
	for _, p := range status {
		item := pluginOf(p)
		item.Credit = s.host.Credit(p.Name)
		list = append(list, item)
	}
	return list
}

func pluginOf(p pluginhost.PluginStatus) server.Plugin {
	item := server.Plugin{
		Name: p.Name, State: string(p.State), Ready: p.State == pluginhost.Ready, Types: p.Types, PID: p.PID,
		Restarts: p.Restarts, Crashes: p.Crashes, Quarantined: p.Quarantined, Since: p.Since, Error: p.LastError,
	}
	if p.Next != nil {
		next := pluginOf(*p.Next)
		item.Next = &next
	}
	return item
}

func (s *stack) queues() []server.Queue {
	stats := s.broker.Stats().Queues
	list := make([]server.Queue, 0, len(stats))
	for _, q := range stats {
		list = append(list, server.Queue{Name: q.Name, Size: q.Size, InFlight: q.InFlight, Oldest: q.Oldest})
	}
	return list
}

// run runs all parts until ctx ends, then stops them in an orderly way: the
// engine first, what it stands on last.
func (s *stack) run(ctx context.Context, more ...layer) error {
	layers := []layer{{"log", s.settled.run}}
	if s.embedded() {
		layers = append(layers, layer{"broker", func(ctx context.Context) error { return s.broker.Serve(ctx, s.stompLn) }})
	}
	layers = append(layers,
		layer{"http", func(ctx context.Context) error { return s.server.Run(ctx, s.httpLn) }},
	)
	if s.cfg.Server.Awake != "" {
		layers = append(layers, layer{"awake", s.server.KeepAwake})
	}
	if s.roles.monitor {
		layers = append(layers, layer{"dead letters", s.whileAwake(s.letters.Run)}, layer{"monitor", s.monitor.Run})
	}
	if s.roles.engine {
		layers = append(layers, layer{"plugins", s.host.Run}, layer{"stomp", s.whileAwake(s.stomp.Run)}, layer{"engine", s.engine.Run})
	}
	if tables, is := s.records.(*dynamo.Records); is && s.roles.engine {
		layers = append(layers, layer{"orphans", func(ctx context.Context) error { return dropOrphans(ctx, tables, s.part("records")) }})
	}
	if service := s.cfg.Metrics.CloudWatch.Service; service != "" {
		layers = append(layers, layer{"metrics", func(ctx context.Context) error { return s.server.CloudWatch(ctx, os.Stdout, service) }})
	}
	if s.reload != nil {
		layers = append(layers, layer{"configuration", s.reload.run})
	}
	return runLayers(ctx, append(layers, more...)...)
}

// close gives back what open took, the last first.
func (s *stack) close() error {
	var errs []error
	for _, undo := range slices.Backward(s.undo) {
		errs = append(errs, undo())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// part is the log of one part.
func (s *stack) part(name string) zerolog.Logger { return s.log.With().Str("part", name).Logger() }

// queue is where producers send.
func (s *stack) queue() string {
	if s.embedded() {
		return engine.WorkQueue
	}
	return s.cfg.Broker.Queue
}

// stompURL is where producers send to.
func (s *stack) stompURL() string {
	if s.embedded() {
		return "stomp://" + s.stompLn.Addr().String()
	}
	return s.cfg.Broker.URLs[0]
}

func (s *stack) httpURL() string { return "http://" + s.httpLn.Addr().String() }

func typeNames(cfg *config.Config) []string {
	names := make([]string, 0, len(cfg.Types))
	for name := range cfg.Types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
