package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"usher/config"
	"usher/server"
)

// finding is one thing that doctor looked at.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Help   string `json:"help,omitempty"`
}

func doctorCommand() *cobra.Command {
	var ready bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check that everything is as it should be, and say what to do if not",
		Long: `Check a running usher from outside, one line a finding, and say what to do. Exit 1 if
something is wrong, 5 if nothing answers. --ready only asks whether it is ready, and is
silent when it is: for health checks of containers.`,
		Example: "  usher doctor\n  usher doctor --ready",
		RunE: func(c *cobra.Command, _ []string) error {
			if ready {
				return readiness(c.Context(), nil)
			}
			findings := examine(c.Context())
			if wantsJSON(c) {
				if err := printJSON(c, findings); err != nil {
					return err
				}
			} else if err := printFindings(c, findings); err != nil {
				return err
			}
			for _, f := range findings {
				if !f.OK {
					return &failure{exitFailed, fmt.Errorf("%s is not as it should be", f.Name)}
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&ready, "ready", false, "only ask /readyz; silent when ready")
	return c
}

func printFindings(c *cobra.Command, findings []finding) error {
	for _, f := range findings {
		mark := "ok  "
		if !f.OK {
			mark = "FAIL"
		}
		if _, err := fmt.Fprintf(c.OutOrStdout(), "%s  %-9s %s\n", mark, f.Name, f.Detail); err != nil {
			return err
		}
		if !f.OK && f.Help != "" {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "      %-9s → %s\n", "", f.Help); err != nil {
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

// examine makes all findings; each is independent of the others.
func examine(ctx context.Context) []finding {
	var all []finding
	add := func(name string, err error, detail, help string) {
		f := finding{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			f.Detail, f.Help = strings.ReplaceAll(err.Error(), "\n", " "), help
		}
		all = append(all, f)
	}
	if _, err := os.Stat("usher.yaml"); err == nil {
		_, err := config.Load(config.Options{Files: []string{"usher.yaml"}, Environ: os.Environ()})
		add("config", err, "./usher.yaml is valid", "usher config validate")
	}
	client, err := dialBroker(ctx)
	if err == nil {
		err = client.Close()
	}
	add("stomp", err, strings.Join(brokerConfig().URLs, ", ")+" answers", "start it, or set USHER_BROKER")
	var r server.Readiness
	if err := readiness(ctx, &r); err != nil {
		add("engine", err, "", "start `usher dev` or `usher run`, or set USHER_URL")
		return all
	}
	for _, check := range r.Checks {
		f := finding{Name: check.Name, OK: check.OK, Detail: check.Detail}
		if f.OK && f.Detail == "" {
			f.Detail = "ready"
		}
		all = append(all, f)
	}
	return append(all, examineQueues(ctx)...)
}

// examineQueues looks for what is wrong although everything is up.
func examineQueues(ctx context.Context) []finding {
	var q server.QueueReport
	if err := newAPI().call(ctx, http.MethodGet, "/api/v1/queues", nil, &q); err != nil {
		return []finding{{Name: "queues", Detail: err.Error()}}
	}
	lanes := finding{Name: "lanes", OK: true, Detail: "the broker sorts messages into ten lanes"}
	if n := q.Unsorted.Waiting; n != nil && *n > 0 {
		lanes.OK = false
		lanes.Detail = fmt.Sprintf("%d messages wait in %s itself", *n, q.Unsorted.Queue)
		lanes.Help = "without lanes the broker keeps three bands of priority, not ten levels: usher deploy broker-xml writes its configuration"
	}
	statistics := finding{Name: "depths", OK: true, Detail: "the broker tells how much waits"}
	if q.Note != "" {
		statistics.OK, statistics.Detail, statistics.Help = false, q.Note, "order is kept by evidence alone; add <statisticsBrokerPlugin/> to the broker's XML"
	}
	dead := finding{Name: "dead", OK: true, Detail: "no dead letters"}
	if n := q.Dead.Waiting; n != nil && *n > 0 {
		dead.Detail = fmt.Sprintf("%d dead letters wait for somebody: usher dlq list", *n)
	}
	return []finding{lanes, statistics, dead}
}
