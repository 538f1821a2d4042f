package azure

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
)

// errStale means that a disk cannot be filled any more and is to be made anew.
var errStale = errors.New("the disk cannot be filled any more")

var signed = regexp.MustCompile(`\?[^\s"]*sig=[^\s"]*`)

// unsigned takes signatures out of an error's text.
func unsigned(err error) error {
	if err == nil {
		return nil
	}
	text := signed.ReplaceAllString(err.Error(), "?[signature]")
	if text == err.Error() {
		return err
	}
	return short{err, text}
}

// plain is a URL without what signs it.
func plain(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "an address that cannot be read"
	}
	return fmt.Sprintf("%s://%s%s", u.Scheme, u.Host, u.Path)
}
