package account_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/rs/zerolog"

	"usher/account"
	"usher/deploy/brokerxml"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
)

// oneUser lets one user in, besides the test's own look whether it runs.
const oneUser = `<plugins>
  <simpleAuthenticationPlugin anonymousAccessAllowed="true"><users><authenticationUser username="usher" password="new" groups="work"/></users></simpleAuthenticationPlugin>`

// The password was changed after usher had read it. A real broker refuses the old one,
// and usher is in with the new one.
func TestARotatedPasswordIsReadAgain(t *testing.T) {
	cfg := settings(t)
	broker := activemq.Start(t, func(w io.Writer, address, data string) error {
		var xml bytes.Buffer
		if err := brokerxml.Write(&xml, brokerxml.Options{STOMP: address, Data: data}); err != nil {
			return err
		}
		_, err := io.WriteString(w, strings.Replace(xml.String(), "<plugins>", oneUser, 1))
		return err
	})
	secrets := secretsmanager.NewFromConfig(cfg)
	if _, err := secrets.CreateSecret(within(t), &secretsmanager.CreateSecretInput{
		Name: aws.String("usher/broker"), SecretString: aws.String(`{"username":"usher","password":"old"}`),
	}); err != nil {
		t.Fatal(err)
	}
	user := account.NewUser(cfg, "usher/broker")
	if login, passcode, err := user.Credentials(within(t), false); err != nil || login != "usher" || passcode != "old" {
		t.Fatalf("%s %s: %v", login, passcode, err)
	}
	if _, err := secrets.PutSecretValue(within(t), &secretsmanager.PutSecretValueInput{
		SecretId: aws.String("usher/broker"), SecretString: aws.String(`{"username":"usher","password":"new"}`),
	}); err != nil {
		t.Fatal(err)
	}
	var log locked
	letters, err := stomp.NewSubscriber(stomp.Config{
		URLs: []string{"stomp://" + broker.Address()}, CredentialsFunc: user.Credentials, Log: zerolog.New(&log),
	}, []string{"letters"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(within(t))
	var ran sync.WaitGroup
	ran.Go(func() { _ = letters.Run(ctx) }) // which ends with ctx
	defer ran.Wait()
	defer end()
	batch, err := letters.Receive(ctx)
	if err != nil || batch.Epoch != 1 {
		t.Fatalf("the first that comes is a session: %+v (%v)", batch, err)
	}
	if login, passcode, err := user.Credentials(within(t), false); err != nil || login != "usher" || passcode != "new" {
		t.Errorf("it keeps %s %s: %v", login, passcode, err)
	}
	if log.bytes.Load() == 0 {
		t.Error("a session was made, and not a word of it")
	}
}

// locked counts what is written.
type locked struct{ bytes atomic.Int64 }

func (l *locked) Write(p []byte) (int, error) {
	l.bytes.Add(int64(len(p)))
	return len(p), nil
}

func TestWhatIsNoUser(t *testing.T) {
	cfg := settings(t)
	secrets := secretsmanager.NewFromConfig(cfg)
	for name, text := range map[string]string{"text": "hunter2", "half": `{"username":"usher"}`} {
		if _, err := secrets.CreateSecret(within(t), &secretsmanager.CreateSecretInput{Name: aws.String(name), SecretString: aws.String(text)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"text": `the secret text is not of the form {"username":"…","password":"…"}`,
		"half": `the secret half is not of the form`,
		"none": "there is no secret none: check broker.secret and the region",
	} {
		_, _, err := account.NewUser(cfg, name).Credentials(within(t), false)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
