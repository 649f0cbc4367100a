// Machines that are looked at side by side: how many at once, and how many connections to one of them.
import type { Placed } from '../site/machines.ts'

/** Machines looked at at once: each takes a process of ssh here, and its answers wait in memory for their place. */
export const machinesAtOnce = 8

/**
 * Machines behind one host at once. A hardened sshd allows five log-ins that have not ended from one address
 * (PerSourceMaxStartups in config/host/sshd_config), ten sessions of an account, and of a connection four.
 */
export const guestsAtOnce = 3

/**
 * Lets `width` jobs run at once, and the others in the order in which they came. A job that has not ended after `patience`
 * milliseconds goes on, and counts no more.
 */
export function gate(width: number, patience?: number): <T>(job: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = []
  let free = width
  const leave = () => {
    const next = waiting.shift()
    if (next) next()
    else free += 1
  }
  return async (job) => {
    if (free > 0) free -= 1
    else await new Promise<void>((resolve) => waiting.push(resolve))
    let counts = true
    const once = () => {
      if (counts) leave()
      counts = false
    }
    const timer = patience === undefined ? undefined : setTimeout(once, patience)
    try {
      return await job()
    } finally {
      clearTimeout(timer)
      once()
    }
  }
}

/** Starts the jobs in their order, `width` at once; each of the promises may be waited for, or not. */
export function limited<T>(jobs: (() => Promise<T>)[], width: number): Promise<T>[] {
  const through = gate(width)
  return jobs.map((job) => seen(through(job)))
}

/**
 * Does a job for each machine, `width` at once; resolves and rejects in the places of `machines`. What is behind a host
 * waits until the host itself was looked at. With `patience`, in milliseconds, a machine that takes longer makes room for the
 * next; behind one host for as many again.
 */
export function abreast<T>(
  machines: Placed[],
  job: (machine: Placed) => Promise<T>,
  width = machinesAtOnce,
  patience?: number,
): Promise<T>[] {
  const all = gate(width, patience)
  const guests = new Map<string, ReturnType<typeof guestGate>>()
  const hosts = new Map<string, Promise<T>>()
  // Hosts begin first, in whichever order the site names its machines.
  const begun = new Map<Placed, Promise<T>>()
  for (const machine of machines.filter(({ behind }) => behind === undefined)) {
    const looked = seen(all(() => job(machine)))
    hosts.set(machine.name, looked)
    begun.set(machine, looked)
  }
  for (const machine of machines.filter(({ behind }) => behind !== undefined)) {
    const host = machine.behind as string
    const few = guests.get(host) ?? guestGate(patience)
    guests.set(host, few)
    const work = async () => {
      await hosts.get(host)?.catch(() => {})
      return few(() => all(() => job(machine)))
    }
    begun.set(machine, seen(work()))
  }
  return machines.map((machine) => begun.get(machine) as Promise<T>)
}

/** Log-ins begin on a host few at once; those of machines that are silent stay until their time is over. */
function guestGate(patience?: number): ReturnType<typeof gate> {
  const begun = gate(guestsAtOnce, patience)
  if (patience === undefined) return begun
  const there = gate(2 * guestsAtOnce)
  return (job) => there(() => begun(job))
}

/** Whoever waits for it sees the error; a promise that nobody waits for yet ends no process. */
function seen<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}
