// How far a transfer has come, for a person who waits: at most once a second, and once when it is over.

/** How far a transfer has come. */
export interface Transfer {
  name: string
  does: 'fetching' | 'sending'
  bytes: number
  /** Absent where the server does not say. */
  total?: number
  /** Bytes a second since this run began. */
  rate: number
  /** The last of its events. */
  done?: boolean
}

export interface Meter {
  at(bytes: number, total?: number): void
  end(): void
}

/** Reports a transfer to `report`. Its rate counts from now, and from the first byte that was not there before. */
export function meter(
  name: string,
  does: Transfer['does'],
  report: ((transfer: Transfer) => void) | undefined,
): Meter {
  const began = Date.now()
  let first: number | undefined
  let reported = 0
  let last: { bytes: number; total?: number } | undefined
  const send = (done: boolean) => {
    if (last === undefined) return
    reported = Date.now()
    const seconds = Math.max(0.001, (reported - began) / 1000)
    report?.({ name, does, ...last, rate: (last.bytes - (first ?? 0)) / seconds, ...(done ? { done } : {}) })
  }
  return {
    at(bytes, total) {
      first = Math.min(first ?? bytes, bytes)
      last = { bytes, ...(total === undefined || Number.isNaN(total) ? {} : { total }) }
      if (Date.now() - reported >= 1000) send(false)
    },
    end: () => send(true),
  }
}
