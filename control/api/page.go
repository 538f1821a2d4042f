package api

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// maxPage keeps an answer below the server's max_payload of 1 MiB.
const maxPage = 512 << 10

// paginate returns the page of all that starts at cursor. The cursor is an index:
// good enough for lists that change between two pages only at their ends.
func paginate[T any](schema string, all []T, cursor string) (*Page[T], error) {
	start := 0
	if cursor != "" {
		n, err := strconv.Atoi(cursor)
		if err != nil || n < 0 || n > len(all) {
			return nil, Errorf(CodeUsage, "ask again without a cursor", "cursor %q is not of this list", cursor)
		}
		start = n
	}
	p := &Page[T]{Schema: schema, Items: []T{}}
	size := 0
	for i := start; i < len(all); i++ {
		b, err := json.Marshal(all[i])
		if err != nil {
			return nil, fmt.Errorf("encode item %d: %w", i, err)
		}
		if size += len(b); size > maxPage && i > start {
			p.Next = strconv.Itoa(i)
			break
		}
		p.Items = append(p.Items, all[i])
	}
	return p, nil
}

// Newest returns the last n of all; n ≤ 0 means all.
func Newest[T any](all []T, n int) []T {
	if n > 0 && len(all) > n {
		return all[len(all)-n:]
	}
	return all
}
