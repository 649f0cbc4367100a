// The machine's side of the protocol, as types. A program on a machine writes one line for each event: a word that nobody else
// prints (the nonce of the program), the kind of the event, and fields in a fixed order, escaped and separated by tabs. This file
// hides that order: everybody else reads names.

/** When a step was checked: before its commands ran, or after. */
export type Phase = 'before' | 'after'

/** How a step ended: `ok` held, `ready` was waited for, `changed` was applied. */
export type EndState = 'ok' | 'ready' | 'changed' | 'failed'

/**
 * What a step failed over: its check when only a person can make it so, the time to wait, the snapshot before the first change, a
 * command, or its check after the commands.
 */
export type FailReason = 'demand' | 'deadline' | 'guard' | 'apply' | 'after'

/** How an undo ended: `nothing` was recorded, it was `refused` before it began, `failed` half way, or is `done`. */
export type UndoState = 'nothing' | 'refused' | 'failed' | 'done'

/** Whether a transaction is confirmed: `running` goes on still, `died` and `refused` are rolled back. */
export type CommitState = 'committed' | 'running' | 'died' | 'refused'

export type Frame =
  | { kind: 'check'; step: number; phase: Phase; rc: number; found: string }
  | { kind: 'control'; step: number; phase: Phase; control: number; rc: number; found: string }
  | { kind: 'run'; step: number; command: number }
  | { kind: 'said'; step: number; command: number; rc: number; text: string }
  | { kind: 'end'; step: number; state: EndState; reason?: FailReason; rolledBack: boolean }
  /** What the laptop has to store: `body` is gzip in base64. */
  | { kind: 'save'; step: number; name: string; body: string }
  /** The machine has a record of this page: it was applied here. */
  | { kind: 'recorded' }
  /** From now on the transaction is rolled back when nobody confirms it. */
  | { kind: 'armed'; transaction: string; seconds: number }
  /** Another run is at work, since so many seconds. */
  | { kind: 'locked'; owner: string; seconds: number }
  /** A transaction of another run waits to be confirmed, and is rolled back in so many seconds. */
  | { kind: 'unconfirmed'; owner: string; seconds: number }
  | { kind: 'commit'; state: CommitState; said: string }
  | { kind: 'undone'; state: UndoState; said: string; next: string }
  /** For the person who watches. */
  | { kind: 'note'; text: string }
  /** What a command of the laptop or of a layer asked for; it may come more than once. */
  | { kind: 'answer'; name: string; values: Record<string, string> }
  /** A piece of a file, in base64. */
  | { kind: 'piece'; body: string }
  /** The program reached its end. */
  | { kind: 'finished' }

/** A field in its place; `undefined` refuses the line. */
const number = (text: string | undefined) =>
  text !== undefined && /^-?\d+$/.test(text) ? Number(text) : undefined
const oneOf =
  <T extends string>(...words: T[]) =>
  (text: string | undefined) =>
    words.find((word) => word === text)

const phase = oneOf<Phase>('before', 'after')
const endState = oneOf<EndState>('ok', 'ready', 'changed', 'failed')
const failReason = oneOf<FailReason>('demand', 'deadline', 'guard', 'apply', 'after')
const undoState = oneOf<UndoState>('nothing', 'refused', 'failed', 'done')
const commitState = oneOf<CommitState>('committed', 'running', 'died', 'refused')

type Loose<F> = { [K in keyof F]: F[K] | undefined }
type Reader<K extends Frame['kind']> = (fields: string[]) => Omit<Loose<Extract<Frame, { kind: K }>>, 'kind'>

const readers: { [K in Frame['kind']]: Reader<K> } = {
  check: ([n, when, rc, found = '']) => ({ step: number(n), phase: phase(when), rc: number(rc), found }),
  control: ([n, when, c, rc, found = '']) => ({
    step: number(n),
    phase: phase(when),
    control: number(c),
    rc: number(rc),
    found,
  }),
  run: ([n, j]) => ({ step: number(n), command: number(j) }),
  said: ([n, j, rc, text = '']) => ({ step: number(n), command: number(j), rc: number(rc), text }),
  end: ([n, state, reason, after = '']) => ({
    step: number(n),
    state: state === 'failed' && failReason(reason) === undefined ? undefined : endState(state),
    rolledBack: after === 'rolled-back',
    ...(state === 'failed' ? { reason: failReason(reason) } : {}),
  }),
  save: ([n, name, body = '']) => ({ step: number(n), name, body }),
  recorded: () => ({}),
  armed: ([transaction, seconds]) => ({ transaction, seconds: number(seconds) }),
  locked: ([owner, seconds]) => ({ owner, seconds: number(seconds) }),
  unconfirmed: ([owner, seconds]) => ({ owner, seconds: number(seconds) }),
  commit: ([state, said = '']) => ({ state: commitState(state), said }),
  undone: ([state, said = '', next = '']) => ({ state: undoState(state), said, next }),
  note: ([text]) => ({ text }),
  answer: ([name, ...words]) => ({ name, values: valuesOf(words) }),
  piece: ([body]) => ({ body }),
  finished: () => ({}),
}

/** `KEY VALUE KEY VALUE…`, or undefined when a value is missing or a key comes twice. */
function valuesOf(words: string[]): Record<string, string> | undefined {
  const values: Record<string, string> = {}
  for (let i = 0; i < words.length; i += 2) {
    const [key = '', value] = words.slice(i, i + 2)
    if (value === undefined || !/^[a-z][a-z0-9_]*$/i.test(key) || key in values) return undefined
    values[key] = value
  }
  return values
}

const unescaped = (field: string): string =>
  field.replaceAll(/\\([\\nt])/g, (_, c: string) => ({ n: '\n', t: '\t' })[c] ?? '\\')

/** The event on a line of the program with this nonce; undefined for other output, and for a line that is not whole. */
export function frameOf(line: string, nonce: string): Frame | undefined {
  const [word, kind = '', ...fields] = line.split('\t')
  if (word !== nonce || !Object.hasOwn(readers, kind)) return undefined
  const values = readers[kind as Frame['kind']](fields.map(unescaped))
  return Object.values(values).includes(undefined) ? undefined : ({ kind, ...values } as Frame)
}

/** Listens to answers alone. */
export const onAnswer =
  (take: (values: Record<string, string>, name: string) => void) =>
  (frame: Frame): void => {
    if (frame.kind === 'answer') take(frame.values, frame.name)
  }
