// A reader of exported logs on Go's own sumdb/tlog and sumdb/note, which know nothing of Fulexo: verifies the signed note, every
// leaf's inclusion in the tree that it names, and the tree's consistency with smaller ones.
//
//	reader DIRECTORY VKEY
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// The tiles of a copy, under the paths of C2SP tlog-tiles, which leave out the height.
type tiles struct{ directory string }

func (tiles) Height() int                          { return height }
func (tiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var read [][]byte
	for _, tile := range wanted {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(t.directory, path))
		if err != nil {
			return nil, err
		}
		read = append(read, content)
	}
	return read, nil
}

func main() {
	size, err := verify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(size, "events verified")
}

func verify(directory, vkey string) (int64, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return 0, err
	}
	signed, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	if err != nil {
		return 0, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return 0, fmt.Errorf("not a checkpoint of %s: %q", verifier.Name(), opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, err
	}
	digest, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(digest) != tlog.HashSize {
		return 0, fmt.Errorf("not a root: %q", lines[2])
	}
	var root tlog.Hash
	copy(root[:], digest)

	hashes := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles{directory})
	for position := int64(0); position < size; {
		width := size - position
		if width > 1<<height {
			width = 1 << height
		}
		path := tlog.Tile{H: height, L: -1, N: position >> height, W: int(width)}.Path()
		path = strings.Replace(path, "tile/8/data/", "tile/entries/", 1)
		bundle, err := os.ReadFile(filepath.Join(directory, path))
		if err != nil {
			return 0, err
		}
		for end := position + width; position < end; position++ {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return 0, fmt.Errorf("%s ends within an entry", path)
			}
			length := 2 + int(binary.BigEndian.Uint16(bundle))
			leaf := tlog.RecordHash(bundle[2:length])
			bundle = bundle[length:]
			proof, err := tlog.ProveRecord(size, position, hashes)
			if err != nil {
				return 0, err
			}
			if err := tlog.CheckRecord(proof, size, root, position, leaf); err != nil {
				return 0, fmt.Errorf("event %d: %v", position, err)
			}
		}
		if !bytes.Equal(bundle, nil) {
			return 0, fmt.Errorf("%s has more than its entries", path)
		}
	}
	for old := int64(1); old <= size; old += 1 + old/7 {
		smaller, err := tlog.TreeHash(old, hashes)
		if err != nil {
			return 0, err
		}
		proof, err := tlog.ProveTree(size, old, hashes)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckTree(proof, size, root, old, smaller); err != nil {
			return 0, fmt.Errorf("the tree of %d: %v", old, err)
		}
	}
	return size, nil
}
