// Package sns publishes ops notes to a topic of Amazon SNS.
package sns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"

	"usher/engine/monitor"
)

// answerTimeout is how long SNS has for its answer.
const answerTimeout = 5 * time.Second

// maxSubject is the length of the longest subject (SNS API reference, Publish: fewer
// than 100 characters, ASCII).
const maxSubject = 99

// Topic takes notes. It is safe for concurrent use.
type Topic struct {
	arn    string
	client *sns.Client
}

var _ monitor.Ops = (*Topic)(nil)

// New makes a Topic of its ARN, whose region is asked. It asks nothing.
func New(cfg aws.Config, topic string) (*Topic, error) {
	parsed, err := arn.Parse(topic)
	if err != nil || parsed.Service != "sns" || parsed.Region == "" {
		return nil, errors.New("sns: the topic is not of the form arn:aws:sns:region:account:name")
	}
	cfg.Region = parsed.Region
	return &Topic{arn: topic, client: sns.NewFromConfig(cfg, func(o *sns.Options) {
		o.Retryer = aws.NopRetryer{} // the monitor does
	})}, nil
}

// Tell publishes a note; see [monitor.Ops]. People who subscribed by mail read its line
// of text; the attributes type and reason are there to filter by, and the whole note as
// JSON is what every other protocol gets.
func (t *Topic) Tell(ctx context.Context, n monitor.Note) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	whole, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("sns: %w", err)
	}
	message, err := json.Marshal(map[string]string{"default": string(whole), "email": n.Text, "sms": n.Text})
	if err != nil {
		return fmt.Errorf("sns: %w", err)
	}
	attributes := map[string]types.MessageAttributeValue{
		"count": {DataType: aws.String("Number"), StringValue: aws.String(strconv.Itoa(n.Count))},
	}
	for name, value := range map[string]string{"type": n.Type, "reason": n.Reason} {
		if value != "" {
			attributes[name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(value)}
		}
	}
	_, err = t.client.Publish(ctx, &sns.PublishInput{
		TopicArn: aws.String(t.arn), Subject: aws.String(subject(n.Text)), Message: aws.String(string(message)), MessageStructure: aws.String("json"),
		MessageAttributes: attributes,
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("sns: %s: %w", t.arn, err)
	if answer, is := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); is && answer.HTTPStatusCode() >= 400 && answer.HTTPStatusCode() < 500 && answer.HTTPStatusCode() != http.StatusTooManyRequests {
		return final{err}
	}
	return err
}

// subject is the beginning of a text, in what a subject may have.
func subject(text string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
	return strings.TrimSpace(ascii[:min(len(ascii), maxSubject)])
}

// final is an error after which trying again is of no use.
type final struct{ error }

// Again says that trying again is of no use.
func (final) Again() (after time.Duration, ok bool) { return 0, false }

func (f final) Unwrap() error { return f.error }
