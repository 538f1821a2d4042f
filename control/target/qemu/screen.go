package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
)

// picture writes what the guest shows to a file. QEMU makes PPM always and PNG only
// if it was built so, and is not older than 7.1: so PNG is made here.
func (r *Run) picture(ctx context.Context) (path string, err error) {
	r.screenMu.Lock()
	defer r.screenMu.Unlock()
	path, raw := filepath.Join(r.dir, screenFile), filepath.Join(r.dir, screenRaw)
	defer os.Remove(raw)
	if err := r.mon.call(ctx, "screendump", map[string]string{"filename": screenRaw}, nil); err != nil {
		if _, had := os.Stat(path); had == nil && errors.Is(err, errGone) {
			return path, nil // of when the guest powered off
		}
		return "", err
	}
	f, err := os.Open(raw)
	if err != nil {
		return "", err
	}
	defer f.Close()
	img, err := decodePPM(f)
	if err != nil {
		return "", fmt.Errorf("QEMU's picture of the screen: %w", err)
	}
	return path, writePNG(path, img)
}

// writePNG replaces a picture by another, never by half of one.
func writePNG(path string, img image.Image) error {
	f, err := os.OpenFile(path+".partial", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(f, img)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".partial", path)
}

// maxScreen is the longest edge of a screen that is believed, in pixels.
const maxScreen = 8192

// decodePPM reads a picture in the binary PPM format with 8 bits a colour.
func decodePPM(r io.Reader) (image.Image, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	var w, h, depth int
	if _, err := fmt.Fscanf(b, "P6\n%d %d\n%d\n", &w, &h, &depth); err != nil {
		return nil, fmt.Errorf("no PPM: %w", err)
	}
	if w <= 0 || h <= 0 || w > maxScreen || h > maxScreen || depth != 255 {
		return nil, fmt.Errorf("%d by %d pixels of depth %d", w, h, depth)
	}
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	row := make([]byte, 3*w)
	for y := range h {
		if _, err := io.ReadFull(b, row); err != nil {
			return nil, err
		}
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{row[3*x], row[3*x+1], row[3*x+2], 255})
		}
	}
	return img, nil
}
