package armtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strings"
)

const diagnosticsHost = "diagnostics.test"

// answer makes a response.
func answer(req *http.Request, status int, header map[string]string, body any) *http.Response {
	h := http.Header{}
	for k, v := range header {
		h.Set(k, v)
	}
	var b []byte
	switch body := body.(type) {
	case nil:
	case string:
		b = []byte(body)
	default:
		b, _ = json.Marshal(body) // of what we made ourselves
		h.Set("Content-Type", "application/json")
	}
	return &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(b)), ContentLength: int64(len(b)), Request: req,
	}
}

func fault(req *http.Request, status int, code string) *http.Response {
	return answer(req, status, nil, map[string]any{"error": map[string]string{"code": code, "message": "the cloud of the test says " + code}})
}

func (c *Cloud) diagnostics(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.URL.Query().Get("sig") != Secret {
		return answer(req, http.StatusForbidden, nil, nil), nil
	}
	if strings.HasSuffix(req.URL.Path, ".bmp") {
		return answer(req, http.StatusOK, nil, "BM a picture"), nil
	}
	return answer(req, http.StatusOK, nil, c.console), nil
}

// manage answers for all but computing.
func (c *Cloud) manage(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	group := "/subscriptions/" + Subscription + "/resourceGroups/" + Group
	if req.Header.Get("Authorization") == "" {
		return fault(req, http.StatusUnauthorized, "AuthenticationFailed"), nil
	}
	switch {
	case strings.HasPrefix(req.URL.Path, "/operations/"):
		return c.operation(req), nil
	case req.URL.Path == group:
		return answer(req, http.StatusOK, nil, map[string]any{"id": group}), nil
	case req.URL.Path == group+"/resources":
		return c.listed(req), nil
	case !strings.HasPrefix(req.URL.Path, group+"/providers/Microsoft.Network/"):
		return fault(req, http.StatusNotFound, "ResourceGroupNotFound"), nil
	}
	rest := strings.TrimPrefix(req.URL.Path, group+"/providers/Microsoft.Network/")
	if req.URL.Path == c.path("virtualNetworks/"+strings.Replace(Subnet, "/", "/subnets/", 1)) {
		return answer(req, http.StatusOK, nil, map[string]any{"id": req.URL.Path}), nil
	}
	key := strings.ToLower(rest)
	n := c.nets[key]
	switch req.Method {
	case http.MethodGet:
		if n == nil {
			return fault(req, http.StatusNotFound, "ResourceNotFound"), nil
		}
		return answer(req, http.StatusOK, nil, n.body), nil
	case http.MethodPut:
		return c.putNet(req, key, rest), nil
	case http.MethodDelete:
		return c.deleteNet(req, key), nil
	}
	return fault(req, http.StatusMethodNotAllowed, "MethodNotAllowed"), nil
}

// begin makes an operation, which is done when it was asked for twice.
func (c *Cloud) begin(req *http.Request, status int, kind string, body any) *http.Response {
	if code := c.take(kind); code != "" {
		kind = "broken-" + code
	}
	id := fmt.Sprintf("%s-%d", strings.ReplaceAll(kind, " ", "-"), len(c.ops))
	c.ops[id] = 1
	return answer(req, status, map[string]string{"Azure-AsyncOperation": "https://management.azure.com/operations/" + id}, body)
}

func (c *Cloud) operation(req *http.Request) *http.Response {
	id := last(req.URL.Path)
	left, ok := c.ops[id]
	if !ok {
		return fault(req, http.StatusNotFound, "OperationNotFound")
	}
	if left > 0 {
		c.ops[id]--
		return answer(req, http.StatusOK, nil, map[string]any{"status": "InProgress"})
	}
	if code, ok := strings.CutPrefix(id, "broken-"); ok {
		return answer(req, http.StatusOK, nil, map[string]any{"status": "Failed", "error": map[string]string{"code": code, "message": "as the test wants it"}})
	}
	return answer(req, http.StatusOK, nil, map[string]any{"status": "Succeeded"})
}

func (c *Cloud) putNet(req *http.Request, key, rest string) *http.Response {
	body := map[string]any{}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil || body["location"] != Region || body["properties"] == nil {
		return fault(req, http.StatusBadRequest, "InvalidRequestFormat")
	}
	kind, _, _ := strings.Cut(rest, "/")
	for _, id := range c.points(body) { // what it names must be there
		if c.nets[id] == nil {
			return fault(req, http.StatusBadRequest, "InvalidResourceReference")
		}
	}
	n := &thing{id: req.URL.Path, kind: "Microsoft.Network/" + kind, body: body, tags: map[string]string{}}
	if tags, ok := body["tags"].(map[string]any); ok {
		for k, v := range tags {
			n.tags[k] = fmt.Sprint(v)
		}
	}
	body["id"] = n.id
	if kind == "networkInterfaces" {
		p := body["properties"].(map[string]any)["ipConfigurations"].([]any)[0].(map[string]any)["properties"].(map[string]any)
		p["privateIPAddress"] = "127.0.0.1"
	}
	if c.broken["put "+strings.ToLower(kind)] == "" {
		c.nets[key] = n
	}
	return c.begin(req, http.StatusCreated, "put "+strings.ToLower(kind), body)
}

// points lists what a body names of a network, by key.
func (c *Cloud) points(body any) (all []string) {
	switch v := body.(type) {
	case map[string]any:
		if id, ok := v["id"].(string); ok {
			if _, rest, ok := strings.Cut(id, "/providers/Microsoft.Network/"); ok {
				all = append(all, strings.ToLower(strings.Split(rest, "/subnets/")[0]))
			}
		}
		for k, x := range v {
			if k != "id" {
				all = append(all, c.points(x)...)
			}
		}
	case []any:
		for _, x := range v {
			all = append(all, c.points(x)...)
		}
	}
	return all
}

func (c *Cloud) deleteNet(req *http.Request, key string) *http.Response {
	if c.nets[key] == nil {
		return answer(req, http.StatusNoContent, nil, nil)
	}
	for k, n := range c.nets {
		for _, id := range c.points(n.body["properties"]) {
			if id == key && k != key {
				return fault(req, http.StatusBadRequest, "InUseCannotBeDeleted")
			}
		}
	}
	for _, vm := range c.machines {
		if strings.ToLower(last(*vm.Properties.NetworkProfile.NetworkInterfaces[0].ID)) == last(key) {
			return fault(req, http.StatusBadRequest, "NicInUse")
		}
	}
	kind := "delete " + strings.Split(key, "/")[0]
	if c.broken[kind] == "" {
		delete(c.nets, key)
	}
	return c.begin(req, http.StatusAccepted, kind, nil)
}

// listed lists what bears a tag, in pages of two.
func (c *Cloud) listed(req *http.Request) *http.Response {
	filter := req.URL.Query().Get("$filter")
	_, value, one := strings.Cut(filter, "tagValue eq '")
	value = strings.TrimSuffix(value, "'")
	if !strings.HasPrefix(filter, "tagName eq 'leeward-run'") {
		return fault(req, http.StatusBadRequest, "InvalidFilter")
	}
	type item = map[string]any
	var all []item
	add := func(id, kind string, tags map[string]string) {
		if run, ok := tags["leeward-run"]; ok && (!one || run == value) {
			all = append(all, item{"id": id, "name": last(id), "type": kind, "tags": tags, "location": Region})
		}
	}
	plain := func(tags map[string]*string) map[string]string {
		out := map[string]string{}
		for k, v := range tags {
			out[k] = *v
		}
		return out
	}
	compute := "/subscriptions/" + Subscription + "/resourceGroups/" + Group + "/providers/Microsoft.Compute/"
	for n, d := range c.disks {
		add(compute+"disks/"+n, "Microsoft.Compute/disks", plain(d.Tags))
	}
	for n, m := range c.machines {
		add(compute+"virtualMachines/"+n, "Microsoft.Compute/virtualMachines", plain(m.Tags))
	}
	for _, n := range c.nets {
		add(n.id, n.kind, n.tags)
	}
	sort.Slice(all, func(i, j int) bool { return all[i]["id"].(string) < all[j]["id"].(string) })
	skip := 0
	_, _ = fmt.Sscan(req.URL.Query().Get("skip"), &skip) // the first page has none
	skip = min(skip, len(all))
	end := min(skip+2, len(all))
	page := item{"value": all[skip:end]}
	if end < len(all) {
		page["nextLink"] = fmt.Sprintf("https://management.azure.com%s?$filter=%s&skip=%d", req.URL.Path, url.QueryEscape(filter), end)
	}
	return answer(req, http.StatusOK, nil, page)
}
