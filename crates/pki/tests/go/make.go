package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"time"
)

// now is the moment around which every case is built: 2026-11-22T06:19:11Z.
const now = 1795328351

const day = 86400

// spec is one certificate to make. The zero value of a field means that it is left out.
type spec struct {
	subject    pkix.Name
	rawSubject []byte
	key        crypto.Signer
	issuer     *spec // nil: self-signed
	signer     crypto.Signer
	from, to   int64  // days from now; both zero: one year around now
	ca         string // "", "true", "false"
	pathLen    int    // -1: none
	usage      x509.KeyUsage
	purposes   []x509.ExtKeyUsage
	unknownEKU []asn1.ObjectIdentifier
	ski, aki   []byte
	names      []string // DNS names, addresses, mailboxes (with @) and URIs (with :/)
	permit     constraintSet
	exclude    constraintSet
	extra      []pkix.Extension
	algorithm  x509.SignatureAlgorithm

	der []byte
}

type constraintSet struct {
	dns, emails, uris []string
	ips               []string
}

func newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func keyID(key crypto.Signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	s := sha1.Sum(der)
	return s[:]
}

func cn(name string) pkix.Name { return pkix.Name{CommonName: name} }

func nets(texts []string) (found []*net.IPNet) {
	for _, text := range texts {
		_, n, err := net.ParseCIDR(text)
		if err != nil {
			panic(err)
		}
		found = append(found, n)
	}
	return found
}

var serials int64

// make signs the certificate once and returns its DER.
func (s *spec) make() []byte {
	if s.der != nil {
		return s.der
	}
	serials++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: s.subject, RawSubject: s.rawSubject,
		KeyUsage: s.usage, ExtKeyUsage: s.purposes, UnknownExtKeyUsage: s.unknownEKU,
		SubjectKeyId:        s.ski,
		PermittedDNSDomains: s.permit.dns, ExcludedDNSDomains: s.exclude.dns,
		PermittedEmailAddresses: s.permit.emails, ExcludedEmailAddresses: s.exclude.emails,
		PermittedURIDomains: s.permit.uris, ExcludedURIDomains: s.exclude.uris,
		PermittedIPRanges: nets(s.permit.ips), ExcludedIPRanges: nets(s.exclude.ips),
		PermittedDNSDomainsCritical: true,
		ExtraExtensions:             s.extra, SignatureAlgorithm: s.algorithm,
	}
	from, to := s.from, s.to
	if from == 0 && to == 0 {
		from, to = -180, 185
	}
	t.NotBefore, t.NotAfter = time.Unix(now+from*day, 0), time.Unix(now+to*day, 0)
	for _, name := range s.names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			t.URIs = append(t.URIs, u)
		} else if at := indexByte(name, '@'); at >= 0 {
			t.EmailAddresses = append(t.EmailAddresses, name)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	if s.ca != "" {
		// By hand: the template would add a key identifier and refuse odd combinations.
		body := struct {
			CA  bool `asn1:"optional"`
			Len int  `asn1:"optional,default:-1"`
		}{s.ca == "true", s.pathLen}
		value, err := asn1.Marshal(body)
		if err != nil {
			panic(err)
		}
		id := asn1.ObjectIdentifier{2, 5, 29, 19}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: id, Critical: true, Value: value})
	}
	issuer := s.issuer
	if issuer == nil {
		issuer = s
	}
	if s.aki != nil {
		id := asn1.ObjectIdentifier{2, 5, 29, 35}
		value, err := asn1.Marshal(struct {
			ID []byte `asn1:"tag:0"`
		}{s.aki})
		if err != nil {
			panic(err)
		}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: id, Value: value})
	}
	signer := s.signer
	if signer == nil {
		signer = issuer.key
	}
	parent := &x509.Certificate{Subject: issuer.subject, RawSubject: issuer.rawSubject}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, s.key.Public(), signer)
	if err != nil {
		panic(err)
	}
	s.der = der
	return der
}

func indexByte(s string, c byte) int {
	for i := range s {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// root, below and leaf are the healthy shapes that cases damage.
func root(name string) *spec {
	key := newKey()
	return &spec{
		subject: cn(name), key: key, ca: "true", pathLen: -1, ski: keyID(key),
		usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		from:  -3650, to: 3650,
	}
}

func below(issuer *spec, name string) *spec {
	s := root(name)
	s.issuer, s.aki = issuer, issuer.ski
	return s
}

func leaf(issuer *spec, names ...string) *spec {
	return &spec{
		subject: cn("leaf"), key: newKey(), issuer: issuer, aki: issuer.ski, names: names,
		usage: x509.KeyUsageDigitalSignature, purposes: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// cross is another certificate for the same CA: same name, key and identifier, other issuer.
func cross(of, issuer *spec) *spec {
	s := *of
	s.issuer, s.aki, s.der = issuer, issuer.ski, nil
	return &s
}
