package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/streams"
)

// Authority issues and revokes users on running servers, one or a cluster.
type Authority struct {
	t  *Trust
	nc *nats.Conn
	mu sync.Mutex // one change of the account's token at a time
}

// Authority works over a connection of the system user (SystemCreds), which its
// caller owns.
func (t *Trust) Authority(nc *nats.Conn) *Authority { return &Authority{t: t, nc: nc} }

// Issue makes the token of an enrolled machine, for the key it made itself.
func (a *Authority) Issue(machine, publicKey string, groups []string) (string, error) {
	if err := streams.ValidName("machine", machine); err != nil {
		return "", err
	}
	for _, g := range groups {
		if err := streams.ValidName("group", g); err != nil {
			return "", err
		}
	}
	return a.t.user(Machine, machine, publicKey, groups)
}

// Revoke ends the connections of users and refuses them for good. It returns when
// a server has taken it in; the others of a cluster follow at once, or when they
// are up.
func (a *Authority) Revoke(ctx context.Context, publicKeys ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, err := a.lookup(ctx, a.t.accounts[agents])
	if err != nil {
		return err
	}
	// Whatever was issued until the end of this second is refused: tokens carry
	// whole seconds.
	token, err := a.t.revoke(was, time.Now().Add(time.Second), publicKeys...)
	if err != nil || token == "" {
		return err
	}
	return a.push(ctx, token)
}

// Refresh gives the servers the rights of this version of Leeward.
func (a *Authority) Refresh(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, account := range a.t.Accounts() {
		was, err := a.lookup(ctx, account)
		if err != nil {
			return err
		}
		token, changed, err := a.t.AccountToken(account, was)
		if err == nil && changed {
			err = a.push(ctx, token)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup asks for an account's token as the servers have it.
func (a *Authority) lookup(ctx context.Context, account string) (string, error) {
	m, err := a.nc.RequestWithContext(ctx, "$SYS.REQ.ACCOUNT."+account+".CLAIMS.LOOKUP", nil)
	if err != nil {
		return "", fmt.Errorf("ask the NATS server for the account's token: %w", err)
	}
	if len(m.Data) == 0 {
		return "", errors.New("the NATS server does not know the account: start it with the configuration of this directory's keys")
	}
	return string(m.Data), nil
}

// push hands the account's token to the servers.
func (a *Authority) push(ctx context.Context, token string) error {
	m, err := a.nc.RequestWithContext(ctx, "$SYS.REQ.CLAIMS.UPDATE", []byte(token))
	if err != nil {
		return fmt.Errorf("hand the account's token to the NATS server: %w", err)
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("the NATS server's answer about the account's token is unreadable: %w", err)
	}
	if answer.Error != nil {
		return fmt.Errorf("the NATS server refuses the account's token: %s", answer.Error.Description)
	}
	return nil
}
