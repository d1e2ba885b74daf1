package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type fields = map[string]any

type resource struct {
	group, name, kind, key string
	namespaced             bool
}

var resources = []resource{
	{"", "pods", "Pod", "pods", true},
	{"", "secrets", "Secret", "secrets", true},
	{"", "configmaps", "ConfigMap", "configmaps", true},
	{"", "serviceaccounts", "ServiceAccount", "serviceaccounts", true},
	{"", "nodes", "Node", "minions", false},
	{"", "namespaces", "Namespace", "namespaces", false},
	{"apps", "deployments", "Deployment", "deployments", true},
	{"apps", "daemonsets", "DaemonSet", "daemonsets", true},
	{"coordination.k8s.io", "leases", "Lease", "leases", true},
}

// A collection (no name) or an object; in every namespace where none is given.
type place struct {
	resource
	version, namespace, object string
}

func (p place) prefix() string {
	prefix := "/registry/" + p.key + "/"
	if p.namespace != "" {
		prefix += p.namespace + "/"
	}
	return prefix
}

func (p place) path() string { return p.prefix() + p.object }

func locate(path string) (place, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	found := place{}
	switch {
	case len(parts) > 2 && parts[0] == "api" && parts[1] == "v1":
		found.version, parts = "v1", parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		found.group, found.version, parts = parts[1], parts[1]+"/"+parts[2], parts[3:]
	default:
		return found, false
	}
	if len(parts) > 2 && parts[0] == "namespaces" && parts[2] != "status" {
		found.namespace, parts = parts[1], parts[2:]
	}
	if len(parts) > 1 {
		found.object = parts[1]
	}
	for _, it := range resources {
		fits := it.group == found.group && it.name == parts[0]
		// An object of a namespace has one.
		if fits && (found.object == "" || it.namespaced == (found.namespace != "")) {
			found.resource = it
			return found, len(parts) < 3 || parts[2] == "status"
		}
	}
	return found, false
}

func object(content []byte) fields {
	it := fields{}
	json.Unmarshal(content, &it)
	return it
}

// The value at a path of names and numbers.
func at(it any, path ...string) any {
	for _, name := range path {
		switch inner := it.(type) {
		case fields:
			it = inner[name]
		case []any:
			number, err := strconv.Atoi(name)
			if err != nil || number >= len(inner) {
				return nil
			}
			it = inner[number]
		default:
			return nil
		}
	}
	return it
}

func text(it any, path ...string) string {
	value, _ := at(it, path...).(string)
	return value
}

func part(it fields, name string) fields {
	inner, found := it[name].(fields)
	if !found {
		inner = fields{}
		it[name] = inner
	}
	return inner
}

func (v value) object() fields {
	it := object(v.Value)
	part(it, "metadata")["resourceVersion"] = v.Revision
	return it
}

func encode(it fields) []byte {
	delete(part(it, "metadata"), "resourceVersion")
	content, err := json.Marshal(it)
	must(err)
	return content
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func random(letters string, length int) string {
	bytes := make([]byte, length)
	_, err := rand.Read(bytes)
	must(err)
	for at := range bytes {
		bytes[at] = letters[int(bytes[at])%len(letters)]
	}
	return string(bytes)
}

func uid() string {
	hex := "0123456789abcdef"
	return fmt.Sprintf("%s-%s-4%s-8%s-%s", random(hex, 8), random(hex, 4), random(hex, 3), random(hex, 3), random(hex, 12))
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, p place, body []byte) {
	var err error
	switch {
	case r.Method == "GET" && p.object == "":
		err = s.list(w, r, p)
	case r.Method == "POST" && p.object == "":
		err = s.create(w, p, body)
	case p.object == "":
		refuse(w, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	case r.Method == "GET":
		err = s.get(w, p)
	case r.Method == "PUT" || r.Method == "PATCH":
		err = s.update(w, r, p, body)
	case r.Method == "DELETE":
		err = s.remove(w, r, p, body)
	default:
		refuse(w, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	if err != nil {
		refuse(w, 500, "InternalError", "etcd: "+err.Error())
	}
}

func (p place) missing(w http.ResponseWriter) {
	refuse(w, 404, "NotFound", fmt.Sprintf("%s %q not found", p.name, p.object))
}

func (p place) changed(w http.ResponseWriter) {
	words := "Operation cannot be fulfilled on %s %q: the object has been modified; please apply your changes to the latest version and try again"
	refuse(w, 409, "Conflict", fmt.Sprintf(words, p.name, p.object))
}

func (s *server) list(w http.ResponseWriter, r *http.Request, p place) error {
	query := r.URL.Query()
	labels, err := selector(query, "labelSelector")
	if err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return nil
	}
	wanted, err := selector(query, "fieldSelector")
	if err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return nil
	}
	all, err := s.store.list(p.prefix())
	if err != nil {
		return err
	}
	items := []fields{}
	for _, entry := range all {
		it := entry.object()
		label := func(name string) (string, bool) {
			value, found := at(it, "metadata", "labels", name).(string)
			return value, found
		}
		field := func(name string) (string, bool) { return text(it, strings.Split(name, ".")...), true }
		if labels(label) && wanted(field) {
			items = append(items, it)
		}
	}
	answer(w, 200, fields{
		"kind": p.kind + "List", "apiVersion": p.version, "items": items,
		"metadata": fields{"resourceVersion": strconv.Itoa(len(all))},
	})
	return nil
}

// `a=b,c!=d,e,!f`; sets (`a in (b,c)`) are refused.
func selector(query url.Values, name string) (func(func(string) (string, bool)) bool, error) {
	given := query.Get(name)
	if strings.ContainsAny(given, "() ") {
		return nil, fmt.Errorf("testkit knows no %s %q", name, given)
	}
	return func(value func(string) (string, bool)) bool {
		for _, it := range strings.Split(given, ",") {
			key, wanted, compares := strings.Cut(strings.Replace(it, "==", "=", 1), "=")
			unequal := strings.HasSuffix(key, "!") && compares
			absent := strings.HasPrefix(key, "!")
			found, there := value(strings.Trim(key, "!"))
			fits := there
			if compares {
				fits = there && found == wanted
			}
			if given != "" && fits == (unequal || absent) {
				return false
			}
		}
		return true
	}, nil
}

func (s *server) get(w http.ResponseWriter, p place) error {
	found, err := s.store.get(p.path())
	if err != nil {
		return err
	}
	if found == nil {
		p.missing(w)
		return nil
	}
	answer(w, 200, found.object())
	return nil
}

// What Kubernetes fills in.
func (p place) complete(it fields) {
	it["kind"], it["apiVersion"] = p.kind, p.version
	if p.kind != "Secret" {
		return
	}
	if text(it, "type") == "" {
		it["type"] = "Opaque"
	}
	if plain, found := it["stringData"].(fields); found {
		for name, value := range plain {
			part(it, "data")[name] = base64.StdEncoding.EncodeToString([]byte(fmt.Sprint(value)))
		}
		delete(it, "stringData")
	}
}

func (s *server) create(w http.ResponseWriter, p place, body []byte) error {
	it := fields{}
	if err := json.Unmarshal(body, &it); err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return nil
	}
	metadata := part(it, "metadata")
	if text(metadata, "name") == "" && text(metadata, "generateName") != "" {
		metadata["name"] = text(metadata, "generateName") + random("bcdfghjklmnpqrstvwxz2456789", 5)
	}
	given := text(metadata, "namespace")
	if p.object = text(metadata, "name"); p.object == "" || given != "" && given != p.namespace {
		refuse(w, 422, "Invalid", "metadata.name or metadata.namespace is not valid")
		return nil
	}
	if p.namespaced {
		metadata["namespace"] = p.namespace
	}
	metadata["uid"], metadata["creationTimestamp"] = uid(), now()
	p.complete(it)
	revision, err := s.store.swap(p.path(), "0", encode(it))
	if err != nil {
		return err
	}
	if revision == "" {
		refuse(w, 409, "AlreadyExists", fmt.Sprintf("%s %q already exists", p.name, p.object))
		return nil
	}
	metadata["resourceVersion"] = revision
	answer(w, 201, it)
	return nil
}

func (s *server) update(w http.ResponseWriter, r *http.Request, p place, body []byte) error {
	for {
		old, err := s.store.get(p.path())
		if err != nil {
			return err
		}
		if old == nil {
			p.missing(w)
			return nil
		}
		it := fields{}
		if err := json.Unmarshal(body, &it); err != nil {
			refuse(w, 400, "BadRequest", err.Error())
			return nil
		}
		given := text(it, "metadata", "resourceVersion")
		if given != "" && given != old.Revision {
			p.changed(w)
			return nil
		}
		before := old.object()
		if r.Method == "PATCH" {
			it = merge(before, it).(fields)
			before = old.object()
		}
		metadata := part(it, "metadata")
		for _, name := range []string{"name", "namespace", "uid", "creationTimestamp"} {
			if value := at(before, "metadata", name); value != nil {
				metadata[name] = value
			}
		}
		p.complete(it)
		revision, err := s.store.swap(p.path(), old.Revision, encode(it))
		if err != nil {
			return err
		}
		if revision != "" {
			metadata["resourceVersion"] = revision
			answer(w, 200, it)
			return nil
		}
		// Somebody was faster: a conflict only for who said what it builds on.
	}
}

// RFC 7396.
func merge(old, patch any) any {
	changes, found := patch.(fields)
	if !found {
		return patch
	}
	it, found := old.(fields)
	if !found {
		it = fields{}
	}
	for name, value := range changes {
		if value == nil {
			delete(it, name)
		} else {
			it[name] = merge(it[name], value)
		}
	}
	return it
}
