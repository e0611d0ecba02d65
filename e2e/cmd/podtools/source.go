package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// source answers as CB-Spider and CB-Tumblebug do, with tokens of a ServiceAccount that a
// kubeconfig may issue.
type source struct {
	namespace, account string
	user, password     string
	target             kubernetes.Interface
	// trouble is the name of what is wrong with it at the moment, if anything is.
	trouble *atomic.Pointer[string]
}

// troubles are what may be wrong with a source. Each takes the place of its answer, except those
// that return true.
var troubles = map[string]func(http.ResponseWriter, *http.Request) bool{
	"slow": func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-r.Context().Done():
			return false
		case <-time.After(6 * time.Second):
			return true
		}
	},
	"silent": func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return false
	},
	"throttled": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusTooManyRequests, "later")
		return false
	},
	"broken": func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, http.StatusInternalServerError, "out of order")
		return false
	},
	"garbage": func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.CopyN(w, rand.Reader, 4096)
		return false
	},
	"endless": func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = fmt.Fprint(w, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"`)
		for range 100 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				break
			}
		}
		return false
	},
	"ended": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(execCredential(map[string]any{"token": "ended", "expirationTimestamp": metav1.Time{Time: time.Now().Add(-time.Hour)}}))
		return false
	},
}

func serveSource(args []string) error {
	flags := flag.NewFlagSet("source", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "address to listen on")
	dir := flags.String("dir", "/etc/source", "folder with kubeconfig, of who issues the tokens, and password to ask for")
	account := flags.String("service-account", "", "whose tokens they are, as NAMESPACE/NAME")
	user := flags.String("user", "", "user to ask for")
	_ = flags.Parse(args)

	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(*dir, "kubeconfig"))
	if err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(*dir, "password"))
	if err != nil {
		return err
	}
	s := source{user: *user, password: string(password), trouble: &atomic.Pointer[string]{}}
	if s.target, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	s.namespace, s.account, _ = strings.Cut(*account, "/")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /spider/cluster/{cluster}/token", s.spider)
	mux.HandleFunc("GET /tumblebug/ns/{namespace}/k8sCluster/{cluster}/token", s.tumblebug)
	mux.HandleFunc("POST /trouble", func(_ http.ResponseWriter, r *http.Request) { s.trouble.Store(new(r.URL.Query().Get("is"))) })
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}

// spider's newer versions say when the token ends.
func (s source) spider(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("ConnectionName") == "" {
		refuse(w, http.StatusBadRequest, "ConnectionName is required")
		return
	}
	s.answer(w, r, func(token string, end metav1.Time) any {
		return execCredential(map[string]any{"token": token, "expirationTimestamp": end})
	})
}

// tumblebug wraps its answers, and for some clouds hands on a whole kubeconfig in the place of the
// token, and no end.
func (s source) tumblebug(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, func(token string, _ metav1.Time) any {
		cfg := clientcmdapi.NewConfig()
		cfg.AuthInfos["cloud"] = &clientcmdapi.AuthInfo{Token: token}
		cfg.Contexts["cluster"] = &clientcmdapi.Context{AuthInfo: "cloud"}
		cfg.CurrentContext = "cluster"
		whole, err := clientcmd.Write(*cfg)
		if err != nil {
			return map[string]any{"message": err.Error()}
		}
		return map[string]any{"execCredential": execCredential(map[string]any{"token": string(whole)})}
	})
}

func (s source) answer(w http.ResponseWriter, r *http.Request, form func(token string, end metav1.Time) any) {
	if trouble := s.trouble.Load(); trouble != nil && troubles[*trouble] != nil && !troubles[*trouble](w, r) {
		return
	}
	user, password, _ := r.BasicAuth()
	if user != s.user || password != s.password {
		refuse(w, http.StatusUnauthorized, "who are you?")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	issued, err := s.target.CoreV1().ServiceAccounts(s.namespace).CreateToken(ctx, s.account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(form(issued.Status.Token, issued.Status.ExpirationTimestamp))
}

func execCredential(status map[string]any) map[string]any {
	return map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"message":%q}`, message)
}
