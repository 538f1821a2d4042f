package armtest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8/fake"
)

// compute is Microsoft's fakes, with the memory that they lack: an operation that has
// ended says the same however often it is asked for, and one that ended with an error can
// be begun anew.
type compute struct {
	servers fake.ServerFactory

	mu    sync.Mutex
	fakes *fake.ServerFactoryTransport
	ended map[string]ended // operation → its last word
}

// ended is an answer that can be given again.
type ended struct {
	resp http.Response
	body []byte
}

// pollSuffix is how the fakes mark questions for an operation.
const pollSuffix = "/get/fake/status"

func (k *compute) do(req *http.Request) (*http.Response, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fakes == nil {
		k.fakes, k.ended = fake.NewServerFactoryTransport(&k.servers), map[string]ended{}
	}
	name, _ := req.Context().Value(runtime.CtxAPINameKey{}).(string)
	key := name + " " + strings.TrimSuffix(req.URL.Path, pollSuffix)
	poll := strings.HasSuffix(req.URL.Path, pollSuffix)
	if e, ok := k.ended[key]; ok && poll {
		resp := e.resp
		resp.Body, resp.Request = io.NopCloser(bytes.NewReader(e.body)), req
		return &resp, nil
	}
	delete(k.ended, key)
	resp, err := k.fakes.Do(req)
	if err != nil && strings.Contains(err.Error(), "fake poller response is") { // and has none
		if poll {
			return fault(req, http.StatusNotFound, "OperationNotFound"), nil
		}
		k.fakes = fake.NewServerFactoryTransport(&k.servers)
		resp, err = k.fakes.Do(req)
	}
	if err != nil || !poll || resp.Header.Get("Fake-Poller-Status") != "Succeeded" {
		return resp, err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	k.ended[key] = ended{*resp, b}
	return resp, nil
}
