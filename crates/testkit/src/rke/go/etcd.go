package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// A client of etcd's JSON gateway, which answers on etcd's own port, with etcd's own certificate.
type etcd struct {
	urls   []string
	client *http.Client
	turn   atomic.Int64
	// What single members answered on the way, if anybody wants to know.
	complaints func(error)
}

type value struct {
	Key      []byte `json:"key"`
	Value    []byte `json:"value"`
	Revision string `json:"mod_revision"`
}

func dialEtcd(urls string, config *tls.Config, timeout time.Duration) *etcd {
	transport := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 16}
	client := &http.Client{Transport: transport, Timeout: timeout}
	return &etcd{urls: strings.Split(urls, ","), client: client}
}

func (e *etcd) one(url, path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	response, err := e.client.Post(url+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 {
		return fmt.Errorf("%w: %s", status(response.StatusCode), text)
	}
	return json.Unmarshal(text, answer)
}

// From whichever member answers, beginning with the one that did last. Only for what may be done
// twice.
func (e *etcd) ask(path string, request, answer any) error {
	var last error
	for range e.urls {
		turn := e.turn.Load()
		url := e.urls[int(turn)%len(e.urls)]
		if last = e.one(url, path, request, answer); last == nil {
			return nil
		}
		if e.complaints != nil {
			e.complaints(last)
		}
		e.turn.CompareAndSwap(turn, turn+1)
	}
	return last
}

// The keys that begin with a prefix.
func (e *etcd) list(prefix string) ([]value, error) {
	end := []byte(prefix)
	end[len(end)-1]++
	var answer struct{ Kvs []value }
	err := e.ask("/v3/kv/range", map[string]any{"key": []byte(prefix), "range_end": end}, &answer)
	return answer.Kvs, err
}

func (e *etcd) get(key string) (*value, error) {
	var answer struct{ Kvs []value }
	err := e.ask("/v3/kv/range", map[string]any{"key": []byte(key)}, &answer)
	if err != nil || len(answer.Kvs) == 0 {
		return nil, err
	}
	return &answer.Kvs[0], nil
}

func (e *etcd) put(key string, content []byte) error {
	var answer any
	return e.ask("/v3/kv/put", map[string]any{"key": []byte(key), "value": content}, &answer)
}

// Puts (or deletes, where content is nil) if the key's revision is still the one given; 0 = absent.
// The new revision, or "" if it was not.
func (e *etcd) swap(key, revision string, content []byte) (string, error) {
	operation := map[string]any{"requestDeleteRange": map[string]any{"key": []byte(key)}}
	if content != nil {
		operation = map[string]any{"requestPut": map[string]any{"key": []byte(key), "value": content}}
	}
	request := map[string]any{
		"compare": []any{map[string]any{
			"key": []byte(key), "target": "MOD", "mod_revision": revision, "result": "EQUAL",
		}},
		"success": []any{operation},
	}
	var answer struct {
		Header    struct{ Revision string }
		Succeeded bool
	}
	if err := e.ask("/v3/kv/txn", request, &answer); err != nil || !answer.Succeeded {
		return "", err
	}
	return answer.Header.Revision, nil
}
