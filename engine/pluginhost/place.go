package pluginhost

import (
	"context"
	"reflect"
	"slices"
	"sync/atomic"
)

// place is where a plugin runs: in the process of one supervisor, and while that
// is swapped for another in two. One goroutine runs it.
type place struct {
	current atomic.Pointer[supervisor]
	next    atomic.Pointer[supervisor] // is started to take the place; nil: none is
	want    chan *supervisor           // holds the newest that is to take it
	gone    chan struct{}              // closed when the plugin is removed
	apart   chan *apart                // holds the process apart, nil if there is none; who takes it out has it

	newest *supervisor // the Host's, under its lock: what runs here in the end
}

func newPlace(v *supervisor) *place {
	p := &place{want: make(chan *supervisor, 1), gone: make(chan struct{}), apart: make(chan *apart, 1), newest: v}
	p.apart <- nil
	p.current.Store(v)
	return p
}

// swap has another supervisor take the place, once its process is ready: the
// newest that was asked for. One goroutine calls it at a time.
func (p *place) swap(v *supervisor) {
	p.newest = v
	select {
	case <-p.want: // nobody needs it any more
	default:
	}
	p.want <- v
}

// same says whether a plugin that is configured like this is what runs here in
// the end.
func (p *place) same(plugin Plugin) bool { return reflect.DeepEqual(p.newest.plugin, plugin) }

// run runs the place until ctx ends or it is removed, and returns when no process
// of it is left.
func (p *place) run(ctx context.Context) {
	old := launch(ctx, p.current.Load())
	for {
		select {
		case v := <-p.want:
			old = p.replace(ctx, old, v)
		case <-p.gone:
			old.retire(ctx)
			return
		case <-ctx.Done():
			<-old.ended
			return
		}
	}
}

// replace starts a supervisor, and ends the old one when its process is ready; or
// ends it, if before that another one is wanted. There are never more than two
// processes, but for one apart.
func (p *place) replace(ctx context.Context, old *run, v *supervisor) *run {
	p.next.Store(v)
	v.log.Info().Msg("the plugin has changed: its new process is started, and takes over when it is ready")
	next := launch(ctx, v)
	select {
	case <-v.wasReady:
		p.current.Store(v)
		p.next.Store(nil)
		v.changed()
		old.retire(ctx)
		return next
	case newer := <-p.want:
		next.stop()
		<-next.ended
		return p.replace(ctx, old, newer)
	case <-p.gone:
		next.stop()
		<-next.ended
		return old
	case <-ctx.Done():
		<-next.ended
		return old
	}
}

// run is a supervisor that runs.
type run struct {
	v        *supervisor
	stopping context.Context
	stop     context.CancelFunc
	ended    chan struct{}
}

// retire lets the process finish what it has, however long that takes, and then
// ends it; when ctx ends, within the time to drain.
func (r *run) retire(ctx context.Context) {
	if s := r.v.session.Load(); s != nil {
		r.v.enter(Draining, nil)
		s.finish(ctx)
	}
	r.stop()
	<-r.ended
}

func launch(ctx context.Context, v *supervisor) *run {
	ctx, stop := context.WithCancel(ctx)
	r := &run{v, ctx, stop, make(chan struct{})}
	go func() {
		defer close(r.ended)
		defer stop()
		v.run(ctx)
	}()
	return r
}

// look is the status of the plugin: of what takes messages, and of what is to
// take its place.
func (p *place) look() PluginStatus {
	status := p.current.Load().look()
	if next := p.next.Load(); next != nil {
		s := next.look()
		status.Next = &s
	}
	return status
}

// serves says whether the process that takes messages is one that the type is
// routed to.
func (p *place) serves(typ string) bool { return slices.Contains(p.current.Load().routed(), typ) }
