// Makes and verifies service-account tokens as the API server does: a token names its key by the
// base64url of the SHA-256 of the key's SubjectPublicKeyInfo.
//
//	jwt sign KEY.pem            prints a token, signed with the first key of the file
//	jwt verify KEYS.json TOKEN  holds a token to the keys that `sa-key list -o json` printed
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"
)

var raw = base64.RawURLEncoding

func fail(what any) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

func must[T any](value T, err error) T {
	if err != nil {
		fail(err)
	}
	return value
}

func main() {
	switch os.Args[1] {
	case "sign":
		sign(os.Args[2])
	case "verify":
		verify(os.Args[2], os.Args[3])
	}
}

func private(file string) crypto.Signer {
	rest := must(os.ReadFile(file))
	for {
		block, more := pem.Decode(rest)
		if block == nil {
			fail("no key in " + file)
		}
		rest = more
		switch block.Type {
		case "RSA PRIVATE KEY":
			return must(x509.ParsePKCS1PrivateKey(block.Bytes))
		case "EC PRIVATE KEY":
			return must(x509.ParseECPrivateKey(block.Bytes))
		}
	}
}

func digest(algorithm string, data []byte) (crypto.Hash, []byte) {
	switch algorithm {
	case "ES384":
		sum := sha512.Sum384(data)
		return crypto.SHA384, sum[:]
	default:
		sum := sha256.Sum256(data)
		return crypto.SHA256, sum[:]
	}
}

func algorithm(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return "RS256"
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ES%d", key.Params().BitSize)
	}
	fail("a key that Kubernetes does not sign with")
	return ""
}

func sign(file string) {
	key := private(file)
	kid := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key.Public())))
	alg := algorithm(key.Public())
	header := must(json.Marshal(map[string]string{"alg": alg, "kid": raw.EncodeToString(kid[:])}))
	claims := []byte(`{"iss":"https://kubernetes.default.svc.cluster.local","sub":"system:serviceaccount:default:default"}`)
	text := raw.EncodeToString(header) + "." + raw.EncodeToString(claims)
	hash, sum := digest(alg, []byte(text))
	var signature []byte
	switch key := key.(type) {
	case *rsa.PrivateKey:
		signature = must(rsa.SignPKCS1v15(rand.Reader, key, hash, sum))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			fail(err)
		}
		size := (key.Params().BitSize + 7) / 8
		signature = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	}
	fmt.Println(text + "." + raw.EncodeToString(signature))
}

func verify(file, token string) {
	var list struct {
		Keys []struct {
			Kid       string
			Verifies  bool
			PublicKey string
		}
	}
	if err := json.Unmarshal(must(os.ReadFile(file)), &list); err != nil {
		fail(err)
	}
	parts := strings.Split(token, ".")
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(must(raw.DecodeString(parts[0])), &header); err != nil {
		fail(err)
	}
	hash, sum := digest(header.Alg, []byte(parts[0]+"."+parts[1]))
	signature := must(raw.DecodeString(parts[2]))
	for _, entry := range list.Keys {
		if entry.Kid != header.Kid || !entry.Verifies {
			continue
		}
		block, _ := pem.Decode([]byte(entry.PublicKey))
		spki := must(x509.ParsePKIXPublicKey(block.Bytes))
		own := sha256.Sum256(must(x509.MarshalPKIXPublicKey(spki)))
		if raw.EncodeToString(own[:]) != entry.Kid {
			fail("the key id is not that of the key")
		}
		switch key := spki.(type) {
		case *rsa.PublicKey:
			if err := rsa.VerifyPKCS1v15(key, hash, sum, signature); err != nil {
				fail(err)
			}
		case *ecdsa.PublicKey:
			half := len(signature) / 2
			r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
			if !ecdsa.Verify(key, sum, r, s) {
				fail("the signature is wrong")
			}
		}
		fmt.Println(entry.Kid)
		return
	}
	fail("no key " + header.Kid + " verifies")
}
