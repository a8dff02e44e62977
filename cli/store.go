package cli

import (
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"usher/account"
	"usher/config"
	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/embedded/records"
)

// store is where all that has to last is kept, but for the messages in the broker.
type store interface {
	recordTable
	parking
	engine.Archive
	io.Closer
}

type recordTable interface {
	engine.Records
	engine.Table
	engine.Schedule
}

type parking interface {
	engine.Bodies
	engine.DueIndex
	engine.HoldStore
}

// openRecords opens the tables that the configuration names, or the file of this
// machine. Whether the tables can be used is looked at once, so that a wrong name is
// found at the start.
func openRecords(cfg *config.Config, dir string, log zerolog.Logger) (store, error) {
	if cfg.Records.DynamoDB.Table == "" {
		file, err := records.Open(records.Config{Path: filepath.Join(dir, "records.db"), Log: log})
		if err != nil {
			return nil, fail(exitFailed, "%w", err)
		}
		return file, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), tablesTimeout)
	defer cancel()
	tables, err := openTables(ctx, cfg.Records.DynamoDB)
	if err != nil {
		return nil, err
	}
	if err := tables.Check(ctx); err != nil {
		_ = tables.Close() // it never fails
		return nil, fail(exitFailed, "%w", err)
	}
	return tables, nil
}

// tablesTimeout is how long the tables have to say that they are there.
const tablesTimeout = 20 * time.Second

func openTables(ctx context.Context, cfg config.DynamoDB) (*dynamo.Records, error) {
	inAWS, err := account.Load(ctx, cfg.Region)
	if err != nil {
		return nil, fail(exitInvalid, "records.dynamodb: %w, or records.dynamodb.region", err)
	}
	return dynamo.Open(dynamo.Config{AWS: inAWS, Endpoint: cfg.Endpoint, Names: dynamo.DefaultNames(cfg.Table)}), nil
}

// orphansEvery is about how often bodies are looked for that no record belongs to.
const orphansEvery = 6 * time.Hour

// dropOrphans drops them until ctx ends. The first time is some time into a run, and
// another in each engine, so that they do not all read the table at once.
func dropOrphans(ctx context.Context, tables *dynamo.Records, log zerolog.Logger) error {
	for {
		timer := time.NewTimer(orphansEvery/2 + rand.N(orphansEvery))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		dropped, err := tables.DropOrphans(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Error().Err(err).Msg("bodies that no record belongs to cannot be dropped; it is tried again")
		case dropped > 0:
			log.Info().Int("bodies", dropped).Msg("dropped bodies that no record belonged to: the process that was to do it had died")
		}
	}
}
