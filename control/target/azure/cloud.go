package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// The versions of the interfaces that are called by hand.
const (
	networkVersion   = "2024-05-01"
	resourcesVersion = "2021-04-01"
)

// cloud is Azure Resource Manager, for one place.
type cloud struct {
	place Place
	cfg   *Config
	disks *armcompute.DisksClient
	vms   *armcompute.VirtualMachinesClient
	skus  *armcompute.ResourceSKUsClient
	usage *armcompute.UsageClient
	arm   *arm.Client
	cred  azcore.TokenCredential
}

// tryTime bounds one request to the resource manager, which never takes long: what does
// is asked for again and again.
const tryTime = 2 * time.Minute

func newCloud(cfg *Config, p Place) (*cloud, error) {
	core := policy.ClientOptions{
		Transport: cfg.transport, Retry: policy.RetryOptions{TryTimeout: tryTime, RetryDelay: cfg.retry},
		Cloud: map[string]azcloud.Configuration{"government": azcloud.AzureGovernment, "china": azcloud.AzureChina}[p.Cloud],
	}
	core.Telemetry.ApplicationID = "leeward"
	cred, err := credential(cfg, p, core)
	if err != nil {
		return nil, fmt.Errorf("azure credentials: %w", err)
	}
	c := &cloud{place: p, cfg: cfg, cred: cred}
	o := &arm.ClientOptions{ClientOptions: core, DisableRPRegistration: true}
	f, err := armcompute.NewClientFactory(p.Subscription, cred, o)
	if err != nil {
		return nil, fmt.Errorf("azure: %w", err)
	}
	c.disks, c.vms, c.skus, c.usage = f.NewDisksClient(), f.NewVirtualMachinesClient(), f.NewResourceSKUsClient(), f.NewUsageClient()
	if c.arm, err = arm.NewClient("leeward", "v1.0.0", cred, o); err != nil {
		return nil, fmt.Errorf("azure: %w", err)
	}
	return c, nil
}

func credential(cfg *Config, p Place, core policy.ClientOptions) (azcore.TokenCredential, error) {
	switch {
	case cfg.credential != nil:
		return cfg.credential, nil
	case p.Identity != "":
		return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: core, ID: azidentity.ClientID(p.Identity)})
	}
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: core})
}

// call does one request and decodes the answer into out, which may be nil.
func (c *cloud) call(ctx context.Context, method, path, version string, body, out any) error {
	resp, err := c.send(ctx, method, path, version, body)
	if err != nil {
		return err
	}
	if out == nil {
		resp.Body.Close()
		return nil
	}
	return runtime.UnmarshalAsJSON(resp, out)
}

func (c *cloud) send(ctx context.Context, method, path, version string, body any) (*http.Response, error) {
	req, err := runtime.NewRequest(ctx, method, runtime.JoinPaths(c.arm.Endpoint(), path))
	if err != nil {
		return nil, err
	}
	q := req.Raw().URL.Query()
	q.Set("api-version", version)
	req.Raw().URL.RawQuery = q.Encode()
	req.Raw().Header.Set("Accept", "application/json")
	if body != nil {
		if err := runtime.MarshalAsJSON(req, body); err != nil {
			return nil, err
		}
	}
	resp, err := c.arm.Pipeline().Do(req)
	if err != nil {
		return nil, err
	}
	if !runtime.HasStatusCode(resp, http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent) {
		defer resp.Body.Close()
		return nil, runtime.NewResponseError(resp)
	}
	return resp, nil
}

// resource is an answer in the form that all resources share.
type resource struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties json.RawMessage   `json:"properties"`
}

// starting begins an operation, or goes on with the one that token is for.
type starting[T any] func(ctx context.Context, token string) (*runtime.Poller[T], error)

// begin makes a starting of a request by hand.
func (c *cloud) begin(method, path, version string, body any) starting[resource] {
	return func(ctx context.Context, token string) (*runtime.Poller[resource], error) {
		if token != "" {
			return runtime.NewPollerFromResumeToken[resource](token, c.arm.Pipeline(), nil)
		}
		resp, err := c.send(ctx, method, path, version, body)
		if err != nil {
			return nil, err
		}
		return runtime.NewPoller[resource](resp, c.arm.Pipeline(), nil)
	}
}

// tokens keeps what resumes an operation.
type tokens interface {
	token(step string) string
	keep(step, token string) error
}

// maxBad is how often in a row an operation cannot be asked for before it is given up.
const maxBad = 10

// await does an operation, from where an earlier process left it, until it has ended.
func await[T any](ctx context.Context, c *cloud, k tokens, step string, start starting[T]) (none T, err error) {
	token := k.token(step)
	p, err := start(ctx, token)
	if err == nil && token != "" {
		var got T
		if got, err = follow(ctx, c, p); err == nil {
			return got, k.keep(step, "")
		}
	}
	if err != nil && token != "" && ctx.Err() == nil {
		// The service may have forgotten it; to ask for the same again is safe.
		if err := k.keep(step, ""); err != nil {
			return none, err
		}
		p, err = start(ctx, "")
	}
	if err != nil {
		return none, fmt.Errorf("azure: %s: %w", step, brief(err))
	}
	if t, err := p.ResumeToken(); err == nil {
		if err := k.keep(step, t); err != nil {
			return none, err
		}
	}
	got, err := follow(ctx, c, p)
	if err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, k.keep(step, ""))
		}
		return none, fmt.Errorf("azure: %s: %w", step, brief(err))
	}
	return got, k.keep(step, "")
}

// follow asks until an operation has ended. One question that fails is asked again.
func follow[T any](ctx context.Context, c *cloud, p *runtime.Poller[T]) (none T, err error) {
	bad := 0
	for !p.Done() {
		resp, err := p.Poll(ctx)
		if err != nil {
			if bad++; bad >= maxBad || ctx.Err() != nil || final(err) {
				return none, err
			}
		} else {
			bad = 0
		}
		if !p.Done() && !pause(ctx, max(c.cfg.poll, retryAfter(resp, c.cfg.poll))) {
			return none, context.Cause(ctx)
		}
	}
	for {
		got, err := p.Result(ctx)
		if bad++; err == nil || bad >= maxBad || ctx.Err() != nil || isResponse(err) {
			return got, err
		}
		pause(ctx, c.cfg.poll)
	}
}

// retryAfter is how long the service asks us to wait, 0 where tests wait for nothing.
func retryAfter(resp *http.Response, poll time.Duration) time.Duration {
	if resp == nil || poll < time.Second {
		return 0
	}
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Minute)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func isResponse(err error) bool {
	_, ok := errors.AsType[*azcore.ResponseError](err)
	return ok
}

// status is the HTTP status of an error, 0 if it is none of the service's.
func status(err error) int {
	if r, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return r.StatusCode
	}
	return 0
}

func missing(err error) bool { return status(err) == http.StatusNotFound }

// refused reports whether who we are is the reason, which waiting does not change.
func refused(err error) bool {
	return status(err) == http.StatusUnauthorized || status(err) == http.StatusForbidden
}

// final reports whether to ask again would be answered the same. An operation that was
// begun just now may not be known everywhere yet.
func final(err error) bool {
	s := status(err)
	return s/100 == 4 && s != http.StatusNotFound && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests
}

// short is an error of the service in one line. Its own text is many, with the URL.
type short struct {
	error
	text string
}

// Error returns the line.
func (s short) Error() string { return s.text }

// Unwrap returns the service's own error.
func (s short) Unwrap() error { return s.error }

// brief shortens an error of the service: its text holds the request's URL, and that may
// hold a signature.
func brief(err error) error {
	r, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return unsigned(err)
	}
	text := fmt.Sprintf("Azure answers %d %s", r.StatusCode, r.ErrorCode)
	if said := message(r); said != "" {
		text += ": " + said
	}
	switch r.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += " (has our identity the role of docs/ops/azure.md on the resource group?)"
	}
	return short{err, text}
}

// message is what the service says in its answer.
func message(r *azcore.ResponseError) string {
	if r.RawResponse == nil || r.RawResponse.Body == nil {
		return ""
	}
	b, err := runtime.Payload(r.RawResponse)
	if err != nil {
		return ""
	}
	var said struct {
		Error struct{ Message string }
	}
	if json.Unmarshal(b, &said) != nil {
		return ""
	}
	return said.Error.Message[:min(len(said.Error.Message), 300)]
}
