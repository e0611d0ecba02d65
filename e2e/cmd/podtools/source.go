package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// source answers as CB-Spider and CB-Tumblebug do, with tokens of a ServiceAccount that a kubeconfig may issue.
type source struct {
	namespace, account string
	user, password     string
	target             kubernetes.Interface
}

func serveSource(args []string) error {
	flags := flag.NewFlagSet("source", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "address to listen on")
	kubeconfig := flags.String("kubeconfig", "/etc/source/kubeconfig", "who issues the tokens")
	account := flags.String("service-account", "", "whose tokens they are, as NAMESPACE/NAME")
	login := flags.String("login", "", "user and password to ask for, as USER:PASSWORD")
	_ = flags.Parse(args)

	cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	s := source{}
	if s.target, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	s.namespace, s.account, _ = strings.Cut(*account, "/")
	s.user, s.password, _ = strings.Cut(*login, ":")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /spider/cluster/{cluster}/token", s.spider)
	mux.HandleFunc("GET /tumblebug/ns/{namespace}/k8sCluster/{cluster}/token", s.tumblebug)
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

// tumblebug wraps its answers, and for some clouds hands on a whole kubeconfig in the place of the token, and no end.
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
