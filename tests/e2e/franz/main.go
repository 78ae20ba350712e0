// A franz-go client for the end-to-end tests: produces N records to a topic, then reads them back through a consumer
// group and checks that every record arrives exactly once and in order. Exits non-zero with the reason otherwise.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func main() {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "host:port list")
	topic := flag.String("topic", "franz", "topic to use; it must exist or be auto-created")
	group := flag.String("group", "franz-group", "consumer group")
	count := flag.Int("count", 1000, "records")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*bootstrap, ",")...),
		kgo.AllowAutoTopicCreation(),
		kgo.DefaultProduceTopic(*topic),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
		kgo.ConsumerGroup(*group),
		kgo.ConsumeTopics(*topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		fail("client: %v", err)
	}
	defer client.Close()
	for i := range *count {
		record := &kgo.Record{Key: []byte("one-partition"), Value: []byte(strconv.Itoa(i))}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				fail("produce %d: %v", i, err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		fail("flush: %v", err)
	}
	next := 0
	for next < *count {
		fetches := client.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			fail("fetch %s-%d: %v", e.Topic, e.Partition, e.Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if string(record.Value) != strconv.Itoa(next) {
				fail("expected record %d, got %q at offset %d", next, record.Value, record.Offset)
			}
			next++
		})
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		fail("commit: %v", err)
	}
	fmt.Printf("%d records produced, read back in order and committed\n", next)
}
