package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

const (
	s3Prefix  = "s3://"
	ssmPrefix = "ssm:"
	// readTimeout bounds one reading.
	readTimeout = 10 * time.Second
)

// Files reads texts of an account. The zero Files is ready; it looks for credentials
// when it is first asked. It is safe for concurrent use.
type Files struct {
	mu      sync.Mutex
	account *aws.Config // guarded by mu; nil: not looked for yet
}

// Read gives a text by its name, at most one byte more than limit of it: an object in
// S3, s3://bucket/key, or a parameter of Systems Manager, ssm:/name.
// It waits for an answer for 10 s at most. Errors name the text and what to do.
func (f *Files) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	cfg, err := f.config(ctx)
	if err != nil {
		return nil, err
	}
	if parameter, ok := strings.CutPrefix(name, ssmPrefix); ok {
		return readParameter(ctx, cfg, parameter)
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(name, s3Prefix), "/")
	if bucket == "" || key == "" {
		return nil, errors.New("it is not of the form s3://bucket/key")
	}
	return readObject(ctx, cfg, bucket, key, limit)
}

func (f *Files) config(ctx context.Context) (aws.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.account == nil {
		cfg, err := Load(ctx, "")
		if err != nil {
			return aws.Config{}, err
		}
		f.account = &cfg
	}
	return *f.account, nil
}

func readParameter(ctx context.Context, cfg aws.Config, name string) ([]byte, error) {
	out, err := ssm.NewFromConfig(cfg).GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(name), WithDecryption: aws.Bool(true)})
	if _, is := errors.AsType[*ssmtypes.ParameterNotFound](err); is {
		return nil, fmt.Errorf("there is no such parameter in %s: check its name and AWS_REGION", cfg.Region)
	}
	if err != nil {
		return nil, fmt.Errorf("the parameter cannot be read (it takes ssm:GetParameter on it): %w", err)
	}
	return []byte(aws.ToString(out.Parameter.Value)), nil
}

func readObject(ctx context.Context, cfg aws.Config, bucket, key string, limit int64) ([]byte, error) {
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		// Where another address stands in for S3, no name resolves below it.
		o.UsePathStyle = cfg.BaseEndpoint != nil
	})
	out, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if _, is := errors.AsType[*s3types.NoSuchKey](err); is {
		return nil, errors.New("there is no such object in the bucket: check the key")
	}
	if err != nil {
		return nil, fmt.Errorf("the object cannot be read (it takes s3:GetObject on it): %w", err)
	}
	defer out.Body.Close()
	return io.ReadAll(io.LimitReader(out.Body, limit+1))
}
