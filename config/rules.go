package config

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// lanes is how many windows the engine has: ten levels, and the work queue itself.
const lanes = 11

// check applies the rules that need more than one value.
func (l *loader) check(cfg *Config, o Options) {
	l.required(l.root, nil, l.named)
	l.checkBroker(cfg)
	l.checkPlugins(cfg)
	l.checkMemory(cfg.Engine)
	if r := cfg.Engine.Reserve; r.Slots >= cfg.Engine.Slots {
		l.problem(path{"engine", "reserve", "slots"}, Problem{
			Message: fmt.Sprintf("engine.reserve.slots is %d, and there are %d slots in all", r.Slots, cfg.Engine.Slots),
			Hint:    "leave some for the other levels: lower it, or raise engine.slots",
		})
	}
	l.checkAddresses(cfg)
	l.checkVariables(o.Environ)
	for name, p := range cfg.Plugins {
		l.absolute(path{"plugins", name}, &p)
		cfg.Plugins[name] = p
	}
}

// problem reports p at the place of the path, or of what it stands in.
func (l *loader) problem(at path, p Problem) {
	for n := len(at); n > 0; n-- {
		if m, ok := l.marks[at[:n].id()]; ok {
			if p.Path == "" {
				p.Path = at.String()
			}
			m.problem(p)
			return
		}
	}
	p.File = "configuration"
	l.report(p)
}

// required reports required keys that are missing below s.
func (l *loader) required(s *shape, p path, named map[string]any) {
	for _, sub := range s.sub {
		at := p.to(sub.name)
		_, set := l.marks[at.id()]
		_, present := l.marks[p.id()]
		if sub.required && !set && present && !l.broken[at.id()] && !l.broken[p.id()] {
			l.problem(p, Problem{
				Path: at.String(), Message: fmt.Sprintf("%s has no %s", p, sub.name),
				Hint: fmt.Sprintf("add %s: %s%s", sub.name, sub.kind.like, sub.orElse),
			})
		}
		if below, ok := named[sub.name].(map[string]any); ok {
			l.required(sub, at, below)
		}
	}
	if s.any == nil {
		return
	}
	for name, value := range named {
		if below, ok := value.(map[string]any); ok {
			l.required(s.any, p.to(name), below)
		}
	}
}

// checkBroker leaves the embedded broker out where another one is named.
func (l *loader) checkBroker(cfg *Config) {
	if len(cfg.Broker.URLs) == 0 {
		return
	}
	cfg.Embedded = Embedded{}
	if _, set := l.marks[path{"embedded", "stomp"}.id()]; set {
		l.problem(path{"embedded", "stomp"}, Problem{
			Warning: true, Message: "embedded.stomp has no effect: broker.urls names another broker", Hint: "remove one of them",
		})
	}
}

// checkPlugins checks that types name plugins that exist, and finds plugins
// that no type names.
func (l *loader) checkPlugins(cfg *Config) {
	used := map[string]bool{}
	names := slices.Sorted(maps.Keys(cfg.Plugins))
	for name, t := range cfg.Types {
		used[t.Plugin] = true
		at := path{"types", name, "plugin"}
		if _, ok := cfg.Plugins[t.Plugin]; ok || t.Plugin == "" || l.broken["plugins"] || l.broken[path{"plugins", t.Plugin}.id()] {
			continue
		}
		p := Problem{Message: "there is no plugin " + quote(t.Plugin), Hint: "the plugins are " + strings.Join(names, ", ")}
		if len(names) == 0 {
			p.Hint = fmt.Sprintf("add it: plugins: {%s: {command: [./bin/%s]}}", t.Plugin, t.Plugin)
		}
		if near := nearest(t.Plugin, names); near != "" {
			p.Message += fmt.Sprintf(" (did you mean %q?)", near)
		}
		l.problem(at, p)
	}
	for _, name := range names {
		if !used[name] && !l.broken["types"] {
			l.problem(path{"plugins", name}, Problem{
				Warning: true, Message: "no type names the plugin " + quote(name), Hint: "it runs, and gets no messages: add a type with plugin: " + name + ", or remove it",
			})
		}
	}
}

// checkMemory checks that the bodies in hand fit into the budget.
func (l *loader) checkMemory(e Engine) {
	window, body, memory := path{"engine", "window"}, path{"engine", "maxBody"}, path{"engine", "memory"}
	needed := lanes * int64(e.Window) * e.MaxBody
	if l.broken[window.id()] || l.broken[body.id()] || l.broken[memory.id()] || needed <= e.Memory {
		return
	}
	at := memory
	for _, p := range []path{memory, body, window} {
		if _, set := l.marks[p.id()]; set {
			at = p
		}
	}
	fixes := []string{"memory to at least " + showSize((needed+mib-1)/mib*mib)}
	if n := e.Memory / (lanes * int64(e.Window)) / kib; n > 0 {
		fixes = append(fixes, fmt.Sprintf("maxBody to at most %dKiB", n))
	}
	if n := e.Memory / (lanes * e.MaxBody); n > 0 {
		fixes = append(fixes, fmt.Sprintf("window to at most %d", n))
	}
	l.problem(at, Problem{
		Message: fmt.Sprintf("%d lanes x window %d x maxBody %s are %s, over engine.memory, %s", lanes, e.Window, showSize(e.MaxBody), roughSize(needed), showSize(e.Memory)),
		Hint:    "change one of them: " + strings.Join(fixes, ", or "),
	})
}

// roughSize rounds down to what people read.
func roughSize(n int64) string {
	for _, u := range units[:3] {
		if n >= u.bytes {
			return fmt.Sprintf("%g%s", float64(n*10/u.bytes)/10, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// checkAddresses warns of what the whole network can reach, or nobody can.
func (l *loader) checkAddresses(cfg *Config) {
	if at := (path{"server", "listen"}); !loopback(cfg.Server.Listen) && cfg.Secrets.Token == "" && !l.broken[at.id()] {
		l.problem(at, Problem{
			Warning: true, Message: "the server can be reached from other machines and has no token: it will not start",
			Hint: "set " + TokenVariable + " in the environment, or listen on 127.0.0.1",
		})
	}
	if at := (path{"notify", "origins"}); len(cfg.Notify.Origins) > 0 && !loopback(cfg.Server.Listen) && cfg.Secrets.WatchKeys == "" && !l.broken[at.id()] {
		l.problem(at, Problem{
			Warning: true, Message: "pages of these origins cannot watch: the server can be reached from other machines, and there are no keys for their tokens",
			Hint: "set " + WatchKeysVariable + " in the environment; without it only clients that send " + TokenVariable + " may watch, which pages cannot",
		})
	}
	if at := (path{"embedded", "stomp"}); len(cfg.Broker.URLs) == 0 && !loopback(cfg.Embedded.Stomp) && !l.broken[at.id()] {
		l.problem(at, Problem{
			Warning: true, Message: "the embedded broker can be reached from other machines, and asks nobody for a login",
			Hint: "listen on 127.0.0.1, or let only producers reach the port",
		})
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// checkVariables warns of variables that would be keys with a second underscore.
func (l *loader) checkVariables(environ []string) {
	meant := map[string]path{}
	var walk func(s *shape, p path)
	walk = func(s *shape, p path) {
		for _, sub := range s.sub {
			at := p.to(sub.name)
			meant["USHER_"+strings.ToUpper(strings.Join(at, "_"))] = at
			walk(sub, at)
		}
	}
	walk(l.root, nil)
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if p := meant[name]; len(p) > 1 && !onlyInFiles(p) {
			l.report(Problem{
				File: "environment " + name, Path: p.String(), Warning: true,
				Message: "this variable is not read (did you mean " + variableOf(p) + "?)", Hint: "a level is two underscores",
			})
		}
	}
}

// absolute makes the paths of a plugin absolute: those in a file are relative
// to its folder.
func (l *loader) absolute(at path, p *Plugin) {
	if len(p.Command) == 0 {
		return // reported already
	}
	command := at.to("command")
	if p.Command[0] == "" {
		l.problem(command, Problem{Message: command.String() + " names no program", Hint: "for example command: [./bin/orders]"})
	}
	if strings.Contains(p.Command[0], "/") {
		p.Command[0] = l.resolve(command, p.Command[0])
	}
	if p.Dir == "" {
		p.Dir = l.resolve(command, ".")
	} else {
		p.Dir = l.resolve(at.to("dir"), p.Dir)
	}
	files := map[string]string{}
	for name, sum := range p.Files {
		from := at.to("files").to(name)
		file := l.resolve(from, name)
		if _, twice := files[file]; twice {
			l.problem(from, Problem{Message: "the file " + quote(file) + " occurs twice", Hint: "remove one of them"})
		}
		files[file] = sum
		l.marks[at.to("files").to(file).id()] = l.marks[from.id()]
	}
	p.Files = files
}

// resolve makes a path absolute that was set at the given key.
func (l *loader) resolve(at path, name string) string {
	if file := l.marks[at.id()].origin.File; !filepath.IsAbs(name) && file != l.builtIn && !IsRemote(file) {
		name = filepath.Join(filepath.Dir(file), name)
	}
	full, err := filepath.Abs(name)
	if err != nil {
		l.problem(at, Problem{Message: "the folder of " + quote(name) + " cannot be told: " + err.Error(), Hint: "write absolute paths"})
	}
	return full
}
