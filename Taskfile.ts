// What there is to run. `./task` prints this table, and below it the pages it finds in scripts/.
import { command, each, generate, module, onFiles, program, type Taskfile } from './lib/cli/taskfile.ts'

/** What has the one format. */
const formatted = ['bin', 'config', 'lib', 'scripts', 'test', '*.{ts,json,md}']

export default {
  'The whole runbook, page by page': {
    'plan-all': { does: 'show what every page would change; changes nothing', run: each('plan') },
    'build-all': {
      does: 'build everything, in order; without FK_HOST a rehearsal that touches nothing',
      run: each('apply'),
    },
    'verify-all': { does: 'check that everything promised still holds', run: each('verify') },
    'undo-all': {
      does: 'take everything back, newest page first',
      takes: '[MACHINE]',
      run: each('undo'),
    },
    print: { does: 'the whole runbook as plain bash', run: each('print') },
  },
  'The machines': {
    status: {
      does: 'one screen: machines, layers, versions, certificates, backups; what needs attention first',
      takes: '[--json]',
      run: module('lib/cli/status.ts', 'status'),
    },
    peer: {
      does: 'the devices that may enter the tunnel',
      takes: 'add|show|revoke|list [NAME]',
      run: program('lib/cli/peer.ts'),
    },
    node: {
      does: 'make a virtual machine anew, or end it for good; take a node out of its cluster; write out the kubeconfig',
      takes: 'rebuild|destroy|replace|remove|kubeconfig NAME',
      run: module('lib/cli/node.ts', 'node'),
    },
    lab: {
      does: 'a throw-away Debian VM to try it all on',
      takes: 'up|ssh|list|down|setup',
      run: program('lib/lab/terminal.ts'),
    },
    doctor: {
      does: 'is everything there that the pages need? One line each, with the remedy; changes nothing',
      run: module('lib/cli/doctor.ts', 'doctor'),
    },
    trust: {
      does: 'compare the host keys of machines that are new',
      run: module('lib/cli/trust.ts', 'trust'),
    },
    waivers: {
      does: 'what is not fulfilled and why, also as OpenSCAP tailoring and Lynis profile',
      takes: '[openscap|lynis]',
      run: module('lib/cli/waivers.ts', 'waivers'),
    },
    unlock: { does: 'end a run that hangs', takes: '[MACHINE]', run: module('lib/cli/trust.ts', 'unlock') },
  },
  'The cluster': {
    cis: {
      does: 'the score of every node by the benchmark of CIS; --bench asks kube-bench too, and says where it differs',
      takes: '[--bench [--config-dir DIR]]',
      run: module('lib/cli/cis.ts', 'cis'),
    },
    backup: {
      does: 'back the cluster up now; or make the key that opens the place its backups go to',
      takes: '[ssh-key|s3-key]',
      run: module('lib/cli/backup.ts', 'backup'),
    },
    backups: {
      does: 'every bundle that there is, and how old',
      run: module('lib/cli/backup.ts', 'backups'),
    },
    drill: {
      does: 'prove that a bundle restores',
      takes: '[FILE] [NODE]',
      run: module('lib/cli/restore.ts', 'drill'),
    },
    restore: {
      does: 'bring a bundle back, on the first server; the others join it; where a cluster lives it asks for its name',
      takes: 'FILE [NODE]',
      run: module('lib/cli/restore.ts', 'restore'),
    },
  },
  'This project': {
    check: {
      does: 'everything that is checked without running it',
      needs: ['types', 'lint', 'format', 'shell'],
      keepGoing: true,
    },
    types: { does: 'the compiler finds no fault', run: command('tsc', '--noEmit') },
    lint: { does: 'the linter finds no fault', run: command('oxlint', '--deny-warnings') },
    format: {
      does: 'every file is in the one format',
      run: command('prettier', '--check', '--log-level=warn', ...formatted),
    },
    shell: {
      does: 'shellcheck finds no fault in our shell, and in what pages print',
      run: onFiles(
        ['task', '.ci/run', 'config/k3s/*.sh', 'lib/**/*.sh', 'test/plans/*.sh'],
        'shellcheck',
        '--shell=bash',
        '--severity=warning',
      ),
    },
    test: {
      does: 'the tests, tier by tier',
      takes: '[TIER|FILE...]',
      run: command('node', 'test/run.cjs'),
    },
    review: { does: 'write what pages print to test/plans', run: module('lib/cli/review.ts', 'review') },
    'env-example': {
      does: 'write .env.example anew from its schema',
      run: generate('.env.example', 'lib/site/config.ts', 'envExample'),
    },
  },
} satisfies Taskfile
