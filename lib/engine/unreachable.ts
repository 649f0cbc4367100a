// Why a machine cannot be reached, or gives no root, in words that say what to do.
import { Fault } from '../ground/fault.ts'

/** What a person may do about a machine that cannot be reached; it depends on the site. */
export interface Advice {
  silent?: string
  behind?: string
  /** Only the tunnel is left, and this computer has no address in it: how it is brought up. Neither route is waited for long. */
  tunnelDown?: string
}

/** What ssh says, what that means, and what to do. */
type Row = [pattern: RegExp, message: string, next: string]

/** What this computer's ssh goes by does not fit. */
const settingRows = (label: string): Row[] => [
  [
    /Bad configuration option|bad configuration options|Bad owner or permissions on/i,
    'ssh on this computer cannot read its configuration',
    'mend the line that it names (FK_SSH_CONFIG, or ~/.ssh/config)',
  ],
  [
    /No \S+ host key is known for/,
    `${label} shows a host key of another kind than the one that is pinned`,
    'on its own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; ' +
      'compare, and add that key to the known_hosts file (FK_KNOWN_HOSTS)',
  ],
  [
    /no matching (host key type|key exchange method|cipher|MAC) found/,
    `${label} and this computer's ssh agree on no cryptography`,
    'take what restricts it out of ~/.ssh/config (HostKeyAlgorithms, KexAlgorithms, Ciphers, MACs), or use a newer ssh',
  ],
  [
    /Too many authentication failures/,
    `${label} was offered too many keys`,
    'name the right one in FK_SSH_KEY: then no other is offered',
  ],
]

/** What the machine does, or what lies on the way. */
const machineRows = (label: string, { silent = '', behind = '' }: Advice): Row[] => [
  [
    /REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed/,
    `${label} is not the machine it was: its host key has changed`,
    'find out why before anything else. If you reinstalled it yourself, ' +
      'take its line out of the known_hosts file (FK_KNOWN_HOSTS) and run again',
  ],
  [
    /Permission denied/,
    `${label} refuses the login`,
    'name the right key in FK_SSH_KEY (or ssh-add it), and the right user in FK_HOST',
  ],
  [
    // ssh keeps what the other ssh says to itself where a connection is shared: it ends before it has begun.
    behind === '' ? /UNKNOWN port/ : /UNKNOWN port|kex_exchange_identification: Connection closed/,
    `${label} cannot be reached through the machine in front of it`,
    `is that one up, and does this one run? ${behind}`.trim(),
  ],
  [
    /Could not resolve hostname/,
    `${label} has a name that cannot be resolved`,
    'check the spelling in FK_HOST, or use the address',
  ],
  [
    /Connection refused/,
    `${label} refuses the connection`,
    `is sshd running there, and on this port? ${silent}`.trim(),
  ],
  [
    /timed out|No route to host|unreachable/,
    `${label} does not answer`,
    `is it switched on? ${silent}`.trim(),
  ],
  [
    /Not allowed at this time/,
    `${label} temporarily refuses this address (PerSourcePenalties)`,
    'wait a minute and run again',
  ],
  [
    /No such file or directory.*bash|bash: not found|command not found/,
    `${label} has no bash`,
    'install bash there',
  ],
  [
    /ended with 254$/, // so does sshd when PAM opens no session, and tells the client nothing else
    `${label} accepts the login, but opens no session`,
    'it is starting, or too many logins are still open (maxlogins): wait a minute and run again',
  ],
]

/** The usual reasons why ssh gives up, in words that say what to do. */
export function unreachable(
  label: string,
  { stderr, code }: { stderr: string; code: number },
  advice: Advice = {},
): Fault {
  // What ssh says of the connection that it was given by another ssh is about no machine.
  const said = stderr
    .split('\n')
    .filter((line) => !/UNKNOWN port/.test(line))
    .join('\n')
    .trim()
  const all = stderr.trim()
  const ended = `ssh ended with ${code}`
  const row = [...settingRows(label), ...machineRows(label, advice)].find(([pattern]) =>
    pattern.test(`${all}\n${ended}`),
  )
  return new Fault(row?.[1] ?? `${label} cannot be used: ${ended}`, {
    said,
    next: row?.[2] ?? 'try the same with plain ssh',
  })
}

/** Why sudo gives `user` no root there, from what it said. */
export function noRoot(label: string, user: string, said: string): Fault {
  const rows: [RegExp, string][] = [
    [
      /incorrect password|no password was provided|try again/i,
      'give the right sudo password (FK_SUDO_PASSWORD_FILE, or on the terminal)',
    ],
    [
      /must have a tty|no tty present/i,
      'sudo there wants a terminal (Defaults requiretty), and a program has none: take that line out, ' +
        `or add Defaults:${user} !requiretty`,
    ],
    [/expired/i, `log in there as ${user}, and set a new password: passwd`],
    [
      /not allowed to execute/i,
      `sudo there lets ${user} run some commands only: adduser ${user} sudo, as root`,
    ],
  ]
  return new Fault(`${user} cannot become root on ${label}`, {
    ran: 'sudo true',
    said: said.trim(),
    next:
      rows.find(([pattern]) => pattern.test(said))?.[1] ??
      `allow ${user} to use sudo there: adduser ${user} sudo, as root`,
  })
}
