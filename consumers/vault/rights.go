package vault

import "github.com/leeward-dr/leeward/consumers/vault/store"

// AppendOnly returns the same vault without the right to delete: what a process server
// gets.
func (v *Vault) AppendOnly() (*Vault, error) {
	v.mu.Lock()
	slot := v.slot
	v.mu.Unlock()
	return newVault(store.AppendOnly(v.st), v.id, v.key, slot)
}
