package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// One call of the API on the kept connection; the status, 0 if there is no answer.
func (c *caller) do(method, path string, body, into any) int {
	content := []byte{}
	if body != nil {
		content, _ = json.Marshal(body)
	}
	request, err := http.NewRequest(method, c.url+path, bytes.NewReader(content))
	must(err)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.kept.Do(request)
	if err != nil {
		note(c.role, "kept", c.url, err)
		return 0
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && into != nil {
		json.Unmarshal(text, into)
	}
	return response.StatusCode
}

// A kubelet tells the API about its node until that has it.
func register(c *caller, name, address string) {
	node := fields{
		"kind": "Node", "apiVersion": "v1", "metadata": fields{"name": name},
		"status": fields{"addresses": []any{fields{"type": "InternalIP", "address": address}}},
	}
	for {
		switch c.do("POST", "/api/v1/nodes", node, nil) {
		case 201, 409:
			return
		}
		time.Sleep(every)
	}
}

// The pair that service-account tokens are made with.
type tokens struct{ key *rsa.PrivateKey }

func loadTokens(path string) *tokens {
	content, err := os.ReadFile(path)
	must(err)
	block, _ := pem.Decode(content)
	if block == nil {
		fail("no key in %s", path)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return &tokens{key}
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(err)
	key, found := any.(*rsa.PrivateKey)
	if !found {
		fail("%s is not RSA", path)
	}
	return &tokens{key}
}

func (t *tokens) make(namespace, account string) string {
	segment := func(it any) string {
		content, _ := json.Marshal(it)
		return base64.RawURLEncoding.EncodeToString(content)
	}
	signed := segment(fields{"alg": "RS256", "typ": "JWT"}) + "." + segment(fields{
		"iss": "kubernetes/serviceaccount",
		"sub": "system:serviceaccount:" + namespace + ":" + account,
	})
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, t.key, crypto.SHA256, digest[:])
	must(err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (t *tokens) read(token string) (user, bool) {
	end := strings.LastIndex(token, ".")
	if end < 0 {
		return user{}, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[end+1:])
	digest := sha256.Sum256([]byte(token[:end]))
	if err != nil || rsa.VerifyPKCS1v15(&t.key.PublicKey, crypto.SHA256, digest[:], signature) != nil {
		return user{}, false
	}
	_, claims, _ := strings.Cut(token[:end], ".")
	content, err := base64.RawURLEncoding.DecodeString(claims)
	return user{name: text(object(content), "sub")}, err == nil
}

// Leads or waits, as the real one; the leader publishes the root and makes tokens.
func controllerManager(f flags) {
	url, config := kubeconfig(f.must("kubeconfig"))
	root, err := os.ReadFile(f.must("root-ca-file"))
	must(err)
	signer := loadTokens(f.must("service-account-private-key-file"))
	own := &tls.Config{Certificates: []tls.Certificate{selfSigned("kube-controller-manager")}}
	serveTLS(":10257", healthz(), own)
	c := call("kube-controller-manager", url, config)
	go c.forever("/api/v1/nodes")
	holder := uid()
	for ; ; time.Sleep(every) {
		if c.leads(holder) {
			c.publish(string(root))
			c.fillTokens(root, signer)
		}
	}
}

// Whether we hold the lease, which lasts two seconds.
func (c *caller) leads(holder string) bool {
	collection := "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
	name := "kube-controller-manager"
	lease := fields{}
	code := c.do("GET", collection+"/"+name, nil, &lease)
	renewed, _ := time.Parse(time.RFC3339Nano, text(lease, "spec", "renewTime"))
	if code == 200 && text(lease, "spec", "holderIdentity") != holder && time.Since(renewed) < 2*time.Second {
		return false
	}
	lease["spec"] = fields{"holderIdentity": holder, "renewTime": time.Now().UTC().Format(time.RFC3339Nano)}
	if code == 404 {
		lease["metadata"] = fields{"name": name}
		return c.do("POST", collection, lease, nil) == 201
	}
	// With the resourceVersion that we saw.
	return code == 200 && c.do("PUT", collection+"/"+name, lease, nil) == 200
}

// ConfigMap kube-root-ca.crt in every namespace.
func (c *caller) publish(root string) {
	namespaces := fields{}
	c.do("GET", "/api/v1/namespaces", nil, &namespaces)
	items, _ := namespaces["items"].([]any)
	for _, it := range items {
		collection := "/api/v1/namespaces/" + text(it, "metadata", "name") + "/configmaps"
		found := fields{}
		switch c.do("GET", collection+"/kube-root-ca.crt", nil, &found) {
		case 404:
			found["metadata"] = fields{"name": "kube-root-ca.crt"}
			found["data"] = fields{"ca.crt": root}
			c.do("POST", collection, found, nil)
		case 200:
			if text(found, "data", "ca.crt") != root {
				part(found, "data")["ca.crt"] = root
				c.do("PUT", collection+"/kube-root-ca.crt", found, nil)
			}
		}
	}
}

// Secrets of service accounts: a token if there is none, and always the present root.
func (c *caller) fillTokens(root []byte, signer *tokens) {
	secrets := fields{}
	kind := "kubernetes.io/service-account-token"
	c.do("GET", "/api/v1/secrets?fieldSelector=type%3D"+strings.ReplaceAll(kind, "/", "%2F"), nil, &secrets)
	items, _ := secrets["items"].([]any)
	for _, it := range items {
		secret, _ := it.(fields)
		namespace, name := text(secret, "metadata", "namespace"), text(secret, "metadata", "name")
		account := text(secret, "metadata", "annotations", "kubernetes.io/service-account.name")
		wanted := base64.StdEncoding.EncodeToString(root)
		data := part(secret, "data")
		if text(data, "ca.crt") == wanted && text(data, "token") != "" {
			continue
		}
		data["ca.crt"] = wanted
		if text(data, "token") == "" {
			data["token"] = base64.StdEncoding.EncodeToString([]byte(signer.make(namespace, account)))
			data["namespace"] = base64.StdEncoding.EncodeToString([]byte(namespace))
		}
		c.do("PUT", "/api/v1/namespaces/"+namespace+"/secrets/"+name, secret, nil)
	}
}
