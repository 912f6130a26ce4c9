// A suite in Go with the standard library alone: `rayplane test-env run -- go test namespaces_test.go`. With client-go
// it is clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")); with envtest of controller-runtime nothing changes.
package namespaces

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// said is what the kubeconfig says of a field.
func said(t *testing.T, field string) string {
	kubeconfig, err := os.ReadFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(field + `: (\S+)`).FindSubmatch(kubeconfig)
	if found == nil {
		t.Fatal("the kubeconfig has no " + field)
	}
	return string(found[1])
}

func decoded(t *testing.T, field string) []byte {
	data, err := base64.StdEncoding.DecodeString(said(t, field))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestANamespaceIsMadeAndCanBeFound(t *testing.T) {
	own, err := tls.X509KeyPair(decoded(t, "client-certificate-data"), decoded(t, "client-key-data"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(decoded(t, "certificate-authority-data"))
	shown := &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: shown}}
	namespaces := said(t, "server") + "/api/v1/namespaces"

	body := strings.NewReader(`{"metadata": {"name": "from-go"}}`)
	made, err := client.Post(namespaces, "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Body.Close()
	if made.StatusCode != http.StatusCreated {
		t.Fatal(made.Status)
	}
	again, err := client.Get(namespaces + "/from-go")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	if text, err := io.ReadAll(again.Body); err != nil || !strings.Contains(string(text), `"from-go"`) {
		t.Fatal(string(text), err)
	}
}
