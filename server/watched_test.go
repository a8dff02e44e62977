package server_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"usher/engine"
)

// metricsThereAre are all that /metrics can tell, with their labels.
func metricsThereAre(t *testing.T, r *rig) map[string][]string {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); r.metrics.Describe(descs) }()
	parts := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	all := map[string][]string{}
	for d := range descs {
		m := parts.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("not understood: %s", d)
		}
		labels := append(strings.Split(m[2], ","), "job", "instance")
		all[m[1]] = labels
		for _, suffix := range []string{"_bucket", "_sum", "_count"} { // of histograms
			all[m[1]+suffix] = append(slices.Clone(labels), "le")
		}
	}
	return all
}

// wantQuery checks that what a query names is there.
func wantQuery(t *testing.T, where, query string, all map[string][]string) {
	t.Helper()
	names := regexp.MustCompile(`\busher_[a-z_]+`).FindAllString(query, -1)
	if len(names) == 0 || strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
		t.Errorf("%s: the query %q names no metric, or a bracket is not closed", where, query)
	}
	var labels []string
	for _, name := range names {
		has, there := all[name]
		if !there {
			t.Errorf("%s: there is no metric %s", where, name)
		}
		labels = append(labels, has...)
	}
	used := regexp.MustCompile(`([a-z]+)\s*(?:=~|!=|=)"`).FindAllStringSubmatch(query, -1)
	for _, list := range regexp.MustCompile(`\bby \(([^)]*)\)`).FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(list[1], ",") {
			used = append(used, []string{"", strings.TrimSpace(label)})
		}
	}
	for _, label := range used {
		if !slices.Contains(labels, label[1]) {
			t.Errorf("%s: %v have no label %s", where, names, label[1])
		}
	}
}

func TestTheDashboardNamesMetricsThatThereAre(t *testing.T) {
	all := metricsThereAre(t, setup(t))
	text, err := os.ReadFile("../deploy/grafana/usher.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Type    string `json:"type"`
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	shown := string(text)
	panels := 0
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		panels++
		for _, target := range p.Targets {
			wantQuery(t, p.Title, target.Expr, all)
		}
		if len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("the panel %q shows nothing", p.Title)
		}
	}
	if panels < 20 {
		t.Errorf("there are %d panels", panels)
	}
	for name := range all {
		if !strings.HasPrefix(name, "usher_") || regexp.MustCompile(`_(bucket|sum|count)$`).MatchString(name) {
			continue
		}
		if alsoElsewhere := []string{"usher_messages_received_total", "usher_follow_ons_total", "usher_queue_in_flight", "usher_queue_in_hand",
			"usher_backlog", "usher_dead_queue_depth", "usher_in_hand", "usher_broker_finding", "usher_config_last_reload_success_timestamp_seconds"}; !strings.Contains(shown, name) && !slices.Contains(alsoElsewhere, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

func TestTheAlertsNameMetricsThatThereAreAndSayWhatToDo(t *testing.T) {
	all := metricsThereAre(t, setup(t))
	text, err := os.ReadFile("../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	page := regexp.MustCompile(`docs/[a-z-]+\.md`)
	for _, g := range file.Groups {
		for _, rule := range g.Rules {
			wantQuery(t, rule.Alert, rule.Expr, all)
			if !slices.Contains([]string{"critical", "warning"}, rule.Labels["severity"]) || rule.Annotations["summary"] == "" {
				t.Errorf("%s has no severity, or does not say what is wrong", rule.Alert)
			}
			doc := page.FindString(rule.Annotations["do"])
			if _, err := os.Stat("../" + doc); doc == "" || err != nil {
				t.Errorf("%s does not say what to do, or names a page that is not there: %q, %v", rule.Alert, rule.Annotations["do"], err)
			}
		}
	}
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) < 10 {
		t.Error("there are fewer than ten rules")
	}
}

func TestATypeWhoseAttemptsFailSaysSinceWhenAndWhy(t *testing.T) {
	r := setup(t)
	since := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	r.engine.view.ByType = map[string]engine.TypeView{"a": {Held: true, Failing: since, Detail: "refused"}, "b": {}}
	if text := r.ask(http.MethodGet, "/api/v1/types", "").Body.String(); !strings.Contains(text, `"failing":"2026-01-31T08:00:00Z","detail":"refused"`) || strings.Count(text, "failing") != 1 {
		t.Errorf("the types are %s", text)
	}
	text := r.ask(http.MethodGet, "/metrics", "").Body.String()
	for _, want := range []string{`usher_type_failing{type="a"} 1`, `usher_type_failing{type="b"} 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}
