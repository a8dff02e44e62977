package dynamo_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"usher/engine/dynamo"
	"usher/engine/enginetest"
	"usher/engine/enginetest/dynalite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tables gives each test tables of its own in one server.
type tables struct {
	server *dynalite.Server
	made   atomic.Int64
}

func (s *tables) open(t *testing.T) *dynamo.Records {
	t.Helper()
	return s.at(t, s.server.Endpoint())
}

// at opens new tables by way of an address, which need not be the server's own.
func (s *tables) at(t *testing.T, endpoint string) *dynamo.Records {
	t.Helper()
	direct := dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint(), Names: dynamo.DefaultNames(fmt.Sprintf("t%d", s.made.Add(1)))}
	if err := dynamo.CreateTables(t.Context(), dynamo.NewClient(direct), direct.Names); err != nil {
		t.Fatal(err)
	}
	direct.Endpoint = endpoint
	return dynamo.Open(direct)
}

// names are the tables that were opened last.
func (s *tables) names() dynamo.Names { return dynamo.DefaultNames(fmt.Sprintf("t%d", s.made.Load())) }

func TestRecords(t *testing.T) {
	t.Parallel()
	s := &tables{server: dynalite.Start(t)}
	enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest { return s.open(t) })
}

func TestArchive(t *testing.T) {
	t.Parallel()
	s := &tables{server: dynalite.Start(t)}
	enginetest.RunArchive(t, func(t *testing.T) enginetest.ArchiveUnderTest { return s.open(t) })
}

func credentialsOfNobody() aws.Config {
	return aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
}
