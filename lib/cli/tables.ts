// What each command takes: one table a command. A new flag is one line here, and its value is in what the command is given.
import type { Given, Table } from './flags.ts'

const site = { takes: 'NAME', help: 'another document of config/sites' } as const
const json = {
  help: 'for programs: one JSON document a line, for each event of lib/engine/report.ts',
} as const
const verbose = { help: 'everything that was found' } as const
const yes = { help: 'do not ask' } as const
const confirm = {
  takes: 'NAME',
  help: 'confirm what destroys: the name that would have to be typed (a disk, a machine, a cluster)',
} as const

/** The flags of whatever opens a site. */
const open = { site, json, verbose } as const
/** The flags of a run over pages. */
const run = { site, confirm, yes, json, verbose } as const
const machine = { takes: 'NAME', help: 'print for this machine of the site' } as const

const modes = {
  plan: 'what would change; changes nothing',
  apply: 'make it so, then check it',
  verify: 'check it; fails when something does not hold',
  undo: 'take back what it changed',
  print: 'the page as plain bash',
} as const

/** Of one page. */
export const page = {
  words: [
    {
      name: 'mode',
      optional: true,
      help: 'plan, then ask before it applies; without a terminal only plan',
      among: modes,
    },
  ],
  flags: { ...run, machine },
  notes: [
    'FK_HOST chooses the machine: admin@192.0.2.10, local, or lab. Unset, plan and apply are a rehearsal',
    'that touches nothing; verify and undo need a machine.',
    'Exit code: 0 done or nothing to do, 1 failed, 2 something is left to do.',
  ],
} as const satisfies Table

export type AnyMode = keyof typeof modes

/** What a run over pages goes by. */
export type RunFlags = Given<{ words: []; flags: typeof run }> & {
  machine?: string | undefined
  layer?: string | undefined
  from?: string | undefined
  only?: string | undefined
  diff?: boolean
}

/** The layers that pages belong to, from the metal up. */
const layers = ['L0', 'L1', 'L2', 'L3', 'L4', 'policy', 'L5', 'L6'] as const

/** Of the whole runbook. */
export const runbook = {
  words: [],
  flags: {
    layer: { takes: 'LAYER', among: layers, help: 'only the pages of this layer' },
    from: { takes: 'PAGE', help: 'this page and those behind it' },
    only: { takes: 'PAGE,…', help: 'these pages and no others' },
    diff: { help: 'for plan: the whole difference, not one line a page' },
    ...run,
  },
  notes: page.notes,
} as const satisfies Table

export const status = { words: [], flags: { site, json } } as const satisfies Table
export const doctor = { words: [], flags: open } as const satisfies Table
export const trust = { words: [], flags: open } as const satisfies Table
export const backups = { words: [], flags: open } as const satisfies Table
export const several = { words: [], flags: { json, verbose } } as const satisfies Table
export const nothing = { words: [], flags: {} } as const satisfies Table

export const unlock = {
  words: [{ name: 'MACHINE', optional: true, help: 'a machine other than the metal' }],
  flags: { site, yes: { help: 'end that run; without this only its owner is shown' }, json, verbose },
} as const satisfies Table

export const waivers = {
  words: [
    {
      name: 'format',
      optional: true,
      among: { list: 'for people', openscap: 'tailoring for OpenSCAP', lynis: 'profile for Lynis' },
    },
  ],
  flags: { site },
} as const satisfies Table

export const components = {
  words: [
    {
      name: 'action',
      optional: true,
      among: {
        graph: 'what the site chooses, in the order in which it comes',
        images: 'every image that would run, with its digest where the chart has one',
        check: 'whether every key of the values is one of the chart',
      },
    },
    { name: 'NAME', optional: true, many: true, help: 'of the component; without it all of them' },
  ],
  flags: { ...open, json: { help: 'one JSON document, for programs' } },
} as const satisfies Table

export const sites = {
  words: [
    {
      name: 'action',
      among: {
        show: 'the whole document, and where each line comes from',
        check: 'whether documents are free of faults',
        migrate: 'bring a document of the format before into the one of now',
      },
    },
    { name: 'NAME', optional: true, many: true, help: 'of the site; without it the one of FK_SITE' },
  ],
  flags: {
    all: { help: 'for check: every document of config/sites' },
    json: { help: 'for show and check: one JSON document, for programs' },
    yes: { help: 'for migrate: do not ask' },
  },
  notes: [
    'Exit code: 0 done or nothing to do, 1 faults, 2 changes pending (migrate, where nobody can be asked).',
  ],
} as const satisfies Table

export const rules = {
  words: [
    {
      name: 'action',
      optional: true,
      among: {
        list: 'what is refused, and where it is not asked',
        report: 'what of the cluster would be refused today; stores nothing',
      },
    },
  ],
  flags: { site, json: { help: 'for programs: one JSON document' } },
  notes: ['Exit code of report: 0 nothing would be refused, 2 something would.'],
} as const satisfies Table

export const webhooks = {
  words: [
    {
      name: 'NAME',
      optional: true,
      many: true,
      help: 'a configuration of webhooks that is meant, even where something is ready',
    },
  ],
  flags: { site, yes, json, verbose },
  notes: ['Exit code: 0 nothing is held up any more, 2 something is, and nobody has said yes.'],
} as const satisfies Table

export const pins = {
  words: [
    {
      name: 'action',
      among: { check: 'ask the makers for their digests, and for a newer patch; downloads nothing' },
    },
  ],
  flags: { site, json: { help: 'one JSON document, for programs' } },
  notes: [
    'Exit code: 0 all is as pinned, 1 something differs, 2 a newer patch is out, or something is unknown.',
  ],
} as const satisfies Table

export const take = {
  words: [
    { name: 'PAGE', help: 'by its name or number: 06-host-firewall' },
    { name: 'DIR', help: 'a new directory' },
  ],
  flags: {
    bash: { help: 'one file of plain bash, in place of a folder' },
    site,
    machine: { takes: 'NAME', help: 'with --bash, where machines differ: for this machine of the site' },
  },
} as const satisfies Table

export const gates = {
  words: [
    {
      name: 'action',
      optional: true,
      among: {
        confirm: 'note that a gate is done, where only a person can see it',
        give: 'store the secret that a gate gives, or one of this name, encrypted: typed, or on standard input',
      },
    },
    { name: 'ID', optional: true, help: 'of the gate, or the name of a secret for give' },
  ],
  flags: { site, json },
} as const satisfies Table

export const secrets = {
  words: [
    {
      name: 'action',
      among: {
        sops: 'write .sops.yaml: files of this tree are encrypted for the laptop and for the cluster',
        rotate:
          'a new key of the cluster, and every encrypted file anew for it: the keys of before open nothing',
        check: 'look for secrets in clear in the files that Git has or would take',
        hook: 'have Git look for them before each commit',
      },
    },
    { name: 'DIR', optional: true, help: 'a Git tree; without it the directory where this is typed' },
  ],
  flags: {
    history: { help: 'for check: whatever any commit has ever brought, too' },
    staged: { help: 'for check: what the next commit would bring, and nothing else' },
    site,
    json: { help: 'for check: one JSON document, for programs' },
  },
  notes: [
    'Exit code of check: 0 nothing was found, 2 something was; of sops: 2 files are encrypted for others.',
    './task secrets plan, apply, verify, undo and print are of the page 52-secrets.',
  ],
} as const satisfies Table

export const ca = { words: [], flags: { site } } as const satisfies Table

export const identity = {
  words: [
    {
      name: 'action',
      optional: true,
      help: 'where it is, its recipient, and whether a copy is known',
      among: {
        show: 'the identity itself, on this terminal, for paper',
        check: 'prove that FILE, a copy, opens the secrets of the site; notes that there is one',
        copied: 'note that there is a copy',
        protect: 'put a passphrase before it, or another one; asked once in a run, at the terminal',
        unprotect: 'take the passphrase away',
        new: 'another identity in its place: every secret of every site is encrypted anew',
      },
    },
    { name: 'FILE', optional: true, help: 'for check: the copy' },
  ],
  flags: { site },
} as const satisfies Table

export const peer = {
  words: [
    {
      name: 'action',
      among: {
        add: 'a new device: its keys, its configuration, its line in the site document',
        show: 'its configuration again',
        revoke: 'it may no longer enter',
        list: 'all of them',
      },
    },
    { name: 'NAME', optional: true, help: 'of the device' },
  ],
  flags: {
    qr: { help: 'the configuration as a QR code for a phone' },
    endpoint: { takes: 'HOST[:PORT]', help: 'where the tunnel is entered, when it is not FK_HOST' },
    site,
  },
} as const satisfies Table

export const node = {
  words: [
    {
      name: 'action',
      among: {
        rebuild: 'a virtual machine is made anew from its image; its vault stays',
        destroy: 'a virtual machine is removed for good; its vault stays',
        replace: 'a node leaves its cluster, and a machine of that name joins anew',
        remove: 'a node leaves its cluster',
        kubeconfig: 'write the kubeconfig in clear to the state directory, for programs of others',
        shell: 'a shell on a virtual machine, with the key that the laptop keeps for nodes',
        rekey: 'new SSH keys for all virtual machines: the one that they let in, and their host keys',
      },
    },
    { name: 'NAME', optional: true, help: 'of the node; rekey takes none' },
  ],
  flags: run,
} as const satisfies Table

export const kubeconfig = {
  words: [
    {
      name: 'action',
      optional: true,
      help: 'with --for NAME: a certificate for this person, that ends by itself',
      among: {
        list: 'who has which role, where and until when',
        revoke: 'what NAME has opens nothing any more; break-glass for that account',
        'break-glass': 'the kubeconfig of the break-glass account; its use is seen',
      },
    },
    { name: 'NAME', optional: true, help: 'for revoke: of the person' },
  ],
  flags: {
    for: { takes: 'NAME', help: 'a person of the site document' },
    role: {
      takes: 'ROLE',
      among: ['viewer', 'deployer', 'admin'],
      help: 'what they may do; without it the greatest that the document gives them',
    },
    namespace: { takes: 'NAME', help: 'only there; a deployer needs one' },
    hours: { takes: 'N', help: 'how long it lasts, 1 to 72; without it 8' },
    out: {
      takes: 'FILE',
      help: 'a new file, for you alone; without it standard output, if that is no terminal',
    },
    site,
    json: { help: 'for list: one JSON document' },
  },
} as const satisfies Table

export const rotate = {
  words: [
    {
      name: 'action',
      among: {
        ca: 'the CAs of the cluster, all certificates, the kubeconfig, and the key that signs tokens of pods',
      },
    },
  ],
  flags: run,
} as const satisfies Table

export const vault = {
  words: [
    {
      name: 'action',
      among: {
        keys: 'show the passphrase and the recovery key once, on this terminal',
        'restore-header': 'write a lost LUKS header back from the copy on the laptop',
      },
    },
  ],
  flags: run,
} as const satisfies Table

export const lab = {
  words: [
    {
      name: 'action',
      among: {
        setup: 'install the Debian packages that the lab and the tests need, as root',
        up: 'a fresh Debian 13 VM, from a snapshot; FK_HOST=lab makes it the machine of every page',
        ssh: 'a shell in it as an admin, or the command behind it',
        list: 'what is up, containers of the tests included',
        down: 'end it, or another machine of the list; nothing of it stays',
      },
    },
    {
      name: 'NAME',
      optional: true,
      help: 'for down: another machine of the list; for setup: release, what that tier needs as well',
    },
  ],
  flags: { with: { takes: 'PACKAGE,…', help: 'for up: with further Debian packages in it' } },
  passed: true,
} as const satisfies Table

const tool = (name: string) =>
  ({
    words: [{ name: 'WORD', optional: true, many: true, help: `for ${name}` }],
    flags: { site: { takes: 'NAME', help: 'another document of config/sites; only as the first word' } },
    passed: 'all',
    notes: [
      'The kubeconfig is in memory for as long as it runs. What you have set for clusters of your own',
      '(~/.kube, KUBE…, HELM_…) does not count. Its exit code is passed on.',
    ],
  }) as const satisfies Table

export const kubectl = tool('kubectl')
export const helm = tool('helm')

export const may = {
  words: [
    {
      name: 'FROM',
      help: 'a workload such as hello/web; gateway, host, a node, world, tunnel, a network, an address',
    },
    {
      name: 'TO:PORT',
      help: 'the same, or a name of the internet; behind it 443, tcp/443, udp/53 or icmp/8',
    },
  ],
  flags: { site, json: { help: 'for programs: one JSON document' } },
  notes: ['Exit code: 0 it may, 1 it may not.'],
} as const satisfies Table

export const map = {
  words: [],
  flags: {
    site,
    mermaid: { help: 'as a graph for Mermaid' },
    svg: { help: 'as a picture: who may talk in the rows, to whom in the columns' },
    json: { help: 'for programs: one JSON document' },
  },
} as const satisfies Table

export const net = {
  words: [],
  flags: {
    site,
    since: { takes: 'TIME', help: 'how far back, such as 30s or 2h; without it 10m' },
    json: { help: 'for programs: one JSON document' },
  },
  notes: ['Exit code: 0 nothing was dropped, 2 something was.'],
} as const satisfies Table

export const cis = {
  words: [],
  flags: {
    site,
    bench: { help: 'run kube-bench as well, and show where it differs' },
    'config-dir': { takes: 'DIR', help: 'kube-bench with the controls in this directory' },
    json,
    verbose,
  },
} as const satisfies Table

export const backup = {
  words: [
    {
      name: 'action',
      optional: true,
      help: 'a backup now, and a copy of it on this laptop',
      among: {
        'ssh-key': "the public half of the node's key, for the account that stores backups",
        's3-key': 'type in the key of the object storage, which is stored',
      },
    },
  ],
  flags: open,
} as const satisfies Table

const bundle = { name: 'FILE', help: 'a file, or the name of a bundle that ./task backups lists' } as const
const onNode = { name: 'NODE', optional: true, help: 'a node other than the first server' } as const

export const drill = {
  words: [{ ...bundle, optional: true }, onNode],
  flags: open,
} as const satisfies Table

export const restore = { words: [bundle, onNode], flags: run } as const satisfies Table

export const test = {
  words: [{ name: 'TIER|FILE…', optional: true, help: 'unit, checked, machine, cluster, lab, or a file' }],
  flags: {},
  passed: true,
} as const satisfies Table
