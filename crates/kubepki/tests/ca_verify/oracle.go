// What a K3s server says to a staged set of CA files, by the rules of its rotate-ca, with the
// standard library's own crypto/x509 and crypto/tls.
//
// Arguments: the directory in force, the staged one, the moment in seconds since 1970. Prints the
// complaints, one a line.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

type field struct{ name, path, key string }

var fields = []field{
	{"ETCDServerCA", "tls/etcd/server-ca.crt", "tls/etcd/server-ca.key"},
	{"ETCDPeerCA", "tls/etcd/peer-ca.crt", "tls/etcd/peer-ca.key"},
	{"ServerCA", "tls/server-ca.crt", "tls/server-ca.key"},
	{"ClientCA", "tls/client-ca.crt", "tls/client-ca.key"},
	{"ServiceKey", "tls/service.key", ""},
	{"RequestHeaderCA", "tls/request-header-ca.crt", "tls/request-header-ca.key"},
}

func main() {
	seconds, err := strconv.ParseInt(os.Args[3], 10, 64)
	if err != nil {
		panic(err)
	}
	now := time.Unix(seconds, 0).UTC()
	for _, f := range fields {
		oldPath, newPath := choose(f.path)
		if f.key == "" {
			complain(f.name, "", serviceKey(oldPath, newPath))
			continue
		}
		if oldPath != newPath {
			complain(f.name, "", authority(oldPath, newPath, now))
		}
		oldKey, newKey := choose(f.key)
		if oldPath != newPath || oldKey != newKey {
			_, err := tls.LoadX509KeyPair(newPath, newKey)
			complain(f.name+"Key", "new CA cert and key cannot be loaded as X590KeyPair: ", err)
		}
	}
}

func complain(name, prefix string, err error) {
	if err != nil {
		fmt.Printf("%s: %s%v\n", name, prefix, err)
	}
}

// A staged file that is missing or empty leaves the one in force in its place.
func choose(path string) (string, string) {
	inForce := filepath.Join(os.Args[1], path)
	staged := filepath.Join(os.Args[2], path)
	if info, err := os.Stat(staged); err != nil || info.Size() == 0 {
		return inForce, inForce
	}
	return inForce, staged
}

func authority(oldPath, newPath string, now time.Time) error {
	inForce, err := read(oldPath)
	if err != nil {
		return err
	}
	staged, err := read(newPath)
	if err != nil {
		return err
	}
	if len(staged) == 1 {
		return errors.New("new CA bundle contains only a single certificate but should include root or intermediate CA certificates")
	}
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
	}
	for _, c := range inForce {
		pool := options.Intermediates
		if len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId) {
			pool = options.Roots
		}
		pool.AddCert(c)
	}
	for _, c := range staged[1:] {
		if len(c.AuthorityKeyId) != 0 {
			options.Intermediates.AddCert(c)
		}
	}
	if _, err = staged[0].Verify(options); err != nil {
		return fmt.Errorf("new CA cert cannot be verified using old CA chain: %w", err)
	}
	return nil
}

func read(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block := (*pem.Block)(nil); ; {
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("error reading %s: %s", path, err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("error reading %s: data does not contain any valid RSA or ECDSA certificates", path)
	}
	return found, nil
}

func serviceKey(oldPath, newPath string) error {
	inForce, err := publicKeys(oldPath)
	if err != nil {
		return err
	}
	staged, err := publicKeys(newPath)
	if err != nil {
		return err
	}
	for _, key := range staged {
		if key.(interface{ Equal(crypto.PublicKey) bool }).Equal(inForce[0]) {
			return nil
		}
	}
	return errors.New("old ServiceAccount signing key not in new ServiceAccount key list")
}

func publicKeys(path string) ([]crypto.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []crypto.PublicKey
	for block := (*pem.Block)(nil); ; {
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if key := publicKey(block.Bytes); key != nil {
			found = append(found, key)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("error reading public key file %s: data does not contain any valid RSA or ECDSA public keys", path)
	}
	return found, nil
}

// RSA in any form, EC in SEC1 form only, public keys and certificates of both.
func publicKey(der []byte) crypto.PublicKey {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return &key.PublicKey
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return &key.PublicKey
		}
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return &key.PublicKey
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil
		}
		key = c.PublicKey
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key
	case *ecdsa.PublicKey:
		return key
	}
	return nil
}
