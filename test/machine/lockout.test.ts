// Deliberate lock-outs: each is refused before anything changes, or the machine rolls it back by itself. It stays reachable.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, test } from 'node:test'
import { file } from '../../lib/engine/file.ts'
import type { Page } from '../../lib/engine/page.ts'
import { printed } from '../../lib/engine/print.ts'
import { runPage } from '../../lib/engine/run.ts'
import type { Change, Step, Transaction } from '../../lib/engine/step.ts'
import { Command, sh } from '../../lib/ground/sh.ts'
import { labRun } from '../../lib/lab/lab.ts'
import { type Kit, type Opened, differences, node, open, root } from './kit.ts'

const load = createRequire(import.meta.url)
const DEADMAN = 25

const ssh: Transaction = {
  kind: 'ssh',
  restart: [{ unit: 'ssh.service', path: '/etc/ssh/', how: 'reload' }],
}
const filter: Transaction = { kind: 'filter', tables: ['inet fortress'] }
const sshd = (text: string, then = [sh`systemctl restart ssh`]): Change =>
  file('/etc/ssh/sshd_config.d/00-mistake.conf', {
    text,
    transaction: ssh,
    test: sh`sshd -t -f "$new"`,
    then,
  })
const command = (transaction: Transaction, name: string, check: Command, apply: Command): Change => ({
  name,
  transaction,
  check,
  apply: [apply],
})

const page = (steps: Step[]): Page => ({
  name: '50-mistake',
  file: '',
  summary: 'A mistake.',
  layer: 'L0',
  on: 'host',
  steps: () => steps,
})

async function attempt(kit: Kit, steps: (opened: Opened) => Step[]) {
  const opened = await open(kit)
  try {
    const made = steps(opened)
    const result = await runPage(page(made), made, 'apply', { ...opened.running, rollbackAfter: DEADMAN })
    return { code: result.code, text: opened.lines.join('') }
  } finally {
    await opened.machine.close()
  }
}

/** Begins to apply steps, as a laptop does that dies before it can confirm; by now new connections are refused. */
async function left({ machine, running }: Opened, steps: Step[], rollbackAfter: number): Promise<void> {
  const dead = {
    ...machine,
    label: 'x',
    route: machine.route,
    reconnect: () => new Proxy({} as never, { get: () => () => new Promise(() => {}) }),
  }
  void runPage(page(steps), steps, 'apply', { ...running, machine: dead, rollbackAfter })
  await new Promise((resolve) => setTimeout(resolve, 8000))
}

/** Waits until a new connection gets in and becomes root, as an admin would try. */
async function reachable(kit: Kit, seconds: number): Promise<boolean> {
  const until = Date.now() + seconds * 1000
  while (Date.now() < until) {
    const { code } = await labRun(kit.machine, 'true', { root: true, fresh: true, seconds: 15 }).catch(
      () => ({ code: 1 }),
    )
    if (code === 0) return true
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  return false
}

const untilQuiet = async (kit: Kit) => {
  for (let i = 0; i < 60; i++) {
    const { stdout } = await labRun(kit.machine, 'ls /var/lib/fortress/tx/*/armed 2> /dev/null; true', {
      root: true,
      fresh: true,
    })
    if (stdout === '') return
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  throw new Error('the dead man is still armed')
}

const state = async (kit: Kit) => (await kit.digest()).replaceAll(/^unit (file )?(fortress|ssh@).*\n/gm, '')

describe('a printed page, which has no laptop behind it', { concurrency: 2 }, () => {
  const change = sshd('AllowGroups admin sudo\n')
  const killed = command(ssh, 'a command that is killed', sh`false`, sh`kill -KILL $$`)
  const steps = (all: Step[]) => printed({ name: '50-mistake', summary: 'A mistake.', steps: all })
  const armed = 'compgen -G "/var/lib/fortress/tx/*/armed" > /dev/null'
  const keep = `until ${armed}; do sleep 0.1; done; touch /run/fortress-confirm`
  const quiet = `for try in {1..300}; do ${armed} || exit 0; sleep 0.1; done; exit 1`
  const cases: [string, Step[], string, number | null, boolean][] = [
    ['stays when the admin has connected again', [change], keep, 0, true],
    ['is rolled back when nobody can connect', [sshd('AllowGroups nobody-here\n')], 'true', 1, false],
    [
      'is rolled back when it died in the middle, whatever the admin says',
      [change, killed],
      keep,
      null,
      false,
    ],
  ]
  for (const [what, all, meanwhile, code, stays] of cases)
    test(what, async (t) => {
      const kit = await node(t, `print-${cases.findIndex(([w]) => w === what)}`)
      const before = await state(kit)
      const [ran] = await Promise.all([
        kit.root('FK_DEADMAN_SECONDS=10 bash -s', steps(all)),
        kit.root(meanwhile),
      ])
      if (code === null) assert.notEqual(ran.code, 0, ran.stdout)
      else assert.equal(ran.code, code, ran.stdout + ran.stderr)
      assert.equal((await kit.root(quiet)).code, 0, 'the dead man is still armed')
      const there = await kit.root('cat /etc/ssh/sshd_config.d/00-mistake.conf')
      assert.equal(there.code === 0, stays, there.stderr)
      if (!stays) assert.deepEqual(differences(before, await state(kit)), [])
      assert.ok(await reachable(kit, 30))
    })
})

describe('refused before anything changes', { concurrency: 2 }, () => {
  const cases: [string, (opened: Opened) => Step[], RegExp, number?][] = [
    [
      'a drop-in that sshd cannot read',
      () => [sshd('PermitRootLogn no\n')],
      /Bad configuration option: permitrootlogn/i,
    ],
    [
      'a sudoers file with a typo',
      () => [
        file('/etc/sudoers.d/60-mistake', {
          text: 'admin ALL=(ALL ALL\n',
          mode: '440',
          transaction: { kind: 'sudo' },
          test: sh`visudo --check --file="$new"`,
        }),
      ],
      /syntax error/,
    ],
    [
      'packet filter rules that nft cannot read',
      () => [
        file('/etc/nftables.conf', {
          text: 'table inet fortress { chain input { polcy drop; } }\n',
          transaction: filter,
          test: sh`nft --check --file "$new"`,
        }),
      ],
      /syntax error|nft: command not found/,
    ],
    [
      'a firewall while nobody stands in the tunnel',
      ({ context }) =>
        (load(join(root, 'scripts/06-host-firewall.ts')) as { default: Page }).default
          .steps(context)
          .filter(({ name }) => !/^(nftables is installed|what the firewall will cut off)/.test(name)),
      /^your turn +\d+\/\d+ a peer has made a WireGuard handshake in the last three minutes/m,
      2,
    ],
  ]
  for (const [what, steps, said, expected = 1] of cases)
    test(what, async (t) => {
      const kit = await node(t, `refuse-${cases.findIndex(([w]) => w === what)}`)
      const before = await state(kit)
      const { code, text } = await attempt(kit, steps)
      assert.equal(code, expected, text)
      assert.match(text, said)
      assert.deepEqual(differences(before, await state(kit)), [])
      assert.ok(await reachable(kit, 5))
    })

  const host = () => (load(join(root, 'scripts/00-host-harden.ts')) as { default: Page }).default
  const doors: [string, string, RegExp][] = [
    [
      'the admin has no key that stays accepted',
      'cp /home/admin/.ssh/authorized_keys /root/k && ssh-keygen -q -t ecdsa -N "" -f /root/e && cat /root/e.pub > /home/admin/.ssh/authorized_keys',
      /your authorized_keys has an Ed25519 key, or an RSA key from 3072 bits/,
    ],
    [
      'the admin has no password for sudo',
      'passwd --delete admin',
      /your account may use sudo, and has a password/,
    ],
    [
      'sudo without a password would be forgotten about',
      'echo "admin ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/90-cloud',
      /no sudoers file has NOPASSWD or !authenticate/,
    ],
  ]
  for (const [what, prepare, said] of doors)
    test(`host-harden, when ${what}`, async (t) => {
      const kit = await node(t, `refuse-host-${doors.findIndex(([w]) => w === what)}`)
      const opened = await open(kit)
      // Nothing but this connection may come in any more, and a connection ends five seconds after its last command.
      const held = opened.machine
        .feed('exec -a held-open sleep 120', Readable.from([]))
        .catch(() => undefined)
      await kit.root('until pgrep --full "held-open[ ]120" > /dev/null; do sleep 0.1; done')
      await kit.root(prepare)
      const before = await state(kit)
      const steps = host().steps(opened.context)
      const { code } = await runPage(host(), steps, 'apply', opened.running)
      await opened.machine.close()
      await held
      assert.equal(code, 1)
      assert.match(opened.lines.join(''), said)
      assert.deepEqual(differences(before, await state(kit)), [])
    })
})

describe('accepted by every checker, and rolled back by the machine', { concurrency: 4 }, () => {
  const cases: [string, Step][] = [
    ['AllowGroups without the admin', sshd('AllowGroups nobody-here\n')],
    ['no public keys', sshd('PubkeyAuthentication no\n')],
    ['another port', sshd('Port 2222\n')],
    ['listening on loopback only', sshd('ListenAddress 127.0.0.1\n')],
    ['keys looked for in the wrong place', sshd('AuthorizedKeysFile /etc/ssh/nowhere/%u\n')],
    [
      'new host keys that nobody knows',
      command(
        ssh,
        'the host keys are new',
        sh`test -e /etc/ssh/renewed`,
        sh`touch /etc/ssh/renewed && rm /etc/ssh/ssh_host_* && ssh-keygen -A && systemctl restart ssh`,
      ),
    ],
    [
      'sshd stopped for good',
      command(
        ssh,
        'sshd is off',
        sh`! systemctl is-active ssh`,
        sh`systemctl disable --now ssh.service ssh.socket && systemctl mask ssh.service`,
      ),
    ],
    [
      'sudo denied to the admin',
      file('/etc/sudoers.d/99-mistake', {
        text: 'admin ALL=(ALL:ALL) !ALL\n',
        mode: '440',
        transaction: { kind: 'sudo' },
        test: sh`visudo --check --file="$new"`,
      }),
    ],
    [
      'PAM that denies every session',
      file('/etc/pam.d/common-account', {
        text: 'account required pam_deny.so\n',
        transaction: { kind: 'pam' },
      }),
    ],
    [
      'PAM that denies sudo',
      file('/etc/pam.d/sudo', {
        text: 'auth required pam_deny.so\naccount required pam_permit.so\nsession required pam_permit.so\n',
        transaction: { kind: 'pam' },
      }),
    ],
    [
      'a packet filter without our port',
      command(
        filter,
        'the filter is on',
        sh`nft list table inet fortress > /dev/null 2>&1`,
        sh`nft 'table inet fortress { chain input { type filter hook input priority filter; policy drop; iif lo accept; }; }'`,
      ),
    ],
    [
      'the admin locked out by expiry',
      command(
        { kind: 'pam' },
        'the account has ended',
        sh`chage --list admin | grep 'Account expires' | grep --invert-match never > /dev/null`,
        sh`chage --expiredate 1 admin`,
      ),
    ],
    [
      'the shell taken away',
      command(
        { kind: 'pam' },
        'the shell is nologin',
        sh`getent passwd admin | grep nologin > /dev/null`,
        sh`usermod --shell /usr/sbin/nologin admin`,
      ),
    ],
  ]
  for (const [what, step] of cases)
    test(what, async (t) => {
      const n = cases.findIndex(([w]) => w === what)
      const kit = await node(t, `heal-${n}`)
      if (what.startsWith('a packet filter') && (await kit.root('command -v nft')).code !== 0) {
        t.skip('the image has no nft')
        return
      }
      const before = await state(kit)
      const { code, text } = await attempt(kit, () => [step])
      assert.equal(code, 1, text)
      assert.ok(await reachable(kit, DEADMAN + 20), `${what}: locked out\n${text}`)
      await untilQuiet(kit)
      assert.deepEqual(differences(before, await state(kit)), [])
    })

  test('a unit that read its files at its start reads the old ones again, whatever it is called', async (t) => {
    const kit = await node(t, 'heal-restart')
    await kit.root(`mkdir /etc/reader && echo old > /etc/reader/wg7.conf
      unit=/etc/systemd/system/reader@.service
      echo '[Service]' > "$unit"
      echo 'ExecStart=/bin/bash -c "cp /etc/reader/%i.conf /run/reader; exec sleep infinity"' >> "$unit"
      systemctl daemon-reload && systemctl start reader@wg7 && until [ -e /run/reader ]; do sleep 0.1; done`)
    const before = await state(kit)
    const reader: Transaction = {
      kind: 'reader',
      restart: [{ unit: 'reader@wg7.service', path: '/etc/reader/', how: 'active' }],
    }
    const { code, text } = await attempt(kit, () => [
      command(
        reader,
        'the reader has read the new file',
        sh`grep new /run/reader`,
        sh`echo new > /etc/reader/wg7.conf && systemctl restart reader@wg7 && sleep 1`,
      ),
      sshd('AllowGroups nobody-here\n'),
    ])
    assert.equal(code, 1, text)
    assert.ok(await reachable(kit, DEADMAN + 20), text)
    await untilQuiet(kit)
    assert.equal((await kit.root('sleep 1; cat /run/reader')).stdout, 'old\n')
    assert.deepEqual(differences(before, await state(kit)), [])
  })

  test('the laptop dies before it can confirm: the timer rolls it back', async (t) => {
    const kit = await node(t, 'heal-laptop')
    const before = await state(kit)
    const opened = await open(kit)
    const step = sshd('AllowGroups nobody-here\n')
    await left(opened, [step], DEADMAN)
    assert.equal(
      (await labRun(kit.machine, 'true', { fresh: true }).catch(() => ({ code: 255 }))).code,
      255,
      'a new connection is refused',
    )
    assert.ok(await reachable(kit, DEADMAN + 20))
    await untilQuiet(kit)
    assert.deepEqual(differences(before, await state(kit)), [])
    await opened.machine.close()
  })

  test('what a rollback brought back is nobody else’s work when the page is undone later', async (t) => {
    const kit = await node(t, 'heal-undo')
    await kit.root('echo original > /etc/motd')
    const before = await state(kit)
    const one = sshd('# one\n')
    assert.equal((await attempt(kit, () => [one])).code, 0)
    const opened = await open(kit)
    const motd = file('/etc/motd', { text: 'two\n', transaction: ssh })
    await left(opened, [motd, sshd('AllowGroups nobody-here\n')], DEADMAN)
    assert.ok(await reachable(kit, DEADMAN + 20))
    await untilQuiet(kit)
    await opened.machine.close()
    const again = await open(kit)
    const steps = [one, motd]
    const { code } = await runPage(page(steps), steps, 'undo', { ...again.running, rollbackAfter: DEADMAN })
    await again.machine.close()
    assert.equal(code, 0, again.lines.join(''))
    assert.doesNotMatch(again.lines.join(''), /somebody else/)
    assert.equal((await kit.root('ls /var/lib/fortress/aside 2> /dev/null')).stdout, '')
    assert.deepEqual(differences(before, await state(kit)), [])
  })

  test('a run that dies in the middle is never confirmed, although one can connect: it is rolled back at once', async (t) => {
    const kit = await node(t, 'heal-dead')
    const before = await state(kit)
    const opened = await open(kit)
    const steps = [
      sshd('AllowGroups admin sudo\n'),
      command(
        ssh,
        'a command that is killed',
        sh`false`,
        sh`echo half > /etc/ssh/half; sleep 1; kill -KILL $(fk_holders)`,
      ),
    ]
    const holders = `fk_holders() {
  find /proc/[0-9]*/fd -name 8 -lname /run/fortress/lock | cut --delimiter=/ --fields=3
}
export -f fk_holders`
    const made = { ...page(steps), prepare: new Command(holders, undefined, '') }
    const { code } = await runPage(made, steps, 'apply', { ...opened.running, rollbackAfter: 600 })
    const text = opened.lines.join('')
    assert.equal(code, 1, text)
    assert.match(text, /the run on the machine died before its end/)
    await opened.machine.close()
    await untilQuiet(kit)
    assert.deepEqual(differences(before, await state(kit)), [])
  })

  test('what still runs when the timer comes has ended before its work is rolled back', async (t) => {
    const kit = await node(t, 'heal-running')
    const before = await state(kit)
    const opened = await open(kit)
    const step = command(
      ssh,
      'a command that does not end by itself',
      sh`false`,
      sh`trap '' TERM; while :; do echo late > /etc/ssh/late; sleep 0.1; done`,
    )
    void runPage(page([step]), [step], 'apply', { ...opened.running, rollbackAfter: 5 }).catch(() => {}) // its connection ends
    const there = 'for try in {1..100}; do [ ! -e /etc/ssh/late ] || exit 0; sleep 0.1; done; exit 1'
    assert.equal((await kit.root(there)).code, 0)
    const back =
      'for try in {1..300}; do compgen -G "/var/lib/fortress/tx/*/rolled-back" > /dev/null && exit 0; sleep 0.1; done; exit 1'
    assert.equal((await kit.root(back)).code, 0, 'nobody took it back')
    assert.equal((await kit.root('sleep 1; test -e /etc/ssh/late')).code, 1, 'it wrote again')
    await opened.machine.close()
    await untilQuiet(kit)
    assert.deepEqual(differences(before, await state(kit)), [])
  })

  test('a machine that still boots is not rolled back to before its boot was over', async (t) => {
    const kit = await node(t, 'heal-boot')
    for (const [name, seconds, after] of [
      ['slow', 8, 'basic.target'],
      ['late', 0, 'slow.service'],
    ])
      writeFileSync(
        join(kit.machine.dir, `root/etc/systemd/system/${name}.service`),
        `[Unit]
After=${after}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep ${seconds}
[Install]
WantedBy=multi-user.target
`,
      )
    await kit.root('systemctl daemon-reload; systemctl --quiet enable slow late; systemctl reboot')
    const until = Date.now() + 60_000
    const boots = async () => (await kit.root('systemctl is-active slow')).stdout === 'activating\n'
    let seen = false
    while (!seen && Date.now() < until) seen = await boots()
    assert.ok(seen, 'nobody saw it boot')
    const { code, text } = await attempt(kit, () => [sshd('AllowGroups nobody-here\n')])
    assert.equal(code, 1, text)
    assert.ok(await reachable(kit, DEADMAN + 20), text)
    await untilQuiet(kit)
    assert.equal((await kit.root('systemctl is-active late')).stdout, 'active\n')
  })

  test('the power fails before it is confirmed: the next boot rolls it back', async (t) => {
    const kit = await node(t, 'heal-power')
    const before = await state(kit)
    const opened = await open(kit)
    const step = sshd('AllowGroups nobody-here\n')
    await left(opened, [step], 600)
    const boot = await kit.root(
      'systemctl list-timers --all --no-legend | grep --count fortress-deadman; systemctl reboot',
    )
    assert.match(boot.stdout, /^1$/m)
    assert.ok(await reachable(kit, 60))
    assert.deepEqual(differences(before, await state(kit)), [])
    await opened.machine.close()
  })
})
