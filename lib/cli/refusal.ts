// How a command says on standard error that it does nothing more.
import { Fault } from '../ground/fault.ts'

/** Tells on standard error why nothing more is done, and gives the exit code. A stack only for `debug`. */
export function refuse(error: unknown, debug = false): number {
  const { message, stack, name } = error instanceof Error ? error : new Error(String(error))
  const lines = [debug ? (stack ?? message) : message]
  if (error instanceof Fault)
    for (const label of ['ran', 'said', 'state', 'next'] as const)
      if (error[label])
        lines.push(
          `  ${`${label}:`.padEnd(7)}${error[label].trimEnd().replaceAll('\n', `\n${' '.repeat(9)}`)}`,
        )
  if (!(error instanceof Fault) && name !== 'ConfigError' && !debug)
    lines.push('  next:  DEBUG=1 shows where this happened')
  process.stderr.write(`${lines.join('\n')}\n`)
  // A machine that is not built yet is no failure: something is left to do. Nor is a run that somebody has stopped.
  const { code } = error as { code?: unknown }
  return code === 2 || code === 130 ? code : 1
}
