package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"usher/engine"
)

// maxCounted is how many waiting messages of a type are counted.
const maxCounted = 1000

// types answers with the types that this engine runs, and all that are held.
func (s *Server) types(w http.ResponseWriter, r *http.Request) error {
	holds, err := s.cfg.Table.Holds(r.Context())
	if err != nil {
		return fmt.Errorf("server: read which types are held: %w", err)
	}
	list := TypeList{Items: []Type{}}
	view, _ := s.cfg.Engine.View()
	for name, v := range view.ByType {
		list.Items = append(list.Items, Type{Name: name, Plugin: v.Plugin, Ready: v.Ready, Running: v.Running, Held: v.Held, Failing: v.Failing, Detail: v.Detail})
	}
	for name := range holds.Types {
		if _, known := view.ByType[name]; !known {
			list.Items = append(list.Items, Type{Name: name, Held: true})
		}
	}
	slices.SortFunc(list.Items, func(a, b Type) int { return strings.Compare(a.Name, b.Name) })
	for i, t := range list.Items {
		if t, err = s.withHold(r.Context(), t, holds.Types[t.Name]); err != nil {
			return err
		}
		list.Items[i] = t
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// withHold adds why a type is held, and what waits for that to end.
func (s *Server) withHold(ctx context.Context, t Type, hold engine.Hold) (Type, error) {
	t.Paused, t.Removed = hold.Paused, hold.Removed
	if !t.Held {
		return t, nil
	}
	waiting, err := s.cfg.Table.Waiting(ctx, engine.Waits{Limit: maxCounted + 1, Type: t.Name})
	if err != nil {
		return t, fmt.Errorf("server: count what waits: %w", err)
	}
	t.Waiting, t.More = min(len(waiting), maxCounted), len(waiting) > maxCounted
	return t, nil
}

// pause has the messages of a type wait.
func (s *Server) pause(w http.ResponseWriter, r *http.Request) error {
	return s.hold(w, r, "paused", func(ctx context.Context, typ string) error { return engine.Pause(ctx, s.cfg.Table, typ, time.Now()) })
}

// resume lets them go on.
func (s *Server) resume(w http.ResponseWriter, r *http.Request) error {
	return s.hold(w, r, "resumed", func(ctx context.Context, typ string) error { return engine.Resume(ctx, s.cfg.Table, typ) })
}

func (s *Server) hold(w http.ResponseWriter, r *http.Request, done string, change func(ctx context.Context, typ string) error) error {
	typ := r.PathValue("type")
	view, here := s.cfg.Engine.View()
	v, known := view.ByType[typ]
	holds, err := s.cfg.Table.Holds(r.Context())
	if err != nil {
		return fmt.Errorf("server: read which types are held: %w", err)
	}
	if _, held := holds.Types[typ]; here && !known && !held {
		return problem(http.StatusNotFound, "no_type", "no such type", fmt.Sprintf("the configuration has no type %.128q", typ), "usher type list shows all")
	}
	if err := change(r.Context(), typ); err != nil {
		return fmt.Errorf("server: hold a type: %w", err)
	}
	s.cfg.Log.Info().Str("type", typ).Str("remote", r.RemoteAddr).Msg("an operator " + done + " a type")
	if holds, err = s.cfg.Table.Holds(r.Context()); err != nil {
		return fmt.Errorf("server: read which types are held: %w", err)
	}
	hold := holds.Types[typ]
	t := Type{Name: typ, Plugin: v.Plugin, Ready: v.Ready, Running: v.Running, Held: hold != engine.Hold{}}
	if t, err = s.withHold(r.Context(), t, hold); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, t)
	return nil
}

// config answers with the configuration that is in use.
func (s *Server) config(w http.ResponseWriter, _ *http.Request) error {
	report, err := s.cfg.ConfigFunc()
	if err != nil {
		return errors.Join(errors.New("server: show the configuration"), err)
	}
	writeJSON(w, http.StatusOK, report)
	return nil
}
