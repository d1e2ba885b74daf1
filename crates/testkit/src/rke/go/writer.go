package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Writes ten times a second until standard input ends, and then looks whether all is there. Tells
// one line for each write: number, milliseconds since the start when it was begun and when it was
// acknowledged (or given up, at the end), the errors on the way. At the end: each that was lost,
// how many writes were acknowledged.
func writer(f flags) {
	config := client(f.must("cacert"), f.must("cert"), f.must("key"))
	if f["reload"] == "true" {
		config = reloading(f.must("cacert"), f.must("cert"), f.must("key"))
	}
	store := dialEtcd(f.must("endpoints"), config, 2*time.Second)
	prefix := f.must("prefix")
	errors := []string{}
	store.complaints = func(err error) {
		errors = append(errors, kind(err)+" "+strings.Join(strings.Fields(err.Error()), " "))
	}
	stop := make(chan bool)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	start, acknowledged := time.Now(), []int{}
	ticker := time.NewTicker(100 * time.Millisecond)
	for number, running := 0, true; running; number++ {
		begun := time.Since(start).Milliseconds()
		errors = nil
		for running {
			err := store.put(fmt.Sprintf("%s%d", prefix, number), []byte(strconv.Itoa(number)))
			if err == nil {
				acknowledged = append(acknowledged, number)
				break
			}
			select {
			case <-stop:
				running = false
			case <-time.After(20 * time.Millisecond):
			}
		}
		end := time.Since(start).Milliseconds()
		fmt.Printf("write %d %d %d %s\n", number, begun, end, strings.Join(errors, "; "))
		select {
		case <-stop:
			running = false
		case <-ticker.C:
		}
	}
	found := store.written(prefix)
	for _, number := range acknowledged {
		if !found[strconv.Itoa(number)] {
			fmt.Printf("lost %d\n", number)
		}
	}
	fmt.Printf("acknowledged %d\n", len(acknowledged))
}

// The values that stand where they belong; asks for up to a minute.
func (e *etcd) written(prefix string) map[string]bool {
	found := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		all, err := e.list(prefix)
		for _, it := range all {
			if strings.TrimPrefix(string(it.Key), prefix) == string(it.Value) {
				found[string(it.Value)] = true
			}
		}
		if err == nil {
			return found
		}
		if time.Now().After(deadline) {
			fail("cannot read what was written: %v", err)
		}
	}
}
