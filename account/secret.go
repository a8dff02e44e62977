package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
)

// User is a broker's user in Secrets Manager, as {"username":"…","password":"…"}. It
// is read when it is first needed, and again when the broker refuses it. It is safe for
// concurrent use.
type User struct {
	name   string
	client *secretsmanager.Client

	mu    sync.Mutex
	known *credentials // guarded by mu; nil: not read yet
}

type credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// NewUser makes a User of a secret's name or ARN. It asks nothing.
func NewUser(cfg aws.Config, name string) *User {
	return &User{name: name, client: secretsmanager.NewFromConfig(cfg)}
}

// Credentials gives login and passcode. stale says that those given last are refused,
// so that they are read again. The error names the secret and what to do, and never
// what is in it. It waits for an answer for 10 s at most.
func (u *User) Credentials(ctx context.Context, stale bool) (login, passcode string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil || stale {
		read, err := u.read(ctx)
		if err != nil {
			return "", "", err
		}
		u.known = &read
	}
	return u.known.Username, u.known.Password, nil
}

func (u *User) read(ctx context.Context) (credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	out, err := u.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String(u.name)})
	if _, is := errors.AsType[*types.ResourceNotFoundException](err); is {
		return credentials{}, fmt.Errorf("there is no secret %s: check broker.secret and the region", u.name)
	}
	if err != nil {
		return credentials{}, fmt.Errorf("the secret %s cannot be read (it takes secretsmanager:GetSecretValue on it): %w", u.name, err)
	}
	var c credentials
	if json.Unmarshal([]byte(aws.ToString(out.SecretString)), &c) != nil || c.Username == "" || c.Password == "" {
		return credentials{}, fmt.Errorf(`the secret %s is not of the form {"username":"…","password":"…"}`, u.name)
	}
	return c, nil
}
