package store

import "context"

// Stager is implemented by stores that can make an object's bytes durable before it has
// its name. Several may then be on their way at the same time and appear one after the
// other.
type Stager interface {
	// Stage returns when data is durable, without a name. It may be kept until Commit or
	// Abort, and must not change until then.
	Stage(ctx context.Context, key string, data []byte) (Staged, error)
}

// Staged is an object that does not exist yet.
type Staged interface {
	// Commit creates the object, as Put does: it is durable when Commit returns nil, and
	// ErrExists means that somebody else's is there. After another error it may be
	// called again.
	Commit(ctx context.Context) error
	// Abort lets go of what is not created. It may be called at any time, also after
	// Commit; a process that ends instead leaves nothing that anybody sees.
	Abort()
}

// Stage calls s.Stage if s is a Stager. Otherwise Commit does all the work.
func Stage(ctx context.Context, s Store, key string, data []byte) (Staged, error) {
	if st, ok := s.(Stager); ok {
		return st.Stage(ctx, key, data)
	}
	return later{s, key, data}, nil
}

// later is an object of a store that knows Put only.
type later struct {
	s    Store
	key  string
	data []byte
}

func (l later) Commit(ctx context.Context) error { return l.s.Put(ctx, l.key, l.data) }

func (l later) Abort() {}
