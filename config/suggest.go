package config

import "strings"

// nearest is the one of words that text was probably meant to be; empty: none.
func nearest(text string, words []string) string {
	const most = 1000 // words are compared
	best, distance, longer := "", len(text), ""
	for _, w := range words[:min(len(words), most)] {
		a, b := plain(text), plain(w)
		if a == b {
			return w
		}
		if short := min(len(a), len(b)); 2*short >= max(len(a), len(b)) && a[:short] == b[:short] && longer == "" {
			longer = w
		}
		// A third of the letters may be wrong, and one of a short word.
		allowed := max(1, min(len(a), len(b))/3)
		if len(a)-len(b) > allowed || len(b)-len(a) > allowed {
			continue
		}
		if d := edits(a, b); d <= allowed && d < distance {
			best, distance = w, d
		}
	}
	if best == "" {
		return longer
	}
	return best
}

// plain leaves out how words are joined: maxBody, max_body and MAX-BODY are one.
func plain(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// edits is how many letters must be changed, added, left out or exchanged with
// their neighbour to get from a to b.
func edits(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// suggest is the path that an unknown key below p was probably meant to be, and
// true if it stands in the same section.
func (s *shape) suggest(root *shape, p path, name string) (meant path, here bool) {
	if near := nearest(name, s.names()); near != "" {
		return p.to(near), true
	}
	if below := s.find(p, name); below != nil {
		return below, false
	}
	return root.find(nil, name), false
}

// find is the path of a key of exactly this name, below p; nil: there is none.
func (s *shape) find(p path, name string) path {
	for _, sub := range s.sub {
		if plain(sub.name) == plain(name) {
			return p.to(sub.name)
		}
	}
	for _, sub := range s.sub {
		if found := sub.find(p.to(sub.name), name); found != nil {
			return found
		}
	}
	if s.any != nil {
		return s.any.find(p.to("<name>"), name)
	}
	return nil
}
