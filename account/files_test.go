package account_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"usher/account"
)

func TestTextsOfAnAccount(t *testing.T) {
	cfg := settings(t)
	objects := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := objects.CreateBucket(within(t), &s3.CreateBucketInput{
		Bucket: aws.String("settings"), CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: s3types.BucketLocationConstraint(cfg.Region)},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := objects.PutObject(within(t), &s3.PutObjectInput{
		Bucket: aws.String("settings"), Key: aws.String("prod/usher.yaml"), Body: strings.NewReader("engine: {slots: 3}\n"),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := ssm.NewFromConfig(cfg).PutParameter(within(t), &ssm.PutParameterInput{
		Name: aws.String("/usher/prod"), Value: aws.String("engine: {slots: 4}\n"), Type: ssmtypes.ParameterTypeSecureString,
	}); err != nil {
		t.Fatal(err)
	}
	var files account.Files
	for name, want := range map[string]string{"s3://settings/prod/usher.yaml": "engine: {slots: 3}\n", "ssm:/usher/prod": "engine: {slots: 4}\n"} {
		if got, err := files.Read(t.Context(), name, 100); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v)", name, got, err)
		}
	}
	if got, err := files.Read(t.Context(), "s3://settings/prod/usher.yaml", 5); err != nil || string(got) != "engine" {
		t.Errorf("one byte more than 5 of it is %q (%v)", got, err)
	}
	for name, want := range map[string]string{
		"s3://settings/none.yaml": "check the key", "s3://nowhere/usher.yaml": "s3:GetObject", "s3://settings": "s3://bucket/key",
		"s3:///usher.yaml": "s3://bucket/key", "ssm:/none": "no such parameter in " + cfg.Region,
	} {
		if _, err := files.Read(t.Context(), name, 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestWithoutARegion(t *testing.T) {
	settings(t)
	t.Setenv("AWS_REGION", "")
	var files account.Files
	if _, err := files.Read(t.Context(), "ssm:/usher", 10); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Error(err)
	}
}
