package main

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/rand"
)

// world is one random PKI: few names and few keys, so that CAs share them and cross-sign.
type world struct {
	*rand.Rand
	keys []crypto.Signer
	cas  []*spec
}

var (
	dnsPool   = []string{"a.example", "b.a.example", "*.example", "*.a.example", "a.other", "example", "x-y.example", "A.Example"}
	ipPool    = []string{"10.0.0.1", "10.1.0.1", "192.168.1.1", "fd00::1", "::1", "::ffff:10.0.0.1"}
	emailPool = []string{"u@example", "u@a.example", "U@Example", "v@other"}
	uriPool   = []string{"spiffe://example/x", "https://a.example:6443/", "https://other/", "urn:x:y"}

	dnsSubtrees   = []string{"example", ".example", "a.example", ".a.example", "other", "x-y.example", "b.a.example", ""}
	ipSubtrees    = []string{"10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "fd00::/8", "::/0", "0.0.0.0/0", "::1/128"}
	emailSubtrees = []string{"example", ".example", "u@example", "other"}
	uriSubtrees   = []string{"example", ".example", "other"}
)

func (w *world) chance(percent int) bool { return w.Intn(100) < percent }

func (w *world) some(from []string, percent int) (found []string) {
	for _, s := range from {
		if w.chance(percent) {
			found = append(found, s)
		}
	}
	return found
}

func (w *world) constraints() (c constraintSet) {
	switch w.Intn(5) {
	case 0:
		c.ips = w.some(ipSubtrees, 30)
	case 1:
		c.emails = w.some(emailSubtrees, 40)
	case 2:
		c.uris = w.some(uriSubtrees, 50)
	default:
		c.dns = w.some(dnsSubtrees, 35)
	}
	return c
}

func (w *world) eku() []x509.ExtKeyUsage {
	choices := [][]x509.ExtKeyUsage{
		nil, {x509.ExtKeyUsageServerAuth}, {x509.ExtKeyUsageClientAuth}, {x509.ExtKeyUsageAny},
		{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, {x509.ExtKeyUsageCodeSigning},
		{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageAny},
	}
	return choices[w.Intn(len(choices))]
}

// harm changes a certificate in ways that are seen in the wild, each seldom.
func (w *world) harm(s *spec, percent int) {
	if w.chance(percent) {
		s.from, s.to = -20, -10
	}
	if w.chance(percent) {
		s.from, s.to = 10, 20
	}
	if w.chance(percent) {
		s.ca = []string{"", "false"}[w.Intn(2)]
	}
	if w.chance(percent) {
		s.usage = []x509.KeyUsage{0, x509.KeyUsageDigitalSignature}[w.Intn(2)]
	}
	if s.ca != "" && w.chance(2*percent) {
		s.pathLen = w.Intn(3)
	}
	if w.chance(2 * percent) {
		s.purposes = w.eku()
	}
	if w.chance(percent) {
		s.unknownEKU = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 7}}
	}
	if w.chance(2 * percent) {
		s.permit = w.constraints()
	}
	if w.chance(percent) {
		s.exclude = w.constraints()
	}
	if w.chance(2 * percent) {
		s.ski = [][]byte{nil, {9, 9}}[w.Intn(2)]
	}
	if w.chance(2 * percent) {
		s.aki = [][]byte{nil, {8, 8}}[w.Intn(2)]
	}
	if w.chance(percent) {
		critical := w.chance(50)
		s.extra = append(s.extra, pkix.Extension{
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: critical, Value: []byte{5, 0},
		})
	}
	if w.chance(percent) {
		s.signer = w.keys[w.Intn(len(w.keys))]
	}
	if w.chance(percent) {
		s.names = append(s.names, w.names()...)
	}
}

func (w *world) names() (names []string) {
	names = append(names, w.some(dnsPool, 20)...)
	names = append(names, w.some(ipPool, 10)...)
	names = append(names, w.some(emailPool, 4)...)
	return append(names, w.some(uriPool, 4)...)
}

func (w *world) build() {
	names := 2 + w.Intn(4)
	harm := []int{0, 2, 5, 10}[w.Intn(4)]
	for n := 2 + w.Intn(6); n > 0; n-- {
		key := w.keys[w.Intn(6)]
		s := &spec{
			subject: cn(fmt.Sprintf("ca-%d", w.Intn(names))), key: key, ca: "true", pathLen: -1, ski: keyID(key),
			usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, from: -3650, to: 3650,
		}
		if len(w.cas) > 0 && w.chance(60) {
			s.issuer = w.cas[w.Intn(len(w.cas))]
			s.aki = s.issuer.ski
		}
		w.harm(s, harm)
		w.cas = append(w.cas, s)
		for len(w.cas) > 1 && w.chance(40) {
			x := cross(s, w.cas[w.Intn(len(w.cas))])
			w.harm(x, harm)
			w.cas = append(w.cas, x)
		}
	}
}

// dn is a name as people and other programs make them: several groups, other types, odd text.
func (w *world) dn() pkix.Name {
	words := []string{"system:masters", "a,b", " x ", "#1", "ü", "", "a+b=c", "quo\"te", "k3s"}
	pick := func() (found []string) { return w.some(words, 20) }
	name := pkix.Name{
		CommonName: words[w.Intn(len(words))], SerialNumber: words[w.Intn(len(words))], Organization: pick(), OrganizationalUnit: pick(),
		Country: pick(), Locality: pick(), Province: pick(), StreetAddress: pick(), PostalCode: pick(),
	}
	for n := w.Intn(3); n > 0; n-- {
		id := asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
		name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: id, Value: words[w.Intn(len(words))]})
	}
	return name
}

func (w *world) question(id string) *Case {
	var l *spec
	switch {
	case w.chance(10):
		l = w.cas[w.Intn(len(w.cas))]
	default:
		issuer := w.cas[w.Intn(len(w.cas))]
		l = leaf(issuer, w.names()...)
		l.key = w.keys[6+w.Intn(len(w.keys)-6)]
		l.purposes = w.eku()
		if w.chance(30) {
			l.subject = w.dn()
		}
		w.harm(l, 2)
		if w.chance(3) {
			l.issuer = nil
		}
	}
	c := &Case{ID: id, Op: "verify", Leaf: l.make(), At: now}
	for _, s := range w.cas {
		rootly := 25
		if s.issuer == nil {
			rootly = 70
		}
		if w.chance(rootly) {
			c.Roots = append(c.Roots, s.make())
		}
		if w.chance(85) {
			c.Intermediates = append(c.Intermediates, s.make())
		}
		if w.chance(5) {
			c.Intermediates = append(c.Intermediates, s.make())
		}
	}
	if w.chance(3) {
		c.Roots = append(c.Roots, l.make())
	}
	shuffle := func(list [][]byte) {
		w.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	shuffle(c.Roots)
	shuffle(c.Intermediates)
	c.Purposes = [][]string{nil, nil, {"any"}, {"any"}, {"client"}, {"server", "client"}, {"code", "client"}}[w.Intn(7)]
	if w.chance(15) {
		pool := append(append([]string{}, dnsPool...), ipPool...)
		c.Host = pool[w.Intn(len(pool))]
	}
	if w.chance(10) {
		c.At = now + int64([]int{-15, 15, -4000, 4000}[w.Intn(4)])*day
	}
	return c
}

// random emits count questions about worlds drawn from seed. Keys and signatures are fresh each
// time; what is asked is not.
func random(seed int64, count int, emit func(*Case) error) error {
	source := rand.New(rand.NewSource(seed))
	var keys []crypto.Signer
	for n := 0; n < 40; n++ {
		keys = append(keys, newKey())
	}
	for n := 0; n < count; {
		w := &world{Rand: source}
		w.keys = append(w.keys, keys...)
		source.Shuffle(len(w.keys), func(i, j int) { w.keys[i], w.keys[j] = w.keys[j], w.keys[i] })
		w.build()
		for q := 0; q < 6 && n < count; q++ {
			if err := emit(w.question(fmt.Sprintf("random %d/%d", seed, n))); err != nil {
				return err
			}
			n++
		}
	}
	return nil
}
