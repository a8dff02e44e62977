// Command activemq gets the ActiveMQ that tests run on:
//
//	activemq DIRECTORY
//
// It fetches the distribution with Maven, checks it against the sum below, and
// unpacks it, so that lib/ is in the directory. When it is there already,
// nothing is done. The exit status is 1 when it could not be had.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"
)

// The release, and the SHA-512 of its file. Amazon MQ runs 5.18 beside 5.19; to
// test on another release, unpack it and name its folder in ACTIVEMQ_TEST_HOME.
const (
	version = "5.18.3"
	sum     = "61abc4a08b9e1db6a5b1062bb1c839171e93bcb571817fd81744dd19874d713840bba99c7979d45bcb832d13ea01986b76fb11720f5ec63a0283e7d1934a33cc"
)

// copyGoal is the Maven goal that fetches one file, with its version.
const copyGoal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"

// timeout is how long Maven may take.
const timeout = 10 * time.Minute

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: activemq DIRECTORY")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := prepare(ctx, os.Args[1], sum, maven); err != nil {
		fmt.Fprintln(os.Stderr, "activemq:", err)
		os.Exit(1) //nolint:gocritic // the signal handler ends with the process
	}
}

// prepare makes dir hold the distribution with the given sum, which fetch puts
// into a folder.
func prepare(ctx context.Context, dir, sum string, fetch func(ctx context.Context, folder string) (file string, err error)) error {
	marker := filepath.Join(dir, "sha512")
	if have, err := os.ReadFile(marker); err == nil && string(have) == sum+"\n" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	// Made beside it and moved, so that a half-made one is never used.
	folder, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // what is left is not used
	file, err := fetch(ctx, folder)
	if err != nil {
		return err
	}
	if err := check(file, sum); err != nil {
		return err
	}
	unpacked := filepath.Join(folder, "unpacked")
	if err := unpack(file, unpacked); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	if err := os.WriteFile(filepath.Join(unpacked, "sha512"), []byte(sum+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(unpacked, dir)
}

// maven fetches the distribution from where Maven's own settings say.
func maven(ctx context.Context, folder string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	mvn := exec.CommandContext(ctx, "mvn", "--batch-mode", "--quiet", "--no-transfer-progress", copyGoal,
		"-Dartifact=org.apache.activemq:apache-activemq:"+version+":tar.gz:bin", "-DoutputDirectory="+folder)
	mvn.Dir = folder // away from any pom.xml
	out, err := mvn.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("there is no mvn: install Maven")
	}
	if err != nil {
		return "", fmt.Errorf("mvn could not fetch ActiveMQ %s: %w\n%s", version, err, bytes.TrimSpace(out))
	}
	return filepath.Join(folder, "apache-activemq-"+version+"-bin.tar.gz"), nil
}
