package stomp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"usher/engine/stomp"
)

// authority is a private one, as a company has it: no system knows it.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	a.cert = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, &a.key.PublicKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate; without a parent it is the authority's own.
func (a *authority) sign(template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	if parent == nil {
		parent = template
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// serve starts a fake that shows a certificate of the authority's, with what change
// makes of it: without a change it is for 127.0.0.1 and in force.
func (a *authority) serve(change func(*x509.Certificate)) *fake {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	cert := a.sign(template, a.cert, &key.PublicKey)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return serveOn(a.t, ln, nil)
}

// roots is the config of who trusts the authority.
func (a *authority) roots() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

func secure(s *fake, roots *tls.Config) stomp.Config {
	c := s.config()
	c.URLs, c.TLS = []string{"stomp+ssl://" + s.ln.Addr().String()}, roots
	return c
}

func TestTLSWithAPrivateAuthority(t *testing.T) {
	a := newAuthority(t)
	s := a.serve(nil)
	b := run(t, secure(s, a.roots()))
	until(t, b, 1)
	s.subscribed()
	publish(t, b)
}

func TestTLSIsVerified(t *testing.T) {
	trusted, other := newAuthority(t), newAuthority(t)
	good := trusted.serve(nil)
	otherName := func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"broker.example"} }
	expired := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(1, 0), time.Unix(2, 0) }
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	for _, c := range []struct {
		what   string
		config stomp.Config
		want   any
	}{
		{"the system's roots", secure(good, nil), &unknown},
		{"another authority's root", secure(good, other.roots()), &unknown},
		{"a certificate for another host", secure(trusted.serve(otherName), trusted.roots()), &name},
		{"a certificate of yesteryear", secure(trusted.serve(expired), trusted.roots()), &invalid},
	} {
		t.Run(c.what, func(t *testing.T) {
			if _, err := stomp.Dial(t.Context(), c.config); !errors.As(err, c.want) {
				t.Errorf("got %v, want a %T", err, c.want)
			}
		})
	}
}

// A name in place of the address: the certificate has to be for what the URL says.
func TestTLSVerifiesTheNameOfTheURL(t *testing.T) {
	a := newAuthority(t)
	s := a.serve(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"localhost"} })
	_, port, err := net.SplitHostPort(s.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := secure(s, a.roots())
	c.URLs = []string{"stomp+ssl://localhost:" + port}
	b := run(t, c)
	until(t, b, 1)
	publish(t, b)
}
