package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *server) remove(w http.ResponseWriter, r *http.Request, p place, body []byte) error {
	for {
		old, err := s.store.get(p.path())
		if err != nil {
			return err
		}
		if old == nil {
			p.missing(w)
			return nil
		}
		options := fields{}
		json.Unmarshal(body, &options)
		it := old.object()
		wanted, revision := text(options, "preconditions", "uid"), text(options, "preconditions", "resourceVersion")
		if wanted != "" && wanted != text(it, "metadata", "uid") || revision != "" && revision != old.Revision {
			p.changed(w)
			return nil
		}
		grace := grace(r, options, it)
		if p.kind == "Pod" && grace > 0 && at(it, "metadata", "deletionTimestamp") != nil {
			answer(w, 200, it)
			return nil
		}
		var content []byte
		if p.kind == "Pod" && grace > 0 {
			metadata := part(it, "metadata")
			metadata["deletionGracePeriodSeconds"] = grace
			metadata["deletionTimestamp"] = time.Now().Add(time.Duration(grace) * time.Second).UTC().Format(time.RFC3339)
			content = encode(it)
		}
		fresh, err := s.store.swap(p.path(), old.Revision, content)
		if err != nil {
			return err
		}
		if fresh == "" {
			continue
		}
		if p.kind == "Pod" {
			if content == nil {
				s.replace(it)
			}
			part(it, "metadata")["resourceVersion"] = fresh
			answer(w, 200, it)
			return nil
		}
		answer(w, 200, fields{
			"kind": "Status", "apiVersion": "v1", "metadata": fields{}, "status": "Success",
			"details": fields{"name": p.object, "kind": p.name, "uid": text(it, "metadata", "uid")},
		})
		return nil
	}
}

// Seconds, from the query, the body, the pod, or 30.
func grace(r *http.Request, options, pod fields) int {
	if given := r.URL.Query().Get("gracePeriodSeconds"); given != "" {
		seconds, _ := strconv.Atoi(given)
		return seconds
	}
	for _, it := range []any{options["gracePeriodSeconds"], at(pod, "spec", "terminationGracePeriodSeconds")} {
		if seconds, found := it.(float64); found {
			return int(seconds)
		}
	}
	return 30
}

// In place of the kubelets, which stop a deleted pod's containers: here that takes half a second.
func (s *server) bury() {
	seen := map[string]time.Time{}
	for ; ; time.Sleep(every) {
		all, err := s.store.list("/registry/pods/")
		if err != nil {
			continue
		}
		for _, it := range all {
			pod := it.object()
			if at(pod, "metadata", "deletionTimestamp") == nil {
				continue
			}
			uid := text(pod, "metadata", "uid")
			if seen[uid].IsZero() {
				seen[uid] = time.Now()
			}
			if time.Since(seen[uid]) < 500*time.Millisecond {
				continue
			}
			// Of several API servers one is the first.
			if fresh, err := s.store.swap(string(it.Key), it.Revision, nil); err == nil && fresh != "" {
				s.replace(pod)
			}
		}
	}
}

// In place of the controllers: a pod that one of them owns comes back as another one.
func (s *server) replace(pod fields) {
	owner, owned := "", false
	owners, _ := at(pod, "metadata", "ownerReferences").([]any)
	for _, it := range owners {
		if controls, _ := at(it, "controller").(bool); controls {
			owner, owned = text(it, "kind"), true
		}
	}
	if !owned {
		return
	}
	metadata := part(pod, "metadata")
	name := text(metadata, "name")
	if owner != "StatefulSet" {
		base := text(metadata, "generateName")
		if base == "" {
			base = name[:strings.LastIndex(name, "-")+1]
		}
		name = base + random("bcdfghjklmnpqrstvwxz2456789", 5)
	}
	metadata["name"], metadata["uid"], metadata["creationTimestamp"] = name, uid(), now()
	delete(metadata, "deletionTimestamp")
	delete(metadata, "deletionGracePeriodSeconds")
	key := "/registry/pods/" + text(metadata, "namespace") + "/" + name
	for try := 0; try < 50; try++ {
		if _, err := s.store.swap(key, "0", encode(pod)); err == nil {
			return
		}
		time.Sleep(every)
	}
}
