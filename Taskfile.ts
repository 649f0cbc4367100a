// What there is to run. `./task --all` prints this table, and below it the pages it finds in scripts/.
import { lab, several, test } from './lib/cli/tables.ts'
import { type Taskfile, command, commandOf, each, generate, onFiles, program } from './lib/cli/taskfile.ts'

/** What has the one format. */
const formatted = ['bin', 'config', 'lib', 'scripts', 'test', '*.{ts,json,md}']
const cached = ['--cache', '--cache-strategy=content', '--cache-location=.cache/prettier']

export default {
  'The whole runbook, page by page': {
    'plan-all': { does: 'show what every page would change; changes nothing', ...each('plan') },
    'build-all': { does: 'build everything, in order; without FK_HOST a rehearsal', ...each('apply') },
    'verify-all': { does: 'check that everything promised still holds', ...each('verify') },
    'undo-all': { does: 'take everything back, newest page first', ...each('undo') },
    print: { does: 'the whole runbook as plain bash', ...each('print') },
    take: { does: 'one page with what it needs, in a folder of its own', ...commandOf('take', 'take') },
  },
  'The machines': {
    status: {
      does: 'one screen: machines, layers, versions, certificates, backups; what needs attention first',
      ...commandOf('status', 'status'),
    },
    site: { does: 'show, check or migrate the document of a site', ...commandOf('site', 'sites') },
    gates: { does: 'what only a person can do, and what of it is done', ...commandOf('gates', 'gates') },
    peer: { does: 'the devices that may enter the tunnel', ...commandOf('peer', 'peer') },
    identity: { does: 'the key to every secret, and its copy', ...commandOf('identity', 'identity') },
    secrets: { does: 'encrypted files of a Git tree; secrets in clear', ...commandOf('secrets', 'secrets') },
    ca: { does: 'the root certificate for phones and browsers', ...commandOf('ca', 'ca') },
    node: {
      does: 'rebuild or destroy a virtual machine; replace or remove a node of the cluster; write the kubeconfig',
      ...commandOf('node', 'node'),
    },
    vault: {
      does: 'the keys of the vault, for paper; a lost LUKS header back from its copy',
      ...commandOf('vault', 'vault'),
    },
    lab: { does: 'a throw-away Debian VM to try it all on', takes: lab, run: program('lib/lab/terminal.ts') },
    doctor: {
      does: 'check that laptop and machines have what the pages need, with the remedy; changes nothing',
      ...commandOf('doctor', 'doctor'),
    },
    trust: { does: 'compare the host keys of new machines', ...commandOf('trust', 'trust') },
    waivers: {
      does: 'what is not fulfilled and why, also as OpenSCAP tailoring and Lynis profile',
      ...commandOf('waivers', 'waivers'),
    },
    pins: { does: 'pins against what makers publish, and newer patches', ...commandOf('pins', 'pins') },
    unlock: { does: 'end a run that hangs', ...commandOf('trust', 'unlock') },
  },
  'The cluster': {
    kubectl: { does: 'kubectl on the cluster; no kubeconfig on the disk', ...commandOf('tool', 'kubectl') },
    kubeconfig: { does: 'the cluster for a person, for some hours', ...commandOf('people', 'kubeconfig') },
    helm: { does: 'helm on the cluster, in the same way', ...commandOf('tool', 'helm') },
    may: { does: 'whether a workload may talk to another, and by which rule', ...commandOf('may', 'may') },
    net: { does: 'what the network has dropped lately, and why', ...commandOf('net', 'net') },
    map: { does: 'who may talk to whom; --svg and --mermaid draw it', ...commandOf('map', 'map') },
    rules: {
      does: 'what the API server refuses to run, and what of the cluster breaks a rule',
      ...commandOf('rules', 'rules'),
    },
    'unlock-webhooks': {
      does: 'let changes pass that a webhook holds up which does not answer',
      ...commandOf('webhooks', 'webhooks'),
    },
    components: {
      does: 'what runs in the cluster, in which order it comes, with which images; values against charts',
      ...commandOf('components', 'components'),
    },
    cis: { does: 'the CIS score of every node; --bench: by kube-bench, too', ...commandOf('cis', 'cis') },
    rotate: { does: 'new CAs and a new kubeconfig for the cluster', ...commandOf('rotate', 'rotate') },
    backup: {
      does: 'back the cluster up now; or set up the key of a backup destination',
      ...commandOf('backup', 'backup'),
    },
    backups: { does: 'every backup bundle, and how old', ...commandOf('backup', 'backups') },
    drill: { does: 'prove that a bundle restores', ...commandOf('restore', 'drill') },
    restore: {
      does: 'restore a bundle on the first server; the others join again; a running cluster needs --confirm',
      ...commandOf('restore', 'restore'),
    },
  },
  'This project': {
    check: {
      does: 'everything that is checked without running it',
      takes: several,
      needs: ['types', 'lint', 'format', 'shell'],
      keepGoing: true,
    },
    types: { does: 'the compiler finds no fault', run: command('tsc', '--noEmit') },
    lint: { does: 'the linter finds no fault', run: command('oxlint', '--deny-warnings') },
    format: {
      does: 'every file is in the one format',
      run: command('prettier', '--check', '--log-level=warn', ...cached, ...formatted),
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
    test: { does: 'the tests, tier by tier', takes: test, run: command('node', 'test/run.cjs') },
    review: { does: 'write what pages print to test/plans', ...commandOf('review', 'review') },
    docs: { does: 'write docs/layers from the pages', ...commandOf('docs', 'docs') },
    'env-example': {
      does: 'write .env.example anew from its schema',
      run: generate('.env.example', 'lib/site/config.ts', 'envExample'),
    },
  },
} satisfies Taskfile
