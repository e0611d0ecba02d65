package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"slices"
	"time"
)

// inARow is how often a name must be right: each replica of the cluster's DNS learns of it by
// itself, and any of them may answer.
const inARow = 10

// await waits until a HOST:PORT resolves to one address, and to no other, and that address accepts
// connections.
func await(args []string) error {
	flags := flag.NewFlagSet("await", flag.ExitOnError)
	address := flags.String("address", "", "the address")
	timeout := flags.Duration("timeout", 2*time.Minute, "how long to wait")
	_ = flags.Parse(args)
	host, port, err := net.SplitHostPort(flags.Arg(0))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	for good := 0; good < inARow; {
		if err := connect(ctx, host, port, *address); err != nil {
			log.Print(err)
			good = 0
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				return errors.Join(fmt.Errorf("waiting for %s: %w", flags.Arg(0), ctx.Err()), err)
			}
			continue
		}
		good++
	}
	return nil
}

// connect resolves the host and connects to its address.
func connect(ctx context.Context, host, port, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return err
	}
	if !slices.Equal(addresses, []string{address}) {
		return fmt.Errorf("%s resolves to %v, not to %s", host, addresses, address)
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, port))
	if err != nil {
		return err
	}
	return connection.Close()
}
