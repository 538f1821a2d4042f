//go:build !linux

package agent

import "errors"

// SetIOClass needs Linux; "" changes nothing.
func SetIOClass(class string) error {
	if class != "" {
		return errors.New("io-class needs Linux")
	}
	return nil
}
