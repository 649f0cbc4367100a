// Tasks that need other tasks: in which order they run, and which of them at once.
import { availableParallelism } from 'node:os'
import { type Report, createReport } from '../engine/report.ts'
import { Fault } from '../ground/fault.ts'
import { nearest } from '../ground/nearest.ts'
import { type Call, type Task, type Taskfile, NotHere } from './call.ts'
import { parse } from './flags.ts'
import { several } from './tables.ts'

/**
 * The tasks that `name` needs, and `name` itself, each behind what it needs.
 * Throws a Fault for a circle, with the way round it, and for a need that does not exist.
 */
export function order(tasks: Record<string, Task>, name: string): string[] {
  const done: string[] = []
  const visit = (task: string, path: string[]) => {
    if (done.includes(task)) return
    const from = path.indexOf(task)
    if (from >= 0)
      throw new Fault(`These tasks need each other in a circle: ${[...path.slice(from), task].join(' → ')}`)
    const found = tasks[task]
    if (!found) {
      const near = nearest(task, Object.keys(tasks))
      throw new Fault(
        `${path.at(-1)} needs '${task}', and there is no such task.${near ? ` Did you mean ${near}?` : ''}`,
      )
    }
    for (const need of found.needs ?? []) visit(need, [...path, task])
    done.push(task)
  }
  visit(name, [])
  return done
}

/** Runs what `name` needs and `name`, and reports each when it has ended. */
export async function graph(taskfile: Taskfile, name: string, call: Call): Promise<number> {
  const tasks = Object.assign({}, ...Object.values(taskfile)) as Record<string, Task>
  const names = order(tasks, name).filter((n) => tasks[n]?.run)
  const options = parse(call, several)
  const report = createReport({ json: options.json, verbose: options.verbose, tty: call.live })
  return runAll(names, tasks, report, call, availableParallelism(), tasks[name]?.keepGoing)
}

/**
 * Runs tasks, up to `limit` at once; `names` stand in an order in which each follows what it needs. After a failure
 * nothing new begins, or with `keepGoing` whatever does not need what failed; what runs may end. Resolves to the worst
 * of the exit codes.
 */
export async function runAll(
  names: string[],
  tasks: Record<string, Task>,
  report: Report,
  call: Call,
  limit: number,
  keepGoing = false,
): Promise<number> {
  const total = names.length
  const waiting = [...names]
  const running = new Map<string, Promise<void>>()
  const codes = new Map<string, number>()
  const failed = () => [...codes.values()].includes(1)
  const ready = (name: string): boolean =>
    (tasks[name]?.needs ?? []).every((need) =>
      names.includes(need) ? codes.has(need) && codes.get(need) !== 1 : ready(need),
    )

  const start = async (name: string) => {
    const began = Date.now()
    report.began({ name })
    let code = 1
    let fault: Partial<Fault> | undefined
    let found = ''
    try {
      code = (await tasks[name]?.run?.({ ...call, name, argv: [], together: true })) ?? 0
    } catch (error) {
      if (error instanceof NotHere) {
        code = 0
        found = error.message
      } else fault = error instanceof Error ? error : new Error(String(error))
    }
    codes.set(name, code)
    const step = `${name}: ${tasks[name]?.does}`
    const state = found ? 'n/a' : code === 0 ? 'ok' : code === 2 ? 'pending' : 'failed'
    report.ended({
      task: name,
      index: codes.size,
      total,
      name: step,
      state,
      seconds: (Date.now() - began) / 1000,
      ...(found ? { found } : {}),
    })
    if (!fault) return
    const { message = '', ran = '', said = message, next = `./task ${name} runs it alone` } = fault
    report.error({ step, index: codes.size, total, ran, said, next })
  }

  for (;;) {
    const mayBegin = running.size < limit && !call.signal.aborted && (keepGoing || !failed())
    const next = mayBegin ? waiting.findIndex(ready) : -1
    if (next >= 0) {
      const [name] = waiting.splice(next, 1) as [string]
      running.set(
        name,
        start(name).finally(() => running.delete(name)),
      )
    } else if (running.size > 0) await Promise.race(running.values())
    else break
  }
  report.close()
  if (waiting.length > 0) report.note(`not started: ${waiting.join(', ')}`)
  return failed() ? 1 : Math.max(0, ...codes.values())
}
