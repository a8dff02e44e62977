// Package account reads what an AWS account holds for usher: its configuration in S3
// or in the parameters of Systems Manager, and the broker's user in Secrets Manager.
//
// Credentials, the region and, for tests, other addresses than AWS's own are found as
// all AWS tools find them, in the environment, in profiles and in the task's role.
package account

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
)

// Load finds credentials and region. The region that is given, if any, wins. It asks no
// service for anything.
func Load(ctx context.Context, region string) (aws.Config, error) {
	var options []func(*awsconfig.LoadOptions) error
	if region != "" {
		options = append(options, awsconfig.WithRegion(region))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("the AWS settings of this machine cannot be read: %w", err)
	}
	if cfg.Region == "" {
		return aws.Config{}, errors.New("there is no AWS region: set AWS_REGION in the environment")
	}
	return cfg, nil
}
