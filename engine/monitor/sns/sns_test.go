package sns_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssns "github.com/aws/aws-sdk-go-v2/service/sns"
	"go.uber.org/goleak"

	"usher/engine/enginetest/moto"
	"usher/engine/monitor"
	"usher/engine/monitor/sns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whoever has subscribed to notes of a type gets the whole note, and none of another.
func TestANoteReachesWhoHasSubscribed(t *testing.T) {
	cfg := moto.Start(t).Config()
	ctx := t.Context()
	arrived := make(chan []byte, 10)
	subscriber := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		arrived <- body
	}))
	defer subscriber.Close()
	topics := awssns.NewFromConfig(cfg)
	topic, err := topics.CreateTopic(ctx, &awssns.CreateTopicInput{Name: aws.String("usher-ops")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = topics.Subscribe(ctx, &awssns.SubscribeInput{
		TopicArn: topic.TopicArn, Protocol: aws.String("http"), Endpoint: aws.String(subscriber.URL),
		Attributes: map[string]string{"FilterPolicy": `{"type":["order.rush"],"reason":["permanent"],"count":[{"numeric":["=",7]}]}`},
	})
	if err != nil {
		t.Fatal(err)
	}
	to, err := sns.New(cfg, aws.ToString(topic.TopicArn))
	if err != nil {
		t.Fatal(err)
	}
	want := monitor.Note{
		V: monitor.NoteVersion, Text: "7 more dead letters in 5m0s, order.rush: permanent (no such höuse)\nx", Type: "order.rush", Reason: "permanent",
		Count: 7, From: time.Unix(1, 0).UTC(), Until: time.Unix(2, 0).UTC(), IDs: []string{"order-7"},
	}
	for _, n := range []monitor.Note{{Text: "of another", Type: "report", Reason: "permanent", Count: 7}, want} {
		if err := to.Tell(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	// moto has posted it before it answered.
	var post struct {
		Type    string `json:"type"`
		Subject string `json:"subject"`
		Message string `json:"message"`
	}
	if body := <-arrived; json.Unmarshal(body, &post) != nil || post.Type != "Notification" || post.Subject != "7 more dead letters in 5m0s, order.rush: permanent (no such h use) x" {
		t.Errorf("it was posted %s", body)
	}
	var note monitor.Note
	if err := json.Unmarshal([]byte(post.Message), &note); err != nil || note.Text != want.Text || note.Type != want.Type || note.Count != want.Count || len(note.IDs) != 1 {
		t.Errorf("the note is %+v (%v)", note, err)
	}
	if len(arrived) != 0 {
		t.Errorf("and then %s", <-arrived)
	}
}

// A topic that is not there is not there a second later either.
func TestAMissingTopicIsNotTriedAgain(t *testing.T) {
	cfg := moto.Start(t).Config()
	to, err := sns.New(cfg, "arn:aws:sns:"+cfg.Region+":123456789012:none")
	if err != nil {
		t.Fatal(err)
	}
	err = to.Tell(t.Context(), monitor.Note{Text: "x"})
	var says monitor.Again
	if !errors.As(err, &says) {
		t.Fatalf("%v does not say whether to try again", err)
	}
	if _, again := says.Again(); again || !strings.Contains(err.Error(), ":none") {
		t.Errorf("%v: %v", again, err)
	}
}

func TestATopicIsAnARN(t *testing.T) {
	for _, text := range []string{"", "usher-ops", "arn:aws:sqs:eu-central-1:1:x", "arn:aws:sns::1:x"} {
		if _, err := sns.New(aws.Config{}, text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
