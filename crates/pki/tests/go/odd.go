package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// odd is keys and forms that are rare, but read by Go.
func odd(add adder) {
	for name, curve := range map[string]elliptic.Curve{
		"P-224": elliptic.P224(), "P-384": elliptic.P384(), "P-521": elliptic.P521(),
	} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		r := root("root")
		r.key = key
		add("curve "+name, with(leaf(r), func(s *spec) { s.algorithm = x509.ECDSAWithSHA256 }), nil, list(r))
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	r := root("root")
	r.key = crypto.Signer(key)
	add("Ed25519", leaf(r), nil, list(r))

	r = root("root")
	for number, value := range map[int][]byte{
		31: {0x30, 0}, 32: {0x30, 4, 0x30, 2, 6, 0}, 54: {2, 1, 0},
		33: {0x30, 12, 0x30, 10, 6, 3, 0x2a, 3, 4, 6, 3, 0x2a, 3, 5}, 36: {0x30, 3, 0x80, 1, 0},
	} {
		if number == 32 {
			value = []byte{0x30, 7, 0x30, 5, 6, 3, 0x2a, 3, 4}
		}
		for _, critical := range []bool{false, true} {
			extension := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, number}, Critical: critical, Value: value}
			s := with(leaf(r), func(s *spec) { s.extra = []pkix.Extension{extension} })
			add(fmt.Sprintf("extension %d critical %v", number, critical), s, nil, list(r))
		}
	}
}
