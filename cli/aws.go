package cli

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"usher/account"
	"usher/config"
	"usher/engine"
	"usher/engine/apigateway"
	"usher/engine/monitor/sns"
	"usher/engine/watchtoken"
)

// accountTimeout is how long the machine has to say who it is in AWS.
const accountTimeout = 20 * time.Second

// inAccount finds credentials and region for what a key of the configuration needs.
func inAccount(key string) (aws.Config, error) {
	ctx, cancel := context.WithTimeout(context.Background(), accountTimeout)
	defer cancel()
	cfg, err := account.Load(ctx, "")
	if err != nil {
		return cfg, fail(exitInvalid, "%s: %w", key, err)
	}
	return cfg, nil
}

// openUser prepares the broker's user, if that is in Secrets Manager.
func (s *stack) openUser() error {
	if s.cfg.Broker.Secret == "" || s.embedded() {
		return nil
	}
	cfg, err := inAccount("broker.secret")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), accountTimeout)
	defer cancel()
	s.user = account.NewUser(cfg, s.cfg.Broker.Secret)
	if _, _, err := s.user.Credentials(ctx, false); err != nil {
		return fail(exitFailed, "broker.secret: %w", err)
	}
	return nil
}

// openGateway prepares what pushes to watchers over API Gateway, and what its API calls.
func (s *stack) openGateway(keys watchtoken.Keys) error {
	endpoint := s.cfg.Notify.APIGateway.Endpoint
	if endpoint == "" {
		return nil
	}
	if len(s.cfg.Secrets.Gateway) < apigateway.MinSecretBytes {
		return fail(exitInvalid, "notify.apigateway: set %s in the environment, %d bytes or more, to what the API's integrations show", config.GatewayVariable, apigateway.MinSecretBytes)
	}
	if !keys.Any() {
		return fail(exitInvalid, "notify.apigateway: set %s in the environment: without keys of tokens everybody on the Internet could watch every message", config.WatchKeysVariable)
	}
	cfg, err := inAccount("notify.apigateway")
	if err != nil {
		return err
	}
	s.pusher = apigateway.New(apigateway.Config{AWS: cfg, Endpoint: endpoint, LostFunc: s.metrics.PushLost, Log: s.part("apigateway")})
	s.undo = append(s.undo, s.pusher.Close)
	s.gateway, err = apigateway.NewCallbacks(apigateway.CallbacksConfig{
		Table: s.records, Pusher: s.pusher, Secret: s.cfg.Secrets.Gateway, Origins: s.cfg.Notify.Origins, Keys: keys, Stage: s.cfg.Notify.Stage,
		NudgeFunc: s.watch, RefusedFunc: s.metrics.WatchRefused, Log: s.part("apigateway"),
	})
	if err != nil {
		return fail(exitInvalid, "%w", err)
	}
	return nil
}

// notifier tells all who watch, however they are connected.
func (s *stack) notifier() engine.Notifier {
	if s.pusher == nil {
		return s.hub
	}
	return everyone{s.hub, s.pusher}
}

// everyone is told together.
type everyone []engine.Notifier

func (e everyone) Notify(watchers []engine.Watcher, st engine.Status) {
	for _, n := range e {
		n.Notify(watchers, st)
	}
}

// openTopic prepares the topic that notes for operators go to.
func openTopic(arn string) (*sns.Topic, error) {
	cfg, err := inAccount("monitor.topic")
	if err != nil {
		return nil, err
	}
	topic, err := sns.New(cfg, arn)
	if err != nil {
		return nil, fail(exitInvalid, "monitor.topic: %w", err)
	}
	return topic, nil
}
