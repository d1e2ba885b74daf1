// One program in place of the Kubernetes components, by the name that it is called by. Each loads
// its files when it starts and ends with an error if one is missing or does not fit, opens the
// ports that the real one opens, and calls whom the real one calls, five times a second on a
// connection that lasts and once on a new one, with a note of every call.
//
// As the real ones, kube-apiserver takes up a changed serving certificate and client CA by itself,
// the kubelet a changed client CA; nothing else is read again. (Real clients read a changed client
// certificate after five minutes. Not here: none of our tests may need it.)
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var every = pace()

// CALM: five times more rarely, where nobody counts calls.
func pace() time.Duration {
	if os.Getenv("CALM") != "" {
		return time.Second
	}
	return 200 * time.Millisecond
}

type flags map[string]string

// Flags as RKE writes them: --name=value.
func parse(arguments []string) flags {
	found := flags{}
	for _, it := range arguments {
		name, value, _ := strings.Cut(strings.TrimLeft(it, "-"), "=")
		found[name] = value
	}
	return found
}

// A flag that must be there.
func (f flags) must(name string) string {
	value := f[name]
	if value == "" {
		fail("--%s is missing", name)
	}
	return value
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func main() {
	// As the first process of a container we end for nobody who is not listened to.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		os.Exit(0)
	}()
	role, arguments := filepath.Base(os.Args[0]), os.Args[1:]
	switch role {
	case "kube-apiserver":
		apiserver(parse(arguments))
	case "kube-controller-manager":
		controllerManager(parse(arguments))
	case "kube-scheduler":
		scheduler(parse(arguments))
	case "kubelet":
		kubelet(parse(arguments))
	case "kube-proxy":
		kubeProxy(parse(arguments))
	case "nginx-proxy":
		nginxProxy(strings.Split(os.Getenv("CP_HOSTS"), ","))
	case "etcd-writer":
		writer(parse(arguments))
	default:
		fail("no component is called %s", role)
	}
}
