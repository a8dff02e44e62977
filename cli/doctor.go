package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"usher/config"
	"usher/engine"
	"usher/handlers"
	"usher/server"
)

func doctorCommand() *cobra.Command {
	var ready bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check that everything is as it should be, and say what to do if not",
		Long: `Check a running usher from outside, one line a finding, and say what to do. Exit 1 if
something is wrong, 5 if nothing answers; what is marked ? is not known, and no fault.
What is said of the broker is what the running engine has seen of it: it sends a probe
of each level when a session begins. --ready only asks whether it is ready, and is
silent when it is: for health checks of containers.`,
		Example: "  usher doctor\n  usher doctor --ready",
		RunE: func(c *cobra.Command, _ []string) error {
			if ready {
				return readiness(c.Context(), nil)
			}
			findings, reached := examine(c.Context())
			if wantsJSON(c) {
				if err := printJSON(c, findings); err != nil {
					return err
				}
			} else if err := printFindings(c, findings); err != nil {
				return err
			}
			return verdict(findings, reached)
		},
	}
	c.Flags().BoolVar(&ready, "ready", false, "only ask /readyz; silent when ready")
	return c
}

// verdict is an error if something is not as it should be, or nothing was
// reached. What is not known is no fault.
func verdict(findings []server.Finding, reached bool) error {
	var failed []string
	for _, f := range findings {
		if f.State == server.StateFailed {
			failed = append(failed, f.Name)
		}
	}
	switch {
	case !reached:
		return fail(exitUnreachable, "no engine answers at %s (USHER_URL)", newAPI().base)
	case len(failed) > 0:
		return fail(exitFailed, "not as it should be: %s", strings.Join(failed, ", "))
	}
	return nil
}

func printFindings(c *cobra.Command, findings []server.Finding) error {
	marks := map[string]string{server.StateOK: "ok", server.StateFailed: "FAIL", server.StateUnknown: "?"}
	for _, f := range findings {
		if _, err := fmt.Fprintf(c.OutOrStdout(), "%-4s  %-10s  %s\n", marks[f.State], f.Name, f.Detail); err != nil {
			return err
		}
		if f.State != server.StateOK && f.Help != "" {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "      %-10s  → %s\n", "", f.Help); err != nil {
				return err
			}
		}
	}
	return nil
}

// readiness asks /readyz; what it says goes into r if that is not nil.
func readiness(ctx context.Context, r *server.Readiness) error {
	a := newAPI()
	a.http.Timeout = 5 * time.Second
	path := "/readyz"
	if r != nil {
		path += "?verbose"
	}
	resp, err := a.get(ctx, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if r != nil {
		return decode(resp, r)
	}
	if resp.StatusCode != http.StatusOK {
		return fail(exitFailed, "not ready (%s/readyz?verbose says why)", a.base)
	}
	return nil
}

// examine makes all findings; each is independent of the others. What concerns
// the broker is told by the engine that runs, of the broker that it uses; reached
// says whether there is one.
func examine(ctx context.Context) (all []server.Finding, reached bool) {
	add := func(name string, err error, detail, help string) {
		f := server.Finding{Name: name, State: server.StateOK, Detail: detail}
		if err != nil {
			f.State, f.Detail, f.Help = server.StateFailed, strings.ReplaceAll(err.Error(), "\n", " "), help
		}
		all = append(all, f)
	}
	if _, err := os.Stat("usher.yaml"); err == nil {
		_, err := config.Load(fromFiles(ctx, "usher.yaml"))
		add("config", err, "./usher.yaml is valid", "usher config validate")
	}
	var r server.Readiness
	unreachable := readiness(ctx, &r)
	if unreachable != nil || os.Getenv("USHER_BROKER") != "" {
		client, err := dialBroker(ctx)
		if err == nil {
			err = client.Close()
		}
		add("stomp", err, strings.Join(brokerConfig().URLs, ", ")+" answers", "start it, or set USHER_BROKER")
	}
	if unreachable != nil {
		add("engine", unreachable, "", "start `usher dev` or `usher run`, or set USHER_URL")
		return all, false
	}
	var b server.BrokerReport
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/broker", nil, &b); err != nil {
		add("broker", err, "", "")
	}
	all = append(all, readyFindings(r, b)...)
	all = append(all, b.Findings...)
	all = append(all, liveFindings(ctx)...)
	return append(all, deadFinding(ctx)), true
}

// liveFindings are of the configuration that is in use, and of the types.
func liveFindings(ctx context.Context) (all []server.Finding) {
	var types server.TypeList
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/types", nil, &types); err != nil {
		all = append(all, server.Finding{Name: "types", State: server.StateFailed, Detail: err.Error()})
	}
	all = append(all, heldFinding(types, time.Now())...)
	all = append(all, quarantineFindings(ctx)...)
	var report server.ConfigReport
	err := newAPI().call(ctx, http.MethodGet, "/api/v1/config", nil, &report)
	switch {
	case err != nil:
		all = append(all, server.Finding{Name: "in use", State: server.StateFailed, Detail: err.Error()})
	case report.Problem != "":
		all = append(all, server.Finding{
			Name: "in use", State: server.StateFailed, Detail: "the changed configuration is not used: " + handlers.OneLine(report.Problem, 200),
			Help: "mend it: usher config validate tells all that is wrong; until then all is as it was",
		})
	case len(report.NeedsRestart) > 0:
		all = append(all, server.Finding{
			Name: "in use", State: server.StateUnknown, Detail: "has changed and takes effect after a restart: " + strings.Join(report.NeedsRestart, ", "), Help: "restart usher when it suits",
		})
	}
	return all
}

// quarantineFindings are of plugins that crash too often.
func quarantineFindings(ctx context.Context) (all []server.Finding) {
	var l server.PluginList
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/plugins", nil, &l); err != nil {
		return []server.Finding{{Name: "plugins", State: server.StateFailed, Detail: err.Error()}}
	}
	for _, p := range l.Items {
		if p.Quarantined.IsZero() {
			continue
		}
		all = append(all, server.Finding{
			Name: "plugins", State: server.StateFailed,
			Detail: fmt.Sprintf("%s is in quarantine since %s: it crashed %d times within ten minutes, gets one message at a time, and the others wait: %s",
				p.Name, when(p.Quarantined), p.Crashes, handlers.OneLine(p.Error, 200)),
			Help: "look at its log, mend it and change its entry under plugins (a new process begins without quarantine); else it ends when three messages in a row come back",
		})
	}
	return all
}

// readyFindings are what /readyz checks, but for what the broker's findings say better.
func readyFindings(r server.Readiness, b server.BrokerReport) []server.Finding {
	var all []server.Finding
	for _, check := range r.Checks {
		f := server.Finding{Name: check.Name, State: server.StateOK, Detail: check.Detail}
		switch {
		case !check.OK:
			f.State = server.StateFailed
			if check.Name == "broker" {
				f.Help = "start the broker, or mend broker.urls: the log of usher run says what each address answered"
			}
		case slices.ContainsFunc(b.Findings, func(o server.Finding) bool { return o.Name == check.Name }):
			continue
		case check.Name == "broker" && b.Address != "":
			f.Detail = fmt.Sprintf("session with %s for %v", b.Address, time.Since(b.Since).Round(time.Second))
		default:
			f.Detail = "ready"
		}
		all = append(all, f)
	}
	return all
}

// deadFinding tells of the dead letters that wait for somebody, which are no fault
// of usher's, and of those that no monitor takes.
func deadFinding(ctx context.Context) server.Finding {
	failed := server.Finding{Name: "dead", State: server.StateFailed}
	var tally server.TallyList
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/dead/tally", nil, &tally); err != nil {
		failed.Detail = err.Error()
		return failed
	}
	var q server.QueueReport
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/queues", nil, &q); err != nil {
		failed.Detail = err.Error()
		return failed
	}
	if n := q.Dead.Size; n != nil && *n > manyQueued {
		failed.Detail = fmt.Sprintf("%d messages are in %s itself", *n, engine.DeadQueue)
		failed.Help = "is a monitor running (usher run --roles monitor)? What is too large for the archive stays there as well: usher dlq list shows it"
		return failed
	}
	return server.Finding{Name: "dead", State: server.StateOK, Detail: inWords(tally)}
}

// manyQueued is how many messages in the queue of dead letters are too many: a
// monitor takes them within seconds.
const manyQueued = 1000

func inWords(tally server.TallyList) string {
	if tally.Total == 0 {
		return "no dead letters wait for somebody"
	}
	var parts []string
	oldest := time.Now()
	for _, t := range tally.Items {
		parts = append(parts, fmt.Sprintf("%s %d", t.Reason, t.Count))
		if t.Oldest.Before(oldest) {
			oldest = t.Oldest
		}
	}
	return fmt.Sprintf("%d dead letters wait for somebody: %s; the oldest for %s: usher dlq list --kinds",
		tally.Total, strings.Join(parts, ", "), time.Since(oldest).Round(time.Second))
}
