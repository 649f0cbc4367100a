// The word that was probably meant.

/** Damerau-Levenshtein distance (neighbours swapped count once), without regard to case. */
function distance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i])
  for (let j = 1; j <= b.length; j++) rows[0]![j] = j
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1
      let least = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, rows[i - 1]![j - 1]! + change)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, rows[i - 2]![j - 2]! + 1)
      rows[i]![j] = least
    }
  }
  return rows[a.length]![b.length]!
}

/**
 * The candidate closest to `word`, or undefined when none is close: at most a third of the letters may differ,
 * and never more than three. A candidate that begins with `word` (three letters or more) counts as one letter away.
 */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  const small = word.slice(0, 64).toLowerCase()
  let best: string | undefined
  let least = Infinity
  for (const candidate of candidates) {
    const other = candidate.toLowerCase()
    const allowed = Math.min(3, Math.max(1, Math.floor(Math.max(small.length, other.length) / 3)))
    const far = small.length >= 3 && other.startsWith(small) ? 1 : distance(small, other)
    if (far <= allowed && far < least && far < other.length) [best, least] = [candidate, far]
  }
  return best
}
